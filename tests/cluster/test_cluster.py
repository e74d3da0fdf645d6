"""The running cluster: it restarts only what differs, says what went wrong and why, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from autotune.cluster import host, verify
from autotune.cluster.children import Children
from autotune.cluster.cluster import Cluster
from autotune.cluster.driver import Handle
from autotune.cluster.nginx import Nginx
from autotune.cluster.process import ProcessDriver
from autotune.errors import (
    AutotuneError,
    BalancerError,
    BinaryMissing,
    ClusterError,
    ContextChanged,
    DeviceLost,
    InstanceDied,
    Killed,
    LoadFailed,
    ModelMissing,
    NeverReady,
    Offloaded,
    OnCpu,
    ParallelIgnored,
    PortTaken,
    StartFailed,
)
from autotune.inventory import Inventory
from autotune.ollama.api import Loaded, Ollama
from autotune.simulator.profiles import SHIPPED
from tests.cluster.programs import ROOT, listener, script
from tests.conftest import PROFILE, STAND_IN, Plans, cores, gpus, left_behind, only_telling, study, telling, until
from tests.factories import PLACED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from autotune.cluster.driver import Driver
    from autotune.cluster.verify import Placement
    from autotune.plan import Plan
    from tests.conftest import RealOllama

    Drivers = Callable[..., ProcessDriver]


def cluster(driver: Driver, nginx: Nginx | None = None, *, start_s: float = 20, load_s: float = 20) -> Cluster:
    return Cluster(driver, nginx, start_timeout_s=start_s, load_timeout_s=load_s)


def pids(running: Cluster) -> dict[int, int]:
    """The pid of each instance, by its port."""
    return {instance.port: handle.pid for instance, handle in running._handles.items()}


def assert_gone(plan: Plan, folder: Path) -> None:
    """Nothing of the plan runs, and nothing listens."""
    assert [host.describe(pid) for pid in left_behind(folder)] == []
    assert all(host.port_free(one.port) for one in plan.instances)
    assert host.port_free(plan.balancer.port)


async def models(url: str) -> list[str]:
    async with Ollama(url) as server:
        return sorted(str(entry["name"]) for entry in await server.models())


# becoming a plan


async def test_only_what_differs_is_restarted(stand_in: Drivers, plan_of: Plans, folder: Path) -> None:
    plan = plan_of.make("0 | 1")
    async with cluster(stand_in()) as running:
        await running.become(plan)
        first = pids(running)
        assert set(first) == {one.port for one in plan.instances}

        await running.become(plan)
        assert pids(running) == first

        await running.become(replace(plan, balancer=replace(plan.balancer, policy="least_conn")))
        assert pids(running) == first

        await running.become(only_telling(plan, 1, OLLAMA_DEBUG="1"))
        kept, changed = (one.port for one in plan.instances)
        second = pids(running)
        assert second[kept] == first[kept]
        assert second[changed] != first[changed]
        assert host.session(first[changed]) == []

        await running.become(plan_of.make("0"))
        assert pids(running) == {kept: first[kept]}
        assert host.session(second[changed]) == []
        assert len(left_behind(folder)) == 1
    assert_gone(plan, folder)


async def test_what_died_is_started_again(stand_in: Drivers, plan_of: Plans) -> None:
    plan = plan_of.make("0 | 1")
    async with cluster(stand_in()) as running:
        await running.become(plan)
        before = pids(running)
        killed, kept = before.values()
        os.kill(killed, signal.SIGSEGV)
        with pytest.raises(InstanceDied, match="ollama-0 has died") as caught:
            await _until_it_fails(running)
        assert "Listening on" in caught.value.details
        await running.become(plan)
        running.check()
        assert list(pids(running).values()).count(kept) == 1
        assert killed not in pids(running).values()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGQUIT])
async def test_what_somebody_else_has_ended_is_not_the_configurations_fault(
    stand_in: Drivers, plan_of: Plans, how: signal.Signals
) -> None:
    plan = plan_of.make("0 | 1")
    async with cluster(stand_in()) as running:
        await running.become(plan)
        os.kill(next(iter(pids(running).values())), how)
        with pytest.raises(Killed, match=f"ollama-0 was ended from outside by {how.name}") as caught:
            await _until_it_fails(running)
        assert "Listening on" in caught.value.details
        await running.become(plan)
        running.check()


async def test_a_server_that_is_killed_at_its_start_is_not_the_configurations_fault(
    children: Children, plan_of: Plans, folder: Path
) -> None:
    program = script(folder, "kill -KILL $$")
    async with cluster(ProcessDriver([program], children, folder / "logs")) as running:
        with pytest.raises(Killed, match="ollama-0 was ended from outside by SIGKILL"):
            await running.become(plan_of.make("0"))


async def test_a_model_whose_process_breaks_under_load_has_died(stand_in: Drivers, plan_of: Plans) -> None:
    plan = plan_of.make("0 | 1")
    plan = only_telling(plan, 0, AUTOTUNE_SIM_FAULT="error_mid_stream")
    async with cluster(stand_in()) as running:
        await running.become(plan)
        await running.load(plan)
        await running.placements(plan)
        running.check()
        async with aiohttp.ClientSession() as client:
            body = {"model": "tiny", "prompt": "a", "options": {"num_predict": 9}}
            async with client.post(f"{plan.instances[0].url}/api/generate", json=body) as answer:
                await answer.read()
        with pytest.raises(InstanceDied, match="serves the model of ollama-0 broke: signal: aborted") as caught:
            running.check()
        assert "CUDA error" in caught.value.details


async def _until_it_fails(running: Cluster) -> None:
    while True:
        running.check()
        await asyncio.sleep(0.02)


async def test_clear_ends_all_and_the_cluster_can_go_on(stand_in: Drivers, plan_of: Plans, folder: Path) -> None:
    plan = plan_of.make("0")
    async with cluster(stand_in()) as running:
        await running.become(plan)
        for _ in range(2):
            await running.clear()
            assert_gone(plan, folder)
        await running.become(plan)
        running.check()


@pytest.mark.nginx
async def test_nginx_stands_in_front_and_its_death_is_noticed(
    stand_in: Drivers, plan_of: Plans, children: Children, folder: Path
) -> None:
    plan = plan_of.make("0 | 1")
    nginx = Nginx(children, folder / "nginx")
    async with cluster(stand_in(), nginx) as running:
        await running.become(plan)
        await running.load(plan)
        running.check()
        assert "tiny:latest" in await models(plan.url)
        assert nginx._pid is not None
        os.kill(nginx._pid, signal.SIGKILL)
        with pytest.raises(BalancerError, match="nginx has died"):
            await _until_it_fails(running)
        await running.become(plan)
        running.check()
    assert_gone(plan, folder)


# what goes wrong


async def test_an_instance_that_dies_at_its_start_is_quoted(stand_in: Drivers, plan_of: Plans, folder: Path) -> None:
    plan = only_telling(plan_of.make("0 | 1"), 1, AUTOTUNE_SIM_FAULT="die_at_start")
    async with cluster(stand_in()) as running:
        with pytest.raises(StartFailed, match="ollama-1 died at its start") as caught:
            await running.become(plan)
        assert "told to die at its start" in caught.value.details
        await running.become(plan_of.make("0"))
        assert len(pids(running)) == 1
    assert_gone(plan, folder)


async def test_an_instance_that_never_answers_is_given_up(stand_in: Drivers, plan_of: Plans, folder: Path) -> None:
    plan = only_telling(plan_of.make("0"), 0, AUTOTUNE_SIM_FAULT="never_answer")
    async with cluster(stand_in(), start_s=1.5) as running:
        with pytest.raises(NeverReady, match=r"ollama-0 did not answer on 127\.0\.0\.1:\d+ in 1\.5 s") as caught:
            await running.become(plan)
        assert "Listening on" in caught.value.details
    assert_gone(plan, folder)


async def test_a_load_that_fails_is_quoted(stand_in: Drivers, plan_of: Plans, folder: Path) -> None:
    plan = only_telling(plan_of.make("0 | 1"), 1, AUTOTUNE_SIM_FAULT="load_fails")
    async with cluster(stand_in()) as running:
        await running.become(plan)
        with pytest.raises(LoadFailed, match=r"did not load tiny: .*out of memory") as caught:
            await running.load(plan)
        assert "cudaMalloc failed: out of memory" in caught.value.details
        assert caught.value.reason == "out_of_memory"
    assert_gone(plan, folder)


async def test_a_load_that_takes_too_long_is_given_up(stand_in: Drivers, plan_of: Plans, folder: Path) -> None:
    plan = plan_of.make("0")
    async with cluster(stand_in(AUTOTUNE_SIM_TIME_SCALE="0.001"), load_s=0.3) as running:
        await running.become(plan)
        with pytest.raises(NeverReady, match=r"had not loaded tiny after 0\.3 s") as caught:
            await running.load(plan)
        assert caught.value.reason == "load_timeout"
        assert "load_tensors" in caught.value.details
    assert_gone(plan, folder)


async def test_an_instance_that_dies_while_it_is_looked_at_is_the_reason(stand_in: Drivers, plan_of: Plans) -> None:
    plan = plan_of.make("0", num_batch=256)
    async with cluster(stand_in()) as running:
        await running.become(plan)
        (pid,) = pids(running).values()
        os.kill(pid, signal.SIGABRT)
        for look in (running.load, running.placements):
            with pytest.raises(InstanceDied, match=r"ollama-0 did not create|ollama-0 does not answer"):
                await look(plan)


async def test_a_binary_that_is_missing_is_the_machines_fault(children: Children, plan_of: Plans, folder: Path) -> None:
    plan = plan_of.make("0 | 1")
    async with cluster(ProcessDriver(["no-such-ollama"], children, folder / "logs")) as running:
        with pytest.raises(BinaryMissing, match="no-such-ollama"):
            await running.become(plan)
    assert_gone(plan, folder)


async def test_a_port_that_somebody_else_has_is_named_and_left_to_him(
    stand_in: Drivers, plan_of: Plans, folder: Path
) -> None:
    plan = plan_of.make("0 | 1")
    taken = plan.instances[1].port
    async with cluster(stand_in()) as running:
        with listener(taken) as foreign:
            with pytest.raises(PortTaken, match=rf"port {taken} \(ollama-1\) is taken by pid {foreign.pid} of "):
                await running.become(plan)
            await running.clear()
            assert foreign.poll() is None
        await running.become(plan)
    assert_gone(plan, folder)


async def test_a_port_that_is_taken_between_check_and_start_is_the_machines_fault(
    children: Children, plan_of: Plans, folder: Path
) -> None:
    plan = plan_of.make("0")
    driver = ProcessDriver([script(folder, "sleep 0.5; exit 1")], children, folder / "logs")
    async with cluster(driver) as running:
        becoming = asyncio.create_task(running.become(plan))
        await until(lambda: pids(running))
        with listener(plan.instances[0].port) as foreign:
            with pytest.raises(PortTaken, match=rf"\(ollama-0\) was taken by pid {foreign.pid} of ") as caught:
                await becoming
            assert isinstance(caught.value, ClusterError)


async def test_an_ollama_of_somebody_else_that_was_quicker_is_not_taken_for_the_instance(
    children: Children, plan_of: Plans, folder: Path, tmp_path: Path
) -> None:
    plan, played = plan_of.make("0"), {"AUTOTUNE_SIM_PROFILE": PROFILE}
    slow = ProcessDriver([script(folder, "sleep 30")], children, folder / "logs", stop_timeout_s=2)
    async with Children(tmp_path) as others, cluster(slow) as running:
        becoming = asyncio.create_task(running.become(plan))
        await until(lambda: pids(running))
        other = ProcessDriver(STAND_IN, others, tmp_path / "logs", env=played).start(plan.instances[0])
        with pytest.raises(PortTaken, match=rf"\(ollama-0\) was taken by pid {other.pid} of "):
            await becoming
        await running.clear()
        assert others.alive(other.pid)
        assert left_behind(folder) == []


@pytest.mark.parametrize("before", ["", "env -u AUTOTUNE_STUDY ", "env -u AUTOTUNE_STUDY setsid "])
async def test_what_an_instances_own_program_starts_is_no_stranger(
    children: Children, plan_of: Plans, folder: Path, before: str
) -> None:
    plan = plan_of.make("0")
    text = f"{before}{shlex.join(STAND_IN)}; exit $?"
    env = {"AUTOTUNE_SIM_PROFILE": PROFILE, "PYTHONPATH": str(ROOT)}
    driver = ProcessDriver([script(folder, text)], children, folder / "logs", stop_timeout_s=2, env=env)
    with socket.create_server(("127.0.0.2", plan.instances[0].port)):  # that is another port
        async with cluster(driver) as running:
            await running.become(plan)
            server = host.listener(plan.instances[0].port)
            assert server is not None
        host.send(server, signal.SIGKILL)  # of a session of its own nobody knows
        await until(lambda: host.port_free(plan.instances[0].port))


async def test_an_answer_of_another_server_is_no_readiness(children: Children, plan_of: Plans, folder: Path) -> None:
    plan = plan_of.make("0")
    port = plan.instances[0].port
    text = f"exec python3 -m http.server --bind 127.0.0.1 --directory {folder} {port}"
    (folder / "api").mkdir()
    (folder / "api" / "version").write_text("{}")
    driver = ProcessDriver([script(folder, text)], children, folder / "logs", stop_timeout_s=2)
    async with cluster(driver, start_s=1.5) as running:
        with pytest.raises(NeverReady):
            await running.become(plan)
    assert_gone(plan, folder)


# leaving nothing behind


async def test_an_exception_in_the_block_ends_all(stand_in: Drivers, plan_of: Plans, folder: Path) -> None:
    plan = plan_of.make("0 | 1")

    async def night() -> None:
        async with cluster(stand_in()) as running:
            await running.become(plan)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await night()
    assert_gone(plan, folder)


@asynccontextmanager
async def cancelled_in(work: Callable[[], Any], reached: Callable[[], object]) -> AsyncIterator[None]:
    """Run `work`, and cancel it as soon as it has come so far."""
    task = asyncio.ensure_future(work())
    await until(lambda: task.done() or reached())
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    yield


def log_of(folder: Path, number: int = 0) -> str:
    path = folder / "logs" / f"ollama-{number}.log"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("stage", ["start", "load", "stop"])
async def test_cancelled_at_any_stage_nothing_is_left(
    stage: str, stand_in: Drivers, plan_of: Plans, folder: Path
) -> None:
    plan = plan_of.make("0 | 1", num_batch=256)
    stopping = asyncio.Event()
    reached: dict[str, Callable[[], object]] = {
        "start": (folder / "processes.jsonl").exists,
        "load": lambda: "starting llama-server" in log_of(folder),
        "stop": stopping.is_set,
    }

    async def night() -> None:
        async with cluster(stand_in(AUTOTUNE_SIM_TIME_SCALE="0.001" if stage == "load" else "1")) as running:
            await running.become(plan)
            await running.load(plan)
            stopping.set()
            await running.become(plan_of.make("0", num_parallel=4))

    async with cancelled_in(night, reached[stage]):
        assert_gone(plan, folder)


@pytest.mark.nginx
async def test_cancelled_while_nginx_starts_nothing_is_left(
    stand_in: Drivers, plan_of: Plans, children: Children, folder: Path
) -> None:
    plan = plan_of.make("0")

    async def night() -> None:
        async with cluster(stand_in(), Nginx(children, folder / "nginx")) as running:
            await running.become(plan)
            await asyncio.sleep(60)

    async with cancelled_in(night, (folder / "nginx" / "output.log").exists):
        assert_gone(plan, folder)


# the model that requests name


async def test_a_derived_model_is_made_for_the_plan_and_goes_with_the_cluster(
    stand_in: Drivers, plan_of: Plans, folder: Path
) -> None:
    plan = plan_of.make("0 | 1", num_batch=256)
    first = plan.instances[0]
    other = telling(replace(plan_of.make("0").instances[0], name="other", port=plan.instances[1].port + 1))
    other = telling(other, OLLAMA_HOST=other.address)
    async with cluster(stand_in()) as witness:
        await witness.start(other)
        async with cluster(stand_in()) as running:
            for _ in range(2):
                await running.become(plan)
                await running.load(plan)
                assert f"{plan.model}:latest" in await models(first.url)
            assert "-b 256 -ub 256" in log_of(folder)
            assert log_of(folder).count("starting llama-server") == 1
        assert f"{plan.model}:latest" not in await models(other.url)


async def test_a_derived_model_goes_also_when_its_instance_has_died(
    stand_in: Drivers, plan_of: Plans, folder: Path
) -> None:
    plan = plan_of.make("0", num_batch=256)
    async with cluster(stand_in()) as running:
        await running.become(plan)
        await running.load(plan)
        (pid,) = pids(running).values()
        os.kill(pid, signal.SIGKILL)
        await running.clear()
    assert_gone(plan, folder)
    async with cluster(stand_in()) as later:
        await later.become(plan)
        assert f"{plan.model}:latest" not in await models(plan.instances[0].url)


async def test_a_model_without_a_parent_cannot_be_derived(stand_in: Drivers, plan_of: Plans, folder: Path) -> None:
    plan = plan_of.make("0", spec=study(cluster={"model": "nosuch"}), num_batch=256)
    async with cluster(stand_in()) as running:
        await running.become(plan)
        with pytest.raises(ModelMissing, match=r"did not create autotune-nosuch-batch256-[0-9a-f]{6} from nosuch"):
            await running.load(plan)
    assert_gone(plan, folder)


# where the model really is


async def looked_at(driver: ProcessDriver, plan: Plan) -> Placement:
    async with cluster(driver) as running:
        await running.become(plan)
        await running.load(plan)
        return (await running.placements(plan))[0]


async def test_a_placement_as_planned_passes(stand_in: Drivers, plan_of: Plans) -> None:
    plan = plan_of.make("0 | 1", num_parallel=4)
    async with cluster(stand_in()) as running:
        await running.become(plan)
        await running.load(plan)
        found = await running.placements(plan)
    assert [one.instance for one in found] == ["ollama-0", "ollama-1"]
    for one, instance in zip(found, plan.instances, strict=True):
        verify.check(plan, one, None)
        assert (one.layers_on_device, one.layers, one.num_parallel, one.context_length) == (8, 8, 4, 1024)
        assert one.compute == instance.devices
        assert one.share_on_device == 1
        assert not verify.short(one)


async def test_a_model_that_is_partly_left_to_the_cpu_is_found_out(
    stand_in: Drivers, plan_of: Plans, folder: Path
) -> None:
    little = folder / "little.toml"
    shipped = (SHIPPED / f"{PROFILE}.toml").read_text()
    little.write_text(shipped.replace("memory_mib = 4096", "memory_mib = 3072"))
    plan = plan_of.make("0", num_parallel=64)
    driver = stand_in(AUTOTUNE_SIM_PROFILE=str(little))
    found = await looked_at(driver, plan)
    assert found.layers_on_device is not None
    assert 0 < found.layers_on_device < 8
    assert verify.short(found)
    with pytest.raises(Offloaded, match=rf"ollama-0 has {found.layers_on_device} of 8 layers of tiny on the GPU"):
        verify.check(plan, found, None)

    alone = await looked_at(driver, verify.alone(plan, plan.instances[0]))
    assert (alone.layers_on_device, alone.num_parallel) == (8, 1)
    with pytest.raises(Offloaded, match="; alone it has 8 of 8 layers there"):
        verify.check(plan, found, alone)
    verify.check(plan, found, found)  # no configuration could have more


@pytest.mark.parametrize("hidden", ["-1", "GPU-of-another-host"])
async def test_a_gpu_that_was_asked_for_and_not_used_is_found_out(
    stand_in: Drivers, plan_of: Plans, hidden: str
) -> None:
    plan = only_telling(plan_of.make("0"), 0, CUDA_VISIBLE_DEVICES=hidden)
    found = await looked_at(stand_in(), plan)
    assert found.compute == ("cpu",)
    with pytest.raises(OnCpu, match="ollama-0 loaded tiny on the CPU, not on the GPU"):
        verify.check(plan, found, None)
    with pytest.raises(DeviceLost, match=r"ollama-0 found no GPU: GPU-\S+ is lost") as caught:
        verify.need_devices([(plan.instances[0], found)])
    assert caught.value.device == plan.instances[0].devices[0]


async def test_an_instance_over_two_gpus_that_finds_one_has_lost_the_other(stand_in: Drivers, plan_of: Plans) -> None:
    plan = plan_of.make("0+1")
    first, second = plan.instances[0].devices
    found = await looked_at(stand_in(), only_telling(plan, 0, CUDA_VISIBLE_DEVICES=first))
    with pytest.raises(DeviceLost, match=f"found 1 of its 2 GPUs: {second} is lost") as caught:
        verify.need_devices([(plan.instances[0], found)])
    assert caught.value.device == second
    verify.need_devices([(plan.instances[0], replace(found, compute=(second, first)))])


def test_where_nobody_finds_a_gpu_no_device_is_left_out(plan_of: Plans) -> None:
    blind = replace(PLACED, compute=("cpu",))
    with pytest.raises(DeviceLost, match="no instance found a GPU") as caught:
        verify.need_devices([(instance, blind) for instance in plan_of.make("0 | 1").instances])
    assert not caught.value.device


@pytest.mark.parametrize("names", [("0", "1"), ("GPU-8a3f0c1d2e4b5a69", "1")])
def test_of_cards_that_ollama_names_otherwise_it_finds_as_many_as_it_was_given(
    plan_of: Plans, names: tuple[str, ...]
) -> None:
    """Which of them is missing nobody knows, so that none is left out."""
    instance = replace(plan_of.make("0+1").instances[0], devices=names)
    verify.need_devices([(instance, replace(PLACED, compute=("0", "1")))])
    verify.need_devices([(instance, replace(PLACED, compute=()))])  # a log that says nothing
    with pytest.raises(DeviceLost, match=r"found 1 of its 2 GPUs .* does not say which: .*may say more") as caught:
        verify.need_devices([(instance, replace(PLACED, compute=("0",)))])
    assert not caught.value.device


@pytest.mark.parametrize("compute", [(), ("0",), ("GPU-abcdef",)])
def test_devices_that_nobody_names_as_nvml_does_are_not_missed(plan_of: Plans, compute: tuple[str, ...]) -> None:
    (instance,) = plan_of.make("0").instances
    for name in ("0", "GPU-8a3f0c1d2e4b5a69"):  # of a card of AMD
        verify.need_devices([(replace(instance, devices=(name,)), replace(PLACED, compute=compute))])
    verify.need_devices([(replace(instance, on_gpu=False), replace(PLACED, on_gpu=False, compute=("cpu",)))])


async def test_a_cpu_that_was_asked_for_is_no_offload(stand_in: Drivers, plan_of: Plans) -> None:
    plan = plan_of.make("0", inventory=cores((min(os.sched_getaffinity(0)),)))
    found = await looked_at(stand_in(), plan)
    assert not verify.short(found)
    verify.check(plan, found, None)


async def test_another_number_of_slots_or_tokens_is_found_out(stand_in: Drivers, plan_of: Plans) -> None:
    plan = plan_of.make("0", num_parallel=4)
    told = only_telling(plan, 0, OLLAMA_NUM_PARALLEL="3", OLLAMA_CONTEXT_LENGTH="512")
    found = await looked_at(stand_in(), told)
    with pytest.raises(ParallelIgnored, match="ollama-0 serves 3 slots, not 4"):
        verify.check(plan, found, None)
    with pytest.raises(ContextChanged, match="ollama-0 serves a context of 512, not 1024 tokens"):
        verify.check(plan, replace(found, num_parallel=4), None)


async def test_a_family_that_has_one_slot_by_force_is_no_fault(stand_in: Drivers, plan_of: Plans) -> None:
    plan = plan_of.make("0", spec=study(cluster={"model": "qwen35"}), num_parallel=4)
    found = await looked_at(stand_in(), plan)
    assert found.single
    assert found.num_parallel == 1
    verify.check(plan, found, None)


def test_the_share_on_the_device_is_by_layers_and_else_by_bytes() -> None:
    assert PLACED.share_on_device == 0.5
    assert replace(PLACED, layers_on_device=None, layers=None, size_vram_bytes=25).share_on_device == 0.25
    assert replace(PLACED, layers_on_device=None, layers=None, size_bytes=0).share_on_device == 0


def test_layers_that_overflow_are_missing_though_all_are_said_to_be_there(plan_of: Plans) -> None:
    plan = plan_of.make("0", num_parallel=4)
    spilt = replace(PLACED, layers_on_device=8, size_vram_bytes=97)
    whole = replace(spilt, size_vram_bytes=100)
    assert verify.short(spilt)
    assert not verify.short(whole)
    words = r"has 8 of 8 layers, but only 97\.0% of the bytes, of tiny on the GPU; alone it has 8 of 8 layers there"
    with pytest.raises(Offloaded, match=words):
        verify.check(plan, spilt, whole)


def test_a_part_that_is_on_the_host_even_alone_is_not_held_against_a_plan(plan_of: Plans) -> None:
    plan = plan_of.make("0", num_parallel=4)
    alone = replace(PLACED, layers_on_device=8, size_bytes=1000, size_vram_bytes=900)
    verify.check(plan, replace(alone, size_bytes=1200, size_vram_bytes=1075), alone)
    with pytest.raises(Offloaded):
        verify.check(plan, replace(alone, size_bytes=1200, size_vram_bytes=1060), alone)
    with pytest.raises(Offloaded, match="has 7 of 8 layers"):
        verify.check(plan, replace(alone, layers_on_device=7), alone)


def test_what_ollama_does_not_say_is_not_held_against_a_plan(plan_of: Plans) -> None:
    whole = replace(PLACED, layers_on_device=None, layers=None, size_vram_bytes=100)
    verify.check(plan_of.make("0"), replace(whole, num_parallel=None, context_length=0), None)


def test_each_instance_is_held_against_its_own_slots(plan_of: Plans) -> None:
    first, second = gpus(2).devices
    mixed = Inventory("host", (first, replace(second, kind="large")))
    chosen: dict[str, Any] = {"num_parallel": 4, "num_parallel@B": 8, "weights": "slots"}
    plan = plan_of.make("0 | 1", inventory=mixed, **chosen)
    whole = replace(PLACED, layers_on_device=8, size_vram_bytes=100)
    verify.check(plan, whole, None)
    verify.check(plan, replace(whole, instance="ollama-1", num_parallel=8), None)
    with pytest.raises(ParallelIgnored, match="ollama-1 serves 4 slots, not 8"):
        verify.check(plan, replace(whole, instance="ollama-1"), None)
    alone = verify.alone(plan, plan.instances[1])
    assert (alone.instances[0].slots, alone.balancer.weights) == (1, ())
    verify.check(alone, replace(whole, instance="ollama-1", num_parallel=1), None)


def test_no_model_or_two_are_no_placement(plan_of: Plans) -> None:
    handle = Handle(plan_of.make("0").instances[0], os.getpid())
    one = Loaded("tiny:latest", "d", 100, 100, 1024)
    with pytest.raises(LoadFailed, match="ollama-0 has no model in memory, not one model"):
        verify.placement(handle, "", [])
    with pytest.raises(LoadFailed, match="has tiny:latest, other:latest in memory"):
        verify.placement(handle, "", [one, replace(one, name="other:latest")])


def test_every_failure_is_one_of_ours() -> None:
    for kind in (Offloaded, OnCpu, ParallelIgnored, ContextChanged, LoadFailed, StartFailed, NeverReady, InstanceDied):
        assert issubclass(kind, AutotuneError)
        assert kind.reason != "failed"


# a real Ollama


@pytest.mark.ollama
async def test_real_servers_become_a_plan_load_and_leave_nothing(
    real_ollama: RealOllama, children: Children, plan_of: Plans, folder: Path
) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    (folder / "home").mkdir()
    spec = study(cluster={"model": real_ollama.model}, workload={"num_ctx": 256})
    plan = plan_of.make("0x2", inventory=cores(tuple(cpus)), spec=spec, num_parallel=2, num_batch=128)
    plan = replace(plan, instances=tuple(telling(one, OLLAMA_MODELS=str(real_ollama.models)) for one in plan.instances))
    driver = ProcessDriver([real_ollama.binary, "serve"], children, folder / "logs", stop_timeout_s=10)
    async with cluster(driver, start_s=60, load_s=120) as running:
        for _ in range(2):
            await running.become(plan)
            await running.load(plan)
        for found in await running.placements(plan):
            verify.check(plan, found, None)
            assert (found.num_parallel, found.context_length) == (2, 256)
        assert len(re.findall(r'msg="starting (?:llama-server|runner)" cmd="[^\n]* --model ', log_of(folder))) == 1
        sessions = [host.session(pid) for pid in pids(running).values()]
        assert all(len(session) == 2 for session in sessions)
        assert sorted(await models(plan.instances[0].url)) == sorted([f"{plan.model}:latest", real_ollama.model])
    assert_gone(plan, folder)
    async with cluster(driver, start_s=60) as later:
        await later.start(plan.instances[0])
        assert await models(plan.instances[0].url) == [real_ollama.model]
