"""Who else has memory on the devices, and what would free it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.inventory import nvml

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from autotune.inventory.device import Device, Inventory

HIDDEN_BYTES = 512 * 2**20
"""Memory in use above this, with no process listed, is somebody's; below it may be the driver's own."""

NOT_VISIBLE = "not visible from here, perhaps a container"


@dataclass(frozen=True, slots=True)
class Holder:
    """A process with memory on a device."""

    device: Device
    pid: int
    """0 where there is memory in use but no process to be seen."""
    memory_bytes: int | None
    """None where NVML does not tell."""
    command: str
    unit: str
    """The systemd unit or the container that it lives in; empty for neither."""
    user: str
    free_with: str
    """The command that frees the device; empty where none that is given here could."""


def holders(inventory: Inventory, *, ignore: Collection[int] = (), procfs: Path = Path("/proc")) -> list[Holder]:
    """The processes, but those with a pid in `ignore`, that have memory on the inventory's NVIDIA GPUs.

    Processes that only draw (a desktop) are not among them. Raises DeviceLost, ClusterError.
    """
    devices = [device for device in inventory.devices if device.make == "nvidia"]
    if inventory.simulated or not devices:
        return []
    with nvml.session() as lib:
        return [holder for device in devices for holder in _on(lib, device, ignore, procfs)]


def _on(lib: Any, device: Device, ignore: Collection[int], procfs: Path) -> Iterator[Holder]:
    with nvml.handle(lib, device) as card:
        computing = lib.nvmlDeviceGetComputeRunningProcesses(card)
        drawing = nvml.ask(lib, lib.nvmlDeviceGetGraphicsRunningProcesses, card)
        used_bytes = nvml.memory_used_bytes(lib, card)
    for process in computing:
        if process.pid not in ignore:
            yield _holder(device, process.pid, process.usedGpuMemory, procfs)
    if not computing and not drawing and used_bytes > HIDDEN_BYTES:
        yield Holder(device, 0, used_bytes, NOT_VISIBLE, unit="", user="", free_with="")


def _holder(device: Device, pid: int, memory_bytes: int | None, procfs: Path) -> Holder:
    folder = procfs / str(pid)
    try:
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        cgroup, uid = (folder / "cgroup").read_text(), folder.stat().st_uid
    except OSError:  # another container's, or gone meanwhile
        return Holder(device, pid, memory_bytes, NOT_VISIBLE, unit="", user="", free_with="")
    unit, free_with = _home(cgroup)
    kill = f"kill {pid}" if uid == os.getuid() else f"sudo kill {pid}"
    return Holder(device, pid, memory_bytes, command, unit, _user(uid), free_with or kill)


def _home(cgroup: str) -> tuple[str, str]:
    """The systemd service or the container that a process lives in, and the command that stops it, or twice nothing.

    Of nested units the innermost counts. A scope (a login, a terminal) and a user's own systemd are no service: to stop
    them would end far more than the process.
    """
    container = re.search(r"(docker|libpod)[-/]([0-9a-f]{12})[0-9a-f]{52}", cgroup)
    if container:
        tool = {"docker": "sudo docker", "libpod": "podman"}[container[1]]
        return f"{container[1]} {container[2]}", f"{tool} stop {container[2]}"
    trees = [re.findall(r"[^/]+\.(?:service|scope)(?=/|$)", line) for line in cgroup.splitlines()]
    units = next(filter(None, trees), [])
    if not units or units[-1].endswith(".scope") or units[-1].startswith("user@"):
        return "", ""
    own = "systemctl --user" if any(unit.startswith("user@") for unit in units) else "sudo systemctl"
    return units[-1], f"{own} stop {units[-1].removesuffix('.service')}"


def _user(uid: int) -> str:
    import pwd  # noqa: PLC0415 - Windows, where `bench` runs, has no such module

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
