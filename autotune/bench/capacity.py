"""`autotune capacity`: the largest load at which the limits hold, by a search in which no step is taken twice.

More load never makes waiting shorter, so what is below a load that holds is taken to hold, and what is above one that
misses is taken to miss. A step that stays open is neither; the answer is then an interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from autotune.bench.measuring import client, first_error, healthy, knock, saturated
from autotune.benchmark.calibration import calibrated
from autotune.benchmark.pacer import ClosedLoop, OpenLoop
from autotune.errors import ClientSaturated, ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.bench.asked import Job
    from autotune.bench.measuring import Found, Show
    from autotune.benchmark.pacer import Level
    from autotune.stats import Decision

LEAST = 1024
"""A load that is so many times smaller than the first one is not tried."""

MOST_STEPS = 40
"""A search halves a ratio each time: it never needs so many."""


@dataclass
class Search:
    """Which load is tried next. Loads are users (whole numbers) or requests a second, above 0."""

    first: float
    most: float
    resolution: float
    """The interval of the answer may be this part of it."""
    whole: bool
    """Whether loads are whole numbers."""
    told: dict[float, Decision] = field(default_factory=dict)

    def tell(self, load: float, decision: Decision) -> None:
        """What a step said."""
        self.told[load] = decision

    @property
    def low(self) -> float:
        """The largest load that holds; 0 where none is known."""
        holds = [load for load, decision in self.told.items() if decision == "holds"]
        return max((load for load in holds if load < self.high), default=0.0)

    @property
    def high(self) -> float:
        """The smallest load that misses a limit; infinite where none is known."""
        return min((load for load, decision in self.told.items() if decision == "violated"), default=math.inf)

    @property
    def open(self) -> list[float]:
        """Loads between the two that were tried, and stayed open; rising."""
        return sorted(load for load in self.told if self.low < load < self.high)

    def next(self) -> float | None:
        """The next load; None when the interval is narrow enough, or nothing more can be tried."""
        if not self.told:
            return self.first
        if math.isinf(self.high):
            # doubled, until something is in the way: a wrong start costs a few short steps
            further = min(self.most, 2 * max(self.told))
            return further if further > max(self.told) else self._between([self.low, *self.open])
        least = min(self.told)
        if not self.low and least > self.first / LEAST and 0 < self._rounded(least / 2) < least:
            return self._rounded(least / 2)
        return self._between([self.low, *self.open, self.high])

    def _between(self, known: list[float]) -> float | None:
        """In the widest of the gaps that matter: below the first open load, and above the last."""
        known = [load for load in known if load > 0]
        gaps = {(known[0], known[1]), (known[-2], known[-1])} if len(known) > 1 else set()
        wide = [(high / low, low, high) for low, high in gaps if high / low > 1 + self.resolution]
        for _, low, high in sorted(wide, reverse=True):
            middle = self._rounded(math.sqrt(low * high))
            if low < middle < high:
                return middle
        return None

    def _rounded(self, load: float) -> float:
        return float(round(load)) if self.whole else float(f"{load:.3g}")


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
    while len(steps) < MOST_STEPS and (load := search.next()) is not None:
        level = _level(load, job.seed, whole=search.whole)
        found, processes = await healthy(job, route, work, level, processes, partial(show, level.label))
        decision = decided(found)
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


def decided(found: Found) -> Decision:
    """Whether all limits hold at a load: violated as soon as one is, or the queue grows without end, or it fails."""
    look = found.loaded.look
    decisions = set(look.limits.values())
    if look.overload is not None or found.loaded.gave_up or "violated" in decisions:
        return "violated"
    return "open" if "open" in decisions or not decisions else "holds"
