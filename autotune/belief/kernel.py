"""How alike configurations are, whatever the law says of them: the covariance of what it leaves over."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from autotune.belief.design import Array, Design

    Rows = NDArray[np.intp]
    Kernel = Callable[["Places", "Places"], Array]

FAR = math.sqrt(5)


@dataclass(frozen=True)
class Places:
    """Where configurations lie, [C, F] each: distances in octaves; a different knob or policy is 0.7·√2 away."""

    whole: Array
    build: Array
    """Layout and slots alone."""
    layout: Array
    _known: dict[Kernel, tuple[Array, Array]] = field(default_factory=dict, repr=False, compare=False)
    """By kernel: to which places, and how alike they are."""
    _among: dict[Kernel, Array] = field(default_factory=dict, repr=False, compare=False)
    """By kernel: how alike they are among themselves."""

    @classmethod
    def of(cls, design: Design) -> Places:
        """Of these configurations."""
        n, r, g, slots = design.shape.T[:, :, None]
        several = (design.instances > 1)[:, None]
        policy = 0.7 * several * (design.policy[:, None] == np.arange(3))
        layout = np.concatenate([n, 1.5 * r, 1.5 * g], axis=1)
        build = np.concatenate([layout, slots], axis=1)
        whole = np.concatenate([build, policy, 0.7 * math.sqrt(2) * design.knobs], axis=1)
        return cls(whole, build, layout)

    def take(self, rows: Rows) -> Places:
        """Some of them."""
        return Places(self.whole[rows], self.build[rows], self.layout[rows])

    def alike(self, others: Places, kernel: Kernel) -> Array:
        """[C, O] by a kernel; where there are but more of the others than last time, only these are new work."""
        before, found = self._known.get(kernel, (others.whole[:0], np.zeros((len(self.whole), 0))))
        count = len(before)
        if not np.array_equal(before, others.whole[:count]):
            count = 0
        if count < len(others.whole):
            new = kernel(self, others.take(np.arange(count, len(others.whole))))
            found = np.concatenate([found[:, :count], new], axis=1)
            self._known[kernel] = others.whole, found
        return found

    def among(self, kernel: Kernel) -> Array:
        """[C, C] how alike they are by a kernel; found once."""
        if kernel not in self._among:
            self._among[kernel] = kernel(self, self)
        return self._among[kernel]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """How far the law can be trusted: the spread, as of logarithms, of what it leaves over."""

    name: str
    chance: float
    """Before anything is measured."""
    whole: float
    """Of output, by the whole configuration."""
    build: float
    """Of output, by its layout and slots."""
    layout: float
    """Of output, by its layout alone."""
    length: float
    """Over which it changes, octaves."""
    ttft: float = 2.5
    """So many times as much for limits on TTFT."""

    def covariance(self, a: Places, b: Places, times: float = 1.0) -> Array:
        """[A, B] of what is left over."""
        found: Array = times**2 * (
            self.whole**2 * _matern(_distances(a.whole, b.whole) / self.length)
            + self.build**2 * _matern(_distances(a.build, b.build) / self.length)
            + self.layout**2 * _matern(_distances(a.layout, b.layout) / self.length)
        )
        return found

    @property
    def spread(self) -> float:
        """Standard deviation of what is left of the output of one configuration."""
        return math.sqrt(self.whole**2 + self.build**2 + self.layout**2)

    def variance(self, times: float = 1.0) -> float:
        """Of one configuration."""
        return times**2 * self.spread**2


HYPOTHESES = (
    Hypothesis("the law holds", 0.5, 0.01, 0.02, 0.01, 1.5),
    Hypothesis("the law holds roughly", 0.3, 0.025, 0.055, 0.03, 1.2),
    Hypothesis("the law hardly holds", 0.2, 0.06, 0.14, 0.10, 0.9),
)


def nearness(a: Places, b: Places) -> Array:
    """[A, B] in (0, 1]: 1 for the same configuration."""
    return _matern(_distances(a.whole, b.whole))


def _distances(a: Array, b: Array) -> Array:
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2 * a @ b.T
    found: Array = np.sqrt(np.maximum(squares, 0.0))
    return found


def _matern(distance: Array) -> Array:
    """Matérn's kernel with ν = 5/2, of distances in its length."""
    far = FAR * distance
    found: Array = (1 + far + far * far / 3) * np.exp(-far)
    return found
