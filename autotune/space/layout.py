"""Layouts: which devices serve which instances, written as people do, and up to symmetry.

Instances are separated by `|`, the devices of one instance are joined by `+`, and `0x2` is two instances on device 0:
"0", "0 | 1 | 2 | 3", "0x2 | 1x2", "0+1 | 2+3".

Devices of one kind can be swapped. Two layouts are the same up to that exactly when they have the same parts by shape,
where the shape of a part is how many devices of each kind it has, and its copies. So the layouts up to symmetry are the
multisets of shapes for which there are enough devices, and each is spelled with the lowest indices.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice, product
from math import factorial, inf, prod
from typing import TYPE_CHECKING

from autotune.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from autotune.inventory import Device, Inventory


MOST_COPIES = 65535
"""Of an instance on a device: each listens on a port of its own."""


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One instance over one or more devices, or several instances that share one device."""

    devices: tuple[int, ...]
    copies: int = 1
    """More than 1 only with one device."""

    def __str__(self) -> str:
        text = "+".join(map(str, self.devices))
        return text if self.copies == 1 else f"{text}x{self.copies}"


@dataclass(frozen=True, order=True)
class Layout:
    """The assignment of devices to instances; `str` gives the notation. No device is in two parts."""

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return " | ".join(map(str, self.parts))

    @cached_property
    def instances(self) -> tuple[tuple[int, ...], ...]:
        """The devices of each instance."""
        return tuple(part.devices for part in self.parts for _ in range(part.copies))

    @property
    def devices(self) -> tuple[int, ...]:
        """All devices in use."""
        return tuple(sorted(index for part in self.parts for index in part.devices))


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """A part up to symmetry."""

    counts: tuple[int, ...]
    """How many devices of each kind, kinds in the order of their lowest device."""
    copies: int

    @property
    def kinds(self) -> tuple[int, ...]:
        """The class of its instances: the kinds that they use, by number."""
        return tuple(kind for kind, count in enumerate(self.counts) if count)

    def sorting(self) -> tuple[int, int, tuple[int, ...]]:
        return -sum(self.counts), -self.copies, tuple(-count for count in self.counts)


def parse_layout(text: str, inventory: Inventory) -> Layout:
    """Read a layout; its parts come back in the order of their lowest device. Raises SpecError with one clear line."""
    layout = _sorted(_parse_part(piece.strip(), text) for piece in text.split("|"))
    there = {device.index: device for device in inventory.devices}
    for index, times in Counter(index for part in layout.parts for index in part.devices).items():
        if index not in there:
            raise SpecError(f'layout "{text}": there is no device {index}; there are {", ".join(map(str, there))}')
        if times > 1:
            raise SpecError(
                f'layout "{text}": device {index} is named twice; {times} instances on it are written "{index}x{times}"'
            )
    for part in layout.parts:
        if len({there[index].make for index in part.devices}) > 1:
            raise SpecError(f'layout "{text}": instance {part} mixes devices that Ollama does not use together')
    return layout


def _parse_part(piece: str, text: str) -> Part:
    match = re.fullmatch(r"(\d{1,9}(?:\s*\+\s*\d{1,9})*)(?:\s*x\s*([1-9]\d{0,8}))?", piece, re.ASCII)
    if not match:
        raise SpecError(
            f'layout "{text}": "{piece}" is no instance; write "0" (on device 0), "0+1" (over two devices) '
            'or "0x2" (two on one device), and "|" between instances'
        )
    part = Part(tuple(sorted(int(index) for index in match[1].split("+"))), int(match[2] or 1))
    if part.copies > MOST_COPIES:
        raise SpecError(f'layout "{text}": "{piece}": allowed are at most {MOST_COPIES} instances on a device')
    if part.copies > 1 and len(part.devices) > 1:
        raise SpecError(
            f'layout "{text}": "{piece}" copies an instance over several devices; only one device is shared'
        )
    return part


def canonical(layout: Layout, inventory: Inventory) -> Layout:
    """The one spelling of all layouts that differ from this one by swapping devices of equal kind."""
    return spell(shapes_of(layout, inventory), kinds(inventory))


def moved(layout: Layout, before: Inventory, left: Inventory) -> Layout | None:
    """The same layout where some devices are gone: others of their kind take their places; None without enough."""
    there = {device.index: device.kind for device in left.devices}
    kinds_before = {device.index: device.kind for device in before.devices}
    idle = [index for index in there if index not in layout.devices]
    places: dict[int, int] = {}
    for index in layout.devices:
        spare = [other for other in idle if there[other] == kinds_before[index]]
        if index not in there and not spare:
            return None
        places[index] = index if index in there else spare[0]
        idle = [other for other in idle if other != places[index]]
    parts = (replace(part, devices=tuple(sorted(places[at] for at in part.devices))) for part in layout.parts)
    return parse_layout(" | ".join(map(str, parts)), left)


def layouts(inventory: Inventory, copies: Sequence[int], spans: Sequence[int]) -> list[Layout]:
    """All layouts of all or some of the devices, each once up to symmetry; fewest instances, then fewest devices first.

    A part is one device with so many instances as one of `copies` says, or one instance over so many devices as one of
    `spans` says. A span of 1 adds nothing: it is a copy of 1.
    """
    every = kinds(inventory)
    found = (spell(chosen, every) for chosen in fillings(shapes(inventory, copies, spans), tuple(map(len, every))))
    return sorted(found, key=simplicity)


def simplicity(layout: Layout) -> tuple[int, int, Layout]:
    """Fewest instances, then fewest devices first."""
    return len(layout.instances), len(layout.devices), layout


def shapes(inventory: Inventory, copies: Sequence[int], spans: Sequence[int]) -> list[Shape]:
    """All shapes that a part may have, the widest first; see `layouts`."""
    every = kinds(inventory)
    return sorted({*_single(tuple(map(len, every)), copies), *_spanning(every, spans)}, key=Shape.sorting)


def orbit(layout: Layout, inventory: Inventory) -> int:
    """How many layouts differ from this one only by swapping devices of equal kind, itself included.

    For each kind the devices are dealt to the parts, a multinomial coefficient; parts of the same shape can be swapped
    without a difference.
    """
    parts = shapes_of(layout, inventory)
    dealt = 1
    for kind, devices in enumerate(kinds(inventory)):
        hands = [shape.counts[kind] for shape in parts]
        dealt *= factorial(len(devices)) // prod(map(factorial, [*hands, len(devices) - sum(hands)]))
    return dealt // prod(map(factorial, Counter(parts).values()))


def fillings(shapes: Sequence[Shape], room: tuple[int, ...], most: float = inf) -> Iterator[tuple[Shape, ...]]:
    """Every multiset of shapes, but the empty one, that there are enough devices for, of up to `most` instances."""
    for position, shape in enumerate(shapes):
        left = tuple(there - taken for there, taken in zip(room, shape.counts, strict=True))
        if min(left) >= 0 and shape.copies <= most:
            yield (shape,)
            for rest in fillings(shapes[position:], left, most - shape.copies):
                yield (shape, *rest)


def _single(room: tuple[int, ...], copies: Sequence[int]) -> Iterator[Shape]:
    for kind, count in product(range(len(room)), copies):
        yield Shape(tuple(int(kind == other) for other in range(len(room))), count)


def _spanning(kinds: Sequence[Sequence[Device]], spans: Sequence[int]) -> Iterator[Shape]:
    for counts in product(*(range(len(devices) + 1) for devices in kinds)):
        makes = {devices[0].make for devices, count in zip(kinds, counts, strict=True) if count}
        if sum(counts) > 1 and sum(counts) in spans and len(makes) == 1:
            yield Shape(counts, 1)


def kinds(inventory: Inventory) -> list[list[Device]]:
    """The devices of each kind, in the order of their lowest device."""
    found: dict[str, list[Device]] = {}
    for device in inventory.devices:
        found.setdefault(device.kind, []).append(device)
    return list(found.values())


def shapes_of(layout: Layout, inventory: Inventory) -> list[Shape]:
    """The shapes of a layout's parts."""
    every = [{device.index for device in devices} for devices in kinds(inventory)]
    return [Shape(tuple(len(kind.intersection(part.devices)) for kind in every), part.copies) for part in layout.parts]


def spell(shapes: Iterable[Shape], kinds: Sequence[Sequence[Device]]) -> Layout:
    """Give the lowest indices of each kind to the widest parts first."""
    hands = [iter(sorted(device.index for device in devices)) for devices in kinds]

    def deal(shape: Shape) -> tuple[int, ...]:
        return tuple(sorted(chain.from_iterable(map(islice, hands, shape.counts))))

    return _sorted(Part(deal(shape), shape.copies) for shape in sorted(shapes, key=Shape.sorting))


def _sorted(parts: Iterable[Part]) -> Layout:
    return Layout(tuple(sorted(parts)))
