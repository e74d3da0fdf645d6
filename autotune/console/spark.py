"""Figures of a load as they come, as rows of small bars."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.benchmark.phases import Progress

BARS = "▁▂▃▄▅▆▇█"
MOST_POINTS = 600
"""Beyond these every second one is forgotten: however long a load lasts, a refresh stays cheap."""


@dataclass(frozen=True, slots=True)
class Point:
    """What happened between two reports of a load."""

    at_s: float
    """Since the load began."""
    stage: str
    tps: float
    ttft_s: float | None
    """Mean of the stage up to here."""


@dataclass
class Track:
    """One load, from its first report to the last."""

    label: str
    planned_s: float
    """How long it is meant to last."""
    now: Progress | None = None
    figures: Progress | None = None
    """The last report before the drain, in which speed says nothing any more."""
    points: list[Point] = field(default_factory=list)
    _began_s: float = 0.0
    """Begin of the stage, since that of the load."""

    def add(self, now: Progress) -> None:
        """Take a report. Its figures count from the beginning of its stage, those of a point from the report before."""
        before, self.now = self.now, now
        if now.stage != "drain":
            self.figures = now
        if before is None or before.stage != now.stage:
            self._began_s = self.points[-1].at_s if self.points else 0.0
            before = None
        step_s = now.elapsed_s - (before.elapsed_s if before else 0.0)
        pieces = now.output_tps * now.elapsed_s - (before.output_tps * before.elapsed_s if before else 0.0)
        if step_s <= 0 or (before is None and not pieces):  # a stage begins to count with its first report
            return
        self.points.append(Point(self._began_s + now.elapsed_s, now.stage, max(pieces / step_s, 0.0), now.ttft_s))
        if len(self.points) > MOST_POINTS:
            del self.points[:-1:2]

    def columns(self, count: int) -> list[Point | None]:
        """The points in columns of equal time; the load, as it is planned, fills all `count` of them.

        A column between two reports looks like the one before.
        """
        if not self.points or not count:
            return []
        cell_s = max(self.planned_s, self.points[-1].at_s) / count
        groups = groupby(self.points, key=lambda point: min(int(point.at_s / cell_s), count - 1))
        found = {at: _mean(list(group)) for at, group in groups}
        last, columns = None, []
        for at in range(max(found) + 1):
            last = found.get(at, last)
            columns.append(last)
        return columns


def _mean(points: Sequence[Point]) -> Point:
    waits = [point.ttft_s for point in points if point.ttft_s is not None]
    tps = sum(point.tps for point in points) / len(points)
    return replace(points[-1], tps=tps, ttft_s=sum(waits) / len(waits) if waits else None)


def bars(values: Sequence[float | None], top: float) -> str:
    """A character for each value, from 0 to `top`; nothing where nothing is known."""
    highest = len(BARS) - 1
    shares = [None if value is None or top <= 0 else value / top for value in values]
    return "".join(" " if share is None else BARS[min(max(round(share * highest), 0), highest)] for share in shares)
