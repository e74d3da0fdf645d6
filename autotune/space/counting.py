"""How many layouts there are, times the slots that their instances may have, without listing one.

A layout is a multiset of shapes, so the layouts of one class of instances are counted by the product of one power
series for each of its shapes, 1 / (1 - x^shape), where an exponent says how many devices of each kind are used, and how
much RAM. A class is not there, or is there with one of its numbers of slots; the product over the classes counts them.

Told from each other, so many devices can be chosen and shared out in several ways: then the series are exponential, and
a coefficient says in how many ways some given devices, as many as the exponent says, can be used up.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import comb, factorial, prod
from operator import mul
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from autotune.space.layout import Shape
    from autotune.space.shape import Kinds

Allowed = dict["Shape", dict[int, int]]
"""Shape → slots that its instances may have → bytes of RAM that they take (0 where RAM is not scarce)."""
Poly = dict[int, int]

MOST_STEPS = 6_000_000
"""More multiplications than this take seconds."""


class Uncounted(Exception):
    """There is too much of it."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many layouts with slots there are."""

    single: int
    """With one instance."""
    alike: int
    """With several instances, all of them with as many slots."""
    differing: int


class Grid:
    """Products of power series, as far as there is room for them."""

    def __init__(self, room: tuple[int, ...], ram: int | None = None, *, labelled: bool = False) -> None:
        """`room` are the devices of each kind. With `ram`, exponents have the bytes of RAM as a further part."""
        self.room = room
        self.ram = ram
        self.labelled = labelled
        self._strides = [prod(2 * count + 1 for count in room[:kind]) for kind in range(len(room))]
        self._size = prod(2 * count + 1 for count in room)  # no sum of two exponents runs into the next digit
        every = product(*(range(count + 1) for count in room))
        self._counts = {sum(map(mul, counts, self._strides)): counts for counts in every}
        self._left = MOST_STEPS

    def series(self, steps: Iterable[tuple[Shape, int]]) -> Poly:
        """All multisets of these shapes, each with the RAM that it takes; the empty one is 1."""
        found: Poly = {0: 1}
        for shape, ram in steps:
            found = self.times(found, self._multiples(shape, ram))
        return found

    def times(self, one: Poly, other: Poly) -> Poly:
        """The product. Raises `Uncounted` where all of them together take too long."""
        self._left -= len(one) * len(other)
        if self._left < 0:
            raise Uncounted
        found: Poly = {}
        for left, many in one.items():
            for right, more in other.items():
                index = left + right
                if index in self._counts if self.ram is None else self._holds(index):
                    ways = self._ways(left, right) if self.labelled else 1
                    found[index] = found.get(index, 0) + many * more * ways
        return found

    def total(self, poly: Poly) -> int:
        """The sum over everything but the empty layout."""
        if not self.labelled:
            return sum(poly.values()) - poly[0]
        chosen = (many * self.choices(self._counts[index]) for index, many in poly.items())
        return sum(chosen) - poly[0]

    def choices(self, counts: Sequence[int]) -> int:
        """In how many ways so many devices of each kind can be chosen."""
        return prod(map(comb, self.room, counts))

    def _holds(self, index: int) -> bool:
        return index % self._size in self._counts and index // self._size <= (self.ram or 0)

    def _ways(self, left: int, right: int) -> int:
        """In how many ways the devices of both can be shared out among them."""
        first, second = self._counts[left], self._counts[right]
        return prod(comb(a + b, a) for a, b in zip(first, second, strict=True))

    def _multiples(self, shape: Shape, ram: int) -> Poly:
        step = sum(map(mul, shape.counts, self._strides)) + ram * self._size
        most = min(there // taken for there, taken in zip(self.room, shape.counts, strict=True) if taken)
        if self.ram is not None and ram:
            most = min(most, self.ram // ram)
        return {times * step: self._deals(shape, times) for times in range(most + 1)}

    def _deals(self, shape: Shape, times: int) -> int:
        """In how many ways just enough devices can be dealt to so many parts of one shape."""
        if not self.labelled:
            return 1
        dealt: int = prod(factorial(times * count) // factorial(count) ** times for count in shape.counts)
        return dealt // factorial(times)


def tally(grid: Grid, allowed: Allowed, *, per_class: bool) -> Tally:
    """Count the layouts of these shapes, times the slots of each class, or those of all. Raises `Uncounted`."""
    single = sum(
        (grid.choices(shape.counts) if grid.labelled else 1) * len(slots)
        for shape, slots in allowed.items()
        if shape.copies == 1
    )
    alike = sum(grid.total(poly) * times for poly, times in _by_slots(grid, allowed))
    if not per_class:
        return Tally(single, alike - single, 0)
    every: Poly = {0: 1}
    for share in sorted(_by_class(allowed).values(), key=len):
        every = grid.times(every, _one_class(grid, share))
    return Tally(single, alike - single, grid.total(every) - alike)


def _one_class(grid: Grid, allowed: Allowed) -> Poly:
    """A class that is not there, or is there with one of its numbers of slots."""
    found: Poly = {0: 1}
    for poly, times in _by_slots(grid, allowed):
        for index, many in poly.items():
            if index:
                found[index] = found.get(index, 0) + many * times
    return found


def _by_slots(grid: Grid, allowed: Allowed) -> list[tuple[Poly, int]]:
    """The layouts with one number of slots, and for how many such numbers they are the same."""
    same: dict[tuple[tuple[Shape, int], ...], int] = {}
    for slots in dict.fromkeys(slots for each in allowed.values() for slots in each):
        steps = tuple((shape, each[slots]) for shape, each in allowed.items() if slots in each)
        same[steps] = same.get(steps, 0) + 1
    return [(grid.series(steps), times) for steps, times in same.items()]


def _by_class(allowed: Mapping[Shape, dict[int, int]]) -> dict[Kinds, Allowed]:
    found: dict[Kinds, Allowed] = {}
    for shape, slots in allowed.items():
        found.setdefault(shape.kinds, {})[shape] = slots
    return found
