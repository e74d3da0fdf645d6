"""Carries requests over aiohttp: wherever it runs, and with TLS. `wire` is the faster one, for plain HTTP on Linux."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

import aiohttp

from autotune.benchmark.exchange import CHEAP, KEEP_ALIVE_S, MOST_CONNECTIONS, Exchange, carried, now, opened
from autotune.benchmark.watch import Watch
from autotune.records import UPSTREAM_HEADER

if TYPE_CHECKING:
    import ssl
    from types import SimpleNamespace

    from autotune.benchmark.dialect import Ask
    from autotune.benchmark.flight import Flight
    from autotune.benchmark.watch import Pulse
    from autotune.records import RequestRecord


class HttpClient:
    """The client of a load over aiohttp's HTTP/1.1; `async with` it."""

    lead_s = 0.0

    def __init__(
        self, base_url: str, ask: Ask, *, connections: int = MOST_CONNECTIONS, tls: ssl.SSLContext | None = None
    ) -> None:
        self._url = base_url.rstrip("/")
        self._ask = ask
        self._most_connections = connections
        self._tls = tls
        self._opened = 0
        self._watch = Watch()
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # no limit: a request that waits here for a connection would be a queue of our own, and be measured
            connector=aiohttp.TCPConnector(
                limit=0, force_close=False, keepalive_timeout=KEEP_ALIVE_S, ssl=self._tls or True
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            trace_configs=[_trace()],
            headers=self._ask.all_headers,
            trust_env=False,
            auto_decompress=False,
            read_bufsize=1 << 16,
        )
        self._watch.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._watch.end()
        await self._session.close()

    async def open(self, connections: int) -> int:
        """Open connections ahead of the load, with that many cheap requests at once; how many were opened so far."""
        wanted = min(connections, self._most_connections)
        self._opened += await opened(self._ask, wanted, self._knock, aiohttp.ClientError)
        return self._opened

    async def _knock(self, exchange: Exchange) -> None:
        async with self._session.get(f"{self._url}{CHEAP}", trace_request_ctx=exchange) as response:
            await response.read()

    async def send(self, flight: Flight) -> RequestRecord:
        """Carry one request; see `flight.Client`."""
        return await carried(Exchange(self._ask, flight), flight, self._carry, self._turn, aiohttp.ClientError)

    async def _carry(self, exchange: Exchange, flight: Flight) -> None:
        url, body = self._url + self._ask.dialect.path, self._ask.body(flight.prompt)
        async with self._session.post(url, data=body, allow_redirects=False, trace_request_ctx=exchange) as response:
            exchange.head(response.status, response.headers.get(UPSTREAM_HEADER, ""))
            async for data in response.content.iter_any():
                exchange.hear(now(), data)

    async def pulse(self) -> tuple[Pulse, ...]:
        """How this process has been so far."""
        return (self._watch.pulse(),)


def _trace() -> aiohttp.TraceConfig:
    """Stamps what only aiohttp sees: the last bytes going to the socket, and whether a connection had to be opened.

    `on_request_headers_sent` would be too early: headers wait for the body, and both leave together.
    """

    async def chunk_sent(_: object, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.wrote(now())

    async def connected(_: object, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.connected = True

    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(chunk_sent)
    trace.on_connection_create_end.append(connected)
    return trace
