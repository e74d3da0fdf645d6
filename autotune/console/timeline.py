"""The night as one bar: what was done, where it is, what is left. Marks tell it apart without colours too."""

from __future__ import annotations

from itertools import groupby
from math import ceil
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autotune.console.scene import Block, Scene

MARKS = {
    "feasible": "█",
    "misses": "▒",
    "failed": "×",
    "proof": "◆",
    "running": "░",
    "now": "▶",
    "search": "·",
    "left": "◇",
}
STYLES = {
    "feasible": "green",
    "misses": "yellow",
    "failed": "bold red",
    "proof": "magenta",
    "running": "cyan",
    "now": "bold cyan",
    "search": "bright_black",
    "left": "bright_black",
    "": "",
}
LEAST_LEGEND = 72
LEAST_SEAM = 3
"""Cells of a block that can spare the last one, so that it does not run into the next."""


def rows(scene: Scene, now_s: float, width: int) -> tuple[Text, Text]:
    """The bar between its two clock times, and below it what its parts are."""
    sure = scene.deadline_s is not None
    begin, end = f"{scene.wall(scene.began_s):%H:%M} ", f" {'' if sure else '~'}{scene.wall(scene.end_s):%H:%M}"
    room = max(width - len(begin) - len(end), 1)
    axis = _Axis(scene, now_s, room)
    cells = axis.cells()
    bar = Text.assemble(begin, *_runs(cells), end)
    return bar, Text(" " * len(begin) + "".join(axis.labels(proof="left" in cells or scene.proof is not None)))


class _Axis:
    """Cells of equal time from the beginning of the night to its end."""

    def __init__(self, scene: Scene, now_s: float, width: int) -> None:
        self._scene = scene
        self._now_s = now_s
        self._width = width
        self._cell_s = max(scene.end_s - scene.began_s, now_s - scene.began_s, 1e-9) / width
        self._now = self._at(now_s)

    def _at(self, at_s: float) -> int:
        """The cell of a moment."""
        return min(max(int((at_s - self._scene.began_s) / self._cell_s), 0), self._width - 1)

    def cells(self) -> list[str]:
        """What each cell stands for: a key of `MARKS`, or nothing."""
        cells = self._done()
        for at in range(self._at(self._scene.turn_s), self._now):
            cells[at] = cells[at] or "running"
        cells[self._now] = "now"
        boundary = self._at(self._scene.boundary_s)
        proof = self._scene.proof is not None or self._scene.spec.proof.finalists > 0
        for at in range(self._now + 1, self._width):
            cells[at] = "left" if proof and at >= boundary else "search"
        return cells

    def _done(self) -> list[str]:
        """Each cell belongs to the block that has the most of it."""
        cells, shares = [""] * self._width, [0.0] * self._width
        for block in self._scene.blocks:
            first, last = self._span(block)
            what = "proof" if block.proof and block.kind == "feasible" else block.kind
            for at in range(first, last):
                share = min(self._cell(block.end_s), at + 1) - max(self._cell(block.begin_s), at)
                if share > shares[at]:
                    cells[at], shares[at] = what, share
            if last - first >= LEAST_SEAM and what != "proof":
                cells[last - 1], shares[last - 1] = "", 1.0
        return cells

    def _cell(self, at_s: float) -> float:
        return (at_s - self._scene.began_s) / self._cell_s

    def _span(self, block: Block) -> tuple[int, int]:
        first, last = self._at(block.begin_s), ceil(self._cell(block.end_s))
        return first, min(max(last, first + 1), self._width)

    def labels(self, *, proof: bool) -> list[str]:
        """What stands below: the most important first, the others where there is room."""
        row = [" "] * self._width
        clock = f"{self._scene.wall(self._now_s):%H:%M}"
        here = f"▲ now {clock}" if self._now + len("▲ now 00:00") <= self._width else "▲"
        _write(row, self._now, here)
        for at, text in self._names():
            _write(row, at, text)
        if proof:
            _write(row, self._at(self._scene.boundary_s), "proof")
        return row

    def _names(self) -> Iterable[tuple[int, str]]:
        """Baseline and best, then every trial by its number."""
        best = self._scene.standings[0] if self._scene.standings else None
        winners = {result.number for result in best.results} if best is not None and best.feasible else set()
        search = [block for block in self._scene.blocks if not block.proof]
        for block in sorted(search, key=lambda block: (block.number > 0, block.number not in winners)):
            star = "★" if block.number in winners else ""
            yield self._at(block.begin_s), f"{star}{block.number or 'B'}"


def _write(row: list[str], at: int, text: str) -> None:
    """Put a word into a row where nothing is near."""
    around = row[max(at - 1, 0) : at + len(text) + 1]
    if at + len(text) <= len(row) and not "".join(around).strip():
        row[at : at + len(text)] = text


def _runs(cells: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Neighbours that look alike in one piece."""
    for what, alike in groupby(cells):
        yield MARKS.get(what, " ") * len(list(alike)), STYLES[what]


def legend(width: int) -> Text:
    """What the marks mean."""
    words = {"feasible": "feasible", "misses": "misses a limit", "failed": "failed", "proof": "proof"}
    gap = "  "
    if width < LEAST_LEGEND:
        words["misses"], gap = "misses", " "
    marks = [part for what in words for part in ((MARKS[what], STYLES[what]), (f" {words[what]}{gap}", "dim"))]
    return Text.assemble(*marks, (f"B baseline{gap}★ best", "dim"))
