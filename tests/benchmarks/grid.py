"""One night beside its whole space: python -m tests.benchmarks.grid STUDY.toml --to FOLDER [--repeats 2]

The study runs as it is: search and proof. Then every configuration of its space is measured, `--repeats` times, by the
same rules but to the end: nothing is dropped, and no window ends early for a limit that is missed. Each repeat has an
order and questions of its own. All of them are ordinary study folders in FOLDER: what is finished there is read and not
run again, what was broken off goes on.

What is printed: every configuration, best first, with what the night believed of it in the end; where the night's
choices stand among them; what each trial was foretold and what came; trials and minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, quantiles, variance
from typing import TYPE_CHECKING, Any

from autotune import confirm, night
from autotune.console import Night, Screen
from autotune.events import by_night, read
from autotune.report.words import configuration
from autotune.sampler import Sampler
from autotune.space import key
from autotune.spec import Budget, StudySpec, load
from autotune.store import Store
from autotune.study import standings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from autotune.ground import Ground
    from autotune.result import TrialResult

WIDE = 1.96
COLUMNS = 140


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
class Row:
    """One configuration, as the grid measured it."""

    params: dict[str, Any]
    every: tuple[float, ...]
    """Tokens/s of each repeat in which it could be measured."""
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

    def content(self) -> dict[str, Any]:
        """For a file."""
        places = {name: self.place(params) for name, params in self.choices.items()}
        return asdict(self) | {"noise": self.noise, "alike": self.alike(), "places": places}


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
        every=tuple(load.output_tps for load in loads),
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


# printing


def page(found: Compared) -> str:
    """All of it, for people."""
    parts = (_table(found), _standing(found), _beliefs(found), _trials(found), _cost(found))
    return "\n\n".join("\n".join(lines) for lines in parts)


def _table(found: Compared) -> list[str]:
    times = "once" if found.repeats == 1 else f"{found.repeats} times"
    lines = [
        f"{found.study}: {len(found.rows)} configurations, each measured {times}",
        f"{'':48} {'tokens/s':>9} {'repeats':>17} {'TTFT, s':>8}  {'believed':>9} {'95 % interval':>18} {'holds':>6}",
    ]
    for rank, row in enumerate(found.rows, 1):
        repeats = " ".join(f"{tps:.0f}" for tps in row.every)
        said = row.belief
        belief = "" if said is None else f"{said.tps:9.1f} {said.low:8.1f} to {said.high:6.1f} {said.holds:6.0%}"
        marks = ("tried" if row.tried else "") + ("" if row.holds else "  misses a limit")
        name = configuration(row.params)
        lines.append(f"{rank:3} {name:44} {row.tps:9.1f} {repeats:>17} {row.ttft_s or 0:8.2f}  {belief}  {marks}")
    return lines


def _standing(found: Compared) -> list[str]:
    noise = "not known" if found.noise is None else f"{found.noise:.1%}"
    alike = f"{found.alike()} of {len(found.rows)} cannot be told from the best"
    lines = [f"noise between repeats of one configuration: {noise} (sd); {alike}"]
    for name, params in found.choices.items():
        rank, below = found.place(params)
        held = "" if found.rows[rank - 1].holds else ", misses a limit"
        lines.append(f"{name:18} {configuration(params):44} rank {rank:2}, {below:5.1%} below the best{held}")
    return lines


def _beliefs(found: Compared) -> list[str]:
    lines = ["the last belief against the grid: error of tokens/s, its interval alone and with the grid's own noise"]
    for name, chosen in (
        ("all", found.rows),
        ("tried", [row for row in found.rows if row.tried]),
        ("untried", [row for row in found.rows if not row.tried]),
    ):
        pairs = [(row.belief, row) for row in chosen if row.belief is not None and row.every]
        if not pairs:
            continue
        errors = [abs(belief.off(row.tps)) for belief, row in pairs]
        covered = _mean([belief.covers(row.tps) for belief, row in pairs])
        noisy = _mean([belief.covers(row.tps, found.error) for belief, row in pairs])
        right = sum((belief.holds >= 0.5) == row.holds for belief, row in pairs)
        lines.append(
            f"{name:8} {len(pairs):3}: median {median(errors):.1%}, p90 {_p90(errors):.1%}; inside {covered:.0%}, "
            f"{noisy:.0%}; whether it holds the limits is right of {right}"
        )
    return lines


def _p90(values: Sequence[float]) -> float:
    return quantiles(values, n=10, method="inclusive")[-1] if len(values) > 1 else values[0]


def _trials(found: Compared) -> list[str]:
    noise = found.noise or 0.0
    lines = ["each trial of the night: foretold, and measured"]
    for one in found.foretold:
        told = f"{one.belief.tps:8.1f} ({one.belief.low:.1f} to {one.belief.high:.1f})"
        came = "not measured" if one.tps is None else f"{one.tps:8.1f}  {one.belief.off(one.tps):+6.1%}"
        mark = "  dropped" if one.dropped else ""
        lines.append(f"{one.number:3} {configuration(one.params):44} {told:28} {came}{mark}")
    known = [(one.belief, one.tps) for one in found.foretold if one.tps and not one.dropped]
    if known:
        errors = [abs(belief.off(tps)) for belief, tps in known]
        inside = sum(belief.covers(tps) for belief, tps in known)
        noisy = sum(belief.covers(tps, noise) for belief, tps in known)
        lines.append(
            f"of {len(known)} measured in full: error median {median(errors):.1%}, p90 {_p90(errors):.1%}; inside "
            f"{inside}, {noisy} with the noise of one measurement"
        )
    return lines


def _cost(found: Compared) -> list[str]:
    lines = [f"the whole night took {found.night_minutes:.1f} min"]
    for one in found.spent:
        dropped = f", {one.dropped} of them dropped after {one.dropped_s:.1f} s each" if one.dropped else ""
        lines.append(
            f"{one.name:8} {one.trials:3} trials, {one.minutes:5.1f} min, {one.full_s:.1f} s for one in full{dropped}"
        )
    return lines


# running


def whole(spec: StudySpec, repeat: int, size: int) -> StudySpec:
    """The study that measures all of a space of so many configurations, each of them to the end."""
    study = spec.study.model_copy(update={"name": f"{spec.study.name}-grid-{repeat}", "seed": spec.study.seed + repeat})
    return spec.model_copy(
        update={
            "study": study,
            "search": spec.search.model_copy(update={"sampler": "random"}),
            "objective": spec.objective.model_copy(update={"end_early": False}),
            "budget": Budget(trials=size + 1, early=False),  # the baseline may lie outside
            "proof": spec.proof.model_copy(update={"finalists": 0}),
        }
    )


def finished(store: Store, spec: StudySpec) -> bool:
    """Whether a study has come to its end, as it is asked for now."""
    if store.header() is None or store.spec().model_dump() != spec.model_dump():
        return False
    nights = by_night(read(store.events))
    last = nights[-1][-1] if nights else {"what": ""}
    return last["what"] == "night" and "error" not in last


def finish(store: Store, spec: StudySpec, source: str) -> None:
    """Run a study to its end, where it is not there yet. Raises `AutotuneError`."""
    if finished(store, spec):
        return
    with Night(spec, Screen(force_terminal=False, width=COLUMNS), store.earlier()) as view:
        ending = asyncio.run(night.run(spec, source, store.folder, view))
    if ending.error is not None:
        raise ending.error


def main() -> None:
    """Run what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, metavar="STUDY.toml")
    parser.add_argument("--repeats", type=int, default=2, help="of the grid")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where the study folders lie")
    parser.add_argument("--json", type=Path, metavar="FILE")
    chosen = parser.parse_args()
    spec, source = load(chosen.study), chosen.study.read_text(encoding="utf-8")
    ground = asyncio.run(night.look(spec))
    studies = [spec, *(whole(spec, number, ground.space.size) for number in range(1, chosen.repeats + 1))]
    stores = [Store((chosen.to / one.study.name).resolve()) for one in studies]
    for store, one in zip(stores, studies, strict=True):
        finish(store, one, source)
    found = compared(spec, ground, stores[0], stores[1:])
    print(page(found))
    if chosen.json:
        chosen.json.write_text(json.dumps(found.content(), indent=1))


if __name__ == "__main__":
    main()
