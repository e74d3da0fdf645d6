"""How much memory an instance needs at least, and which layouts therefore cannot be.

Every figure here is a lower bound: what is refused is certain not to fit. What remains may still fail to load; that is
then measured, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from autotune.errors import SpecError

if TYPE_CHECKING:
    from autotune.inventory import Inventory
    from autotune.space.layout import Layout, Part

ELEMENT_BYTES = {
    "f32": Fraction(4),
    "f16": Fraction(2),
    "bf16": Fraction(2),
    "q8_0": Fraction(34, 32),
    "q5_1": Fraction(24, 32),
    "q5_0": Fraction(22, 32),
    "q4_1": Fraction(20, 32),
    "q4_0": Fraction(18, 32),
    "iq4_nl": Fraction(18, 32),
}
"""Bytes of one element of the KV cache: ggml's blocks of 32 elements, with their scales (ggml-common.h)."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known about a model before it is loaded. Where a figure differs from layer to layer, its smallest."""

    name: str
    digest: str
    weights_bytes: int
    """Size of the model's file."""
    layers: int
    """Layers with a KV cache of their own: without those that share another layer's or keep a state instead."""
    kv_heads: int
    k_size: int
    """Elements of a key, each head."""
    v_size: int
    """Elements of a value, each head."""
    context_length: int
    """The most tokens that the model was trained for; Ollama never serves more. 0 where it is not known."""
    sliding_window: int | None
    family: str
    capabilities: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()
    host_weights_bytes: int = 0
    """Weights that stay in the host's RAM even with all layers on a GPU: embeddings, which are looked up."""
    tied_bytes: int = 0
    """The part of them that is the output layer too, and as such once more on a GPU."""
    whole_elements: int | None = None
    """Keys and values of one token in all layers that keep the whole context; None where it is not known which do."""
    sliding_elements: int | None = None
    """The same for the layers that keep the sliding window only."""
    embedding_length: int = 0
    """This and what follows size the compute buffers; 0 where it is not known, and the largest of all layers."""
    feed_forward_length: int = 0
    heads: int = 0
    vocabulary: int = 0


def needed_bytes(facts: ModelFacts, num_ctx: int, num_parallel: int, kv_cache_type: str) -> int:
    """Bytes that one instance needs at least, wherever it runs: weights, and keys and values of all slots.

    KV cache = layers × slots × tokens × kv_heads × (k_size + v_size) × bytes an element, where each of `num_parallel`
    slots owns `num_ctx` tokens (Ollama starts its child with `-c num_ctx·num_parallel`). With a sliding window every
    layer is counted with the window only, because it is not told which layers slide. Compute buffers are not counted.
    Raises SpecError for an unknown `kv_cache_type`.
    """
    if kv_cache_type not in ELEMENT_BYTES:
        raise SpecError(f'kv_cache_type = "{kv_cache_type}" is not known; it is one of {", ".join(ELEMENT_BYTES)}')
    limits = (num_ctx, facts.context_length, facts.sliding_window)
    tokens = min(limit for limit in limits if limit)
    elements = facts.layers * num_parallel * tokens * facts.kv_heads * (facts.k_size + facts.v_size)
    return facts.weights_bytes - facts.host_weights_bytes + int(elements * ELEMENT_BYTES[kv_cache_type])


def fits(layout: Layout, inventory: Inventory, per_instance_bytes: int, free_bytes: int) -> bool:
    """Whether it is not certain that the layout does not fit; see `shortage`."""
    return not shortage(layout, inventory, per_instance_bytes, free_bytes)


def shortage(layout: Layout, inventory: Inventory, per_instance_bytes: int, free_bytes: int) -> str:
    """What is certainly missing, in words; empty if nothing is.

    Of each GPU `free_bytes` stay free. The copies on a GPU have to fit it together. An instance over several GPUs has
    to fit what they have together: how Ollama splits it is not foreseen, and for GPUs of one kind this is an equal
    share each. On CPU devices all instances have to fit the host's RAM together, less `free_bytes` once: Ollama 0.30
    and later loads a model on a CPU without mmap, so that nothing is shared.
    """
    for part in layout.parts:
        short = _short_on_gpu(part, inventory, per_instance_bytes, free_bytes)
        if short:
            return short
    return _short_of_ram(layout, inventory, per_instance_bytes, free_bytes)


def _short_on_gpu(part: Part, inventory: Inventory, need: int, free: int) -> str:
    devices = [inventory.at(index) for index in part.devices]
    if devices[0].make == "cpu" or part.copies * need <= sum(device.memory_bytes - free for device in devices):
        return ""
    return f"needs at least {_times(part.copies, need)}, {_supply(part, inventory, free)}"


def _short_of_ram(layout: Layout, inventory: Inventory, need: int, free: int) -> str:
    on_cpu = [devices for devices in layout.instances if inventory.at(devices[0]).make == "cpu"]
    ram = max((inventory.at(devices[0]).memory_bytes for devices in on_cpu), default=0)
    if not on_cpu or len(on_cpu) * need <= ram - free:
        return ""
    return f"needs at least {_times(len(on_cpu), need)}, the host has {_less(ram, free)}"


def _supply(part: Part, inventory: Inventory, free: int) -> str:
    if len(part.devices) == 1:
        return f"device {part.devices[0]} has {_less(inventory.at(part.devices[0]).memory_bytes, free)}"
    together = sum(inventory.at(index).memory_bytes for index in part.devices)
    return f"devices {part} have together {_less(together, free * len(part.devices))}"


def _times(count: int, need: int) -> str:
    return _gib(need) if count == 1 else f"{count} × {_gib(need)}"


def _less(memory: int, free: int) -> str:
    return f"{_gib(memory)} less {_gib(free)} to leave free" if free else _gib(memory)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
