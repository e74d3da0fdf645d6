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
from dataclasses import replace
from typing import TYPE_CHECKING

from autotune.benchmark.flight import clock
from autotune.benchmark.pacer import ClosedLoop, OpenLoop
from autotune.benchmark.phases import Anything, LoadResult, Look, Phases, Progress, Seen, Stage, rates
from autotune.benchmark.traffic import MOST_IN_FLIGHT, Traffic
from autotune.errors import ClusterError, Slept
from autotune.stats import mean, ready, steady_from, trend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from autotune.benchmark.flight import Client, Flight
    from autotune.benchmark.pacer import Level
    from autotune.benchmark.phases import Goal
    from autotune.benchmark.watch import Pulse
    from autotune.benchmark.workload import Workload
    from autotune.records import RequestRecord

REPORT_S = 0.25
RECENT = 1000
"""Requests that a progress looks at: it is in the way of the load."""

MOST_STILL_S, MOST_STILL = 1.0, 0.02
"""Seconds, and part of the window, for which this process may do nothing: nobody is given a next request meanwhile."""

READY_S = 2.0
"""A warm-up in which there is room for an import."""

SAMPLE_S, LEAST_SAMPLE_S = 0.25, 0.05
"""So often the load is looked at, or a hundred times in its shortest phase, but not more often than that."""

FEWEST_SAMPLES = 50
"""With fewer, nobody can tell whether a load is steady."""

MOST_DRIFT = 0.05
"""By how much the output rate may still change in the second half of a warm-up, in parts of its mean."""


async def run(  # noqa: PLR0913, PLR0917 - one argument for each thing that makes a load
    client: Client,
    workload: Workload,
    level: Level,
    phases: Phases,
    nonce: str,
    progress: Callable[[Progress], None] | None = None,
    upstreams: int = 1,
    goal: Goal | None = None,
    stop: asyncio.Event | None = None,
) -> LoadResult:
    """Load `client` at `level`; `nonce` is unique to the trial, `upstreams` the number of instances that must answer.

    The window ends when `goal` says that nothing more has to be known, or when its time is up. Whatever the server does
    ends in records. `stop` ends it now, with what there is by then; cancelling ends every request, and returns nothing.
    Raises ClusterError when a process of the client has died, and Slept where this one stood still in the window.
    """
    if goal is not None and phases.warmup_s < READY_S:
        ready()
    await client.open(connections(level))
    load = _Load(client, Traffic(client, workload, level, nonce), level, phases)
    try:
        await _carried(load, progress, upstreams, goal, stop)
    except BaseExceptionGroup as group:
        if (died := group.subgroup(ClusterError)) is None:
            raise
        raise _first(died) from None
    await client.pulse()  # whether all who carried it still live
    load.check()
    return load.result()


def _first(error: BaseException) -> BaseException:
    """Of a group the first of what it holds."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def _carried(
    load: _Load,
    progress: Callable[[Progress], None] | None,
    upstreams: int,
    goal: Goal | None,
    stop: asyncio.Event | None,
) -> None:
    async with asyncio.TaskGroup() as tasks:
        watchers = [tasks.create_task(load.sample())]
        if progress is not None:
            watchers.append(tasks.create_task(load.report(progress)))
        if stop is not None:
            watchers.append(tasks.create_task(load.stop_with(stop)))
        sender = tasks.create_task(load.send())
        await load.warm_up(upstreams, goal or Anything(), decides=goal is not None)
        if not load.dropped:
            with _without_collector():
                await load.measure(goal or Anything())
        await load.drain()
        await sender
        for watcher in watchers:
            watcher.cancel()


def connections(level: Level) -> int:
    """Connections to open ahead: one a user; in an open loop enough for answers of some seconds."""
    return level.users if isinstance(level, ClosedLoop) else min(MOST_IN_FLIGHT, 16 + math.ceil(4 * level.rate))


def cold(level: Level, answered: int, answering: int, upstreams: int) -> str:
    """What a warm-up still lacks, of users that were `answered` and instances that are `answering`; empty for nothing.

    Instances count only where answers say which of them they are from.
    """
    if isinstance(level, OpenLoop) and not answered:
        return "no request had an answer"
    if isinstance(level, ClosedLoop) and answered < level.users:
        return f"{answered} of {level.users} users had an answer"
    return f"{answering} of {upstreams} instances had answered" if 0 < answering < upstreams else ""


class _Load:
    """One load in its phases: what watches the traffic, and says when it is over."""

    def __init__(self, client: Client, traffic: Traffic, level: Level, phases: Phases) -> None:
        self._client = client
        self._traffic = traffic
        self._level = level
        self._phases = phases
        self._now = clock()
        self._stage: tuple[Stage, float, float] = ("warm-up", traffic.began, phases.warmup_s)
        self._cautions: list[str] = []
        self._pulses: list[tuple[Pulse, ...]] = []
        self._look = Look()
        self._screened = 0

    @property
    def dropped(self) -> bool:
        """Whether nobody wants to know more of this candidate."""
        return self._look.dropped

    async def send(self) -> None:
        """Send until it is over."""
        await self._traffic.send(self._phases.warmup_s / 2)

    async def sample(self) -> None:
        """Note how it goes, until cancelled."""
        shortest_s = min(self._phases.warmup_s or math.inf, self._phases.window_s)
        await self._traffic.sample(max(LEAST_SAMPLE_S, min(SAMPLE_S, shortest_s / 100)))

    async def stop_with(self, stop: asyncio.Event) -> None:
        """Break it off once that is set."""
        await stop.wait()
        self._traffic.break_off()

    async def warm_up(self, upstreams: int, goal: Goal, *, decides: bool) -> None:
        """Until users and instances are at work and the load is steady; bounds count from the start of the load.

        `decides` says whether there will be something to decide in the window. It may be its end that is decided, and
        the window is then what the goal has looked at.
        """
        began, phases = self._traffic.began, self._phases
        latest = began + phases.warmup_max_s
        await self._until(began + phases.warmup_s / 4)
        if decides:
            ready()  # it stops everything for a moment: not before the first request if possible, and not in the window
        if goal.screens:
            await self._until(began + phases.warmup_s / 2)
            self._pulses = [await self._client.pulse()]
        await self._warmed(began + phases.warmup_s, goal)
        await self._warmed(latest, goal, lambda: not self._cold(upstreams))
        while phases.warmup_s and not self._over and self._moves() and self._now() < latest:
            await self._warmed(min(latest, self._now() + phases.warmup_s / 4), goal)
        if self.dropped:
            self._pulses.append(await self._client.pulse())
        elif lacks := self._cold(upstreams):
            self._cautions.append(f"the warm-up ended before the cluster was warm: {lacks}")
        elif phases.warmup_s and self._moves():
            self._cautions.append("the warm-up ended before the output rate was steady: lengthen warmup_max_s")

    @property
    def _over(self) -> bool:
        return self.dropped or self._traffic.hopeless

    async def _warmed(self, deadline: float, goal: Goal, done: Callable[[], bool] = lambda: False) -> None:
        """`_until`, with the looks that are planned on the way."""
        for after_s in goal.screens[self._screened :]:
            at = self._traffic.began + after_s
            if self.dropped or at > deadline:
                break
            await self._until(at, done)
            if self._now() < at:
                return
            self._screened += 1
            self._screen(goal)
        if not self.dropped:
            await self._until(deadline, done)

    def _screen(self, goal: Goal) -> None:
        """Ask whether the load is hopeless; its window is then what says so."""
        traffic, at = self._traffic, self._now()
        last_began = traffic.began + self._phases.warmup_s / 2
        look, since = goal.screen(self._seen(self._screened, last_began, list(traffic.flights)))
        if look.dropped:
            self._look, traffic.window = replace(look, after_s=at - traffic.began), (since, at)

    def _cold(self, upstreams: int) -> str:
        return cold(self._level, len(self._traffic.answered), len(self._traffic.upstreams), upstreams)

    def _moves(self) -> bool:
        """Whether the load has not settled yet: MSER-5 sees no steady part, and the second half has a slope."""
        seen = rates(self._traffic.samples)
        if len(seen) < FEWEST_SAMPLES or steady_from(seen) is not None:
            return False
        late = seen[len(seen) // 2 :]
        slope = trend(range(len(late)), late, 0.95)
        return (slope.rises or slope.falls) and abs(slope.slope) * len(late) > MOST_DRIFT * mean(late)

    async def measure(self, goal: Goal) -> None:
        """The window: as long as its goal needs, and until it has the requests that its statistics need."""
        start, phases, traffic = self._now(), self._phases, self._traffic
        self._stage = ("window", start, phases.window_s)
        traffic.window, end = (start, math.inf), start
        self._pulses = [await self._client.pulse()]
        for number, after_s in enumerate(phases.looks, 1):
            end = start + after_s
            await self._until(end)
            if traffic.hopeless:
                break
            inside = [flight for flight in traffic.flights if traffic.inside(flight)]
            look = goal.look(self._seen(number, start, inside))
            self._look = replace(look, after_s=self._now() - traffic.began)
            enough = self._look.enough and after_s >= phases.window_s and self._asked() >= phases.min_requests
            if self._look.sunk or enough:
                break
        traffic.window = (start, min(end, self._now()) if traffic.hopeless else end)
        self._pulses.append(await self._client.pulse())
        if (asked := self._asked()) < phases.min_requests and not self._look.sunk:
            self._cautions.append(f"the window has {asked} requests, its statistics need {phases.min_requests}")

    def check(self) -> None:
        """Raises Slept where this process did not work for all of the window."""
        start, end = self._traffic.window
        still_s = self._traffic.still_s
        if still_s > max(MOST_STILL_S, MOST_STILL * (end - start)):
            why = "it was stopped, or this host had no time for it"
            raise Slept(f"autotune stood still for {still_s:.0f} s while it measured: {why}")

    def _asked(self) -> int:
        return sum(map(self._traffic.inside, self._traffic.requests()))

    def _seen(self, number: int, start: float, on_their_way: Sequence[Flight]) -> Seen:
        traffic = self._traffic
        asked = [(traffic.asked_at(flight), flight.first_content_at) for flight in on_their_way]
        return Seen(
            start=start,
            at=self._now(),
            look=number,
            open_loop=isinstance(self._level, OpenLoop),
            steady=isinstance(self._level, ClosedLoop) or self._level.steady,
            records=traffic.records,
            waiting=[*asked, *((at, None) for at in traffic.held() if at >= start)],
            samples=[sample for sample in traffic.samples if sample.at >= start],
        )

    async def drain(self) -> None:
        """Hold the load up until the window's requests have their first text; then follow them to their end."""
        traffic, bound = self._traffic, self._now() + self._phases.drain_s
        self._stage = ("drain", self._now(), self._phases.drain_s)
        waits = self._look.overload is None and not self.dropped
        if waits:  # else they would wait longer and longer, for nothing that is not known
            # an open loop at its most in flight is late: what was due in the window is still to be sent
            await self._until(bound, lambda: traffic.due >= traffic.window[1])
            await self._first_texts(bound)
        traffic.over.set()
        self._cut(flight for flight in traffic.flights if traffic.asked_at(flight) >= traffic.window[1])
        if waits:
            await self._until(bound, lambda: not traffic.flights)
            if (left := sum(map(traffic.inside, traffic.flights))) and not traffic.broken_off:
                self._cautions.append(f"{left} requests of the window were still running when the drain ended")
        self._cut(traffic.flights)

    async def _first_texts(self, bound: float) -> None:
        if self._traffic.hopeless:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout_at(bound):
                for flight in [flight for flight in self._traffic.flights if self._traffic.inside(flight)]:
                    await flight.settled.wait()

    def _cut(self, flights: Iterable[Flight]) -> None:
        for flight in list(flights):
            flight.cut()

    async def _until(self, deadline: float, done: Callable[[], bool] = lambda: False) -> None:
        """Until `done`, looked at whenever a request has ended, or `deadline`, or there is no use in waiting."""
        traffic = self._traffic
        while not (done() or traffic.hopeless) and self._now() < deadline:
            traffic.news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await traffic.news.wait()

    async def report(self, progress: Callable[[Progress], None]) -> None:
        """Tell how it goes, until cancelled."""
        stage, before = self._stage, 0
        while True:
            if stage is not self._stage:
                stage, before = self._stage, self._traffic.pieces
            progress(self._progress(before))
            await asyncio.sleep(REPORT_S)

    def _progress(self, pieces_before: int) -> Progress:
        stage, since, planned_s = self._stage
        traffic, elapsed_s = self._traffic, self._now() - since
        recent: list[Flight | RequestRecord] = [*traffic.records[-RECENT:], *traffic.flights]
        waits = [
            request.first_content_at - traffic.asked_at(request)
            for request in recent
            if request.first_content_at is not None and traffic.asked_at(request) >= since
        ]
        return Progress(
            stage=stage,
            elapsed_s=elapsed_s,
            planned_s=planned_s,
            requests_done=len(traffic.records),
            output_tps=max(0, traffic.pieces - pieces_before) / elapsed_s if elapsed_s > 0 else 0.0,
            ttft_s=mean(waits) if waits else None,
        )

    def result(self) -> LoadResult:
        """What came of it."""
        traffic = self._traffic
        if traffic.broken_off:
            self._cautions.append("it was broken off: what was on its way then is not known to its end")
        if traffic.gave_up:
            self._cautions.append(f"the last {traffic.failures} requests all failed: {traffic.last_error}")
        return LoadResult(
            self._level,
            *traffic.window,
            records=tuple(sorted(traffic.records, key=lambda record: record.index)),
            cautions=tuple(self._cautions),
            gave_up=traffic.gave_up,
            broken_off=traffic.broken_off,
            pulses=(self._pulses[0], self._pulses[1]),
            look=self._look,
            full=traffic.full,
        )


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
