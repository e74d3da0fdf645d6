"""Where a mean lies, as far as values that do not depend on each other can say.

`confidence` is two-sided: 0.95 leaves out 2.5 % at each end. It lies between 0 and 1, ValueError otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from autotune.stats.sample import mean

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean of `n` values, and the interval around it."""

    mean: float
    low: float
    high: float
    n: int


def tail(confidence: float) -> float:
    """What a two-sided interval leaves out at each end."""
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence is between 0 and 1, not {confidence}")
    return (1 - confidence) / 2


def ready() -> None:
    """Import now, for a quarter of a second, what the first interval would import otherwise."""
    import scipy.special  # noqa: PLC0415, F401


@lru_cache(maxsize=10_000)
def student(freedom: float, confidence: float) -> float:
    """How many standard errors reach to the end of an interval, by Student's t for that many degrees of freedom."""
    from scipy.special import stdtrit  # noqa: PLC0415 - a quarter of a second, which only who asks shall pay

    tail(confidence)
    return float(stdtrit(freedom, (1 + confidence) / 2))


def mean_interval(values: Sequence[float], confidence: float) -> Interval:
    """Where the mean lies that the values come from: x̄ ± t·s/√n, with Student's t for n − 1 degrees of freedom.

    Source: Student, "The Probable Error of a Mean" (Biometrika 6, 1908). ValueError for fewer than two values.
    """
    return _around(values, confidence, 1 / len(values) if values else 0.0)


def next_interval(values: Sequence[float], confidence: float) -> Interval:
    """Where one more value will lie: x̄ ± t·s·√(1 + 1/n). ValueError for fewer than two values.

    Source: Hahn and Meeker, "Statistical Intervals" (1991), section 4.7.
    """
    return _around(values, confidence, 1 + 1 / len(values) if values else 0.0)


def _around(values: Sequence[float], confidence: float, variance_factor: float) -> Interval:
    if len(values) < 2:
        raise ValueError(f"an interval needs at least two values, not {len(values)}")
    centre, n = mean(values), len(values)
    variance = math.fsum((value - centre) ** 2 for value in values) / (n - 1)
    half = student(n - 1, confidence) * math.sqrt(variance * variance_factor)
    return Interval(centre, centre - half, centre + half, n)
