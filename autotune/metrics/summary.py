"""Samples in a few figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autotune.stats import (
    FEWEST_BATCHES,
    QUANTILES,
    Statistic,
    enough,
    mean,
    mean_and_size,
    ordered_quantile,
    quantile_interval,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

CONFIDENCE = 0.95

Range = tuple[float, float]
"""The ends of an interval."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A sample in a few figures, each None for an empty one. For a decision, ask `decided` first."""

    n: int = 0
    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    intervals: dict[str, Range] = field(default_factory=dict)
    """95 % intervals of the statistics, by name; none where there are too few values for one. Those of percentiles are
    two of the values, that of the mean is by batch means, since neighbours in time are alike."""

    @classmethod
    def of(cls, values: Iterable[float], *, intervals: bool = True) -> Summary:
        """Exact, from all values; in the order of time, which the intervals mind."""
        series = list(values)
        ordered = sorted(series)
        if not ordered:
            return cls()
        percentiles = {name: ordered_quantile(ordered, q) for name, q in QUANTILES.items()}
        found = dict(_intervals(series, ordered)) if intervals else {}
        return cls(n=len(ordered), mean=mean(ordered), max=ordered[-1], intervals=found, **percentiles)

    def decided(self, statistic: Statistic) -> bool:
        """Whether the sample is large enough for that statistic to be held against a limit."""
        return self.n >= enough(statistic)

    def known(self, statistic: Statistic) -> float | None:
        """The statistic of that name; None where the sample is too small for it."""
        return self.value(statistic) if self.decided(statistic) else None

    def value(self, statistic: Statistic) -> float | None:
        """The statistic of that name."""
        value: float | None = getattr(self, statistic)
        return value


def _intervals(series: Sequence[float], ordered: Sequence[float]) -> Iterator[tuple[str, Range]]:
    worth = None
    if len(series) >= FEWEST_BATCHES:
        # who comes after a long wait in a queue waits long, too: many requests are worth few
        around, worth = mean_and_size(series, CONFIDENCE)
        # no time is below 0, however far the times lie apart
        yield "mean", (around.low if ordered[0] < 0 else max(0.0, around.low), around.high)
    for name, q in QUANTILES.items():
        if (between := quantile_interval(ordered, q, CONFIDENCE, worth=worth)) is not None:
            yield name, (between.low, between.high)
