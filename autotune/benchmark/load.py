"""Loads a cluster: warm-up, measurement window, drain, without a seam between them.

The warm-up is handed over to the window with everything in flight, and at the window's end sending goes on until each
request of the window has its first text: so nobody in the window ever waits less than users without end would.
Only then sending stops. What was sent after the window is cut off, what was sent before is followed to its end.
"""

from __future__ import annotations

import asyncio
import gc
import math
from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING

from autotune.benchmark.flight import Flight
from autotune.benchmark.pacer import ClosedLoop, OpenLoop
from autotune.benchmark.phases import LoadResult, Phases, Progress, Stage
from autotune.records import Outcome, RequestRecord
from autotune.stats import mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from autotune.benchmark.flight import Client
    from autotune.benchmark.pacer import Level
    from autotune.benchmark.workload import Workload

REPORT_S = 0.25
MOST_IN_FLIGHT = 4096
"""An open loop beyond this waits; the waiting counts, since latency counts from the intended time."""

FAILURES = (Outcome.FAILED, Outcome.REJECTED, Outcome.TIMEOUT)

BACK_OFF_S, MOST_BACK_OFF_S = 0.05, 1.0
"""What a user waits after a failure, twice as long after each further one."""

STEPS = 10
"""A window that is too short grows by this part of its length: never up to an arrival, which would bias it."""


async def run(
    client: Client,
    workload: Workload,
    level: Level,
    phases: Phases,
    nonce: str,
    progress: Callable[[Progress], None] | None = None,
    upstreams: int = 1,
) -> LoadResult:
    """Load `client` at `level`; `nonce` is unique to the trial, `upstreams` the number of instances that must answer.

    Whatever the server does ends in records. Cancelling ends every request, and returns nothing.
    """
    await client.open(connections(level))
    async with asyncio.TaskGroup() as tasks:
        load = _Load(client, workload, level, phases, nonce)
        reporter = tasks.create_task(load.report(progress)) if progress is not None else None
        sender = tasks.create_task(load.send())
        await load.warm_up(upstreams)
        with _without_collector():
            await load.measure()
        await load.drain()
        await sender
        if reporter is not None:
            reporter.cancel()
    return load.result()


def connections(level: Level) -> int:
    """Connections to open ahead: one a user; in an open loop enough for answers of some seconds."""
    return level.users if isinstance(level, ClosedLoop) else min(MOST_IN_FLIGHT, 16 + math.ceil(4 * level.rate))


class _Load:
    """The state of one load. What sends and what watches are apart: senders only look whether it is over."""

    def __init__(self, client: Client, workload: Workload, level: Level, phases: Phases, nonce: str) -> None:
        self._client = client
        self._workload = workload
        self._level = level
        self._phases = phases
        self._nonce = nonce
        self._now = asyncio.get_running_loop().time
        self._began = self._now()
        self._window = (math.inf, math.inf)
        self._stage: tuple[Stage, float, float] = ("warm-up", self._began, phases.warmup_s)
        self._over = asyncio.Event()
        self._news = asyncio.Event()
        self._indices = count()
        self._due = math.inf
        self._flights: set[Flight] = set()
        self._records: list[RequestRecord] = []
        self._answered: set[int] = set()
        self._upstreams: set[str] = set()
        self._failures = 0
        self._last_error = ""
        self._gave_up = False
        self._cautions: list[str] = []

    async def send(self) -> None:
        """Send until it is over, and see every request to its end."""
        async with asyncio.TaskGroup() as tasks:
            if isinstance(self._level, OpenLoop):
                await self._pace(self._level, tasks)
            else:
                for user, start in enumerate(self._level.starts(self._phases.warmup_s / 2)):
                    tasks.create_task(self._use(user, start))

    async def _use(self, user: int, start: float) -> None:
        """A user without think time."""
        await self._pause(start)
        failures = 0
        while not self._over.is_set():
            record = await self._ask(user, self._now())
            failures = failures + 1 if record.outcome in FAILURES else 0
            if failures:
                # a dead server refuses at once: without a pause this would be a loop without breath
                await self._pause(min(MOST_BACK_OFF_S, BACK_OFF_S * 2 ** min(failures - 1, 10)))

    async def _pace(self, level: OpenLoop, tasks: asyncio.TaskGroup) -> None:
        """Send at the intended times, whatever is still on its way."""
        for offset in level.times():
            self._due = intended_at = self._began + offset
            self._news.set()
            await self._pause(intended_at - self._now())
            while len(self._flights) >= MOST_IN_FLIGHT and not self._over.is_set():
                await self._pause(BACK_OFF_S)
            if self._over.is_set() and intended_at >= self._window[1]:
                return
            tasks.create_task(self._ask(0, intended_at))

    async def _ask(self, user: int, intended_at: float) -> RequestRecord:
        flight = Flight(self._workload.prompt(next(self._indices), self._nonce), intended_at)
        if self._over.is_set():
            flight.cut()  # due in the window and never sent: it has waited all the same
        self._flights.add(flight)
        try:
            record = await self._client.send(flight)
        finally:
            self._flights.discard(flight)
            flight.settled.set()
        self._records.append(record)
        self._learn(user, record)
        self._news.set()
        return record

    def _learn(self, user: int, record: RequestRecord) -> None:
        if record.outcome in FAILURES:
            self._failures += 1
            self._last_error = record.error
            alive = any(flight.first_content_at is not None for flight in self._flights)
            self._gave_up = self._gave_up or (self._failures >= self._patience and not alive)
        elif record.outcome is not Outcome.CUT_OFF:
            self._failures = 0
            self._answered.add(user)
            self._upstreams |= {record.upstream} - {""}

    @property
    def _patience(self) -> int:
        """Failures in a row, with no answer under way, after which nobody is there any more."""
        each = self._level.users if isinstance(self._level, ClosedLoop) else math.ceil(self._level.rate)
        return 3 * each + 10

    async def warm_up(self, upstreams: int) -> None:
        """Until users and instances are at work; both bounds count from the start of the load."""
        await self._until(self._began + self._phases.warmup_s)
        await self._until(self._began + self._phases.warmup_max_s, lambda: not self._cold(upstreams))
        if cold := self._cold(upstreams):
            self._cautions.append(f"the warm-up ended before the cluster was warm: {cold}")

    def _cold(self, upstreams: int) -> str:
        """What is still missing; instances count only where answers say which of them they are from."""
        users = self._level.users if isinstance(self._level, ClosedLoop) else 1
        if len(self._answered) < users:
            return f"{len(self._answered)} of {users} users had an answer"
        if self._upstreams and len(self._upstreams) < upstreams:
            return f"{len(self._upstreams)} of {upstreams} instances had answered"
        return ""

    async def measure(self) -> None:
        """The window: its length, or longer until it has the requests that its statistics need."""
        start, phases = self._now(), self._phases
        self._stage = ("window", start, phases.window_s)
        self._window, end = (start, math.inf), start + phases.window_s
        await self._until(end)
        while self._asked() < phases.min_requests and end < start + phases.window_max_s and not self._gave_up:
            end = min(end + phases.window_s / STEPS, start + phases.window_max_s)
            await self._until(end)
        self._window = (start, min(end, self._now()) if self._gave_up else end)
        if (asked := self._asked()) < phases.min_requests:
            self._cautions.append(f"the window has {asked} requests, its statistics need {phases.min_requests}")

    def _asked(self) -> int:
        return sum(map(self._inside, self._requests()))

    def _requests(self) -> Iterator[Flight | RequestRecord]:
        yield from self._records
        yield from self._flights

    def _inside(self, request: Flight | RequestRecord) -> bool:
        return self._window[0] <= self._asked_at(request) < self._window[1]

    def _asked_at(self, request: Flight | RequestRecord) -> float:
        """The stamp from which its TTFT counts: it decides what the request belongs to."""
        if isinstance(self._level, OpenLoop) or request.written_at is None:
            return request.intended_at
        return request.written_at

    async def drain(self) -> None:
        """Hold the load up until the window's requests have their first text; then follow them to their end."""
        self._stage = ("drain", self._now(), self._phases.drain_s)
        bound = self._now() + self._phases.drain_s
        # an open loop at its most in flight is late: what was due in the window is still to be sent
        await self._until(bound, lambda: self._due >= self._window[1])
        await self._first_texts(bound)
        self._over.set()
        self._cut(flight for flight in self._flights if self._asked_at(flight) >= self._window[1])
        await self._until(bound, lambda: not self._flights)
        if left := sum(map(self._inside, self._flights)):
            self._cautions.append(f"{left} requests of the window were still running when the drain ended")
        self._cut(self._flights)

    async def _first_texts(self, bound: float) -> None:
        if self._gave_up:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout_at(bound):
                for flight in [flight for flight in self._flights if self._inside(flight)]:
                    await flight.settled.wait()

    def _cut(self, flights: Iterable[Flight]) -> None:
        for flight in list(flights):
            flight.cut()

    async def _until(self, deadline: float, done: Callable[[], bool] = lambda: False) -> None:
        """Until `done`, looked at whenever a request has ended, or `deadline`, or there is no use in waiting."""
        while not (done() or self._gave_up) and self._now() < deadline:
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._news.wait()

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not beyond the end."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()

    async def report(self, progress: Callable[[Progress], None]) -> None:
        """Tell how it goes, until cancelled."""
        stage, before = self._stage, 0
        while True:
            if stage is not self._stage:
                stage, before = self._stage, self._pieces()
            progress(self._progress(before))
            await asyncio.sleep(REPORT_S)

    def _pieces(self) -> int:
        return sum(len(r.chunk_times) for r in self._records) + sum(flight.pieces for flight in self._flights)

    def _progress(self, pieces_before: int) -> Progress:
        stage, since, planned_s = self._stage
        elapsed_s = self._now() - since
        waits = [
            request.first_content_at - self._asked_at(request)
            for request in self._requests()
            if request.first_content_at is not None and self._asked_at(request) >= since
        ]
        return Progress(
            stage=stage,
            elapsed_s=elapsed_s,
            planned_s=planned_s,
            requests_done=len(self._records),
            output_tps=max(0, self._pieces() - pieces_before) / elapsed_s if elapsed_s > 0 else 0.0,
            ttft_s=mean(waits) if waits else None,
        )

    def result(self) -> LoadResult:
        """What came of it."""
        records = tuple(sorted(self._records, key=lambda record: record.index))
        if self._gave_up:
            self._cautions.append(f"the last {self._failures} requests all failed: {self._last_error}")
        return LoadResult(self._level, *self._window, records, tuple(self._cautions), self._gave_up)


@contextmanager
def _without_collector() -> Iterator[None]:
    """No garbage is collected in the window: it would stop everything for tens of ms, in somebody's waiting time."""
    enabled = gc.isenabled()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
