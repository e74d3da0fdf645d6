"""Several goals at once: how much a configuration is expected to add to what is known. Larger is better in each.

What is known is a front of points, and all that none of them covers is cut into boxes, up to infinity. What lies
between a box's low corner and a point, summed over the boxes, is what that point adds to the volume which the front
covers above a low corner of all (the hypervolume). Where the goals of a candidate are normal and independent the
expectation is a product over the goals in each box, and exact. Source: Emmerich, Yang, Deutz, Wang and Fonseca, "A
Multicriteria Generalization of Bayesian Global Optimization" (2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from autotune.belief.design import Array

FAR = 1e6
"""What is infinity here: no logarithm comes near."""
SLICE = 250
"""So many configurations at a time: what is needed of them stays near the processor."""


def improvement(mean: Array, sd: Array, best: float | Array) -> Array:
    """Expected improvement over `best` of what is normal."""
    z = (mean - best) / sd
    found: Array = sd * (z * ndtr(z) + np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi))
    return found


@dataclass(frozen=True)
class Open:
    """What a front does not cover, in B boxes."""

    low: Array
    """[B, G] their low corners."""
    high: Array
    """[B, G] their high ones."""

    @classmethod
    def over(cls, points: Array, low: Array) -> Open:
        """Of these points, [N, G], above a low corner of all, [G]."""
        found = list(_boxes(points, low))
        return cls(np.array([one for one, _ in found]), np.array([one for _, one in found]))

    def added(self, points: Array) -> Array:
        """[N] what each of these points, [N, G], would add to the volume."""
        inside = np.minimum(points[:, None], self.high) - self.low
        found: Array = np.maximum(inside, 0.0).prod(axis=2).sum(axis=1)
        return found

    def expected(self, mean: Array, sd: Array) -> Array:
        """[C] the same in expectation, of what is normal; [G, C] each."""
        slices = [slice(at, at + SLICE) for at in range(0, mean.shape[1], SLICE)]
        return np.concatenate([self._expected(mean[:, some], sd[:, some]) for some in slices] or [np.zeros(0)])

    def _expected(self, mean: Array, sd: Array) -> Array:
        parts = np.ones((len(self.low), mean.shape[1]))
        for goal, (centre, wide) in enumerate(zip(mean, sd, strict=True)):
            edges, at = np.unique(np.stack([self.low[:, goal], self.high[:, goal]]), return_inverse=True)
            over = improvement(centre, wide, edges[:, None])
            lower, upper = at.reshape(2, -1)
            parts *= over[lower] - over[upper]
        found: Array = np.maximum(parts, 0.0).sum(axis=0)
        return found


def _boxes(points: Array, low: Array) -> Iterator[tuple[list[float], list[float]]]:
    """Slabs of the last goal, each cut by the goals before it."""
    if len(low) == 1:
        yield [float(max(points.max(initial=-np.inf), low[0]))], [FAR]
        return
    floors = [float(low[-1]), *sorted({value for value in points[:, -1].tolist() if value > low[-1]})]
    for floor, ceiling in pairwise([*floors, FAR]):
        covering = points[points[:, -1] >= ceiling]
        for lower, upper in _boxes(covering[:, :-1], low[:-1]):
            yield [*lower, floor], [*upper, ceiling]


def covered(values: Array, points: Array) -> NDArray[np.bool_]:
    """[…] whether some of these points, [N, G], is in no goal below the values, [G, …]."""
    over = points.reshape(*points.shape, *[1] * (values.ndim - 1)) >= values[None]
    return np.asarray(over.all(axis=1).any(axis=0))
