"""What happened when: spans and facts of a night, appended to a file and shown to whoever listens.

A line is one JSON object: `at` (wall clock, UTC), `t` (seconds on the event loop's monotonic clock), `what`, and its
fields; a span adds `seconds`. The share of the night that was measurement, and what `autotune` costs, come from here.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from autotune.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Events:
    """The event log of one study."""

    def __init__(self, path: Path, listener: Callable[[dict[str, Any]], None] | None = None) -> None:
        self._path = path
        self._listener = listener

    def note(self, what: str, **fields: Any) -> None:
        """Something happened. Raises `StorageError`."""
        event = {"at": datetime.now(UTC).isoformat(), "t": asyncio.get_running_loop().time(), "what": what, **fields}
        try:
            with self._path.open("a", encoding="utf-8") as log:
                log.write(json.dumps(event) + "\n")
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}") from error
        self.show(event)

    def show(self, event: dict[str, Any]) -> None:
        """Tell the listener without writing anything: progress that nobody wants to read later."""
        if self._listener is not None:
            self._listener(event)

    @contextmanager
    def span(self, what: str, **fields: Any) -> Iterator[None]:
        """Something that takes time; it is noted when it ends, however it ends."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.show({"what": f"{what} begins", **fields})
        try:
            yield
        except BaseException as error:
            self.note(what, **fields, seconds=loop.time() - began, error=type(error).__name__)
            raise
        self.note(what, **fields, seconds=loop.time() - began)


def read(path: Path) -> list[dict[str, Any]]:
    """All events; a last line that was cut off by a crash is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
