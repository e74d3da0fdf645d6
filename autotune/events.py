"""What happened when: spans and facts of a night, appended to a file and shown to whoever listens.

A line is one JSON object: `at` (wall clock, UTC), `t` (seconds on the event loop's monotonic clock), `what`, and its
fields; a span adds `seconds`. The share of the night that was measurement, and what `autotune` costs, come from here.
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import pairwise
from typing import IO, TYPE_CHECKING, Any

from autotune.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


class Events:
    """The event log of one study."""

    def __init__(self, path: Path, listener: Callable[[dict[str, Any]], None] | None = None) -> None:
        self._path = path
        self._listener = listener
        self.took_s: dict[str, float] = {}
        """How long each kind of span took when it was last over."""

    def note(self, what: str, **fields: Any) -> None:
        """Something happened. Raises `StorageError`."""
        event = {"at": datetime.now(UTC).isoformat(), "t": asyncio.get_running_loop().time(), "what": what, **fields}
        try:
            with self._path.open("a+b") as log:
                log.write(_mended(log) + json.dumps(event).encode() + b"\n")
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror or error}") from error
        self.show(event)

    def show(self, event: dict[str, Any]) -> None:
        """Tell the listener without writing anything: progress that nobody wants to read later."""
        if self._listener is None:
            return
        try:
            self._listener(event)
        except (OSError, SystemExit):  # the terminal, or the pipe, is gone (rich exits then): the night goes on unseen
            self._listener = None

    @contextmanager
    def span(self, what: str, **fields: Any) -> Iterator[None]:
        """Something that takes time; noted when it begins and when it ends, however it ends."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.note(f"{what} begins", **fields)
        try:
            yield
        except BaseException as error:
            with suppress(StorageError):  # the first error is the one that counts, above all when it is Ctrl-C
                self.note(what, **fields, seconds=loop.time() - began, error=type(error).__name__)
            raise
        self.took_s[what] = loop.time() - began
        self.note(what, **fields, seconds=self.took_s[what])


def read(path: Path) -> list[dict[str, Any]]:
    """All events; a line that was cut off by a crash, or is damaged, is left out. Raises `StorageError`."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    return [event for event in map(_event, lines) if event is not None]


def by_night(events: Sequence[dict[str, Any]]) -> list[Sequence[dict[str, Any]]]:
    """The events night by night; the clock of one says nothing about that of another."""
    begins = [index for index, event in enumerate(events) if event["what"] == "night begins"]
    return [events[begin:end] for begin, end in pairwise([*begins, len(events)])]


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("what"), str):
        return None
    times = value.get("t"), value.get("seconds", 0.0)
    told = all(isinstance(one, int | float) for one in times) and isinstance(value.get("number", 0), int)
    return value if told else None


def _mended(log: IO[bytes]) -> bytes:
    """What ends the line before: nothing, unless a crash has cut it off."""
    if log.tell() == 0:
        return b""
    log.seek(-1, os.SEEK_END)
    return b"" if log.read(1) == b"\n" else b"\n"
