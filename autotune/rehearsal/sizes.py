"""What a model takes of a device's memory, from where instances really had it: pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from autotune.rehearsal.fit import UNKNOWN, Figure
from autotune.simulator.memory import KV_FACTORS
from autotune.simulator.profiles import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autotune.cluster.verify import Placement

USUAL_COMPUTE_MIB = 520.0
"""What is no weight and no cache cannot be told from the weights: the stand-in's own."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of one model on one device."""

    layers: Figure
    """Without the output layer."""
    weights_mib: Figure
    kv_mib_per_1024_tokens: Figure
    compute_mib: Figure
    one_slot: bool
    """Ollama serves it with one slot whatever it is asked for."""


def sizes(found: Iterable[tuple[Placement, int, str, int]]) -> Sizes:
    """From placements on one device, each with its context, the type of its cache, and its trial."""
    placed = list(found)
    bytes_by_tokens: defaultdict[float, list[float]] = defaultdict(list)
    for one, num_ctx, cache, _ in placed:
        # tokens at f16: a smaller type takes as much as fewer tokens
        tokens = num_ctx * (one.num_parallel or 1) * KV_FACTORS.get(cache, 1.0)
        bytes_by_tokens[tokens].append(float(one.size_vram_bytes or one.size_bytes))
    layers = [one.layers for one, *_ in placed if one.layers]
    trials = len({number for *_, number in placed})
    slope, base = _line({tokens: median(sizes) for tokens, sizes in bytes_by_tokens.items()})
    compute_mib = min(USUAL_COMPUTE_MIB, base / MIB / 10)
    why = f"placements of {trials} trials"
    return Sizes(
        layers=Figure(float(max(1, median(layers) - 1)), why) if layers else Figure(32.0, UNKNOWN),
        weights_mib=Figure(max(1.0, base / MIB - compute_mib), f"{why}, less the compute buffer"),
        kv_mib_per_1024_tokens=Figure(slope * 1024 / MIB, why)
        if len(bytes_by_tokens) > 1
        else Figure(0.0, "one size of the cache: its part is among the weights"),
        compute_mib=Figure(compute_mib, UNKNOWN),
        one_slot=any(one.single for one, *_ in placed),
    )


def _line(sizes: dict[float, float]) -> tuple[float, float]:
    """Bytes a token, and bytes without any, by least squares."""
    if not sizes:
        return 0.0, 1024.0 * MIB
    x, y = sum(sizes) / len(sizes), sum(sizes.values()) / len(sizes)
    spread = sum((tokens - x) ** 2 for tokens in sizes)
    slope = sum((tokens - x) * (size - y) for tokens, size in sizes.items()) / spread if spread else 0.0
    slope = max(slope, 0.0)
    return slope, max(float(MIB), y - slope * x)
