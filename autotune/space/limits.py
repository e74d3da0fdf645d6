"""What cannot be in a space, told by the shape of a part: it would not fit the memory, or its threads would crawl."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from autotune.space.layout import Layout, Part, spell
from autotune.space.memory import shortage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.inventory import Device, Inventory
    from autotune.space.counting import Allowed
    from autotune.space.layout import Shape

Needs = dict[tuple[int, str], int]
"""(num_parallel, kv_cache_type) → bytes that an instance needs at least."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the shapes of a layout may have together with some of the other parameters."""

    allowed: Allowed
    ram: int | None
    """Bytes of RAM for all instances on the CPU together; None where there is enough for any layout."""

    @property
    def most_instances(self) -> float:
        """So many fit where all run on the CPU; no bound where there is RAM for all, or GPUs."""
        least = [min(slots.values()) / shape.copies for shape, slots in self.allowed.items()]
        return self.ram // min(least) if self.ram is not None and least and min(least) else inf

    @property
    def apart(self) -> Terms:
        """The same without what instances take from each other."""
        return Terms({shape: dict.fromkeys(slots, 0) for shape, slots in self.allowed.items()}, None)

    @property
    def marks(self) -> tuple[object, ...]:
        """Equal for equal terms."""
        return (self.ram, *((shape, *slots.items()) for shape, slots in self.allowed.items()))


@dataclass(frozen=True)
class Limits:
    """The memory of a host against what the model needs of it, and the cores of its CPU."""

    inventory: Inventory
    kinds: tuple[tuple[Device, ...], ...]
    needs: Needs
    free_bytes: int
    _short: dict[tuple[Shape, int], str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def short(self, shape: Shape, slots: int, cache: str) -> str:
        """What a part alone is certain to lack, in words; empty if nothing is, or nothing is known of the model."""
        need = self.needs.get((slots, cache))
        if need is None:
            return ""
        if (shape, need) not in self._short:
            alone = spell((shape,), self.kinds)
            self._short[shape, need] = shortage(alone, self.inventory, need, self.free_bytes)
        return self._short[shape, need]

    def cores(self, shape: Shape) -> int:
        """Physical cores of an instance; 0 on GPUs, which have none that it could be pinned to."""
        counted = zip(shape.counts, self.kinds, strict=True)
        return sum(count * devices[0].threads for count, devices in counted)

    def ram_taken(self, shape: Shape, slots: int, cache: str) -> int:
        """Bytes of the RAM that all instances on the CPU share; 0 on GPUs."""
        on_cpu = self.kinds[shape.kinds[0]][0].make == "cpu"
        return shape.copies * self.needs.get((slots, cache), 0) if on_cpu else 0

    @property
    def ram(self) -> int:
        """Bytes of RAM for instances on the CPU."""
        return max((devices[0].memory_bytes for devices in self.kinds if devices[0].make == "cpu"), default=0) - (
            self.free_bytes
        )

    def crawls(self, shape: Shape, threads: int | None) -> bool:
        """Whether an instance has more threads than cores."""
        return threads is not None and 0 < self.cores(shape) < threads

    def terms(
        self, shapes: Sequence[Shape], slots: Sequence[int], cache: str, threads: int | None, crowd: int
    ) -> Terms:
        """What these shapes may have; `crowd` is the most instances that any layout has on the CPU."""
        dearest = max((self.needs.get((count, cache), 0) for count in slots), default=0)
        scarce = crowd > 0 and crowd * dearest > self.ram
        allowed = {
            shape: {
                count: self.ram_taken(shape, count, cache) if scarce else 0
                for count in slots
                if not self.short(shape, count, cache)
            }
            for shape in shapes
            if not self.crawls(shape, threads)
        }
        return Terms({shape: each for shape, each in allowed.items() if each}, self.ram if scarce else None)

    def unbound(self, shapes: Sequence[Shape], slots: Sequence[int], threads: int | None) -> Terms:
        """The same, memory not counted."""
        return Terms({one: dict.fromkeys(slots, 0) for one in shapes if not self.crawls(one, threads)}, None)

    def together(self, count: int, slots: int, cache: str) -> str:
        """What so many instances on the CPU lack together, in words; empty if nothing."""
        need = self.needs.get((slots, cache))
        on_cpu = next((devices[0] for devices in self.kinds if devices[0].make == "cpu"), None)
        if need is None or on_cpu is None:
            return ""
        return shortage(Layout((Part((on_cpu.index,), count),)), self.inventory, need, self.free_bytes)

    def most_together(self, slots: int, cache: str) -> int | None:
        """How many instances on the CPU fit the RAM; None where nothing is known of the model."""
        need = self.needs.get((slots, cache))
        return None if need is None else max(self.ram, 0) // max(need, 1)
