"""The study folder: paths, formats, versions, atomic writes. Our store is the truth; Optuna's study follows it.

<name>/                      mode 0700, beside the study file
    study.json               format, the study file and what it was read as, host
    optuna.db                Optuna's storage (SQLite; optuna-dashboard opens it)
    events.jsonl             what happened when
    warm.json                what it began with, of earlier studies
    trials/0007/plan.json    plan and provenance, written before the trial starts
    trials/0007/records-0.jsonl.gz   every request of the first level
    trials/0007/result.json  written last: a trial without it is run again
    proofs/0000/proof.json   the candidates of the first proof; a later one has others
    proofs/0000/0003/        one run of it, with the files of a trial
    run/                     logs, nginx, HOME of the instances; nothing to keep
"""

from __future__ import annotations

import gzip
import json
import shutil
import zlib
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from autotune.errors import SpecError, StorageError, complaint
from autotune.files import storage, sweep, write
from autotune.inventory import Inventory
from autotune.ollama.api import ServerFacts
from autotune.plan import Plan, Provenance
from autotune.records import decode, encode
from autotune.result import TrialResult
from autotune.selftest import SelfTest
from autotune.spec import StudySpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from autotune.records import RequestRecord

T = TypeVar("T")

FORMAT = 2
CONTENT = "content of "
"""So begins what a study's ground says of a file that the study names: its digest."""
_MOST_LOG_CHARS = 2**18
_WRITTEN = r"(?:study|warm|plan|result|proof)\.json|records-\d+\.jsonl\.gz|[\w-]+\.log"
"""What a study's files are called."""
LEAST_FREE_BYTES = 256 * 2**20
"""A night needs some room on the disk."""


class Store:
    """One study folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def trials(self) -> Shelf:
        """The trials of the search."""
        return Shelf(self.folder / "trials")

    def proof(self, number: int) -> Shelf:
        """The runs of a proof."""
        return Shelf(self.folder / "proofs" / f"{number:04}")

    @property
    def run(self) -> Path:
        """Logs and work files of what runs now."""
        return self.folder / "run"

    @property
    def events(self) -> Path:
        """The event log."""
        return self.folder / "events.jsonl"

    @property
    def optuna(self) -> Path:
        """Optuna's storage."""
        return self.folder / "optuna.db"

    def open(self, spec: StudySpec, source: str) -> bool:
        """Make the folder, or go on with the study in it, which no other process does; whether there was one.

        Raises `StorageError` for a folder of a newer version, a damaged one, a path that is no text or a full disk, and
        `SpecError` when the study file has changed in what it measures.
        """
        utterable(self.folder)
        with storage(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            self.run.mkdir(exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        if free < LEAST_FREE_BYTES:
            least = LEAST_FREE_BYTES // 2**20
            raise StorageError(f"{self.folder}: {free // 2**20} MiB are free on this disk, a night needs {least}")
        goes_on = self.goes_on(spec)
        if goes_on:
            sweep(chain(*map(self.folder.glob, (".*", "trials/*/.*", "proofs/**/.*"))), _WRITTEN)
        known = (self.header() or {}) if goes_on else {}
        self.write_header({**known, "spec": spec.model_dump(mode="json"), "file": source})
        return goes_on

    def goes_on(self, spec: StudySpec) -> bool:
        """Whether this study would go on with what the folder has; nothing is written.

        Raises `StorageError` for a folder of a newer version, a damaged one or a path that is no text, and `SpecError`
        when the study file has changed in what it measures.
        """
        utterable(self.folder)
        known = self.header()
        if not self._begun():  # nothing has been measured yet that a change could spoil
            return False
        if known is None:
            raise StorageError(f"{self.folder}: trials without a study.json; nobody can say what they measured")
        # a file whose content is known may lie elsewhere by now
        kept = {name.removeprefix(CONTENT) for name in known.get("ground", {}) if name.startswith(CONTENT)}
        then, now = (
            {key: value for key, value in one.measured().items() if key not in kept}
            for one in (self._spec(known), spec)
        )
        _same(self.folder, then, now)
        return True

    def spec(self) -> StudySpec:
        """The study as it was read, with its paths and what the command line changed. Raises `StorageError`."""
        header = self.header()
        if header is None:
            raise StorageError(f"{self.folder}: no study (there is no study.json in this folder)")
        return self._spec(header)

    def _spec(self, header: dict[str, Any]) -> StudySpec:
        """Keys that this version has added have their default: that is how the study ran."""
        try:
            return StudySpec.model_validate(header["spec"])
        except ValidationError as error:
            raise StorageError(f"{self.folder / 'study.json'}: damaged ({_why(error)})") from error

    def header(self) -> dict[str, Any] | None:
        """What study.json says; None when there is none. Raises `StorageError`."""
        path = self.folder / "study.json"
        with storage(path):
            if not path.exists():
                return None
        header = _read_json(path)
        found = header.get("format")
        if isinstance(found, int) and found > FORMAT:
            raise StorageError(
                f"{path}: format {found} is of a newer autotune, this one knows {FORMAT}:"
                " pip install -U ollama-autotune"
            )
        if found == 1:
            raise StorageError(f"{path}: format 1 is of an autotune before 0.1.0: give the study another name")
        if found != FORMAT or not isinstance(header.get("spec"), dict):
            raise StorageError(f"{path}: damaged (not format {FORMAT}, or no study)")
        return header

    def write_header(self, header: dict[str, Any]) -> None:
        """Replace study.json."""
        write(self.folder / "study.json", json.dumps({**header, "format": FORMAT}, indent=1))

    def write_selftest(self, found: SelfTest) -> None:
        """Keep what the client can do on this host. Raises `StorageError`."""
        self.write_header({**(self.header() or {}), "selftest": asdict(found)})

    def selftest(self) -> SelfTest | None:
        """What the client could do at the start of the last night; None where nobody has measured it."""
        found = (self.header() or {}).get("selftest")
        try:
            return None if found is None else _SELFTEST.validate_python(found)
        except ValidationError as error:
            path = self.folder / "study.json"
            raise StorageError(f"{path}: damaged (selftest: {_why(error)})") from error

    def write_host(self, inventory: Inventory, facts: ServerFacts) -> None:
        """Keep what the space of the study follows from. Raises `StorageError`."""
        host = {"inventory": asdict(inventory), "facts": asdict(facts)}
        self.write_header({**(self.header() or {}), "host": host})

    def host(self) -> tuple[Inventory, ServerFacts] | None:
        """The devices, the server and the model of the study; None where an older version kept none."""
        found = (self.header() or {}).get("host")
        if found is None:
            return None
        try:
            return _INVENTORY.validate_python(found["inventory"]), _FACTS.validate_python(found["facts"])
        except (KeyError, TypeError, ValidationError) as error:
            path = self.folder / "study.json"
            raise StorageError(f"{path}: damaged (host: {_why(error)})") from error

    def earlier(self) -> list[TrialResult]:
        """All finished trials of a study that may not have begun. Raises `StorageError`."""
        return [] if self.header() is None else self.trials.results()

    def _begun(self) -> bool:
        """Whether anything was measured: what a proof has measured counts, too, whatever became of the trials."""
        return any(chain(self.folder.glob("trials/*/result.json"), self.folder.glob("proofs/*/*/result.json")))

    def begin_proof(self, candidates: Sequence[Mapping[str, Any]], asked: int | None = None) -> int:
        """The number of a new proof of these candidates, where so many finalists were `asked` for."""
        number = self.proofs()
        written = {"candidates": list(candidates), "finalists": asked}
        write(self.proof(number).folder / "proof.json", json.dumps(written, indent=1))
        return number

    def proofs(self) -> int:
        """How many proofs were begun."""
        return sum(1 for _ in self.folder.glob("proofs/*/proof.json"))

    def candidates(self, number: int) -> list[dict[str, Any]]:
        """The parameters of a proof's candidates, the baseline first. Raises `StorageError`."""
        path = self.proof(number).folder / "proof.json"
        found = _read_json(path).get("candidates")
        if not isinstance(found, list) or len(found) < 2 or not all(map(_is_candidate, found)):
            raise StorageError(f"{path}: damaged (no candidates)")
        return found

    def asked(self, number: int) -> int | None:
        """How many finalists a proof was asked for; None where nobody wrote it down. Raises `StorageError`."""
        found = _read_json(self.proof(number).folder / "proof.json").get("finalists")
        return found if isinstance(found, int) else None


class Shelf:
    """Numbered trials in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_plan(self, number: int, params: dict[str, Any], plan: Plan, provenance: Provenance | None = None) -> None:
        """Before a trial starts."""
        content = {"params": params, "fingerprint": plan.fingerprint, "plan": asdict(plan)}
        content |= {"provenance": asdict(provenance)} if provenance else {}
        write(self._trial(number) / "plan.json", json.dumps(content, indent=1))

    def save(self, result: TrialResult, records: Sequence[Sequence[RequestRecord]]) -> None:
        """After a trial: the records of each level first, the result last."""
        folder = self._trial(result.number)
        for index, level in enumerate(records):
            lines = "".join(json.dumps(encode(record), separators=(",", ":")) + "\n" for record in level)
            write(folder / f"records-{index}.jsonl.gz", gzip.compress(lines.encode(), compresslevel=1))
        write(folder / "result.json", _RESULT.dump_json(result, indent=1))

    def keep_logs(self, number: int, logs: dict[str, str]) -> None:
        """The logs of a trial that failed: their ends, by instance."""
        for name, text in logs.items():
            write(self._trial(number) / f"{name}.log", text[-_MOST_LOG_CHARS:])

    def results(self) -> list[TrialResult]:
        """All finished trials, in order. Raises `StorageError` for a damaged one, or one that is missing in between."""
        found = [self._result(path) for path in self.folder.glob("*/result.json")]
        found.sort(key=lambda result: result.number)
        for number, result in enumerate(found):
            if result.number != number:
                raise StorageError(
                    f"{self._trial(number)}: has no result, but later trials have: put it back, or remove those too"
                )
        return found

    def records(self, number: int, level: int) -> list[RequestRecord]:
        """The records of one level of a finished trial."""
        path = self._trial(number) / f"records-{level}.jsonl.gz"
        with storage(path):
            packed = path.read_bytes()
        try:
            return [decode(json.loads(line)) for line in gzip.decompress(packed).splitlines()]
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise StorageError(f"{path}: damaged ({error})") from error

    def plan(self, number: int) -> Plan:
        """What a trial ran. Raises `StorageError`."""
        return self._read(number, "plan", _PLAN)

    def provenance(self, number: int) -> Provenance:
        """What it ran on. Raises `StorageError`."""
        return self._read(number, "provenance", _PROVENANCE)

    def _read(self, number: int, key: str, kind: TypeAdapter[T]) -> T:
        path = self._trial(number) / "plan.json"
        with storage(path):
            content = path.read_bytes()
        try:
            return kind.validate_python(json.loads(content)[key])
        except KeyError as error:
            raise StorageError(f"{path}: damaged (no {key})") from error
        except (ValueError, TypeError) as error:
            raise StorageError(f"{path}: damaged ({_why(error)})") from error

    def _result(self, path: Path) -> TrialResult:
        try:
            return _RESULT.validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise StorageError(f"{path}: damaged ({_why(error)})") from error

    def _trial(self, number: int) -> Path:
        return self.folder / f"{number:04}"


_RESULT = TypeAdapter(TrialResult)
_PLAN = TypeAdapter(Plan)
_SELFTEST = TypeAdapter(SelfTest)
_INVENTORY = TypeAdapter(Inventory)
_FACTS = TypeAdapter(ServerFacts)
_PROVENANCE = TypeAdapter(Provenance)


def utterable(folder: Path) -> None:
    """Raises `StorageError` for a path that is no UTF-8: Optuna, nginx and Ollama's API are told it as text."""
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise StorageError(f"{folder}: the path is not UTF-8 text, and no study can lie there") from error


def _is_candidate(value: object) -> bool:
    return isinstance(value, dict) and {"layout", "num_parallel"} <= value.keys()


def _read_json(path: Path) -> dict[str, Any]:
    with storage(path):
        content = path.read_bytes()
    try:
        value = json.loads(content)
    except ValueError as error:
        raise StorageError(f"{path}: damaged ({error})") from error
    if not isinstance(value, dict):
        raise StorageError(f"{path}: damaged (not an object)")
    return value


def _why(error: Exception) -> str:
    return complaint(error) if isinstance(error, ValidationError) else str(error).splitlines()[0]


def _same(folder: Path, known: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [
        f"{key}: was {json.dumps(known.get(key))}, is {json.dumps(now.get(key))}"
        for key in sorted({*known, *now})
        if known.get(key) != now.get(key)
    ]
    if changed:
        raise SpecError(
            f"{folder} holds trials of another study: {'; '.join(changed)}. "
            "Put the study file (or --balancer) back as it was, or give the study another name",
        )
