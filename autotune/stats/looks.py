"""How much error each of several planned looks may make."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Looks:
    """Planned looks at growing data, which together err at most `alpha` of the time.

    Who looks again and again and stops at the first answer errs more often than a single look would. So the error is
    spent: by the part t of the data, alpha·t^power of it, and each look has what was spent since the one before. The
    errors of all looks add up to alpha at most, however the looks depend on each other; the price is that alpha is not
    reached. A look may be left out. What it found must not decide when the others are.

    Sources: Lan and DeMets, "Discrete Sequential Boundaries for Clinical Trials" (Biometrika 70, 1983), for spending;
    Kim and DeMets, "Design and Analysis of Group Sequential Tests Based on the Type I Error Spending Rate Function"
    (Biometrika 74, 1987), for the powers of t: 1 spends evenly, as Pocock does, 3 nearly all at the end, as O'Brien and
    Fleming do. Boole's inequality makes the sum a bound.

    ValueError unless the fractions grow from above 0 to exactly 1, alpha is between 0 and 1, and power above 0.
    """

    fractions: tuple[float, ...]
    """Part of the data that each look has, the last all of it."""
    alpha: float
    power: float = 1.0

    def __post_init__(self) -> None:
        grow = all(before < after for before, after in pairwise((0.0, *self.fractions)))
        if not self.fractions or not grow or self.fractions[-1] != 1:
            raise ValueError(f"the parts of the data grow from above 0 to 1, not {self.fractions}")
        if not 0 < self.alpha < 1 or self.power <= 0:
            raise ValueError(f"alpha is between 0 and 1, power above 0; not {self.alpha}, {self.power}")

    @classmethod
    def at(cls, sizes: Sequence[float], alpha: float, power: float = 1.0) -> Self:
        """Looks at these sizes, in requests or seconds, growing."""
        return cls(tuple(size / sizes[-1] for size in sizes) if sizes and sizes[-1] else (), alpha, power)

    @classmethod
    def evenly(cls, number: int, alpha: float, power: float = 1.0) -> Self:
        """So many looks, as far from each other as the first is from the start."""
        return cls.at(range(1, number + 1), alpha, power)

    def spent(self, look: int) -> float:
        """The error spent up to this look, counted from 1, it included; 0 before the first."""
        if not 0 <= look <= len(self.fractions):
            raise ValueError(f"{len(self.fractions)} looks are planned; there is no {look}")
        return self.alpha * self.fractions[look - 1] ** self.power if look else 0.0

    def level(self, look: int) -> float:
        """The error that this look, counted from 1, may make."""
        if look < 1:
            raise ValueError(f"looks are counted from 1, not {look}")
        return self.spent(look) - self.spent(look - 1)

    @property
    def levels(self) -> tuple[float, ...]:
        """Of all looks in turn."""
        return tuple(self.level(look + 1) for look in range(len(self.fractions)))
