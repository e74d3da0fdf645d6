"""What a streamed answer says, read after it has ended: pure, on the network reads with their times.

Two dialects: Ollama's own (NDJSON, one object a line) and OpenAI's (server-sent events). How the network cut the stream
into reads changes the times and nothing else. A piece of text has the time of the read that completed its line.
Whatever the bytes are, nothing is raised.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Reads = Sequence[tuple[float, bytes]]
    """Time of each network read, and its bytes."""

MOST_ERROR_CHARS = 200

JSON = json.JSONDecoder().decode
"""`json.loads` would first find out in which Unicode each line is."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """An answer. A count or a duration that is missing or 0 is None: Ollama leaves zeros out."""

    chunk_times: tuple[float, ...]
    """One for each piece of text, answer or thinking."""
    first_answer_at: float | None
    """When the first text came that is no thinking."""
    output_chars: int
    output_hash: str
    done_at: float | None
    """When the line came that says that the answer is complete (`done`, or `[DONE]`); None where it never came."""
    done_reason: str
    error: str
    """The server's words inside the stream, or what of it could not be read."""
    prompt_eval_count: int | None
    eval_count: int | None
    total_duration_s: float | None
    load_duration_s: float | None
    prompt_eval_duration_s: float | None
    eval_duration_s: float | None


def parse_ndjson(reads: Reads) -> Parsed:
    """The answer in a stream of `/api/generate` or `/api/chat`."""
    found = _Found()
    for at, line in _lines(reads):
        entry = found.entry(line)
        message = entry.get("message")
        said = message if isinstance(message, dict) else entry
        found.think(at, said.get("thinking"))
        found.text(at, said.get("response") or said.get("content") or _calls(said))
        found.fail(entry.get("error"))
        if entry.get("done") is True:
            found.done_at = at
            found.done_reason = str(entry.get("done_reason", ""))
            found.last = entry
    return found.parsed()


def parse_sse(reads: Reads) -> Parsed:
    """The answer in a stream of `/v1/chat/completions` or `/v1/completions`. A delta with only a role is no text."""
    found = _Found()
    for at, line in _lines(reads):
        name, _, data = line.partition(b":")
        if name.strip() != b"data":
            # an empty line, a comment, or another field of an event; unless it is no event at all
            found.fail(f"not an event: {_shown(line)}" if line.startswith((b"{", b"<")) else None)
        elif data.strip() == b"[DONE]":
            found.done_at = at
        else:
            _hear_event(found, at, found.entry(data))
    return found.parsed()


def _hear_event(found: _Found, at: float, event: dict[str, Any]) -> None:
    choices, usage = event.get("choices"), event.get("usage")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        found.text(at, choice.get("text"))
        found.done_reason = str(choice.get("finish_reason") or found.done_reason)
        delta = choice.get("delta")
        if isinstance(delta, dict):
            found.think(at, delta.get("reasoning") or delta.get("reasoning_content"))
            found.text(at, delta.get("content") or _calls(delta))
    found.fail(event.get("error"))
    if isinstance(usage, dict):
        found.last = {"prompt_eval_count": usage.get("prompt_tokens"), "eval_count": usage.get("completion_tokens")}


def _calls(said: dict[str, Any]) -> str:
    """Calls of tools are an answer too; what they say is written out, to have a length."""
    calls = said.get("tool_calls")
    return json.dumps(calls) if isinstance(calls, list) and calls else ""


def error_text(body: bytes) -> str:
    """What an answer with an error status says, in either dialect, shortened."""
    try:
        entry = json.loads(body)
    except (ValueError, RecursionError):
        return _shown(body)
    told = entry.get("error") if isinstance(entry, dict) else None
    return _message(told) if told else _shown(body)


class _Found:
    """What has been read so far."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.texts: list[str] = []
        self.first_answer_at: float | None = None
        self.done_at: float | None = None
        self.done_reason = ""
        self.error = ""
        self.last: dict[str, Any] = {}

    def entry(self, line: bytes) -> dict[str, Any]:
        try:
            entry = JSON(line.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError):
            entry = None
        if isinstance(entry, dict):
            return entry
        self.fail(f"not a JSON object: {_shown(line)}")
        return {}

    def text(self, at: float, text: object) -> None:
        if self.think(at, text) and self.first_answer_at is None:
            self.first_answer_at = at

    def think(self, at: float, text: object) -> bool:
        if not isinstance(text, str) or not text:
            return False
        self.times.append(at)
        self.texts.append(text)
        return True

    def fail(self, told: object) -> None:
        if told and not self.error:
            self.error = _message(told)

    def parsed(self) -> Parsed:
        text, last = "".join(self.texts), self.last
        return Parsed(
            chunk_times=tuple(self.times),
            first_answer_at=self.first_answer_at,
            output_chars=len(text),
            output_hash=digest(text),
            done_at=self.done_at,
            done_reason=self.done_reason,
            error=self.error,
            prompt_eval_count=_count(last.get("prompt_eval_count")),
            eval_count=_count(last.get("eval_count")),
            total_duration_s=_seconds(last.get("total_duration")),
            load_duration_s=_seconds(last.get("load_duration")),
            prompt_eval_duration_s=_seconds(last.get("prompt_eval_duration")),
            eval_duration_s=_seconds(last.get("eval_duration")),
        )


def digest(text: str) -> str:
    """Sixteen hexadecimal digits that tell whether two texts are the same; empty for no text."""
    # JSON may carry half of a surrogate pair, which has no UTF-8 of its own
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest() if text else ""


def _lines(reads: Reads) -> Iterator[tuple[float, bytes]]:
    """Each line with text in it, and the time of the read that completed it; the last may lack its end."""
    rest, at = b"", 0.0
    for at, data in reads:
        if not rest and data.find(b"\n") == len(data) - 1:  # nearly always
            if line := data.strip():
                yield at, line
            continue
        *whole, rest = (rest + data).split(b"\n")
        yield from ((at, line.strip()) for line in whole if line.strip())
    if _whole(rest.strip()):
        yield at, rest.strip()


def _whole(rest: bytes) -> bool:
    """Whether what stands after the last line end is a line; half a line is only where the stream was cut."""
    if rest.endswith(b"[DONE]"):
        return True
    try:
        json.loads(rest.removeprefix(b"data:"))
    except (ValueError, RecursionError):
        return False
    return True


def _message(told: object) -> str:
    """Ollama's error is a text, OpenAI's an object with a message."""
    return _shown(str(told.get("message") or told) if isinstance(told, dict) else str(told))


def _shown(raw: bytes | str) -> str:
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    words = " ".join(text.encode("utf-8", "replace").decode().split())
    text = "".join(char if char.isprintable() else "\ufffd" for char in words)
    return text if len(text) <= MOST_ERROR_CHARS else text[: MOST_ERROR_CHARS - 1] + "…"


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _seconds(nanoseconds: object) -> float | None:
    return nanoseconds / 1e9 if type(nanoseconds) is int and 0 < nanoseconds < 1 << 63 else None
