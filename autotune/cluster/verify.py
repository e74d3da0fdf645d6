"""Where Ollama really put the model, and with how many slots: the proof of a plan, not its intent."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autotune.cluster import host
from autotune.errors import ContextChanged, DeviceLost, LoadFailed, Offloaded, OnCpu, ParallelIgnored
from autotune.ollama.log import argv_parallel, read_load

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autotune.cluster.driver import Handle
    from autotune.ollama.api import Loaded
    from autotune.plan import InstancePlan, Plan


_NVIDIA = re.compile("GPU-[0-9a-f-]{36}")
"""NVML's UUIDs of whole GPUs."""
_BLIND = ("cpu",)
"""The devices of a server that found no GPU."""
SLACK = 0.01
"""So much of a model that has a part on the host anyway may be there beyond it: buffers that grow with the slots."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What one instance really runs. None where Ollama does not say."""

    instance: str
    on_gpu: bool
    """Whether a GPU was asked for."""
    compute: tuple[str, ...]
    """Devices that the server found; ("cpu",) when it found no GPU."""
    layers_on_device: int | None
    layers: int | None
    size_bytes: int
    size_vram_bytes: int
    num_parallel: int | None
    parallel_unsupported: bool
    context_length: int

    @property
    def share_on_device(self) -> float:
        """The part of the model on the device: by layers where they are logged, or by bytes, whichever is less.

        llama.cpp's fit counts a layer as offloaded of which a part overflows into the host's memory.
        """
        if self.layers_on_device is None or not self.layers:
            return _by_bytes(self)
        by_layers = self.layers_on_device / self.layers
        return min(by_layers, _by_bytes(self)) if self.size_bytes else by_layers

    @property
    def single(self) -> bool:
        """Ollama serves this model with one slot, whatever it is asked for."""
        return self.parallel_unsupported and self.num_parallel == 1


def placement(handle: Handle, log: str, loaded: list[Loaded]) -> Placement:
    """Read one instance's placement. Raises `LoadFailed` when it has no model in memory, or more than one."""
    if len(loaded) != 1:
        names = ", ".join(model.name for model in loaded) or "no model"
        raise LoadFailed(f"{handle.instance.name} has {names} in memory, not one model")
    report = read_load(log)
    running = [slots for pid in host.children(handle.pid) if (slots := argv_parallel(host.argv(pid))) is not None]
    return Placement(
        instance=handle.instance.name,
        on_gpu=handle.instance.on_gpu,
        compute=report.compute,
        layers_on_device=report.layers_on_device,
        layers=report.layers,
        size_bytes=loaded[0].size_bytes,
        size_vram_bytes=loaded[0].size_vram_bytes,
        num_parallel=running[0] if running else report.num_parallel,
        parallel_unsupported=report.parallel_unsupported,
        context_length=loaded[0].context_length,
    )


def short(found: Placement) -> bool:
    """Whether a part of the model is not on the device that was asked for."""
    return found.on_gpu and found.share_on_device < 1


def need_devices(pairs: Sequence[tuple[InstancePlan, Placement]]) -> None:
    """Hold the devices that servers found against those that they were given. Raises `DeviceLost`.

    A GPU may be lost to CUDA that NVML still lists; then Ollama goes on without a word, on what is left. No
    configuration is to blame for that. Where several servers found nothing at all, it is no one device's fault either.
    """
    blind = [one for _, one in pairs if one.on_gpu and one.compute == _BLIND]
    if len(blind) == len(pairs) > 1:
        raise DeviceLost(f"no instance found a GPU: {_why(pairs[0][0])}")
    for instance, found in pairs:
        if not found.on_gpu:
            continue
        own, missing = len(instance.devices), _missing(instance, found)
        if missing:
            there = "no GPU" if found.compute == _BLIND else f"{own - len(missing)} of its {own} GPUs"
            # CUDA's count ends at the first device that it cannot find
            said = f"{instance.name} found {there}: {missing[0]} is lost: {_why(instance)}"
            raise DeviceLost(said, device=missing[0])
        if 0 < len(found.compute) < own:
            there = f"{len(found.compute)} of its {own} GPUs ({', '.join(instance.devices)})"
            raise DeviceLost(f"{instance.name} found {there} and does not say which: {_why(instance)}")


def _why(instance: InstancePlan) -> str:
    """What may be the matter with a GPU that a server did not find."""
    nvidia = any(map(_NVIDIA.fullmatch, instance.devices))
    hint = "name an Xid; nvidia_uvm may have to be loaded again" if nvidia else "say more"
    return f"its driver does not give it, whatever lists it (`dmesg` may {hint}), or Ollama lacks the libraries for it"


def _missing(instance: InstancePlan, found: Placement) -> list[str]:
    """Devices that a server was given and did not find, as far as it names those that it did as NVML does."""
    if found.compute == _BLIND:
        return [*instance.devices]
    named = [*found.compute, *instance.devices]
    known = bool(found.compute) and all(_NVIDIA.fullmatch(one) for one in named)
    return [device for device in instance.devices if known and device not in found.compute]


def check(plan: Plan, found: Placement, alone: Placement | None) -> None:
    """Hold what runs against what was planned.

    `alone` is the placement of the same model with one slot and nothing beside it, where that is known.
    Raises `OnCpu`, `Offloaded`, `ParallelIgnored`, `ContextChanged`.
    """
    if found.on_gpu and found.share_on_device == 0:
        raise OnCpu(f"{found.instance} loaded {plan.model} on the CPU, not on the GPU that it was given")
    if short(found) and (alone is None or _fewer(found, alone)):
        most = "" if alone is None else f"; alone it has {_share(alone)} there"
        raise Offloaded(f"{found.instance} has {_share(found)} of {plan.model} on the GPU{most}")
    asked = {one.name: one.slots for one in plan.instances}.get(found.instance, plan.num_parallel)
    if found.num_parallel is not None and found.num_parallel != asked and not found.single:
        raise ParallelIgnored(f"{found.instance} serves {found.num_parallel} slots, not {asked}")
    if found.context_length not in {0, plan.num_ctx}:
        raise ContextChanged(f"{found.instance} serves a context of {found.context_length}, not {plan.num_ctx} tokens")


def _fewer(found: Placement, alone: Placement) -> bool:
    """Whether less of the model is on the device than where it is alone.

    Of a model that has a part on the host even then (embeddings) that part may be larger by the slots' own buffers.
    """
    if (found.layers_on_device or 0) < (alone.layers_on_device or 0):
        return True
    slack = SLACK if alone.size_vram_bytes < alone.size_bytes else 0.0
    return _by_bytes(found) < _by_bytes(alone) - slack


def unproved(placements: Iterable[Placement]) -> list[str]:
    """Cautions about what Ollama did not say, so that nothing proves it."""
    found = []
    for one in placements:
        if one.num_parallel is None:
            found.append(f"{one.instance}: neither its processes nor its log say how many slots it has")
        if one.context_length == 0:
            found.append(f"{one.instance}: it does not say its context length")
        if one.on_gpu and one.layers is None:
            found.append(f"{one.instance}: its log does not say which layers are on the GPU; their size says so")
    return found


def alone(plan: Plan, instance: InstancePlan) -> Plan:
    """The same model on the same devices, with one slot and nothing beside it."""
    env = tuple((name, "1" if name == "OLLAMA_NUM_PARALLEL" else value) for name, value in instance.env)
    only = replace(instance, env=env)
    balancer = replace(plan.balancer, upstreams=(only.address,), policy="round_robin", weights=())
    return replace(plan, instances=(only,), balancer=balancer, num_parallel=1)


def _by_bytes(found: Placement) -> float:
    return found.size_vram_bytes / found.size_bytes if found.size_bytes else 0.0


def _share(found: Placement) -> str:
    layers = f"{found.layers_on_device} of {found.layers} layers"
    if found.layers_on_device is None or not found.layers:
        return f"{found.share_on_device:.0%}"
    if found.layers_on_device < found.layers or found.share_on_device == 1:
        return layers
    return f"{layers}, but only {found.share_on_device:.1%} of the bytes,"
