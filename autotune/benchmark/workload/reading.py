"""Files of prompts, read no further than they are used; what is wrong names the file, the line and what is allowed."""

from __future__ import annotations

import csv
import json
import math
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from autotune.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MOST = 100_000
"""Requests of a file that are used: more than a load asks for, and a bound on memory."""

PIECE, LONGEST = 1 << 20, 1 << 26
"""Characters that are read at once, and that one member of a list may have."""

_BETWEEN = re.compile(r"[\s,]*")


@contextmanager
def _opened(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            yield file
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise SpecError(f"{path}: the file of prompts cannot be read: {why}") from error


def objects(path: Path, example: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with its place."""
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path}:{number}"
                yield where, _object(where, line, example)


def _object(where: str, line: str, example: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{where}: not JSON ({error}); allowed is {example}") from error
    if not isinstance(entry, dict):
        raise SpecError(f"{where}: not an object; allowed is {example}")
    return entry


def members(path: Path, example: str) -> Iterator[tuple[str, Any]]:
    """The members of a JSON list, each with its place. Such files have hundreds of megabytes: one by one."""
    decode = json.JSONDecoder().raw_decode
    with _opened(path) as file:
        text, line = file.read(PIECE), 1
        if not text.lstrip().startswith("["):
            raise SpecError(f"{path}:1: not a JSON list; allowed is {example}")
        at = text.index("[") + 1
        while True:
            begin = _BETWEEN.match(text, at).end()  # type: ignore[union-attr] # it matches anywhere
            line, at = line + text.count("\n", at, begin), begin
            if text.startswith("]", at):
                return
            try:
                value, end = decode(text, at)
            except (ValueError, RecursionError) as error:
                # perhaps only its end is missing; reading twice as much each time reads nothing often
                piece = file.read(max(PIECE, len(text)))
                if not piece or len(text) > LONGEST:
                    raise SpecError(f"{path}:{line}: not JSON ({error}); allowed is {example}") from error
                text, at = text[at:] + piece, 0
                continue
            yield f"{path}:{line}", value
            line, at = line + text.count("\n", at, end), end


def table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV file that has these columns, perhaps among others, each with its place."""
    with _opened(path, newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            there = [name.strip() for name in reader.fieldnames or ()]
            if missing := [name for name in columns if name not in there]:
                found = ", ".join(there) or "none"
                raise SpecError(f"{path}:1: no column {missing[0]!r}; needed are {', '.join(columns)}; it has {found}")
            reader.fieldnames = there
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if empty := [name for name in columns if not row[name]]:
                    raise SpecError(f"{where}: {empty[0]} is missing; needed are {', '.join(columns)}")
                yield where, row
        except csv.Error as error:
            raise SpecError(f"{path}:{reader.line_num}: not CSV ({error})") from error


def needed(where: str, entry: dict[str, Any], keys: Sequence[str]) -> None:
    """SpecError when one of these keys is missing."""
    if missing := [key for key in keys if key not in entry]:
        found = ", ".join(entry) or "none"
        raise SpecError(f"{where}: no key {missing[0]!r}; needed are {', '.join(keys)}; it has {found}")


def number(where: str, key: str, value: object) -> float:
    """A number from 0, from JSON or as text."""
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not 0 <= found < math.inf:
        raise SpecError(f"{where}: {key} is {value!r}; allowed is a number from 0")
    return found


def whole(where: str, key: str, value: object) -> int:
    """A whole number from 0, from JSON or as text."""
    try:
        found = number(where, key, value)
    except SpecError:
        found = math.nan
    if not found.is_integer():
        raise SpecError(f"{where}: {key} is {value!r}; allowed is a whole number from 0")
    return int(found)
