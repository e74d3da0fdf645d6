"""Groups of CPU cores, for hosts whose models run on the CPU.

A core is a physical one: sibling CPUs (hyper-threads) belong together and are never shared out to two devices, because
an instance with more threads than cores of its own can lose a hundredfold. Only the CPUs that this process may use
count, so that a container sees its own share.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from autotune.errors import ClusterError, SpecError
from autotune.inventory.device import Device

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


MOST_CPUS = 8192
"""Of which a Linux kernel can know."""


@dataclass(frozen=True, slots=True, order=True)
class Core:
    """One physical core: the CPU ids of it that may be used, and its NUMA node where the host has more than one."""

    cpus: tuple[int, ...]
    node: int | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """What the cores of a host have in common: the name of the processor, and the RAM."""

    model: str
    memory_bytes: int


def read_list(text: str) -> tuple[int, ...]:
    """Read the kernel's way to write CPU ids, as in `0-3,8`. Raises ValueError, too for an id that no kernel has."""
    cpus: set[int] = set()
    for span in filter(None, text.strip().split(",")):
        first, _, last = span.partition("-")
        if int(last or first) >= MOST_CPUS:
            raise ValueError(f"CPU {last or first}: there are at most {MOST_CPUS}")
        cpus.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(cpus))


def write_list(cpus: Iterable[int]) -> str:
    """Write CPU ids as the kernel does: the inverse of `read_list`."""
    spans: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if spans and cpu == spans[-1][-1] + 1:
            spans[-1][1:] = [cpu]
        else:
            spans.append([cpu])
    return ",".join("-".join(map(str, span)) for span in spans)


def within_quota(cores: Sequence[Core], sysfs: Path) -> list[Core]:
    """As many of the cores, from the first on, as the container's quota of CPU time can keep busy; at least one.

    A container that may use 2 CPUs of 64 (`docker run --cpus=2`) still sees all 64 (cgroup v2: `cpu.max`).
    """
    try:
        quota, period = (sysfs / "fs/cgroup/cpu.max").read_text().split()
        budget = int(quota) / int(period)
    except (OSError, ValueError):  # no such file outside a container; "max" where there is no limit
        return list(cores)
    busy = accumulate(len(core.cpus) for core in cores)
    return list(cores[: max(1, sum(cpus <= budget for cpus in busy))])


def physical_cores(sysfs: Path, allowed: Iterable[int]) -> list[Core]:
    """The physical cores among the allowed CPUs, node by node."""
    usable, nodes = frozenset(allowed), _nodes(sysfs)
    cores = {tuple(sorted(usable & _siblings(sysfs, cpu))) for cpu in usable}
    return sorted((Core(cpus, nodes.get(cpus[0])) for cpus in cores), key=lambda core: (core.node or 0, core.cpus))


def groups(choice: str, cores: Sequence[Core]) -> list[tuple[Core, ...]]:
    """Share the cores out to devices: `cpu`, `numa` (one a node), `cores:N` (N cores each), `groups:N` (N devices).

    `cpu` means a device for each NUMA node where there are several; otherwise a device for each core up to four cores,
    and two to four devices of equal size beyond, so that at most one core is left out. Raises SpecError, ClusterError.
    """
    if not cores:
        raise ClusterError("this process may use no CPU of this machine")
    nodes = _by_node(cores)
    if choice.startswith("cores:"):
        return _of_size(nodes, choice.removeprefix("cores:"))
    if choice.startswith("groups:"):
        return _of_number(cores, choice.removeprefix("groups:"))
    if choice == "numa" or len(nodes) > 1:
        return nodes
    return _equal(cores)


def device(share: Sequence[Core], cores: Sequence[Core], host: Host) -> Device:
    """The device that some of the host's cores make; its index is 0.

    Whole NUMA nodes of one size can be swapped for each other; parts of nodes only within their node, because an
    instance over two of them may or may not have to cross.
    """
    cpus = [cpu for core in share for cpu in core.cpus]
    nodes = {core.node for core in share}
    beside = {core.node for core in cores if core not in share}
    title = f"{host.model}, {len(share)} core{'s' if len(share) > 1 else ''}"
    kind = f"{title}, {len(cpus)} CPU{'s' if len(cpus) > 1 else ''}"
    if nodes & beside and len(_by_node(cores)) > 1:
        kind += f", NUMA node {write_list(node for node in nodes if node is not None)}"
    return Device(
        index=0,
        id=f"cpu:{write_list(cpus)}",
        make="cpu",
        name=title,
        memory_bytes=host.memory_bytes,
        kind=kind,
        cpus=tuple(sorted(cpus)),
        threads=len(share),
        numa_node=nodes.pop() if len(nodes) == 1 else None,
    )


def host(procfs: Path, sysfs: Path) -> Host:
    """What the cores of this host have in common."""
    return Host(_model(procfs), _memory_bytes(procfs, sysfs))


def _siblings(sysfs: Path, cpu: int) -> frozenset[int]:
    try:
        text = (sysfs / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:  # some containers hide it
        return frozenset((cpu,))
    return frozenset(read_list(text)) | {cpu}


def _nodes(sysfs: Path) -> dict[int, int]:
    """CPU id → NUMA node."""
    folders = (sysfs / "devices/system/node").glob("node[0-9]*")
    return {cpu: int(path.name[4:]) for path in folders for cpu in read_list((path / "cpulist").read_text())}


def _by_node(cores: Sequence[Core]) -> list[tuple[Core, ...]]:
    nodes = dict.fromkeys(core.node for core in cores)
    return [tuple(core for core in cores if core.node == node) for node in nodes]


def _equal(cores: Sequence[Core]) -> list[tuple[Core, ...]]:
    many = len(cores)
    count = many if many <= 4 else max((4, 3, 2), key=lambda parts: (many - many % parts, parts))
    return _chunks(cores, many // count)[:count]


def _of_size(nodes: Sequence[tuple[Core, ...]], text: str) -> list[tuple[Core, ...]]:
    largest = max(map(len, nodes))
    if not text.isdecimal() or not 1 <= int(text) <= largest:
        raise SpecError(f'devices = "cores:{text}": N of cores:N is 1 to {largest}, the cores of one NUMA node here')
    return [chunk for node in nodes for chunk in _chunks(node, int(text))]


def _of_number(cores: Sequence[Core], text: str) -> list[tuple[Core, ...]]:
    if not text.isdecimal() or not 1 <= int(text) <= len(cores):
        raise SpecError(f'devices = "groups:{text}": N of groups:N is 1 to {len(cores)}, the cores of this host')
    return _chunks(cores, len(cores) // int(text))[: int(text)]


def _chunks(cores: Sequence[Core], size: int) -> list[tuple[Core, ...]]:
    return [tuple(cores[start : start + size]) for start in range(0, len(cores) - size + 1, size)]


def _model(procfs: Path) -> str:
    for line in (procfs / "cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _memory_bytes(procfs: Path, sysfs: Path) -> int:
    """The host's RAM, or the share of it that the container may use."""
    lines = (procfs / "meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    try:
        return min(total, int((sysfs / "fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such file outside a container; "max" where there is no limit
        return total
