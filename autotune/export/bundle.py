"""What is exported, chosen from a study, and written as a folder that is there whole or not at all."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune import report
from autotune.confirm import BASELINE, Kind
from autotune.errors import NothingFeasible, StorageError, UsageError
from autotune.export import compose, guide, systemd
from autotune.plan import LOOPBACK
from autotune.report.words import SIMULATED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.plan import InstancePlan, Plan
    from autotune.report import Findings
    from autotune.spec import StudySpec
    from autotune.store import Store
    from autotune.trial import TrialResult

FORMAT = 1


@dataclass(frozen=True)
class Bundle:
    """All that the files are rendered from."""

    found: Findings
    plan: Plan
    runs: tuple[TrialResult, ...]
    """What was measured of it."""
    header: Mapping[str, Any]
    """The study's study.json."""
    user: str
    listen: str = LOOPBACK

    @property
    def spec(self) -> StudySpec:
        """The study."""
        return self.found.spec

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What ran where."""
        told: Mapping[str, Any] = self.header["provenance"]
        return told

    @property
    def name(self) -> str:
        """Of units and files: `ollama-` and the study's name, in letters that systemd and nginx take as they are."""
        return "ollama-" + re.sub(r"[^a-z0-9]+", "-", self.spec.study.name.lower()).strip("-")

    @property
    def proved(self) -> bool:
        """Whether it is the winner of a proof."""
        chosen = self.found.chosen
        return chosen is not None and chosen.runs[0].fingerprint == self.plan.fingerprint

    @property
    def marks(self) -> tuple[str, ...]:
        """What every file says in its first lines."""
        told = f"{self.spec.study.name}, plan {self.plan.fingerprint}: {self.plan.layout},"
        first = f"Made by `autotune export` from the study {told} NUM_PARALLEL {self.plan.num_parallel}"
        simulated = (f"{SIMULATED}: nothing here was measured on real hardware",) if self.spec.cluster.simulated else ()
        return (
            first,
            *simulated,
            *(() if self.proved else ("Not proved: chosen by hand from the trials of the search",)),
        )

    @cached_property
    def comments(self) -> str:
        """The same as comments."""
        return "".join(f"# {line}\n" for line in self.marks)

    def environment(self, instance: InstancePlan) -> dict[str, str]:
        """What an instance is told. HOME is left out: it belongs to the user that runs it."""
        told = {**self.provenance["environment"], **dict(instance.env)}
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
            "answer": self.found.answer,
            "params": self.runs[0].params,
            "fingerprint": self.plan.fingerprint,
            "expected": self.expected(),
            "figures": [asdict(change) for change in self.found.changes] if self.proved else [],
            "trials": [asdict(run) for run in self.runs],
            "plan": asdict(self.plan),
            "provenance": self.provenance,
            "chars_per_token": self.header.get("chars_per_token"),
            "study_file": self.header.get("file", ""),
        }

    def expected(self) -> dict[str, Any]:
        """Output TPS of a fresh start at the objective's load: its mean, and where it lands 19 times of 20."""
        chosen = self.found.chosen
        again = chosen.next_tps if chosen is not None and self.proved else None
        mean = again.mean if again else self.runs[0].score.objective
        low, high = (again.low, again.high) if again else (None, None)
        return {"load": self.spec.level(None).label, "output_tps": mean, "low": low, "high": high}


def bundle(store: Store, *, trial: int | None = None, listen: str = LOOPBACK, user: str | None = None) -> Bundle:
    """The winner of a study, or the configuration of one trial.

    Raises `NothingFeasible` where there is no winner, `UsageError` for a trial that cannot be exported or an address
    that is none, `StorageError` for a study that cannot be read.
    """
    found, header = report.read(store), store.header() or {}
    if "provenance" not in header:
        raise StorageError(f"{store.folder}: nothing was run in this study yet, so there is nothing to export")
    runs, plan = _winner(store, found) if trial is None else _trial(store, found, trial)
    return Bundle(found, plan, runs, header, user or _owner(Path(header["provenance"]["models_dir"])), _address(listen))


def write(store: Store, folder: Path, **choices: Any) -> list[str]:
    """Write the files of `bundle` into a new folder, or an empty one; says what is there and what to do next.

    Raises what `bundle` raises, and `UsageError` for a folder that is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--to {folder}: is not an empty folder; nothing was written")
    chosen = bundle(store, **choices)
    files = chosen.files()
    try:
        _place(folder.resolve(), files)
    except OSError as error:
        raise StorageError(f"--to {folder}: {error.strerror or error}") from error
    return [*chosen.marks, *(f"  {folder / name}" for name in files), f"Next: read {folder / 'INSTALL.md'}"]


def _place(folder: Path, files: Mapping[str, str]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        aside.chmod(0o755)
        for name, content in files.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).write_text(content, encoding="utf-8")
        aside.replace(folder)  # an empty folder gives way
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _winner(store: Store, found: Findings) -> tuple[tuple[TrialResult, ...], Plan]:
    chosen, proof = found.chosen, found.proof
    if chosen is None or proof is None:
        kept = proof is not None and proof.kind in (Kind.KEEP, Kind.UNCLEAR) and proof.recommended == BASELINE
        advice = "there is nothing to install" if kept else "--trial N exports a trial that you choose"
        raise NothingFeasible(f"{store.folder} has no proved winner; {advice}. {found.answer}")
    return chosen.runs, store.proof(store.proofs() - 1).plan(chosen.runs[0].number)


def _trial(store: Store, found: Findings, number: int) -> tuple[tuple[TrialResult, ...], Plan]:
    there = len(found.results)
    if not 0 <= number < there:
        raise UsageError(f"--trial {number}: {store.folder} has the trials 0 to {there - 1}")
    result = found.results[number]
    if not result.measured:
        raise UsageError(f"--trial {number}: it could not be measured: {result.message}")
    return (result,), store.trials.plan(number)


def _owner(models: Path) -> str:
    """Who can read the model store: its owner; where it is gone, or only played, whoever asks."""
    import pwd  # noqa: PLC0415 - Windows, where `bench` runs, has no such module

    uid = models.stat().st_uid if models.exists() else os.getuid()
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
