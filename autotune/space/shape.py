"""The instances of a configuration, each with what a plan and a model of the cluster need to know of it.

Instances that use the same kinds of devices are one class, and have as many slots each. `num_parallel` is the number of
the first class of a layout, `num_parallel@B` that of another, named by its kinds' letters; without the latter the first
number is everybody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from autotune.space.layout import canonical, kinds, parse_layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from autotune.inventory import Inventory
    from autotune.space.layout import Layout

SLOTS = "num_parallel"
Kinds = tuple[int, ...]
"""A class of instances: the numbers of the kinds that they use, ascending."""


@dataclass(frozen=True, slots=True)
class Member:
    """One instance of a configuration."""

    devices: tuple[int, ...]
    """Indices of its devices."""
    kinds: tuple[int, ...]
    """The number of the kind of each of them."""
    crowd: int
    """How many instances share its device, itself included."""
    slots: int
    weight: int
    """Its share of the requests against those of the others; 1 each where all are weighed equally."""

    @property
    def of(self) -> Kinds:
        """Its class."""
        return tuple(sorted(set(self.kinds)))


def letter(kind: int) -> str:
    """What a kind of devices is called: A, B, …, Z, AA, …"""
    rest, last = divmod(kind, len(ascii_uppercase))
    return (letter(rest - 1) if rest else "") + ascii_uppercase[last]


def called(of: Kinds) -> str:
    """What a class is called: "A", "A+B"."""
    return "+".join(map(letter, of))


def own(of: Kinds) -> str:
    """The parameter with the slots of a class that is not the first of its layout."""
    return f"{SLOTS}@{called(of)}"


def instances(params: Mapping[str, Any], inventory: Inventory) -> tuple[Member, ...]:
    """The instances of a configuration in the order of its plan. Raises SpecError for a layout that cannot be read."""
    placed = _placed(str(params["layout"]), inventory)
    slots = [int(params.get(own(tuple(sorted(set(of)))), params[SLOTS])) for _, of, _ in placed]
    weights = weighed(slots) if params.get("weights") == "slots" else [1] * len(slots)
    return tuple(Member(*one, *more) for one, *more in zip(placed, slots, weights, strict=True))


def classes(members: Iterable[Member]) -> list[Kinds]:
    """The classes of a configuration's instances, the first one first."""
    return sorted({member.of for member in members})


def weighed(slots: Sequence[int]) -> list[int]:
    """Weights in the smallest numbers that are in proportion to the slots."""
    return [one // gcd(*slots) for one in slots]


@lru_cache(maxsize=4096)
def _placed(text: str, inventory: Inventory) -> tuple[tuple[tuple[int, ...], tuple[int, ...], int], ...]:
    """Devices, their kinds, and crowd of each instance."""
    layout: Layout = canonical(parse_layout(text, inventory), inventory)
    kind_of = {device.index: number for number, kind in enumerate(kinds(inventory)) for device in kind}
    return tuple(
        (part.devices, tuple(kind_of[index] for index in part.devices), part.copies)
        for part in layout.parts
        for _ in range(part.copies)
    )
