"""A study folder becomes a frozen `Study`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune import aims, confirm, events
from autotune.confirm import BASELINE, Kind
from autotune.errors import StorageError
from autotune.metrics import Metrics, Window, measure
from autotune.result import TOKENS_PER_S
from autotune.spec import load as load_spec
from autotune.standing import standings
from autotune.store import Store

if TYPE_CHECKING:
    from autotune.confirm import Verdict
    from autotune.plan import Provenance
    from autotune.records import RequestRecord
    from autotune.result import TrialResult
    from autotune.spec import Level, StudySpec
    from autotune.store import Shelf

SEARCH, PROOF = "search", "proof"


@dataclass(frozen=True)
class Run:
    """One trial, and where it belongs."""

    phase: str
    """Search or proof."""
    result: TrialResult
    shelf: Shelf
    block: int | None = None
    candidate: int | None = None
    """Its place among the candidates of the proof, the baseline's is 0."""


@dataclass(frozen=True)
class Study:
    """What a study folder tells. Records and plans stay on the disk until they are asked for."""

    store: Store
    spec: StudySpec
    """As the study ran."""
    header: dict[str, Any]
    """study.json: with the text of the study file."""
    results: tuple[TrialResult, ...]
    """The trials of the search, the baseline first; at least that one."""
    candidates: tuple[dict[str, Any], ...]
    """Parameters of what the proof compares, the baseline first; empty without a proof."""
    proof: tuple[TrialResult, ...]
    """All runs of the proof that counts, also those of a block that is not complete."""
    verdict: Verdict | None
    """What they say; None without a proof."""
    events: tuple[dict[str, Any], ...]

    @property
    def name(self) -> str:
        """What the study is called."""
        return self.spec.study.name

    @property
    def simulated(self) -> bool:
        """Whether its figures are those of a played host."""
        return self.spec.cluster.simulated

    @property
    def provenance(self) -> Provenance:
        """What the baseline ran on: versions, host, model, devices. Raises `StorageError`."""
        return self.store.trials.provenance(BASELINE)

    @property
    def level(self) -> str:
        """Label of the level at which the objective is taken."""
        return self.spec.level(None).label

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every trial: those of the search, then those of the proof."""
        searched = [Run(SEARCH, result, self.store.trials) for result in self.results]
        shelf = self.store.proof(self.verdict.number if self.verdict else 0)
        proved = [Run(PROOF, result, shelf, *self.place(result.number)) for result in self.proof]
        return (*searched, *proved)

    def place(self, number: int) -> tuple[int, int]:
        """Block and candidate of a run of the last proof."""
        return confirm.place(number, len(self.candidates))

    @property
    def best(self) -> dict[str, Any]:
        """Parameters of what the proof recommends, of a front those of the most tokens/s; without a proof that has said
        anything, of the search's best."""
        if self.verdict is not None and self.verdict.kind is Kind.FRONT:
            return self.verdict.contenders[self.verdict.front.points[0]].params
        if self.verdict is not None and self.verdict.kind is not Kind.UNPROVED:
            return self.verdict.contenders[self.verdict.recommended].params
        return standings(self.results)[0].params

    @property
    def proved(self) -> bool:
        """Whether the best was proved to be better than the baseline."""
        return self.verdict is not None and self.verdict.kind in {Kind.WINNER, Kind.FRONT}

    @property
    def baseline(self) -> TrialResult:
        """Trial 0: what ran before."""
        return self.results[BASELINE]

    @property
    def unit(self) -> str:
        """Of the objective."""
        return aims.unit(self.spec)

    @property
    def capacity(self) -> bool:
        """Whether the objective is a load, and no output."""
        return self.unit != TOKENS_PER_S

    def at(self, result: TrialResult) -> str:
        """Label of the level of a trial at which its objective was taken: of a capacity the largest load that held."""
        return result.at or self.level

    def levels(self, result: TrialResult) -> tuple[Level, ...]:
        """The loads that a trial is for: those of the workload, or of a search for a capacity."""
        return tuple(aims.at_load(self.spec, load) for load, _ in result.tried) or self.spec.workload.levels

    def beside(self, result: TrialResult) -> tuple[Level, ...]:
        """The short loads of other numbers of users, besides its levels."""
        return tuple(aims.beside(self.spec, [int(label.removesuffix(" users")) for label in result.curve]))

    def window(self, run: Run, level: Level) -> Window | None:
        """The measurement window of one load; None where it could not be measured."""
        bounds = run.result.windows.get(level.label)
        return Window(*bounds, open_loop=level.users is None, cold_s=aims.cold_s(self.spec)) if bounds else None

    def loads(self, run: Run) -> list[tuple[Level, Window, list[RequestRecord]]]:
        """The loads of a trial that could be measured, with their stored records: levels, then what was loaded beside.

        Raises `StorageError`.
        """
        every = (*self.levels(run.result), *self.beside(run.result))
        windows = [(at, level, self.window(run, level)) for at, level in enumerate(every)]
        return [(level, window, run.shelf.records(run.result.number, at)) for at, level, window in windows if window]


Load = tuple[str, int, str]
"""What names a load: phase, number of the trial, label of the level."""


def load(path: str | Path) -> Study:
    """Open a study by its folder or by its study file.

    Raises `SpecError` for a study file that cannot be read, and `StorageError` for a study that is not there, has no
    finished trial yet, is damaged, or is of a newer version.
    """
    store = Store(_folder(Path(path)))
    spec, results = store.spec(), store.trials.results()
    if not results:
        raise StorageError(f"{store.folder}: no trial of this study has finished yet")
    verdict = confirm.verdict(store, spec.proof)
    return Study(
        store=store,
        spec=spec,
        header=store.header() or {},
        results=tuple(results),
        candidates=tuple(one.params for one in verdict.contenders) if verdict else (),
        proof=tuple(store.proof(verdict.number).results()) if verdict else (),
        verdict=verdict,
        events=tuple(events.read(store.events)),
    )


def _folder(path: Path) -> Path:
    """Results lie beside the study file, in a folder of the study's name."""
    return path.parent / load_spec(path).study.name if path.suffix == ".toml" and not path.is_dir() else path


def stored(study: Study) -> dict[Load, Metrics]:
    """The metrics of every load, as the trial has kept them."""
    return {
        (run.phase, run.result.number, label): metrics
        for run in study.runs
        for label, metrics in {**run.result.levels, **run.result.curve}.items()
    }


def recomputed(study: Study) -> dict[Load, Metrics]:
    """The metrics of every load, computed again from its records: equal to `stored` to the last bit.

    Raises `StorageError` where records are missing or damaged.
    """
    return {
        (run.phase, run.result.number, level.label): measure(
            records,
            window_start=window.start,
            window_end=window.end,
            open_loop=window.open_loop,
            cold_s=window.cold_s,
        )
        for run in study.runs
        for level, window, records in study.loads(run)
    }
