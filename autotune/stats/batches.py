"""The mean of a series whose values depend on their neighbours, such as tokens per 100 ms.

Tokens of the same decode step come together, and a stall delays all of them: successive values are alike, and an
interval that takes them for independent is far too narrow. So the series is cut into successive batches. The longer
they are, the less their means depend on each other.

- Conway, "Some Tactical Problems in Digital Simulation" (Management Science 10, 1963): batch means.
- von Neumann, "Distribution of the Ratio of the Mean Square Successive Difference to the Variance" (Annals of
  Mathematical Statistics 12, 1941): whether they still depend on each other. Fishman, "Grouping Observations in
  Digital Simulation" (Management Science 24, 1978) chooses the batches by it.
- Tafazzoli, Wilson, Lada and Steiger, "Performance of Skart" (INFORMS Journal on Computing 23, 2011): the factor
  (1 + r) / (1 − r) for what is left of it.
- Marriott and Pope, "Bias in the Estimation of Autocorrelations" (Biometrika 41, 1954): what r lacks in short series.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from autotune.stats.intervals import Interval, student
from autotune.stats.sample import mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MOST_BATCHES = 30
"""More make it hardly narrower, as Student's t falls from 2.05 to 1.96 at best; and a fast change hides a slow one."""
FEWEST_BATCHES = 10
"""With fewer, the interval says more about the number of batches than about the series."""
DOUBT = 0.8416
"""Standard errors of r beyond which batches are merged. Four of ten that are independent are: the cheaper mistake."""
MOST_ALIKE = 0.9
"""Bound for r: the factor (1 + r) / (1 − r) has no end."""


def batch_means(series: Sequence[float], confidence: float) -> Interval:
    """Where the mean lies about which a steady series moves: x̄ ± t·√(s²·f / b) from b batches, in its unit.

    It starts with 30 batches and makes them longer by half until von Neumann's ratio no longer shows that they depend
    on each other, or there would be fewer than 10. What they still seem to depend on each other makes the interval
    wider by f = (1 + r) / (1 − r), r ≥ 0. `Interval.n` is b.

    Each value stands for the same length of time. A series that swings in a fixed rhythm gets an interval that is too
    wide. One that is shorter than some tens of its own correlation times gets one that is too narrow.
    ValueError for fewer than 10 values.
    """
    return _interval(series, *_around_the_mean(series), confidence)


def effective_size(series: Sequence[float], confidence: float) -> float:
    """How many independent values would tell as much of the mean, and of shares, as this series does; at most all.

    The variance of independent values over that of `batch_means`, less what Student's t loses on so few batches at this
    confidence. All of them where the series is constant: it does not tell. Source: Korn and Graubard (see `binomial`).
    ValueError for fewer than 10 values.
    """
    return _worth(series, *_around_the_mean(series), confidence)


def mean_and_size(series: Sequence[float], confidence: float) -> tuple[Interval, float]:
    """`batch_means` and `effective_size`, by the same batches."""
    found = _around_the_mean(series)
    return _interval(series, *found, confidence), _worth(series, *found, confidence)


def _interval(series: Sequence[float], count: int, variance: float, confidence: float) -> Interval:
    centre, half = mean(series), student(count - 1, confidence) * math.sqrt(variance / count)
    return Interval(centre, centre - half, centre + half, count)


def _worth(series: Sequence[float], count: int, variance: float, confidence: float) -> float:
    n, centre = len(series), mean(series)
    alone = math.fsum([(value - centre) ** 2 for value in series]) / (n - 1)
    if not variance:
        return float(n)
    lost = student(n - 1, confidence) / student(count - 1, confidence)
    return min(float(n), alone / variance * count * lost * lost)


def _around_the_mean(series: Sequence[float]) -> tuple[int, float]:
    if len(series) < FEWEST_BATCHES:
        raise ValueError(f"batch means need at least {FEWEST_BATCHES} values, not {len(series)}")
    # from the first value, so that a constant series is exactly that whatever its last bits
    moved = [value - series[0] for value in series]

    def residuals(count: int) -> list[float]:
        batches = cut(moved, count)
        centre = mean(batches)
        return [batch - centre for batch in batches]

    return settled(len(series), residuals, fitted=1)


def cut(values: Sequence[float], count: int) -> list[float]:
    """The means of `count` successive parts, as equal in length as can be."""
    edges = (part * len(values) // count for part in range(count + 1))
    return [mean(values[begin:end]) for begin, end in pairwise(edges)]


def settled(n: int, residuals: Callable[[int], Sequence[float]], *, fitted: int) -> tuple[int, float]:
    """The number of batches of `n` values, and the variance of one, with what their dependence adds to it.

    `residuals`: what remains of so many batch means when `fitted` coefficients were fitted to them.
    """
    size = math.ceil(n / MOST_BATCHES)
    while True:
        count = n // size
        found = residuals(count)
        alike = correlation(found)
        larger = math.ceil(size * math.sqrt(2))
        if not _depend(alike, count, fitted) or n // larger < FEWEST_BATCHES:
            break
        size = larger
    variance = math.fsum(residual * residual for residual in found) / (count - fitted)
    rest = _rest(alike, count, fitted)
    return count, variance * (1 + rest) / (1 - rest)


def correlation(residuals: Sequence[float]) -> float:
    """By how much neighbours are alike, −1 … 1: one less half of von Neumann's ratio; 0 where nothing varies."""
    squares = math.fsum(residual * residual for residual in residuals)
    steps = math.fsum((after - before) ** 2 for before, after in pairwise(residuals))
    return 1 - steps / (2 * squares) if squares else 0.0


def _depend(alike: float, count: int, fitted: int) -> bool:
    """Whether neighbours are more alike, or less, than those of independent batches would be."""
    error = math.sqrt((count - 2) / (count * count - 1))
    return abs(alike + (fitted - 1) / count) > DOUBT * error


def _rest(alike: float, count: int, fitted: int) -> float:
    # one 1/count more than von Neumann's r lacks: a margin for the scatter of r, of which Student's t knows nothing
    unbiased = (alike + fitted / count) / (1 - (fitted + 2) / count)
    return min(max(0.0, unbiased), MOST_ALIKE)
