"""The sizes that a load is made of, and the rooms of a layout that it has to fit, as arrays.

The sizes are those of llama.cpp (`llama-kv-cache*.cpp`, `common/fit.cpp`) and of Ollama (`llm/llama_server.go`,
`server/sched.go`); what no metadata tells is left to factors, which `forecast` learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import TYPE_CHECKING

import numpy as np

from autotune.space.memory import ELEMENT_BYTES, needed_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autotune.inventory import Inventory
    from autotune.space.layout import Part
    from autotune.space.memory import ModelFacts

    Array = NDArray[np.float64]

GIB = 2**30
FACTORS = ("weights", "cache", "sliding", "outputs", "inner", "spanning", "context", "other", "baseline")
"""What a need is a weighted sum of: factors of sizes, and after them constants of a device in GiB."""
PAD = 256
"""llama.cpp rounds a slot's tokens up to a multiple of this."""
BATCHES = (512, 1024, 2048)
HELD_BYTES = 200 * 2**20
"""Held of each device with nothing loaded, about."""

# what remains when all factors are known: these sizes are not quite proportional to anything
ROUGH = (0.004, 0.008, 0.03, 0.08, 0.08, 0.1)
ROUGH_GIB = 0.02


@dataclass(frozen=True, slots=True)
class Load:
    """What one instance is asked to hold."""

    num_ctx: int
    num_parallel: int
    kv_cache_type: str = "f16"
    num_batch: int | None = None
    """None leaves it to Ollama 0.30 or later; before, that was 512."""
    flash_attention: str = "auto"


Asked = Sequence[tuple["Part", Load]]
"""The parts of a layout, and what each instance of them is asked to hold."""


@dataclass(frozen=True, slots=True)
class Room:
    """A part of a layout as the one condition that its instances fit: needs, times what, against memory."""

    layer_times: float
    """How often the weights and caches of a whole model count; a device of several has its layers' share."""
    times: int
    devices: int
    """How many devices' constants count."""
    memory_bytes: float
    """Less what is to stay free."""
    one_bytes: float
    """What an instance that is loaded first finds."""
    instances: int = 0
    supply_bytes: int = 0
    """The memory that must hold what so many instances need at least."""
    spans: bool = False
    cpu: bool = False
    grain: float = 0.0
    """Layers by which whole layers may miss the room."""


def design(facts: ModelFacts, rooms: Sequence[Room], loads: Sequence[Load]) -> tuple[Array, Array]:
    """For each room and load the weights of the factors (GiB), and the variance that no factor explains."""
    batches = sorted({*BATCHES, *(load.num_batch for load in loads if load.num_batch)})
    sizes = np.array([[_sizes(facts, load, batch) for load in loads] for batch in batches]) / GIB
    chosen = np.searchsorted(batches, _batches(facts, rooms, loads))
    one = sizes[chosen, np.arange(len(loads))]
    layers = np.array([room.layer_times for room in rooms])[:, None]
    times = np.array([float(room.times) for room in rooms])[:, None]
    spans = np.array([float(room.spans) for room in rooms])[:, None]
    weights = np.array([_weights(facts, room) / GIB for room in rooms])[:, None]
    constant = np.ones(one.shape[:2])
    held = np.array([float(room.devices) for room in rooms])[:, None]
    outputs, inner = one[..., 2] * times, one[..., 3] * times
    found = np.stack(
        [
            weights * layers * constant,
            one[..., 0] * layers,
            one[..., 1] * layers,
            outputs,
            inner,
            spans * (outputs / 2 + inner),
            times * constant,
            times * constant,
            held * constant,
        ],
        axis=-1,
    )
    layer = (weights + one[..., 0] + one[..., 1]) / (facts.layers + 1)
    grain = np.array([room.grain for room in rooms])[:, None]
    rough = ((found[..., :6] * ROUGH) ** 2).sum(axis=-1) + (ROUGH_GIB * times) ** 2 + (grain * layer) ** 2
    return found, rough


def _sizes(facts: ModelFacts, load: Load, batch: int) -> tuple[float, float, float, float]:
    """Bytes of the cache of the whole context, of the sliding one, of the logits and of the activations."""
    tokens = _padded(min(load.num_ctx, facts.context_length or load.num_ctx))
    window = min(tokens, _padded((facts.sliding_window or 0) + batch))
    every = facts.layers * facts.kv_heads * (facts.k_size + facts.v_size)
    whole, sliding = facts.whole_elements, facts.sliding_elements or 0
    if whole is None:
        whole, sliding = every, every if facts.sliding_window else 0
    element = float(ELEMENT_BYTES[load.kv_cache_type]) * load.num_parallel
    scores = tokens * facts.heads if load.flash_attention == "off" else 0
    inner = tokens + 2 * facts.feed_forward_length + 4 * facts.embedding_length + scores
    outputs = facts.vocabulary + facts.embedding_length
    return whole * tokens * element, sliding * window * element, 4.0 * batch * outputs, 4.0 * batch * inner


def _weights(facts: ModelFacts, room: Room) -> int:
    return facts.weights_bytes - (0 if room.cpu else facts.host_weights_bytes - facts.tied_bytes)


def _padded(tokens: int) -> int:
    return ceil(tokens / PAD) * PAD


def _batches(facts: ModelFacts, rooms: Sequence[Room], loads: Sequence[Load]) -> NDArray[np.int64]:
    """`num_batch` as asked for, or as Ollama 0.30 and later choose it: by the context, less where memory is short."""
    tokens = np.array([load.num_ctx * load.num_parallel for load in loads])
    cache = 2.0 * facts.layers * facts.kv_heads * (facts.k_size + facts.v_size) * tokens  # as f16, whatever its type
    free = np.array([room.one_bytes for room in rooms])[:, None]
    share = (facts.weights_bytes + cache) / free
    large = (tokens > 32768) & (share <= 0.6) & (share + 2 * GIB / free <= 0.8)
    medium = (tokens > 4096) & (share <= 0.75) & (share + 0.75 * GIB / free <= 0.8)
    plain = np.array([load.flash_attention != "off" for load in loads])
    chosen = np.where(large & plain, 2048, np.where(medium & plain, 1024, 512))
    asked = np.array([load.num_batch or 0 for load in loads])
    return np.where(asked > 0, asked, chosen)


# the rooms


def room_of(layers: int, memory: tuple[int, ...], copies: int, margin: int, free: int = 0) -> Room:
    """One part on GPUs: llama.cpp gives each device whole layers, as many as it has room for."""
    count, blocks = len(memory), layers + 1
    first, supply = sum(memory) - HELD_BYTES * count, sum(memory) - free * count
    if count == 1:
        return Room(float(copies), copies, 1, memory[0] - margin, first, copies, supply)
    if len(set(memory)) == 1:
        share = ceil(blocks / count) / blocks
        return Room(share, 1, 1, memory[0] - margin, first, 1, supply, spans=True, grain=0.3)
    lost, room = (count - 1) / 2 / blocks, sum(memory) - margin * count
    return Room(1 + lost, count, count, room, first, 1, supply, spans=True, grain=0.3 * sqrt(count))


@dataclass(frozen=True, eq=False)
class Pool:
    """Configurations as conditions of whatever is believed: made once, asked again after every trial."""

    rows: Array
    """Weights of the factors, GiB, condition by condition."""
    rough: Array
    """Variance that no factor explains."""
    memory: Array
    """GiB."""
    certain: NDArray[np.bool_]
    """Sure not to be met."""
    places: NDArray[np.int64]
    """The conditions of the first configuration, of the second, and so on."""
    starts: NDArray[np.int64]
    """Where those of each begin."""


def pooled(
    facts: ModelFacts, configurations: Sequence[Asked], inventory: Inventory, margin_bytes: int, free_bytes: int
) -> Pool:
    """See `forecast.Memory.fit_probabilities`. There is at least one configuration."""
    conditions = _Conditions(facts, inventory, margin_bytes, free_bytes)
    places = [conditions.numbers(asked) for asked in configurations]
    starts = np.cumsum([0, *map(len, places)])[:-1]
    return Pool(*conditions.stacked(), np.concatenate(places), starts)


class _Conditions:
    """The conditions under which configurations fit, each once: a part's own on GPUs, all instances' on the CPU."""

    def __init__(self, facts: ModelFacts, inventory: Inventory, margin_bytes: int, free_bytes: int) -> None:
        self._facts, self._inventory = facts, inventory
        self._margin, self._free = margin_bytes, free_bytes
        self._pairs: dict[tuple[Part, Load], tuple[Room, Load]] = {}
        self._numbers: dict[tuple[tuple[Room, Load], ...], int] = {}
        self._simple: dict[tuple[Part, Load], int | None] = {}

    def numbers(self, asked: Asked) -> list[int]:
        """The numbers of a configuration's conditions."""
        found = set()
        for pair in asked:
            number = self._simple.get(pair, -1)
            found.add(self._number(pair) if number == -1 else number)
        if None not in found:
            return list(found)  # type: ignore[arg-type]
        together = sorted((self._pairs[pair] for pair in asked if self._simple[pair] is None), key=repr)
        return [
            *(number for number in found if number is not None),
            self._numbers.setdefault(tuple(together), len(self._numbers)),
        ]

    def stacked(self) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
        """All conditions: weights of the factors, unexplained variance, memory (GiB), and what is certain to fail."""
        flat = [(number, *pair) for pairs, number in self._numbers.items() for pair in pairs]
        rooms = {room: place for place, room in enumerate(dict.fromkeys(room for _, room, _ in flat))}
        loads = {load: place for place, load in enumerate(dict.fromkeys(load for _, _, load in flat))}
        where = np.array([number for number, _, _ in flat])
        at = np.array([rooms[room] for _, room, _ in flat]), np.array([loads[load] for _, _, load in flat])
        rows, rough = (found[at] for found in design(self._facts, list(rooms), list(loads)))
        least = [needed_bytes(self._facts, one.num_ctx, one.num_parallel, one.kv_cache_type) for one in loads]
        count = len(self._numbers)
        sums, variances = np.zeros((count, rows.shape[1])), np.zeros(count)
        memory, needs, supply = np.zeros(count), np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        np.add.at(sums, where, rows)
        np.add.at(variances, where, rough)
        np.add.at(needs, where, np.array([room.instances for _, room, _ in flat]) * np.array(least)[at[1]])
        sums[where, -1] = rows[:, -1]  # held once, however many share it
        memory[where] = [room.memory_bytes / GIB for _, room, _ in flat]
        supply[where] = [room.supply_bytes for _, room, _ in flat]
        return sums, variances, memory, needs > supply

    def _number(self, pair: tuple[Part, Load]) -> int | None:
        """None for a part on the CPU, whose memory is everybody's."""
        part, load = pair
        devices = [self._inventory.at(index) for index in part.devices]
        memory = tuple(device.memory_bytes for device in devices)
        if devices[0].make == "cpu":
            free = memory[0] - self._free
            room = Room(float(part.copies), part.copies, 1, free, memory[0], part.copies, free, cpu=True)
            self._pairs[pair], self._simple[pair] = (room, load), None
            return None
        room = room_of(self._facts.layers, memory, part.copies, self._margin, self._free)
        self._simple[pair] = self._numbers.setdefault(((room, load),), len(self._numbers))
        return self._simple[pair]
