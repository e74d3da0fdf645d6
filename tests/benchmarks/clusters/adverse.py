"""Two families that keep to no rule a search may have been built on; their mean is reported on its own.

`contrary`: every knob does the opposite of what its name promises, and things cost that cost nothing elsewhere.
`rugged`: what a configuration gives has a structure that no sum or product of smooth terms describes.

Both could be a real machine: a driver whose attention kernel is slow on this card, a balancer behind a lock, cards in
pairs behind one switch, kernels that are tuned for some shapes and not for others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, exp, log2, pi
from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.clusters.families import draw
from tests.benchmarks.clusters.machine import Machine
from tests.benchmarks.clusters.search import POLICIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.inventory import Inventory
    from autotune.space import Value
    from tests.benchmarks.clusters.cluster import Cluster
    from tests.benchmarks.clusters.families import Drawn, Rng
    from tests.benchmarks.clusters.machine import Case

WAVES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Twisted:
    """How much each knob does in the wrong direction."""

    flash_off: float
    """Factor on a step without flash attention: below 1."""
    cache_step: float
    """Factor on a step with a quantised cache: below 1."""
    cache_bytes: float
    """A quantised cache needs this part of the plain one: its scratch buffers eat what it saves."""
    batch_read: float
    """Factor on reading with every doubling of the batch: above 1."""
    batch_step: float
    """The same on decoding."""
    slot_read: float
    """Every slot that there is, busy or not, makes reading longer by this part,"""
    slot_step: float
    """and every step by this part of its base."""
    counting_s: float
    """What the balancer's counters cost each request: least_conn all of it, random_two half."""
    lock_s: float
    """And what it takes under a lock, one request after the other."""
    pair: float
    """Two cards behind one switch stretch each other's times by this part, if both have an instance of their own."""
    full: float
    """With every card in use by an instance of its own the host stretches all times by this part."""
    span: float
    """Every further device of an instance shortens its times by this part: it reads its weights with all of them."""
    flag: float
    """The variable that says nothing about speed stretches steps by this part, at its second value where it is
    positive, at its first where it is negative."""


@dataclass(frozen=True)
class Contrary(Machine):
    """Knobs the wrong way round."""

    twisted: Twisted | None = None

    @property
    def _own(self) -> Twisted:
        assert self.twisted is not None
        return self.twisted

    def step_factor(self, case: Case, busy: int) -> float:
        own = self._own
        flash = own.flash_off if case.flash == "off" else 1.0
        cache = own.cache_step if case.cache != "f16" else 1.0
        flagged = case.flag == (1 if own.flag > 0 else 0)
        flag = 1 + abs(own.flag) if self.flags and flagged else 1.0
        idle = 1 + own.slot_step * self.slots(case)
        return float(flash * cache * flag * idle * own.batch_step ** log2(case.batch / 256))

    def read_factor(self, case: Case) -> float:
        own = self._own
        return float(own.batch_read ** log2(case.batch / 256) * (1 + own.slot_read * (self.slots(case) - 1)))

    def phi(self, case: Case) -> float:
        return self.traits.phi

    def place_factor(self, case: Case, devices: tuple[int, ...], off: float) -> float:
        own, others = self._own, case.instances - 1
        single = {part.devices[0] for part in case.layout.parts if len(part.devices) == 1}
        paired = len(devices) == 1 and devices[0] ^ 1 in single
        full = case.copies == 1 and len(single) == len(self.inventory.devices)
        place = (1 + own.pair * paired) * (1 + own.full * full) * (1 - own.span) ** (len(devices) - 1)
        return place * (1 + self.traits.offload_slope * off) * (1 + self.traits.host_each * others)

    def overhead_s(self, case: Case) -> float:
        return self._own.counting_s * self._counts(case)

    def serial_s(self, case: Case) -> float:
        return self._own.lock_s * self._counts(case)

    def needed_bytes(self, case: Case, devices: int) -> int:
        own = self.traits
        kept = own.slot_bytes * self.slots(case) * (self._own.cache_bytes if case.cache != "f16" else 1.0)
        return int(own.weights_bytes + kept + own.compute_bytes * devices * case.batch / 256)

    @staticmethod
    def _counts(case: Case) -> float:
        return {"round_robin": 0.0, "random_two": 0.5, "least_conn": 1.0}[case.policy] if case.instances > 1 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What the ground of `rugged` is made of."""

    field: tuple[tuple[float, float, float, float], ...]
    """Waves over instances and slots, both in octaves: height, two frequencies, phase."""
    cells: tuple[tuple[float, ...], ...]
    """A factor by kind of layout and octave of slots."""
    cliffs: tuple[tuple[int, int, float], ...]
    """Between so many and so many slots in all, a factor."""
    resonance: tuple[float, float, float]
    """Around so many slots in all, so wide in octaves, a factor."""
    policies: tuple[tuple[float, ...], ...]
    """Seconds more for each request by policy and kind of layout, in parts of a step's base."""
    batches: tuple[tuple[float, ...], ...]
    """A factor on reading by batch and octave of slots."""
    odd_devices: float
    """A factor for a number of instances that is no power of two."""


@dataclass(frozen=True)
class Rugged(Machine):
    """Laws with holes and ridges."""

    ground: Ground | None = None

    @property
    def _own(self) -> Ground:
        assert self.ground is not None
        return self.ground

    def step_factor(self, case: Case, busy: int) -> float:
        own, slots = self._own, self.slots(case)
        total, instances = slots * case.instances, case.instances
        height = sum(
            size * cos(2 * pi * (across * log2(instances) + along * log2(slots) + phase))
            for size, across, along, phase in own.field
        )
        factor = exp(height) * own.cells[self._kind(case)][_octave(slots)]
        for low, high, size in own.cliffs:
            factor *= size if low <= total < high else 1.0
        at, wide, size = own.resonance
        factor *= 1 + (size - 1) * exp(-((log2(total / at) / wide) ** 2))
        factor *= own.odd_devices if instances & (instances - 1) else 1.0
        return factor * super().step_factor(case, busy)

    def read_factor(self, case: Case) -> float:
        batch = (256, 512, 1024).index(case.batch)
        return super().read_factor(case) * self._own.batches[batch][_octave(self.slots(case))]

    def overhead_s(self, case: Case) -> float:
        if case.instances == 1:
            return 0.0
        return self._own.policies[POLICIES.index(case.policy)][self._kind(case)] * self.traits.step_base_s

    @staticmethod
    def _kind(case: Case) -> int:
        """One instance; several on cards of their own, few or many; two or three on each card; over several cards."""
        if case.copies > 1:
            return 1 + case.copies
        if case.span > 1:
            return 5
        return 0 if case.instances == 1 else 1 if case.instances <= 3 else 2


def contrary(seed: int) -> Cluster:
    """Knobs the wrong way round."""
    return draw("contrary", seed, (_wider,), _contrary)


def rugged(seed: int) -> Cluster:
    """A structure that no term describes."""
    return draw("rugged", seed, (_wider,), _rugged)


ADVERSE: dict[str, Callable[[int], Cluster]] = {"contrary": contrary, "rugged": rugged}


def _wider(rng: Rng, drawn: Drawn) -> Drawn:
    """All knobs are there to be turned wrong: what has one value cannot mislead."""
    more = {"num_batch": (256, 512, 1024)} if rng.random() < 0.5 else {}
    choices = {**drawn.asked.choices, "policies": POLICIES, "flash_attention": ("auto", "off"), **more}
    return replace(drawn, asked=replace(drawn.asked, choices=choices))


def _contrary(rng: Rng, drawn: Drawn, inventory: Inventory, flags: tuple[Value, ...]) -> Contrary:
    service_s = drawn.asked.load.output_tokens * drawn.traits.step_base_s
    twisted = Twisted(
        flash_off=rng.uniform(0.85, 0.97),
        cache_step=rng.uniform(0.90, 0.98),
        cache_bytes=rng.uniform(0.9, 1.2),
        batch_read=rng.uniform(1.1, 1.5),
        batch_step=rng.uniform(1.01, 1.05),
        slot_read=rng.uniform(0.01, 0.05),
        slot_step=rng.uniform(0.001, 0.01),
        counting_s=rng.uniform(0.04, 0.15) * service_s,
        lock_s=rng.uniform(0.0, 0.3) * service_s / drawn.asked.load.users,
        pair=rng.uniform(0.08, 0.35),
        full=rng.uniform(0.05, 0.25),
        span=rng.uniform(0.02, 0.12),
        flag=rng.uniform(0.04, 0.12) * rng.choice((-1, 1)),
    )
    return Contrary(drawn.traits, inventory, drawn.asked.load.users, flags, twisted)


def _rugged(rng: Rng, drawn: Drawn, inventory: Inventory, flags: tuple[Value, ...]) -> Rugged:
    users = drawn.asked.load.users
    waves = tuple(
        (rng.uniform(0.02, 0.06), rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), rng.random()) for _ in range(WAVES)
    )
    edges = sorted(rng.choice(np.arange(4, 3 * users), size=4, replace=False).tolist())
    cliffs = ((edges[0], edges[1], rng.uniform(1.1, 1.3)), (edges[2], edges[3], rng.uniform(1.1, 1.3)))
    ground = Ground(
        field=waves,
        cells=_table(6, 7, lambda: rng.choice((-1, 1)) * rng.uniform(0.03, 0.15)),
        cliffs=cliffs,
        resonance=(rng.uniform(0.5, 2) * users, rng.uniform(0.15, 0.5), rng.uniform(1.1, 1.4)),
        policies=tuple(
            tuple(float(rng.uniform(0, 0.08)) * drawn.asked.load.output_tokens for _ in range(6)) for _ in POLICIES
        ),
        batches=_table(3, 7, lambda: rng.uniform(-0.25, 0.25)),
        odd_devices=rng.uniform(0.95, 1.15),
    )
    return Rugged(drawn.traits, inventory, users, flags, ground)


def _table(rows: int, columns: int, draw_one: Callable[[], float]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(exp(draw_one()) for _ in range(columns)) for _ in range(rows))


def _octave(slots: int) -> int:
    return int(log2(slots))
