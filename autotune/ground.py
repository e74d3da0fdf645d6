"""What a study stands on: host, server, model, space. All of it is looked at before anything wakes.

Nothing is changed, but that one Ollama server, which sees no GPU, is started to tell its version and the model's facts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

import aiohttp

from autotune import aims, claims, hosts, telemetry
from autotune import plan as plans
from autotune.cluster.cluster import Cluster
from autotune.cluster.nginx import Nginx
from autotune.cluster.process import ProcessDriver
from autotune.errors import ClusterError, DeviceLost, ModelMissing, SpecError
from autotune.inventory import Inventory, visible_devices
from autotune.ollama.api import Ollama, ServerFacts, facts
from autotune.ollama.env import has_llama_server, left_free_bytes
from autotune.ollama.models import manifest, stores, unusable
from autotune.plan import LOOPBACK, InstancePlan
from autotune.simulator.profiles import load_profile
from autotune.space import (
    Space,
    build,
    called,
    canonical,
    classes,
    instances,
    key,
    kinds,
    moved,
    own,
    parse_layout,
    simple,
)
from autotune.space.forecast import chances
from autotune.store import CONTENT

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from autotune.cluster.children import Children
    from autotune.space import Layout, Params
    from autotune.spec import StudySpec

LIKELY = 0.5
"""A configuration that is less likely to fit the memory is not what experience says."""
DERIVED = "derived.txt"
"""Names of derived models that are in the user's store while a night runs."""


@dataclass(frozen=True)
class Ground:
    """What a study stands on: the host, the server, the model, and the space that follows."""

    spec: StudySpec
    inventory: Inventory
    facts: ServerFacts
    models: Path
    home: Path
    space: Space
    baseline: dict[str, Any]
    before: Inventory | None = None
    """The devices before some were lost; None where all are there."""
    _made: dict[str, plans.Plan] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Plans by `key`: a search asks for those of hundreds of configurations after every trial."""

    def plan(self, params: Mapping[str, Any]) -> plans.Plan:
        """The plan of one configuration. Raises `DeviceLost` where too few of its devices are left."""
        if (name := key(params)) not in self._made:
            self._made[name] = self._plan(params)
        return self._made[name]

    def _plan(self, params: Mapping[str, Any]) -> plans.Plan:
        today = self.space.today(params)
        if today is None:
            raise DeviceLost(f'layout "{params["layout"]}": too few of its devices are left')
        return plans.make(self.spec, self.inventory, self.facts, today, (self.models, self.home))

    @property
    def ports(self) -> list[int]:
        """All on which anything may listen in a night. Raises `SpecError` when they are not there."""
        return plans.ports(self.spec, self.most_instances)

    @property
    def most_instances(self) -> int:
        """Of any configuration, the baseline too."""
        return max(self.space.most_instances, len(self.space.members(self.baseline)))

    def without(self, ids: Collection[str]) -> Ground:
        """The same ground, whose other devices keep their indices.

        Raises `SpecError` where nothing is left to try, or what is left would go by other names.
        """
        before = self.before or self.inventory
        left = before.without(ids)
        if not left.devices:
            raise SpecError("no device is left")
        if (self.spec.search.per_class or self.spec.baseline.num_parallel_at) and _renamed(before, left):
            raise SpecError("the kinds that are left would get other letters, and num_parallel@… another meaning")
        fewer = replace(self, before=before, inventory=left)
        room = fewer.room()
        return replace(fewer, space=room, baseline=dict(room.today(self.baseline) or self.baseline))

    @property
    def layouts(self) -> Literal["auto"] | tuple[str, ...]:
        """Those that the study file writes out, on the devices that are left."""
        written = self.spec.search.layouts
        if written == "auto":
            return "auto"
        if self.before is None:
            return tuple(written)
        found = (moved(parse_layout(text, self.before), self.before, self.inventory) for text in written)
        return tuple(dict.fromkeys(str(layout) for layout in found if layout is not None))

    def rule_of_thumb(self) -> dict[str, Any]:
        """What experience says before anything is measured, as near as the space has it, of what likely fits.

        One instance on each device, a slot for each of its users, and `least_conn`.
        """
        users = self.spec.level(None).users or 0

        def oddity(params: Mapping[str, Any]) -> tuple[float, int, int, int, bool]:
            members = self.space.members(params)
            slots = sum(member.slots for member in members)
            crowded = sum((member.crowd - 1) / member.crowd + len(member.devices) - 1 for member in members)
            return crowded, -len(members), max(users - slots, 0), slots, params.get("policy") != "least_conn"

        if self.space.small:
            every = list(self.space.configurations())
        else:
            every = list(chain.from_iterable(chain.from_iterable(simple(self.space).values())))
        unlikely = self.chances(every) < LIKELY
        return min(zip(unlikely, every, strict=True), key=lambda one: (bool(one[0]), oddity(one[1])))[1]

    def chances(self, every: Sequence[Params]) -> NDArray[np.float64]:
        """How likely each of some configurations is to fit the memory, before anything was tried."""
        margin = left_free_bytes(self.spec.cluster.free_bytes, self.facts.version)
        return chances(self.space, self.facts.model, self.spec.workload.num_ctx, every, margin)

    def narrowed(self) -> Space:
        """The space when Ollama serves the model with one slot only."""
        return self.room(num_parallel=(1,))

    def room(self, **changes: Any) -> Space:
        """The space on the devices that are left, with these changes. Raises `SpecError`."""
        found = space(self.spec, self.inventory, self.facts, layouts=self.layouts, **changes)
        return replace(found, before=self.before)

    def measured_on(self) -> dict[str, Any]:
        """What besides the study file decides what a trial measures."""
        return {
            "host.devices": [device.id for device in self.inventory.devices],
            "host.driver": self.inventory.driver,
            "host.ollama": self.facts.version,
            "host.model digest": self.facts.model.digest,
            **self.contents,
        }

    @cached_property
    def contents(self) -> dict[str, str]:
        """Digests of what is in the files that the study names: another content under the same path is another study.

        Raises `SpecError` where one is gone.
        """
        found = {}
        if (prompts := self.spec.workload.prompts) is not None:
            try:
                found[f"{CONTENT}workload.prompts"] = _digest(prompts.read_bytes())
            except OSError as error:
                raise SpecError(f"workload.prompts = {str(prompts)!r}: {error.strerror}") from error
        if self.spec.cluster.driver == "simulated":
            profile = load_profile(self.spec.cluster.profile)
            played = profile.model_dump_json(exclude_defaults=True, exclude={"tps_error"})
            found[f"{CONTENT}cluster.profile"] = _digest(played.encode())
        return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _renamed(before: Inventory, left: Inventory) -> bool:
    """Whether several kinds are left, which would not be called A, B, … as they were."""
    then, now = ([devices[0].kind for devices in kinds(found)] for found in (before, left))
    return len(now) > 1 and now != then[: len(now)]


def store_of(spec: StudySpec, run: Path) -> Path:
    """The model store: the one that is written, or the first of the usual ones that has the model."""
    if spec.cluster.models_dir is not None:
        if spec.cluster.driver != "simulated" and (why := unusable(spec.cluster.models_dir)):
            raise SpecError(f"cluster.models_dir = {str(spec.cluster.models_dir)!r}: {why}")
        return spec.cluster.models_dir
    if spec.cluster.driver == "simulated":
        return run / "models"
    there = [store for store in stores() if not unusable(store)]
    if not there:
        looked = ", ".join(f"{store} ({unusable(store)})" for store in stores())
        raise ModelMissing(f"no model store found; looked at {looked}: set cluster.models_dir")
    return next((store for store in there if manifest(store, spec.cluster.model).exists()), there[0])


async def ask(spec: StudySpec, children: Children, run: Path, models: Path) -> ServerFacts:
    """Start one server that sees no GPU, ask it about itself and the model, end it. Raises `ModelMissing`, …"""
    home = _home(spec, run)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"cluster.home = {str(home)!r}: {error.strerror}") from error
    env = {
        "HOME": str(home),
        "OLLAMA_MODELS": str(models),
        "OLLAMA_HOST": f"{LOOPBACK}:{spec.cluster.first_port}",
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_NOPRUNE": "1",
        **visible_devices(()),
    }
    asked = InstancePlan("ollama-asked", spec.cluster.first_port, (), tuple(sorted(env.items())))
    driver = _driver(spec, children, run)
    async with Cluster(driver, None, start_timeout_s=spec.cluster.start_timeout_s, load_timeout_s=1) as cluster:
        await cluster.start(asked)
        async with Ollama(asked.url) as server:
            try:
                await _forget(server, run / DERIVED)
                return await facts(server, spec.cluster.model)
            except (aiohttp.ClientError, TimeoutError) as error:
                raise ClusterError(f"Ollama does not tell its models (store {models}): {error}") from error
            except ModelMissing as error:
                asked_for = f"cluster.model = {spec.cluster.model!r}"
                raise ModelMissing(f"{asked_for}: {models}: {error.message}{_how_to(spec, models)}") from error


async def _forget(server: Ollama, ledger: Path) -> None:
    """Names that an earlier run added to the store, and was killed before it could take them back."""
    for name in _recorded(ledger):
        await server.delete(name)
    _clear(ledger)


def _recorded(ledger: Path) -> list[str]:
    return ledger.read_text(encoding="utf-8").split() if ledger.exists() else []


def _clear(ledger: Path) -> None:
    ledger.unlink(missing_ok=True)


def _how_to(spec: StudySpec, models: Path) -> str:
    return "" if spec.cluster.driver == "simulated" else f". To get it: {pull(spec, models)}"


def pull(spec: StudySpec, models: Path) -> str:
    """The command that brings the model into a store that no server has open."""
    address, store, binary = f"{LOOPBACK}:{spec.cluster.first_port}", quote(str(models)), quote(spec.cluster.binary)
    return (
        f"OLLAMA_MODELS={store} OLLAMA_HOST={address} {binary} serve & sleep 3; "
        f"OLLAMA_HOST={address} {binary} pull {spec.cluster.model}; kill %1"
    )


def space(spec: StudySpec, found: Inventory, known: ServerFacts, **changes: Any) -> Space:
    """The space of a study on this host. Raises `SpecError`."""
    search = spec.search
    values: dict[str, Any] = {
        "num_ctx": spec.workload.num_ctx,
        "num_parallel": search.num_parallel,
        "per_class": search.per_class,
        "vram_free_bytes": spec.cluster.free_bytes or 0,
        "layouts": search.layouts,
        "copies": search.instances_per_device,
        "spans": search.devices_per_instance,
        "policies": search.policy,
        "weights": search.weights,
        "flash_attention": search.flash_attention,
        "cache_brings_flash": not has_llama_server(known.version),
        "kv_cache_type": search.kv_cache_type,
        "threads": search.threads,
        "num_batch": search.num_batch,
        "env": search.env,
    }
    return build(found, known.model, **{**values, **changes})


def baseline(spec: StudySpec, found: Inventory) -> dict[str, Any]:
    """The parameters of trial 0, in the words of the space. Raises `SpecError`."""
    written = spec.baseline
    whole = "+".join(str(device.index) for device in found.devices) if found.devices[0].make == "cpu" else "0"
    layout = canonical(_layout("baseline.layout", written.layout or whole, found), found)
    params: dict[str, Any] = {
        "layout": str(layout),
        "num_parallel": written.num_parallel,
        **_slots_of_others(spec, found, str(layout)),
        "flash_attention": written.flash_attention,
        "kv_cache_type": written.kv_cache_type,
    }
    if len(layout.instances) > 1:
        params["policy"] = written.policy
    if len({member.slots for member in instances(params, found)}) > 1:
        params["weights"] = written.weights
    params |= {name: value for name in ("threads", "num_batch") if (value := getattr(written, name)) is not None}
    return params | {f"env:{name}": value for name, value in written.env.items()}


def _slots_of_others(spec: StudySpec, found: Inventory, layout: str) -> dict[str, int]:
    """The baseline's slots of the classes of instances that are not the first of its layout."""
    told = spec.baseline.num_parallel_at
    first, *others = classes(instances({"layout": layout, "num_parallel": spec.baseline.num_parallel}, found))
    strange = told.keys() - {called(of) for of in others}
    if strange:
        there = ", ".join(map(called, others)) or f"none beside {called(first)}"
        raise SpecError(f"baseline.num_parallel_at: its layout has no instances on {min(strange)}; there are {there}")
    alike = not told and (not spec.search.per_class or len(kinds(found)) == 1)
    return {} if alike else {own(of): told.get(called(of), spec.baseline.num_parallel) for of in others}


def layouts(spec: StudySpec, found: Inventory) -> list[Layout]:
    """The layouts that the study file writes out, the baseline's first. Raises `SpecError`."""
    listed = spec.search.layouts if spec.search.layouts != "auto" else ()
    first = parse_layout(str(baseline(spec, found)["layout"]), found)
    return [first, *(_layout(f"search.layouts[{index}]", text, found) for index, text in enumerate(listed))]


def _layout(key: str, text: str, found: Inventory) -> Layout:
    try:
        return parse_layout(text, found)
    except SpecError as error:
        raise SpecError(f"{key}: {error.message}") from error


async def ground(
    spec: StudySpec, found: Inventory, children: Children, run: Path, lost: Collection[str] = ()
) -> Ground:
    """Find out what the study stands on, whose `lost` devices are asked nothing.

    Raises `SpecError`, `ModelMissing`, `PortTaken`, …
    """
    aims.check(spec)
    telemetry.check(spec, found.without(lost))
    first = baseline(spec, found)
    layouts(spec, found)  # before anything is started: a layout that is wrong needs no server to say so
    claims.check_ports(plans.ports(spec, 1))
    models = store_of(spec, run)
    known = await ask(spec, children, run, models)
    trained = known.model.context_length
    if 0 < trained < spec.workload.num_ctx:
        raise SpecError(f"workload.num_ctx = {spec.workload.num_ctx}: {spec.cluster.model} was trained for {trained}")
    room = space(spec, found, known)
    standing = Ground(spec, found, known, models, _home(spec, run), room, first)
    claims.check_ports(standing.ports)
    return standing


def cluster(spec: StudySpec, children: Children, run: Path) -> Cluster:
    """The cluster of a night, with nothing running yet."""
    driver = _driver(spec, children, run)
    nginx = Nginx(children, run / "nginx") if spec.cluster.balancer == "nginx" else None
    return Cluster(
        driver,
        nginx,
        start_timeout_s=spec.cluster.start_timeout_s,
        load_timeout_s=spec.cluster.load_timeout_s,
        ledger=run / DERIVED,
    )


def _driver(spec: StudySpec, children: Children, run: Path) -> ProcessDriver:
    started, extra = hosts.command(spec)
    return ProcessDriver(started, children, run / "logs", env=extra, stop_timeout_s=spec.cluster.stop_timeout_s)


def _home(spec: StudySpec, run: Path) -> Path:
    return spec.cluster.home or run / "home"
