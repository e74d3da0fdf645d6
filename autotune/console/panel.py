"""The live view of a night as lines: a scene goes in, text comes out. Never wider than the terminal, never higher."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.text import Text

from autotune.console import parts
from autotune.console.letters import in_ascii
from autotune.console.parts import Row, Section
from autotune.simulator import SIMULATED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

    from autotune.console.scene import Scene

WIDE = 96
"""From here on the devices have a column of their own."""
FRAME = "dim"
PLAYED = "bold magenta"


class Panel:
    """One frame, drawn when it is first asked for: what is printed above it later does not draw it again."""

    def __init__(self, scene: Scene, now_s: float) -> None:
        self._scene = scene
        self._now_s = now_s
        self._drawn: list[Segment] = []

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._drawn:
            height = max(console.size.height - 1, 1)  # what is said above it needs a line
            drawn = lines(self._scene, self._now_s, options.max_width, height)
            self._drawn = [segment for line in drawn for segment in line.render(console, end="\n")]
            if options.ascii_only:
                self._drawn = [Segment(in_ascii(text), style) for text, style, _ in self._drawn]
        yield from self._drawn


def lines(scene: Scene, now_s: float, width: int, height: int) -> list[Text]:
    """The whole view."""
    inner = max(width - 4, 1)
    split = round(inner * 0.58) if width >= WIDE and scene.ground is not None else None
    if split is None:
        middle = [[parts.now(scene, now_s, inner)], [parts.devices(scene, inner)]]
    else:
        middle = [[parts.now(scene, now_s, split), parts.devices(scene, inner - split - 3)]]
    lower = [[parts.proof(scene, inner)], [parts.ranking(scene, inner)], [parts.doubts(scene)]]
    rows = [*_head(scene, width), *_body([parts.night(scene, now_s, inner)], width, None)]
    above: Sequence[int] = ()
    for band in [*middle, *lower]:
        if band[0].rows:
            joints = (split + 3,) if split is not None and len(band) > 1 else ()
            rows += [_rule(band, width, above, joints), *_body(band, width, split)]
            above = joints
    rows.append(Row(_edge("╰╯", width, dict.fromkeys(above, "┴"), {}), 64))
    return [_sized(line, width) for line in _fitting(rows, height)]


def _fitting(rows: Sequence[Row], height: int) -> list[Text]:
    """As many rows as there is room for, the most worthy ones, in their order."""
    order = sorted(range(len(rows)), key=lambda at: (rows[at].worth, -at))
    gone = set(order[: max(len(rows) - height, 0)])
    return [row.text for at, row in enumerate(rows) if at not in gone]


def _head(scene: Scene, width: int) -> list[Row]:
    """The upper edge: the study, and that it is played where it is."""
    title, played = f"{scene.spec.study.name}: {scene.spec.cluster.model}", scene.spec.cluster.simulated
    edge = _edge("╭╮", width, {}, {0: title})
    room = width - len(title) - 9
    if not played:
        return [Row(edge, 100)]
    if len(SIMULATED) > room:
        return [Row(edge, 100), Row(_boxed(Text(SIMULATED, style=PLAYED), width), 99)]
    mark = Text.assemble(edge[: width - len(SIMULATED) - 4], (f" {SIMULATED} ", PLAYED), ("─╮", FRAME))
    return [Row(mark, 100)]


def _rule(band: Sequence[Section], width: int, above: Sequence[int], joints: Sequence[int]) -> Row:
    """The line over a band of sections, with their titles."""
    begins = [0, *joints]
    ends = [*joints, width - 1]
    titles = {begin: _title(section, end - begin - 5) for section, begin, end in zip(band, begins, ends, strict=True)}
    worth = min(band[0].worth, max(row.worth for section in band for row in section.rows) - 1)
    return Row(_edge("├┤", width, dict.fromkeys(above, "┴") | dict.fromkeys(joints, "┬"), titles), worth)


def _title(section: Section, room: int) -> str:
    title = section.title if len(section.title) <= room else section.short or section.title
    return title if len(title) <= room else f"{title[: max(room - 1, 0)]}…"


def _edge(ends: str, width: int, joints: Mapping[int, str], titles: Mapping[int, str]) -> Text:
    """A horizontal line of the frame; a title stands a little to the right of where its section begins."""
    line = list(ends[0] + "─" * (width - 2) + ends[1])
    for at, joint in joints.items():
        line[at] = joint
    shown = {at + 2: f" {title} "[: max(width - at - 4, 0)] for at, title in titles.items() if title}
    for at, title in shown.items():
        line[at : at + len(title)] = title
    text = Text.assemble(("".join(line), FRAME))
    for at, title in shown.items():
        text.stylize("not dim bold", at, at + len(title))
    return text


def _body(band: Sequence[Section], width: int, split: int | None) -> list[Row]:
    """The lines of sections side by side."""
    if split is None or len(band) == 1:
        return [Row(_boxed(row.text, width), row.worth) for row in band[0].rows]
    pairs = zip_longest(band[0].rows, band[1].rows, fillvalue=Row(Text(""), 0))
    return [
        Row(
            _boxed(Text.assemble(_sized(left.text, split), (" │ ", FRAME), right.text), width),
            max(left.worth, right.worth),
        )
        for left, right in pairs
    ]


def _boxed(text: Text, width: int) -> Text:
    return Text.assemble(("│ ", FRAME), _sized(text, width - 4), (" │", FRAME))


def _sized(text: Text, width: int) -> Text:
    """Exactly so wide, in one line."""
    if not text.plain.isprintable():
        text.plain = "".join(letter if letter.isprintable() else " " for letter in text.plain)
    text.truncate(max(width, 0), overflow="ellipsis", pad=True)
    return text
