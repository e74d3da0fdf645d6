"""What a sample says of itself: the same to the last bit in any order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Statistic = Literal["mean", "p50", "p90", "p95", "p99"]

QUANTILES: Mapping[str, float] = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}

ENOUGH_FOR_A_MEAN = 10
"""Below this the mean of skewed waiting times is mostly a matter of luck. A choice, not a theorem."""

TAIL = 0.025
"""What a two-sided interval of 95 % leaves out at each end."""


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, from an exact sum; ValueError where there is nothing to average."""
    if not values:
        raise ValueError("the mean of nothing")
    return math.fsum(values) / len(values)


def quantile(values: Sequence[float], q: float) -> float:
    """The `q` quantile, linear between the order statistics around position (n − 1)·q.

    That is type 7 of Hyndman and Fan, "Sample Quantiles in Statistical Packages" (The American Statistician 50, 1996),
    the definition of numpy, R and spreadsheets. ValueError for no values, or a `q` outside 0…1.
    """
    return ordered_quantile(sorted(values), q)


def ordered_quantile(ordered: Sequence[float], q: float) -> float:
    """`quantile` of values that are in order, the least first."""
    if not ordered:
        raise ValueError("a quantile of nothing")
    if not 0 <= q <= 1:
        raise ValueError(f"a quantile is between 0 and 1, not {q}")
    position = (len(ordered) - 1) * q
    below = math.floor(position)
    low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    return min(high, low + (high - low) * (position - below))


def percentile(values: Sequence[float], statistic: Statistic) -> float:
    """The statistic of that name: `mean`, or a percentile."""
    return mean(values) if statistic == "mean" else quantile(values, QUANTILES[statistic])


def enough(statistic: Statistic) -> int:
    """The least number of requests for which `statistic` has a 95 % interval.

    The interval of a percentile lies between two order statistics. Its upper end exists once the chance qⁿ that the
    largest of n values still lies below the quantile is at most 2.5 %: p50 6, p90 36, p95 72, p99 368.
    """
    if statistic == "mean":
        return ENOUGH_FOR_A_MEAN
    return math.ceil(math.log(TAIL) / math.log(QUANTILES[statistic]))
