"""How an answer is worded: the four shapes in which Ollama sends tokens, serialised by hand.

A voice makes the bytes of one token from pieces that are ready, because one process has to say more than a thousand a
second; only the lines that come once in an answer go through `json`.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from autotune.simulator.library import go_time

if TYPE_CHECKING:
    from autotune.simulator.bodies import Question

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ending:
    """The figures of a finished answer; durations in s, as a client could have measured them."""

    done_reason: str
    prompt_tokens: int
    eval_count: int
    context: int
    """How many token numbers /api/generate gives back; 0: none."""
    total_s: float
    load_s: float
    prefill_s: float
    decode_s: float

    def fields(self) -> Json:
        """As Ollama's last line has them: nanoseconds, and what is zero is left out."""
        figures = {
            "total_duration": round(self.total_s * 1e9),
            "load_duration": round(self.load_s * 1e9),
            "prompt_eval_count": self.prompt_tokens,
            "prompt_eval_duration": round(self.prefill_s * 1e6) * 1000,
            "eval_count": self.eval_count,
            # for a single token llama-server says a microsecond
            "eval_duration": max(1, round(self.decode_s * 1e6)) * 1000 if self.eval_count else 0,
        }
        context = {"context": list(range(1, self.context + 1))} if self.context else {}
        return {"done_reason": self.done_reason} | context | {key: value for key, value in figures.items() if value}


class Voice(Protocol):
    """One shape of answers."""

    @property
    def stream_type(self) -> str:
        """Content type of an answer in pieces."""

    @property
    def whole_type(self) -> str:
        """Content type of an answer in one."""

    def piece(self, quoted: bytes, *, thinking: bool) -> bytes:
        """One token, its text as a JSON string."""

    def ending(self, ending: Ending) -> bytes:
        """What comes after the last token."""

    def whole(self, text: str, thoughts: str, ending: Ending) -> bytes:
        """The answer in one."""

    def broken(self, words: str) -> bytes:
        """What comes when the model's process breaks."""


class Generate:
    """NDJSON of /api/generate."""

    stream_type = "application/x-ndjson"
    whole_type = "application/json; charset=utf-8"

    def __init__(self, question: Question) -> None:
        self._model = question.model
        self._head = f'{{"model":{json.dumps(question.model)},"created_at":"'.encode()

    def piece(self, quoted: bytes, *, thinking: bool) -> bytes:
        body = b'","response":"","thinking":%b,"done":false}\n' if thinking else b'","response":%b,"done":false}\n'
        return self._head + _now() + body % quoted

    def ending(self, ending: Ending) -> bytes:
        return _line(self._said("", "") | {"done": True} | ending.fields()) + b"\n"

    def whole(self, text: str, thoughts: str, ending: Ending) -> bytes:
        return _line(self._said(text, thoughts) | {"done": True} | ending.fields())

    def broken(self, words: str) -> bytes:
        return _line({"error": f"an error was encountered while running the model: {words}"}) + b"\n"

    def _said(self, text: str, thoughts: str) -> Json:
        said: Json = {"model": self._model, "created_at": _now().decode(), "response": text}
        return said | ({"thinking": thoughts} if thoughts else {})


class Chat(Generate):
    """NDJSON of /api/chat."""

    def piece(self, quoted: bytes, *, thinking: bool) -> bytes:
        text = b'"","thinking":%b' % quoted if thinking else quoted
        return self._head + _now() + b'","message":{"role":"assistant","content":%b},"done":false}\n' % text

    def _said(self, text: str, thoughts: str) -> Json:
        message = {"role": "assistant", "content": text} | ({"thinking": thoughts} if thoughts else {})
        return {"model": self._model, "created_at": _now().decode(), "message": message}


class OpenaiChat:
    """Server-sent events of /v1/chat/completions."""

    stream_type = "text/event-stream"
    whole_type = "application/json"
    kind = "chat.completion"
    id_prefix = "chatcmpl"

    def __init__(self, question: Question) -> None:
        self._usage = question.usage
        self._begun = False
        self._same: Json = {
            "id": f"{self.id_prefix}-{random.randrange(1000)}",
            "object": f"{self.kind}.chunk",
            "created": int(time.time()),
            "model": question.model,
            "system_fingerprint": "fp_ollama",
        }
        self._head = b"data: " + _line(self._same)[:-1]

    def piece(self, quoted: bytes, *, thinking: bool) -> bytes:
        field = b'"reasoning":' if thinking else b'"content":'
        role = b"" if self._begun else b'"role":"assistant",'
        self._begun = True
        delta = role + field + quoted
        return self._head + b',"choices":[{"index":0,"delta":{%b},"finish_reason":null}]}\n\n' % delta

    def ending(self, ending: Ending) -> bytes:
        finish = self._same | {"choices": [{"index": 0, "delta": {}, "finish_reason": ending.done_reason}]}
        events = [finish]
        if self._usage:
            events.append(self._same | {"choices": [], "usage": _usage(ending)})
        return b"".join(_event(event) for event in events) + b"data: [DONE]\n\n"

    def whole(self, text: str, thoughts: str, ending: Ending) -> bytes:
        message = {"role": "assistant", "content": text} | ({"reasoning": thoughts} if thoughts else {})
        choice = {"index": 0, "message": message, "finish_reason": ending.done_reason}
        return _line(self._same | {"object": self.kind, "choices": [choice], "usage": _usage(ending)}) + b"\n"

    def broken(self, words: str) -> bytes:  # noqa: ARG002 – Ollama loses the words here
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": None}
        return _event(self._same | {"model": "", "choices": [choice]})


class OpenaiText(OpenaiChat):
    """Server-sent events of /v1/completions."""

    kind = "text_completion"
    id_prefix = "cmpl"

    def __init__(self, question: Question) -> None:
        super().__init__(question)
        self._same["object"] = self.kind
        none = {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}
        self._zero: Json = none if self._usage else {}

    def piece(self, quoted: bytes, *, thinking: bool) -> bytes:
        return _event(self._chunk("" if thinking else json.loads(quoted), None))

    def ending(self, ending: Ending) -> bytes:
        events = [self._chunk("", ending.done_reason)]
        if self._usage:
            events.append(self._chunk("", None) | {"choices": [], "usage": _usage(ending)})
        return b"".join(_event(event) for event in events) + b"data: [DONE]\n\n"

    def whole(self, text: str, thoughts: str, ending: Ending) -> bytes:
        return _line(self._chunk(thoughts + text, ending.done_reason) | {"usage": _usage(ending)}) + b"\n"

    def broken(self, words: str) -> bytes:  # noqa: ARG002 – Ollama loses the words here
        return _event(self._chunk("", None) | {"model": ""})

    def _chunk(self, text: str, finish_reason: str | None) -> Json:
        choices = {"choices": [{"text": text, "index": 0, "finish_reason": finish_reason}]}
        first = {key: self._same[key] for key in ("id", "object", "created")}
        return first | choices | self._same | self._zero


@lru_cache(maxsize=1)
def _until_second(second: int) -> bytes:
    return go_time(second * 1_000_000_000)[:-1].encode()


def _now() -> bytes:
    second, part = divmod(time.time_ns(), 1_000_000_000)
    digits = (b"%09d" % part).rstrip(b"0")
    return _until_second(second) + (b"." + digits if digits else b"") + b"Z"


def _line(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _event(value: Json) -> bytes:
    return b"data: " + _line(value) + b"\n\n"


def _usage(ending: Ending) -> Json:
    asked, said = ending.prompt_tokens, ending.eval_count
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
