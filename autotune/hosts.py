"""The host of a study, real or played by a hardware profile: its devices, and how an instance is started there."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.errors import BinaryMissing, SpecError
from autotune.inventory import Device, DeviceEntry, Inventory, discover
from autotune.simulator.profiles import load_profile

if TYPE_CHECKING:
    from autotune.spec import DeviceEntry as Named
    from autotune.spec import StudySpec


def inventory(spec: StudySpec) -> Inventory:
    """The devices of the study. Raises `ClusterError`, `SpecError`."""
    return _INVENTORIES[spec.cluster.driver](spec)


def _real(spec: StudySpec) -> Inventory:
    chosen = spec.cluster.devices
    if isinstance(chosen, str):
        return discover(chosen)
    return discover([DeviceEntry(**entry.model_dump()) for entry in chosen])


def _played(spec: StudySpec) -> Inventory:
    try:
        profile = load_profile(spec.cluster.profile)
    except SpecError as error:
        raise SpecError(f"cluster.profile: {error.message}") from error
    if not profile.devices:
        raise SpecError(f"cluster.profile = {spec.cluster.profile!r}: it has no devices to share out")
    devices = tuple(
        Device(
            index=index,
            id=device.uuid,
            make="nvidia",
            name=device.name,
            memory_bytes=device.memory_bytes,
            kind=f"{device.name} {device.memory_bytes} {device.speed:g}",
        )
        for index, device in enumerate(profile.devices)
    )
    chosen = tuple(replace(device, index=index) for index, device in enumerate(_picked(spec, devices)))
    return Inventory(f"profile {profile.name}", chosen, simulated=True)


def _picked(spec: StudySpec, there: tuple[Device, ...]) -> list[Device]:
    """Those of a played host that the study names one by one; all where it does not."""
    chosen, profile = spec.cluster.devices, spec.cluster.profile
    allowed = f"0 to {len(there) - 1}, or {', '.join(device.id for device in there)}"
    if isinstance(chosen, str):
        if chosen not in {"auto", "gpu"}:
            raise _no_cores(repr(chosen), profile, f'"auto", "gpu" or a list of {allowed}')
        return list(there)
    known = {name: device for device in there for name in (device.id, str(device.index))}
    for entry in chosen:
        if entry.cores is not None:
            raise _no_cores(f"cores = {entry.cores!r}", profile, allowed)
        _refuse_told(entry, profile)
    named = [entry.id or "" for entry in chosen]
    if strange := [name for name in named if name not in known]:
        raise SpecError(f"cluster.devices: {strange[0]!r}: no such device in profile {profile!r}; it has {allowed}")
    picked = list(dict.fromkeys(known[name] for name in named))
    if len(picked) < len(named):
        raise SpecError("cluster.devices: the same device twice")
    return picked


def _no_cores(told: str, profile: str, allowed: str) -> SpecError:
    """Groups of cores are made of those of this host, which nobody plays on."""
    return SpecError(
        f"cluster.devices: {told}: a played host has no cores to share out, only the devices of its profile"
        f" {profile!r}; allowed are {allowed}"
    )


def _refuse_told(entry: Named, profile: str) -> None:
    """What a played device is, its profile says; what a study says beside it would count for nothing."""
    for key, value in entry.model_dump(include={"make", "name", "memory_gib"}).items():
        if value is not None and (key, value) != ("make", "nvidia"):
            raise SpecError(
                f"cluster.devices: {entry.id}: {key} = {value!r}: not allowed here, as profile"
                f" {profile!r} says what its devices are"
            )


_INVENTORIES = {"process": _real, "simulated": _played}


def command(spec: StudySpec) -> tuple[list[str], dict[str, str]]:
    """How an instance is started, and what the environment of all of them adds. Raises `BinaryMissing`."""
    if spec.cluster.driver == "simulated":
        scale = f"{spec.cluster.time_scale:g}"
        played = {
            "AUTOTUNE_SIM_PROFILE": spec.cluster.profile,
            "AUTOTUNE_SIM_TIME_SCALE": scale,
            "PYTHONPATH": str(Path(__file__).parents[1]),  # the stand-in is this very package, installed or not
        }
        return [sys.executable, "-m", "autotune.simulator", "serve"], played
    found = shutil.which(spec.cluster.binary)
    if found is None:
        raise BinaryMissing(
            f"cluster.binary = {spec.cluster.binary!r}: no such program; install Ollama (https://ollama.com/download)"
            " or write its path"
        )
    return [found, "serve"], {}
