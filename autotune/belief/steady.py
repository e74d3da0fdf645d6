"""The steady state of the instances of each configuration, and what decides it: plain values of the law.

The shapes: B parameter vectors, C configurations, J parts of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autotune.belief.design import Array

ALIKE = 1.03
"""So many times as fast, or as large, instances still count as alike."""


@dataclass(frozen=True)
class Terms:
    """What decides the steady state: [C, J], [C], or [B, C, J]; `slope`, `spread` and `way` are [B, C, 1]."""

    copies: Array
    slots: Array
    share: Array
    """Of an instance in the requests, as the balancer weighs it."""
    pull: Array
    """How strictly its policy keeps to that."""
    users: Array
    factor: Array
    prompt: Array
    slope: Array
    spread: Array
    way: Array
    """Seconds of a request on its way to an instance."""

    def uneven(self) -> NDArray[np.intp]:
        """The configurations whose instances are not all alike, so that balancing moves their load."""
        pulled = np.flatnonzero(self.pull > 0)
        there, far = self.copies[pulled] > 0, np.zeros(len(pulled), dtype=bool)
        for values in (self.factor[:, pulled], self.slots[None, pulled], self.share[None, pulled]):
            most = np.where(there, values, -np.inf).max(axis=2)
            least = np.where(there, values, np.inf).min(axis=2)
            far |= (most > ALIKE * least).any(axis=0)
        return pulled[far]

    def take(self, rows: NDArray[np.intp]) -> Terms:
        """Some of the configurations."""
        flat = {name: getattr(self, name)[rows] for name in ("copies", "slots", "share", "pull", "users")}
        deep = {name: getattr(self, name)[:, rows] for name in ("factor", "prompt", "slope", "spread", "way")}
        return Terms(**flat, **deep)

    def shifted(self, population: Array, rate: Array) -> Array:
        """Round robin sends all instances as much: the slow ones gather a crowd until they answer as much."""
        total = (self.copies * rate).sum(axis=2, keepdims=True)
        ratio = np.where(rate > 0, self.share * total / np.maximum(rate, 1e-12), 1.0)
        moved = population * ratio ** self.pull[:, None]
        found: Array = moved * self.users[:, None] / (self.copies * moved).sum(axis=2, keepdims=True)
        return found


@dataclass(frozen=True)
class State:
    """The steady state of each part's instances, [B, C, J]."""

    population: Array
    """Users of its own."""
    beyond: Array
    """Users of its own beyond its slots."""
    sigma: Array
    over: Array
    busy: Array
    step: Array
    token: Array
    read: Array
    rate: Array

    def take(self, rows: NDArray[np.intp]) -> State:
        """Of some of the configurations."""
        return State(**{name: values[:, rows] for name, values in vars(self).items()})
