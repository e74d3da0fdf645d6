"""Spreads requests over several instances without a balancer between: the client does what nginx would do."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from autotune.benchmark.flight import Client, Flight
    from autotune.benchmark.watch import Pulse
    from autotune.records import RequestRecord


class Direct:
    """A client of several instances: each request goes to the address that is written on it."""

    lead_s = 0.0

    def __init__(self, clients: Mapping[str, AbstractAsyncContextManager[Client]]) -> None:
        self._closed = dict(clients)
        self._clients: dict[str, Client] = {}

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        for address, client in self._closed.items():
            self._clients[address] = await self._stack.enter_async_context(client)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def open(self, connections: int) -> int:
        """Open connections ahead of the load: to each instance as many, since any could get all of it."""
        return sum([await client.open(connections) for client in self._clients.values()])

    async def send(self, flight: Flight) -> RequestRecord:
        """Carry one request to its address."""
        return replace(await self._clients[flight.address].send(flight), upstream=flight.address)

    async def pulse(self) -> tuple[Pulse, ...]:
        """How this process has been; the clients of all addresses are in it."""
        return await next(iter(self._clients.values())).pulse()


class Spread:
    """Writes on each request the address of the instance that gets it. The policies are nginx's.

    `round_robin`, `least_conn`, `random_two`; `client` carries each request to its address.
    """

    def __init__(
        self,
        client: AbstractAsyncContextManager[Client],
        addresses: Iterable[str],
        policy: str,
        seed: int = 0,
        *,
        weights: Iterable[int] = (),
    ) -> None:
        """`weights` are the shares of the addresses; none where all are equal."""
        self._closed = client
        self._addresses = tuple(addresses)
        self._policy = policy
        self._random = random.Random(seed)
        self._weight = dict(zip(self._addresses, tuple(weights) or [1] * len(self._addresses), strict=True))
        self._busy = dict.fromkeys(self._addresses, 0)
        self._waited = dict.fromkeys(self._addresses, 0)

    async def __aenter__(self) -> Self:
        self._client = await self._closed.__aenter__()
        self.lead_s = self._client.lead_s
        return self

    async def __aexit__(self, *exit_: object) -> None:
        await self._closed.__aexit__(None, None, None)

    async def open(self, connections: int) -> int:
        """Open connections ahead of the load, to each instance."""
        return await self._client.open(connections)

    async def send(self, flight: Flight) -> RequestRecord:
        """Carry one request by the instance whose turn it is."""
        address = flight.address = self._choose()
        self._busy[address] += 1
        try:
            return await self._client.send(flight)
        finally:
            self._busy[address] -= 1

    async def pulse(self) -> tuple[Pulse, ...]:
        """How each process has been."""
        return await self._client.pulse()

    def _choose(self) -> str:
        if self._policy == "round_robin" or len(self._addresses) == 1:
            return self._turn(self._addresses)
        if self._policy == "random_two":
            return min(reversed(self._two()), key=self._load)  # nginx takes the second where both are alike
        least = min(map(self._load, self._addresses))
        equals = [one for one in self._addresses if self._load(one) == least]
        return equals[0] if len(equals) == 1 else self._turn(equals)

    def _load(self, address: str) -> float:
        """Requests in flight for its weight."""
        return self._busy[address] / self._weight[address]

    def _turn(self, among: Sequence[str]) -> str:
        """Whose turn it is, in nginx's way (ngx_http_upstream_round_robin.c, …_least_conn_module.c)."""
        for one in among:
            self._waited[one] += self._weight[one]
        chosen = max(among, key=self._waited.__getitem__)
        self._waited[chosen] -= sum(self._weight[one] for one in among)
        return chosen

    def _two(self) -> list[str]:
        """Two that differ, each drawn by its weight."""
        (first,) = self._random.choices(self._addresses, list(self._weight.values()))
        others = [one for one in self._addresses if one != first]
        return [first, *self._random.choices(others, [self._weight[one] for one in others])]
