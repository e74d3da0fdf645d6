"""The devices: which there are, who uses them, and whether the host lets them run as fast as they can."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from autotune import claims, hosts, telemetry
from autotune.doctor.check import Check, State
from autotune.errors import AutotuneError, ClusterError, SpecError
from autotune.inventory import Inventory, discover, holders, nvml
from autotune.inventory.cpu import write_list
from autotune.plan import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from autotune.inventory import Device, Holder
    from autotune.spec import StudySpec

DRIVER = "install the NVIDIA driver (a container has to be started with --gpus all)"
BROKEN = "`nvidia-smi` should list the cards; after an update of the driver reboot"
UNKNOWN = "end what holds it: nothing here can see what that is"
VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD"}
_SHOWS, _COMPUTES = "0x03", "0x12"
"""Classes of PCI devices."""


def of_study(spec: StudySpec) -> tuple[list[Check], Inventory | None]:
    """The devices that a study names: it needs all of them, for itself."""
    try:
        found = hosts.inventory(spec)
        telemetry.check(spec, found)
        busy = holders(found)
    except nvml.NoDriver as error:
        return [Check("devices", "missing", error.message, f'{DRIVER}, or set cluster.devices = "cpu"')], None
    except SpecError as error:
        return [Check("devices", "missing", error.message, "correct it in the study file")], None
    except AutotuneError as error:
        return [Check("devices", "missing", error.message, BROKEN)], None
    return [*_driver(found.driver), *_each(found, busy, "missing")], found


def of_host(sysfs: Path, procfs: Path) -> tuple[list[Check], Inventory]:
    """All devices of the host: what is not there some other study may do without."""
    cores = discover("cpu", sysfs=sysfs, procfs=procfs)
    checks = [_amd(sysfs)] if "AMD" in _on_the_bus(sysfs) else []
    try:
        gpus, driver = nvml.find(sysfs)
        found = Inventory(cores.host, tuple(gpus), driver)
        checks += [*_driver(driver), *_each(found, holders(found), "warning")]
    except nvml.NoDriver as error:
        gpus = ()
        checks.append(_no_driver(error, sysfs))
    except ClusterError as error:
        gpus = ()
        checks.append(Check("NVIDIA driver", "missing", error.message, BROKEN))
    cpus = [cpu for device in cores.devices for cpu in device.cpus]
    model, memory = cores.devices[0].name.rpartition(", ")[0], cores.devices[0].memory_bytes / GIB
    checks.append(Check("CPU", "ok", f"{model}, {memory:.1f} GiB of RAM; CPUs {write_list(cpus)} may be used"))
    return checks, found if gpus else cores


def _no_driver(error: nvml.NoDriver, sysfs: Path) -> Check:
    if "NVIDIA" in _on_the_bus(sysfs):
        return Check("NVIDIA driver", "warning", f"there is a card, but {error.message}", DRIVER)
    return Check("NVIDIA driver", "ok", 'no NVIDIA GPU; a study can use the CPU: cluster.devices = "cpu"')


def _on_the_bus(sysfs: Path) -> set[str]:
    """Whose GPUs PCI shows, with a driver or without."""
    found = set()
    for entry in (sysfs / "bus/pci/devices").glob("*"):
        try:
            vendor, kind = (entry / "vendor").read_text().strip(), (entry / "class").read_text()
        except OSError:
            continue
        if vendor in VENDORS and kind.startswith((_SHOWS, _COMPUTES)):
            found.add(VENDORS[vendor])
    return found


def _amd(sysfs: Path) -> Check:
    there = "there is one" if (sysfs / "class/kfd").exists() else "there is one, but no driver for computing (/dev/kfd)"
    return Check("AMD GPU", "ok", f'{there}; a study has to name it: cluster.devices = [{{ make = "amd", … }}]')


def _driver(version: str) -> Iterator[Check]:
    if version:
        yield Check("NVIDIA driver", "ok", version)


def _each(found: Inventory, busy: Sequence[Holder], in_use: State) -> Iterator[Check]:
    for device in found.devices:
        held = [holder for holder in busy if holder.device == device]
        seen = f"{_described(device)}{', played' if found.simulated else ''}"
        if held:
            who = "; ".join(map(claims.held_by, held))
            mend = " && ".join(dict.fromkeys(holder.free_with for holder in held if holder.free_with))
            yield Check(f"device {device.index}", in_use, f"{seen}: in use: {who}", mend or UNKNOWN)
        else:
            yield Check(f"device {device.index}", "ok", seen)


def _described(device: Device) -> str:
    size = f"{device.name}, {device.memory_bytes / GIB:.1f} GiB"
    return f"{size} of RAM, CPUs {write_list(device.cpus)}" if device.cpus else f"{size}, {device.id}"


def pace(found: Inventory | None, sysfs: Path, procfs: Path) -> Iterator[Check]:
    """What slows a CPU down, or forbids to pin to a part of it; nothing to a study on GPUs."""
    if found is None or not any(device.cpus for device in found.devices):
        return
    yield _pinning()
    governor = _read(sysfs / "devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor and governor != "performance":
        mend = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        yield Check("CPU governor", "warning", f"{governor}: the clock changes under load, and figures with it", mend)
    elif governor:
        yield Check("CPU governor", "ok", governor)
    if (swapped := _swapped_bytes(procfs)) >= GIB:
        mend = "end what takes the memory, then: sudo swapoff -a && sudo swapon -a"
        yield Check("swap", "warning", f"{swapped / GIB:.1f} GiB are swapped out: too little memory was free", mend)


def _pinning() -> Check:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, allowed)  # what is so already: only the right to say it is tried
    except OSError as error:
        found = f"this process may not pin to CPUs: {error.strerror}"
        return Check("pinning", "missing", found, "allow it the system call sched_setaffinity, or use GPUs")
    return Check("pinning", "ok", f"instances may be pinned to CPUs {write_list(allowed)}")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # virtual machines have no such file
        return ""


def _swapped_bytes(procfs: Path) -> int:
    fields = dict(line.split(":", 1) for line in _read(procfs / "meminfo").splitlines() if ":" in line)
    total, free = (int(fields.get(name, "0").split()[0]) * 1024 for name in ("SwapTotal", "SwapFree"))
    return total - free
