"""What a night needs for itself: programs, devices that nobody uses, free ports, and the locks that keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.cluster import host
from autotune.cluster.nginx import Nginx
from autotune.errors import DeviceBusy, PortTaken
from autotune.inventory import holders
from autotune.plan import GIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from autotune.inventory import Holder, Inventory
    from autotune.spec import StudySpec


def check(spec: StudySpec, found: Inventory) -> None:
    """The balancer and the devices. Raises `BalancerError`, `DeviceBusy`."""
    if spec.cluster.balancer == "nginx":
        Nginx.check()
    if found.simulated:
        return
    busy = holders(found)
    if busy:
        raise DeviceBusy("\n".join(map(_held, busy)))


def _held(holder: Holder) -> str:
    free = f": free it with `{holder.free_with}`" if holder.free_with else ""
    return f"{holder.device.name} {holder.device.id} is in use: {held_by(holder)}{free}"


def held_by(holder: Holder) -> str:
    """How much of a device is held, and by whom."""
    size = "" if holder.memory_bytes is None else f"{holder.memory_bytes / GIB:.1f} GiB "
    unit = f", unit {holder.unit}" if holder.unit else ""
    who = f"pid {holder.pid} of {holder.user} ({holder.command[:80]}{unit})" if holder.pid else holder.command
    return f"{size}held by {who}"


def check_ports(wanted: Sequence[int]) -> None:
    """Raises `PortTaken`, naming who listens there; that process is never ended."""
    for port in wanted:
        if not host.port_free(port):
            raise PortTaken(f"port {port} is taken by {host.port_holder(port)}: end it, or choose another port")


def lock_of(folder: Path) -> str:
    """The name of the lock that a night on a study folder holds."""
    return f"study folder {folder}"


def port_locks(wanted: Iterable[int]) -> list[str]:
    """The names of the locks on these ports, which a night uses now and then, and nobody else may meanwhile."""
    return [f"port {port}" for port in wanted]


def locks(spec: StudySpec, found: Inventory, folder: Path) -> list[str]:
    """What a night needs for itself from its start: its folder, its first ports, and every device, core by core."""
    cores = sorted({cpu for device in found.devices for cpu in device.cpus})
    front = [spec.cluster.balancer_port] if spec.cluster.balancer == "nginx" else []
    own = [lock_of(folder), *port_locks(dict.fromkeys([spec.cluster.first_port, *front]))]
    if found.simulated:
        return own
    cards = [f"device {device.id}" for device in found.devices if not device.cpus]
    return own + cards + [f"CPU {cpu}" for cpu in cores]


def later_locks(spec: StudySpec, instances: int) -> list[str]:
    """What it needs beside that, once it is known how many instances it may have: the ports of all but the first."""
    first = spec.cluster.first_port
    return port_locks(range(first + 1, first + instances))
