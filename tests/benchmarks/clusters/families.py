"""The ordinary families: what is drawn of a host, a model, a load and a space, and what is odd about each family.

Seeds of `DEV_SEEDS` are for whoever builds a search. Those of `TEST_SEEDS` stay unread until there is one result to be
had: one shot. Both are frozen with this file.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.inventory import Device, Inventory
from autotune.space import ModelFacts
from tests.benchmarks.clusters.machine import Machine, Traits
from tests.benchmarks.clusters.search import Asked, Named, choices_of, searchable
from tests.benchmarks.clusters.trial import Noise
from tests.benchmarks.clusters.truth import Load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autotune.space import Value
    from tests.benchmarks.clusters.cluster import Cluster
    from tests.benchmarks.clusters.machine import Law

DEV_SEEDS = range(1000)
TEST_SEEDS = range(1_000_000, 1_001_000)

GB = 10**9
ATTEMPTS = 200

Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Drawn:
    """All that is drawn of a cluster before anything is simulated."""

    traits: Traits
    devices: int
    asked: Asked


def match(seed: int) -> Cluster:
    """Nothing is odd."""
    return draw("match", seed, (_as_it_is,))


def dip(seed: int) -> Cluster:
    """Two busy slots are slow, and the next few still a little."""
    return draw("dip", seed, (_dip,))


def tile(seed: int) -> Cluster:
    """Steps of the step time, and a kink."""
    return draw("tile", seed, (_tile,))


def weak(seed: int) -> Cluster:
    """One GPU is slower than the others, and nothing says so."""
    return draw("weak", seed, (_weak,))


def host(seed: int) -> Cluster:
    """The host gives way under many busy slots and many instances."""
    return draw("host", seed, (_host,))


def oom(seed: int) -> Cluster:
    """Memory is not what the formula says, and whatever does not fit fails."""
    return draw("oom", seed, (_oom,))


def noise(seed: int) -> Cluster:
    """Much noise, drift, and trials that something else slows."""
    return draw("noise", seed, (_noise,))


def cap(seed: int) -> Cluster:
    """More slots than a few are silently not there."""
    return draw("cap", seed, (_cap,))


def mixed(seed: int) -> Cluster:
    """Two to four oddities at once."""
    rng = _rng("mixed", seed, ATTEMPTS)
    chosen = rng.permutation(len(TWISTS))[: rng.integers(2, 5)]
    return draw("mixed", seed, tuple(TWISTS[index] for index in sorted(chosen)))


FAMILIES: dict[str, Callable[[int], Cluster]] = {
    "match": match,
    "dip": dip,
    "tile": tile,
    "weak": weak,
    "host": host,
    "oom": oom,
    "noise": noise,
    "cap": cap,
    "mixed": mixed,
}


# the draw


def draw(
    family: str,
    seed: int,
    twists: Sequence[Callable[[Rng, Drawn], Drawn]],
    machine: Callable[[Rng, Drawn, Inventory, tuple[Value, ...]], Law] | None = None,
) -> Cluster:
    """The cluster of that family and seed: drawn again until it can be searched at all."""
    for attempt in range(ATTEMPTS):
        rng = _rng(family, seed, attempt)
        drawn = plain(rng, seed)
        for twist in twists:
            drawn = twist(rng, drawn)
        inventory, flags = inventory_of(drawn.devices, drawn.traits.vram_bytes), drawn.asked.flags
        law = machine(rng, drawn, inventory, flags) if machine else _plain(drawn, inventory, flags)
        adverse = machine is not None
        found = searchable(f"{family}-{seed}-{attempt}", Named(family, seed, adverse), drawn.asked, law, inventory)
        if found is not None:
            return found
    raise AssertionError(f"{family} {seed}: nothing to search in {ATTEMPTS} draws")


def plain(rng: Rng, seed: int) -> Drawn:
    """A host, a model, a load and a space without anything odd."""
    devices = int(rng.choice((2, 4, 8)))
    answer, prompt = round(rng.uniform(100, 400)), round(_log_uniform(rng, 50, 1500))
    load = Load(int(rng.choice((10, 20, 40, 80))), prompt, answer, 0.2, float(rng.uniform(0.15, 0.6)), seed)
    num_ctx = next(size for size in (1024, 2048, 4096, 8192) if size >= 1.6 * (prompt + 1.5 * answer))
    facts, slot_bytes = _model(rng, num_ctx)
    traits = Traits(
        step_base_s=_log_uniform(rng, 0.008, 0.030),
        step_slot_s=_log_uniform(rng, 0.0003, 0.004),
        prefill_tps=_log_uniform(rng, 500, 6000),
        prefill_base_s=rng.uniform(0.0, 0.02),
        phi=rng.uniform(0.05, 0.35),
        vram_bytes=int(rng.choice((11, 16, 20, 22, 24, 32, 40, 48, 80))) * GB,
        weights_bytes=facts.weights_bytes,
        slot_bytes=slot_bytes,
        compute_bytes=int(rng.uniform(0.3, 0.9) * GB),
        host_each=rng.uniform(0.0, 0.08),
        sharing=rng.uniform(0.75, 1.05),
        span_each=rng.uniform(0.0, 0.12),
        offload_slope=rng.uniform(8, 25),
        flash_off=rng.uniform(1.0, 1.12),
        cache_step=rng.uniform(0.98, 1.08),
        batch_read=rng.uniform(1.0, 1.25),
        batch_phi=rng.uniform(1.0, 1.25),
    )
    sd, quantile = rng.uniform(0.01, 0.04), rng.uniform(0.15, 0.50)
    return Drawn(traits, devices, Asked(load, Noise(sd), facts, num_ctx, choices_of(rng), quantile))


def inventory_of(devices: int, memory_bytes: int) -> Inventory:
    """So many GPUs of one kind."""
    made = (
        Device(index, f"GPU-be5c0000-0000-4000-8000-{index:012d}", "nvidia", "Made-up GPU", memory_bytes, "made-up")
        for index in range(devices)
    )
    return Inventory("benchmark", tuple(made), driver="560.1", simulated=True)


def _plain(drawn: Drawn, inventory: Inventory, flags: tuple[Value, ...]) -> Machine:
    return Machine(drawn.traits, inventory, drawn.asked.load.users, flags)


def _model(rng: Rng, num_ctx: int) -> tuple[ModelFacts, int]:
    """A model, and the bytes of a slot's cache. Half of them slide, so that the space knows little of their memory."""
    wanted = _log_uniform(rng, 0.05e9, 0.6e9)
    shapes = [
        (heads, size, layers) for heads in (1, 2, 4, 8, 16) for size in (64, 128, 256) for layers in range(16, 65)
    ]
    sizes = [4 * layers * heads * size * num_ctx for heads, size, layers in shapes]
    near = [index for index, made in enumerate(sizes) if abs(made / wanted - 1) < 0.05]
    chosen = int(rng.choice(near)) if near else int(np.argmin(np.abs(np.array(sizes) - wanted)))
    heads, size, layers = shapes[chosen]
    slides = rng.random() < 0.5
    facts = ModelFacts(
        "made-up", "0" * 12, int(rng.uniform(3, 9) * GB), layers, heads, size, size, 32768, 512 if slides else None,
        "llama", ("completion",),
    )  # fmt: skip
    return facts, sizes[chosen]


# what is odd


def _as_it_is(rng: Rng, drawn: Drawn) -> Drawn:
    return drawn


def _dip(rng: Rng, drawn: Drawn) -> Drawn:
    return _with(drawn, dip=rng.uniform(0.25, 0.8), dip_fade=rng.uniform(0.5, 4))


def _tile(rng: Rng, drawn: Drawn) -> Drawn:
    return _with(
        drawn, tile=rng.uniform(0.05, 0.25), tile_every=int(rng.choice((8, 16))), kink_at=int(rng.choice((8, 16, 24))),
        kink=rng.uniform(0.5, 2.5),
    )  # fmt: skip


def _weak(rng: Rng, drawn: Drawn) -> Drawn:
    return _with(drawn, weak_device=int(rng.integers(drawn.devices)), weak_speed=rng.uniform(0.5, 0.8))


def _host(rng: Rng, drawn: Drawn) -> Drawn:
    return _with(
        drawn, host_at=rng.uniform(0.5, 2) * drawn.asked.load.users, host_power=rng.uniform(1.5, 3.5),
        host_square=rng.uniform(0.001, 0.01),
    )  # fmt: skip


def _oom(rng: Rng, drawn: Drawn) -> Drawn:
    """On small cards, and with a model of which the space knows little: else nothing would be left to fail."""
    tight = replace(drawn, asked=replace(drawn.asked, facts=replace(drawn.asked.facts, sliding_window=512)))
    vram_bytes = int(rng.choice((11, 12, 16, 20, 24))) * GB
    return _with(tight, memory_error=rng.uniform(-0.15, 0.15), strict=True, vram_bytes=vram_bytes)


def _noise(rng: Rng, drawn: Drawn) -> Drawn:
    found = Noise(
        rng.uniform(0.02, 0.05), drift=rng.uniform(0.01, 0.05), period=rng.uniform(15, 60), phase=rng.random(),
        outliers=0.06,
    )  # fmt: skip
    return replace(drawn, asked=replace(drawn.asked, noise=found))


def _cap(rng: Rng, drawn: Drawn) -> Drawn:
    return _with(drawn, cap=int(rng.choice((2, 4, 8, 16))))


TWISTS = (_dip, _tile, _weak, _host, _oom, _noise, _cap)


def _with(drawn: Drawn, **figures: Any) -> Drawn:
    return replace(drawn, traits=replace(drawn.traits, **figures))


def _rng(family: str, seed: int, attempt: int) -> Rng:
    return np.random.default_rng((zlib.crc32(family.encode()), seed, attempt))


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
