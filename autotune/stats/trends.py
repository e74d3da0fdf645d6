"""Whether a series grows or falls: a queue that fills, a window that is not steady."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.stats.batches import FEWEST_BATCHES, cut, settled
from autotune.stats.intervals import student
from autotune.stats.sample import mean

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Trend:
    """A slope, and the interval around it: units of the values per second."""

    slope: float
    low: float
    high: float

    @property
    def rises(self) -> bool:
        """Whether the values certainly grow. How much that matters is another question: ask the slope."""
        return self.low > 0

    @property
    def falls(self) -> bool:
        """Whether they certainly fall."""
        return self.high < 0


def trend(times: Sequence[float], values: Sequence[float], confidence: float) -> Trend:
    """The slope of least squares, with an interval that knows that neighbours are alike. Times in seconds, any order.

    The interval comes from the means of successive batches, 10 to 30 of them, as those of `batch_means` do: their
    scatter around the line, and what is left of their dependence. With 95 % it sees a trend where there is none in
    3 … 7 of 100 series of 60 values or more that remember some five values (correlation 0.8 from one to the next).
    Times may be uneven: the batches have equal numbers of values.

    Sources: those of `batches`, with the line of least squares in the place of the mean. ValueError for fewer than 10
    values, where there are not as many times, or where all times are the same.
    """
    if len(times) != len(values):
        raise ValueError(f"{len(times)} times for {len(values)} values")
    if len(values) < FEWEST_BATCHES:
        raise ValueError(f"a trend needs at least {FEWEST_BATCHES} values, not {len(values)}")
    ordered = sorted(zip(times, values, strict=True))
    start, first = ordered[0]
    after = [time - start for time, _ in ordered]
    moved = [value - first for _, value in ordered]
    if after[-1] == 0:
        raise ValueError("a trend needs more than one moment")

    def batches(count: int) -> tuple[list[float], list[float]]:
        return _centred(cut(after, count)), _centred(cut(moved, count))

    def residuals(count: int) -> list[float]:
        at, seen = batches(count)
        slope = _slope(at, seen)
        return [value - slope * time for time, value in zip(at, seen, strict=True)]

    count, variance = settled(len(values), residuals, fitted=2)
    reach = math.fsum(time * time for time in batches(count)[0])
    slope = _slope(_centred(after), moved)
    half = student(count - 2, confidence) * math.sqrt(variance / reach)
    return Trend(slope, slope - half, slope + half)


def _centred(values: Sequence[float]) -> list[float]:
    centre = mean(values)
    return [value - centre for value in values]


def _slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Of least squares, where the mean time is 0."""
    products = (time * value for time, value in zip(times, values, strict=True))
    return math.fsum(products) / math.fsum(time * time for time in times)
