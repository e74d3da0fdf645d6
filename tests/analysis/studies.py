"""Study folders as nights leave them, written by hand: with records, plans, a proof and an event log."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autotune import aims
from autotune import plan as plans
from autotune.benchmark.phases import Look
from autotune.cluster.verify import Placement
from autotune.confirm import place
from autotune.metrics import COLD_S, measure
from autotune.ollama.api import ServerFacts
from autotune.records import Outcome, RequestRecord
from autotune.score import judge, judge_capacity
from autotune.store import Store
from tests.conftest import TINY, gpus, study
from tests.factories import BASELINE, LIMIT, PROVENANCE, params, result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from autotune.metrics import Metrics
    from autotune.plan import Plan
    from autotune.result import TrialResult
    from autotune.spec import StudySpec
    from autotune.stats import Decision
    from autotune.store import Shelf

FAST = params(4, "0 | 1", policy="least_conn")
LEAN = params(2, "0 | 1", policy="least_conn")
BROKEN = params(32)
WINDOW = (100.0, 110.0)
MIXED: dict[str, Any] = {"levels": [2, {"rate": 2.0}]}


def spec(**changes: Mapping[str, Any]) -> StudySpec:
    """A simulated study of two loads, with a limit of 2 s on the mean TTFT of the second."""
    tables: dict[str, Any] = {"objective": {"limits": [LIMIT]}, "workload": MIXED}
    return study(**{**tables, **changes})


@dataclass
class Written:
    """A study in the making."""

    path: Path
    spec: StudySpec

    def __post_init__(self) -> None:
        self.store = Store(self.path)
        self.store.open(self.spec, "# the study file\n")
        self.now_s = 1000.0

    def plan(self, chosen: Mapping[str, Any]) -> Plan:
        return plans.make(self.spec, gpus(), ServerFacts("0.32.15", TINY), chosen, (self.path, self.path))

    def trial(self, chosen: Mapping[str, Any], wait_s: float = 0.5, reason: str = "", *, told: bool = True) -> None:
        """The next one of the search; `told`: whether answers say who gave them."""
        self._add(self.store.trials, len(self.store.trials.results()), chosen, wait_s, reason, told=told)

    def beside(self, chosen: Mapping[str, Any], *users: int) -> None:
        """The next one of the search, which was loaded with so many users as well."""
        number, plan = len(self.store.trials.results()), self.plan(chosen)
        loads = [requests(plan, 0.5 + at / 10) for at in range(len(self.spec.workload.levels) + len(users))]
        told = self._result(number, chosen, plan, loads[: -len(users)], "")
        curve = {f"{count} users": self._measured(records) for count, records in zip(users, loads[2:], strict=True)}
        windows = {**told.windows, **dict.fromkeys(curve, WINDOW)}
        self._keep(replace(told, curve=curve, windows=windows), plan, loads)

    def climb(self, chosen: Mapping[str, Any], tried: Mapping[float, Decision], low: float) -> None:
        """The next one of the search for a capacity: the loads that it tried, and which of them held."""
        number, plan = len(self.store.trials.results()), self.plan(chosen)
        loads = [requests(plan, 3.0 if said == "violated" else 0.5) for said in tried.values()]
        labels = {aims.at_load(self.spec, load).label: load for load in tried}
        paced = self.spec.level(None).rate is not None
        levels = {label: self._measured(one, open_loop=paced) for label, one in zip(labels, loads, strict=True)}
        at = next((label for label, load in labels.items() if load == low), next(iter(labels)))
        told = result(
            number, chosen, spec=self.spec, fingerprint=plan.fingerprint, levels=levels, unit=aims.unit(self.spec),
            score=judge_capacity(self.spec, low, levels), windows=dict.fromkeys(labels, WINDOW), at=at,
            tried=tuple(tried.items()),
            placements=tuple(placement(one.name, plan.num_parallel) for one in plan.instances),
        )  # fmt: skip
        self._keep(told, plan, loads)

    def drop(self, chosen: Mapping[str, Any], why: str) -> None:
        """The next one of the search, which ended in the first of its loads, that of the objective."""
        number, plan, objective = len(self.store.trials.results()), self.plan(chosen), self.spec.level(None)
        loads = [requests(plan, 3.0) if level == objective else [] for level in self.spec.workload.levels]
        first = objective.label
        levels = {first: self._measured(next(filter(None, loads)), open_loop=objective.rate is not None)}
        looks = {first: Look(enough=False, sunk=True, dropped=True, beaten=True)}
        score = judge(self.spec, levels, looks)
        told = result(
            number, chosen, spec=self.spec, fingerprint=plan.fingerprint, levels=levels, looks=looks, score=score,
            windows={first: WINDOW}, placements=(placement(plan.instances[0].name, plan.num_parallel),), dropped=why,
        )  # fmt: skip
        self._keep(told, plan, loads)

    def _keep(self, told: TrialResult, plan: Plan, loads: list[list[RequestRecord]]) -> None:
        self.store.trials.write_plan(told.number, told.params, plan, PROVENANCE)
        self.store.trials.save(told, loads)

    def _measured(self, records: list[RequestRecord], *, open_loop: bool = False) -> Metrics:
        start, end = WINDOW
        cold_s = COLD_S * self.spec.cluster.time_scale
        return measure(records, window_start=start, window_end=end, open_loop=open_loop, cold_s=cold_s)

    def prove(self, candidates: Sequence[dict[str, Any]], waits_s: Sequence[float], runs: int) -> None:
        """So many runs of the proof of these candidates."""
        proof = self.store.begin_proof(candidates)
        shelf = self.store.proof(proof)
        for number in range(len(shelf.results()), runs):
            at = place(number, len(candidates))[1]
            self._add(shelf, number, candidates[at], waits_s[at] + number / 1000, proof=proof)

    def begin(self) -> None:
        """Another night begins, on a clock of its own."""
        self.now_s = 5.0
        self.note("night begins")

    def note(self, what: str, **fields: Any) -> None:
        """An event."""
        at = f"2026-01-01T22:{int(self.now_s) // 60 % 60:02}:{self.now_s % 60:09.6f}+00:00"
        with self.store.events.open("a") as log:
            log.write(json.dumps({"at": at, "t": self.now_s, "what": what, **fields}) + "\n")

    def spans(self, number: int, **fields: Any) -> None:
        """The stages of a trial, a second each."""
        labels = [{"label": level.label} for level in self.spec.workload.levels]
        for what, told in (("start", {}), ("preload", {}), ("verify", {}), *(("load", one) for one in labels)):
            self.note(f"{what} begins", number=number, **told, **fields)
            self.now_s += 1
            self.note(what, number=number, **told, seconds=1.0, **fields)
        self.note("collect", number=number, seconds=0.0, **fields)

    def _add(
        self,
        shelf: Shelf,
        number: int,
        chosen: Mapping[str, Any],
        wait_s: float,
        reason: str = "",
        *,
        told: bool = True,
        proof: int | None = None,
    ) -> None:
        plan = self.plan(chosen)
        loads = [] if reason else [requests(plan, wait_s, told=told) for _ in self.spec.workload.levels]
        shelf.write_plan(number, dict(chosen), plan, PROVENANCE)
        shelf.save(self._result(number, chosen, plan, loads, reason), loads)
        self.spans(number, **({} if proof is None else {"proof": proof}))

    def _result(
        self, number: int, chosen: Mapping[str, Any], plan: Plan, loads: list[list[RequestRecord]], reason: str
    ) -> TrialResult:
        if reason:
            return result(number, chosen, reason=reason, spec=self.spec, fingerprint=plan.fingerprint)
        levels = {
            level.label: self._measured(records, open_loop=level.rate is not None)
            for level, records in zip(self.spec.workload.levels, loads, strict=True)
        }
        return result(
            number,
            chosen,
            spec=self.spec,
            fingerprint=plan.fingerprint,
            levels=levels,
            score=judge(self.spec, levels),
            windows=dict.fromkeys(levels, WINDOW),
            placements=tuple(placement(one.name, plan.num_parallel) for one in plan.instances),
        )


def requests(plan: Plan, wait_s: float, *, told: bool = True) -> list[RequestRecord]:
    """Two users from 5 s before the window on, both at the first instance; each answer takes a second."""
    found: list[RequestRecord] = []
    for user in range(2):
        asked = WINDOW[0] - 5 + user / 10
        while asked < WINDOW[1]:
            found.append(request(len(found), asked, wait_s, plan.instances[0].address if told else ""))
            asked += wait_s + 1.05
    return found


def request(index: int, asked: float, wait_s: float, upstream: str = "") -> RequestRecord:
    """One that was written 50 ms later than it should have been, and had eight pieces of text."""
    first = asked + 0.05 + wait_s
    times = tuple(first + piece / 8 for piece in range(8))
    return RequestRecord(
        index=index,
        intended_at=asked,
        outcome=Outcome.OK,
        written_at=asked + 0.05,
        first_content_at=first,
        finished_at=first + 1,
        chunk_times=times,
        status=200,
        upstream=upstream,
        input_chars=40,
        input_hash="a",
        output_chars=32,
        output_hash="b",
        done_reason="length",
        prompt_eval_count=8,
        eval_count=8,
        total_duration_s=wait_s + 1,
        prompt_eval_duration_s=0.01,
        eval_duration_s=0.9,
    )


def placement(instance: str, slots: int) -> Placement:
    """All of it on the GPU."""
    return Placement(
        instance=instance,
        on_gpu=True,
        compute=("CUDA0",),
        layers_on_device=8,
        layers=8,
        size_bytes=900 << 20,
        size_vram_bytes=900 << 20,
        num_parallel=slots,
        parallel_unsupported=False,
        context_length=1024,
    )


def whole(path: Path, **changes: Mapping[str, Any]) -> Written:
    """The baseline misses the limit, one configuration does not run, two are feasible and the faster one is proved."""
    made = Written(path, spec(**changes))
    made.begin()
    made.trial(BASELINE, 3.0)
    made.trial(FAST, 0.4)
    made.trial(BROKEN, reason="load_failed")
    made.trial(LEAN, 0.6)
    made.prove([dict(BASELINE), FAST], [3.0, 0.4], runs=9)
    return made
