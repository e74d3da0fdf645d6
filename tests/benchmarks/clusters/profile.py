"""A cluster from a hardware profile of the simulator: its own laws, as tables, under a load that the seed draws."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autotune.errors import SpecError
from autotune.inventory import Device, Inventory
from autotune.simulator.memory import Ask, OutOfMemory, place
from autotune.simulator.model import contention, prefill_s, slowdown, step_s
from autotune.simulator.profiles import MIB, load_profile
from autotune.space import ModelFacts
from tests.benchmarks.clusters.machine import Built, Case, Held
from tests.benchmarks.clusters.search import Asked, Named, choices_of, searchable
from tests.benchmarks.clusters.trial import Noise
from tests.benchmarks.clusters.truth import Engine, Load, Setup

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.simulator.memory import Placement
    from autotune.simulator.profiles import ModelProfile, Profile
    from autotune.space import Value
    from tests.benchmarks.clusters.cluster import Cluster

ATTEMPTS = 50
MARGIN_BYTES = 1024 * MIB
"""What llama.cpp leaves free on each device by itself."""
LEAST_NOISE = 0.01
MOST_HITS = 0.5
"""The simulator's laws are plain, so that much of a space may be as good as the best."""


@dataclass(frozen=True)
class Played:
    """The simulator's laws."""

    profile: Profile
    model: ModelProfile
    inventory: Inventory
    num_ctx: int
    flags: tuple[Value, ...] = ()

    def build(self, params: Mapping[str, Value]) -> Built | None:
        """The configuration; None where an instance finds too little memory."""
        case = Case.read(params, self.inventory, self.flags)
        try:
            placements = self._placements(case)
        except OutOfMemory:
            return None
        residents: dict[str, int] = {}
        for placement in placements:
            for uuid in placement.shares:
                residents[uuid] = residents.get(uuid, 0) + 1
        crowd = contention(self.profile.host, case.instances)
        paces = [slowdown(self.profile, placement.shares, residents) * crowd for placement in placements]
        overhead_s = self.profile.host.overhead_s * sum(paces) / len(paces)
        setup = Setup(tuple(self._engine(case, pace) for pace in paces), case.policy, overhead_s=overhead_s)
        return Built(setup, tuple(Held(placement.size_bytes, placement.vram_bytes) for placement in placements))

    def _placements(self, case: Case) -> list[Placement]:
        """One instance after the other, each in what its devices have left."""
        free = {device.uuid: device.usable_bytes for device in self.profile.devices}
        found = []
        for devices in case.layout.instances:
            uuids = [self.inventory.devices[index].id for index in devices]
            ask = Ask(self.model, self.num_ctx * case.slots, case.cache)
            room = {uuid: free[uuid] for uuid in uuids}
            placement = place(ask, uuids, room, self.profile.host, fit=True, margin_bytes=MARGIN_BYTES)
            for uuid in placement.layers:
                free[uuid] -= placement.taken[uuid]
            found.append(placement)
        return found

    def _engine(self, case: Case, pace: float) -> Engine:
        steps = tuple(pace * step_s(self.model, busy) for busy in range(1, case.slots + 1))
        base_s = prefill_s(self.model, 0)
        return Engine(case.slots, steps, pace * base_s, pace * (prefill_s(self.model, 1000) - base_s) / 1000)


def profiled(path: str | Path, seed: int) -> Cluster:
    """A cluster on the hardware of that profile, with its first model, under the load of that seed.

    Raises SpecError for a profile that cannot be read, has no device, or on which there is nothing to search.
    """
    profile, family = load_profile(path), f"profile {Path(path).stem}"
    if not profile.devices:
        raise SpecError(f"{path}: there is no device in it")
    inventory = _inventory(profile)
    for attempt in range(ATTEMPTS):
        asked = _asked(profile, np.random.default_rng((zlib.crc32(family.encode()), seed, attempt)), seed)
        law = Played(profile, profile.model(), inventory, asked.num_ctx, asked.flags)
        what = zlib.crc32(profile.model_dump_json().encode())
        found = searchable(f"profile-{what:08x}-{seed}-{attempt}", Named(family, seed), asked, law, inventory)
        if found is not None:
            return found
    raise SpecError(f"{path}: nothing to search in {ATTEMPTS} draws")


def _asked(profile: Profile, rng: np.random.Generator, seed: int) -> Asked:
    model = profile.model()
    answer, prompt = round(rng.uniform(100, 400)), round(float(np.exp(rng.uniform(np.log(50), np.log(1500)))))
    num_ctx = next(size for size in (1024, 2048, 4096, 8192) if size >= 1.6 * (prompt + 1.5 * answer))
    load = Load(int(rng.choice((10, 20, 40, 80))), prompt, answer, 0.2, float(rng.uniform(0.15, 0.6)), seed)
    noise = Noise(max(LEAST_NOISE, profile.host.life_jitter))
    return Asked(
        load, noise, _facts(model), num_ctx, choices_of(rng), rng.uniform(0.15, 0.50), 1.0, MOST_HITS
    )  # fmt: skip


def _facts(model: ModelProfile) -> ModelFacts:
    """One head that is as wide as all of them: the product is what counts."""
    width = max(1, int(model.kv_bytes_per_token / (4 * model.layers)))
    return ModelFacts(
        model.name, "0" * 12, model.weights_bytes, model.layers, 1, width, width, model.context_length, None,
        model.family, model.capabilities, host_weights_bytes=int(model.embedding_mib * MIB),
    )  # fmt: skip


def _inventory(profile: Profile) -> Inventory:
    devices = (
        Device(index, one.uuid, "nvidia", one.name, one.memory_bytes, f"{one.name} {one.memory_mib}")
        for index, one in enumerate(profile.devices)
    )
    return Inventory(profile.name, tuple(devices), simulated=True)
