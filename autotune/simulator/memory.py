"""The memory model: which devices a load is given, how many of its layers they take, and what does not fit.

What a load takes: the weights, the key-value cache of num_ctx · slots tokens, a compute buffer and a context for each
device. Layers are placed whole; a layer takes its cache with it. The sizes of buffers follow the recordings of 0.32.15.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.simulator.model import CPU
from autotune.simulator.profiles import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.simulator.profiles import HostProfile, ModelProfile

KV_FACTORS = {
    "": 1.0, "f16": 1.0, "bf16": 1.0, "f32": 2.0, "q8_0": 0.53, "q5_1": 0.38, "q5_0": 0.34, "q4_1": 0.31, "q4_0": 0.28,
    "iq4_nl": 0.28,
}  # fmt: skip
"""Size of the key-value cache against f16; what is missing here llama.cpp does not know either."""

QUANTIZED = frozenset(KV_FACTORS) - {"", "f16", "bf16", "f32"}
"""Types that need flash attention."""

SINGLE_DEVICE_SHARE = 0.8
"""Ollama takes one device when the load is predicted to need at most this part of its free memory."""


class OutOfMemory(Exception):
    """A device has less free memory than the load was told to take there."""

    def __init__(self, ordinal: int, needed_bytes: int) -> None:
        super().__init__(f"device {ordinal}: {needed_bytes} bytes")
        self.ordinal = ordinal
        self.needed_bytes = needed_bytes


@dataclass(frozen=True, slots=True)
class Ask:
    """What a load wants to hold."""

    model: ModelProfile
    tokens: int
    """num_ctx · slots."""
    kv_type: str = ""
    layers: int = 1 << 16
    """At most so many on devices: a request's num_gpu."""

    @property
    def kv_bytes(self) -> int:
        """The whole cache."""
        return int(self.model.kv_bytes_per_token * self.tokens * KV_FACTORS[self.kv_type])

    @property
    def device_weights_bytes(self) -> int:
        """Weights that can be on a device."""
        return self.model.weights_bytes - self.host_weights_bytes

    @property
    def host_weights_bytes(self) -> int:
        """Weights that never are."""
        return int(self.model.embedding_mib * MIB)

    @property
    def compute_bytes(self) -> int:
        """One device's compute buffer."""
        return int(self.model.compute_mib * MIB)

    @property
    def predicted_bytes(self) -> int:
        """Ollama's own forecast: the file and a cache at f16, whatever type it will have."""
        return self.model.weights_bytes + int(self.model.kv_bytes_per_token * self.tokens)


@dataclass(frozen=True, slots=True)
class Buffers:
    """The buffers of one place, bytes."""

    weights: int
    kv: int
    compute: int

    @property
    def total(self) -> int:
        """All three."""
        return self.weights + self.kv + self.compute


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model really is."""

    ask: Ask
    layers: Mapping[str, int]
    """By device; only devices that hold some."""
    context_bytes: int

    @property
    def on_devices(self) -> int:
        """N of "offloaded N/M layers"."""
        return sum(self.layers.values())

    @property
    def shares(self) -> dict[str, float]:
        """Part of the layers by device, and by CPU where some are left to it."""
        whole = self.ask.model.all_layers
        shares = {uuid: count / whole for uuid, count in self.layers.items()}
        if self.on_devices < whole:
            shares[CPU] = (whole - self.on_devices) / whole
        return shares

    def buffers(self, uuid: str) -> Buffers:
        """What is on one device."""
        part = self.layers[uuid] / self.ask.model.all_layers
        return Buffers(int(self.ask.device_weights_bytes * part), int(self.ask.kv_bytes * part), self.ask.compute_bytes)

    @property
    def host_buffers(self) -> Buffers:
        """What is in the host's memory."""
        part = 1 - self.on_devices / self.ask.model.all_layers
        weights = int(self.ask.device_weights_bytes * part) + self.ask.host_weights_bytes
        compute = self.ask.compute_bytes // 8 if self.layers else self.ask.compute_bytes
        return Buffers(weights, int(self.ask.kv_bytes * part), compute)

    @property
    def taken(self) -> dict[str, int]:
        """Memory by device, context included; CPU where layers run there."""
        taken = {uuid: self.buffers(uuid).total + self.context_bytes for uuid in self.layers}
        if CPU in self.shares:
            taken[CPU] = self.host_buffers.total
        return taken

    @property
    def vram_bytes(self) -> int:
        """Ollama's size_vram: the buffers on devices."""
        return sum(self.buffers(uuid).total for uuid in self.layers)

    @property
    def size_bytes(self) -> int:
        """Ollama's size: with the host's buffers only where layers are left to the CPU."""
        return self.vram_bytes + (self.host_buffers.total if CPU in self.shares else 0)


def choose(ask: Ask, free: Mapping[str, int], *, spread: bool) -> tuple[str, ...]:
    """The devices a load is given: the one with most free memory if the forecast fits it well, else all of them."""
    if spread or len(free) < 2:
        return tuple(free)
    roomiest = max(free, key=lambda uuid: free[uuid])
    if ask.predicted_bytes <= SINGLE_DEVICE_SHARE * free[roomiest]:
        return (roomiest,)
    return tuple(free)


def place(
    ask: Ask, chosen: Sequence[str], free: Mapping[str, int], host: HostProfile, *, fit: bool, margin_bytes: int
) -> Placement:
    """The layers each chosen device takes. With `fit` what does not fit is left to the CPU, else it is OutOfMemory.

    `margin_bytes` of each device stay free: llama.cpp's fit target.
    """
    context_bytes = host.context_mib * MIB
    if fit:
        fixed = ask.compute_bytes + context_bytes + margin_bytes
        room = {uuid: _capacity(ask, free[uuid] - fixed) for uuid in chosen}
    else:
        room = dict.fromkeys(chosen, ask.model.all_layers)
    layers = _apportion(min(ask.layers, ask.model.all_layers), room)
    placement = Placement(ask, {uuid: count for uuid, count in layers.items() if count}, context_bytes)
    for ordinal, uuid in enumerate(placement.layers):
        if placement.taken[uuid] > free[uuid]:
            raise OutOfMemory(ordinal, placement.taken[uuid])
    return placement


def _capacity(ask: Ask, room_bytes: int) -> int:
    layer_bytes = (ask.device_weights_bytes + ask.kv_bytes) / ask.model.all_layers
    return max(0, min(ask.model.all_layers, int(room_bytes / layer_bytes)))


def _apportion(layers: int, room: Mapping[str, int]) -> dict[str, int]:
    """Layers by device in proportion to their room, the largest remainders first."""
    total = sum(room.values())
    if total <= layers:
        return dict(room)
    exact = {uuid: layers * count / total for uuid, count in room.items()}
    given = {uuid: int(part) for uuid, part in exact.items()}
    by_remainder = sorted(room, key=lambda uuid: given[uuid] - exact[uuid])
    for uuid in by_remainder[: layers - sum(given.values())]:
        given[uuid] += 1
    return given
