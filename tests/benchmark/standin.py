"""A cluster by its law: slots, first come first served, so many seconds for a prompt and for each token."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING

from autotune.records import Outcome, RequestRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autotune.benchmark.flight import Flight
    from autotune.benchmark.watch import Pulse


@dataclass
class Standin:
    """A client with the cluster inside. Times are exact, so that loads can be checked against arithmetic."""

    lead_s = 0.0
    slots: int = 4
    prompt_s: float = 0.5
    token_s: float = 0.1
    tokens: int | None = None
    """None: as many as the request allows."""
    instances: tuple[str, ...] = ("",)
    dead: Callable[[float], bool] = lambda _: False
    """Whether it refuses everything at this time."""
    opened: int = 0
    sent: int = 0
    busiest: int = 0
    """Most requests that it ever had at once."""
    _here: int = 0
    _turn: Iterator[str] = field(init=False)
    _free: dict[str, asyncio.Semaphore] = field(init=False)

    def __post_init__(self) -> None:
        self._turn = cycle(self.instances)
        self._free = {upstream: asyncio.Semaphore(self.slots) for upstream in self.instances}

    async def open(self, connections: int) -> int:
        self.opened += connections
        return connections

    async def send(self, flight: Flight) -> RequestRecord:
        now, times, upstream = asyncio.get_running_loop().time, list[float](), next(self._turn)
        self.sent, self._here = self.sent + 1, self._here + 1
        self.busiest = max(self.busiest, self._here)
        outcome = Outcome.OK
        try:
            async with flight.bounded(None):
                flight.written_at = now()
                if self.dead(now()):
                    outcome = Outcome.FAILED
                else:
                    await self._answer(flight, upstream, times)
        except TimeoutError:
            outcome = Outcome.CUT_OFF
        self._here -= 1
        return self._record(flight, outcome, times, upstream, now())

    async def _answer(self, flight: Flight, upstream: str, times: list[float]) -> None:
        loop = asyncio.get_running_loop()
        async with self._free[upstream]:
            await asyncio.sleep(self.prompt_s)
            for number in range(self.tokens or flight.prompt.num_predict):
                if number:
                    await asyncio.sleep(self.token_s)
                times.append(loop.time())
                flight.pieces += 1
                if not number:
                    flight.speak(loop.time())

    async def pulse(self) -> tuple[Pulse, ...]:
        return ()

    def _record(self, flight: Flight, outcome: Outcome, times: list[float], upstream: str, at: float) -> RequestRecord:
        return RequestRecord(
            index=flight.prompt.index,
            intended_at=flight.intended_at,
            outcome=outcome,
            written_at=flight.written_at,
            first_content_at=times[0] if times else None,
            finished_at=at,
            chunk_times=tuple(times),
            error="refused" if outcome is Outcome.FAILED else "",
            upstream=upstream,
            eval_count=len(times) if outcome is Outcome.OK else None,
            done_reason="length" if outcome is Outcome.OK else "",
        )
