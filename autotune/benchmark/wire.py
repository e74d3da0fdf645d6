"""Carries requests over sockets of its own: plain HTTP/1.1 on Linux, with the kernel's stamps.

The kernel stamps each packet when it comes in (SO_TIMESTAMPNS), so what a chunk waits until this process gets round to
reading it is in nobody's waiting time, and is known. Packets that wait together have one stamp, that of the last: a
loop that is blocked for longer than the gap between two tokens makes a stamp late by what came meanwhile, never later.
The stamps are on the wall clock; each is moved to the monotonic one by how old it is at the moment in which it is read,
which no slow adjustment of the clock can spoil.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, urlsplit

from autotune.benchmark.exchange import CHEAP, KEEP_ALIVE_S, MOST_CONNECTIONS, Exchange, carried, now, opened
from autotune.benchmark.framing import BadAnswer, Framing, read_head
from autotune.benchmark.watch import Watch
from autotune.records import UPSTREAM_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.benchmark.dialect import Ask
    from autotune.benchmark.flight import Flight
    from autotune.benchmark.watch import Pulse
    from autotune.records import RequestRecord

SO_TIMESTAMPNS = getattr(socket, "SO_TIMESTAMPNS", 35)
"""asm-generic/socket.h; Python names it since 3.14."""

TIMESPEC = struct.Struct("@ll")
ANCILLARY = socket.CMSG_SPACE(TIMESPEC.size) if hasattr(socket, "CMSG_SPACE") else 0

UNTIL_TEXT = 512
"""Bytes a read until the first text is there: a read has one stamp, that of its last packet."""
AT_MOST = 1 << 14

MANY_READS, PAUSE_S = 4, 0.001
"""Where so many connections had something to read at once, the loop waits so long before it looks again: from some
4,000 tokens/s on. Less than that is read as it comes."""

MOST_READS = 64
"""In one turn of the loop, so that what it has to send need not wait for all of them."""

MOST_HEAD = 1 << 16


class Inbox:
    """What comes in on all connections of a client: much of it is read together.

    A turn of the loop costs more than a read, and what the kernel has stamped can wait.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._poll = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._pause: asyncio.TimerHandle | None = None
        """Until when nobody looks; None while the loop itself sees to it."""
        self._loop.add_reader(self._poll.fileno(), self._drain)

    def add(self, fd: int, reader: Callable[[], None]) -> None:
        """Call `reader` whenever there is something to read from `fd`."""
        self._readers[fd] = reader
        self._poll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        """No more, before `fd` is closed. Harmless where there is none."""
        if self._readers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def close(self) -> None:
        """No more at all."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._poll.fileno())
        self._poll.close()

    def _drain(self) -> None:
        ready = self._poll.poll(0, MOST_READS)
        if len(ready) >= MANY_READS:
            if self._pause is None:
                self._loop.remove_reader(self._poll.fileno())
            self._pause = self._loop.call_later(0.0 if len(ready) == MOST_READS else PAUSE_S, self._drain)
        elif self._pause is not None:
            self._pause = None
            self._loop.add_reader(self._poll.fileno(), self._drain)
        for fd, _ in ready:
            if (reader := self._readers.get(fd)) is not None:  # the one before may have ended it
                reader()


class Connection:
    """One connection, with at most one request on it."""

    def __init__(self, sock: socket.socket, inbox: Inbox) -> None:
        self._sock = sock
        self._inbox = inbox
        self._loop = asyncio.get_running_loop()
        self._exchange: Exchange | None = None
        self._framing: Framing | None = None
        self._head = b""
        self._keep = True
        self._last = 0.0
        self._ended: asyncio.Future[None] | None = None
        self.idle_since = now()
        self.open = True
        inbox.add(sock.fileno(), self._readable)

    async def carry(self, exchange: Exchange, request: bytes) -> None:
        """Send it, and hear the answer to its end. Raises OSError for whatever goes wrong."""
        self._exchange, self._framing, self._head, self._keep = exchange, None, b"", True
        self._ended = self._loop.create_future()
        try:
            if await self._written(request):
                self._last = now()
                exchange.wrote(self._last)
            await self._ended
        except BaseException:
            self.close()  # an answer is still to come on it
            raise
        finally:
            self._exchange = self._ended = None
            self.idle_since = now()
        if not self._keep:
            self.close()

    @property
    def lives(self) -> bool:
        """Whether it can take another request: neither old nor, as the next turn of the loop would tell, closed."""
        if not self.open or now() - self.idle_since > KEEP_ALIVE_S:
            return False
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    async def _written(self, request: bytes) -> bool:
        """Whether all of it could be sent before the answer was over. Nearly always it goes at once."""
        try:
            sent = self._sock.send(request)
        except BlockingIOError:
            sent = 0
        if sent == len(request):
            return True
        assert self._ended is not None
        sending = self._loop.create_task(self._loop.sock_sendall(self._sock, request[sent:]))
        try:
            await asyncio.wait({sending, self._ended}, return_when=asyncio.FIRST_COMPLETED)
            if not self._ended.done():
                await sending
                return True
            self._keep = False
            return False
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    def close(self) -> None:
        """No more."""
        if self.open:
            self.open = False
            self._inbox.remove(self._sock.fileno())
            self._sock.close()

    def _readable(self) -> None:
        exchange = self._exchange
        most = UNTIL_TEXT if exchange is not None and exchange.waiting else AT_MOST
        try:
            data, ancillary, _, _ = self._sock.recvmsg(most, ANCILLARY)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        at = now()
        lag_s = age_s(ancillary)
        if not data:
            self._over()
        elif exchange is None:
            self.close()  # nobody has asked
        else:
            # never before what came before it, whatever the wall clock did
            self._last = max(self._last, at - lag_s)
            try:
                self._hear(exchange, self._last, data, at - self._last)
            except BadAnswer as error:
                self._fail(error)

    def _hear(self, exchange: Exchange, at: float, data: bytes, lag_s: float) -> None:
        framing = self._framing
        if framing is None:
            self._head += data
            framing, data = self._begin(exchange)
            if framing is None:
                return
        if body := framing.body(data):
            exchange.hear(at, body, lag_s)
        if framing.ended:
            self._keep = self._keep and not framing.beyond
            self._end()

    def _begin(self, exchange: Exchange) -> tuple[Framing | None, bytes]:
        """The head, once it is whole, and what came behind it."""
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            if len(head) > MOST_HEAD or not b"HTTP/1.".startswith(head[:7]):
                raise BadAnswer(f"no HTTP: {head[:40]!r}")
            return None, b""
        status, headers, keep = read_head(head)
        if 100 <= status < 200:
            self._head = rest
            return self._begin(exchange)
        exchange.head(status, headers.get(UPSTREAM_HEADER.lower(), ""))
        self._framing = Framing(headers, status)
        self._keep = keep and (self._framing.chunked or self._framing.left is not None)
        return self._framing, rest

    def _over(self) -> None:
        """The server has closed: the end of an answer without a length, else the end of the connection."""
        framing = self._framing
        if framing is not None and not framing.chunked and framing.left is None:
            self._keep = False
            self._end()
        else:
            self._fail(ConnectionResetError("the server closed the connection"))

    def _end(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _fail(self, error: OSError) -> None:
        self._keep = False
        if self._ended is None:
            self.close()
            return
        # `carry` closes it: what it may still be writing has to be taken from the loop before the number is free again
        self._inbox.remove(self._sock.fileno())
        if not self._ended.done():
            self._ended.set_exception(error)


def age_s(ancillary: list[tuple[int, int, bytes]]) -> float:
    """How long ago the kernel got the data, s; 0 where it does not say."""
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = TIMESPEC.unpack(raw[: TIMESPEC.size])
            age_ns: int = time.time_ns() - seconds * 1_000_000_000 - nanoseconds
            return max(0.0, age_ns / 1e9)
    return 0.0


class WireClient:
    """The client of a load over plain sockets; `async with` it."""

    lead_s = 0.0

    def __init__(self, base_url: str, ask: Ask, *, connections: int = MOST_CONNECTIONS) -> None:
        parts, self._wrong = urlsplit(""), ""
        try:
            parts = urlsplit(base_url)
            self._host, self._port = parts.hostname or "", parts.port or 80
            self._host.encode("idna")
        except ValueError as error:  # a UnicodeError is one
            self._wrong = f"the URL {base_url}: {error}"
        if not self._wrong and not self._host:
            self._wrong = "the URL has no host"
        self._prefix = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        self._ask = ask
        self._most_connections = connections
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._inbox: Inbox
        self._opened = 0
        self._watch = Watch()
        self._turn = asyncio.Lock()
        named = [("Host", parts.netloc.rpartition("@")[2]), ("Accept", "*/*"), *ask.all_headers.items()]
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in named)
        if not self._headers.isascii():
            self._wrong = self._wrong or "a header has characters that no header may have"

    async def __aenter__(self) -> Self:
        self._inbox = Inbox()
        self._watch.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._watch.end()
        for connection in [*self._idle, *self._busy]:
            connection.close()
        self._inbox.close()

    async def open(self, connections: int) -> int:
        """Open connections ahead of the load, with that many cheap requests at once; how many were opened so far."""
        self._opened += await opened(self._ask, min(connections, self._most_connections), self._knock)
        return self._opened

    async def _knock(self, exchange: Exchange) -> None:
        await self._exchange(exchange, self._request("GET", CHEAP))

    async def send(self, flight: Flight) -> RequestRecord:
        """Carry one request; see `flight.Client`."""
        return await carried(Exchange(self._ask, flight), flight, self._carry, self._turn)

    async def pulse(self) -> tuple[Pulse, ...]:
        """How this process has been so far."""
        return (self._watch.pulse(),)

    async def _carry(self, exchange: Exchange, flight: Flight) -> None:
        body = self._ask.body(flight.prompt)
        await self._exchange(exchange, self._request("POST", self._ask.dialect.path, body))

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._headers}{length}\r\n"
        return head.encode("ascii", "replace") + (body or b"")

    async def _exchange(self, exchange: Exchange, request: bytes) -> None:
        if self._wrong:
            raise OSError(self._wrong)
        connection = self._kept() or await self._connect(exchange)
        self._busy.add(connection)
        try:
            await connection.carry(exchange, request)
        finally:
            self._busy.discard(connection)
        if connection.open:
            self._idle.append(connection)

    def _kept(self) -> Connection | None:
        """The connection that was used last, if the server has not forgotten it."""
        while self._idle:
            connection = self._idle.pop()
            if connection.lives:
                return connection
            connection.close()
        return None

    async def _connect(self, exchange: Exchange) -> Connection:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        failed: OSError = OSError(f"{self._host} has no address")
        for family, kind, protocol, _, address in found:
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as error:  # a family that this host does not have
                failed = error
                continue
            try:
                sock.setblocking(False)  # noqa: FBT003
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
                await loop.sock_connect(sock, address)
            except BaseException as error:
                sock.close()
                if not isinstance(error, OSError):
                    raise
                failed = error
                continue
            exchange.connected = True
            return Connection(sock, self._inbox)
        raise failed
