"""The files in which figures are kept: JSON for `autotune compare`, and a row for each request as CSV or Parquet."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from autotune import __version__
from autotune.errors import UsageError
from autotune.files import write
from autotune.metrics import COLD_S, Metrics, Window
from autotune.records import RequestRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from autotune.bench.asked import Job
    from autotune.bench.capacity import Capacity
    from autotune.bench.measuring import Found

FORMAT = 1
_METRICS = TypeAdapter(dict[str, Metrics])

COLUMNS = tuple(field.name for field in fields(RequestRecord) if field.name != "chunk_times")
"""Of a row; `load` comes before them, `in_window` and `chunks` behind."""


def save(path: Path, job: Job, found: Sequence[Found], *, complete: bool) -> None:
    """Write the figures; `complete` says whether all loads were made. Raises `StorageError`."""
    content = {
        "format": FORMAT,
        "autotune": __version__,
        "at": datetime.now(UTC).isoformat(),
        "complete": complete,
        "load": job.said,
        "levels": {one.label: asdict(one.metrics) for one in found},
        "valid": {one.label: one.valid for one in found},
        "client": {one.label: asdict(one.health) for one in found},
        "attainment": {one.label: asdict(one.attainment) for one in found if one.attainment},
        "cautions": {one.label: one.cautions for one in found},
        "errors": {one.label: _errors(one) for one in found},
    }
    write(path, json.dumps(content, indent=1))


def _errors(found: Found) -> dict[str, int]:
    """What went wrong in the whole load, and how often; the ten most frequent."""
    return dict(Counter(record.error for record in found.loaded.records if record.error).most_common(10))


def save_capacity(path: Path, job: Job, answer: Capacity) -> None:
    """Write the steps of a search and its answer. Raises `StorageError`."""
    content = {
        "format": FORMAT,
        "autotune": __version__,
        "at": datetime.now(UTC).isoformat(),
        "complete": not answer.ended,
        "ended": answer.ended,
        "doubt": answer.doubt,
        "load": job.said,
        "limits": {bound.name: bound.most for bound in job.bounds},
        "capacity": {"unit": answer.unit, "holds": answer.low, "misses": _finite(answer.high)},
        "steps": [
            {
                "load": step.load,
                "decision": step.decision,
                "limits": step.found.loaded.look.limits,
                "metrics": asdict(step.found.metrics),
            }
            for step in answer.steps
        ],
    }
    write(path, json.dumps(content, indent=1))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Kept:
    """What a result file says."""

    levels: dict[str, Metrics]
    """The figures, by the label of their load."""
    load: dict[str, str]
    """What was asked for."""
    doubts: tuple[str, ...]
    """Why the figures may not be what they seem."""


def read(path: Path) -> Kept:
    """A result file of `bench`. Raises `UsageError`."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] > FORMAT:
            raise UsageError(f"{path}: format {content['format']} is of a newer autotune; this one knows {FORMAT}")
        unfinished = ["it was broken off: not all of its loads were made"] if content.get("complete") is False else []
        invalid = [label for label, valid in content.get("valid", {}).items() if valid is False]
        useless = [f"{label}: the client was too slow, or nothing was answered: do not use it" for label in invalid]
        load = {str(key): str(value) for key, value in content.get("load", {}).items()}
        return Kept(_METRICS.validate_python(content["levels"]), load, (*unfinished, *useless))
    except IsADirectoryError as error:
        raise UsageError(f"{path}: is a folder; allowed is a result file of `autotune bench --json`") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise UsageError(f"{path}: not a result file of `autotune bench --json`") from error


def unlike(before: Kept, after: Kept) -> list[str]:
    """What was asked for in one way and then in another; where it was asked may differ."""
    both = [key for key in before.load if key in after.load and key != "url"]
    return [f"{key} {before.load[key]} and {after.load[key]}" for key in both if before.load[key] != after.load[key]]


def rows(found: Sequence[Found]) -> Iterator[dict[str, Any]]:
    """Every request of every load, its chunk times as their number; stamps in seconds on the host's monotonic clock."""
    for one in found:
        loaded = one.loaded
        window = Window(loaded.window_start, loaded.window_end, loaded.open_loop, COLD_S)
        for record in loaded.records:
            inside = window.has(window.asked_at(record))
            plain = {name: getattr(record, name) for name in COLUMNS} | {"outcome": record.outcome.value}
            yield {"load": one.label, **plain, "in_window": inside, "chunks": len(record.chunk_times)}


def save_csv(path: Path, found: Sequence[Found]) -> None:
    """Write all requests as CSV. Raises `StorageError`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["load", *COLUMNS, "in_window", "chunks"])
    writer.writeheader()
    writer.writerows(rows(found))
    write(path, text.getvalue())


def save_parquet(path: Path, found: Sequence[Found]) -> None:
    """Write all requests as Parquet. Raises `StorageError`, and `UsageError` where pyarrow is missing."""
    from autotune.analysis import parquet  # noqa: PLC0415 - pandas takes half a second

    write(path, parquet(list(rows(found))))
