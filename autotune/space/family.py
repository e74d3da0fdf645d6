"""The layouts of a space: every one there is up to symmetry, or those that somebody wrote out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from math import inf, prod
from typing import TYPE_CHECKING

from autotune.space.counting import MOST_STEPS, Allowed, Grid, Tally, Uncounted, tally
from autotune.space.layout import fillings, shapes_of, simplicity, spell

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from autotune.inventory import Device, Inventory
    from autotune.space.layout import Layout, Shape
    from autotune.space.shape import Kinds

LISTED = 2_000
"""So many layouts are put in order, simple ones first; more come as they are found."""
CELLS = 1_000_000
"""So many numbers fit some tens of megabytes, and are made in less than a second."""

Shapes = tuple["Shape", ...]


@dataclass(frozen=True)
class Every:
    """All layouts of some shapes, each once up to symmetry."""

    kinds: tuple[tuple[Device, ...], ...]
    shapes: Shapes
    _tables: dict[frozenset[Shape], _Table] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def room(self) -> tuple[int, ...]:
        """The devices of each kind."""
        return tuple(map(len, self.kinds))

    @property
    def cells(self) -> int:
        """How large the table is from which layouts are drawn, instances not told apart."""
        return len(self.shapes) * prod(count + 1 for count in self.room)

    @cached_property
    def count(self) -> int:
        """How many layouts there are. Raises `Uncounted`."""
        return self.among(self.shapes)

    def among(self, shapes: Collection[Shape]) -> int:
        """How many layouts have only such shapes. Raises `Uncounted`."""
        grid = Grid(self.room)
        return grid.total(grid.series((shape, 0) for shape in shapes))

    def tally(self, allowed: Allowed, ram: int | None = None, *, per_class: bool, labelled: bool = False) -> Tally:
        """How many layouts with slots there are; `labelled`: with devices told from each other. Raises `Uncounted`."""
        return tally(Grid(self.room, ram, labelled=labelled), allowed, per_class=per_class)

    def numbers(self, shapes: Collection[Shape]) -> dict[int | None, int]:
        """How many layouts of such shapes have how many instances; all under None where they are too many to tell."""
        table = self._table(shapes)
        return {number if table.told else None: many for number, many in table.numbers.items()}

    def draw(self, rng: random.Random, shapes: Collection[Shape], number: int | None) -> Shapes:
        """One of the layouts that `numbers` counts, each as likely as any other."""
        table = self._table(shapes)
        while not (found := table.draw(rng, number or 0)):
            pass
        return found

    def small(self) -> Iterator[Shapes]:
        """Layouts of one part, or of two: a value that any layout can have, one of these can have."""
        yield from ((shape,) for shape in self.shapes)
        for first, one in enumerate(self.shapes):
            for other in self.shapes[first:]:
                if all(a + b <= most for a, b, most in zip(one.counts, other.counts, self.room, strict=True)):
                    yield one, other

    def alike(self, fitting: Collection[Shape]) -> Iterator[Shapes]:
        """Layouts of these shapes in which all devices are used alike: of all kinds that have one of their own first,
        then of each of those kinds, then parts of those."""
        shapes = [shape for shape in self.shapes if shape in fitting]
        there = tuple(sorted({shape.kinds[0] for shape in shapes if len(shape.kinds) == 1}))
        for chosen in (there, *((kind,) for kind in there if len(there) > 1)):
            for width, copies in sorted({(sum(shape.counts), shape.copies) for shape in shapes}):
                parts = [self._filled(shapes, kind, width, copies) for kind in chosen]
                if parts and all(parts):
                    yield tuple(shape for part in parts for shape in part)
        for shape in shapes:
            most = min(there // count for there, count in zip(self.room, shape.counts, strict=True) if count)
            yield from ((shape,) * times for times in range(1, most + 1))

    def items(self, most: float = inf) -> Iterator[tuple[Layout, Shapes]]:
        """All layouts of up to so many instances; where there are no more than `LISTED`, as `simplicity` has them."""
        found = ((spell(shapes, self.kinds), shapes) for shapes in fillings(self.shapes, self.room, most))
        return iter(sorted(found, key=lambda item: simplicity(item[0])) if self.count <= LISTED else found)

    def spelled(self, shapes: Shapes) -> Layout:
        """The layout that has these shapes."""
        return spell(shapes, self.kinds)

    def has(self, layout: Layout, shapes: Sequence[Shape]) -> bool:
        """Whether a canonical layout, with its shapes, is one of these."""
        return bool(layout.parts) and set(shapes) <= set(self.shapes)

    def crowd(self, make: str) -> int:
        """The most instances that any layout has on devices of this make."""
        rooms = (count if kind[0].make == make else 0 for kind, count in zip(self.kinds, self.room, strict=True))
        copies = [
            max((shape.copies for shape in self.shapes if shape.kinds == (kind,)), default=1)
            for kind in range(len(self.room))
        ]
        return sum(count * most for count, most in zip(rooms, copies, strict=True))

    def first(self, shape: Shape, within: Collection[Shape]) -> tuple[Layout, int]:
        """The simplest layout that has this shape and no other than those within, and how many such layouts there are.

        Raises `Uncounted`.
        """
        return spell((shape,), self.kinds), self.among(within) - self.among(set(within) - {shape})

    def _filled(self, shapes: Sequence[Shape], kind: int, width: int, copies: int) -> Shapes:
        alike = (shape for shape in shapes if shape.kinds == (kind,))
        found = next((one for one in alike if (one.counts[kind], one.copies) == (width, copies)), None)
        return () if found is None else (found,) * (self.room[kind] // width)

    def _table(self, shapes: Collection[Shape]) -> _Table:
        chosen = frozenset(shapes)
        if chosen not in self._tables:
            self._tables[chosen] = _Table(tuple(shape for shape in self.shapes if shape in chosen), self.room)
        return self._tables[chosen]


class _Table:
    """For some shapes, in their order: how many layouts the rest of them make in any room, by number of instances."""

    def __init__(self, shapes: Shapes, room: tuple[int, ...]) -> None:
        self._shapes = shapes
        strides = [prod(count + 1 for count in room[:kind]) for kind in range(len(room))]
        rooms = list(product(*(range(count + 1) for count in reversed(room))))
        highest = sum(room) * max((shape.copies for shape in shapes), default=1)
        self.told = len(shapes) * len(rooms) * highest <= CELLS
        self._steps = [sum(a * b for a, b in zip(shape.counts, strides, strict=True)) for shape in shapes]
        self._fits = [
            [all(a <= b for a, b in zip(shape.counts, reversed(there), strict=True)) for there in rooms]
            for shape in shapes
        ]
        self._rows = [[[1] for _ in rooms]]
        for place in reversed(range(len(shapes))):
            self._rows.insert(0, self._with(place))
        self.numbers = {
            number: many for number, many in enumerate(self._rows[0][-1]) if many and (number or not self.told)
        }

    def draw(self, rng: random.Random, number: int) -> Shapes:
        """A layout with so many instances; may be the empty one where their numbers are not told apart."""
        place, there, found = 0, len(self._rows[0]) - 1, []
        while place < len(self._shapes):
            copies = self._shapes[place].copies if self.told else 0
            left = there - self._steps[place]
            more = _at(self._rows[place][left], number - copies) if self._fits[place][there] else 0
            if more and rng.randrange(_at(self._rows[place][there], number)) < more:
                found.append(self._shapes[place])
                there, number = left, number - copies
            else:
                place += 1
        return tuple(found)

    def _with(self, place: int) -> list[list[int]]:
        """The row of one more shape, before those that are there."""
        copies, step, fits = self._shapes[place].copies if self.told else 0, self._steps[place], self._fits[place]
        found: list[list[int]] = []
        for there, without in enumerate(self._rows[0]):
            found.append(_sum(without, found[there - step], copies) if fits[there] else without)
        return found


def _at(row: list[int], number: int) -> int:
    return row[number] if 0 <= number < len(row) else 0


def _sum(row: list[int], other: list[int], shift: int) -> list[int]:
    total = row + [0] * (len(other) + shift - len(row))
    for number, many in enumerate(other, shift):
        total[number] += many
    return total


@dataclass(frozen=True)
class Listed:
    """Layouts that were written out. One stands for the written ones only, not for all that symmetry allows."""

    kinds: tuple[tuple[Device, ...], ...]
    times: Mapping[Layout, tuple[Shapes, int]]
    """Canonical layout → its shapes, and how many were written that are equal to it."""

    @classmethod
    def of(cls, layouts: Sequence[Layout], inventory: Inventory, kinds: tuple[tuple[Device, ...], ...]) -> Listed:
        """These, which are canonical; the same one may come several times."""
        counted = Counter(layouts)
        return cls(kinds, {one: (tuple(shapes_of(one, inventory)), times) for one, times in counted.items()})

    @cached_property
    def shapes(self) -> Shapes:
        """The shapes of all parts."""
        return tuple(dict.fromkeys(shape for shapes, _ in self.times.values() for shape in shapes))

    @property
    def count(self) -> int:
        """How many layouts there are."""
        return len(self.times)

    def tally(self, allowed: Allowed, ram: int | None = None, *, per_class: bool, labelled: bool = False) -> Tally:
        """How many layouts with slots there are; `labelled`: as they were written. Raises `Uncounted`."""
        single = alike = differing = 0
        for shapes, written in self.times.values():
            times = written if labelled else 1
            common = _assignments(shapes, allowed, ram, per_class=False)
            if sum(shape.copies for shape in shapes) == 1:
                single += times * common
            else:
                alike += times * common
                differing += times * (_assignments(shapes, allowed, ram, per_class=True) - common if per_class else 0)
        return Tally(single, alike, differing)

    def numbers(self, shapes: Collection[Shape]) -> dict[int | None, int]:
        """How many layouts of such shapes have how many instances."""
        return dict(Counter(sum(shape.copies for shape in one) for one in self._within(shapes)))

    def draw(self, rng: random.Random, shapes: Collection[Shape], number: int | None) -> Shapes:
        """One of the layouts that `numbers` counts, each as likely as any other."""
        return rng.choice([one for one in self._within(shapes) if sum(shape.copies for shape in one) == number])

    def small(self) -> Iterator[Shapes]:
        """All of them."""
        return (shapes for shapes, _ in self.times.values())

    def alike(self, fitting: Collection[Shape]) -> Iterator[Shapes]:  # noqa: ARG002 - which of them fit others ask
        """All of them: who wrote them wants them tried."""
        return self.small()

    def items(self, most: float = inf) -> Iterator[tuple[Layout, Shapes]]:
        """All layouts of up to so many instances, as they were written."""
        every = ((layout, shapes) for layout, (shapes, _) in self.times.items())
        return (item for item in every if len(item[0].instances) <= most)

    def spelled(self, shapes: Shapes) -> Layout:
        """The layout that has these shapes."""
        return spell(shapes, self.kinds)

    def has(self, layout: Layout, shapes: Sequence[Shape]) -> bool:  # noqa: ARG002 - the layout alone decides
        """Whether a canonical layout is one of these."""
        return layout in self.times

    def crowd(self, make: str) -> int:
        """The most instances that any layout has on devices of this make."""
        here = {kind for kind, devices in enumerate(self.kinds) if devices[0].make == make}
        return max(
            (sum(shape.copies for shape in one if here.intersection(shape.kinds)) for one, _ in self.times.values()),
            default=0,
        )

    def first(self, shape: Shape, within: Collection[Shape]) -> tuple[Layout, int]:
        """The first layout that has this shape and no other than those within, and how many such layouts there are."""
        found = [one for one in self._within(within) if shape in one]
        return spell(found[0] if found else (shape,), self.kinds), len(found)

    def _within(self, shapes: Collection[Shape]) -> Iterator[Shapes]:
        return (one for one, _ in self.times.values() if set(one) <= set(shapes))


def _assignments(shapes: Shapes, allowed: Allowed, ram: int | None, *, per_class: bool) -> int:
    """In how many ways slots can be given to the classes of one layout, or to all of it."""
    groups: dict[Kinds, list[dict[int, int]]] = {}
    for shape in shapes:
        groups.setdefault(shape.kinds if per_class else (), []).append(allowed.get(shape, {}))
    taken = {0: 1}
    for each in groups.values():
        rams = [sum(one[slots] for one in each) for slots in set.intersection(*map(set, each))]
        if len(taken) * len(rams) > MOST_STEPS:
            raise Uncounted
        more: Counter[int] = Counter()
        for (before, many), extra in product(taken.items(), rams):
            if ram is None or before + extra <= ram:
                more[before + extra] += many
        taken = dict(more)
    return sum(taken.values())
