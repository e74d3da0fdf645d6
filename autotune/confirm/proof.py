"""The runs of a proof, on the bench of the night."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING, Any

from autotune import aims, pace
from autotune.clock import TimeUp
from autotune.confirm.contender import contenders
from autotune.confirm.contest import Verdict
from autotune.confirm.order import BASELINE, looks, place
from autotune.errors import StorageError
from autotune.faults import insist, quarantined, spoilt
from autotune.score import BEHIND
from autotune.standing import provable, standings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from autotune.clock import Clock
    from autotune.events import Events
    from autotune.pace import Wait
    from autotune.plan import Plan
    from autotune.result import TrialResult
    from autotune.spec import Proof as ProofSpec
    from autotune.spec import StudySpec
    from autotune.store import Shelf, Store
    from autotune.trial import Bench


UP = "the time that was kept for the proof is up"


def finalists(
    results: Sequence[TrialResult], most: int, ranked: Sequence[Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """So many of what can be proved, best first; see `standing.provable`."""
    return [one.params for one in islice(provable(results, ranked), most)]


def verdict(store: Store, rules: ProofSpec) -> Verdict | None:
    """What the proof of a study says that counts: the last with enough blocks, or else the last one.

    None where there was none, or none that has not run on a device that was lost since. Raises `StorageError`.
    """
    lost = quarantined(store)
    sound = [number for number in range(store.proofs()) if not spoilt(store.proof(number), lost)]
    every = [_verdict(store, number, rules) for number in reversed(sound)]
    return next((one for one in every if one.blocks >= rules.pairs), every[0] if every else None)


def _verdict(store: Store, number: int, rules: ProofSpec) -> Verdict:
    candidates, shelf = store.candidates(number), store.proof(number)
    found = contenders(candidates, shelf.results())
    if len({len(one.runs) for one in found}) > 1:
        raise StorageError(f"{shelf.folder}: damaged (runs of other configurations than proof.json has)")
    return Verdict(found, rules, number)


@dataclass
class Proof:
    """The runs of one proof, on the bench of the night."""

    bench: Bench
    number: int
    """Which proof of the study it is."""
    shelf: Shelf
    events: Events
    clock: Clock
    plan: Callable[[Mapping[str, Any]], Plan]
    candidates: list[dict[str, Any]]
    run_s: float
    """How long a run takes, as the search knows it."""
    results: list[TrialResult] = field(default_factory=list)

    @property
    def rules(self) -> ProofSpec:
        """What the study file says of it."""
        return self.bench.spec.proof

    @property
    def verdict(self) -> Verdict:
        """What the runs say so far."""
        return Verdict(contenders(self.candidates, self.results), self.rules, self.number)

    async def run(self) -> str:
        """Block after block until it is decided, or the time is up; says why it ended."""
        self.results = self.shelf.results()
        rules = self.rules
        self.events.show(
            {"what": "proof begins", "candidates": self.candidates, "pairs": rules.pairs, "pairs_max": rules.pairs_max}
        )
        with self.bench.proving(self.number, self.shelf.keep_logs):
            return await self._blocks()

    async def _blocks(self) -> str:
        while not (over := self._over()):
            number = len(self.results)
            block, candidate = place(number, len(self.candidates))
            where = {"number": number, "block": block, "candidate": candidate}
            try:
                result = await self._run(where, self.candidates[candidate])
            except TimeUp:
                return f"{UP}; a run took longer than expected and was given up"
            self.results.append(result)
            self.events.note(
                "proved", number=number, proof=self.number, reason=result.reason, objective=result.score.objective
            )
            self.events.show({"what": "run", **where, "result": result, **asdict(self.left())})
            self.events.show(self.clock.event())
        return over

    async def _run(self, where: dict[str, int], params: dict[str, Any]) -> TrialResult:
        number, plan = where["number"], self.plan(params)
        self.bench.brief, self.bench.block = self._brief(number), where["block"]
        self.shelf.write_plan(number, params, plan, self.bench.provenance)
        self.events.show({"what": "run begins", **where, "params": params, "plan": plan})
        result, records = await insist(
            self.events,
            lambda: self.clock.bound(lambda: self.bench.trial(number, params, plan)),
            self.bench.cluster.clear,
        )

        async def keep() -> None:
            with self.events.span("collect", number=number, proof=self.number):
                self.shelf.save(result, records)

        await insist(self.events, keep)
        return result

    def _over(self) -> str:
        """Why the proof ends here; empty while it goes on."""
        blocks, begun = divmod(len(self.results), len(self.candidates))
        if not begun and (blocks in looks(self.rules) or blocks > self.rules.pairs_max):
            verdict = self.verdict
            self.events.show({"what": "proof look", "blocks": blocks, "verdict": verdict})
            if verdict.decided:
                return f"decided after {blocks} blocks"
            if blocks >= self.rules.pairs_max:
                return f"all {blocks} blocks are done"
        left, took_s = self.clock.left_s(), self._took_s(brief=self._brief(len(self.results)))
        expected = median(took_s)
        longest = expected if self.clock.until is None else pace.of(took_s).latest_s(expected)
        return UP if left is not None and left < longest else ""

    def left(self) -> Wait:
        """How long until the next look, or until the time is up."""
        blocks = next((look for look in looks(self.rules) if look * len(self.candidates) > len(self.results)), 0)
        briefs = [self._brief(number) for number in range(len(self.results), blocks * len(self.candidates))]
        waits = [pace.of(self._took_s(brief=brief)).wait(briefs.count(brief)) for brief in sorted(set(briefs))]
        wait_s, left = sum(wait.left_s for wait in waits), self.clock.left_s()
        if left is None or wait_s <= left:
            return pace.Wait(wait_s, sum(wait.left_error_s for wait in waits))
        took_s = self._took_s(brief=self._brief(len(self.results)))
        return pace.Wait(max(left, 0.0), pace.of(took_s).wait(1).left_s / 2)

    def _brief(self, number: int) -> bool:
        """Whether a run is without the levels that decide nothing: after the first block, if all went well there."""
        first = self.results[: len(self.candidates)]
        return number >= len(self.candidates) and all(map(self._went_well, first))

    def _went_well(self, run: TrialResult) -> bool:
        spec, missed = self.bench.spec, [name for name, value in run.score.constraints.items() if value > 0]
        idle = tuple(f" at {level.label}" for level in spec.workload.levels if not aims.decides(spec, level))
        return run.measured and not any(name.endswith(idle) for name in missed)

    def _took_s(self, *, brief: bool) -> list[float]:
        """Of the runs so far that were, or were not, brief; before there are any, what the search says of both."""
        alike = [one.seconds for number, one in enumerate(self.results) if self._brief(number) == brief]
        return alike or [self.run_s]


def chosen(
    store: Store,
    spec: StudySpec,
    results: Sequence[TrialResult],
    left_s: float | None,
    ranked: Sequence[Mapping[str, Any]] | None = None,
) -> tuple[list[dict[str, Any]], str]:
    """The candidates of the proof to run now, the baseline first; or none, and why there is nothing to prove.

    A proof that was begun goes on, if the search still says the same. Of a new one the candidates are as many as can
    have `proof.pairs` blocks in `left_s`. `ranked` as for `finalists`.
    """
    best = finalists(results, spec.proof.finalists, ranked)
    if not best:
        return [], _nothing(spec, results)
    if known := begun(store, spec, results, left_s, ranked):
        return known, ""
    fitting = _fitting(spec, results, left_s)
    if fitting < 1:
        needed = 2 * spec.proof.pairs * expected_s(spec, results)
        takes = f"{needed / 60:.0f} min" if needed >= 90 else f"{needed:.0f} s"
        return [], f"no time was left for a proof, which needs about {takes}"
    return [results[BASELINE].params, *best[:fitting]], ""


def _fitting(spec: StudySpec, results: Sequence[TrialResult], left_s: float | None) -> int:
    """How many finalists can have `proof.pairs` blocks in the time that is left."""
    most = spec.proof.finalists
    return most if left_s is None else min(most, int(left_s / (spec.proof.pairs * expected_s(spec, results))) - 1)


def _nothing(spec: StudySpec, results: Sequence[TrialResult]) -> str:
    if not spec.proof.finalists:
        return "no proof was asked for (proof.finalists = 0)"
    return nothing_else(results) if any(result.score.feasible for result in results) else ""


def nothing_else(results: Sequence[TrialResult]) -> str:
    """Why there is nothing to prove where something, as the baseline, meets the limits."""
    every = standings(results)
    if len(every) == 1:
        return "nothing but the baseline was measured"
    if sum(one.feasible for one in every) > 1:
        return "nothing else is likely to meet the limits"
    beaten = ", or was as good" if any(BEHIND in result.score.constraints for result in results) else ""
    few = ", or is known to" if any(one.undecided for one in every) else ""
    return f"nothing else met the limits{beaten}{few}"


def begun(
    store: Store,
    spec: StudySpec,
    results: Sequence[TrialResult],
    left_s: float | None,
    ranked: Sequence[Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """The candidates of the last proof, if those are still the best of the search; else none.

    None either where more are asked for now than then, there are more, and `left_s` is enough for more; or where fewer
    are asked for now, and it is not decided.
    """
    known, asked = _last(store) if results else [], spec.proof.finalists
    if not known or not asked:
        return []
    last, had = store.proofs() - 1, len(known) - 1
    best = finalists(results, max(asked, had), ranked)
    if known != [results[BASELINE].params, *best[:had]]:
        return []
    if asked < had:
        return known if _verdict(store, last, spec.proof).decided else []
    then = store.asked(last)
    more = then is not None and then < asked and had < min(len(best), _fitting(spec, results, left_s))
    return [] if more else known


def _last(store: Store) -> list[dict[str, Any]]:
    """The candidates of the last proof; none where there was none, or a device on which it ran was lost since."""
    last = store.proofs() - 1
    return [] if last < 0 or spoilt(store.proof(last), quarantined(store)) else store.candidates(last)


def begin(store: Store, candidates: list[dict[str, Any]], asked: int) -> int:
    """The number of the proof of these candidates: of the last one, if it goes on, or of a new one.

    So many finalists are `asked` for, of which there may not be as many, or no time for them.
    """
    return store.proofs() - 1 if _last(store) == candidates else store.begin_proof(candidates, asked)


def expected_s(spec: StudySpec, results: Sequence[TrialResult]) -> float:
    """How long a run of the fewest blocks takes, from the trials that could be measured; s."""
    return median(aims.run_s(spec, result) for result in results if result.measured)
