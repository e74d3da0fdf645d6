"""A device, and the devices of a host, as values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

Make = Literal["nvidia", "amd", "cpu"]

HIDDEN = "-1"
"""A device id that no host has: how Ollama's documentation tells a server to see no GPU."""


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU, or one group of CPU cores."""

    index: int
    """Position in the inventory: what layouts are written with."""
    id: str
    """NVML's UUID (`GPU-…`); for a group of cores `cpu:` and its CPU ids, as in `cpu:0-3`."""
    make: Make
    name: str
    memory_bytes: int
    """All its memory. For a group of cores the host's RAM, which all groups share."""
    kind: str
    """Devices of equal kind can be swapped without changing anything that is measured."""
    cpus: tuple[int, ...] = ()
    """The CPU ids that an instance on it is pinned to; empty for a GPU."""
    threads: int = 0
    """How many physical cores those are; 0 for a GPU."""
    numa_node: int | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """The devices that a study may use, in the order of their indices."""

    host: str
    devices: tuple[Device, ...]
    driver: str = ""
    """Version of the NVIDIA driver; empty where none was asked."""
    simulated: bool = False

    def at(self, index: int) -> Device:
        """The device with this index; where some are lost it is no position."""
        if index < len(self.devices) and self.devices[index].index == index:
            return self.devices[index]
        return next(device for device in self.devices if device.index == index)

    def without(self, ids: Collection[str]) -> Inventory:
        """The same without these devices; the others keep their indices."""
        return replace(self, devices=tuple(device for device in self.devices if device.id not in ids))


def visible_devices(devices: Iterable[Device]) -> dict[str, str]:
    """The environment that shows an Ollama server exactly these devices and no other GPU.

    Every make is named, so that a GPU of another make stays hidden too. Vulkan is switched off because Ollama 0.30 and
    later finds a GPU again through Vulkan that was hidden from CUDA (ollama#16592).
    """
    chosen = tuple(devices)
    nvidia, amd = (",".join(device.id for device in chosen if device.make == make) for make in ("nvidia", "amd"))
    return {"CUDA_VISIBLE_DEVICES": nvidia or HIDDEN, "ROCR_VISIBLE_DEVICES": amd or HIDDEN, "OLLAMA_VULKAN": "0"}
