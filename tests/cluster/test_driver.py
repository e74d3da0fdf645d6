"""The contract of a driver, for every one there is; and what keeps processes from outliving us."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from autotune.cluster import host
from autotune.cluster.children import MARK, Children, program
from autotune.cluster.process import ProcessDriver
from autotune.errors import BinaryMissing
from autotune.ollama.api import Ollama, wait_ready
from autotune.ollama.env import INHERITED
from tests.cluster.programs import python, running, said, script
from tests.conftest import Plans, cores, left_behind, telling, until, written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from autotune.cluster.driver import Driver, Handle
    from autotune.plan import InstancePlan

STAND_IN_ENV = {"AUTOTUNE_SIM_PROFILE"}


@dataclass
class Subject:
    """A driver under test, an instance for it, and the variables that it adds by itself."""

    driver: Driver
    instance: InstancePlan
    adds: set[str]


@pytest.fixture(params=["simulated", pytest.param("ollama", marks=pytest.mark.ollama)])
def subject(request: pytest.FixtureRequest, folder: Path, children: Children, plan_of: Plans) -> Subject:
    cpu = min(os.sched_getaffinity(0))
    instance = plan_of.make(inventory=cores((cpu,))).instances[0]
    if request.param == "simulated":
        driver = request.getfixturevalue("stand_in")()
        return Subject(driver, instance, STAND_IN_ENV)
    real = request.getfixturevalue("real_ollama")
    (folder / "home").mkdir()
    driver = ProcessDriver([real.binary, "serve"], children, folder / "logs", stop_timeout_s=10)
    return Subject(driver, telling(instance, OLLAMA_MODELS=str(real.models)), set())


async def ready(handle: Handle) -> str:
    async with Ollama(handle.instance.url, timeout_s=5) as server:
        return await asyncio.wait_for(wait_ready(server), 60)


async def test_an_instance_lives_from_start_to_stop(subject: Subject) -> None:
    driver, instance = subject.driver, subject.instance
    handle = driver.start(instance)
    assert handle.instance == instance
    assert driver.alive(handle)
    assert await ready(handle)
    assert f"Listening on 127.0.0.1:{instance.port}" in driver.logs(handle)
    assert host.stat(handle.pid).session == handle.pid  # type: ignore[union-attr]

    await driver.stop(handle)
    assert not driver.alive(handle)
    assert host.session(handle.pid) == []
    assert host.port_free(instance.port)
    await driver.stop(handle)
    assert f"Listening on 127.0.0.1:{instance.port}" in driver.logs(handle)


async def test_an_instance_has_the_planned_environment_and_cpus_and_nothing_of_ours(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OLLAMA_DEBUG", "OLLAMA_NUM_PARALLEL", "CUDA_VISIBLE_DEVICES", "LLAMA_ARG_THREADS", "HTTP_PROXY"):
        monkeypatch.setenv(name, "7")
    handle = subject.driver.start(subject.instance)
    await ready(handle)
    told = host.environment(handle.pid)
    assert told.items() >= dict(subject.instance.env).items()
    own = {MARK, *subject.adds, *(name for name in INHERITED if name in os.environ)}
    assert set(told) == set(dict(subject.instance.env)) | own
    assert os.sched_getaffinity(handle.pid) == set(subject.instance.cpus)
    await subject.driver.stop(handle)


async def test_a_death_is_noticed(subject: Subject) -> None:
    handle = subject.driver.start(subject.instance)
    await ready(handle)
    os.kill(handle.pid, signal.SIGKILL)
    await until(lambda: not subject.driver.alive(handle))
    await subject.driver.stop(handle)
    assert host.session(handle.pid) == []


async def test_a_second_start_has_a_log_of_its_own(subject: Subject) -> None:
    for _ in range(2):
        handle = subject.driver.start(subject.instance)
        await ready(handle)
        assert subject.driver.logs(handle).count("Listening on") == 1
        await subject.driver.stop(handle)


async def test_what_an_instance_does_not_survive_is_in_its_log(subject: Subject) -> None:
    first = subject.driver.start(subject.instance)
    await ready(first)
    second = subject.driver.start(replace(subject.instance, name="second"))
    await until(lambda: not subject.driver.alive(second))
    assert "address already in use" in subject.driver.logs(second)
    assert subject.driver.alive(first)
    await subject.driver.stop(second)
    await subject.driver.stop(first)


# programs that misbehave


@pytest.fixture
def driver_of(folder: Path, children: Children) -> Callable[..., ProcessDriver]:
    """Makes drivers of shell programs."""

    def make(text: str, stop_timeout_s: float = 0.2) -> ProcessDriver:
        return ProcessDriver([script(folder, text)], children, folder / "logs", stop_timeout_s=stop_timeout_s)

    return make


@pytest.fixture
def instance(plan_of: Plans) -> InstancePlan:
    return plan_of.make().instances[0]


async def test_start_does_not_wait(driver_of: Callable[..., ProcessDriver], instance: InstancePlan) -> None:
    driver = driver_of("exec sleep 60")
    handle = driver.start(instance)
    assert driver.alive(handle)
    assert driver.logs(handle) == ""
    await driver.stop(handle)


async def test_a_program_that_is_not_there_is_named(folder: Path, children: Children, instance: InstancePlan) -> None:
    driver = ProcessDriver(["no-such-ollama", "serve"], children, folder / "logs")
    with pytest.raises(BinaryMissing, match="no program 'no-such-ollama'"):
        driver.start(instance)
    with pytest.raises(BinaryMissing, match="install it: sudo apt-get install nothing"):
        program("no-such-program", "nothing")


async def test_a_program_that_is_none_dies_at_once(folder: Path, children: Children, instance: InstancePlan) -> None:
    path = folder / "broken"
    path.write_bytes(b"\x7fELF rubbish")
    path.chmod(0o755)
    driver = ProcessDriver([str(path)], children, folder / "logs")
    handle = driver.start(instance)
    await until(lambda: not driver.alive(handle))
    assert driver.logs(handle)


async def test_stop_is_bounded_where_term_is_ignored(
    driver_of: Callable[..., ProcessDriver], instance: InstancePlan
) -> None:
    driver = driver_of("trap '' TERM; echo ready; while :; do sleep 1; done")
    handle = driver.start(instance)
    await written(driver, handle, "ready")
    began = time.monotonic()
    await driver.stop(handle)
    assert 0.2 <= time.monotonic() - began < 5
    assert host.session(handle.pid) == []


async def test_what_is_left_of_a_session_ends_with_it(
    driver_of: Callable[..., ProcessDriver], instance: InstancePlan
) -> None:
    driver = driver_of("(trap '' TERM; sleep 60) & echo ready; wait", stop_timeout_s=10)
    handle = driver.start(instance)
    await written(driver, handle, "ready")
    assert len(host.session(handle.pid)) > 1
    await driver.stop(handle)
    assert host.session(handle.pid) == []


async def test_what_the_dead_left_ends_too(driver_of: Callable[..., ProcessDriver], instance: InstancePlan) -> None:
    driver = driver_of("sleep 60 & echo ready; exit 1")
    handle = driver.start(instance)
    await until(lambda: not driver.alive(handle))
    assert len(host.session(handle.pid)) == 1
    await driver.stop(handle)
    assert host.session(handle.pid) == []


async def test_the_pid_of_a_dead_instance_is_kept_until_it_is_stopped(
    driver_of: Callable[..., ProcessDriver], instance: InstancePlan
) -> None:
    """Else the pid, and the session of this number, could be somebody else's when it is stopped."""
    driver = driver_of("exit 1")
    handle = driver.start(instance)
    await until(lambda: not driver.alive(handle))
    assert host.stat(handle.pid).state == "Z"  # type: ignore[union-attr]
    await driver.stop(handle)
    assert host.identity(handle.pid) is None


async def test_leaving_the_block_ends_all(folder: Path) -> None:
    async with Children(folder) as children:
        pids = [
            children.start(["sh", "-c", "trap '' TERM; sleep 60 & wait"], {"PATH": "/bin"}, folder / "log").pid
            for _ in range(3)
        ]
        assert all(map(children.alive, pids))
        children.kill_all()
    assert [pid for pid in pids if host.identity(pid)] == []


# what outlives us does not live long

PARENT = """
import asyncio, sys
from pathlib import Path
from autotune.cluster.children import Children
children = Children(Path(sys.argv[1]))
pids = [children.start(command.split("|"), {"PATH": "/usr/bin:/bin"}, Path(sys.argv[1]) / "log").pid
        for command in sys.argv[2:]]
print(*pids, flush=True)
sys.stdin.read()
"""


async def test_children_die_with_a_parent_that_is_killed(folder: Path) -> None:
    with python(PARENT, str(folder), "sleep|60", "sleep|61") as parent:
        pids = [int(pid) for pid in said(parent).split()]
        await until(lambda: all(host.argv(pid)[:1] == ["/usr/bin/sleep"] for pid in pids))
        parent.kill()
        await until(lambda: not left_behind(folder))


UNNOTED = """
import os, signal, sys
from pathlib import Path
from autotune.cluster import children, host
def note(self, pid):
    while not host.argv(pid): pass
    print(pid, *host.argv(pid), flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
children.Children._note = note
children.Children(Path(sys.argv[1])).start(["sleep", "60"], {"PATH": "/usr/bin:/bin"}, Path(sys.argv[1]) / "log")
"""


async def test_nothing_runs_that_no_ledger_names(folder: Path) -> None:
    """Killed between the start of a child and its line: the child has been nothing yet, and ends."""
    with python(UNNOTED, str(folder)) as parent:
        pid, *command = said(parent).split()
        assert command[:1] == ["/bin/sh"]
        assert parent.stdin is not None
        parent.stdin.write("\n")
        parent.stdin.flush()
        await until(lambda: host.stat(int(pid)) is None)
        assert not left_behind(folder)


@pytest.fixture
def leftover(folder: Path) -> Iterator[Callable[..., int]]:
    """Starts what an earlier run left behind: it is told nothing of its parent's death."""

    def start(*command: str) -> int:
        children = Children(folder)
        process = children.start(command, {"PATH": "/usr/bin:/bin"}, folder / "log")
        children._running.clear()
        process.returncode = 0  # nobody is to wait for it but the test
        started.append(process.pid)
        return process.pid

    started: list[int] = []
    yield start
    for pid in started:
        for left in host.session(pid):
            host.send(left, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


async def test_sweep_ends_what_is_left_with_its_session(folder: Path, leftover: Callable[..., int]) -> None:
    pid = leftover("sh", "-c", "sleep 60 & sleep 60 & wait")
    await until(lambda: len(host.session(pid)) == 3)
    ended = await Children(folder).sweep()
    assert len(ended) == 3
    assert any(text.startswith(f"pid {pid} of ") for text in ended)
    assert host.session(pid) == []
    assert await Children(folder).sweep() == []


async def test_sweep_ends_what_a_dead_leader_left(folder: Path, leftover: Callable[..., int]) -> None:
    pid = leftover("sh", "-c", "sleep 60 & exit 0")
    await until(lambda: host.stat(pid).state == "Z")  # type: ignore[union-attr]
    (left,) = host.session(pid)
    (ended,) = await Children(folder).sweep()
    assert ended.startswith(f"pid {left} of ")
    assert host.session(pid) == []


@pytest.mark.nginx
async def test_sweep_knows_an_nginx_which_hides_its_environment(
    folder: Path, leftover: Callable[..., int], plan_of: Plans
) -> None:
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"daemon off; pid {folder}/pid; events {{}} error_log {folder}/error.log;\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:{plan_of.port}; }} }}\n"
    )
    pid = leftover(program("nginx"), "-p", str(folder), "-c", str(configuration), "-e", str(folder / "error.log"))
    await until(lambda: len(host.children(pid)) > 0)
    assert MARK not in host.environment(pid)
    assert len(await Children(folder).sweep()) >= 2
    assert host.session(pid) == []
    assert host.port_free(plan_of.port)


@pytest.mark.parametrize("later", [1, -1])
async def test_sweep_spares_whoever_has_the_pid_now(folder: Path, later: int) -> None:
    with running("sh", "-c", "echo ready; read line", **{MARK: str(folder)}) as foreign:
        found = host.identity(foreign.pid)
        assert found is not None
        note(folder, host.Identity(found.pid, found.started + later))
        assert await Children(folder).sweep() == []
        assert host.runs(found)


@pytest.mark.parametrize("mark", [{}, {MARK: "/another/study"}])
async def test_sweep_spares_what_does_not_carry_our_mark(folder: Path, mark: dict[str, str]) -> None:
    with running("sh", "-c", "sleep 60 & echo $!; wait", **mark) as foreign:
        found = host.identity(foreign.pid)
        assert found is not None
        note(folder, found)
        assert await Children(folder).sweep() == []
        assert host.runs(found)
        host.send(int(said(foreign)), signal.SIGKILL)


async def test_sweep_reads_what_is_whole_of_a_torn_ledger(folder: Path, leftover: Callable[..., int]) -> None:
    pid = leftover("sleep", "60")
    ledger = folder / "processes.jsonl"
    whole = ledger.read_text()
    ledger.write_text('{"pid": 1, "sta{"pid": 2, "started": 3}\n[]\n{"pid": 4}\n' + whole + whole[:9])
    (ended,) = await Children(folder).sweep()
    assert ended.startswith(f"pid {pid} of ")
    assert not ledger.exists()


def note(folder: Path, process: host.Identity) -> None:
    entry = {"pid": process.pid, "started": process.started}
    (folder / "processes.jsonl").write_text(json.dumps(entry) + "\n")
