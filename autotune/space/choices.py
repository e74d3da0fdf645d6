"""The search space as a value: what may be chosen, what goes together, and how much there is of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from autotune.errors import SpecError
from autotune.space import pool, why
from autotune.space.counting import Tally, Uncounted
from autotune.space.layout import canonical, moved, parse_layout, shapes_of
from autotune.space.shape import SLOTS, instances, own

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping, Sequence

    from autotune.inventory import Inventory
    from autotune.space.family import Every, Listed, Shapes
    from autotune.space.layout import Shape
    from autotune.space.limits import Limits, Terms
    from autotune.space.shape import Kinds, Member
    from autotune.space.why import Dimension

Value = str | int
Params = dict[str, Value]

USUAL = {"flash_attention": "auto", "kv_cache_type": "f16", "weights": "equal"}
"""Values that go without saying, because they are Ollama's own, or nginx's."""
ENUMERATED = 20_000
"""A space of so many configurations is listed rather than sampled: it takes a second or less."""


@dataclass(frozen=True, slots=True)
class Head:
    """Parameters that bind each other or the layout, whatever the rest is."""

    flash: str
    cache: str
    threads: int | None

    @property
    def params(self) -> Params:
        """As parameters."""
        found: Params = {"flash_attention": self.flash, "kv_cache_type": self.cache}
        return found if self.threads is None else {**found, "threads": self.threads}


@dataclass(frozen=True)
class Space:
    """All configurations that a study may try, of which none is listed before it is asked for.

    A configuration is a dict from parameter to value. It has every parameter of `choices`, also those with one value,
    but `num_parallel@…` only where its layout has instances of that class and others before them, `policy` only where
    it has more than one instance, and `weights` only where these differ in slots. So no two configurations are one
    plan. Four more things bound it: a quantised `kv_cache_type` needs flash attention, or the load fails; where it
    brings that with it, `auto` is not tried beside `on`; no instance on a CPU has more `threads` than cores, or it
    crawls; and what is certain not to fit the memory is left out.
    """

    choices: dict[str, tuple[Value, ...]]
    """Parameter → allowed values: `layout` (none where they are too many to be listed), `num_parallel`, …; an
    environment variable is named `env:` and its name."""
    family: Every | Listed
    """The layouts."""
    limits: Limits
    per_class: bool = False
    """Whether each class of instances has a `num_parallel` of its own."""
    cache_brings_flash: bool = False
    """Whether a quantised cache switches flash attention on where that is left to Ollama (before 0.30)."""
    before: Inventory | None = None
    """The devices before some were lost, on which configurations were tried; None where all are there."""
    _terms: dict[tuple[str, int | None], Terms] = field(default_factory=dict, init=False, repr=False, compare=False)
    _shapes: dict[str, Shapes] = field(default_factory=dict, init=False, repr=False, compare=False)
    _tallies: dict[tuple[object, ...], Tally] = field(default_factory=dict, init=False, repr=False, compare=False)

    # one configuration

    def allows(self, params: Mapping[str, Value]) -> bool:
        """Whether these parameters, no more and no fewer, are a configuration of the space."""
        if not {"layout", SLOTS, "flash_attention", "kv_cache_type"} <= params.keys() <= self.choices.keys():
            return False
        shapes = self.shapes(str(params["layout"]))
        if any(value not in self.choices[name] for name, value in params.items() if name != "layout") or not shapes:
            return False
        of = self.classes(shapes)
        slots = {each: int(params.get(name, 0)) for each, name in self.slot_names(of).items()}
        head = self._head(params)
        if head not in self.heads or not all(slots.values()) or not self.may(shapes, slots, head):
            return False
        here = {name: params[name] for name in ("policy", "weights") if name in params}
        spread = any(here == spread for spread in self.spreads(shapes, slots))
        others = {"layout", *self.slot_names(of).values(), *here, *head.params, *self.others}
        return spread and others == params.keys()

    def members(self, params: Mapping[str, Value]) -> tuple[Member, ...]:
        """The instances of a configuration, of this space or not, in the order of its plan.

        Those of one on devices that were lost since are where they were when it ran.
        """
        try:
            return instances(params, self.limits.inventory)
        except SpecError:
            if self.before is None:
                raise
            return instances(params, self.before)

    def today(self, params: Mapping[str, Value]) -> Mapping[str, Value] | None:
        """What a configuration is called on the devices that are left, others of a kind in the places of those lost.

        None where there are too few to run it.
        """
        if self.before is None:
            return params
        left = self.limits.inventory
        layout = moved(parse_layout(str(params["layout"]), self.before), self.before, left)
        return None if layout is None else {**params, "layout": str(canonical(layout, left))}

    # all of them

    def configurations(self) -> Iterator[Params]:
        """Every configuration, layout by layout; simple layouts first where they are few."""
        rest = [dict(zip(self.others, values, strict=True)) for values in product(*self.others.values())]
        most = max(self.terms(head).most_instances for head in self.heads)
        for layout, shapes in self.family.items(most):
            for slots in self._slots(shapes):
                heads = [head for head in self.heads if self.may(shapes, slots, head)]
                for spread, head, more in product(self.spreads(shapes, slots) if heads else (), heads, rest):
                    yield self.params(str(layout), slots, spread, head, more)

    def sample(self, rng: random.Random, n: int) -> list[Params]:
        """So many configurations, or all if there are no more, no two the same.

        Each is as likely as any other where the space is small; else each layout is, and each choice that it leaves.
        """
        return pool.sample(self, rng, n)

    def pool(self, seed: int, most: int) -> list[Params]:
        """All configurations; or, if there are more than `most`, so many that stand for them, the same for equal seeds.

        Layouts that use all devices alike come first, then whatever has a value that is not yet there, then layouts of
        every number of instances in equal parts.
        """
        return pool.pool(self, seed, most)

    @cached_property
    def fitting(self) -> frozenset[Shape]:
        """The shapes that may fit the memory with some number of slots."""
        return frozenset(shape for head in self.heads for shape, slots in self.terms(head).allowed.items() if slots)

    @property
    def small(self) -> bool:
        """Whether there are so few that all can be listed."""
        return self.size <= ENUMERATED

    @property
    def size(self) -> int:
        """How many configurations there are."""
        return self.after_memory

    # how many

    @cached_property
    def before_symmetry(self) -> int:
        """Configurations if each device had to be told from each other, memory not counted."""
        return sum(self._tallied(self._unbound(head), labelled=True) for head in self.heads)

    @cached_property
    def after_symmetry(self) -> int:
        """Configurations up to symmetry, memory not counted."""
        return sum(self._tallied(self._unbound(head)) for head in self.heads)

    @cached_property
    def after_memory(self) -> int:
        """Configurations that are left: as many as `configurations` gives, or (if not `exact`) at most so many."""
        return sum(self._tallied(self.terms(head)) for head in self.heads)

    @cached_property
    def exact(self) -> bool:
        """Whether `after_memory` is a count and no bound.

        Several classes of instances that share scarce RAM can be too much to count; then only what each takes alone
        is.
        """
        try:
            for terms in {self.terms(head).marks: self.terms(head) for head in self.heads}.values():
                self._tally(terms)
        except Uncounted:
            return False
        return True

    @property
    def most_instances(self) -> int:
        """No configuration has more instances."""
        whole = sum(self.family.crowd(make) for make in {kind[0].make for kind in self.limits.kinds})
        found = [0.0]
        for terms in {self.terms(head).marks: self.terms(head) for head in self.heads}.values():
            numbers = (whole if number is None else number for number in self.family.numbers(terms.allowed))
            found += [min(number, terms.most_instances) for number in numbers]
        return int(max(found))

    # why

    @property
    def conflicts(self) -> tuple[str, ...]:
        """What does not go together in this space, one line for each rule and value."""
        return tuple(why.conflicts(self))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why something was left out: the conflicts, and one line for each cause of a want of memory."""
        return (*self.conflicts, *why.shortages(self))

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Each parameter, and why it is there."""
        return tuple(why.dimensions(self))

    # what they are made of

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        """What may be chosen of flash attention, cache and threads."""
        flash, cache = self.choices["flash_attention"], self.choices["kv_cache_type"]
        threads = self.choices.get("threads", (None,))
        every = (Head(str(a), str(b), None if c is None else int(c)) for a, b, c in product(flash, cache, threads))
        return tuple(head for head in every if not why.clash(self, head.flash, head.cache))

    @cached_property
    def others(self) -> dict[str, tuple[Value, ...]]:
        """Parameters that go with everything."""
        return {name: values for name, values in self.choices.items() if name == "num_batch" or name.startswith("env:")}

    @cached_property
    def slots(self) -> tuple[int, ...]:
        """The values of `num_parallel`."""
        return tuple(map(int, self.choices[SLOTS]))

    def classes(self, shapes: Shapes) -> list[Kinds]:
        """The classes of a layout's instances that have slots of their own; one for all unless `per_class`."""
        return sorted({shape.kinds for shape in shapes}) if self.per_class else [()]

    @staticmethod
    def slot_names(of: Sequence[Kinds]) -> dict[Kinds, str]:
        """The parameters with the slots of these classes."""
        return {each: own(each) if place else SLOTS for place, each in enumerate(of)}

    def shapes(self, layout: str) -> Shapes:
        """The shapes of a layout's parts; none if it is no layout of the space, or not spelled as here."""
        if layout not in self._shapes:
            if len(self._shapes) > ENUMERATED:
                self._shapes.clear()
            self._shapes[layout] = self._read(layout)
        return self._shapes[layout]

    def may(self, shapes: Shapes, slots: Mapping[Kinds, int], head: Head) -> bool:
        """Whether a layout can have these slots with this head."""
        terms, taken = self.terms(head), 0
        for shape in shapes:
            ram = terms.allowed.get(shape, {}).get(slots[shape.kinds if self.per_class else ()])
            if ram is None:
                return False
            taken += ram
        return terms.ram is None or taken <= terms.ram

    def spreads(self, shapes: Shapes, slots: Mapping[Kinds, int]) -> list[Params]:
        """How requests may be spread over the instances of a layout with these slots."""
        if sum(shape.copies for shape in shapes) < 2:
            return [{}]
        names = ["policy", *(["weights"] if len(set(slots.values())) > 1 and "weights" in self.choices else [])]
        return [dict(zip(names, chosen, strict=True)) for chosen in product(*(self.choices[name] for name in names))]

    def params(self, layout: str, slots: Mapping[Kinds, int], spread: Params, head: Head, rest: Params) -> Params:
        """One configuration of all its parts."""
        named = {name: slots[each] for each, name in self.slot_names(list(slots)).items()}
        return {"layout": layout, **named, **spread, **head.params, **rest}

    def terms(self, head: Head) -> Terms:
        """What each shape may have with this head."""
        mark = (head.cache, head.threads)
        if mark not in self._terms:
            crowd = self.family.crowd("cpu")
            self._terms[mark] = self.limits.terms(self.family.shapes, self.slots, *mark, crowd)
        return self._terms[mark]

    def _read(self, layout: str) -> Shapes:
        inventory = self.limits.inventory
        try:
            read = parse_layout(layout, inventory)
        except SpecError:
            return ()
        shapes = tuple(shapes_of(read, inventory))
        return shapes if str(canonical(read, inventory)) == layout and self.family.has(read, shapes) else ()

    def _unbound(self, head: Head) -> Terms:
        return self.limits.unbound(self.family.shapes, self.slots, head.threads)

    def _head(self, params: Mapping[str, Value]) -> Head:
        threads = params.get("threads")
        flash, cache = str(params["flash_attention"]), str(params["kv_cache_type"])
        return Head(flash, cache, None if threads is None else int(threads))

    def _slots(self, shapes: Shapes) -> Iterator[dict[Kinds, int]]:
        of = self.classes(shapes)
        return (dict(zip(of, chosen, strict=True)) for chosen in product(self.slots, repeat=len(of)))

    def _tallied(self, terms: Terms, *, labelled: bool = False) -> int:
        """Configurations with one head."""
        try:
            found = self._tally(terms, labelled=labelled)
        except Uncounted:
            found = self._tally(terms.apart, labelled=labelled)
        policies, weights = len(self.choices.get("policy", ())), len(self.choices.get("weights", (None,)))
        return (found.single + policies * (found.alike + weights * found.differing)) * prod(
            map(len, self.others.values())
        )

    def _tally(self, terms: Terms, *, labelled: bool = False) -> Tally:
        mark = (labelled, *terms.marks)
        if mark not in self._tallies:
            self._tallies[mark] = self.family.tally(
                terms.allowed, terms.ram, per_class=self.per_class, labelled=labelled
            )
        return self._tallies[mark]


def key(params: Mapping[str, Value]) -> str:
    """The one text for these parameters, whatever their order: JSON with sorted names."""
    return json.dumps(dict(params), sort_keys=True, ensure_ascii=False)
