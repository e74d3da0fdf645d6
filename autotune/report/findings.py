"""All that a study has to say, before anything is laid out: for the last lines of a night, `status` and `report`."""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple, dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from autotune import aims
from autotune.confirm import BASELINE, Kind, cautions
from autotune.confirm import verdict as verdict_of
from autotune.earlier import kept
from autotune.events import read as read_events
from autotune.faults import Losses
from autotune.hindsight import foretold
from autotune.metrics import CONFIDENCE
from autotune.report.answers import answer
from autotune.report.front import Point, points
from autotune.report.words import configuration, objective, percent, verdict, warm
from autotune.result import TOKENS_PER_S, amount
from autotune.score import BEHIND
from autotune.standing import standings
from autotune.stats import proportion_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autotune.belief import Odds
    from autotune.confirm import Contender, Verdict
    from autotune.earlier import Warmth
    from autotune.hindsight import Foretold
    from autotune.metrics import Metrics
    from autotune.result import TrialResult
    from autotune.selftest import SelfTest
    from autotune.spec import StudySpec
    from autotune.store import Store

MOST_RANKED = 10
_UNLIKE = 0.05
"""A trial of the search that is further from the proof than this part of it, and than its fresh starts, is a doubt."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One configuration under one load. TTFT in seconds, TPS in tokens/s; of several runs the mean of each figure."""

    ttft_mean: float | None
    ttft_p50: float | None
    ttft_p95: float | None
    tps: float | None

    @classmethod
    def of(cls, runs: Sequence[Metrics]) -> Figures:
        """Of at least one run."""
        mean, p50, p95 = (_mean(getattr(run.ttft_s, name) for run in runs) for name in ("mean", "p50", "p95"))
        return cls(mean, p50, p95, fmean(run.output_tps for run in runs))


@dataclass(frozen=True, slots=True)
class Change:
    """Baseline and another configuration under the same load."""

    label: str
    before: Figures
    after: Figures
    gain: float | None = None
    """By which part the other makes more tokens/s where a proof compares them: the geometric mean over its blocks."""

    @property
    def relative(self) -> Figures:
        """How much more of each figure, 0.5 is half more; of the tokens/s what the answer says, too."""
        pairs = zip(astuple(self.before), astuple(self.after), strict=True)
        more = Figures(*(after / before - 1 if before and after is not None else None for before, after in pairs))
        return more if self.gain is None else replace(more, tps=self.gain)


@dataclass(frozen=True, slots=True)
class Place:
    """One row of the best configurations of the search."""

    number: int
    tps: float | None
    ttft_mean: float | None
    configuration: str
    verdict: str


@dataclass(frozen=True)
class Findings:
    """What a study has found, in the order in which people ask for it."""

    spec: StudySpec
    results: tuple[TrialResult, ...]
    """Of the search."""
    proof: Verdict | None
    answer: str
    """In a sentence or two."""
    title: str
    """Of `changes`; empty where there is nothing to compare."""
    changes: tuple[Change, ...]
    """Baseline against the recommended configuration, or against the best of the search, at every load."""
    ranking: tuple[Place, ...]
    configurations: int
    """How many the search has tried."""
    infeasible: tuple[str, ...]
    """What could not be measured, and why; and how many miss the limits."""
    cautions: tuple[str, ...]
    front: tuple[Point, ...] = ()
    """Where several goals count: who is on the front."""
    attained: tuple[str, ...] = ()
    """At each load with limits, how many requests met all of them at once; of what the answer recommends."""
    client: str = ""
    """How exact the figures are, as far as the client is concerned."""
    foretold: tuple[Foretold, ...] = ()
    """What the search foretold of its trials; nothing of a search that believes nothing."""
    odds: Odds | None = None
    """What could still win, by the same belief: worked out only for who asks, see `Recalled.odds`."""
    warm: str = ""
    """The earlier studies that the search began with; empty where there were none."""

    @property
    def unit(self) -> str:
        """Of what is compared."""
        return aims.unit(self.spec)

    @property
    def objective(self) -> str:
        """What is compared, and its unit."""
        return f"TPS, {self.unit}" if self.unit == TOKENS_PER_S else f"capacity, {self.unit}"

    @property
    def chosen(self) -> Contender | None:
        """What the proof recommends in the baseline's place; None where it says to keep the baseline, or nothing."""
        if self.proof is None or self.proof.kind is not Kind.WINNER:
            return None
        return self.proof.contenders[self.proof.recommended]

    @property
    def points(self) -> tuple[Contender, ...]:
        """Where several goals count, what the proof has on the front: any of them may be chosen."""
        if self.proof is None or self.proof.kind is not Kind.FRONT:
            return ()
        return tuple(self.proof.contenders[at] for at in self.proof.front.points)


def read(store: Store, spec: StudySpec | None = None) -> Findings:
    """What the study in a folder has found so far, but for what could still win. Raises `StorageError`."""
    written = spec or store.spec()
    results = store.trials.results()
    proof = verdict_of(store, written.proof) if results else None
    found = findings(
        written,
        results,
        proof,
        selftest=store.selftest(),
        losses=Losses.of(store, results),
        warmth=kept(store.folder),
    )
    return replace(found, foretold=foretold(written, read_events(store.events), results))


def findings(
    spec: StudySpec,
    results: Sequence[TrialResult],
    proof: Verdict | None = None,
    unproved: str = "",
    selftest: SelfTest | None = None,
    losses: Losses | None = None,
    warmth: Warmth | None = None,
) -> Findings:
    """What these results say. `unproved` is why there was no proof, `selftest` what the client could do,
    `losses` what cannot be used any more, `warmth` what the study began with."""
    lost = losses or Losses()
    left = [result for result in results if result.number not in lost.trials]
    title, changes = _changes(spec, left, proof) if left else ("", ())
    return Findings(
        spec=spec,
        results=tuple(results),
        proof=proof,
        answer=answer(left, proof, unproved),
        title=title,
        changes=changes,
        ranking=_ranking(left, spec.level(None).label),
        configurations=len(standings(left)),
        infeasible=(*_infeasible(results), *_unable(len(lost.trials))),
        cautions=(*(f"left out since it failed: {said}" for said in lost.devices.values()), *_cautions(left, proof)),
        front=points(left, proof) if left else (),
        attained=_attained(left, proof),
        client=_client(spec, results, selftest) if selftest else "",
        warm=warm(warmth) if warmth else "",
    )


def _attained(results: Sequence[TrialResult], proof: Verdict | None) -> tuple[str, ...]:
    """Over all runs of the recommended configuration; without a proof of the best of the search."""
    if proof is not None and proof.kind is Kind.FRONT:
        each = [(one := proof.contenders[at], _of_runs(one.measured)) for at in _chosen(proof)]
        return tuple(f"{configuration(one.params)}: {line}" for one, lines in each for line in lines)
    if proof is not None and proof.kind is not Kind.UNPROVED:
        runs = list(proof.contenders[proof.recommended].measured)
    else:
        runs = list(standings(results)[0].results) if results else []
    return _of_runs(runs)


def _chosen(proof: Verdict) -> tuple[int, ...]:
    """What the answer recommends."""
    return proof.front.points if proof.kind is Kind.FRONT else (proof.recommended,)


def _of_runs(runs: Sequence[TrialResult]) -> tuple[str, ...]:
    return tuple(_of_all(label, runs) for label in (runs[0].attainments if runs else ()))


def _of_all(label: str, runs: Sequence[TrialResult]) -> str:
    found = [run.attainments[label] for run in runs if label in run.attainments]
    good, requests = sum(one.good for one in found), sum(one.requests for one in found)
    if not requests:
        return f"{label}: of no request is it known whether it met the limits"
    between = proportion_interval(good, requests, CONFIDENCE)
    return (
        f"{label}: {between.mean:.1%} ({between.low:.1%} to {between.high:.1%}) of {requests} requests met all limits"
        f" at once; they brought {fmean(one.goodput_tps for one in found):.1f} tokens/s (goodput)"
    )


def _client(spec: StudySpec, results: Sequence[TrialResult], selftest: SelfTest) -> str:
    """The error of a TTFT, and how many times the fastest load the client could take; both on this host's clock."""
    fastest = max((one.output_tps for result in results for one in result.levels.values()), default=0.0)
    room = f", headroom {selftest.headroom(fastest * spec.cluster.time_scale):.0f}×" if fastest else ""
    said = f"TTFT ± {1000 * selftest.error_p99_s:.1f} ms (99 of 100, with {selftest.concurrency} streams){room}"
    return f"{said}; doubtful: {'; '.join(selftest.faults)}" if selftest.faults else said


def _changes(spec: StudySpec, results: Sequence[TrialResult], proof: Verdict | None) -> tuple[str, tuple[Change, ...]]:
    gain = None
    if proof is not None and proof.kind is not Kind.UNPROVED:
        other = proof.recommended if proof.recommended != BASELINE else proof.nearest
        name = "The winner" if proof.recommended != BASELINE else "The best candidate"
        name = "The one with the most tokens/s" if proof.goals else name
        before, after = proof.contenders[BASELINE].runs, proof.contenders[other].runs
        title = f"{name} against the baseline, mean of {proof.blocks} runs each"
        blocks, gain = proof.blocks, proof.gain(other) if aims.unit(spec) == TOKENS_PER_S else None
    else:
        before, after = tuple(results[:1]), (standings(results)[0].results[-1],)
        title, blocks = "The best of the search against the baseline, one run each", 1
    if before[0].fingerprint == after[0].fingerprint:
        return "", ()
    labels = dict.fromkeys(label for run in (*before, *after) for label in run.levels)
    changes, notes = list[Change](), list[str]()
    for label in labels:
        old, new = ([run.levels[label] for run in runs if label in run.levels] for runs in (before, after))
        if old and new:
            by_block = gain.mean if gain is not None and label == spec.level(None).label else None
            change = Change(label, Figures.of(old), Figures.of(new), by_block)
            changes.append(change)
            if min(len(old), len(new)) < blocks:
                notes.append(f"{label}: {min(len(old), len(new))}")
            if percent(change.relative.tps) != percent(replace(change, gain=None).relative.tps):
                notes.append(f"{label}: the change of TPS is the geometric mean over blocks")
    title += f" ({', '.join(notes)})" if notes else ""
    return (f"{title}: {configuration(after[0].params)}", tuple(changes)) if changes else ("", ())


def _ranking(results: Sequence[TrialResult], at: str) -> tuple[Place, ...]:
    return tuple(
        Place(
            number,
            standing.objective,
            _ttft(standing.results[-1], at),
            configuration(standing.params) + ("  (baseline)" if results[0] in standing.results else ""),
            verdict(standing.results[-1]),
        )
        for number, standing in enumerate(standings(results)[:MOST_RANKED], 1)
    )


def _ttft(result: TrialResult, at: str) -> float | None:
    """Its mean at the level of the objective."""
    label = result.at or at
    return result.levels[label].ttft_s.mean if label in result.levels else None


def _infeasible(results: Sequence[TrialResult]) -> tuple[str, ...]:
    failed = [result for result in results if not result.measured]
    counts = Counter(result.reason for result in failed)
    examples = {result.reason: result for result in reversed(failed)}
    lines = [
        f"{_trials(count)} could not be measured: {reason}, as {configuration(examples[reason].params)}:"
        f" {examples[reason].message}"
        for reason, count in counts.items()
    ]
    broken = [{name for name, off in one.score.constraints.items() if off > 0} for one in results if one.measured]
    if missing := sum(bool(names - {BEHIND}) for names in broken):
        lines.append(f"{_trials(missing)} missed a limit, or is not known to meet it")
    if behind := sum(BEHIND in names for names in broken):
        lines.append(f"{_trials(behind)} could not beat the best by then, and ended early")
    return tuple(lines)


def _unable(count: int) -> list[str]:
    return [f"{_trials(count)} used more devices of a kind than are left, and cannot be chosen"] if count else []


def _trials(count: int) -> str:
    return f"{count} trial{'' if count == 1 else 's'}"


def _cautions(results: Sequence[TrialResult], proof: Verdict | None) -> tuple[str, ...]:
    """Doubts about what the answer rests on: of the proof, or else of the baseline and the best of the search."""
    if proof is not None:
        runs = [run for contender in proof.contenders for run in contender.runs]
        told = [*cautions(proof), *(line for at in _chosen(proof) for line in _slots(proof.contenders[at]))]
        told += [*_unlike(results, proof), *_newer(results, proof)]
    else:
        runs, told = [*results[:1], *(standings(results)[0].results if results else ())], []
    counts = Counter(caution for run in {id(run): run for run in runs}.values() for caution in run.cautions)
    return (*told, *(f"{text} (in {count} runs)" if count > 1 else text for text, count in counts.items()))


def _slots(contender: Contender) -> list[str]:
    """Slots that never filled cost memory, and prove nothing."""
    every = [int(value) for name, value in contender.params.items() if name.partition("@")[0] == "num_parallel"]
    slots, used = max(every), contender.slots_used
    if not 0 < used < slots:
        return []
    words = (
        f"{configuration(contender.params)}: never more than {used} of the {slots} slots of an instance were in use;"
        " the others only take memory, and nothing is known of how it does with more users"
    )
    return [words]


def _unlike(results: Sequence[TrialResult], proof: Verdict) -> list[str]:
    """Where the proof and the search do not agree, the search was lucky or something has changed in the night."""
    return [
        f"{configuration(contender.params)}: {objective(found, result)} in the search,"
        f" {amount(again.mean, result.unit)} in the proof; only the proof counts:"
        " was something else running on this host?"
        for contender in proof.contenders
        for result in results
        if contender.runs and result.fingerprint == contender.runs[0].fingerprint
        if (again := contender.next_tps) and (found := result.score.objective)
        if abs(found - again.mean) > max(again.high - again.mean, _UNLIKE * again.mean)
    ]


def _newer(results: Sequence[TrialResult], proof: Verdict) -> list[str]:
    """A search that went on after its proof may have found something better."""
    known, best = [one.params for one in proof.contenders], standings(results)[0]
    most = proof.front.points[0] if proof.kind is Kind.FRONT else proof.recommended
    tps = proof.contenders[most].next_tps
    if best.params in known or not best.feasible or tps is None or (best.objective or 0.0) <= tps.high:
        return []
    more = objective(best.objective, best.results[-1])
    told = f"{configuration(best.params)}: {more} in the search, and not in the proof"
    return [f"{told}: run the study again, with time for another proof"]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
