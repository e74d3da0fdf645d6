"""`autotune capacity`: the largest load at which the limits hold, of any endpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from autotune.bench.measuring import client, first_error, healthy, knock, saturated
from autotune.benchmark.calibration import calibrated
from autotune.benchmark.pacer import ClosedLoop, OpenLoop
from autotune.errors import ClientSaturated, ClusterError
from autotune.ladder import decided

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.bench.asked import Job
    from autotune.bench.measuring import Found, Show
    from autotune.benchmark.pacer import Level
    from autotune.ladder import Search
    from autotune.stats import Decision


@dataclass(frozen=True)
class Capacity:
    """The answer of a search."""

    unit: Literal["users", "requests/s"]
    low: float
    """The largest load at which all limits hold; 0 where they hold at none that was tried."""
    high: float
    """The smallest at which one is missed; infinite where none was missed."""
    steps: tuple[Found, ...]
    """In the order in which they were taken."""
    decisions: tuple[Decision, ...]
    loads: tuple[float, ...]

    def rows(self) -> list[dict[str, float | str | None]]:
        """The curve: a row for each step."""
        return [
            {
                "load": load,
                "decision": decision,
                "output_tps": found.metrics.output_tps,
                "ttft_p50_s": found.metrics.ttft_s.p50,
                "ttft_p99_s": found.metrics.ttft_s.p99,
            }
            for load, found, decision in zip(self.loads, self.steps, self.decisions, strict=True)
        ]


async def capacity(job: Job, search: Search, show: Show, done: Callable[[float, Found, Decision], None]) -> Capacity:
    """Search the first route's capacity; `done` gets each step.

    Raises `ClusterError` for an endpoint that does not answer, and `ClientSaturated` where the client is the limit.
    """
    route, processes = job.routes[0], job.processes
    async with client(job, route, 1) as one:
        await knock(one, route, job.workload)
        work = await calibrated(one, job.workload)
    steps: list[tuple[float, Found, Decision]] = []
    while (load := search.next()) is not None:
        level = _level(load, job.seed, whole=search.whole)
        found, processes = await healthy(job, route, work, level, processes, partial(show, level.label))
        decision = decided(found.loaded.look, gave_up=found.loaded.gave_up)
        if found.loaded.gave_up and not found.metrics.outcomes.get("ok") and not steps:
            raise ClusterError(f"{route.shown} answers nothing but failures: {first_error(found.loaded)}")
        if found.health.faults:
            raise ClientSaturated(saturated(level.label, found.health))
        search.tell(load, decision)
        steps.append((load, replace(found, label=level.label), decision))
        done(*steps[-1])
    return Capacity(
        unit="users" if search.whole else "requests/s",
        low=search.low,
        high=search.high,
        steps=tuple(found for _, found, _ in steps),
        decisions=tuple(decision for _, _, decision in steps),
        loads=tuple(load for load, _, _ in steps),
    )


def _level(load: float, seed: int, *, whole: bool) -> Level:
    return ClosedLoop(round(load), seed) if whole else OpenLoop(load, "poisson", seed)
