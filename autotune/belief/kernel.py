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
READING, WAY = 1.5, 5.0
"""What the law leaves over of reading, and of the way to an instance, in parts of what it leaves over of a step."""
OWN = 0.4
"""And of the output, beside all of these."""


@dataclass(frozen=True)
class Places:
    """Where configurations lie, [C, F] each: distances in octaves; a different knob or policy is 0.7·√2 away."""

    whole: Array
    build: Array
    """Layout and slots alone."""
    layout: Array
    times: Array
    """All but the policy, which has no part in how long an instance takes."""
    way: Array
    """Layout and policy alone."""
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
        times = np.concatenate([build, 0.7 * math.sqrt(2) * design.knobs], axis=1)
        whole, way = np.concatenate([times, policy], axis=1), np.concatenate([layout, policy], axis=1)
        return cls(whole, build, layout, times, way)

    def take(self, rows: Rows) -> Places:
        """Some of them."""
        return Places(self.whole[rows], self.build[rows], self.layout[rows], self.times[rows], self.way[rows])

    @property
    def total(self) -> Array:
        """[C, 1] the slots of all instances together."""
        found: Array = self.build[:, :1] + self.build[:, 3:]
        return found

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
    """How far the law can be trusted: the spread, as of logarithms, of what it leaves over.

    That is of what a study decides by; or of the times of an instance, which show in all that is measured: of steps, of
    reading, and of the way to it.
    """

    name: str
    chance: float
    """Before anything is measured."""
    whole: float
    """Of output or steps, by the whole configuration."""
    build: float
    """Of output or steps, by layout and slots."""
    layout: float
    """Of output or steps, by the layout alone."""
    length: float
    """Over which it changes, octaves."""
    ttft: float = 2.5
    """So many times as much for limits."""
    total: float = 0.0
    """Of steps and reading, by the slots of all instances together."""
    of_times: bool = False
    """Whether it is left over of the times of an instance, and a part of it beside these."""

    def covariance(self, a: Places, b: Places) -> Array:
        """[A, B] of what is left over of what a study decides by, beside the times."""
        return self._alike(a.whole, b.whole, a, b)

    def share(self, head: int) -> float:
        """How much of that there is in the output, which is head 0, or in a limit."""
        if head:
            return self.ttft
        return OWN if self.of_times else 1.0

    @property
    def spread(self) -> float:
        """Its standard deviation, and that of a step but for all slots together."""
        return math.sqrt(self.whole**2 + self.build**2 + self.layout**2)

    @property
    def kernels(self) -> tuple[Kernel, Kernel]:
        """Of steps, and in part of reading; of the way to an instance."""
        return self._steps, self._way

    def _steps(self, a: Places, b: Places) -> Array:
        total = self.total**2 * _matern(_distances(a.total, b.total) / self.length)
        found: Array = self._alike(a.times, b.times, a, b) + total
        return found

    def _way(self, a: Places, b: Places) -> Array:
        found: Array = (WAY * self.spread) ** 2 * _matern(_distances(a.way, b.way) / self.length)
        return found

    def _alike(self, whole: Array, other: Array, a: Places, b: Places) -> Array:
        found: Array = (
            self.whole**2 * _matern(_distances(whole, other) / self.length)
            + self.build**2 * _matern(_distances(a.build, b.build) / self.length)
            + self.layout**2 * _matern(_distances(a.layout, b.layout) / self.length)
        )
        return found

    def between(self, inner: Array, others: Array, alike: Callable[[Kernel], Array]) -> Array:
        """[A, B] of what is left over of quantities that change so with steps, reading and the way: [3, A], [3, B].

        `alike` is [A, B] how alike their configurations are by a kernel.
        """
        steps, way = self.kernels
        found: Array = inner[0][:, None] * others[0]
        found += READING**2 * inner[1][:, None] * others[1]
        found *= alike(steps)
        on_way = inner[2][:, None] * others[2]
        on_way *= alike(way)
        found += on_way
        return found

    def variances(self, inner: Array) -> Array:
        """[A] of the same."""
        step, read, way = inner**2
        found: Array = (step + READING**2 * read) * (self.spread**2 + self.total**2) + way * (WAY * self.spread) ** 2
        return found

    def told(self, inner: Array, alike: Callable[[Kernel], Array]) -> Array:
        """[3, A] how far steps, reading and the way are off, where what changes so with them says that, [3, B]."""
        steps, way = map(alike, self.kernels)
        return np.stack([steps @ inner[0], READING**2 * (steps @ inner[1]), way @ inner[2]])


HYPOTHESES = (
    Hypothesis("the law holds", 0.5, 0.01, 0.02, 0.01, 1.5),
    Hypothesis("the law holds roughly", 0.3, 0.025, 0.055, 0.03, 1.2),
    Hypothesis("the law hardly holds", 0.2, 0.06, 0.18, 0.10, 0.77, total=0.15, of_times=True),
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
