"""What is exported, chosen from a study, and written as a folder that is there whole or not at all."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune import report
from autotune.confirm import Kind
from autotune.errors import NothingFeasible, StorageError, UsageError
from autotune.export import compose, guide, systemd
from autotune.faults import quarantined
from autotune.plan import LOOPBACK
from autotune.report.words import configuration, verdict
from autotune.result import TOKENS_PER_S
from autotune.simulator import SIMULATED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.confirm import Contender
    from autotune.plan import InstancePlan, Plan, Provenance
    from autotune.report import Findings
    from autotune.result import TrialResult
    from autotune.spec import StudySpec
    from autotune.store import Shelf, Store

FORMAT = 1


@dataclass(frozen=True)
class Bundle:
    """All that the files are rendered from."""

    found: Findings
    plan: Plan
    runs: tuple[TrialResult, ...]
    """What was measured of it."""
    provenance: Provenance
    """What it ran on."""
    header: Mapping[str, Any]
    """The study's study.json."""
    user: str
    listen: str = LOOPBACK

    @property
    def spec(self) -> StudySpec:
        """The study."""
        return self.found.spec

    @property
    def name(self) -> str:
        """Of units and files: `ollama-` and the study's name, in letters that systemd and nginx take as they are."""
        return "ollama-" + re.sub(r"[^a-z0-9]+", "-", self.spec.study.name.lower()).strip("-")

    @property
    def model(self) -> str:
        """What clients ask for: a derived model has a name of its own here, since a night takes its names away."""
        derived = self.plan.derived
        return self.plan.model if derived is None else f"tuned-{derived.plain}"

    @property
    def answer(self) -> str:
        """What the study says of it: nothing of what was chosen in its place."""
        return self.found.answer if self.proved else f"{configuration(self.runs[0].params)}: {verdict(self.runs[0])}."

    @property
    def proved(self) -> bool:
        """Whether it is the winner of a proof, or a point of its front."""
        return self.contender is not None

    @property
    def contender(self) -> Contender | None:
        """What the proof had of it; None where it is neither."""
        proved = self.found.points if self.found.chosen is None else (self.found.chosen,)
        return next((one for one in proved if one.runs[0].fingerprint == self.plan.fingerprint), None)

    @property
    def marks(self) -> tuple[str, ...]:
        """What every file says in its first lines."""
        told = f"{self.spec.study.name}, plan {self.plan.fingerprint}: {self.plan.layout}"
        marks = [f"Made by `autotune export` from the study {told}, NUM_PARALLEL {self.plan.slots}"]
        if self.spec.cluster.simulated:
            marks.append(f"{SIMULATED}: nothing here was measured on real hardware")
        if not self.proved:
            marks.append(f"Not proved, but chosen by hand from the trials of the search: {verdict(self.runs[0])}")
        elif self.found.chosen is None:
            marks.append("Chosen by hand from the front that was proved: nothing there is better in every goal")
        return tuple(marks)

    @cached_property
    def comments(self) -> str:
        """The same as comments."""
        return "".join(f"# {line}\n" for line in self.marks)

    def environment(self, instance: InstancePlan) -> dict[str, str]:
        """What an instance is told. HOME is left out: it belongs to the user that runs it."""
        told = {**self.provenance.environment, **dict(instance.env)}
        return {name: value for name, value in sorted(told.items()) if name != "HOME"}

    def files(self) -> dict[str, str]:
        """Path in the folder → content."""
        return {
            "INSTALL.md": guide.install(self),
            "cluster.json": json.dumps(self.document(), indent=1, ensure_ascii=False) + "\n",
            **systemd.files(self),
            **compose.files(self),
            **({"Modelfile": guide.modelfile(self)} if self.plan.derived else {}),
        }

    def document(self) -> dict[str, Any]:
        """Everything about it as plain values, the provenance too."""
        return {
            "format": FORMAT,
            "about": list(self.marks),
            "simulated": self.spec.cluster.simulated,
            "proved": self.proved,
            "study": self.spec.study.name,
            "answer": self.answer,
            "params": self.runs[0].params,
            "model": self.model,
            "fingerprint": self.plan.fingerprint,
            "expected": self.expected(),
            "figures": [asdict(change) for change in self.found.changes] if self.found.chosen and self.proved else [],
            "goals": self.goals(),
            "trials": [asdict(run) for run in self.runs],
            "plan": asdict(self.plan),
            "provenance": asdict(self.provenance),
            "chars_per_token": self.header.get("chars_per_token"),
            "study_file": self.header.get("file", ""),
        }

    def expected(self) -> dict[str, Any]:
        """The objective of a fresh start at its load: its mean, and where it lands 19 times of 20."""
        again = self.contender.next_tps if self.contender is not None else None
        mean = again.mean if again else self.runs[0].score.objective
        low, high = (again.low, again.high) if again else (None, None)
        run = self.runs[0]
        what = "output_tps" if run.unit == TOKENS_PER_S else "capacity"
        load = self.spec.level(None).label if run.unit == TOKENS_PER_S else "the limits"
        return {"load": load, "unit": run.unit, what: mean, "low": low, "high": high}

    def goals(self) -> list[dict[str, Any]]:
        """What it makes of each goal, where there are several."""
        number = self.runs[0].fingerprint
        trials = [result.number for result in self.found.results if result.fingerprint == number]
        return [asdict(made) for one in self.found.front if one.trial in trials for made in one.reached]


def bundle(store: Store, *, trial: int | None = None, listen: str = LOOPBACK, user: str | None = None) -> Bundle:
    """The winner of a study, or the configuration of one trial.

    Raises `NothingFeasible` where there is no winner, `UsageError` where nothing was measured yet or there is a front
    to choose from, for a trial that cannot be exported or an address that is none, `StorageError` for a study that
    cannot be read.
    """
    found, address = report.read(store), _address(listen)
    if not found.results:
        raise UsageError(f"{store.folder}: nothing was measured in this study yet, so there is nothing to export")
    shelf, runs = (_winner if trial is None else _trial)(store, found, trial or 0)
    plan = shelf.plan(runs[0].number)
    for device, said in quarantined(store).items():
        if device in plan.devices:
            raise UsageError(f"{store.folder}: it ran on a device that has failed since, and is not exported: {said}")
    provenance = shelf.provenance(runs[0].number)
    runner = _named(user) if user is not None else _owner(provenance, found.spec)
    return Bundle(found, plan, runs, provenance, store.header() or {}, runner, address)


def write(store: Store, folder: Path, **choices: Any) -> list[str]:
    """Write the files of `bundle` into a new folder, or an empty one; says what is there and what to do next.

    Raises what `bundle` raises, and `UsageError` for a folder that is not empty.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"--to {folder}: is not an empty folder; nothing was written")
        chosen = bundle(store, **choices)
        files = chosen.files()
        _place(folder.resolve(), files)
    except OSError as error:
        raise StorageError(f"--to {folder}: {error.strerror or error}") from error
    return [*chosen.marks, *(f"  {folder / name}" for name in files), f"Next: read {folder / 'INSTALL.md'}"]


def _place(folder: Path, files: Mapping[str, str]) -> None:
    """All files, or none. A folder that is there stays the one it is: somebody may stand in it, or have lent it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")
    except BaseException:
        for entry in folder.iterdir():  # it was empty
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        raise


def _winner(store: Store, found: Findings, _: int) -> tuple[Shelf, tuple[TrialResult, ...]]:
    chosen, proof = found.chosen, found.proof
    front = "; ".join(f"--trial {one.trial}: {one.configuration}" for one in found.front if one.on)
    if found.points:
        raise UsageError(f"{store.folder} has a front, and no single winner: choose one of its points. {front}")
    if chosen is None or proof is None:
        kept = proof is not None and proof.kind is not Kind.UNPROVED
        choice = "--trial N exports a trial that you choose" + (f" ({front})" if front else "")
        advice = "there is nothing to install" if kept else choice
        raise NothingFeasible(f"{store.folder} has no proved winner; {advice}. {found.answer}")
    return store.proof(proof.number), chosen.measured


def _trial(store: Store, found: Findings, number: int) -> tuple[Shelf, tuple[TrialResult, ...]]:
    there = len(found.results)
    if not 0 <= number < there:
        raise UsageError(f"--trial {number}: {store.folder} has the trials 0 to {there - 1}")
    result = found.results[number]
    if not result.measured:
        raise UsageError(f"--trial {number}: it could not be measured: {result.message}")
    proved = next((one for one in found.points if one.runs[0].fingerprint == result.fingerprint), None)
    if proved is not None and found.proof is not None:
        return store.proof(found.proof.number), proved.measured
    return store.trials, (result,)


def _named(user: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?", user):
        raise UsageError(f"--user {user!r}: allowed is the name of a user, or its number")
    return user


def _owner(provenance: Provenance, spec: StudySpec) -> str:
    """Who can read the model store: its owner; of a store that is only played, whoever asks."""
    import pwd  # noqa: PLC0415 - Windows, where `bench` runs, has no such module

    models = Path(provenance.models_dir)
    try:
        uid = os.getuid() if spec.cluster.driver == "simulated" else models.stat().st_uid
    except OSError as error:
        told = f"{models}, where the models were: {error.strerror}"
        raise UsageError(f"{told}; say who is to run Ollama: --user NAME") from error
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _address(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise UsageError(
            f"--listen {text}: allowed is an IP address of this host, or 0.0.0.0 for all of them"
        ) from error
    return f"[{address}]" if address.version == 6 else str(address)
