"""Models, and hosts whose memory is not as it is foreseen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor
from random import Random
from typing import TYPE_CHECKING

from autotune.inventory import Device, Inventory
from autotune.space import ModelFacts
from autotune.space.forecast import FIT_MARGIN_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.space import Part
    from autotune.space.sizes import Load

MIB, GIB = 2**20, 2**30
KINDS = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
LLAMA = ModelFacts(
    name="8b",
    digest="0",
    weights_bytes=4900 * MIB,
    layers=32,
    kv_heads=8,
    k_size=128,
    v_size=128,
    context_length=131072,
    sliding_window=None,
    family="llama",
    host_weights_bytes=280 * MIB,
    whole_elements=32 * 2048,
    sliding_elements=0,
    embedding_length=4096,
    feed_forward_length=14336,
    heads=32,
    vocabulary=128256,
)


@dataclass(frozen=True)
class World:
    """A host and a model, as they are and not as they are believed to be."""

    facts: ModelFacts
    inventory: Inventory
    weights: float
    cache: float
    outputs: float
    inner: float
    context: float
    held: float
    rough: float = 0.0
    """What no factor explains, by the standard deviation of a cache's part."""
    nvml: bool = True
    """Whether the driver says what is in use."""

    def parts(self, load: Load) -> tuple[float, float, float]:
        """Weights, cache, and a device's compute buffer."""
        facts, batch = self.facts, load.num_batch or 512
        elements = facts.layers * facts.kv_heads * (facts.k_size + facts.v_size)
        outputs = facts.vocabulary + facts.embedding_length
        inner = load.num_ctx + 2 * facts.feed_forward_length + 4 * facts.embedding_length
        chance = Random(f"{facts.weights_bytes} {load}") if self.rough else None
        off = [chance.gauss(1, self.rough * times) if chance else 1.0 for times in (0.5, 1, 10)]
        return (
            off[0] * self.weights * (facts.weights_bytes - facts.host_weights_bytes),
            off[1] * self.cache * elements * load.num_ctx * load.num_parallel * KINDS[load.kv_cache_type],
            off[2] * 4 * batch * (self.outputs * outputs + self.inner * inner),
        )

    def fits(self, part: Part, load: Load) -> bool:
        weights, cache, compute = self.parts(load)
        room = [self.inventory.devices[index].memory_bytes - self.held - FIT_MARGIN_BYTES for index in part.devices]
        fixed = compute + self.context
        if len(part.devices) == 1:
            return part.copies * (weights + cache + fixed) <= room[0]
        layers = self.facts.layers + 1
        return sum(floor((one - fixed) / ((weights + cache) / layers)) for one in room) >= layers

    def size(self, part: Part, load: Load) -> int:
        """Of one instance, as Ollama tells it, bytes."""
        weights, cache, compute = self.parts(load)
        return int(weights + cache + len(part.devices) * compute)

    def used(self, part: Part, load: Load) -> int:
        """Of each device with all instances loaded, as NVML tells it, bytes."""
        weights, cache, compute = self.parts(load)
        return int(part.copies * ((weights + cache) / len(part.devices) + compute + self.context) + self.held)


def world(rng: Random, *, logits: Sequence[float] = ()) -> World:
    """Everything is off by up to 15 % of what is believed; `logits`: the part of them that is really kept."""
    layers, wide = rng.choice([(28, 3072), (32, 4096), (40, 5120), (64, 5120)])
    facts = replace(
        LLAMA,
        layers=layers,
        kv_heads=rng.choice([4, 8]),
        weights_bytes=int(rng.uniform(2, 20) * GIB),
        embedding_length=wide,
        feed_forward_length=int(3.5 * wide),
        vocabulary=rng.choice([32000, 128256, 262144]),
        whole_elements=None,
    )
    memory = int(rng.choice([8, 12, 16, 24, 48]) * GIB)
    devices = [Device(index, f"GPU-{index}", "nvidia", "Card", memory, "A") for index in range(rng.choice([1, 2, 4]))]
    off = [rng.uniform(0.85, 1.15) for _ in range(4)]
    outputs = rng.choice(list(logits)) if logits else 0.5 * off[2]
    return World(
        facts,
        Inventory("host", tuple(devices)),
        weights=off[0],
        cache=off[1],
        outputs=outputs,
        inner=0.8 * off[3],
        context=rng.uniform(0.2, 0.6) * GIB,
        held=rng.uniform(0.05, 0.4) * GIB,
    )
