"""Looks that err exactly as much as was planned, for sums that grow by independent parts."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.stats.looks import Looks

GRID = 160
"""Even number of steps of the integration: with twice as many the levels change by less than a part in a million."""
BEYOND = 7.0
"""Standard deviations below which nothing is left to integrate."""


@lru_cache(maxsize=512)
def boundaries(looks: Looks) -> tuple[float, ...]:
    """The one-sided error that each look may make by itself, so that the first crossing errs as `looks` has spent.

    Boole's sum, `Looks.levels`, holds however the looks depend on each other. Where each is the mean of all that the
    one before had and of more that does not depend on it, a look that errs has often a neighbour that errs with it: the
    levels may be larger, and what is spent is still never more than planned. Half as much again to twice as much.

    They are levels, not distances: of a mean whose scatter is estimated take Student's quantile of the level.

    Sources: Armitage, McPherson and Rowe, "Repeated Significance Tests on Accumulating Data" (JRSS A 132, 1969), for
    the integration; Lan and DeMets (see `looks`); Jennison and Turnbull, "Group Sequential Methods" (2000), section
    3.8, for levels with Student's t.
    """
    spent = (0.0, *(looks.spent(look + 1) for look in range(len(looks.fractions))))
    errors = [after - before for before, after in pairwise(spent)]
    found, before = [], 0.0
    grid, weights = [0.0], [1.0]
    for at, error in zip(looks.fractions, errors, strict=True):
        step = math.sqrt(at - before)
        bound = _bound(grid, weights, step, error)
        found.append(_above(bound / math.sqrt(at)))
        grid, weights = _carried(grid, weights, step, -BEYOND * math.sqrt(at), bound)
        before = at
    return tuple(found)


def _above(deviations: float) -> float:
    """The chance of a normal value beyond so many standard deviations."""
    return math.erfc(deviations / math.sqrt(2)) / 2


def _bound(grid: Sequence[float], weights: Sequence[float], step: float, error: float) -> float:
    """Where a walk that has come so far crosses for the first time with the chance `error`."""
    low, high = -BEYOND, BEYOND + 3
    for _ in range(50):
        middle = (low + high) / 2
        crosses = math.fsum(
            weight * _above((middle - at) / step) for at, weight in zip(grid, weights, strict=True) if weight
        )
        low, high = (middle, high) if crosses > error else (low, middle)
    return (low + high) / 2


def _carried(
    grid: Sequence[float], weights: Sequence[float], step: float, low: float, high: float
) -> tuple[list[float], list[float]]:
    """The walk one step on, as far as it has not crossed: places, and how much of it is there by Simpson's rule."""
    width = (high - low) / GRID
    places = [low + width * number for number in range(GRID + 1)]
    scale = 1 / (step * math.sqrt(2 * math.pi))
    known = [(at, weight) for at, weight in zip(grid, weights, strict=True) if weight]
    found = []
    for number, place in enumerate(places):
        density = math.fsum(weight * math.exp(-(((place - at) / step) ** 2) / 2) for at, weight in known)
        part = 1 if number in {0, GRID} else 4 if number % 2 else 2
        found.append(density * scale * part * width / 3)
    return places, found
