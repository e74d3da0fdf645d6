"""`autotune profile`: from a finished study to a hardware profile, and how well that reproduces it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from autotune.errors import StorageError, UsageError
from autotune.events import Events, read
from autotune.files import write
from autotune.rehearsal.bench import bench
from autotune.rehearsal.fit import UNKNOWN, Figure, fit
from autotune.rehearsal.host import host, played
from autotune.rehearsal.light import NOWHERE
from autotune.rehearsal.page import Found, page
from autotune.rehearsal.sightings import sightings
from autotune.rehearsal.sizes import Sizes, sizes
from autotune.rehearsal.truth import silent
from autotune.simulator.clock import run_virtual
from autotune.simulator.profiles import load_profile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autotune.metrics import Metrics
    from autotune.rehearsal.sightings import Sighting
    from autotune.result import TrialResult
    from autotune.spec import StudySpec
    from autotune.store import Shelf, Store

WARM = 0.5
"""A load in less than this part of the first took the file from memory."""
FAR_OFF = 0.2
"""A median error of the output, in parts, beyond which a profile is no picture of its host."""
UNLIKE = (
    "that is another host than the study's, and no night rehearsed on it says anything: the study was too short, or its"
    " cluster.time_scale so high that steps could not be told apart"
)


@dataclass(frozen=True, slots=True)
class Errors:
    """How far the figures of a profile are from those that were measured, in parts of them: medians."""

    trials: int
    tps: float
    ttft: float

    @property
    def caution(self) -> str:
        """Why nothing is to be made of the profile; empty where something is."""
        return unlike(self.tps)


def unlike(tps: float) -> str:
    """Why nothing is to be made of a profile whose output is off by this part; empty where something is."""
    return UNLIKE if tps > FAR_OFF else ""


def make(store: Store, target: Path) -> Errors:
    """Fit a profile to the study in a folder, write it, and say how well it reproduces the study.

    Raises `UsageError` for a study that tells too little, `StorageError`.
    """
    spec, results = store.spec(), store.trials.results()
    measured = [result for result in results if result.measured and _whole(result)]
    if not measured:
        raise UsageError(f"{store.folder}: too few measured trials: 0")
    devices = store.trials.provenance(measured[0].number).devices
    kinds = {one.id: f"{one.name} {one.memory_bytes}" for one in devices}
    search = [seen for result in measured for seen in _seen(store.trials, spec, result, str(result.number))]
    try:
        fitted = fit(search, list(_proved(store, spec)), kinds)
    except UsageError as error:
        raise UsageError(f"{store.folder}: {error.message}") from error
    provenance = store.trials.provenance(measured[0].number)
    found = Found(spec, provenance, fitted, _sizes(store, measured), _loads(store, spec), _answers(measured), kinds)
    with TemporaryDirectory(prefix="autotune-") as folder:
        draft = Path(folder) / "profile.toml"
        draft.write_text(page(found), encoding="utf-8")
        errors = _errors(spec, draft, measured)
    write(target, page(found, errors))
    return errors


def _whole(result: TrialResult) -> bool:
    """Whether every layer was where it should be: the CPU's part would look like slowness."""
    return all(not one.on_gpu or one.share_on_device >= 1 for one in result.placements)


def _full(result: TrialResult) -> Iterator[tuple[str, Metrics]]:
    """The levels that were measured to their end: in a part of a load the answers that are over are the short ones."""
    for label, metrics in result.levels.items():
        look = result.looks.get(label)
        if look is None or not look.dropped:
            yield label, metrics


def _seen(shelf: Shelf, spec: StudySpec, result: TrialResult, name: str) -> Iterator[Sighting]:
    """What every load of a trial says: of one that was dropped those up to there, else the short ones, too."""
    plan, own = shelf.plan(result.number), [level.label for level in spec.workload.levels]
    labels = [*(result.levels if result.tried else own), *result.curve]
    for index, label in enumerate(labels):
        if label in result.levels or label in result.curve:
            yield from sightings(name, plan, shelf.records(result.number, index))


def _proved(store: Store, spec: StudySpec) -> Iterator[Sighting]:
    for number in range(store.proofs()):
        shelf = store.proof(number)
        for result in shelf.results():
            if result.measured and _whole(result):
                yield from _seen(shelf, spec, result, f"proof {number} run {result.number}")


def _sizes(store: Store, measured: Sequence[TrialResult]) -> Sizes:
    plans = {result.number: store.trials.plan(result.number) for result in measured}
    return sizes(
        (one, plans[result.number].num_ctx, str(result.params.get("kv_cache_type", "f16")), result.number)
        for result in measured
        for one in result.placements
        if len(next(each.devices for each in plans[result.number].instances if each.name == one.instance)) == 1
    )


def _loads(store: Store, spec: StudySpec) -> tuple[Figure, Figure]:
    """From the disk, and from memory: how long the loads of the event log took."""
    took = [
        (int(event["number"]), float(event["seconds"]) * spec.cluster.time_scale)
        for event in read(store.events)
        if event["what"] == "preload" and "error" not in event and "seconds" in event and "number" in event
    ]
    if not took:
        return Figure(10.0, UNKNOWN), Figure(3.0, UNKNOWN)
    first = took[0][1]
    later = [seconds for _, seconds in took[1:] if seconds > first / 100]
    warm = [seconds for seconds in later if seconds < WARM * first] or later
    cold = Figure(first, f"the first load, trial {took[0][0]}")
    return cold, Figure(median(warm), f"the median of {len(warm)} later loads") if warm else cold


def _answers(measured: Sequence[TrialResult]) -> tuple[Figure, Figure]:
    """The chance of every token to be the last, and how long answers are."""
    every = [metrics for result in measured for _, metrics in _full(result) if metrics.output_tokens]
    tokens = median(metrics.output_tokens or 0.0 for metrics in every) if every else 256.0
    ended = median(metrics.stopped_early or 0.0 for metrics in every) if every else 0.0
    chance = min(1.0, ended / tokens) if tokens else 0.0
    return Figure(chance, f"{ended:.0%} of the answers ended by themselves"), Figure(tokens, "their mean length")


def _errors(spec: StudySpec, draft: Path, measured: Sequence[TrialResult]) -> Errors:
    """Play every measured configuration on the profile, without noise."""
    there = run_virtual(host(played(spec, str(draft))))
    quiet = silent(load_profile(draft))

    async def again() -> list[tuple[float, float | None]]:
        found = list[tuple[float, float | None]]()
        judged = bench(there, there.ground.spec, Events(NOWHERE), "profile", quiet)
        for result in measured:
            mine, _ = await judged.trial(result.number, result.params, there.ground.plan(result.params))
            for label, other in _full(result):
                if (one := mine.levels.get(label)) is None:
                    continue
                mean, theirs = one.ttft_s.mean, other.ttft_s.mean
                waits = abs(mean / theirs - 1) if mean is not None and theirs else None
                if other.output_tps:
                    found.append((abs(one.output_tps / other.output_tps - 1), waits))
        return found

    found = run_virtual(again())
    if not found:
        raise StorageError("no trial of the study runs on the profile that was fitted to it")
    waits = [wait for _, wait in found if wait is not None]
    return Errors(len(measured), median(tps for tps, _ in found), median(waits) if waits else 0.0)
