"""Fills a file system, tries to write to it, makes room again; what came of it as JSON. Run by the tests of the store.

python -m tests.full_disk FOLDER, where FOLDER is a file system of a MiB or so
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune import store as stores
from autotune.errors import StorageError
from autotune.events import Events, read
from autotune.files import write
from autotune.ollama.api import ServerFacts
from autotune.sampler import Sampler
from autotune.store import Store
from tests.conftest import TINY
from tests.factories import BASELINE, SPEC, params, result, space

if TYPE_CHECKING:
    from collections.abc import Callable

FACTS = ServerFacts("0.32.15", TINY)


def said(attempt: Callable[[], object]) -> str:
    """The error's words; empty where there was none."""
    try:
        attempt()
    except StorageError as error:
        return error.message
    return ""


def fill(path: Path) -> None:
    """Take what is left of the disk, to the last byte."""
    with path.open("wb", buffering=0) as ballast:
        for size in (4096, 1):
            try:
                while ballast.write(b"x" * size):
                    pass
            except OSError:
                continue


def left(folder: Path) -> dict[str, Any]:
    """What can be read."""
    return {
        "file": (folder / "file").read_text(),
        "results": len(Store(folder).trials.results()),
        "events": [event["what"] for event in read(folder / "events.jsonl")],
        "temporary": [path.name for path in folder.rglob(".*-*")],
    }


async def main(folder: Path) -> dict[str, Any]:
    """The whole story."""
    found: dict[str, Any] = {"begun": said(lambda: Store(folder / "refused").open(SPEC, ""))}
    stores.LEAST_FREE_BYTES = 0
    store, events = Store(folder), Events(folder / "events.jsonl")
    store.open(SPEC, "")
    write(folder / "file", "old")
    store.trials.save(result(0), [])
    events.note("first")
    sampler = Sampler(store.optuna, "full", 1, space(), BASELINE)
    sampler.open(store.trials.results())
    trial = sampler.begin(params())

    fill(folder / "ballast")
    found["write"] = said(lambda: write(folder / "file", "new" * 10_000))
    found["save"] = said(lambda: store.trials.save(result(1, params()), [[]]))
    found["event"] = said(lambda: events.note("lost", padding="x" * 8000))
    found["optuna"] = said(lambda: sampler.tell(trial, result(1, params())))
    found["kept"] = left(folder)

    (folder / "ballast").unlink()
    write(folder / "file", "new")
    store.trials.save(result(1, params()), [[]])
    events.note("last")
    again = Sampler(store.optuna, "full", 1, space(), BASELINE)
    again.open(store.trials.results())
    found["after"] = {**left(folder), "optuna": again.begin(params(8)).number}
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(Path(sys.argv[1])))))
