"""A made-up host and model as drawn figures, and what a configuration is on them: tables for the simulation.

Whatever is not told about a figure is plain: a quirk's figure of 0 means that there is no such quirk. The adverse
families override single laws of `Machine`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING, Protocol

from autotune.space import parse_layout
from tests.benchmarks.clusters.truth import Engine, Setup

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.inventory import Inventory
    from autotune.space import Layout, Part, Value

CACHE_SIZE = {"f16": 1.0, "q8_0": 17 / 32}
MOST_OFF = 0.6
"""No start where more of the model than this has no room on its devices."""


@dataclass(frozen=True, slots=True)
class Case:
    """A configuration, read."""

    layout: Layout
    slots: int
    """As they are asked for."""
    policy: str = "round_robin"
    flash: str = "auto"
    cache: str = "f16"
    batch: int = 512
    flag: int = 0
    """Which value the neutral variable has."""

    @classmethod
    def read(cls, params: Mapping[str, Value], inventory: Inventory, flags: tuple[Value, ...]) -> Case:
        """From the parameters of a trial."""
        flag = next((value for name, value in params.items() if name.startswith("env:")), None)
        return cls(
            parse_layout(str(params["layout"]), inventory),
            int(params["num_parallel"]),
            str(params.get("policy", "round_robin")),
            str(params["flash_attention"]),
            str(params["kv_cache_type"]),
            int(params.get("num_batch", 512)),
            flags.index(flag) if flag in flags else 0,
        )

    @property
    def instances(self) -> int:
        """How many there are."""
        return len(self.layout.instances)

    @property
    def copies(self) -> int:
        """The most that share a device."""
        return max(part.copies for part in self.layout.parts)

    @property
    def span(self) -> int:
        """The most devices of an instance."""
        return max(len(part.devices) for part in self.layout.parts)


@dataclass(frozen=True, slots=True)
class Held:
    """The memory of one instance."""

    size_bytes: int
    vram_bytes: int

    @property
    def off(self) -> float:
        """The part that has no room on the devices."""
        return 1 - self.vram_bytes / self.size_bytes


@dataclass(frozen=True, slots=True)
class Built:
    """What a configuration is: its tables, and where its memory lies."""

    setup: Setup
    held: tuple[Held, ...]


class Law(Protocol):
    """What makes a cluster of parameters."""

    def build(self, params: Mapping[str, Value]) -> Built | None:
        """The configuration; None where it does not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """All figures of a made-up host and model."""

    step_base_s: float
    step_slot_s: float
    prefill_tps: float
    prefill_base_s: float
    phi: float
    vram_bytes: int
    weights_bytes: int
    slot_bytes: int
    """The cache of one slot, f16."""
    compute_bytes: int
    host_each: float
    """Every further instance stretches all times of all by this part."""
    sharing: float
    """`r` busy instances on one device stretch each other's times by r · sharing, if that is more than 1."""
    span_each: float
    """Every further device of an instance stretches its times by this part."""
    offload_slope: float
    flash_off: float
    """Factor on a step without flash attention."""
    cache_step: float
    """Factor on a step with a quantised cache."""
    batch_read: float
    """Factor on reading a prompt with half of the usual batch; with twice as much it is its inverse."""
    batch_phi: float
    """Factor on phi with half of the usual batch; with twice as much its inverse."""
    dip: float = 0.0
    """Steps of 2 busy slots are longer by this part,"""
    dip_fade: float = 1.0
    """which fades with this e-length."""
    tile: float = 0.0
    """A step grows by this part of its base"""
    tile_every: int = 8
    """with every so many busy slots,"""
    kink_at: int = 0
    """and from so many on by `kink` times its slope more."""
    kink: float = 0.0
    weak_device: int = -1
    weak_speed: float = 1.0
    host_at: float = 0.0
    """(busy / host_at) ^ host_power more on every step."""
    host_power: float = 2.0
    host_square: float = 0.0
    memory_error: float = 0.0
    """By how much more is needed than the formula says, in parts."""
    strict: bool = False
    """Whatever does not fit is a failed start."""
    cap: int = 0
    """More slots than this are silently not there."""


@dataclass(frozen=True)
class Machine:
    """The laws of the ordinary families."""

    traits: Traits
    inventory: Inventory
    users: int
    flags: tuple[Value, ...] = ()

    def build(self, params: Mapping[str, Value]) -> Built | None:
        """The configuration; None where it does not start."""
        case = Case.read(params, self.inventory, self.flags)
        held = self.memory(case)
        if held is None:
            return None
        setup = Setup(
            tuple(self._engines(case, held)), case.policy, self.phi(case), self.crowd(case), self.host(case),
            self.overhead_s(case), self.serial_s(case),
        )  # fmt: skip
        return Built(setup, held)

    def slots(self, case: Case) -> int:
        """Slots that are really there."""
        return min(case.slots, self.traits.cap) if self.traits.cap else case.slots

    def batch_step_s(self, busy: int) -> float:
        """A decode step alone on a plain device."""
        own = self.traits
        past = max(0, busy - own.kink_at) if own.kink_at else 0
        step_s = own.step_base_s + own.step_slot_s * (busy + own.kink * past)
        step_s += own.tile * own.step_base_s * ((busy - 1) // own.tile_every)
        return step_s * (1 + own.dip * exp(-(busy - 2) / own.dip_fade) * (busy >= 2))

    def step_factor(self, case: Case, busy: int) -> float:
        """What the parameters change of a step."""
        own = self.traits
        flash = own.flash_off if case.flash == "off" else 1.0
        return flash * (own.cache_step if case.cache != "f16" else 1.0)

    def read_factor(self, case: Case) -> float:
        """What the parameters change of reading a prompt."""
        flash = self.traits.flash_off if case.flash == "off" else 1.0
        return float(flash * self.traits.batch_read ** _halvings(case.batch))

    def place_factor(self, case: Case, devices: tuple[int, ...], off: float) -> float:
        """What the place of an instance and its neighbours change of all its times."""
        own = self.traits
        others = case.instances - 1
        speed = own.weak_speed if own.weak_device in devices else 1.0
        slow = 1 + (1 / speed - 1) / len(devices)  # one device after the other: only its part of the layers is slow
        span = 1 + own.span_each * (len(devices) - 1)
        return slow * span * (1 + own.offload_slope * off) * (1 + own.host_each * others + own.host_square * others**2)

    def phi(self, case: Case) -> float:
        """The share of their speed at which decoders go on while a prompt is read."""
        return float(min(0.9, self.traits.phi * self.traits.batch_phi ** _halvings(case.batch)))

    def crowd(self, case: Case) -> tuple[float, ...]:
        """By busy instances of a device."""
        return tuple(max(1.0, count * self.traits.sharing) if count > 1 else 1.0 for count in range(1, case.copies + 1))

    def host(self, case: Case) -> tuple[float, ...]:
        """By busy slots in all."""
        own = self.traits
        if not own.host_at:
            return ()
        most = min(2 * self.users, case.instances * self.slots(case))
        return tuple(1 + (busy / own.host_at) ** own.host_power for busy in range(1, most + 1))

    def overhead_s(self, case: Case) -> float:
        """From the balancer to the queue."""
        return 0.0

    def serial_s(self, case: Case) -> float:
        """What the balancer takes for each request."""
        return 0.0

    def memory(self, case: Case) -> tuple[Held, ...] | None:
        """By instance, in the order of the layout; None where one does not start."""
        held = [one for part in case.layout.parts for one in self._part(case, part)]
        if any(one.off > (0 if self.traits.strict else MOST_OFF) for one in held):
            return None
        return tuple(held)

    def needed_bytes(self, case: Case, devices: int) -> int:
        """Of one instance; a compute buffer is on each of its devices."""
        own = self.traits
        cache = own.slot_bytes * self.slots(case) * CACHE_SIZE[case.cache]
        compute = own.compute_bytes * devices * (case.batch / 512) ** 0.5 * (1.3 if case.flash == "off" else 1.0)
        return int((own.weights_bytes + cache + compute) * (1 + own.memory_error))

    def _part(self, case: Case, part: Part) -> list[Held]:
        """One after the other: what comes first has its room, what comes last has what is left."""
        need = self.needed_bytes(case, len(part.devices))
        free = self.traits.vram_bytes * len(part.devices)
        held = []
        for _ in range(part.copies):
            held.append(Held(need, max(0, min(need, free))))
            free -= need
        return held

    def _engines(self, case: Case, held: tuple[Held, ...]) -> list[Engine]:
        slots, own = self.slots(case), self.traits
        alone = [self.batch_step_s(busy) * self.step_factor(case, busy) for busy in range(1, slots + 1)]
        read = self.read_factor(case)
        engines = []
        groups = {part.devices: group for group, part in enumerate(case.layout.parts)}
        for devices, memory in zip(case.layout.instances, held, strict=True):
            place = self.place_factor(case, devices, memory.off)
            steps = tuple(place * step for step in alone)
            engines.append(
                Engine(slots, steps, own.prefill_base_s * place, read * place / own.prefill_tps, groups[devices])
            )
        return engines


def _halvings(batch: int) -> int:
    return {256: 1, 512: 0, 1024: -1}[batch]
