"""The study folder: paths, formats, versions, atomic writes. Our store is the truth; Optuna's study follows it.

<name>/                      mode 0700, beside the study file
    study.json               format, what is measured, host, facts, the file itself
    optuna.db                Optuna's storage (SQLite; optuna-dashboard opens it)
    events.jsonl             what happened when
    trials/0007/plan.json    written before the trial starts
    trials/0007/records-0.jsonl.gz   every request of the first level
    trials/0007/result.json  written last: a trial without it is run again
    run/                     logs, nginx, HOME of the instances; nothing to keep
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import tempfile
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from autotune.errors import SpecError, StorageError
from autotune.records import decode, encode
from autotune.trial import TrialResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autotune.plan import Plan
    from autotune.records import RequestRecord
    from autotune.spec import StudySpec

FORMAT = 1
_MOST_LOG_CHARS = 2**18
LEAST_FREE_BYTES = 256 * 2**20
"""A night needs some room on the disk."""


class Store:
    """One study folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

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
        """Make the folder, or go on with the study in it; whether there was one.

        Raises `StorageError` for a folder of a newer version, a damaged one or a full disk, and `SpecError` when the
        study file has changed in what it measures.
        """
        with _storage(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            self.run.mkdir(exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        if free < LEAST_FREE_BYTES:
            least = LEAST_FREE_BYTES // 2**20
            raise StorageError(f"{self.folder}: {free // 2**20} MiB are free on this disk, a night needs {least}")
        known = self.header()
        if not self._begun():  # nothing has been measured yet that a change could spoil
            self.write_header({"measured": spec.measured(), "file": source})
            return False
        if known is None:
            raise StorageError(f"{self.folder}: trials without a study.json; nobody can say what they measured")
        _same(self.folder, known["measured"], spec.measured())
        self.write_header({**known, "file": source})
        return True

    def header(self) -> dict[str, Any] | None:
        """What study.json says; None when there is none. Raises `StorageError`."""
        path = self.folder / "study.json"
        with _storage(path):
            if not path.exists():
                return None
        header = _read_json(path)
        found = header.get("format")
        if isinstance(found, int) and found > FORMAT:
            raise StorageError(
                f"{path}: format {found} is of a newer autotune, this one knows {FORMAT}:"
                " pip install -U ollama-autotune"
            )
        if found != FORMAT or not isinstance(header.get("measured"), dict):
            raise StorageError(f"{path}: damaged (no format, or not what is measured)")
        return header

    def write_header(self, header: dict[str, Any]) -> None:
        """Replace study.json."""
        write(self.folder / "study.json", json.dumps({**header, "format": FORMAT}, indent=1))

    def write_plan(self, number: int, params: dict[str, Any], plan: Plan) -> None:
        """Before a trial starts."""
        content = {"params": params, "fingerprint": plan.fingerprint, "plan": asdict(plan)}
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
        found = [self._result(path) for path in (self.folder / "trials").glob("*/result.json")]
        found.sort(key=lambda result: result.number)
        for number, result in enumerate(found):
            if result.number != number:
                raise StorageError(
                    f"{self._trial(number)}: has no result, but later trials have: put it back, or remove those too"
                )
        return found

    def earlier(self) -> list[TrialResult]:
        """All finished trials of a study that may not have begun. Raises `StorageError`."""
        return [] if self.header() is None else self.results()

    def records(self, number: int, level: int) -> list[RequestRecord]:
        """The records of one level of a finished trial."""
        path = self._trial(number) / f"records-{level}.jsonl.gz"
        with _storage(path):
            packed = path.read_bytes()
        try:
            return [decode(json.loads(line)) for line in gzip.decompress(packed).splitlines()]
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise StorageError(f"{path}: damaged ({error})") from error

    def _begun(self) -> bool:
        return any((self.folder / "trials").glob("*/result.json"))

    def _result(self, path: Path) -> TrialResult:
        try:
            return _RESULT.validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise StorageError(f"{path}: damaged ({str(error).splitlines()[0]})") from error

    def _trial(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04}"


def write(path: Path, content: str | bytes) -> None:
    """Write a file so that there is always the old one or the new one, never a part. Raises `StorageError`."""
    data = content.encode() if isinstance(content, str) else content
    with _storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


_RESULT = TypeAdapter(TrialResult)


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    with _storage(path):
        content = path.read_bytes()
    try:
        value = json.loads(content)
    except ValueError as error:
        raise StorageError(f"{path}: damaged ({error})") from error
    if not isinstance(value, dict):
        raise StorageError(f"{path}: damaged (not an object)")
    return value


def _same(folder: Path, known: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [
        f"{key}: was {json.dumps(known.get(key))}, is {json.dumps(now.get(key))}"
        for key in sorted({*known, *now})
        if known.get(key) != now.get(key)
    ]
    if changed:
        raise SpecError(
            f"{folder} holds trials that measured something else: {'; '.join(changed)}. "
            "Put the study file (or --balancer) back as it was, or give the study another name",
        )
