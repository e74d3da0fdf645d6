"""`autotune capacity`: the largest load at which the limits hold, of any endpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from autotune.bench.measuring import healthy, ready, saturated
from autotune.bench.stop import signals
from autotune.benchmark.pacer import ClosedLoop, OpenLoop
from autotune.errors import ClientSaturated
from autotune.ladder import decided

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autotune.bench.asked import Job
    from autotune.bench.measuring import Found, Show
    from autotune.benchmark.pacer import Level
    from autotune.ladder import Search
    from autotune.stats import Decision


@dataclass(frozen=True)
class Step:
    """One load of a search, and what it said."""

    load: float
    found: Found
    decision: Decision


@dataclass(frozen=True)
class Capacity:
    """The answer of a search, or what is known so far."""

    unit: Literal["users", "requests/s"]
    low: float
    """The largest load at which all limits hold; 0 where they hold at none that was tried."""
    high: float
    """The smallest at which one is missed; infinite where none was missed."""
    steps: tuple[Step, ...]
    """In the order in which they were taken."""
    ended: str = ""
    """Why the search could not go on, where it could not."""
    doubt: str = ""
    """That its steps contradict each other, where they do."""

    @classmethod
    def of(cls, search: Search, steps: Sequence[Step], ended: str = "") -> Capacity:
        """What the steps of a search say."""
        unit: Literal["users", "requests/s"] = "users" if search.whole else "requests/s"
        return cls(unit, search.low, search.high, tuple(steps), ended, search.doubt)

    def rows(self) -> list[dict[str, float | str | None]]:
        """The curve: a row for each step."""
        return [
            {
                "load": step.load,
                "decision": step.decision,
                "output_tps": step.found.metrics.output_tps,
                "ttft_p50_s": step.found.metrics.ttft_s.known("p50"),
                "ttft_p95_s": step.found.metrics.ttft_s.known("p95"),
            }
            for step in self.steps
        ]


async def capacity(job: Job, search: Search, show: Show, done: Callable[[Step], None]) -> Capacity:
    """Search the first route's capacity; `done` gets each step.

    A client that cannot make the next load ends the search with what is known by then. Raises `ClientSaturated` when it
    can make none, `ClusterError` for an endpoint that does not answer, or not any more, and `Interrupted` at a signal.
    """
    route, processes = job.routes[0], job.processes
    steps: list[Step] = []
    with signals() as stop:
        work = await ready(job)
        while (load := search.next()) is not None:
            level = _level(load, job.seed, whole=search.whole)
            found, processes = await healthy(job, route, work, level, processes, partial(show, level.label), stop)
            stop.check()
            if found.loaded.gave_up:
                await ready(job)  # it is too much, unless even this is
            if found.health.faults:
                if not steps:
                    raise ClientSaturated(saturated(level.label, found.health))
                return Capacity.of(search, steps, saturated(level.label, found.health))
            decision = decided(found.loaded.look, gave_up=found.loaded.gave_up)
            search.tell(load, decision)
            steps.append(Step(load, replace(found, label=level.label), decision))
            done(steps[-1])
    return Capacity.of(search, steps)


def _level(load: float, seed: int, *, whole: bool) -> Level:
    return ClosedLoop(round(load), seed) if whole else OpenLoop(load, "poisson", seed)
