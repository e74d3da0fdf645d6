"""Configurations drawn from a space that is too large to be listed."""

from __future__ import annotations

import json
import random
from itertools import chain, cycle, islice, product, zip_longest
from math import inf
from typing import TYPE_CHECKING, Any

from autotune.space.shape import SLOTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from autotune.space.choices import Head, Params, Space, Value
    from autotune.space.family import Shapes
    from autotune.space.shape import Kinds

_TRIES = 20
"""Draws for each configuration that is asked for: some are known already, or fit no RAM."""


def sample(space: Space, rng: random.Random, n: int) -> list[Params]:
    """So many configurations, no two the same, or all there are."""
    if space.small:
        every = list(space.configurations())
        return rng.sample(every, min(n, len(every)))
    found, numbers = _Found(), _numbers(space)
    for _ in range(n * _TRIES):
        if len(found) == n:
            break
        found.add(_drawn(space, rng, numbers))
    return found.every


def pool(space: Space, seed: int, most: int) -> list[Params]:
    """All configurations, or so many that stand for them."""
    if space.size <= most:
        return list(space.configurations())
    rng, found = random.Random(f"{seed} pool"), _Found()
    for group in _rounds(rng, simple(space)):
        if len(found) < most // 2:
            found.add(rng.choice(group))
    for name, value in _values(space.choices):
        if len(found) < most and not found.has(name, value):
            found.add(_with(space, rng, name, value))
    numbers = _numbers(space)
    turns = dict.fromkeys(chain.from_iterable(numbers.values()))
    for number in islice(cycle(turns), most * _TRIES):
        if len(found) == most:
            break
        found.add(_drawn(space, rng, {head: {number: 1} for head, each in numbers.items() if number in each}))
    return found.every


def simple(space: Space) -> dict[str, list[list[Params]]]:
    """Configurations whose layout uses devices alike, with as many slots for each instance as it can have of a number.

    By layout; those that differ in the spreading of requests and in cache, flash attention and threads only are one
    group.
    """
    found: dict[str, list[list[Params]]] = {}
    for shapes, slots in product(dict.fromkeys(space.family.alike(space.fitting)), space.slots):
        layout, group = str(space.family.spelled(shapes)), []
        for head in space.heads:
            chosen = _at_most(space, shapes, head, slots)
            if chosen is not None and slots in chosen.values():
                rest = {name: values[0] for name, values in space.others.items()}
                group += [space.params(layout, chosen, one, head, rest) for one in space.spreads(shapes, chosen)]
        if group:
            found.setdefault(layout, []).append(group)
    return found


def _rounds(rng: random.Random, groups: dict[str, list[list[Params]]]) -> Iterator[list[Params]]:
    """One group of each layout, then a second one of each, and so on, each time with other slots."""
    every = [rng.sample(each, len(each)) for each in groups.values()]
    return (group for turn in zip_longest(*every) for group in turn if group is not None)


def _values(choices: Mapping[str, Sequence[Value]]) -> Iterator[tuple[str, Value]]:
    """Every parameter with every value, but layouts."""
    return chain.from_iterable(((name, value) for value in choices[name]) for name in choices if name != "layout")


class _Found:
    """Configurations, each once, and the values that they have."""

    def __init__(self) -> None:
        self._every: dict[str, Params] = {}
        self._values: set[tuple[str, Any]] = set()

    def __len__(self) -> int:
        return len(self._every)

    def add(self, params: Params | None) -> None:
        if params is not None:
            self._every.setdefault(json.dumps(params, sort_keys=True), params)
            self._values.update(params.items())

    def has(self, name: str, value: Value) -> bool:
        return (name, value) in self._values

    @property
    def every(self) -> list[Params]:
        return list(self._every.values())


def _numbers(space: Space) -> dict[Head, dict[int | None, int]]:
    """For each head how many layouts have how many instances, as far as these fit the RAM."""
    found = {}
    for head in space.heads:
        terms = space.terms(head)
        numbers, most = space.family.numbers(terms.allowed), terms.most_instances
        found[head] = {number: many for number, many in numbers.items() if number is None or number <= most}
    return {head: numbers for head, numbers in found.items() if numbers}


def _drawn(space: Space, rng: random.Random, numbers: Mapping[Head, dict[int | None, int]]) -> Params | None:
    """A configuration with so many instances as some layouts have; None where the draw led to none."""
    head = rng.choice(list(numbers))
    number = rng.choices(list(numbers[head]), list(numbers[head].values()))[0]
    shapes = space.family.draw(rng, space.terms(head).allowed, number)
    return _completed(space, rng, shapes, [head])


def _with(space: Space, rng: random.Random, name: str, value: Value) -> Params | None:
    """A configuration that has this value; None if none has."""
    small = list(space.family.small())
    rng.shuffle(small)
    tried = (_completed(space, rng, shapes, list(space.heads), {name: value}) for shapes in small)
    return next((params for params in tried if params is not None), None)


def _completed(
    space: Space, rng: random.Random, shapes: Shapes, heads: list[Head], asked: Mapping[str, Value] | None = None
) -> Params | None:
    """A configuration of a layout, everything else drawn, but for what is asked for; None if there is none."""
    wanted = asked or {}
    rng.shuffle(heads)
    names = space.slot_names(space.classes(shapes))
    if any(name.startswith(SLOTS) and name not in names.values() for name in wanted):
        return None
    for head in heads:
        if not _agree(head.params, wanted):
            continue
        drawn = _slots(space, rng, shapes, head, {of: wanted[name] for of, name in names.items() if name in wanted})
        for slots in drawn:
            spreads = [one for one in space.spreads(shapes, slots) if _agree(one, wanted)]
            rest = {name: wanted.get(name, rng.choice(values)) for name, values in space.others.items()}
            params = space.params(str(space.family.spelled(shapes)), slots, rng.choice(spreads or [{}]), head, rest)
            if spreads and wanted.items() <= params.items():
                return params
    return None


def _agree(some: Mapping[str, Value], wanted: Mapping[str, Value]) -> bool:
    return all(some[name] == value for name, value in wanted.items() if name in some)


def _slots(
    space: Space, rng: random.Random, shapes: Shapes, head: Head, asked: Mapping[Kinds, Value]
) -> Iterator[dict[Kinds, int]]:
    """A few draws of slots for each class of a layout, which fit the RAM together."""
    ram, options = _options(space, shapes, head)
    options = {
        of: {slots: taken for slots, taken in each.items() if asked.get(of, slots) == slots}
        for of, each in options.items()
    }
    if not all(options.values()):
        return
    least = {of: min(each.values()) for of, each in options.items()}
    for _ in range(_TRIES):
        left, chosen = ram - sum(least.values()), {}
        for of, each in options.items():
            room = [slots for slots, taken in each.items() if taken - least[of] <= left]
            if not room:
                return
            chosen[of] = rng.choice(room)
            left -= each[chosen[of]] - least[of]
        yield chosen


def _at_most(space: Space, shapes: Shapes, head: Head, most: int) -> dict[Kinds, int] | None:
    """For each class of a layout the most slots that it can have, up to `most`; None if they do not fit the RAM."""
    ram, options = _options(space, shapes, head)
    within = {of: {slots: taken for slots, taken in each.items() if slots <= most} for of, each in options.items()}
    if not all(within.values()):
        return None
    chosen = {of: max(each) for of, each in within.items()}
    return chosen if sum(within[of][slots] for of, slots in chosen.items()) <= ram else None


def _options(space: Space, shapes: Shapes, head: Head) -> tuple[float, dict[Kinds, dict[int, int]]]:
    """The RAM there is, and for each class of a layout the slots that it can have with what they take of it."""
    terms, found = space.terms(head), {}
    for of in space.classes(shapes):
        here = [terms.allowed.get(shape, {}) for shape in shapes if of in ((), shape.kinds)]
        common = _common(here)
        found[of] = {slots: sum(one[slots] for one in here) for slots in common}
    return inf if terms.ram is None else terms.ram, found


def _common(every: Iterable[Mapping[int, int]]) -> list[int]:
    """In the order of the first: a set's would not be the same each time."""
    first, *rest = every
    return [slots for slots in first if all(slots in other for other in rest)]
