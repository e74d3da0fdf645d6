"""One request while it runs, and the record that comes of it: what all clients share.

Nothing but what must happen at once happens while a stream runs: each network read is kept with its time, and looked at
only until the first text is seen. It is parsed when it is over. So the client costs little, and what it costs does not
fall into anybody's waiting time.
"""

from __future__ import annotations

import asyncio
import errno
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autotune.benchmark.parse import Parsed, digest, error_text
from autotune.errors import ClusterError
from autotune.records import Outcome, RequestRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from autotune.benchmark.dialect import Ask
    from autotune.benchmark.flight import Flight

TEXT = re.compile(rb'"(?:response|content|thinking|reasoning|reasoning_content|text|arguments)":\s*"[^"]')
"""The first character of a text that is not empty. Quotes inside a text are escaped, so no text can look like this."""

OVERLAP = 32
"""More bytes than TEXT matches: so many of each read are looked at again with the next."""

KEEP_ALIVE_S = 55.0
"""Below the 60 or 75 s after which nginx ends a connection on which nothing happens."""

MOST_CONNECTIONS = 4096

OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL})
"""Errors of a connection that are no server's: no more open files, or no more ports."""

now = time.monotonic
"""The clock of all stamps: the one beneath every event loop (uvloop's own is that clock too, rounded to ms)."""


@dataclass(slots=True)
class Exchange:
    """What is known of a request while it runs."""

    ask: Ask
    flight: Flight | None = None
    """None for a request that only opens a connection."""
    written_at: float | None = None
    connected: bool = False
    status: int | None = None
    upstream: str = ""
    reads: list[tuple[float, bytes]] = field(default_factory=list)
    receive_lag_s: float | None = None
    _seen: bytes = b""

    @property
    def waiting(self) -> bool:
        """Whether its first text is still to come."""
        return self.flight is not None and self.flight.first_content_at is None

    def wrote(self, at: float) -> None:
        """The last byte of the request has been handed to the socket."""
        self.written_at = at
        if self.flight is not None:
            self.flight.wrote(at)

    def head(self, status: int, upstream: str) -> None:
        """The answer begins. nginx names every instance that it tried; the last one answered."""
        self.status = status
        self.upstream = upstream.rpartition(",")[2].strip()

    def hear(self, at: float, data: bytes, lag_s: float | None = None) -> None:
        """A piece of the body, that came `lag_s` before it could be read."""
        self.reads.append((at, data))
        flight = self.flight
        if flight is None:
            return
        flight.pieces += data.count(self.ask.dialect.piece)
        if flight.first_content_at is None:
            seen = self._seen[-OVERLAP:] + data
            self._seen = seen
            if TEXT.search(seen):
                self.receive_lag_s = lag_s
                flight.speak(at)


CHEAP = "/api/version"
"""What is asked to open a connection. Any answer will do, also that there is no such thing."""

CHEAP_S = 30.0


async def opened(
    ask: Ask, count: int, knock: Callable[[Exchange], Awaitable[None]], broken: type[Exception] = OSError
) -> int:
    """Knock so many times at once; how many connections that opened. A server that is gone is no error: the load itself
    will show what is wrong with it, request by request. Raises ClusterError where this host has no more of them."""

    async def one() -> bool:
        exchange = Exchange(ask)
        try:
            async with asyncio.timeout(CHEAP_S):
                await knock(exchange)
        except (broken, OSError) as error:
            _ours(error)
            return False
        return exchange.connected

    return sum(await asyncio.gather(*(one() for _ in range(count))))


def _ours(error: Exception) -> None:
    """Raises ClusterError for what is a fault of this host."""
    if getattr(error, "errno", None) in OURS:
        raise ClusterError(f"this host gives autotune no more connections: {error}; see `ulimit -n`") from error


async def carried(
    exchange: Exchange,
    flight: Flight,
    carry: Callable[[Exchange, Flight], Awaitable[None]],
    turn: asyncio.Lock,
    broken: type[Exception] = OSError,
) -> RequestRecord:
    """The record of a request that `carry` carries, whatever becomes of it.

    The one place where an exception becomes the outcome of a request: `broken` is what else than `OSError` says that
    the connection failed. Answers that end together are read one after the other, by whose `turn` it is: between two
    of them the loop sees to the bytes of all others. Raises ClusterError where this host has no more connections.
    """
    ask = exchange.ask
    ended, error = Outcome.OK, ""
    try:
        async with flight.bounded(ask.timeout_s):
            await carry(exchange, flight)
    except (broken, OSError) as exception:
        _ours(exception)
        ended, error = Outcome.FAILED, f"{type(exception).__name__}: {exception}"
        if isinstance(exception, TimeoutError) and flight.was_cut:
            ended, error = Outcome.CUT_OFF, ""
        elif type(exception) is TimeoutError and exception.errno is None:  # else it is the kernel's, of a connection
            ended, error = Outcome.TIMEOUT, f"no end after {ask.timeout_s} s"
    finally:
        flight.settled.set()
    ended_at = now()
    async with turn:
        await asyncio.sleep(0)
        return _record(exchange, flight, ended, error, ended_at)


def _record(exchange: Exchange, flight: Flight, ended: Outcome, error: str, ended_at: float) -> RequestRecord:
    rejected = exchange.status is not None and exchange.status >= 400
    parsed = exchange.ask.dialect.parse(() if rejected else exchange.reads)
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
        first_answer_at=parsed.first_answer_at,
        finished_at=parsed.done_at if complete else ended_at,
        chunk_times=parsed.chunk_times,
        receive_lag_s=exchange.receive_lag_s,
        status=exchange.status,
        error="" if complete else parsed.error or error or _unfinished(outcome),
        upstream=exchange.upstream,
        connected=exchange.connected,
        input_chars=flight.prompt.chars,
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
