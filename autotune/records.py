"""What became of one request: the raw material of every figure. Never its text, only lengths and a hash."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

UPSTREAM_HEADER = "X-Autotune-Upstream"
"""The response header by which nginx says which instance served a request."""


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    EMPTY = "empty"
    """`done` came, but not one character of text."""
    REJECTED = "rejected"
    """An HTTP error status."""
    FAILED = "failed"
    """The stream broke, carried an error line, or ended without `done`."""
    TIMEOUT = "timeout"
    CUT_OFF = "cut_off"
    """Still running at the bound after the window: censored, not an error."""

    @property
    def failure(self) -> bool:
        """Whether it counts against the success rate, but for answers without text."""
        return self in (Outcome.REJECTED, Outcome.FAILED, Outcome.TIMEOUT)


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request. Stamps are seconds on the event loop's monotonic clock; durations are Ollama's own, in seconds.

    A stamp is None where that moment never came; a count or a duration is None where the server did not say it
    (Ollama leaves zero values out of its JSON, so that None may also mean 0).
    """

    index: int
    """Position in the workload: equal indices of two trials carry the same body but for the nonce."""
    intended_at: float
    outcome: Outcome
    written_at: float | None = None
    first_content_at: float | None = None
    first_answer_at: float | None = None
    """The first text of the answer itself; later than `first_content_at` where a model has thought before."""
    receive_lag_s: float | None = None
    """How long the first text lay ready in the kernel before the client read it; in no stamp. None where unknown."""
    finished_at: float | None = None
    chunk_times: tuple[float, ...] = ()
    """When each chunk that carries text (answer or thinking) arrived."""
    status: int | None = None
    error: str = ""
    """The server's or the client's words, shortened; for people, never parsed."""
    upstream: str = ""
    """host:port of the instance that served it, where known."""
    connected: bool = False
    """The request had to open a connection first."""
    input_chars: int = 0
    input_hash: str = ""
    output_chars: int = 0
    output_hash: str = ""
    done_reason: str = ""
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    total_duration_s: float | None = None
    load_duration_s: float | None = None
    prompt_eval_duration_s: float | None = None
    eval_duration_s: float | None = None


def encode(record: RequestRecord) -> dict[str, Any]:
    """The record as plain JSON values, exact to the last bit; `decode` gives it back.

    Chunk times, by far the most of it, are the base64 of little-endian doubles.
    """
    encoded = {field.name: getattr(record, field.name) for field in fields(record)}
    times = struct.pack(f"<{len(record.chunk_times)}d", *record.chunk_times)
    return encoded | {"outcome": record.outcome.value, "chunk_times": base64.b64encode(times).decode("ascii")}


def decode(encoded: dict[str, Any]) -> RequestRecord:
    """The record that `encode` was given; ValueError for anything else."""
    try:
        raw = base64.b64decode(encoded["chunk_times"], validate=True)
        times = struct.unpack(f"<{len(raw) // 8}d", raw)
        return RequestRecord(**encoded | {"outcome": Outcome(encoded["outcome"]), "chunk_times": times})
    except (KeyError, TypeError, struct.error) as error:
        raise ValueError(f"not the record of a request: {error}") from error


DURATIONS = ("total_duration_s", "load_duration_s", "prompt_eval_duration_s", "eval_duration_s", "receive_lag_s")
STAMPS = ("intended_at", "written_at", "first_content_at", "first_answer_at", "finished_at")


def scaled(record: RequestRecord, factor: float) -> RequestRecord:
    """The record on a clock that runs `factor` times as long: that of a played host."""
    if factor == 1:
        return record
    times = {name: at * factor for name in (*STAMPS, *DURATIONS) if (at := getattr(record, name)) is not None}
    return replace(record, **times, chunk_times=tuple(at * factor for at in record.chunk_times))
