"""Which devices a study may use: what it names, or what the host has."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.errors import ClusterError, SpecError
from autotune.inventory import cpu, nvml
from autotune.inventory.device import Device, Inventory, Make

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


@dataclass(frozen=True, slots=True)
class DeviceEntry:
    """One device as a study file names it: an NVIDIA GPU by `id`, a group of cores by `cores`, an AMD GPU in full."""

    id: str | None = None
    """NVML's UUID, or NVML's index written as text; for an AMD GPU what ROCR_VISIBLE_DEVICES calls it."""
    cores: str | None = None
    """CPU ids as the kernel writes them, as in `0-3,8`."""
    make: Make | None = None
    """Needs to be told only for an AMD GPU, which NVML does not see."""
    name: str | None = None
    memory_gib: float | None = None
    """Has to be told for an AMD GPU."""


@dataclass(frozen=True, slots=True)
class _Host:
    """Where to look, and what this process may use."""

    sysfs: Path
    procfs: Path
    allowed: frozenset[int]

    def gpus(self) -> tuple[Sequence[Device], str]:
        return nvml.find(self.sysfs)

    def cores(self) -> list[cpu.Core]:
        return cpu.within_quota(cpu.physical_cores(self.sysfs, self.allowed), self.sysfs)

    def groups(self, choice: str) -> list[Device]:
        cores, host = self.cores(), cpu.host(self.procfs, self.sysfs)
        return [cpu.device(share, cores, host) for share in cpu.groups(choice, cores)]


def discover(
    devices: str | Sequence[DeviceEntry] = "auto",
    *,
    sysfs: Path = Path("/sys"),
    procfs: Path = Path("/proc"),
    affinity: Collection[int] | None = None,
) -> Inventory:
    """Look at the host and return the devices that a study may use.

    `devices` is `auto` (NVML's GPUs, or `cpu` where there are none), `gpu` (NVML's), `cpu`, `numa`, `cores:N` or
    `groups:N` (see `cpu.groups`), or entries one by one. AMD GPUs are used only when entries name them. `sysfs`,
    `procfs` and `affinity` (CPU ids; None means this process's own) tell another host than this one.

    Raises SpecError for a choice or an entry that this host cannot meet, ClusterError where NVML does not work.
    """
    host = _Host(sysfs, procfs, frozenset(os.sched_getaffinity(0) if affinity is None else affinity))
    found, driver = _chosen(devices, host) if isinstance(devices, str) else _listed(devices, host)
    numbered = tuple(replace(device, index=index) for index, device in enumerate(found))
    return Inventory(socket.gethostname(), numbered, driver)


def remembered(before: Inventory, lost: Collection[str]) -> Inventory:
    """The devices as they were before some, by id, were lost, and the driver as it is now.

    Raises DeviceLost where another GPU is gone, too, ClusterError where NVML does not work.
    """
    asked = [device for device in before.without(lost).devices if device.make == "nvidia"]
    if not asked:
        return before
    with nvml.session() as lib:
        for device in asked:
            with nvml.handle(lib, device):
                pass
        return replace(before, driver=str(lib.nvmlSystemGetDriverVersion()))


def _chosen(choice: str, host: _Host) -> tuple[Sequence[Device], str]:
    if choice == "auto":
        return _gpus_if_any(host) or (host.groups("cpu"), "")
    if choice == "gpu":
        gpus, driver = host.gpus()
        if not gpus:
            raise ClusterError("NVML is here but shows no GPU; does `nvidia-smi -L` list one?")
        return gpus, driver
    if choice in {"cpu", "numa"} or choice.startswith(("cores:", "groups:")):
        return host.groups(choice), ""
    known = '"auto", "gpu", "cpu", "numa", "cores:N", "groups:N" or a list'
    raise SpecError(f'devices = "{choice}" is not known; it is {known}')


def _gpus_if_any(host: _Host) -> tuple[Sequence[Device], str] | None:
    """None without a driver or a card; a driver that is there but broken is an error, not a reason to use the CPU."""
    try:
        gpus, driver = host.gpus()
    except nvml.NoDriver:
        return None
    return (gpus, driver) if gpus else None


def _listed(entries: Sequence[DeviceEntry], host: _Host) -> tuple[Sequence[Device], str]:
    if not entries:
        raise SpecError("devices = []: the list names no device")
    makes = [_make(entry) for entry in entries]
    gpus, driver = host.gpus() if "nvidia" in makes else ((), "")
    cores = host.cores() if "cpu" in makes else []
    found = [_device(entry, make, gpus, cores, host) for entry, make in zip(entries, makes, strict=True)]
    _refuse_twice(found, cores)
    return found, driver


def _make(entry: DeviceEntry) -> Make:
    if (entry.id is None) == (entry.cores is None):
        raise SpecError("devices: an entry needs either an id (a GPU) or cores (a group of CPU cores)")
    own: Make = "cpu" if entry.cores is not None else "nvidia"
    if entry.make not in {None, own} and (own, entry.make) != ("nvidia", "amd"):
        raise SpecError(f'devices: make = "{entry.make}" does not go with {entry.id or entry.cores}')
    make = entry.make or own
    for key, value in (("name", entry.name), ("memory_gib", entry.memory_gib)):
        if value is not None and make != "amd":
            raise SpecError(
                f"devices: {entry.id or entry.cores}: {key} = {value!r}: not allowed here, as the host itself says it;"
                ' it belongs to make = "amd"'
            )
    return make


def _device(entry: DeviceEntry, make: Make, gpus: Sequence[Device], cores: Sequence[cpu.Core], host: _Host) -> Device:
    if make == "cpu":
        return _group(entry.cores or "", cores, host)
    return _amd(entry) if make == "amd" else _nvidia(entry, gpus)


def _nvidia(entry: DeviceEntry, gpus: Sequence[Device]) -> Device:
    for gpu in gpus:
        if entry.id in {gpu.id, str(gpu.index)}:
            return gpu
    there = ", ".join(f"{gpu.index} = {gpu.id}" for gpu in gpus) or "none"
    raise SpecError(f"devices: there is no GPU {entry.id}; NVML shows {there}")


def _amd(entry: DeviceEntry) -> Device:
    if not entry.id or not entry.memory_gib:
        raise SpecError(f"devices: the AMD GPU {entry.id} needs memory_gib, which nothing else here can tell")
    name = entry.name or "AMD GPU"
    return Device(0, entry.id, "amd", name, int(entry.memory_gib * 2**30), f"{name}, {entry.memory_gib:g} GiB")


def _group(text: str, cores: Sequence[cpu.Core], host: _Host) -> Device:
    """A core of which only one sibling is named is a core of its own all the same."""
    wanted, there = _cpus(text), {number for core in cores for number in core.cpus}
    if not wanted or wanted - there:
        strange = cpu.write_list(wanted - there) or "none"
        raise SpecError(f'devices: cores = "{text}" names {strange}; there are {cpu.write_list(there)}')
    named = [
        replace(core, cpus=tuple(number for number in core.cpus if number in wanted) or core.cpus) for core in cores
    ]
    share = [core for core in named if wanted.issuperset(core.cpus)]
    return cpu.device(share, named, cpu.host(host.procfs, host.sysfs))


def _cpus(text: str) -> set[int]:
    try:
        return set(cpu.read_list(text))
    except ValueError:
        raise SpecError(
            f'devices: cores = "{text}" is not a list of CPU ids such as "0-3,8", below {cpu.MOST_CPUS}'
        ) from None


def _refuse_twice(devices: Sequence[Device], cores: Sequence[cpu.Core]) -> None:
    core_of = {number: core for core in cores for number in core.cpus}
    for one, other in combinations(devices, 2):
        if one.id == other.id:
            raise SpecError(f"devices: {one.id} is listed twice")
        for core in {core_of[number] for number in one.cpus} & {core_of[number] for number in other.cpus}:
            raise SpecError(f"devices: {one.id} and {other.id} share the core of CPU {cpu.write_list(core.cpus)}")
