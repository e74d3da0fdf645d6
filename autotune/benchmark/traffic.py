"""The requests of a load: who sends them when, and what has become of them so far."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from contextlib import suppress
from itertools import count, pairwise
from typing import TYPE_CHECKING

from autotune.benchmark.flight import Flight, clock
from autotune.benchmark.pacer import ClosedLoop, Due, OpenLoop
from autotune.benchmark.phases import Sample
from autotune.benchmark.workload import ConversationWorkload
from autotune.records import Outcome, RequestRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.benchmark.flight import Client
    from autotune.benchmark.pacer import Level
    from autotune.benchmark.workload import Workload

MOST_IN_FLIGHT = 4096
"""An open loop beyond this waits; the waiting counts, since latency counts from the intended time."""

BACK_OFF_S, MOST_BACK_OFF_S = 0.05, 1.0
"""What a user waits after a failure, twice as long after each further one."""


class Traffic:
    """All requests of one load. What sends and what watches are apart: senders only look whether it is `over`."""

    def __init__(self, client: Client, workload: Workload, level: Level, nonce: str) -> None:
        self._client = client
        self._workload = workload
        self._level = level
        self._nonce = nonce
        self._now = clock()
        self._indices = count()
        self._turns: defaultdict[int, Iterator[int]] = defaultdict(count)
        self._failures = 0
        self._ended_pieces = 0
        self.began = self._now()
        self._times = Due(level, self.began)
        self.window = (math.inf, math.inf)
        """[start, end) of the measurement, as far as it is known."""
        self.over = asyncio.Event()
        """Nothing more is to be sent."""
        self.news = asyncio.Event()
        """Set whenever a request has ended, or the next one is due."""
        self.due = math.inf
        """When the next request of an open loop is to be sent."""
        self.full = False
        """Whether requests of the window were held, since as many were on their way as may be."""
        self._holds = False
        self.flights: set[Flight] = set()
        self.records: list[RequestRecord] = []
        self.samples: list[Sample] = []
        self.answered: set[int] = set()
        """Users that have had an answer."""
        self.upstreams: set[str] = set()
        """Instances that are known to have answered."""
        self.last_error = ""
        self.gave_up = False
        """Nothing but failures comes back."""
        self.broken_off = False
        """Nobody wants to know any more."""

    @property
    def hopeless(self) -> bool:
        """Whether there is no use in waiting."""
        return self.gave_up or self.broken_off

    def break_off(self) -> None:
        """End it now, with what there is."""
        self.broken_off = True
        self.news.set()

    async def send(self, spread_s: float) -> None:
        """Send until it is over, and see every request to its end. Users begin in the first `spread_s` seconds."""
        async with asyncio.TaskGroup() as tasks:
            if isinstance(self._level, OpenLoop):
                await self._pace(tasks)
            else:
                for user, start in enumerate(self._level.starts(spread_s)):
                    tasks.create_task(self._use(user, start))

    async def _use(self, user: int, start: float) -> None:
        """A user without think time."""
        await self._pause(start)
        failures = 0
        while not self.over.is_set():
            record = await self._ask(user, self._now())
            failures = failures + 1 if record.outcome.failure else 0
            if failures:
                # a dead server refuses at once: without a pause this would be a loop without breath
                await self._pause(min(MOST_BACK_OFF_S, BACK_OFF_S * 2 ** min(failures - 1, 10)))

    async def _pace(self, tasks: asyncio.TaskGroup) -> None:
        """Hand over at the intended times, or as long before as the client wants it, whatever is still on its way."""
        while True:
            self.due = intended_at = self._times.next()
            self.news.set()
            await self._pause(intended_at - self._client.lead_s - self._now())
            while len(self.flights) >= MOST_IN_FLIGHT and not self.over.is_set():
                self._holds = True
                self.full = self.full or (self.window[0] <= self._now() and intended_at < self.window[1])
                await self._pause(BACK_OFF_S)
            self._holds = False
            if self.over.is_set() and intended_at >= self.window[1]:
                return
            tasks.create_task(self._ask(0, intended_at))

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not beyond the end."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.over.wait()

    async def _ask(self, user: int, intended_at: float) -> RequestRecord:
        flight = Flight(self._workload.prompt(self._index(user), self._nonce), intended_at)
        if self.over.is_set():
            flight.cut()  # due in the window and never sent: it has waited all the same
        self.flights.add(flight)
        try:
            record = await self._client.send(flight)
        finally:
            self.flights.discard(flight)
            flight.settled.set()
        self._ended_pieces += len(record.chunk_times)  # the last line of an answer is a piece without text
        self.records.append(record)
        self._learn(user, record)
        self.news.set()
        return record

    def _index(self, user: int) -> int:
        """The next one; of a conversation the user's own next one, whose turn comes when the last one is answered."""
        if isinstance(self._workload, ConversationWorkload):
            return self._workload.index(user, next(self._turns[user]))
        return next(self._indices)

    def _learn(self, user: int, record: RequestRecord) -> None:
        if record.outcome.failure:
            self._failures += 1
            self.last_error = record.error
            alive = any(flight.first_content_at is not None for flight in self.flights)
            self.gave_up = self.gave_up or (self._failures >= self._patience and not alive)
        elif record.outcome is not Outcome.CUT_OFF:
            self._failures = 0
            self.answered.add(user)
            self.upstreams |= {record.upstream} - {""}

    @property
    def failures(self) -> int:
        """How many of the last requests failed, all in a row."""
        return self._failures

    @property
    def _patience(self) -> int:
        """Failures in a row, with no answer under way, after which nobody is there any more."""
        each = self._level.users if isinstance(self._level, ClosedLoop) else math.ceil(self._level.rate)
        return 3 * each + 10

    def asked_at(self, request: Flight | RequestRecord) -> float:
        """The stamp from which its TTFT counts: it decides what the request belongs to."""
        if isinstance(self._level, OpenLoop) or request.written_at is None:
            return request.intended_at
        return request.written_at

    def inside(self, request: Flight | RequestRecord) -> bool:
        """Whether it is a request of the window."""
        return self.window[0] <= self.asked_at(request) < self.window[1]

    def held(self) -> list[float]:
        """When the requests of an open loop were due that have not left yet, since too many are on their way.

        One that is late for another reason, as the event loop has not come to it yet, is about to leave.
        """
        now = self._now()
        return [self.due, *self._times.before(now)] if self._holds and self.due < now else []

    def requests(self) -> Iterator[Flight | RequestRecord]:
        """All of them, ended or not."""
        yield from self.records
        yield from self.flights

    @property
    def pieces(self) -> int:
        """Pieces of text so far."""
        return self._ended_pieces + sum(flight.pieces for flight in self.flights)

    async def sample(self, every_s: float) -> None:
        """Note how it goes, until cancelled."""
        while True:
            self.samples.append(Sample(self._now(), self.pieces, len(self.flights), len(self.held())))
            await asyncio.sleep(every_s)

    @property
    def still_s(self) -> float:
        """The longest time in the window between two samples: this process had no time for one, nor for requests."""
        start, end = self.window
        moments = [min(max(sample.at, start), end) for sample in self.samples if math.isfinite(end)]
        return max((after - before for before, after in pairwise(moments)), default=0.0)
