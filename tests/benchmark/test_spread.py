"""Requests spread without a balancer between, over real connections to instances on loopback."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from autotune.benchmark.dialect import Ask
from autotune.benchmark.flight import Flight
from autotune.benchmark.spread import Direct, Spread
from autotune.benchmark.wire import WireClient
from autotune.benchmark.workload import Prompt
from autotune.records import Outcome
from tests.benchmark.server import END, HEAD, Say, Server, line, listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from autotune.records import RequestRecord

ANSWER = HEAD + b"\r\n" + line(response="x", done=False) + line(response="", done=True, eval_count=2) + END
BUSY: list[Say] = [600.0]
"""Never has time for an answer."""


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
async def instances(
    policy: str, *scripts: list[Say], seed: int = 0, weights: tuple[int, ...] = ()
) -> AsyncIterator[Instances]:
    """As many instances as scripts."""
    async with AsyncExitStack() as stack:
        servers = {}
        for script in scripts:
            server = Server(script)
            servers[f"127.0.0.1:{await stack.enter_async_context(listening(server.serve))}"] = server
        ask = Ask("generate", "tiny")
        direct = Direct({address: WireClient(f"http://{address}", ask) for address in servers})
        spread = await stack.enter_async_context(Spread(direct, servers, policy, seed, weights=weights))
        yield Instances(spread, servers)


@asynccontextmanager
async def begun(asking: Instances) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """What sends a request that no busy instance ever answers, and tells which of them got it."""
    tasks = []

    async def one_more() -> int:
        before = asking.busy()
        tasks.append(asyncio.create_task(asking.ask()))
        await asyncio.sleep(0)
        (chosen,) = (index for index, busy in enumerate(asking.busy()) if busy > before[index])
        return chosen

    try:
        yield one_more
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_round_robin_gives_each_its_turn() -> None:
    async with instances("round_robin", [ANSWER], [ANSWER], [ANSWER]) as asking:
        asked = [(await asking.ask()).upstream for _ in range(7)]
        assert asking.served() == [3, 2, 2]
        assert asked == (list(asking.servers) * 3)[:7]


async def test_round_robin_gives_each_its_turn_however_busy_it_is() -> None:
    async with instances("round_robin", BUSY, [ANSWER]) as asking, begun(asking) as one_more:
        for _ in range(5):
            assert await one_more() == 0
            assert (await asking.ask()).upstream == list(asking.servers)[1]


async def test_least_conn_goes_to_the_idle_one() -> None:
    async with instances("least_conn", BUSY, [ANSWER], [ANSWER]) as asking:
        async with begun(asking) as one_more:
            assert await one_more() == 0
            others = Counter([(await asking.ask()).upstream for _ in range(6)])
            assert others == dict.fromkeys(list(asking.servers)[1:], 3)
        assert asking.busy() == [0, 0, 0]


async def test_least_conn_fills_all_before_it_gives_one_more_to_any() -> None:
    async with instances("least_conn", BUSY, BUSY, BUSY) as asking, begun(asking) as one_more:
        for number in range(1, 10):
            await one_more()
            assert max(asking.busy()) - min(asking.busy()) <= 1
            assert sum(asking.busy()) == number


async def test_idle_instances_take_turns_under_least_conn() -> None:
    async with instances("least_conn", [ANSWER], [ANSWER], [ANSWER]) as asking:
        assert Counter([(await asking.ask()).upstream for _ in range(9)]) == dict.fromkeys(asking.servers, 3)


async def test_random_two_never_goes_to_the_busier_of_its_two() -> None:
    async with instances("random_two", BUSY, BUSY, BUSY, seed=3) as asking, begun(asking) as one_more:
        for _ in range(40):
            before = asking.busy()
            chosen = await one_more()
            others = [busy for index, busy in enumerate(before) if index != chosen]
            assert before[chosen] <= max(others)  # of any two there is one that is not the busiest of all
        assert max(asking.busy()) - min(asking.busy()) <= 2


async def test_random_two_of_two_is_the_less_busy() -> None:
    async with instances("random_two", BUSY, BUSY) as asking, begun(asking) as one_more:
        for number in range(1, 13):
            await one_more()
            assert max(asking.busy()) - min(asking.busy()) == number % 2


async def test_random_two_of_idle_ones_reaches_all() -> None:
    async with instances("random_two", [ANSWER], [ANSWER], [ANSWER]) as asking:
        for _ in range(30):
            await asking.ask()
        assert min(asking.served()) >= 3


async def test_weights_give_shares_and_no_bursts() -> None:
    async with instances("round_robin", [ANSWER], [ANSWER], [ANSWER], weights=(5, 1, 1)) as asking:
        a, b, c = asking.servers
        asked = [(await asking.ask()).upstream for _ in range(14)]
        assert asked == [a, a, b, a, c, a, a] * 2  # as nginx has it


async def test_least_conn_fills_each_in_proportion_to_its_weight() -> None:
    async with instances("least_conn", BUSY, BUSY, BUSY, weights=(4, 2, 1)) as asking, begun(asking) as one_more:
        for _ in range(14):
            await one_more()
        assert asking.busy() == [8, 4, 2]


async def test_idle_instances_take_turns_by_their_weights_under_least_conn() -> None:
    async with instances("least_conn", [ANSWER], [ANSWER], weights=(3, 1)) as asking:
        assert [(await asking.ask()).upstream for _ in range(8)].count(next(iter(asking.servers))) == 6


async def test_random_two_draws_and_compares_by_weight() -> None:
    async with instances("random_two", BUSY, BUSY, weights=(3, 1), seed=2) as asking, begun(asking) as one_more:
        for _ in range(40):
            await one_more()
        assert asking.busy() in ([30, 10], [31, 9], [29, 11])


async def test_of_two_that_are_idle_random_two_takes_the_one_drawn_later() -> None:
    """As nginx does: the heavier one is drawn first more often, and gets the less."""
    async with instances("random_two", [ANSWER], [ANSWER], weights=(3, 1), seed=1) as asking:
        for _ in range(80):
            await asking.ask()
        assert asking.served() == pytest.approx([20, 60], abs=12)


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
    async with instances("least_conn", BUSY, BUSY) as asking:
        async with begun(asking) as one_more:
            for _ in range(3):
                await one_more()
            assert sum(asking.busy()) == 3
        assert asking.busy() == [0, 0]
