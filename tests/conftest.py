"""What the suites share: studies, ports, plans, the stand-in behind its driver, and the proof that nothing is left."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import random
import shutil
import signal
import socket
import sys
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from autotune import plan as plans
from autotune.cluster import host
from autotune.cluster.children import MARK, Children
from autotune.cluster.process import ProcessDriver
from autotune.inventory import Device, Inventory
from autotune.ollama.api import ServerFacts
from autotune.space import ModelFacts
from autotune.spec import StudySpec
from tests.commands import Run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from autotune.cluster.driver import Handle
    from autotune.plan import InstancePlan, Plan

# how fast a machine is says nothing about the code; and what a commit changes must not depend on chance
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

GIB = 2**30
STAND_IN = (sys.executable, "-m", "autotune.simulator", "serve")
PROFILE = "2x-small"
TINY = ModelFacts(
    name="tiny",
    digest="0",
    weights_bytes=800 << 20,
    layers=7,
    kv_heads=2,
    k_size=64,
    v_size=64,
    context_length=8192,
    sliding_window=None,
    family="llama",
    capabilities=("completion",),
)
STUDY: dict[str, dict[str, Any]] = {
    "study": {"name": "test"},
    "cluster": {"driver": "simulated", "profile": PROFILE, "model": "tiny", "balancer": "direct"},
    "search": {"num_parallel": [1, 2, 4, 32]},
    "workload": {"num_ctx": 1024, "num_predict": 8, "input_tokens": 8, "levels": [2]},
    "budget": {"trials": 1},
}


# what the machine must have


def _no_nginx() -> str:
    there = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
    return "" if there else "no nginx on this machine"


def _no_ollama() -> str:
    if shutil.which("ollama") is None:
        return "no `ollama` on PATH"
    return "" if _smallest_model() else f"no model in {' or '.join(map(str, _stores()))}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What holds figures against each other comes last: by then nothing else runs beside it (see the Makefile)."""
    items.sort(key=lambda item: item.get_closest_marker("quiet") is not None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, missing in (("nginx", _no_nginx), ("ollama", _no_ollama)):
        if item.get_closest_marker(marker) is not None and (why := missing()):
            pytest.skip(why)


# studies, devices, plans


def study(**changes: Mapping[str, Any]) -> StudySpec:
    """The spec of a small study; each keyword adds to, or changes, one table of the file."""
    data = deepcopy(STUDY)
    for table, entries in changes.items():
        data.setdefault(table, {}).update(entries)
    return StudySpec.model_validate(data)


def gpus(count: int = 2) -> Inventory:
    """The cards of the played host."""
    uuids = [f"GPU-5a11000{index}-0000-4000-8000-00000000000{index}" for index in range(count)]
    devices = [Device(index, uuid, "nvidia", "Small GPU", 4 * GIB, "small") for index, uuid in enumerate(uuids)]
    return Inventory("played", tuple(devices), simulated=True)


def cores(*groups: tuple[int, ...]) -> Inventory:
    """Groups of CPUs, each CPU a core of its own."""
    devices = [
        Device(index, f"cpu:{cpus[0]}", "cpu", "CPU", 8 * GIB, f"{len(cpus)} cores", cpus, len(cpus))
        for index, cpus in enumerate(groups)
    ]
    return Inventory("host", tuple(devices))


@cache
def _own_ports() -> range:
    """Ports that no other row of tests on this machine takes as long as this one runs."""
    for first in range(20000, 32000, 1000):
        held = socket.socket(socket.AF_UNIX)
        with suppress(OSError):
            held.bind(f"\0tests of autotune, ports from {first}")
            atexit.register(held.close)
            return range(first, first + 1000)
        held.close()
    raise AssertionError("twelve rows of tests run on this machine")


def free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    ports = _own_ports()
    chance = random.SystemRandom()
    for _ in range(500):
        first = chance.choice(ports[: -count or None])
        if all(host.port_free(first + number) for number in range(count)):
            return first
    raise AssertionError(f"no {count} free ports in a row between {ports[0]} and {ports[-1]}")


@dataclass
class Plans:
    """Makes plans for one block of ports: the balancer has the first, the instances those that follow."""

    folder: Path
    port: int

    def make(
        self, layout: str = "0", *, inventory: Inventory | None = None, spec: StudySpec | None = None, **params: Any
    ) -> Plan:
        there = inventory or gpus()
        whole = (spec or study()).model_dump()
        whole["cluster"] |= {"first_port": self.port + 1, "balancer_port": self.port}
        chosen = {"layout": layout, "num_parallel": 2, **params}
        facts = ServerFacts("0.32.15", TINY)
        paths = (self.folder / "models", self.folder / "home")
        return plans.make(StudySpec.model_validate(whole), there, facts, chosen, paths)


def telling(instance: InstancePlan, **variables: str) -> InstancePlan:
    """The same instance with other variables."""
    return replace(instance, env=tuple(sorted({**dict(instance.env), **variables}.items())))


def only_telling(plan: Plan, number: int, **variables: str) -> Plan:
    """The same plan where one instance has other variables."""
    told = (telling(one, **variables) if at == number else one for at, one in enumerate(plan.instances))
    return replace(plan, instances=tuple(told))


@pytest.fixture
def plan_of(folder: Path) -> Plans:
    return Plans(folder, free_ports(6))


# processes


def left_behind(folder: Path) -> list[int]:
    """All that still runs of what was started for a study folder: by its mark, or by its session."""
    leaders = []
    ledger = folder / "processes.jsonl"
    if ledger.exists():
        leaders = [int(json.loads(line)["pid"]) for line in ledger.read_text().splitlines() if line.endswith("}")]
    sessions = {pid for leader in leaders for pid in host.session(leader)}
    marked = {pid for pid in host.processes() if host.environment(pid).get(MARK) == str(folder)}
    return sorted(pid for pid in sessions | marked if (found := host.identity(pid)) and host.runs(found))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A study folder. When the test ends nothing that was started for it may still run; it is ended all the same."""
    folder = tmp_path / "study"
    folder.mkdir()
    yield folder
    left = left_behind(folder)
    described = [host.describe(pid) for pid in left]
    for pid in left:
        host.send(pid, signal.SIGKILL)
    assert described == []


@pytest.fixture
async def children(folder: Path) -> AsyncIterator[Children]:
    async with Children(folder) as children:
        yield children


@pytest.fixture
def stand_in(children: Children, folder: Path) -> Callable[..., ProcessDriver]:
    """Makes drivers of played servers, all on one host; keywords are variables of the simulator."""

    def driver(**variables: str) -> ProcessDriver:
        env = {"AUTOTUNE_SIM_PROFILE": PROFILE, **variables}
        return ProcessDriver(STAND_IN, children, folder / "logs", stop_timeout_s=5, env=env)

    return driver


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """In a folder of its own, on a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return Run(capsys)


@pytest.fixture(autouse=True, scope="session")
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What autotune keeps for this machine's user lies in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


async def until(check: Callable[[], object], timeout_s: float = 20) -> None:
    """Wait until something holds; a failure says what did not."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    while not check():
        assert loop.time() < end, f"never came true in {timeout_s} s"
        await asyncio.sleep(0.02)


async def written(driver: ProcessDriver, handle: Handle, words: str) -> None:
    """Wait until an instance has written these words."""
    await until(lambda: words in driver.logs(handle))


# a real Ollama, where there is one


@dataclass(frozen=True)
class RealOllama:
    """A binary, and a private store with one small model of this machine's."""

    binary: str
    models: Path
    model: str


def _stores() -> list[Path]:
    told = os.environ.get("OLLAMA_MODELS")
    usual = [Path("/usr/share/ollama/.ollama/models"), Path.home() / ".ollama" / "models"]
    return [*([Path(told)] if told else []), *usual]


def _smallest_model() -> tuple[Path, Path] | None:
    """The store and the manifest of the smallest model that generates text."""
    found = []
    for store in _stores():
        if not os.access(store / "manifests", os.R_OK):
            continue
        for manifest in store.glob("manifests/*/*/*/*"):
            size = _text_model_bytes(store, manifest)
            if size:
                found.append((size, str(manifest), store))
    return (min(found)[2], Path(min(found)[1])) if found else None


def _text_model_bytes(store: Path, manifest: Path) -> int:
    content = json.loads(manifest.read_text())
    config = json.loads(_blob(store, content["config"]["digest"]).read_text())
    if "bert" in config.get("model_family", ""):
        return 0
    return sum(layer["size"] for layer in content["layers"] if layer["mediaType"].endswith(".model"))


def _blob(store: Path, digest: str) -> Path:
    return store / "blobs" / digest.replace(":", "-")


@pytest.fixture(scope="session")
def real_ollama(tmp_path_factory: pytest.TempPathFactory) -> RealOllama:
    """A store of links: what the tests create and delete never touches that of this machine."""
    binary, smallest = shutil.which("ollama"), _smallest_model()
    assert binary is not None
    assert smallest is not None
    store, manifest = smallest
    models = tmp_path_factory.mktemp("store")
    here = models / manifest.relative_to(store)
    here.parent.mkdir(parents=True)
    shutil.copy(manifest, here)
    content = json.loads(manifest.read_text())
    (models / "blobs").mkdir()
    for layer in (content["config"], *content["layers"]):
        _blob(models, layer["digest"]).symlink_to(_blob(store, layer["digest"]))
    name = "/".join(manifest.parts[-4:-1]).removeprefix("registry.ollama.ai/").removeprefix("library/")
    return RealOllama(binary, models, f"{name}:{manifest.name}")
