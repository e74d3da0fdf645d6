"""nginx in front: its configuration is accepted, it streams, it spreads as it is told, and it ends with us."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from autotune.cluster import host
from autotune.cluster.children import program
from autotune.cluster.nginx import PLAN_HEADER, Nginx, configuration, upstream
from autotune.errors import BalancerError, PortTaken
from autotune.records import UPSTREAM_HEADER
from autotune.simulator import environment
from autotune.simulator.profiles import load_profile
from autotune.simulator.server import serving
from tests.cluster.programs import listener
from tests.conftest import Plans, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from autotune.cluster.children import Children
    from autotune.plan import Plan

POLICIES = ["round_robin", "least_conn", "random_two"]


class Upstream:
    """An instance that answers at once, or one chunk now and the other when it is let go."""

    def __init__(self) -> None:
        self.asked = 0
        self.waiting = 0
        self.go = asyncio.Event()

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.30.0"})

    async def quick(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(text="done")

    async def slow(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await response.write(b"first\n")
        self.waiting += 1
        await self.go.wait()
        await response.write(b"last\n")
        return response

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[None]:
        application = web.Application()
        routes = {"/api/version": self.version, "/quick": self.quick, "/slow": self.slow}
        for path, handler in routes.items():
            application.router.add_get(path, handler)
        runner = web.AppRunner(application, shutdown_timeout=0.01, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield
        finally:
            self.go.set()
            await runner.cleanup()


@asynccontextmanager
async def upstreams(plan: Plan) -> AsyncIterator[Sequence[Upstream]]:
    """A server for each instance of a plan."""
    async with AsyncExitStack() as stack:
        servers = [Upstream() for _ in plan.instances]
        for server, instance in zip(servers, plan.instances, strict=True):
            await stack.enter_async_context(server.listening(instance.port))
        yield servers


@pytest.fixture
async def nginx(children: Children, folder: Path) -> AsyncIterator[Nginx]:
    nginx = Nginx(children, folder / "nginx")
    yield nginx
    await nginx.stop()


def policy(plan: Plan, name: str, weights: tuple[int, ...] = ()) -> Plan:
    return replace(plan, balancer=replace(plan.balancer, policy=name, weights=weights))


async def get(session: aiohttp.ClientSession, url: str) -> str:
    """The body of an answer."""
    async with session.get(url) as response:
        assert response.status == 200
        return await response.text()


# the configuration


def accepted(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "rendered.conf"
    path.write_text(text)
    command = [program("nginx"), "-t", "-q", "-p", str(folder), "-c", str(path), "-e", "stderr"]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.nginx
@pytest.mark.parametrize("name", POLICIES)
def test_nginx_accepts_the_configuration_of_every_policy(name: str, plan_of: Plans, tmp_path: Path) -> None:
    user = "root root" if os.geteuid() == 0 else ""
    for layout, weights in (("0", ()), ("0x2 | 1x2", ()), ("0x2 | 1x2", (8, 8, 3, 3))):
        text = configuration(policy(plan_of.make(layout), name, weights), tmp_path, user)
        tested = accepted(text, tmp_path)
        assert (tested.returncode, tested.stderr) == (0, "")


@pytest.mark.nginx
@pytest.mark.parametrize("name", ["a b", 'quo"te', "semi;colon {", "back\\slash", "$dollar #hash", "ünï"])
def test_a_study_folder_may_be_called_anything(name: str, plan_of: Plans, tmp_path: Path) -> None:
    prefix = tmp_path / name
    prefix.mkdir()
    tested = accepted(configuration(plan_of.make(), prefix), prefix)
    assert (tested.returncode, tested.stderr) == (0, "")


def test_the_policy_stands_before_keepalive_and_no_upstream_is_ever_taken_out(plan_of: Plans, tmp_path: Path) -> None:
    plan = policy(plan_of.make("0 | 1"), "least_conn")
    text = configuration(plan, tmp_path)
    assert text.index("zone ollama") < text.index("least_conn;") < text.index("keepalive 512;")
    assert [line.split()[1] for line in text.splitlines() if "max_fails=0" in line] == list(plan.balancer.upstreams)


def test_each_upstream_has_its_weight_and_none_where_all_are_equal(plan_of: Plans) -> None:
    plan = plan_of.make("0 | 1")
    first, second = plan.balancer.upstreams
    assert "weight" not in upstream(plan.balancer)
    weighed = upstream(policy(plan, "least_conn", (8, 3)).balancer)
    assert f"server {first} weight=8 max_fails=0;" in weighed
    assert f"server {second} weight=3 max_fails=0;" in weighed


def test_a_host_without_nginx_says_how_to_get_it() -> None:
    with pytest.raises(BalancerError, match='install it with "sudo apt-get install nginx-light"'):
        Nginx.check("no-such-nginx")


async def test_becoming_a_plan_without_nginx_says_so_too(children: Children, folder: Path, plan_of: Plans) -> None:
    missing = Nginx(children, folder / "nginx", "no-such-nginx")
    with pytest.raises(BalancerError, match="no nginx on this host"):
        await missing.become(plan_of.make())
    assert not missing.alive()


@pytest.mark.nginx
async def test_a_configuration_that_is_refused_is_shown(nginx: Nginx, plan_of: Plans) -> None:
    plan = plan_of.make()
    bad = replace(plan, balancer=replace(plan.balancer, upstreams=("nonsense:port",)))
    with pytest.raises(BalancerError, match="nginx refuses its configuration") as caught:
        await nginx.become(bad)
    assert "invalid port" in caught.value.details


# what passes through


@pytest.mark.nginx
async def test_text_arrives_as_it_is_written(nginx: Nginx, plan_of: Plans) -> None:
    plan = plan_of.make()
    async with upstreams(plan) as (server,), aiohttp.ClientSession() as session:
        await nginx.become(plan)
        async with session.get(f"{plan.url}/slow") as response:
            assert await asyncio.wait_for(response.content.readline(), 10) == b"first\n"
            assert not server.go.is_set()
            server.go.set()
            assert await response.content.read() == b"last\n"


@pytest.mark.nginx
async def test_an_answer_says_its_plan_and_its_instance(nginx: Nginx, plan_of: Plans) -> None:
    plan = plan_of.make("0 | 1")
    async with upstreams(plan), aiohttp.ClientSession() as session:
        await nginx.become(plan)
        for path, status in (("/quick", 200), ("/nosuch", 404)):
            async with session.get(f"{plan.url}{path}") as response:
                assert response.status == status
                assert response.headers[PLAN_HEADER] == plan.fingerprint
                assert response.headers[UPSTREAM_HEADER] in plan.balancer.upstreams


@pytest.mark.nginx
async def test_an_instance_that_is_gone_is_not_hidden(nginx: Nginx, plan_of: Plans) -> None:
    plan = plan_of.make("0 | 1")
    async with upstreams(plan) as (first, second), aiohttp.ClientSession() as session:
        await nginx.become(plan)
        alone = replace(plan, balancer=replace(plan.balancer, upstreams=(plan.instances[0].address, "127.0.0.1:1")))
        await nginx.become(alone)
        statuses = Counter([(await session.get(f"{plan.url}/quick")).status for _ in range(8)])
    assert statuses == {200: 4, 502: 4}
    assert (first.asked, second.asked) == (4, 0)


@pytest.mark.nginx
async def test_an_instance_accepts_the_host_that_nginx_names(
    nginx: Nginx, plan_of: Plans, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of.make()
    settings = environment.read(dict(plan.instances[0].env))
    async with serving(settings, load_profile("2x-small")), aiohttp.ClientSession() as session:
        await nginx.become(plan)
        async with session.get(f"{plan.url}/api/version", headers={"Host": "ollama.example.com"}) as response:
            assert response.status == 200
        async with session.get(f"{plan.instances[0].url}/api/version", headers={"Host": "ollama"}) as response:
            assert response.status == 403


# who gets what


@pytest.mark.nginx
async def test_round_robin_counts(nginx: Nginx, plan_of: Plans) -> None:
    plan = policy(plan_of.make("0x2 | 1x2"), "round_robin")
    async with upstreams(plan) as servers, aiohttp.ClientSession() as session:
        await nginx.become(plan)
        for _ in range(12):
            await get(session, f"{plan.url}/quick")
    assert [server.asked for server in servers] == [3, 3, 3, 3]


@pytest.mark.nginx
async def test_a_weight_is_a_share(nginx: Nginx, plan_of: Plans) -> None:
    plan = policy(plan_of.make("0 | 1"), "round_robin", (3, 1))
    async with upstreams(plan) as servers, aiohttp.ClientSession() as session:
        await nginx.become(plan)
        for _ in range(16):
            await get(session, f"{plan.url}/quick")
        assert [server.asked for server in servers] == [12, 4]


@pytest.mark.nginx
async def test_least_conn_goes_to_the_idle(nginx: Nginx, plan_of: Plans) -> None:
    plan = policy(plan_of.make("0 | 1"), "least_conn")
    async with upstreams(plan) as servers, aiohttp.ClientSession() as session:
        await nginx.become(plan)
        busy = asyncio.create_task(get(session, f"{plan.url}/slow"))
        await until(lambda: any(server.waiting for server in servers))
        for _ in range(6):
            await get(session, f"{plan.url}/quick")
        assert sorted((server.waiting, server.asked) for server in servers) == [(0, 6), (1, 0)]
        for server in servers:
            server.go.set()
        assert await busy == "first\nlast\n"


@pytest.mark.nginx
async def test_of_two_that_are_idle_random_two_takes_the_one_drawn_later(nginx: Nginx, plan_of: Plans) -> None:
    """So of idle instances the heavier one, which is drawn first more often, gets the less."""
    plan = policy(plan_of.make("0 | 1"), "random_two", (3, 1))
    async with upstreams(plan) as (heavy, light), aiohttp.ClientSession() as session:
        await nginx.become(plan)
        for _ in range(160):
            await get(session, f"{plan.url}/quick")
    assert heavy.asked + light.asked == 160
    assert heavy.asked == pytest.approx(40, abs=28)


@pytest.mark.nginx
async def test_random_two_reaches_all(nginx: Nginx, plan_of: Plans) -> None:
    plan = policy(plan_of.make("0x2 | 1x2"), "random_two")
    async with upstreams(plan) as servers, aiohttp.ClientSession() as session:
        await nginx.become(plan)
        for _ in range(100):
            await get(session, f"{plan.url}/quick")
    assert min(server.asked for server in servers) > 0


# its life


@pytest.mark.nginx
async def test_another_plan_is_another_nginx_and_the_same_plan_the_same(nginx: Nginx, plan_of: Plans) -> None:
    plan = plan_of.make("0 | 1")
    async with upstreams(plan), aiohttp.ClientSession() as session:
        pids = []
        for one in (plan, plan, policy(plan, "least_conn")):
            await nginx.become(one)
            pids.append(nginx._pid)
            async with session.get(f"{plan.url}/quick") as response:
                assert response.headers[PLAN_HEADER] == one.fingerprint
    assert pids[0] == pids[1] != pids[2]


@pytest.mark.nginx
async def test_stop_leaves_nothing_and_twice_is_fine(nginx: Nginx, plan_of: Plans) -> None:
    plan = plan_of.make()
    async with upstreams(plan):
        await nginx.become(plan)
    pid = nginx._pid
    assert pid is not None
    assert len(host.session(pid)) > 1
    for _ in range(2):
        await nginx.stop()
        assert not nginx.alive()
    assert host.session(pid) == []
    assert host.port_free(plan.balancer.port)


@pytest.mark.nginx
async def test_a_port_that_somebody_else_has_is_named_and_left_to_him(nginx: Nginx, plan_of: Plans) -> None:
    plan = plan_of.make()
    with listener(plan.balancer.port) as foreign:
        with pytest.raises(PortTaken, match=rf"port {plan.balancer.port} \(nginx\) is taken by pid {foreign.pid} of "):
            await nginx.become(plan)
        await nginx.stop()
        assert foreign.poll() is None
    assert not nginx.alive()


@pytest.mark.nginx
async def test_a_death_is_noticed_and_what_it_leaves_is_ended(nginx: Nginx, plan_of: Plans) -> None:
    plan = plan_of.make()
    async with upstreams(plan):
        await nginx.become(plan)
        pid = nginx._pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not nginx.alive())
        assert host.session(pid)  # the workers go on without their master
        await nginx.become(plan)
        assert nginx.alive()
        assert host.session(pid) == []


@pytest.mark.nginx
async def test_a_plan_without_a_living_instance_is_proved_all_the_same(nginx: Nginx, plan_of: Plans) -> None:
    plan = plan_of.make()
    await nginx.become(plan)
    async with aiohttp.ClientSession() as session, session.get(f"{plan.url}/quick") as response:
        assert (response.status, response.headers[PLAN_HEADER]) == (502, plan.fingerprint)
