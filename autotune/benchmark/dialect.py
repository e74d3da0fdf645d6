"""What all requests of a load have in common, and how an endpoint says it: pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from autotune.benchmark.parse import Parsed, parse_ndjson, parse_sse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from autotune.benchmark.workload import Prompt

    Reads = Sequence[tuple[float, bytes]]

Endpoint = Literal["generate", "chat", "openai", "completions"]

LOAD_TIME_OPTIONS = frozenset(
    {"num_ctx", "num_batch", "num_gpu", "num_thread", "main_gpu", "use_mmap", "draft_num_predict"}
)
"""Options with which one request reloads the model of everybody."""

OPENAI_OPTIONS = frozenset({"temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty"})


@dataclass(frozen=True, slots=True)
class Dialect:
    """Where an endpoint is, and how its answers are read."""

    path: str
    parse: Callable[[Reads], Parsed]
    piece: bytes
    """What each piece of text has once; counted for the display only."""


DIALECTS: Mapping[Endpoint, Dialect] = {
    "generate": Dialect("/api/generate", parse_ndjson, b"\n"),
    "chat": Dialect("/api/chat", parse_ndjson, b"\n"),
    "openai": Dialect("/v1/chat/completions", parse_sse, b"data:"),
    "completions": Dialect("/v1/completions", parse_sse, b"data:"),
}


@dataclass(frozen=True)
class Ask:
    """What every request of a load says besides its prompt.

    `options` are sent as they are; ValueError for one that belongs to the load of the model, or that the endpoint
    cannot say. `think` None leaves the choice to the model. `raw` (generate only) sends the text without the model's
    template. A request has `timeout_s` seconds from the moment in which it is sent, or for ever.
    """

    endpoint: Endpoint
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    think: bool | None = None
    raw: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if reloading := sorted(LOAD_TIME_OPTIONS & set(self.options)):
            raise ValueError(
                f"{', '.join(reloading)} would reload the model; set it on the server or in a derived model"
            )
        if self._openai and (unknown := sorted(set(self.options) - OPENAI_OPTIONS)):
            raise ValueError(f"the {self.endpoint} endpoint cannot say {', '.join(unknown)}")
        if self.raw and self.endpoint != "generate":
            raise ValueError("raw is an option of the generate endpoint only")

    @property
    def dialect(self) -> Dialect:
        """How its endpoint speaks."""
        return DIALECTS[self.endpoint]

    @property
    def _openai(self) -> bool:
        return self.endpoint in ("openai", "completions")

    @property
    def all_headers(self) -> dict[str, str]:
        """Headers of each request, with those that were asked for."""
        return {"Content-Type": "application/json", "Accept-Encoding": "identity", **self.headers}

    def body(self, prompt: Prompt) -> bytes:
        """The request's body: JSON."""
        said = self._openai_body(prompt) if self._openai else self._ollama_body(prompt)
        return json.dumps(said).encode()

    def _ollama_body(self, prompt: Prompt) -> dict[str, Any]:
        options = dict(self.options) | {"num_predict": prompt.num_predict}
        body: dict[str, Any] = {"model": self.model, "stream": True, "options": options}
        if self.endpoint == "chat":
            body["messages"] = _messages(prompt)
        else:
            body["prompt"] = prompt.text
        if self.think is not None:
            body["think"] = self.think
        return body | {"raw": True} if self.raw else body

    def _openai_body(self, prompt: Prompt) -> dict[str, Any]:
        body = {
            "model": self.model,
            "max_tokens": prompt.num_predict,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.endpoint == "completions":
            return body | {"prompt": prompt.text} | dict(self.options)
        quiet = {"reasoning_effort": "none"} if self.think is False else {}
        return body | {"messages": _messages(prompt)} | dict(self.options) | quiet


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    said = (*prompt.history, ("user", prompt.text))
    return [{"role": role, "content": text} for role, text in said]
