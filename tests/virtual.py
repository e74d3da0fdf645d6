"""Whole nights in virtual time: the loop, the sampler, the store and the proof as they are, on a bench that plays."""

from __future__ import annotations

import asyncio
import math
import random
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import pytest

from autotune import plan as plans
from autotune.events import Events, read
from autotune.night import elapsed, whole
from autotune.ollama.api import ServerFacts
from autotune.records import Outcome, RequestRecord
from autotune.sampler import Sampler
from autotune.simulator.clock import run_virtual
from autotune.spec import Budget
from autotune.store import Store
from autotune.study import Clock, Night
from tests.conftest import TINY, gpus
from tests.factories import BASELINE, SPEC, result, space

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from autotune.confirm import Verdict
    from autotune.ground import Ground
    from autotune.inventory import Inventory
    from autotune.plan import Plan
    from autotune.result import TrialResult
    from autotune.sampler import Way
    from autotune.space import Space
    from autotune.spec import StudySpec
    from autotune.trial import Bench

    Law = Callable[[int, Mapping[str, Any]], TrialResult]

TRIAL_S = 600.0
EVENING = datetime.fromisoformat("2026-11-20 23:00").astimezone()
RECORD = RequestRecord(0, 1.0, Outcome.OK, chunk_times=(1.5, 2.0))
NARROW = space((1,))
PIECE = 12
"""Runs that are heard in the order in which they were recorded."""


def by_slots(number: int, chosen: Mapping[str, Any]) -> TrialResult:
    return result(number, chosen, tps=10.0 * chosen["num_parallel"])


@dataclass
class Played:
    """A bench, and its cluster: each trial takes its time and then goes by the law, or by the next fault."""

    law: Law = by_slots
    faults: list[Exception | None] = field(default_factory=list)
    """What is raised by one call after the other; None is none."""
    clearing: list[Exception | None] = field(default_factory=list)
    trial_s: float = TRIAL_S
    calls: list[tuple[int, float]] = field(default_factory=list)
    """Number and time of each."""
    cleared: int = 0
    spec: StudySpec = SPEC
    fresh: bool = False
    brief: bool = False
    briefs: list[bool] = field(default_factory=list)
    """Of each trial whether it was a brief one."""
    provenance: None = None
    stop_s: float = 0.0
    lasts: Callable[[Plan], float] | None = None
    """How long a trial takes, where not all take the same."""
    inventory: Inventory | None = None
    """Set where devices are lost."""

    @property
    def cluster(self) -> Played:
        return self

    async def clear(self) -> None:
        self.cleared += 1
        if self.clearing and (error := self.clearing.pop(0)) is not None:
            raise error

    @contextmanager
    def proving(self, *_: object) -> Iterator[None]:
        self.fresh = True
        yield

    async def trial(
        self, number: int, chosen: dict[str, Any], plan: Plan
    ) -> tuple[TrialResult, list[Sequence[RequestRecord]]]:
        now = asyncio.get_running_loop().time
        self.calls.append((number, now()))
        self.briefs.append(self.brief)
        took_s = self.trial_s if self.lasts is None else self.lasts(plan)
        await asyncio.sleep(took_s)
        if self.faults and (error := self.faults.pop(0)) is not None:
            raise error
        found = self.law(number, chosen)
        return replace(found, fingerprint=plan.fingerprint, seconds=took_s), [[RECORD]]


class Promising(Sampler):
    """Promises what a test says."""

    promises: list[float | None]

    def promise(self, tolerance: float) -> float | None:
        return self.promises.pop(0) if self.promises else None


@dataclass
class Ended:
    """How a night went."""

    why: str
    results: list[TrialResult]
    shown: list[dict[str, Any]]
    bench: Played
    store: Store
    took_s: float
    proof: Verdict | None = None
    unproved: str = ""
    night: Night = field(kw_only=True)

    def seen(self, what: str) -> list[dict[str, Any]]:
        return [event for event in self.shown if event["what"] == what]

    @property
    def numbers(self) -> list[int]:
        """Of every measurement that was begun."""
        return [number for number, _ in self.bench.calls]


def on_two_cards(chosen: Mapping[str, Any]) -> Plan:
    """A plan as trials of the played host have it."""
    return plans.make(SPEC, gpus(), ServerFacts("0.32.15", TINY), chosen, (Path("/m"), Path("/h")))


@dataclass
class Studies:
    """Nights on one study folder."""

    folder: Path
    where: Space = field(default_factory=space)
    last: Ended | None = None
    """Also of a night that an error has ended."""
    without: Callable[[Collection[str]], Ground] | None = None
    plan: Callable[[Mapping[str, Any]], Plan] = on_two_cards
    asleep: Callable[[], float] = lambda: 0.0
    promises: list[float | None] = field(default_factory=list)
    """What the sampler promises, one time after the other."""
    way: Way | None = None
    """How they are searched."""

    def night(
        self, bench: Played | None = None, began: datetime = EVENING, *, proof: bool = False, **budget: Any
    ) -> Ended:
        """One night to the end of its search, or of its proof."""
        return run_virtual(self._night(bench or Played(), began, Budget(**budget), proof=proof))

    async def _night(self, bench: Played, began: datetime, budget: Budget, *, proof: bool) -> Ended:
        now = asyncio.get_running_loop().time
        store, shown = Store(self.folder), list[dict[str, Any]]()
        store.open(SPEC, "")
        results = store.trials.results()
        sampler = Promising(store.optuna, "test", 1, self.where, BASELINE, self.way)
        sampler.open(results)
        sampler.promises = self.promises
        night = Night(
            bench=cast("Bench", bench),
            store=store,
            sampler=sampler,
            events=Events(store.events, shown.append),
            clock=replace(
                Clock.start(
                    budget,
                    elapsed(read(store.events)) if proof else 0.0,
                    wall=lambda: began + timedelta(seconds=now()),
                ),
                asleep=self.asleep,
            ),
            baseline=BASELINE,
            plan=self.plan,
            narrow=lambda: NARROW,
            results=results,
            without=self.without,
        )
        self.last = Ended("", results, shown, bench, store, 0.0, night=night)
        if proof:
            with night.events.span("night"):
                ending = await whole(night)
            self.last.why, self.last.proof, self.last.unproved = ending.why, ending.proof, ending.unproved
        else:
            self.last.why = await night.run()
        self.last.took_s = now()
        return self.last

    def broken(self, error: type[Exception], bench: Played, **budget: Any) -> tuple[Ended, Any]:
        """A night that ends by an error."""
        with pytest.raises(error) as raised:
            self.night(bench, **budget)
        assert self.last is not None
        return self.last, raised.value


@dataclass
class Noise:
    """How runs of one configuration differ. Each figure is relative; TTFT goes the other way than tokens/s."""

    seed: int
    sd: float = 0.01
    """Of each run by itself."""
    wander: float = 0.0
    """Standard deviation of the steps of a random walk, from run to run."""
    drift: float = 0.0
    """Over a hundred runs, evenly."""
    outliers: float = 0.0
    """Share of runs that something else on the host makes a fifth slower."""
    failure_rate: float = 0.0
    """Share of runs that fail for no reason of their configuration."""
    recorded: Sequence[float] = ()
    """Tokens/s of runs that were measured one after the other: their ups and downs, twelve from a chance one on.

    Then twelve from another (Künsch's moving blocks, Annals of Statistics 17, 1989): a proof may be longer than what
    was recorded, and what is heard twice in the same order would be taken for twice the evidence.
    """
    ttft_s: float = 0.5
    gains: Mapping[int, float] = field(default_factory=dict)
    """By num_parallel: how much faster than all others."""

    def __post_init__(self) -> None:
        self._chance = random.Random(f"noise {self.seed}")
        self._walk = 0.0
        self._heard = self._recording(self._chance.randrange(max(len(self.recorded), 1)))

    def _recording(self, start: int) -> Iterator[float]:
        middle = fmean(map(math.log, self.recorded)) if self.recorded else 0.0
        every = [math.log(tps) - middle for tps in self.recorded] or [0.0]
        chance = random.Random(f"recording {self.seed}")
        while True:
            yield from (every[(start + later) % len(every)] for later in range(PIECE))
            start = chance.randrange(len(every))

    def run(self, tps: float) -> tuple[float, float]:
        """Tokens/s and mean TTFT in s of the next run."""
        chance = self._chance
        self._walk += chance.gauss(0, self.wander) + self.drift / 100
        slow = math.log(0.8) if chance.random() < self.outliers else 0.0
        speed = self._walk + chance.gauss(0, self.sd) + slow + next(self._heard)
        return tps * math.exp(speed), self.ttft_s * math.exp(chance.gauss(0, self.sd) - speed)

    def fails(self) -> bool:
        """Whether the next run does."""
        return self._chance.random() < self.failure_rate

    def law(self, number: int, chosen: Mapping[str, Any]) -> TrialResult:
        """A trial of a night."""
        tps, ttft_s = self.run(100.0 * (1 + self.gains.get(chosen["num_parallel"], 0.0)))
        return result(number, chosen, tps, ttft_s)
