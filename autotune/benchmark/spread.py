"""Spreads requests over several instances without a balancer between: the client does what nginx would do."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.benchmark.client import HttpClient
    from autotune.benchmark.flight import Flight
    from autotune.records import RequestRecord


class Spread:
    """A client of several instances, by address. Policies are nginx's: `round_robin`, `least_conn`, `random_two`."""

    def __init__(self, clients: Mapping[str, HttpClient], policy: str, seed: int = 0) -> None:
        self._clients = dict(clients)
        self._policy = policy
        self._turn = cycle(self._clients)
        self._random = random.Random(seed)
        self._busy = dict.fromkeys(self._clients, 0)
        self._waited = dict.fromkeys(self._clients, 0)

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        for client in self._clients.values():
            await self._stack.enter_async_context(client)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def open(self, connections: int) -> int:
        """Open connections ahead of the load: to each instance as many, since any could get all of it."""
        return sum([await client.open(connections) for client in self._clients.values()])

    async def send(self, flight: Flight) -> RequestRecord:
        """Carry one request by the instance whose turn it is."""
        address = self._choose()
        self._busy[address] += 1
        try:
            return replace(await self._clients[address].send(flight), upstream=address)
        finally:
            self._busy[address] -= 1

    def _choose(self) -> str:
        if self._policy == "round_robin" or len(self._clients) == 1:
            return next(self._turn)
        if self._policy == "random_two":
            return min(self._random.sample(list(self._clients), 2), key=self._busy.__getitem__)
        least = min(self._busy.values())
        equals = [one for one in self._clients if self._busy[one] == least]
        if len(equals) == 1:
            return equals[0]
        for one in equals:  # they take turns, in nginx's way (ngx_http_upstream_least_conn_module.c)
            self._waited[one] += 1
        chosen = max(equals, key=self._waited.__getitem__)
        self._waited[chosen] -= len(equals)
        return chosen
