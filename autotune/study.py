"""The night's loop: baseline first, then what the sampler proposes, until the budget is used up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, TypeVar

from autotune.errors import BaselineFailed, ClusterError, StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from autotune.events import Events
    from autotune.plan import Plan
    from autotune.records import RequestRecord
    from autotune.result import TrialResult
    from autotune.sampler import Sampler
    from autotune.space import Space
    from autotune.spec import Budget
    from autotune.store import Store
    from autotune.trial import Bench

T = TypeVar("T")

MOST_FAULTS = 3
"""Faults of the machine in a row that end a night."""
FAULT_PAUSE_S = 2.0
_NOT_RUNNABLE = frozenset({"start_failed", "never_ready", "load_failed", "on_cpu", "no_answer"})


def wall() -> datetime:
    """The time of day, here."""
    return datetime.now().astimezone()


@dataclass(frozen=True, slots=True)
class Clock:
    """What is left of the budget. `began_s` is the start of this night on the event loop's clock."""

    budget: Budget
    began_s: float
    until: datetime | None
    spent_s: float = 0.0
    """What earlier runs of the study have used of its hours."""
    wall: Callable[[], datetime] = wall

    @classmethod
    def start(cls, budget: Budget, spent_s: float = 0.0, wall: Callable[[], datetime] = wall) -> Clock:
        """Begin to count now. A time of day is its next occurrence."""
        until = None
        if budget.until is not None:
            now = wall().astimezone().replace(tzinfo=None)
            hour, minute = map(int, budget.until.split(":"))
            until = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
            until += timedelta(days=1) if until <= now else timedelta()
            until = until.astimezone()  # the clocks may be put forward or back in this night
        return cls(budget, asyncio.get_running_loop().time(), until, spent_s, wall)

    @property
    def total_s(self) -> float | None:
        """The whole length of the night; None when only trials bound it."""
        ends = [self.budget.hours * 3600 - self.spent_s] if self.budget.hours is not None else []
        if self.until is not None:  # the wall clock may be set, so it is read anew
            ends.append(self.elapsed_s + (self.until - self.wall()).total_seconds())
        return min(ends) if ends else None

    @property
    def elapsed_s(self) -> float:
        """Seconds since this night began."""
        return asyncio.get_running_loop().time() - self.began_s

    def left_s(self) -> float | None:
        """Seconds until the night must end; None when only trials bound it."""
        total = self.total_s
        return None if total is None else total - self.elapsed_s

    def search_left_s(self) -> float | None:
        """Seconds until the search must end to leave time for the proof; None when only trials bound it."""
        total = self.total_s
        if total is None:
            return None
        whole = total + self.spent_s if self.budget.hours is not None else total  # what earlier nights kept stays kept
        return whole * (1 - self.budget.proof_share) - (whole - total) - self.elapsed_s

    def event(self) -> dict[str, Any]:
        """How far the night is, for whoever watches."""
        return {
            "what": "time",
            "elapsed_s": self.elapsed_s,
            "search_left_s": self.search_left_s(),
            "total_s": self.total_s,
        }


async def insist(
    events: Events, work: Callable[[], Awaitable[T]], before_another: Callable[[], Awaitable[None]] | None = None
) -> T:
    """Do something, and again after a fault of the machine; the third in a row is passed on."""
    for left in reversed(range(MOST_FAULTS)):
        try:
            if before_another is not None and left < MOST_FAULTS - 1:
                await before_another()
            return await work()
        except (ClusterError, StorageError) as error:
            events.show({"what": "fault", "error": error, "left": left})
            if not left:
                raise
            await asyncio.sleep(FAULT_PAUSE_S)
    raise AssertionError("unreachable")


@dataclass
class Night:
    """One run of a study. `results` holds all finished trials, also those of earlier runs."""

    bench: Bench
    store: Store
    sampler: Sampler
    events: Events
    clock: Clock
    baseline: dict[str, Any]
    plan: Callable[[Mapping[str, Any]], Plan]
    narrow: Callable[[], Space]
    """The space for a model that Ollama serves with one slot only."""
    results: list[TrialResult]
    single: bool = False
    """Ollama serves the model with one slot only, and the space is narrow."""

    async def run(self) -> str:
        """Work through the night; says why it ended. Raises `ClusterError`, `StorageError`."""
        self._narrow()
        while not (over := self._over()):
            params = self.baseline if not self.results else self.sampler.propose()
            if params is None:
                return "every configuration of the space has been tried"
            result = await self._trial(len(self.results), params)
            self.results.append(result)
            self.events.note("trial", number=result.number, reason=result.reason, objective=result.score.objective)
            self.events.show({"what": "result", "result": result, "left_s": self.left_s()})
            self.events.show(self.clock.event())
            self._narrow()
        return over

    def left_s(self) -> float | None:
        """Expected seconds until the search ends; None before there is anything to expect it from."""
        times = [result.seconds for result in self.results]
        limits = [self.clock.search_left_s()]
        if times:
            trials = self.clock.budget.trials
            left = self.sampler.untried
            limits.append(fmean(times) * (left if trials is None else min(left, trials - len(times))))
        known = [limit for limit in limits if limit is not None]
        return max(min(known), 0.0) if known else None

    async def _trial(self, number: int, params: dict[str, Any]) -> TrialResult:
        """One trial: measured, then kept; each of it is tried again after faults that are not its own."""
        plan = self.plan(params)
        self.store.trials.write_plan(number, params, plan, self.bench.provenance)
        self.events.show(self.clock.event())
        self.events.show({"what": "trial begins", "number": number, "params": params, "plan": plan})
        trial = self.sampler.begin(params)
        result, records = await insist(
            self.events, lambda: self._measure(number, params, plan), self.bench.cluster.clear
        )

        async def keep() -> None:
            with self.events.span("collect", number=number):
                self.store.trials.save(result, records)
                self.sampler.tell(trial, result)

        await insist(self.events, keep)
        return result

    async def _measure(
        self, number: int, params: dict[str, Any], plan: Plan
    ) -> tuple[TrialResult, list[Sequence[RequestRecord]]]:
        """Measure a plan. A baseline that does not run gets a second chance and then ends the night."""
        result, records = await self.bench.trial(number, params, plan)
        if number > 0 or result.reason not in _NOT_RUNNABLE:
            return result, records
        self.events.show({"what": "retry", "result": result})
        result, records = await self.bench.trial(number, params, plan)
        if result.reason in _NOT_RUNNABLE:
            raise BaselineFailed(f"the baseline does not run: {result.message}", details=result.details)
        return result, records

    def _over(self) -> str:
        """Why the search ends here; empty while it goes on."""
        trials, left = self.clock.budget.trials, self.clock.search_left_s()
        if trials is not None and len(self.results) >= trials:
            return f"{trials} trials are done"
        expected = median([result.seconds for result in self.results] or [0.0])
        if left is not None and left < expected:
            return "no time is left for another trial"
        return ""

    def _narrow(self) -> None:
        """A model that Ollama serves with one slot whatever it is asked for: nothing to tune in num_parallel."""
        if not self.single and any(found.single for result in self.results for found in result.placements):
            self.single = True
            self.events.show({"what": "single"})
            self.sampler.limit(self.narrow())


@dataclass(frozen=True, slots=True)
class Standing:
    """One configuration with all its trials."""

    params: dict[str, Any]
    results: tuple[TrialResult, ...]

    @property
    def objective(self) -> float | None:
        """Mean over its trials, tokens/s."""
        values = [result.score.objective for result in self.results if result.score.objective is not None]
        return fmean(values) if values else None

    @property
    def violation(self) -> float:
        """Mean over its trials."""
        return fmean(result.score.violation for result in self.results)

    @property
    def feasible(self) -> bool:
        """Whether every one of its trials was."""
        return all(result.score.feasible for result in self.results)


def standings(results: Sequence[TrialResult]) -> list[Standing]:
    """Configurations, best first: the feasible by objective, then the measured by violation, then the failed.

    Trials with one fingerprint are repeats of one configuration.
    """
    groups: dict[str, list[TrialResult]] = {}
    for result in results:
        groups.setdefault(result.fingerprint, []).append(result)
    every = [Standing(group[0].params, tuple(group)) for group in groups.values()]
    return sorted(every, key=_rank)


def _rank(standing: Standing) -> tuple[int, float]:
    if standing.feasible and standing.objective is not None:
        return 0, -standing.objective
    return (1, standing.violation) if standing.objective is not None else (2, standing.violation)
