"""What a study stands on, told by a hardware profile: nothing is started, and no port or program is needed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from autotune import aims, hosts
from autotune import ground as grounds
from autotune.errors import SpecError, UsageError
from autotune.ground import Ground
from autotune.ollama.api import facts
from autotune.simulator.library import Library
from autotune.simulator.profiles import load_profile
from autotune.spec import DeviceEntry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.ollama.api import Ollama
    from autotune.rehearsal.questions import Lengths
    from autotune.simulator.profiles import ModelProfile, Profile
    from autotune.spec import StudySpec

NOWHERE = Path("/nowhere")


@dataclass(frozen=True)
class Host:
    """A played host, and what the study stands on there."""

    profile: Profile
    library: Library
    model: ModelProfile
    ground: Ground
    lengths: dict[float | None, Lengths] = field(default_factory=dict, repr=False, compare=False)
    """Of the prompts of the study's own seed, for all whose truth is asked for; see `Rehearsal.lengths`."""


class _Server:
    """What `facts` asks of a server."""

    def __init__(self, profile: Profile, library: Library) -> None:
        self._profile = profile
        self._library = library

    async def version(self) -> str:
        return self._profile.version

    async def models(self) -> list[Mapping[str, Any]]:
        return [entry.listed() for entry in self._library.entries().values()]

    async def show(self, model: str) -> Mapping[str, Any]:
        entry = self._library.find(model)
        assert entry is not None
        return entry.shown()


def played(spec: StudySpec, profile: str = "") -> StudySpec:
    """The study on a played host: on that of `profile` where one is named. Raises `SpecError` for a study that has none
    of its own, and `UsageError` for a profile that cannot be used."""
    if not profile:
        if spec.cluster.driver != "simulated":
            raise SpecError('cluster.driver = "process": name the host to play with --profile')
        return spec
    try:
        devices, there = spec.cluster.devices, load_profile(profile).devices
    except SpecError as error:  # it is the command line's, not the study file's
        raise UsageError(f"--profile {profile}: {error.message.removeprefix(f'profile {profile!r}: ')}") from error
    known = {name for index, device in enumerate(there) for name in (device.uuid, str(index))}
    if isinstance(devices, str):
        devices = "auto"  # groups of cores are the real host's
    else:
        named = [device.id or "" for device in devices]
        if not known.issuperset(named):  # as many of the profile's
            named = [str(index) for index in range(min(len(devices), len(there)))]
        devices = tuple(DeviceEntry(id=name) for name in named)
    cluster = spec.cluster.model_copy(update={"driver": "simulated", "profile": profile, "devices": devices})
    return spec.model_copy(update={"cluster": cluster})


async def host(spec: StudySpec) -> Host:
    """What a study of a played host stands on. Raises `SpecError`, `ModelMissing`."""
    profile = load_profile(spec.cluster.profile)
    _check(spec.cluster.profile, profile.model_dump())
    found = hosts.inventory(spec)
    aims.check(spec)
    grounds.layouts(spec, found)
    library = Library(profile, NOWHERE, NOWHERE)
    known = await facts(cast("Ollama", _Server(profile, library)), spec.cluster.model)
    if 0 < known.model.context_length < spec.workload.num_ctx:
        trained = known.model.context_length
        raise SpecError(f"workload.num_ctx = {spec.workload.num_ctx}: {spec.cluster.model} was trained for {trained}")
    room = grounds.space(spec, found, known)
    entry = library.find(spec.cluster.model)
    assert entry is not None  # `facts` has found it
    ground = Ground(spec, found, known, NOWHERE, NOWHERE, room, grounds.baseline(spec, found))
    return Host(profile, library, entry.model, ground)


def _check(name: str, value: Any, key: str = "") -> None:
    """A time without end is one that nobody lives to see. Raises `SpecError`."""
    if isinstance(value, dict | list | tuple):
        members = value.items() if isinstance(value, dict) else enumerate(value)
        for part, member in members:
            _check(name, member, f"{key}.{part}".lstrip("."))
    elif isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{name}: {key} = {value}: must be a finite number")
