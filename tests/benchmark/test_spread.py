"""Requests spread without a balancer between, over real connections to instances on loopback."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from autotune.benchmark.client import HttpClient
from autotune.benchmark.flight import Flight
from autotune.benchmark.spread import Spread
from autotune.benchmark.workload import Prompt
from autotune.records import Outcome
from tests.benchmark.server import END, HEAD, Say, Server, line, listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from autotune.records import RequestRecord

ANSWER = HEAD + b"\r\n" + line(response="x", done=False) + line(response="", done=True, eval_count=2) + END


def slow(pause_s: float) -> list[Say]:
    return [pause_s, ANSWER]


@dataclass
class Instances:
    """Servers on loopback, and the client that spreads over them."""

    spread: Spread
    servers: dict[str, Server]

    async def ask(self) -> RequestRecord:
        return await self.spread.send(Flight(Prompt(0, "why", 9), asyncio.get_running_loop().time()))

    def served(self) -> list[int]:
        """Requests that each has had."""
        return [len(server.bodies) for server in self.servers.values()]

    def busy(self) -> list[int]:
        return list(self.spread._busy.values())


@asynccontextmanager
async def instances(policy: str, *scripts: list[Say], seed: int = 0) -> AsyncIterator[Instances]:
    """As many instances as scripts."""
    async with AsyncExitStack() as stack:
        servers = {}
        for script in scripts:
            server = Server(script)
            servers[f"127.0.0.1:{await stack.enter_async_context(listening(server.serve))}"] = server
        clients = {address: HttpClient(f"http://{address}", "generate", "tiny") for address in servers}
        spread = await stack.enter_async_context(Spread(clients, policy, seed))
        yield Instances(spread, servers)


async def begun(asking: Instances, requests: int) -> list[asyncio.Task[RequestRecord]]:
    """Requests that are under way, each sent after the one before had been given to an instance."""
    tasks = []
    for _ in range(requests):
        tasks.append(asyncio.create_task(asking.ask()))
        await asyncio.sleep(0)
    return tasks


async def test_round_robin_gives_each_its_turn() -> None:
    async with instances("round_robin", [ANSWER], [ANSWER], [ANSWER]) as asking:
        asked = [(await asking.ask()).upstream for _ in range(7)]
        assert asking.served() == [3, 2, 2]
        assert asked == (list(asking.servers) * 3)[:7]


async def test_round_robin_gives_each_its_turn_however_busy_it_is() -> None:
    async with instances("round_robin", [0.2, ANSWER], [ANSWER]) as asking:
        await asyncio.gather(*await begun(asking, 10))
        assert asking.served() == [5, 5]


async def test_least_conn_goes_to_the_idle_one() -> None:
    async with instances("least_conn", [0.3, ANSWER], [ANSWER], [ANSWER]) as asking:
        held = (await begun(asking, 1))[0]
        for _ in range(6):
            await asking.ask()
        assert asking.served() == [1, 3, 3]
        await held
        assert asking.busy() == [0, 0, 0]
        await asking.ask()
        assert sum(asking.served()) == 8


async def test_least_conn_fills_all_before_it_gives_one_more_to_any() -> None:
    async with instances("least_conn", *[slow(0.05)] * 3) as asking:
        tasks = []
        for number in range(1, 10):
            tasks += await begun(asking, 1)
            assert max(asking.busy()) - min(asking.busy()) <= 1
            assert sum(asking.busy()) == number
        await asyncio.gather(*tasks)
        assert asking.served() == [3, 3, 3]


async def test_idle_instances_take_turns_under_least_conn() -> None:
    async with instances("least_conn", [ANSWER], [ANSWER], [ANSWER]) as asking:
        assert Counter([(await asking.ask()).upstream for _ in range(9)]) == dict.fromkeys(asking.servers, 3)


async def test_random_two_never_goes_to_the_busier_of_its_two() -> None:
    async with instances("random_two", *map(slow, (0.01, 0.03, 0.09)), seed=3) as asking:
        tasks = []
        for number in range(60):
            before = asking.busy()
            tasks += await begun(asking, 1)
            (chosen,) = (index for index, busy in enumerate(asking.busy()) if busy > before[index])
            others = [busy for index, busy in enumerate(before) if index != chosen]
            assert before[chosen] <= max(others)  # of any two there is one that is not the busiest of all
            await asyncio.sleep(0.002 * (number % 3))
        await asyncio.gather(*tasks)
        assert min(asking.served()) > 0
        assert asking.busy() == [0, 0, 0]


async def test_random_two_of_two_is_the_less_busy() -> None:
    async with instances("random_two", *[slow(0.1)] * 2) as asking:
        tasks = []
        for number in range(1, 13):
            tasks += await begun(asking, 1)
            assert max(asking.busy()) - min(asking.busy()) == number % 2
        await asyncio.gather(*tasks)
        assert asking.served() == [6, 6]


@pytest.mark.parametrize("policy", ["round_robin", "least_conn", "random_two"])
async def test_a_single_instance_gets_everything(policy: str) -> None:
    async with instances(policy, [ANSWER]) as asking:
        asked = await asyncio.gather(*(asking.ask() for _ in range(3)))
        assert {record.upstream for record in asked} == set(asking.servers)
        assert asking.served() == [3]


async def test_connections_are_opened_to_every_instance() -> None:
    async with instances("round_robin", [ANSWER], [ANSWER]) as asking:
        assert await asking.spread.open(4) == 8
        assert [server.connections for server in asking.servers.values()] == [4, 4]
        records = await asyncio.gather(*(asking.ask() for _ in range(6)))
        assert not any(record.connected for record in records)


async def test_the_record_says_which_instance_failed() -> None:
    async with instances("round_robin", [ANSWER], [None]) as asking:
        good, bad = [await asking.ask() for _ in range(2)]
        assert (good.outcome, bad.outcome) == (Outcome.OK, Outcome.FAILED)
        assert [good.upstream, bad.upstream] == list(asking.servers)
        assert asking.busy() == [0, 0]


async def test_a_request_that_is_cancelled_is_no_longer_counted() -> None:
    async with instances("least_conn", [5.0, ANSWER], [5.0, ANSWER]) as asking:
        tasks = await begun(asking, 3)
        assert sum(asking.busy()) == 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert asking.busy() == [0, 0]
