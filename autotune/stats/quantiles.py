"""Where a quantile lies, whatever the distribution."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from autotune.stats.binomial import chance_of_at_most
from autotune.stats.intervals import tail
from autotune.stats.sample import ordered_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class QuantileInterval:
    """A quantile of `n` values, and two of these values around it."""

    value: float
    low: float
    high: float
    n: int


def quantile_interval(
    values: Sequence[float], q: float, confidence: float, *, worth: float | None = None
) -> QuantileInterval | None:
    """Where the `q` quantile lies, between two of the values and in their unit.

    Each end is as near as it may be: the chance that the quantile lies beyond it is at most half of what `confidence`
    leaves out. None where there are too few values for one of the ends: with 95 % below 6 for p50, 36 for p90, 72 for
    p95, 368 for p99, as `enough` says. Source: Hahn and Meeker, "Statistical Intervals" (1991), section 5.2.

    It takes the values as independent, unless it is told how many independent ones they are worth: `effective_size`.
    ValueError for a `q` that is not between 0 and 1.
    """
    if not 0 < q < 1:
        raise ValueError(f"a quantile with an interval is between 0 and 1, not {q}")
    n, beyond = len(values), tail(confidence)
    weight = 1.0 if worth is None or not values else min(1.0, worth / n)
    below, above = _outside(n, weight, q, beyond), _outside(n, weight, 1 - q, beyond)
    if not below or not above:
        return None
    ordered = sorted(values)
    return QuantileInterval(ordered_quantile(ordered, q), ordered[below - 1], ordered[n - above], n)


@lru_cache(maxsize=10_000)
def _outside(n: int, weight: float, share: float, beyond: float) -> int:
    """How many values, from one end, are far enough out: the last of them is the end of the interval."""

    def chance(rank: int) -> float:
        return chance_of_at_most(max(0.0, weight * rank - 1), weight * n, share)

    ranks = range(1, n + 1)
    found = bisect_right(ranks, beyond, key=chance)
    return found if weight * found >= 1 else 0
