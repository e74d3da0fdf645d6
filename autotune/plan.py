"""A resolved, runnable configuration of the whole cluster: pure values, no effects.

`make` turns parameters into a `Plan`; two parameter sets that mean the same cluster have the same fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autotune.errors import SpecError
from autotune.inventory import visible_devices
from autotune.ollama.env import Settings, model_parameters, server_env
from autotune.space import canonical, instances, parse_layout

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from autotune.inventory import Device, Inventory
    from autotune.ollama.api import ServerFacts
    from autotune.space import Member
    from autotune.spec import StudySpec

GIB = 2**30
HIGHEST_PORT = 65535
LOOPBACK = "127.0.0.1"  # an address: `localhost` may be ::1, where Ollama does not listen


@dataclass(frozen=True, slots=True)
class InstancePlan:
    """One Ollama server."""

    name: str
    port: int
    devices: tuple[str, ...]
    """Ids of its devices."""
    env: tuple[tuple[str, str], ...]
    """The whole of what it is told, sorted by name."""
    cpus: tuple[int, ...] = ()
    """The CPUs that it is pinned to; empty: all."""
    on_gpu: bool = False

    @property
    def address(self) -> str:
        """host:port."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.address}"

    @property
    def slots(self) -> int:
        """How many requests it is to answer at a time."""
        return int(dict(self.env).get("OLLAMA_NUM_PARALLEL", 1))


@dataclass(frozen=True, slots=True)
class BalancerPlan:
    """What stands in front of the instances."""

    kind: str
    port: int
    policy: str
    upstreams: tuple[str, ...]
    weights: tuple[int, ...] = ()
    """The share of each upstream against those of the others; none where all are equal."""


DERIVED = "autotune-"
"""So begin the names of models that are in the store while a night runs."""


@dataclass(frozen=True, slots=True)
class DerivedModel:
    """A model that carries parameters which no environment variable can set."""

    name: str
    """Of this host's nights on these ports alone: another one may use the same store, and takes its own names away."""
    parent: str
    parameters: tuple[tuple[str, int], ...]

    @property
    def plain(self) -> str:
        """What it is, wherever it runs: its name without how it begins, and without what makes it one night's."""
        return re.sub("-[0-9a-f]{6}$", "", self.name.removeprefix(DERIVED))


@dataclass(frozen=True)
class Plan:
    """The whole cluster."""

    instances: tuple[InstancePlan, ...]
    balancer: BalancerPlan
    model: str
    """The name that requests carry."""
    num_parallel: int
    """Of its first class of instances; each instance knows its own."""
    num_ctx: int
    layout: str
    derived: DerivedModel | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Equal for equal clusters, whatever parameters led there."""
        content = asdict(self)
        if not self.balancer.weights:
            del content["balancer"]["weights"]  # as plans were written before there were any
        if self.derived is not None:
            content["model"] = content["derived"]["name"] = DERIVED + self.derived.plain
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def devices(self) -> frozenset[str]:
        """The ids of all devices that it uses."""
        return frozenset(device for instance in self.instances for device in instance.devices)

    @property
    def slots(self) -> str:
        """OLLAMA_NUM_PARALLEL of its instances: "16", or "16 and 8" where they differ."""
        return " and ".join(dict.fromkeys(str(instance.slots) for instance in self.instances))

    def sorts(self, inventory: Inventory) -> dict[str, tuple[int, tuple[str, ...], int]]:
        """What should make instances equally fast, by address: slots, kinds of devices, and how many share these."""
        sharing = Counter(instance.devices for instance in self.instances)
        kinds = {device.id: device.kind for device in inventory.devices}
        return {
            one.address: (one.slots, tuple(sorted(kinds[device] for device in one.devices)), sharing[one.devices])
            for one in self.instances
        }

    @property
    def url(self) -> str:
        """Where the cluster answers through nginx."""
        return f"http://{LOOPBACK}:{self.balancer.port}"


@dataclass(frozen=True, slots=True)
class ProvenDevice:
    """A device, for people."""

    index: int
    id: str
    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a plan ran on: all that somebody needs who wants to run it again."""

    autotune: str
    python: str
    host: str
    kernel: str
    ollama: str
    command: tuple[str, ...]
    """How an instance is started."""
    libraries: str
    """LD_LIBRARY_PATH; empty where it was not set."""
    environment: dict[str, str]
    """What a played host adds to the environment of each instance."""
    models_dir: str
    model: str
    model_digest: str
    driver: str
    """Of NVIDIA; empty without one."""
    devices: tuple[ProvenDevice, ...]


def make(
    spec: StudySpec, inventory: Inventory, facts: ServerFacts, params: Mapping[str, Any], paths: tuple[Path, Path]
) -> Plan:
    """The plan of one configuration. `paths` are the model store and HOME of the instances."""
    layout = canonical(parse_layout(str(params["layout"]), inventory), inventory)
    common = {
        "OLLAMA_MODELS": str(paths[0]),
        "HOME": str(paths[1]),
        **spec.cluster.env,
        **{name.removeprefix("env:"): str(value) for name, value in params.items() if name.startswith("env:")},
    }
    members = instances(params, inventory)
    groups = [tuple(map(inventory.at, member.devices)) for member in members]
    derived = _derived(spec, inventory.host, facts, params, groups)
    servers = tuple(
        _instance(spec, number, group, {**_server(spec, facts, params, group, member), **common})
        for number, (group, member) in enumerate(zip(groups, members, strict=True))
    )
    weights = tuple(member.weight for member in members)
    return Plan(
        instances=servers,
        balancer=BalancerPlan(
            kind=spec.cluster.balancer,
            port=spec.cluster.balancer_port,
            policy=str(params.get("policy", "round_robin")) if len(servers) > 1 else "round_robin",
            upstreams=tuple(server.address for server in servers),
            weights=weights if len(set(weights)) > 1 else (),
        ),
        model=derived.name if derived else spec.cluster.model,
        num_parallel=int(params["num_parallel"]),
        num_ctx=spec.workload.num_ctx,
        layout=str(layout),
        derived=derived,
    )


def ports(spec: StudySpec, instances: int) -> list[int]:
    """All ports that plans with up to so many instances listen on. Raises `SpecError` when they are not there."""
    first, front = spec.cluster.first_port, spec.cluster.balancer_port
    own = [first + number for number in range(instances)]
    if own and own[-1] > HIGHEST_PORT:
        raise SpecError(f"cluster.first_port = {first}: {instances} instances need ports up to {own[-1]}")
    if spec.cluster.balancer != "nginx":
        return own
    if front in own:
        raise SpecError(f"cluster.balancer_port = {front}: the instances listen on {first} to {own[-1]}")
    return [*own, front]


def _server(
    spec: StudySpec, facts: ServerFacts, params: Mapping[str, Any], group: tuple[Device, ...], member: Member
) -> dict[str, str]:
    return server_env(_settings(spec, params, group, member.slots), facts.version)


def _settings(spec: StudySpec, params: Mapping[str, Any], group: tuple[Device, ...], slots: int) -> Settings:
    on_gpu = group[0].make != "cpu"
    return Settings(
        num_parallel=slots,
        num_ctx=spec.workload.num_ctx,
        flash_attention=str(params.get("flash_attention", "auto")),
        kv_cache_type=str(params.get("kv_cache_type", "f16")),
        threads=_threads(params, group),
        spread=on_gpu and len(group) > 1,
        memory_free_bytes=spec.cluster.free_bytes if on_gpu else None,
    )


def _threads(params: Mapping[str, Any], group: tuple[Device, ...]) -> int | None:
    """On a CPU the threads follow the cores: pinned to fewer cores than it has threads an instance crawls."""
    asked = params.get("threads")
    if asked is not None:
        return int(asked)
    return sum(device.threads for device in group) or None


def _derived(
    spec: StudySpec, host: str, facts: ServerFacts, params: Mapping[str, Any], groups: list[tuple[Device, ...]]
) -> DerivedModel | None:
    batch = params.get("num_batch")
    smallest = min(groups, key=lambda group: sum(device.threads for device in group))  # one model serves them all
    parameters = model_parameters(
        _settings(spec, params, smallest, int(params["num_parallel"])),
        facts.version,
        int(batch) if batch is not None else None,
        dict(facts.model.parameters),
    )
    if not parameters:
        return None
    suffix = "-".join(f"{name.removeprefix('num_')}{value}" for name, value in sorted(parameters.items()))
    stem = spec.cluster.model.replace("/", "-").replace(":", "-").lower()
    own = hashlib.sha256(f"{host}:{spec.cluster.first_port}".encode()).hexdigest()[:6]
    return DerivedModel(f"{DERIVED}{stem}-{suffix}-{own}", spec.cluster.model, tuple(sorted(parameters.items())))


def _instance(spec: StudySpec, number: int, group: tuple[Device, ...], env: dict[str, str]) -> InstancePlan:
    port = spec.cluster.first_port + number
    env = {**env, "OLLAMA_HOST": f"{LOOPBACK}:{port}", **visible_devices(group)}
    return InstancePlan(
        name=f"ollama-{number}",
        port=port,
        devices=tuple(device.id for device in group),
        env=tuple(sorted(env.items())),
        cpus=tuple(sorted(cpu for device in group for cpu in device.cpus)),
        on_gpu=group[0].make != "cpu",
    )
