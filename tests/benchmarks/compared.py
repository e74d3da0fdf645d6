"""A night beside the grid of its space, from their study folders: values, and how they are read. Printed by `grid`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import fmean, median, quantiles, variance
from typing import TYPE_CHECKING, Any

from autotune import confirm, night
from autotune.events import read
from autotune.sampler import Sampler
from autotune.space import key
from autotune.standing import standings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from autotune.ground import Ground
    from autotune.result import TrialResult
    from autotune.spec import StudySpec
    from autotune.store import Store

WIDE = 1.96
LIKELY = 0.5


@dataclass(frozen=True)
class Belief:
    """What was believed of a configuration: tokens/s with their 95 % interval, and the chance that the limits hold."""

    tps: float
    low: float
    high: float
    holds: float

    def off(self, tps: float) -> float:
        """How far it is from what was measured: the logarithm of their ratio."""
        return math.log(self.tps / tps)

    def covers(self, tps: float, noise: float = 0.0) -> bool:
        """Whether the interval has what was measured with so much noise, a standard deviation in parts."""
        sd = math.hypot(math.log(self.high / self.low) / (2 * WIDE), noise)
        return abs(self.off(tps)) <= WIDE * sd


@dataclass(frozen=True)
class Agreement:
    """How well what was believed of some configurations agrees with what came."""

    count: int
    median: float
    """Of the errors, in logarithms."""
    p90: float
    inside: int
    """So many lie in the interval as it was told."""
    noisy: int
    """In one that is wider by the noise of what it is held against."""

    @classmethod
    def of(cls, pairs: Sequence[tuple[Belief, float]], noise: float) -> Agreement | None:
        """Beliefs, and what was measured in tokens/s with so much noise; None where there are none."""
        if not pairs:
            return None
        errors = [abs(belief.off(tps)) for belief, tps in pairs]
        return cls(
            count=len(pairs),
            median=median(errors),
            p90=quantiles(errors, n=10, method="inclusive")[-1] if len(errors) > 1 else errors[0],
            inside=sum(belief.covers(tps) for belief, tps in pairs),
            noisy=sum(belief.covers(tps, noise) for belief, tps in pairs),
        )


@dataclass(frozen=True)
class Row:
    """One configuration, as the grid measured it."""

    params: dict[str, Any]
    every: tuple[float, ...]
    """Tokens/s of each repeat in which it could be measured, and made any."""
    ttft_s: float | None
    """In the mean."""
    over: float
    """What it misses most, in the mean of the repeats; 0 or less: it holds all limits."""
    tried: bool
    """By the night."""
    belief: Belief | None

    @property
    def tps(self) -> float:
        """In the mean."""
        return fmean(self.every) if self.every else 0.0

    @property
    def holds(self) -> bool:
        """Whether it could be measured every time, within the limits."""
        return self.over <= 0

    @property
    def rank(self) -> tuple[bool, float]:
        """Sorts the best first."""
        return not self.holds, -self.tps


@dataclass(frozen=True)
class Foretold:
    """One trial of the night: what was believed of it before, and what came."""

    number: int
    params: dict[str, Any]
    belief: Belief
    tps: float | None
    """None where it could not be measured."""
    dropped: bool
    """Before its time, so that the figure is a rough one."""


@dataclass(frozen=True)
class Spent:
    """What a study, or a part of it, has cost."""

    name: str
    trials: int
    dropped: int
    full_s: float
    """Of a trial that was measured in full, in the mean."""
    dropped_s: float
    """Of one that was dropped."""
    minutes: float
    """Of all trials together."""

    @classmethod
    def of(cls, name: str, results: Sequence[TrialResult]) -> Spent:
        """What these trials took."""
        dropped = [one.seconds for one in results if one.dropped]
        full = [one.seconds for one in results if one.measured and not one.dropped]
        total = sum(one.seconds for one in results) / 60
        return cls(name, len(results), len(dropped), _mean(full), _mean(dropped), total)


@dataclass(frozen=True)
class Compared:
    """One night beside its grid."""

    study: str
    repeats: int
    rows: tuple[Row, ...]
    """The best first."""
    choices: dict[str, dict[str, Any]]
    """What the night would have chosen: name → configuration."""
    foretold: tuple[Foretold, ...]
    spent: tuple[Spent, ...]
    night_minutes: float
    """With all that is no trial."""

    @property
    def noise(self) -> float | None:
        """Standard deviation between repeats of one configuration, in parts; None where there is only one repeat."""
        logs = [[math.log(tps) for tps in row.every] for row in self.rows if len(row.every) > 1]
        freedom = sum(len(one) - 1 for one in logs)
        return math.sqrt(sum((len(one) - 1) * variance(one) for one in logs) / freedom) if freedom else None

    @property
    def error(self) -> float:
        """Of a row's mean: a standard deviation, in parts; 0 where nothing tells it."""
        return (self.noise or 0.0) / math.sqrt(self.repeats)

    def place(self, params: Mapping[str, Any]) -> tuple[int, float]:
        """Of a configuration: its rank in the grid, from 1, and by which part it makes less than the best."""
        at = next(at for at, row in enumerate(self.rows) if key(row.params) == key(params))
        return at + 1, 1 - self.rows[at].tps / self.rows[0].tps

    def alike(self) -> int:
        """So many cannot be told from the best: within two standard errors of a difference."""
        near = 2 * math.sqrt(2) * self.error
        return sum(row.holds and 1 - row.tps / self.rows[0].tps <= near for row in self.rows)

    def last(self) -> dict[str, tuple[Agreement, int]]:
        """The last belief against the grid, and of how many configurations it knew whether they hold the limits."""
        parts = {
            "all": self.rows,
            "tried": [row for row in self.rows if row.tried],
            "untried": [row for row in self.rows if not row.tried],
        }
        found = {}
        for name, part in parts.items():
            known = [(row.belief, row) for row in part if row.belief is not None and row.every]
            right = sum((belief.holds >= LIKELY) == row.holds for belief, row in known)
            agreed = Agreement.of([(belief, row.tps) for belief, row in known], self.error)
            if agreed is not None:
                found[name] = agreed, right
        return found

    def before(self) -> Agreement | None:
        """What each trial was foretold against what it measured, of those that were measured in full."""
        full = [(one.belief, one.tps) for one in self.foretold if one.tps and not one.dropped]
        return Agreement.of(full, self.noise or 0.0)

    def content(self) -> dict[str, Any]:
        """For a file."""
        before = self.before()
        return asdict(self) | {
            "noise": self.noise,
            "alike": self.alike(),
            "places": {name: self.place(params) for name, params in self.choices.items()},
            "last": {name: {**asdict(agreed), "right": right} for name, (agreed, right) in self.last().items()},
            "before": None if before is None else asdict(before),
        }


# reading


def rows(
    repeats: Sequence[Sequence[TrialResult]], label: str, tried: Iterable[str] = (), beliefs: Mapping[str, Belief] = {}
) -> tuple[Row, ...]:
    """The configurations of a grid, the best first. `tried` and `beliefs` go by the keys of configurations."""
    found: dict[str, list[TrialResult]] = {}
    for result in (result for results in repeats for result in results):
        found.setdefault(key(result.params), []).append(result)
    seen = set(tried)
    every = [_row(results, label, name in seen, beliefs.get(name)) for name, results in found.items()]
    return tuple(sorted(every, key=lambda row: row.rank))


def _row(results: Sequence[TrialResult], label: str, tried: bool, belief: Belief | None) -> Row:
    loads = [result.levels[label] for result in results if result.measured]
    names = {name for result in results for name in result.score.constraints}
    constraints = [[one.score.constraints[name] for one in results if name in one.score.constraints] for name in names]
    waits = [load.ttft_s.mean for load in loads if load.ttft_s.mean is not None]
    return Row(
        params=results[0].params,
        every=tuple(load.output_tps for load in loads if load.output_tps),
        ttft_s=fmean(waits) if waits else None,
        over=max(map(fmean, constraints), default=0.0),
        tried=tried,
        belief=belief,
    )


def compared(spec: StudySpec, ground: Ground, store: Store, grids: Sequence[Store]) -> Compared:
    """What a finished night and its finished grids say."""
    results, label = store.trials.results(), spec.level(None).label
    sampler = Sampler(None, spec.study.name, spec.study.seed, ground.space, ground.baseline, night.way(ground))
    sampler.open(results)
    repeats = [grid.trials.results() for grid in grids]
    every = {key(result.params): result.params for repeat in repeats for result in repeat}
    beliefs = {name: _belief(told) for name, one in every.items() if (told := sampler.foretold(one))}
    proofs = [run for number in range(store.proofs()) for run in store.proof(number).results()]
    events = read(store.events)
    return Compared(
        study=spec.study.name,
        repeats=len(repeats),
        rows=rows(repeats, label, (key(result.params) for result in results), beliefs),
        choices=_choices(store, spec, sampler, results),
        foretold=tuple(foretold(events, results, label)),
        spent=(
            Spent.of("search", results),
            Spent.of("proof", proofs),
            *(Spent.of(f"grid {number}", repeat) for number, repeat in enumerate(repeats, 1)),
        ),
        night_minutes=night.elapsed(events) / 60,
    )


def _choices(
    store: Store, spec: StudySpec, sampler: Sampler, results: Sequence[TrialResult]
) -> dict[str, dict[str, Any]]:
    """Of the night, by what each rests on."""
    found = {"baseline": results[0].params, "best measured": standings(results)[0].params}
    if ranked := sampler.ranked():
        found["best believed"] = ranked[0]
    proof = confirm.verdict(store, spec.proof)
    if proof is not None and proof.kind is not confirm.Kind.UNPROVED:
        place = proof.recommended if proof.kind is confirm.Kind.WINNER else confirm.BASELINE
        found[f"proved ({proof.kind})"] = proof.contenders[place].params
    return found


def foretold(events: Iterable[Mapping[str, Any]], results: Sequence[TrialResult], label: str) -> list[Foretold]:
    """Of each trial that anything was believed of before it, what came. Of one that was begun again, the last."""
    told = {event["number"]: _belief(event) for event in events if event["what"] == "foretold"}
    return [
        Foretold(
            result.number,
            result.params,
            told[result.number],
            result.levels[label].output_tps if label in result.levels else None,
            bool(result.dropped),
        )
        for result in results
        if result.number in told
    ]


def _belief(told: Mapping[str, Any]) -> Belief:
    return Belief(told["tps"], told["low"], told["high"], told["holds"])


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0
