"""A night as far as it is known: events go in, and what is shown is read from here."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from autotune import aims, clock
from autotune.console.spark import Track
from autotune.report.answers import proved
from autotune.report.words import configuration, gain, objective, span, verdict
from autotune.standing import on_front, standings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from autotune.ground import Ground
    from autotune.plan import Plan
    from autotune.result import TrialResult
    from autotune.spec import StudySpec
    from autotune.standing import Standing
    from autotune.telemetry import DeviceSample

Kind = Literal["feasible", "misses", "failed"]

STAGES = {
    "start": "restarting what differs",
    "preload": "loading the model",
    "verify": "checking placement and slots",
    "warm-up": "warm-up",
    "window": "window",
    "drain": "drain",
    "collect": "saving",
}
"""What a trial goes through, in this order; warm-up, window and drain once for each load."""
LOADED = ("warm-up", "window", "drain")
MOST_DOUBTS = 4


def kind(result: TrialResult) -> Kind:
    """What became of a trial, in a word."""
    if not result.measured:
        return "failed"
    return "feasible" if result.score.feasible else "misses"


USUAL_STEPS = 8
"""Of a search for a capacity."""


def estimate_s(spec: StudySpec, *, brief: bool = False) -> float:
    """How long a trial takes, as far as the study file says: half a minute to restart and load, then its loads.

    A brief one has only those that decide something, as all runs of a proof after its first block.
    """
    work = spec.workload
    levels = [level for level in work.levels if not brief or aims.decides(spec, level)]
    loads = USUAL_STEPS if spec.objective.metric == "capacity" else len(levels)
    return (30 + loads * (work.warmup_s + work.window_s + work.drain_s / 4)) / spec.cluster.time_scale


@dataclass(frozen=True, slots=True)
class Block:
    """A trial or a run of the proof that is over, on the view's clock."""

    begin_s: float
    end_s: float
    kind: Kind
    number: int
    proof: bool


@dataclass(frozen=True, slots=True)
class Stage:
    """What is being done."""

    name: str
    """A key of `STAGES`, or words."""
    began_s: float
    planned_s: float | None = None
    """How long it took the last time."""


@dataclass
class Proof:
    """The proof of the night, as far as it is."""

    candidates: Sequence[Mapping[str, Any]]
    pairs: int
    pairs_max: int
    began_s: float
    block: int = 0
    runs: list[tuple[int, TrialResult]] = field(default_factory=list)
    """Candidate and result of each."""
    sentence: str = ""

    @property
    def title(self) -> str:
        """Where it is."""
        most = f"{self.pairs}..{self.pairs_max}" if self.pairs_max > self.pairs else f"{self.pairs}"
        return f"proof, block {self.block + 1} of {most}"

    def of(self, candidate: int) -> list[TrialResult]:
        """The runs of one candidate; 0 is the baseline."""
        return [result for which, result in self.runs if which == candidate]


class Scene:
    """All that the live view shows. Times are the view's own clock."""

    def __init__(self, spec: StudySpec, earlier: Iterable[TrialResult], now_s: float) -> None:
        self.spec = spec
        self.results = list(earlier)
        self.standings: list[Standing] = standings(self.results)
        self.ground: Ground | None = None
        self.plan: Plan | None = None
        self.samples: tuple[DeviceSample, ...] = ()
        self.subject = ""
        self.stage = Stage("getting ready", now_s)
        self.track: Track | None = None
        self.blocks: list[Block] = []
        self.proof: Proof | None = None
        self.doubts: deque[tuple[str, str]] = deque(maxlen=MOST_DOUBTS)
        """The latest cautions and faults, each with its mark."""
        self.began_s = now_s
        self.turn_s = now_s
        """Begin of the trial or run in progress."""
        self.search_ends_s: float | None = None
        self.proof_ends_s: float | None = None
        self.deadline_s: float | None = None
        self.error_s: float | None = None
        """Of what ends next, the search or the proof."""
        self._took_s: dict[str, float] = {}
        self._seen = [(clock.wall(), now_s)]
        """The time of day on the view's clock, anew with every end that is told: a host may sleep, a clock be set."""
        self._see: dict[str, Callable[[dict[str, Any], float], None]] = {
            "ground": self._on_ground,
            "time": self._on_time,
            "trial begins": self._on_begin,
            "load begins": self._on_load,
            "progress": self._on_progress,
            "devices": self._on_devices,
            "result": self._on_result,
            "fault": self._on_fault,
            "apart": self._on_apart,
            "quarantine": self._on_quarantine,
            "retry": self._on_retry,
            "proof begins": self._on_proof,
            "run begins": self._on_begin,
            "run": self._on_run,
            "proof look": self._on_look,
            "night": self._on_end,
        }

    def see(self, event: dict[str, Any], now_s: float) -> None:
        """Take an event. One that is not known, or says less than usual, changes less."""
        what = str(event["what"])
        if what in self._see:
            self._see[what](event, now_s)
        elif what in STAGES:
            self._took_s[what] = event.get("seconds", 0.0)
        elif (stage := what.removesuffix(" begins")) in STAGES:
            self.stage = Stage(stage, now_s, self._took_s.get(stage))
        if event.get("error") == "CancelledError":
            self.stage = Stage("interrupted: everything is put away", now_s)

    def wall(self, at_s: float) -> datetime:
        """The time of day at a moment of the view's clock, as it was read last before."""
        then, seen_s = next((seen for seen in reversed(self._seen) if seen[1] <= at_s), self._seen[0])
        return (then + timedelta(seconds=at_s - seen_s)).astimezone()

    # what events change

    def _on_ground(self, event: dict[str, Any], _: float) -> None:
        self.ground = event["ground"]

    def _on_time(self, event: dict[str, Any], now_s: float) -> None:
        self._look(now_s)
        self.began_s = now_s - event["elapsed_s"]
        if event["total_s"] is not None:
            self.deadline_s = self.began_s + event["total_s"]
        if event["search_left_s"] is not None and self.search_ends_s is None:
            self.search_ends_s = now_s + event["search_left_s"]

    def _on_begin(self, event: dict[str, Any], now_s: float) -> None:
        number, params = event["number"], configuration(event["params"])
        self.turn_s, self.track, self.plan = now_s, None, event.get("plan")
        self.stage = Stage("getting ready", now_s)
        name = _name(number)
        if self.proof is not None and "block" in event:
            self.proof.block = event["block"]
            name = candidate_name(event["candidate"])
        self.subject = f"{name}: {params}"

    def _on_load(self, event: dict[str, Any], now_s: float) -> None:
        work = self.spec.workload
        self.track = Track(str(event.get("label", "")), work.warmup_s + work.window_s + work.drain_s / 4)
        self.stage = Stage("warm-up", now_s)

    def _on_progress(self, event: dict[str, Any], now_s: float) -> None:
        if self.track is None or self.track.label != event["label"]:
            self._on_load(event, now_s)
        assert self.track is not None
        self.track.add(event["progress"])
        self.stage = Stage(event["progress"].stage, now_s)

    def _on_devices(self, event: dict[str, Any], _: float) -> None:
        self.samples = event["samples"]

    def _on_result(self, event: dict[str, Any], now_s: float) -> None:
        result: TrialResult = event["result"]
        self.results.append(result)
        self.standings = standings(self.results)
        left_s = event.get("left_s")
        self.search_ends_s = None if left_s is None else now_s + left_s
        self.error_s = event.get("left_error_s")
        self._over(result, result.number, now_s, _name(result.number))

    def _on_run(self, event: dict[str, Any], now_s: float) -> None:
        result: TrialResult = event["result"]
        if self.proof is not None:
            self.proof.runs.append((event["candidate"], result))
        left_s = event.get("left_s")
        self.proof_ends_s = None if left_s is None else now_s + left_s
        self.error_s = event.get("left_error_s")
        self._over(result, event["number"], now_s, f"block {event['block'] + 1} of the proof")

    def _look(self, now_s: float) -> None:
        self._seen.append((clock.wall(), now_s))

    def _over(self, result: TrialResult, number: int, now_s: float, name: str) -> None:
        self._look(now_s)
        self.blocks.append(Block(self.turn_s, now_s, kind(result), number, self.proof is not None))
        self.turn_s = now_s
        if not result.measured:
            self._doubt("×", f"{name}: {verdict(result)}")
        for caution in result.cautions:
            self._doubt("!", f"{name}: {caution}")

    def _on_fault(self, event: dict[str, Any], _: float) -> None:
        self._doubt("×", f"fault of the machine: {event['error']}")

    def _on_apart(self, event: dict[str, Any], _: float) -> None:
        self._doubt("!", f"without Optuna's file: {event['said']}")

    def _on_quarantine(self, event: dict[str, Any], _: float) -> None:
        self._doubt("×", f"left out from now on: {event['said']}")

    def _on_retry(self, event: dict[str, Any], _: float) -> None:
        self._doubt("×", f"the baseline did not run: {event['result'].message}")

    def _doubt(self, mark: str, text: str) -> None:
        self.doubts.append((mark, " ".join(text.split())))

    def _on_proof(self, event: dict[str, Any], now_s: float) -> None:
        self.proof = Proof(event["candidates"], event["pairs"], event["pairs_max"], now_s)
        self.turn_s, self.error_s = now_s, None

    def _on_look(self, event: dict[str, Any], _: float) -> None:
        if self.proof is not None:
            self.proof.sentence = proved(event["verdict"])

    def _on_end(self, _: dict[str, Any], now_s: float) -> None:
        self.stage, self.plan = Stage("putting everything away", now_s), None

    # what follows from it

    @property
    def run_s(self) -> float:
        """How long a trial takes."""
        return fmean(result.seconds for result in self.results) if self.results else estimate_s(self.spec)

    @property
    def boundary_s(self) -> float:
        """When the search ends, or ended."""
        if self.proof is not None:
            return self.proof.began_s
        if self.search_ends_s is not None:
            return self.search_ends_s
        trials = self.spec.budget.trials or 1
        return self.began_s + self.run_s * max(trials - len(self.results), 1)

    @property
    def end_s(self) -> float:
        """When the night ends: its deadline, or when everything is expected to be done."""
        if self.deadline_s is not None:
            return self.deadline_s
        if self.proof_ends_s is not None:
            return self.proof_ends_s
        candidates = len(self.proof.candidates) if self.proof else self.spec.proof.finalists + 1
        runs = candidates * self.spec.proof.pairs if candidates > 1 else 0
        return self.boundary_s + runs * self.run_s

    def progress(self, now_s: float) -> str:
        """How far the night is."""
        trials, done = self.spec.budget.trials, len(self.results)
        if self.proof is not None:
            said, part, ends_s = f"{done} trials; proof: {len(self.proof.runs)} runs", "", self.proof_ends_s
        else:
            said, part, ends_s = (
                f"{done} of {trials} trials" if trials else f"{done} trials",
                "search ",
                self.search_ends_s,
            )
        if ends_s is None:
            return said
        error = f" ± {_rough(self.error_s)}" if self.error_s else ""
        return f"{said}, {part}ends in about {span(max(ends_s - now_s, 0.0))}{error} ({self.wall(ends_s):%H:%M})"

    def headline(self) -> str:
        """The best so far, in figures."""
        if not self.results:
            return "nothing measured yet"
        best = self.standings[0]
        if not best.feasible:
            return "nothing feasible so far"
        told = f"{objective(best.objective, best.results[-1])}{gain(best, self.results)}"
        front = len(on_front(self.standings))
        return f"{front} on the front so far, the fastest {told}" if front else f"best so far {told}"

    def best(self) -> str:
        """The same with its configuration."""
        found = bool(self.results) and self.standings[0].feasible
        return self.headline() + (f": {configuration(self.standings[0].params)}" if found else "")


def _rough(seconds: float) -> str:
    """An error: no finer than it is known."""
    minutes = round(seconds / 60)
    return span(60 * minutes) if minutes >= 60 else f"{minutes} min" if minutes >= 5 else span(seconds)


def _name(number: int) -> str:
    return f"trial {number}" if number else "baseline"


def candidate_name(candidate: int) -> str:
    """Who runs in a proof."""
    return f"finalist {candidate}" if candidate else "baseline"
