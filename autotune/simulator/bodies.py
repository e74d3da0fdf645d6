"""What a request says: Ollama's and OpenAI's bodies, read as Ollama reads them, as one frozen value."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from autotune.simulator.environment import FOREVER_S, duration_s

Json = dict[str, Any]

GO_NAMES = {str: "string", bool: "bool", int: "int", list: "[]api.Message", dict: "map[string]interface {}"}

GENERATE = {
    "model": str, "prompt": str, "suffix": str, "system": str, "template": str, "stream": bool, "raw": bool,
    "options": dict, "truncate": bool, "shift": bool,
}  # fmt: skip
CHAT = {"model": str, "messages": list, "stream": bool, "options": dict, "truncate": bool, "shift": bool}
OPENAI = {"model": str, "messages": list, "prompt": str, "stream": bool, "max_tokens": int, "seed": int}

INTEGERS = frozenset({
    "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "seed", "num_predict", "top_k",
    "repeat_last_n", "draft_num_predict",
})  # fmt: skip
FLOATS = frozenset({
    "temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty",
})  # fmt: skip
LOAD_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "num_thread")


class Refused(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, message: str, *, early: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.early = early
        """Before the request was understood: /v1 then words its error in another place of Ollama's code."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request for an answer, whichever API it came by."""

    model: str
    text: str
    """Everything the model reads."""
    empty: bool
    """Nothing is asked: load the model, or unload it."""
    stream: bool = True
    raw: bool = False
    """Without `context` in the last line."""
    keep_alive_s: float | None = None
    options: Json = field(default_factory=dict)
    think: bool | None = None
    usage: bool = False
    """OpenAI's stream_options.include_usage."""

    def option(self, name: str, default: int) -> int:
        """A whole-number option."""
        return int(self.options.get(name, default))


def read_object(raw: bytes, struct: str, fields: dict[str, type]) -> Json:
    """A JSON object whose fields have these types, or Go's complaint."""
    if not raw.strip():
        raise Refused(400, "missing request body", early=True)
    try:
        body = json.loads(raw)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Refused(400, _go_complaint(raw, error), early=True) from error
    if not isinstance(body, dict):
        raise Refused(400, f"json: cannot unmarshal {_kind(body)} into Go value of type api.{struct}", early=True)
    for name, expected in fields.items():
        value = body.get(name)
        if value is not None and not _is_a(value, expected):
            words = f"json: cannot unmarshal {_kind(value)} into Go struct field {struct}.{name}"
            raise Refused(400, f"{words} of type {GO_NAMES[expected]}", early=True)
    return body


def generate(raw: bytes) -> Question:
    """POST /api/generate."""
    body = read_object(raw, "GenerateRequest", GENERATE)
    text = (body.get("system") or "") + (body.get("prompt") or "") + (body.get("suffix") or "")
    return Question(
        model=body.get("model") or "",
        text=text,
        empty=not body.get("prompt"),
        stream=body.get("stream") is not False,
        raw=bool(body.get("raw")),
        keep_alive_s=keep_alive(body.get("keep_alive")),
        options=body.get("options") or {},
        think=_think(body.get("think")),
    )


def chat(raw: bytes) -> Question:
    """POST /api/chat."""
    body = read_object(raw, "ChatRequest", CHAT)
    messages = body.get("messages") or []
    return Question(
        model=body.get("model") or "",
        text=_transcript(messages),
        empty=not messages,
        stream=body.get("stream") is not False,
        raw=True,
        keep_alive_s=keep_alive(body.get("keep_alive")),
        options=body.get("options") or {},
        think=_think(body.get("think")),
    )


def openai(raw: bytes) -> Question:
    """POST /v1/chat/completions and /v1/completions, which know no num_ctx and no keep_alive."""
    body = read_object(raw, "ChatCompletionRequest", OPENAI)
    messages = body.get("messages") or []
    options = {"num_predict": body.get("max_tokens"), "seed": body.get("seed")}
    return Question(
        model=body.get("model") or "",
        text=_transcript(messages) + (body.get("prompt") or ""),
        empty=False,
        stream=bool(body.get("stream")),
        raw=True,
        options={key: value for key, value in options.items() if value is not None},
        think=False if body.get("reasoning_effort") == "none" else None,
        usage=bool((body.get("stream_options") or {}).get("include_usage")),
    )


def check_options(options: Json) -> None:
    """Ollama answers 500, not 400, to an option of a wrong type."""
    for name, value in options.items():
        if name in INTEGERS and not (_is_a(value, int) or (isinstance(value, float) and value.is_integer())):
            raise Refused(500, f'option "{name}" must be of type integer')
        if name in FLOATS and not isinstance(value, int | float):
            raise Refused(500, f'option "{name}" must be of type float32')


def keep_alive(value: object) -> float | None:
    """A number is seconds, a string a Go duration; below 0 is for ever. None: the request does not say."""
    if value is None:
        return None
    seconds = duration_s(value) if isinstance(value, str) else None
    if isinstance(value, int | float):
        seconds = float(value)
    if seconds is None:
        raise Refused(400, f"time: invalid duration {json.dumps(value)}", early=True)
    return seconds if seconds >= 0 else FOREVER_S


def _transcript(messages: list[Any]) -> str:
    said = [message for message in messages if isinstance(message, dict)]
    return "".join(f"<{message.get('role')}>{message.get('content')}\n" for message in said)


def _think(value: object) -> bool | None:
    return None if value is None else bool(value)


def _is_a(value: object, expected: type) -> bool:
    return isinstance(value, expected) and (expected is bool or not isinstance(value, bool))


def _kind(value: object) -> str:
    kinds = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def _go_complaint(raw: bytes, error: json.JSONDecodeError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "invalid character in string literal"
    rest = raw.decode(errors="replace")[error.pos :].strip()
    if not rest or error.msg.startswith("Unterminated"):
        return "unexpected EOF"
    return f"invalid character '{rest[0]}' looking for beginning of value"
