"""A picture of the live view, from a real run: python -m autotune.console.picture STUDY.toml OUT.svg"""

from __future__ import annotations

import argparse
import asyncio
import io
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from autotune import night, spec
from autotune.console.live import Night
from autotune.errors import AutotuneError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.spec import StudySpec

WIDTH, HEIGHT = 100, 40
LATE = 0.7
"""The part of the trials that is over in the picture."""
_TERMINAL = {"TERM": "xterm-256color"}  # the picture is the same, whatever terminal it is made on
_COLOURS = [
    (72, 79, 88),
    (248, 92, 84),
    (63, 185, 80),
    (210, 153, 34),
    (88, 166, 255),
    (210, 120, 220),
    (57, 197, 207),
    (201, 209, 217),
]
THEME = TerminalTheme((13, 17, 23), (215, 222, 230), _COLOURS, _COLOURS)
FORMAT = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: "Fira Code", "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-ligatures: none;
}}
.{unique_id}-title {{ font-size: 16px; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""Rich's own, but that it asks nobody for a font."""


class Camera:
    """Watches a night through its view, and ends it when the picture is taken."""

    def __init__(self, view: Night, late: int, title: str) -> None:
        self._view = view
        self._late = late
        self._title = title
        self._number = -1
        self.picture = ""

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event; take the picture in the middle of the measurement window of a late trial."""
        self._view(event)
        if event["what"] == "trial begins":
            self._number = event["number"]
        if event["what"] != "progress" or self._number < self._late or self.picture:
            return
        now = event["progress"]
        if now.stage == "window" and now.elapsed_s >= 0.6 * now.planned_s:
            self.picture = self._take()
            signal.raise_signal(signal.SIGINT)

    def _take(self) -> str:
        film = _screen(record=True)
        film.print(self._view.frame())
        return film.export_svg(title=self._title, theme=THEME, code_format=FORMAT, unique_id="autotune")


def _screen(*, record: bool = False) -> Console:
    return Console(
        width=WIDTH,
        height=HEIGHT,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        record=record,
        _environ=_TERMINAL,
    )


def take(study: StudySpec, source: str, title: str) -> str:
    """Run a study in a folder that is gone afterwards, as far as the picture. Raises `AutotuneError`."""
    trials = study.budget.trials or 1
    with TemporaryDirectory(prefix="autotune-") as folder, Night(study, _screen()) as view:
        camera = Camera(view, min(round(LATE * trials), trials - 1), title)
        ending = asyncio.run(night.run(study, source, Path(folder) / study.study.name, camera))
    if not camera.picture:
        raise ending.error or UsageError(f"the night ended before there was anything to see: {ending.why}")
    return camera.picture


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture."""
    parser = argparse.ArgumentParser(prog="python -m autotune.console.picture", description=__doc__)
    parser.add_argument("study", type=Path, metavar="STUDY.toml")
    parser.add_argument("out", type=Path, metavar="OUT.svg")
    chosen = parser.parse_args(arguments)
    try:
        source = chosen.study.read_text(encoding="utf-8-sig")
        picture = take(spec.load(chosen.study), source, f"autotune run {chosen.study.name}")
    except AutotuneError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
