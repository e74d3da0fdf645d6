"""By how much two independent measurements differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from autotune.stats.intervals import student

if TYPE_CHECKING:
    from autotune.stats.intervals import Interval
    from autotune.stats.quantiles import QuantileInterval

Side = Literal["higher", "lower", "not distinguishable"]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first less the second, and the interval around it, in their unit."""

    value: float
    low: float
    high: float

    @property
    def side(self) -> Side:
        """What the first is against the second; certain where the interval leaves out 0."""
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "not distinguishable"


def difference(one: Interval, other: Interval, confidence: float) -> Difference:
    """By how much the mean of one is above that of the other: x̄ − ȳ ± t·√(SE² + SE²), by Welch's degrees of freedom.

    Each interval is one that Student's t made at this `confidence`, from `n` values or batches: of `mean_interval` for
    independent values, of `batch_means` for a series. Its standard error is read from its width. Sources: Welch, "The
    Generalization of 'Student's' Problem when Several Different Population Variances are Involved" (Biometrika 34,
    1947); Satterthwaite (Biometrics Bulletin 2, 1946). ValueError where one has fewer than two values.
    """
    first, second = _variance(one, confidence), _variance(other, confidence)
    variance, apart = first + second, one.mean - other.mean
    if variance == 0:
        return Difference(apart, apart, apart)
    # as parts of the sum: the squares of very small variances would be 0
    freedom = 1 / ((first / variance) ** 2 / (one.n - 1) + (second / variance) ** 2 / (other.n - 1))
    half = student(freedom, confidence) * math.sqrt(variance)
    return Difference(apart, apart - half, apart + half)


def quantile_difference(one: QuantileInterval, other: QuantileInterval) -> Difference:
    """By how much a quantile of one is above that of the other, at the confidence of both intervals.

    The limits are recovered from those of the two: √((x − lowₓ)² + (highᵧ − y)²) below the difference, likewise above.
    Source: Zou and Donner, "Construction of Confidence Limits about Effect Measures" (Statistics in Medicine 27, 2008).
    """
    apart = one.value - other.value
    below = math.hypot(one.value - one.low, other.high - other.value)
    above = math.hypot(one.high - one.value, other.value - other.low)
    return Difference(apart, apart - below, apart + above)


def _variance(interval: Interval, confidence: float) -> float:
    if interval.n < 2:
        raise ValueError(f"a difference needs at least two values of each, not {interval.n}")
    return ((interval.high - interval.low) / 2 / student(interval.n - 1, confidence)) ** 2
