"""Carries requests to an Ollama, or to the nginx in front of several, and notes when what came.

Nothing but what must happen at once happens while a stream runs: each network read is kept with its time, and looked at
only until the first text is seen. It is parsed when it is over. So the client costs little, and what it costs does not
fall into anybody's waiting time.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import aiohttp

from autotune.benchmark.parse import Parsed, digest, error_text, parse_ndjson, parse_sse
from autotune.records import UPSTREAM_HEADER, Outcome, RequestRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import SimpleNamespace

    from autotune.benchmark.flight import Flight
    from autotune.benchmark.workload import Prompt

    Reads = Sequence[tuple[float, bytes]]
    Endpoint = Literal["generate", "chat", "openai"]

LOAD_TIME_OPTIONS = frozenset(
    {"num_ctx", "num_batch", "num_gpu", "num_thread", "main_gpu", "use_mmap", "draft_num_predict"}
)
"""Options with which one request reloads the model of everybody."""

OPENAI_OPTIONS = frozenset({"temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty"})

KEEP_ALIVE_S = 55.0
"""Below the 60 or 75 s after which nginx ends a connection on which nothing happens."""

TEXT = re.compile(rb'"(?:response|content|thinking|reasoning|reasoning_content)":\s*"[^"]')
"""The first character of a text that is not empty. Quotes inside a text are escaped, so no text can look like this."""

OVERLAP = 32
"""More bytes than TEXT matches: so many of each read are looked at again with the next."""


@dataclass(frozen=True, slots=True)
class _Dialect:
    path: str
    parse: Callable[[Reads], Parsed]
    piece: bytes
    """What each piece of text has once; counted for the display only."""


DIALECTS: Mapping[Endpoint, _Dialect] = {
    "generate": _Dialect("/api/generate", parse_ndjson, b"\n"),
    "chat": _Dialect("/api/chat", parse_ndjson, b"\n"),
    "openai": _Dialect("/v1/chat/completions", parse_sse, b"data:"),
}


@dataclass(slots=True)
class _Exchange:
    """What is known of a request while it runs: filled here, and by aiohttp's trace."""

    written_at: float | None = None
    connected: bool = False
    status: int | None = None
    upstream: str = ""
    reads: list[tuple[float, bytes]] = field(default_factory=list)
    flight: Flight | None = None


class HttpClient:
    """The client of a load, over HTTP/1.1; `async with` it.

    `options` are sent as they are; ValueError for one that belongs to the load of the model, or that the endpoint
    cannot say. `think` None leaves the choice to the model. `raw` (generate only) sends the text without the model's
    template. A request has `timeout_s` seconds from the moment in which it is sent, or for ever.
    """

    def __init__(  # noqa: PLR0913 - one argument for each thing a request says
        self,
        base_url: str,
        endpoint: Endpoint,
        model: str,
        *,
        options: Mapping[str, Any] | None = None,
        think: bool | None = None,
        raw: bool = False,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        connections: int = 4096,
    ) -> None:
        self._url = base_url.rstrip("/")
        self._endpoint = endpoint
        self._dialect = DIALECTS[endpoint]
        self._model = model
        self._options = dict(options or {})
        self._think = think
        self._raw = raw
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"} | dict(headers or {})
        self._timeout_s = timeout_s
        self._most_connections = connections
        self._opened = 0
        self._refuse()

    def _refuse(self) -> None:
        if reloading := sorted(LOAD_TIME_OPTIONS & set(self._options)):
            raise ValueError(
                f"{', '.join(reloading)} would reload the model; set it on the server or in a derived model"
            )
        if self._endpoint == "openai" and (unknown := sorted(set(self._options) - OPENAI_OPTIONS)):
            raise ValueError(f"the openai endpoint cannot say {', '.join(unknown)}")
        if self._raw and self._endpoint != "generate":
            raise ValueError("raw is an option of the generate endpoint only")

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # no limit: a request that waits here for a connection would be a queue of our own, and be measured
            connector=aiohttp.TCPConnector(limit=0, force_close=False, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            trace_configs=[_trace()],
            headers=self._headers,
            trust_env=False,
            auto_decompress=False,
            read_bufsize=1 << 16,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def open(self, connections: int) -> int:
        """Open connections ahead of the load, with that many cheap requests at once; how many were opened so far."""
        wanted = min(connections, self._most_connections)
        opened = await asyncio.gather(*(self._open_one() for _ in range(wanted)))
        self._opened += sum(opened)
        return self._opened

    async def _open_one(self) -> bool:
        exchange = _Exchange()
        try:
            async with (
                asyncio.timeout(30),
                self._session.get(f"{self._url}/api/version", trace_request_ctx=exchange) as response,
            ):
                await response.read()
        except (aiohttp.ClientError, OSError):
            # the load itself will show what is wrong with the server, request by request
            return False
        return exchange.connected

    async def send(self, flight: Flight) -> RequestRecord:
        """Carry one request; see `flight.Client`."""
        loop = asyncio.get_running_loop()
        exchange = _Exchange(flight=flight)
        ended, error = Outcome.OK, ""
        try:
            async with flight.bounded(self._timeout_s):
                await self._exchange(flight, exchange)
        except (aiohttp.ClientError, OSError) as exception:
            ended, error = Outcome.FAILED, f"{type(exception).__name__}: {exception}"
            if isinstance(exception, TimeoutError) and flight.was_cut:
                ended, error = Outcome.CUT_OFF, ""
            elif type(exception) is TimeoutError:
                ended, error = Outcome.TIMEOUT, f"no end after {self._timeout_s} s"
        finally:
            flight.settled.set()
        return self._record(flight, exchange, ended, error, loop.time())

    async def _exchange(self, flight: Flight, exchange: _Exchange) -> None:
        url, body = self._url + self._dialect.path, json.dumps(self._body(flight.prompt)).encode()
        async with self._session.post(url, data=body, allow_redirects=False, trace_request_ctx=exchange) as response:
            exchange.status = response.status
            # nginx names every instance that it tried; the last one answered
            exchange.upstream = response.headers.get(UPSTREAM_HEADER, "").rpartition(",")[2].strip()
            await self._listen(response.content, flight, exchange.reads)

    async def _listen(self, content: aiohttp.StreamReader, flight: Flight, reads: list[tuple[float, bytes]]) -> None:
        clock, piece = asyncio.get_running_loop().time, self._dialect.piece
        seen = b""
        async for data in content.iter_any():
            now = clock()
            reads.append((now, data))
            flight.pieces += data.count(piece)
            if flight.first_content_at is None:
                seen = seen[-OVERLAP:] + data
                if TEXT.search(seen):
                    flight.speak(now)

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        if self._endpoint == "openai":
            return self._openai_body(prompt)
        options = self._options | {"num_predict": prompt.num_predict}
        body: dict[str, Any] = {"model": self._model, "stream": True, "options": options}
        if self._endpoint == "chat":
            body["messages"] = [{"role": "user", "content": prompt.text}]
        else:
            body["prompt"] = prompt.text
        if self._think is not None:
            body["think"] = self._think
        return body | {"raw": True} if self._raw else body

    def _openai_body(self, prompt: Prompt) -> dict[str, Any]:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt.text}],
            "max_tokens": prompt.num_predict,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return body | self._options | ({"reasoning_effort": "none"} if self._think is False else {})

    def _record(
        self, flight: Flight, exchange: _Exchange, ended: Outcome, error: str, ended_at: float
    ) -> RequestRecord:
        rejected = exchange.status is not None and exchange.status >= 400
        parsed = self._dialect.parse(() if rejected else exchange.reads)
        if rejected:
            error = error_text(b"".join(data for _, data in exchange.reads)) or error
        outcome = Outcome.REJECTED if rejected else _outcome(parsed, ended)
        complete = outcome in (Outcome.OK, Outcome.EMPTY)
        return RequestRecord(
            index=flight.prompt.index,
            intended_at=flight.intended_at,
            outcome=outcome,
            written_at=exchange.written_at,
            first_content_at=parsed.chunk_times[0] if parsed.chunk_times else None,
            finished_at=parsed.done_at if complete else ended_at,
            chunk_times=parsed.chunk_times,
            status=exchange.status,
            error="" if complete else parsed.error or error or _unfinished(outcome),
            upstream=exchange.upstream,
            connected=exchange.connected,
            input_chars=len(flight.prompt.text),
            input_hash=digest(flight.prompt.text),
            output_chars=parsed.output_chars,
            output_hash=parsed.output_hash,
            done_reason=parsed.done_reason,
            prompt_eval_count=parsed.prompt_eval_count,
            eval_count=parsed.eval_count,
            total_duration_s=parsed.total_duration_s,
            load_duration_s=parsed.load_duration_s,
            prompt_eval_duration_s=parsed.prompt_eval_duration_s,
            eval_duration_s=parsed.eval_duration_s,
        )


def _outcome(parsed: Parsed, ended: Outcome) -> Outcome:
    """An answer that said it is complete is complete, even if its connection then broke."""
    if parsed.error:
        return Outcome.FAILED
    if parsed.done_at is not None:
        return Outcome.OK if parsed.chunk_times else Outcome.EMPTY
    return Outcome.FAILED if ended is Outcome.OK else ended


def _unfinished(outcome: Outcome) -> str:
    return "the stream ended without done" if outcome is Outcome.FAILED else ""


def _trace() -> aiohttp.TraceConfig:
    """Stamps what only aiohttp sees: the last bytes going to the socket, and whether a connection had to be opened.

    `on_request_headers_sent` would be too early: headers wait for the body, and both leave together.
    """

    async def chunk_sent(_: object, context: SimpleNamespace, __: object) -> None:
        exchange: _Exchange = context.trace_request_ctx
        exchange.written_at = asyncio.get_running_loop().time()
        if exchange.flight is not None:
            exchange.flight.written_at = exchange.written_at

    async def connected(_: object, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.connected = True

    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(chunk_sent)
    trace.on_connection_create_end.append(connected)
    return trace
