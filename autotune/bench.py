"""`autotune bench`: the figures of any Ollama endpoint at several loads, and the files in which they are kept."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import secrets
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from autotune import __version__
from autotune.benchmark.calibration import calibrated
from autotune.benchmark.client import HttpClient
from autotune.benchmark.flight import Flight
from autotune.benchmark.load import run
from autotune.benchmark.pacer import ClosedLoop, OpenLoop
from autotune.benchmark.phases import Phases
from autotune.benchmark.workload import JsonlWorkload, Lengths, SeededWorkload
from autotune.errors import ClusterError, UsageError
from autotune.metrics import COMPLETE, Metrics, measure
from autotune.store import write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path

    from autotune.benchmark.pacer import Level
    from autotune.benchmark.phases import LoadResult, Progress
    from autotune.benchmark.workload import Workload
    from autotune.records import RequestRecord

FORMAT = 1
_METRICS = TypeAdapter(dict[str, Metrics])


async def load(
    chosen: argparse.Namespace, show: Callable[[str, Progress], None], done: Callable[[str, Metrics, LoadResult], None]
) -> dict[str, Metrics]:
    """Load the endpoint at each level. Raises `UsageError`, and `ClusterError` for one that only fails."""
    levels, asked, headers = _levels(chosen), _workload(chosen), _headers(chosen.header)
    _check_target(chosen.json)
    phases = Phases(chosen.warmup, max(chosen.warmup, 180), chosen.window, chosen.window, 120)
    found: dict[str, Metrics] = {}
    async with _client(chosen, headers) as client:
        await _knock(client, asked, chosen)
        if isinstance(asked, SeededWorkload):
            asked = await calibrated(client, asked)
        for level in levels:
            loaded = await run(client, asked, level, phases, secrets.token_hex(8), partial(show, level.label))
            if loaded.gave_up:
                raise ClusterError(f"{chosen.url} answers nothing but failures: {_first_error(loaded)}")
            found[level.label] = measure(
                loaded.records,
                window_start=loaded.window_start,
                window_end=loaded.window_end,
                open_loop=isinstance(level, OpenLoop),
            )
            done(level.label, found[level.label], loaded)
    return found


async def _knock(client: HttpClient, asked: Workload, chosen: argparse.Namespace) -> None:
    """One request of one token: it loads the model, and says at once when there is nothing to load."""
    prompt = replace(asked.prompt(0, secrets.token_hex(8)), num_predict=1)
    record = await client.send(Flight(prompt, asyncio.get_running_loop().time()))
    if record.outcome not in COMPLETE:
        raise ClusterError(f"{chosen.url} {_refusal(record, chosen)}")


def _refusal(record: RequestRecord, chosen: argparse.Namespace) -> str:
    if record.status is None:
        return f"does not answer: {record.error}"
    said = f"status {record.status}" + (f", {record.error[:200]}" if record.error else "")
    return f"gives no answer from {chosen.model!r} at its {chosen.endpoint} endpoint: {said}"


def _check_target(path: Path | None) -> None:
    """Before the load, not after it: figures that cannot be written would be lost."""
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"--json {path}: is a folder; write the name of a file")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"--json {path}: {path.parent} is no folder that can be written to")


def save(path: Path, chosen: argparse.Namespace, found: dict[str, Metrics]) -> None:
    """Write the figures. Raises `StorageError`."""
    named = ("url", "model", "endpoint", "input_tokens", "num_predict", "window")
    content = {
        "format": FORMAT,
        "autotune": __version__,
        "at": datetime.now(UTC).isoformat(),
        "load": {name: str(getattr(chosen, name)) for name in named},
        "levels": {label: asdict(metrics) for label, metrics in found.items()},
    }
    write(path, json.dumps(content, indent=1))


def read(path: Path) -> dict[str, Metrics]:
    """The figures of a result file, by level. Raises `UsageError`."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] > FORMAT:
            raise UsageError(f"{path}: format {content['format']} is of a newer autotune; this one knows {FORMAT}")
        return _METRICS.validate_python(content["levels"])
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise UsageError(f"{path}: not a result file of `autotune bench --json`") from error


def _levels(chosen: argparse.Namespace) -> list[Level]:
    try:
        if chosen.rate:
            return [OpenLoop(_above_0(float(rate)), "poisson", chosen.seed) for rate in chosen.rate.split(",")]
        return [ClosedLoop(_above_0(int(users)), chosen.seed) for users in chosen.concurrency.split(",")]
    except ValueError as error:
        given = f"--rate {chosen.rate}" if chosen.rate else f"--concurrency {chosen.concurrency}"
        raise UsageError(f"{given}: allowed are numbers above 0 with commas between, as in 5,10,20") from error


def _above_0(number: float) -> Any:
    if not 0 < number < math.inf:
        raise ValueError(number)
    return number


def _workload(chosen: argparse.Namespace) -> Workload:
    answers = Lengths("fixed", chosen.num_predict)
    if chosen.prompts is not None:
        return JsonlWorkload(chosen.prompts, answers, chosen.seed)
    return SeededWorkload(chosen.seed, Lengths("fixed", chosen.input_tokens), answers)


def _headers(given: list[str]) -> dict[str, str]:
    """Values come from the environment: what is on a command line, everybody on the host can read."""
    headers = {}
    for entry in given:
        name, _, variable = entry.partition("=")
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise UsageError(f"--header {name}: write NAME=VARIABLE, as in Authorization=TOKEN")
        if variable not in os.environ:
            raise UsageError(
                f"--header {name}=…: no environment variable has that name; write the name of one that holds the value"
            )
        if not os.environ[variable].isprintable():
            raise UsageError(f"--header {name}=…: the variable's value has characters that no header may have")
        headers[name] = os.environ[variable]
    return headers


def _client(chosen: argparse.Namespace, headers: dict[str, str]) -> HttpClient:
    if not chosen.url.startswith(("http://", "https://")):
        raise UsageError(f"{chosen.url}: not a URL; as in http://127.0.0.1:11434")
    options = {"temperature": chosen.temperature, "seed": chosen.seed}
    return HttpClient(
        chosen.url, chosen.endpoint, chosen.model, options=options, headers=headers, timeout_s=chosen.timeout
    )


def _first_error(loaded: LoadResult) -> str:
    return next((record.error or record.outcome for record in loaded.records if record.error), "no answer")
