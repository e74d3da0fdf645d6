"""Traces with time stamps: when requests came, and how long they and their answers were."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from autotune.benchmark.workload.reading import needed, number, objects, table, whole
from autotune.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

Timed = Literal["mooncake", "burstgpt", "azure"]

MOONCAKE = '{"timestamp": 0, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}'


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a trace."""

    at: float
    """Seconds, from a moment that is the same for the whole trace."""
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    """What its prompt consists of, in blocks of 512 tokens: equal numbers are equal text."""


def mooncake(path: Path) -> Iterator[Row]:
    """Mooncake's JSON lines: `timestamp` in ms, two lengths, and a hash for each block of the prompt."""
    for where, entry in objects(path, MOONCAKE):
        needed(where, entry, ["timestamp", "input_length", "output_length", "hash_ids"])
        ids = entry["hash_ids"]
        if not isinstance(ids, list) or any(type(one) is not int for one in ids):
            raise SpecError(f"{where}: hash_ids is {str(ids)[:40]}; allowed is a list of whole numbers")
        yield Row(
            number(where, "timestamp", entry["timestamp"]) / 1000,
            whole(where, "input_length", entry["input_length"]),
            whole(where, "output_length", entry["output_length"]),
            tuple(ids),
        )


def burstgpt(path: Path) -> Iterator[Row]:
    """BurstGPT's CSV: `Timestamp` in seconds, and two lengths."""
    for where, row in table(path, ["Timestamp", "Request tokens", "Response tokens"]):
        yield Row(
            number(where, "Timestamp", row["Timestamp"]),
            whole(where, "Request tokens", row["Request tokens"]),
            whole(where, "Response tokens", row["Response tokens"]),
        )


def azure(path: Path) -> Iterator[Row]:
    """The CSV of Azure's LLM inference traces: `TIMESTAMP` on a wall clock, and two lengths."""
    for where, row in table(path, ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]):
        yield Row(
            _moment(where, row["TIMESTAMP"]),
            whole(where, "ContextTokens", row["ContextTokens"]),
            whole(where, "GeneratedTokens", row["GeneratedTokens"]),
        )


def _moment(where: str, text: str) -> float:
    """Seconds of a date and a time; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise SpecError(
            f"{where}: TIMESTAMP is {text!r}; allowed is a date and a time, as in 2023-11-16 18:15:46.6805900"
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


READERS: Mapping[Timed, Callable[[Path], Iterator[Row]]] = {"mooncake": mooncake, "burstgpt": burstgpt, "azure": azure}
