"""NVIDIA GPUs through NVML, NVIDIA's management library.

NVML counts GPUs in PCI order, CUDA need not: GPUs are therefore always named by UUID. MIG is out of scope: a card that
is cut into slices is one device here. So are the links between particular cards (NVLink): cards of one kind are taken
to be equally far from each other.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from autotune.errors import ClusterError, DeviceLost
from autotune.inventory.device import Device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class NoDriver(ClusterError):
    """There is no NVIDIA driver here, so there is no NVIDIA GPU to be used."""


@contextmanager
def session() -> Iterator[Any]:
    """Open NVML, give the `pynvml` module, close NVML.

    NVML counts how often it is opened: whoever samples often holds one session around all of it, and those inside cost
    nothing. Raises NoDriver where library or driver are missing, ClusterError for whatever else NVML has to say.
    """
    import pynvml  # noqa: PLC0415 – a host without NVIDIA GPUs never needs it

    lib: Any = pynvml
    try:
        lib.nvmlInit()
    except (lib.NVMLError_LibraryNotFound, lib.NVMLError_DriverNotLoaded) as error:
        raise NoDriver(f"no NVIDIA GPU can be used here: NVML says “{error}”; install the NVIDIA driver") from error
    except lib.NVMLError as error:
        raise ClusterError(f"NVML does not start: “{error}”; does `nvidia-smi` work on this machine?") from error
    try:
        yield lib
    except lib.NVMLError as error:
        raise ClusterError(f"NVML failed: “{error}”") from error
    finally:
        lib.nvmlShutdown()


@contextmanager
def handle(lib: Any, device: Device) -> Iterator[Any]:
    """Give NVML's handle of a device; raises DeviceLost if the device goes away while it is asked."""
    try:
        yield lib.nvmlDeviceGetHandleByUUID(device.id)
    except (lib.NVMLError_GpuIsLost, lib.NVMLError_NotFound, lib.NVMLError_GpuNotFound) as error:
        raise _lost(device, "is gone", error) from error
    except (lib.NVMLError_ResetRequired, lib.NVMLError_Unknown) as error:  # as after a grave Xid
        raise _lost(device, "answers no more", error) from error


def _lost(device: Device, how: str, error: Exception) -> DeviceLost:
    said = f"device {device.index} ({device.name}, {device.id}) {how}: NVML says “{error}”"
    return DeviceLost(said, device=device.id)


def ask(lib: Any, read: Callable[..., Any], *arguments: Any) -> Any:
    """Return what NVML reads, or None where this card or this driver cannot tell."""
    try:
        return read(*arguments)
    except (lib.NVMLError_NotSupported, lib.NVMLError_FunctionNotFound, lib.NVMLError_NoPermission):
        return None


def memory_used_bytes(lib: Any, card: Any) -> int:
    """Bytes in use by processes: without what the driver keeps for itself, where the driver (510 or later) tells."""
    used = ask(lib, lib.nvmlDeviceGetMemoryInfo, card, lib.nvmlMemory_v2) or lib.nvmlDeviceGetMemoryInfo(card)
    return int(used.used)


def find(sysfs: Path) -> tuple[tuple[Device, ...], str]:
    """All GPUs that NVML shows, and the driver's version. Raises NoDriver, ClusterError, DeviceLost."""
    with session() as lib:
        devices = tuple(_gpu(lib, index, sysfs) for index in range(lib.nvmlDeviceGetCount()))
        return devices, str(lib.nvmlSystemGetDriverVersion())


def _gpu(lib: Any, index: int, sysfs: Path) -> Device:
    try:
        card = lib.nvmlDeviceGetHandleByIndex(index)
        name, memory = lib.nvmlDeviceGetName(card), lib.nvmlDeviceGetMemoryInfo(card).total
        uuid, node = lib.nvmlDeviceGetUUID(card), _numa_node(lib, card, sysfs)
        link = [
            ask(lib, lib.nvmlDeviceGetMaxPcieLinkGeneration, card),
            ask(lib, lib.nvmlDeviceGetMaxPcieLinkWidth, card),
        ]
    except lib.NVMLError_GpuIsLost as error:
        raise DeviceLost(f"GPU {index} (NVML's count) has fallen off the bus: NVML says “{error}”") from error
    kind = f"{name}, {memory >> 20} MiB, PCIe {link[0] or '?'} x{link[1] or '?'}"
    if node is not None:
        kind += f", NUMA node {node}"
    return Device(index, uuid, "nvidia", name, memory, kind, numa_node=node)


def _numa_node(lib: Any, card: Any, sysfs: Path) -> int | None:
    """The node whose CPUs the card is attached to.

    NVML's own NUMA call means something else: the node that a card's memory forms on hosts where GPUs are nodes.
    """
    domain, _, place = lib.nvmlDeviceGetPciInfo(card).busId.lower().partition(":")
    try:
        node = int((sysfs / "bus/pci/devices" / f"{domain[-4:]}:{place}" / "numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None
