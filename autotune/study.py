"""The night's loop: baseline first, then what the sampler proposes, until the budget is used up."""

from __future__ import annotations

import math
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from autotune import aims
from autotune.clock import Clock, TimeUp
from autotune.errors import (
    AutotuneError,
    BaselineFailed,
    ClusterError,
    DeviceLost,
    SpecError,
    StorageError,
    TooManyFaults,
)
from autotune.events import read
from autotune.faults import FAULT_PAUSE_S, MOST_FAULTS, insist, quarantine, quarantined
from autotune.pace import PREPARING, Cost, Pace, Wait, kept_s, prepared, turn
from autotune.standing import provable, standings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from autotune.events import Events
    from autotune.ground import Ground
    from autotune.pace import Turn
    from autotune.plan import InstancePlan, Plan
    from autotune.records import RequestRecord
    from autotune.result import TrialResult
    from autotune.sampler import Sampler
    from autotune.space import Space
    from autotune.store import Store
    from autotune.trial import Bench

__all__ = ["FAULT_PAUSE_S", "MOST_FAULTS", "Clock", "Night", "insist"]

LAST, MOST_TROUBLED = 10, 5
"""So many of the latest trials are looked at, and in so many of them faults of the machine end a night."""
BACK = 2.0
"""What is kept to put everything back: so often the longest that anything took to end."""
CALIBRATING = 2
"""Trials - the baseline, and what experience says - that are loaded by fewer users, too, and have nothing to beat."""
FEWEST_USERS = 4
SPREAD = 2.0
"""By so many standard deviations between starts a candidate may have had a slow one."""
UNLIKELY = 0.05
"""A chance below which nothing is expected."""
EARLIEST, ASKED = 10, 2
"""Trials before the search may end for want of promise, and how often in a row it must be wanting.

A sampler draws five before its model has a say, so that five more have held the model against what it chose itself; and
a single answer may be the luck of one measurement.
"""
_NOT_RUNNABLE = frozenset(
    {
        "start_failed", "never_ready", "load_timeout", "load_failed", "out_of_memory", "out_of_host_memory", "on_cpu",
        "no_answer",
    }
)  # fmt: skip


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
    without: Callable[[Collection[str]], Ground] | None = None
    """The ground without these devices; None: a fault of a device ends the night."""
    lost: dict[str, str] = field(default_factory=dict)
    """Devices that are left out, by id, and why."""
    turns: list[Turn] = field(default_factory=list)
    """What every trial says of times."""
    running: frozenset[InstancePlan] = frozenset()
    """Instances that the last trial has left running."""
    troubled: deque[bool] = field(default_factory=lambda: deque(maxlen=LAST))
    """Whether the latest trials met a fault of the machine that is no device's."""
    unpromising: int = 0
    """How often in a row nothing untried was likely to be better."""

    def __post_init__(self) -> None:
        """Learn what earlier runs of the study say of times and of devices. Raises `StorageError`, `ClusterError`."""
        took_s = prepared(read(self.store.events)) if self.results else {}
        for result in self.results:
            self._learn(result, self.plan(result.params), took_s.get(result.number))
        self.running = frozenset()
        if self.without is not None and (known := quarantined(self.store)):
            self._leave_out(known)
            self.sampler.open(self.results)

    async def run(self) -> str:
        """Work through the night; says why it ended. Raises `ClusterError`, `StorageError`."""
        self._narrow()
        while not (over := self._over()):
            params = self._next()
            if params is None:
                return "every configuration of the space has been tried"
            try:
                result = await self._trial(len(self.results), params)
            except TimeUp:
                return self._given_up()
            if result is None:
                continue
            self.events.note("trial", number=result.number, reason=result.reason, objective=result.score.objective)
            left = self.left()
            told = {"left_s": None, "left_error_s": None} if left is None else asdict(left)
            self.events.show({"what": "result", "result": result, **told})
            self.events.show(self.clock.event())
            self._narrow()
            self._break()
        return over

    def _next(self) -> dict[str, Any] | None:
        """What is tried next; None when everything has been."""
        if not self.results:
            return self.baseline
        try:
            return self.sampler.propose(self._seconds())
        except StorageError as error:
            self._apart(error)
            return self.sampler.propose(self._seconds())

    @property
    def pace(self) -> Pace:
        """What the trials so far say of times."""
        return Pace(tuple(self.turns))

    @property
    def cost(self) -> Cost:
        """What any trial would cost now."""
        return Cost(self.pace, self.running)

    def _seconds(self) -> Callable[[Mapping[str, Any]], float]:
        """How long a trial of any configuration would take now."""
        cost = self.cost
        return lambda params: cost.of(self.plan(params))

    def runnable(self, results: Sequence[TrialResult]) -> list[TrialResult]:
        """Those whose configurations can run on the devices that are left, by the fingerprints of their plans there."""
        if not self.lost:
            return list(results)
        there = (result for result in results if self._runs(result.params))
        return [replace(result, fingerprint=self.plan(result.params).fingerprint) for result in there]

    def left(self) -> Wait | None:
        """How long the search is expected to go on; None before there is anything to expect it from."""
        pace, found = self.pace, list[Wait]()
        if (clock_s := self.clock.search_left_s(self._kept_s())) is not None:
            if clock_s <= 0 and not self._to_prove():
                clock_s = self.clock.left_s() or 0.0
            found.append(Wait(clock_s, pace.wait(1).left_s / 2))
        if self.turns:
            trials, untried = self.clock.budget.trials, self.sampler.untried
            found.append(pace.wait(untried if trials is None else min(untried, trials - len(self.results))))
        least = min(found, key=lambda wait: wait.left_s, default=None)
        return least if least is None or least.left_s > 0 else Wait(0.0, 0.0)

    async def _trial(self, number: int, params: dict[str, Any]) -> TrialResult | None:
        """One trial: measured, then kept; each of it is tried again after faults that are not its own.

        None where it could not be, because a device has failed and is left out from now on.
        """
        plan = self.plan(params)
        self.store.trials.write_plan(number, params, plan, self.bench.provenance)
        self.events.show(self.clock.event())
        self.events.show({"what": "trial begins", "number": number, "params": params, "plan": plan})
        self._aim(number, params)
        if (foretold := self.sampler.foretold(params)) is not None:
            self.events.note("foretold", number=number, **foretold)
        faults = list[AutotuneError]()
        try:
            result, records = await insist(
                self.events, lambda: self._measure(number, params, plan), self._clear, faults.append
            )
        except ClusterError as error:
            if not error.device:
                raise
            await self.lose(error)
            return None
        await self._keep(result, records, plan)
        self.troubled.append(any(not getattr(error, "device", "") for error in faults))
        return result

    def _aim(self, number: int, params: Mapping[str, Any]) -> None:
        """What the trial has to beat, and what it is to tell beside: the first ones what fewer users get.

        What was measured in full is measured again to be known better, and has nothing to beat. And nobody is dropped
        for what is only believed: the best has made no more than it was measured to make.
        """
        users = self.bench.spec.level(None).users or 0
        self.bench.extra = (users // 2, users // 4) if number < CALIBRATING and users >= FEWEST_USERS else ()
        self.bench.rival = None
        full = [result for result in self.results if result.measured and not result.dropped]
        best = self._best(full)
        if number >= CALIBRATING and best and all(result.params != params for result in full):
            label = self.bench.spec.level(None).label
            measured = fmean(result.levels[label].output_tps for result in best)
            believed, noise = self.sampler.incumbent() or (measured, 0.0)
            found = aims.rival(self.bench.spec, best[-1], min(measured, believed))
            self.bench.rival = replace(found, margin=max(found.margin, SPREAD * noise))

    def _best(self, full: Sequence[TrialResult]) -> list[TrialResult]:
        """The full trials of the best configuration so far, by belief where there is one."""
        ranked = self.sampler.ranked()
        first = ranked[0] if ranked else next((one.params for one in standings(self.runnable(full))), None)
        return [result for result in full if result.params == first]

    async def _clear(self) -> None:
        self.running = frozenset()
        await self.bench.cluster.clear()

    async def _keep(self, result: TrialResult, records: list[Sequence[RequestRecord]], plan: Plan) -> None:
        took = [self.events.took_s.get(stage) for stage in PREPARING]
        self._learn(result, plan, sum(one for one in took if one is not None) if None not in took else None)

        async def keep() -> None:
            with self.events.span("collect", number=result.number):
                self.store.trials.save(result, records)

        await insist(self.events, keep)
        self.results.append(result)
        try:
            self.sampler.tell(self.sampler.begin(result.params), result)
        except StorageError as error:
            self._apart(error)

    def _apart(self, error: StorageError) -> None:
        """Optuna's file is there to be looked at, and made from the trials: where it fails a night goes on without."""
        with suppress(StorageError):
            self.events.note("apart", said=error.message)
        self.sampler.apart(self.results)

    async def _measure(
        self, number: int, params: dict[str, Any], plan: Plan
    ) -> tuple[TrialResult, list[Sequence[RequestRecord]]]:
        """Measure a plan. A baseline that does not run gets a second chance and then ends the night."""
        self.events.took_s.clear()
        result, records = await self.clock.bound(lambda: self.bench.trial(number, params, plan))
        if number > 0 or result.reason not in _NOT_RUNNABLE:
            return result, records
        self.events.show({"what": "retry", "result": result})
        result, records = await self.clock.bound(lambda: self.bench.trial(number, params, plan))
        if result.reason in _NOT_RUNNABLE:
            raise BaselineFailed(f"the baseline does not run: {result.message}", details=result.details)
        return result, records

    # when it ends

    def _over(self) -> str:
        """Why the search ends here; empty while it goes on."""
        trials = self.clock.budget.trials
        if trials is not None and len(self.results) >= trials:
            return f"{trials} trials are done" if trials > 1 else "1 trial is done"
        if self.clock.whole_s is not None and self._too_late():
            return "no time is left for another trial"
        return self._unlikely()

    def _too_late(self) -> bool:
        """Whether another trial may take what is kept for the proof, or go beyond a time of day."""
        expected_s, kept = median([result.seconds for result in self.results] or [0.0]), self._kept_s()
        left, whole = self.clock.left_s(), self.clock.whole_s
        assert left is not None
        assert whole is not None
        kept = kept if self._to_prove() else 0.0
        needed = kept > self.clock.budget.proof_share * whole
        room = left - kept if needed else left
        exact = needed or self.clock.until is not None
        return left - kept < expected_s or room < (self.pace.latest_s(self.pace.usual_s) if exact else expected_s)

    def _to_prove(self) -> bool:
        """Whether anything but the baseline likely holds the limits: until then all of the night is for the search.

        By belief where the search has one, as the finalists of the proof are.
        """
        return any(provable(self.runnable(self.results), self.sampler.ranked()))

    def _kept_s(self) -> float:
        """What is kept for the proof: its share, or what its fewest blocks need, as far as is known."""
        whole, rules, share = self.clock.whole_s, self.bench.spec.proof, self.clock.budget.proof_share
        if whole is None or not self.turns:
            return share * (whole or 0.0)
        trial_s = max(self.pace.usual_s, self.pace.trial_s(self.plan(self.baseline)))
        measured = [result for result in self.results if result.measured]
        took_s = math.fsum(result.seconds for result in measured)
        each_s = [aims.run_s(self.bench.spec, result) for result in measured]
        careful_s = trial_s * (math.fsum(each_s) / took_s if took_s else 1.0)
        for run_s in (careful_s, median(each_s or [careful_s])):  # what does not fit by the one may by the other
            blocks = [run_s * (1 + finalists) for finalists in range(1, rules.finalists + 1)]
            if kept := kept_s(share, whole, blocks, rules.pairs):
                return kept
        return 0.0

    def _unlikely(self) -> str:
        """That nothing untried is likely to be better, when that was so for a while."""
        budget = self.clock.budget
        if not budget.early or len(self.results) < EARLIEST:
            return ""
        promise = self.sampler.promise(budget.tolerance)
        if promise is None:
            return ""
        self.events.note("promise", number=len(self.results), chance=promise, tolerance=budget.tolerance)
        self.unpromising = self.unpromising + 1 if promise < UNLIKELY else 0
        if self.unpromising < ASKED:
            return ""
        return (
            f"nothing untried is likely to be better by more than {100 * budget.tolerance:g} % "
            f"({100 * promise:.2g} % chance)"
        )

    def _given_up(self) -> str:
        number = len(self.results)
        if not number:
            raise BaselineFailed("the time was up before the baseline was measured: there is nothing to compare with")
        return f"the time is up; trial {number} took longer than expected and was given up"

    def _learn(self, result: TrialResult, plan: Plan, prepared_s: float | None) -> None:
        self.turns.append(turn(result, plan, self.running, prepared_s))
        self.running = frozenset(plan.instances) if result.measured else frozenset()
        back_s = BACK * self.bench.cluster.stop_s
        self.clock = replace(self.clock, back_s=back_s)

    # faults of the machine

    def _break(self) -> None:
        """A machine that fails again and again is not to be measured on. Raises `TooManyFaults`."""
        if sum(self.troubled) >= MOST_TROUBLED:
            raise TooManyFaults(
                f"the machine failed in {sum(self.troubled)} of the last {len(self.troubled)} trials"
                " (see the faults above); what was found until then stands"
            )

    async def lose(self, error: ClusterError) -> None:
        """Go on without the device that an error is about. Raises `ClusterError` where there is no going on."""
        said = error.message
        if self.without is None:
            raise error
        try:
            self._leave_out({**self.lost, error.device: said})
        except SpecError as nothing:
            raise DeviceLost(f"{said}; without it the study cannot go on: {nothing.message}") from error
        if not self._runs(self.baseline):
            raise DeviceLost(f"{said}; the baseline needs it, and without it there is nothing to compare with")
        self.unpromising = 0
        await quarantine(self.store, self.events, self.lost)
        await insist(self.events, self._clear)
        try:  # none of Optuna's trials may know other layouts than those to come
            self.sampler.open(self.results)
        except StorageError as failed:
            self._apart(failed)

    def _leave_out(self, devices: dict[str, str]) -> None:
        assert self.without is not None
        ground = self.without(devices)
        self.lost, self.plan, self.narrow = devices, ground.plan, ground.narrowed
        self.bench.inventory = ground.inventory
        self.sampler.limit(ground.narrowed() if self.single else ground.space)

    def _runs(self, params: Mapping[str, Any]) -> bool:
        try:
            self.plan(params)
        except DeviceLost:
            return False
        return True

    def _narrow(self) -> None:
        """A model that Ollama serves with one slot whatever it is asked for: nothing to tune in num_parallel."""
        if not self.single and any(found.single for result in self.results for found in result.placements):
            self.single = True
            self.events.show({"what": "single"})
            self.sampler.limit(self.narrow())
