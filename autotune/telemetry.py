"""How the GPUs are while a load runs: heat, clocks, power, and whether something slows them down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.errors import SpecError
from autotune.inventory import nvml
from autotune.spec import PER_JOULE

if TYPE_CHECKING:
    from autotune.inventory import Device, Inventory
    from autotune.spec import StudySpec

REASONS = {
    0x001: "idle",
    0x002: "application_clocks",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal",
    0x040: "hw_thermal",
    0x080: "hw_power_brake",
    0x100: "display_clocks",
}
"""Why a clock is below its highest: the bits of nvmlClocksEventReasons (nvml.h)."""

THROTTLING = frozenset({"hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake"})
"""The reasons that make a measurement doubtful: heat, or a power supply that gives way.

`sw_power_cap` is not among them: a card under full load runs at its power limit as a matter of course, in every trial
and in production alike.
"""


@dataclass(frozen=True, slots=True)
class DeviceSample:
    """One GPU at one moment. None stands for what the card or its driver cannot tell."""

    device: int
    """Index in the inventory."""
    temperature_c: int | None
    sm_clock_mhz: int | None
    memory_used_bytes: int
    power_w: float | None
    utilisation: float | None
    """Share of the last moments (up to a second) in which some kernel ran: 0 to 1."""
    throttle_reasons: tuple[str, ...]
    throttled: bool
    energy_j: float | None = None
    """Since its driver was loaded; samples of older versions do not say."""


def snapshot(inventory: Inventory) -> tuple[DeviceSample, ...]:
    """A sample of each NVIDIA GPU of the inventory; none where there is no such GPU or no NVML.

    Opening NVML can take a while: to sample often, hold `inventory.nvml.session()` around all samples.
    Raises DeviceLost for a GPU that has gone away, ClusterError where NVML fails.
    """
    devices = [device for device in inventory.devices if device.make == "nvidia"]
    if inventory.simulated or not devices:
        return ()
    try:
        with nvml.session() as lib:
            return tuple(_sample(lib, device) for device in devices)
    except nvml.NoDriver:
        return ()


def check(spec: StudySpec, inventory: Inventory) -> None:
    """Whether the GPUs tell what a goal is made of. Raises `SpecError`, and `ClusterError` where NVML fails."""
    if PER_JOULE not in (goal.name for goal in spec.objective.goals):
        return
    telling = {one.device for one in snapshot(inventory) if one.energy_j is not None}
    silent = [f"{one.index} ({one.name})" for one in inventory.devices if one.index not in telling]
    if silent:
        why = "a played host uses none" if inventory.simulated else "only NVIDIA GPUs do, from Volta on"
        raise SpecError(f'objective.metric: "{PER_JOULE}": no energy is told by device {", ".join(silent)}: {why}')


def _sample(lib: Any, device: Device) -> DeviceSample:
    with nvml.handle(lib, device) as card:
        power_mw = nvml.ask(lib, lib.nvmlDeviceGetPowerUsage, card)
        energy_mj = nvml.ask(lib, lib.nvmlDeviceGetTotalEnergyConsumption, card)
        rates = nvml.ask(lib, lib.nvmlDeviceGetUtilizationRates, card)
        reasons = _reasons(lib, card)
        return DeviceSample(
            device=device.index,
            temperature_c=nvml.ask(lib, lib.nvmlDeviceGetTemperature, card, lib.NVML_TEMPERATURE_GPU),
            sm_clock_mhz=nvml.ask(lib, lib.nvmlDeviceGetClockInfo, card, lib.NVML_CLOCK_SM),
            memory_used_bytes=nvml.memory_used_bytes(lib, card),
            power_w=None if power_mw is None else power_mw / 1000,
            utilisation=None if rates is None else rates.gpu / 100,
            throttle_reasons=reasons,
            throttled=not THROTTLING.isdisjoint(reasons),
            energy_j=None if energy_mj is None else energy_mj / 1000,
        )


def _reasons(lib: Any, card: Any) -> tuple[str, ...]:
    bits = nvml.ask(lib, lib.nvmlDeviceGetCurrentClocksEventReasons, card)
    if bits is None:  # drivers before 535 know the older name only
        bits = nvml.ask(lib, lib.nvmlDeviceGetCurrentClocksThrottleReasons, card) or 0
    return tuple(name for bit, name in REASONS.items() if bits & bit)
