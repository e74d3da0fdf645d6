"""What stands in place of letters that a terminal cannot show: none of them is a reason to end a measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.segment import Segment

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

ASCII = str.maketrans("╭╮╰╯├┤┬┴┼│─━█▒░×◆◇▶▲·★✓–…°▁▂▃▄▅▆▇▏▎▍▌▋▊▉", "+++++++++|-=#:.xPp>^.*v-~ _.,-=+#...####")
"""For a terminal that knows nothing else."""


def in_ascii(text: str) -> str:
    """The text in letters that every terminal has."""
    return text.translate(ASCII).encode("ascii", "replace").decode()


class Legible:
    """Something that can be printed, in letters that the terminal has, and without blanks at the ends of lines."""

    def __init__(self, shown: RenderableType) -> None:
        self._shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in Segment.split_lines(console.render(self._shown, options)):
            while line and not line[-1].text.strip():
                line.pop()
            for place, (text, style, _) in enumerate(line, 1):
                shown = text.rstrip() if place == len(line) else text
                yield Segment(in_ascii(shown) if options.ascii_only else shown, style)
            yield Segment.line()
