"""The client over sockets of its own: HTTP however it is cut, connections that end, the kernel's stamps."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from autotune.benchmark.client import HttpClient
from autotune.benchmark.dialect import DIALECTS, Ask
from autotune.benchmark.exchange import Exchange
from autotune.benchmark.flight import Flight
from autotune.benchmark.framing import BadAnswer, Framing
from autotune.benchmark.wire import (
    MANY_READS,
    MOST_HEAD,
    MOST_READS,
    SO_TIMESTAMPNS,
    Connection,
    Inbox,
    WireClient,
    age_s,
)
from autotune.benchmark.workload import Prompt
from autotune.records import Outcome
from tests.benchmark import exchanges
from tests.benchmark.server import DONE, END, HEAD, Server, line, serving, status
from tests.conftest import until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from autotune.benchmark.dialect import Endpoint
    from autotune.records import RequestRecord

    Run = Callable[[Coroutine[Any, Any, Any]], Any]

OPEN = HEAD + b"\r\n"
HELLO = line(response="Hello", done=False)
WHOLE = OPEN + HELLO + DONE + END
PLAIN = b'{"response":"Hello","done":false}\n{"response":"","done":true,"eval_count":2}\n'
CHUNKED = {"transfer-encoding": "chunked"}
ASK = Ask("generate", "tiny")

LOOSE_S = 0.05
"""What a busy machine may add to any time."""


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=LOOPS)
def play(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine, on each loop that carries loads."""

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(coroutine)

    return run


def flight(index: int = 0, text: str = "") -> Flight:
    return Flight(Prompt(index, text or f"prompt {index}", 12), time.monotonic())


# the body out of its bytes


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A body, and its chunks: sizes as anybody may write them, extensions, trailers."""
    pieces = draw(st.lists(st.binary(min_size=1, max_size=300), max_size=6))
    raw = b""
    for piece in pieces:
        size = f"{len(piece):{draw(st.sampled_from(['x', 'X', '04x']))}}".encode()
        raw += size + draw(st.sampled_from([b"", b";a", b"; name=value", b' ;q="x;y"'])) + b"\r\n" + piece + b"\r\n"
    raw += draw(st.sampled_from([b"0", b"000", b"0;last"])) + b"\r\n"
    raw += draw(st.sampled_from([b"", b"Trailer: 1\r\n", b"A: b\r\nServer-Timing: 0\r\n"])) + b"\r\n"
    return b"".join(pieces), raw


@st.composite
def parts(draw: st.DrawFn, raw: bytes) -> list[bytes]:
    """The same bytes in any parts."""
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    return [raw[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True) if begin < end]


def fed(headers: dict[str, str], pieces: Sequence[bytes]) -> tuple[bytes, int | None]:
    """The body, and how many bytes had been given when it ended, to the end of their piece."""
    framing, found, given_ = Framing(headers, 200), b"", 0
    for piece in pieces:
        found += framing.body(piece)
        given_ += len(piece)
        if framing.ended:
            return found, given_
    return found, None


def one_by_one(raw: bytes) -> list[bytes]:
    return [raw[at : at + 1] for at in range(len(raw))]


@given(st.data(), chunked())
def test_chunks_are_the_same_however_they_are_cut(data: st.DataObject, made: tuple[bytes, bytes]) -> None:
    body, raw = made
    pieces = data.draw(parts(raw))
    assert fed(CHUNKED, pieces) == (body, len(raw))
    assert fed(CHUNKED, one_by_one(raw)) == (body, len(raw))


@given(st.data(), st.binary(min_size=1, max_size=300))
def test_a_body_of_a_length_or_to_the_end_is_the_same_however_it_is_cut(data: st.DataObject, body: bytes) -> None:
    pieces, length = data.draw(parts(body)), {"content-length": str(len(body))}
    assert fed(length, pieces) == fed(length, one_by_one(body)) == (body, len(body))
    assert fed({}, pieces) == fed({}, one_by_one(body)) == (body, None)


def test_what_has_no_body_has_ended_before_it_begins() -> None:
    assert Framing({"content-length": "0"}, 200).ended
    assert Framing({}, 204).ended
    assert Framing({"content-length": "10"}, 304).ended
    assert not Framing({}, 200).ended
    assert not Framing(CHUNKED, 200).ended
    assert not Framing({"transfer-encoding": "gzip, Chunked"}, 200).ended


def test_no_content_has_no_body_whatever_its_head_says() -> None:
    assert Framing(CHUNKED, 204).ended


@pytest.mark.parametrize("headers", [CHUNKED, {"content-length": "5"}], ids=["chunked", "length"])
def test_the_body_ends_where_it_ends(headers: dict[str, str]) -> None:
    raw = b"5\r\nhello\r\n0\r\n\r\n" if headers == CHUNKED else b"hello"
    assert fed(headers, [raw + b"HTTP/1.1 408 Request Timeout\r\n\r\n"])[0] == b"hello"


@pytest.mark.parametrize(
    "size",
    [
        *(b"", b"g", b";5", b"5 5", b"five", b"\xff", b"5h"),
        *(b"-6", b"-1", b"+5", b"0x5", b"5_0", b"f" * 40),
    ],
)
def test_sizes_that_are_none(size: bytes) -> None:
    for more in (b"", b"x", b"\r\n0\r\n\r\n"):
        with pytest.raises(BadAnswer):
            Framing(CHUNKED, 200).body(size + b"\r\n" + more)


def test_a_size_without_end() -> None:
    with pytest.raises(BadAnswer):
        fed(CHUNKED, [b"1" * 100] * 100)


@pytest.mark.parametrize("length", ["-1", "1.5", "many", "0x10", "1, 1", "1_0"])
def test_lengths_that_are_none(length: str) -> None:
    with pytest.raises(BadAnswer):
        Framing({"content-length": length}, 200)


# the head, and what comes around it


async def conversation(pieces: Sequence[bytes], *, ends: bool = False) -> tuple[Exchange, bool]:
    """What one exchange hears of these pieces, each in a read of its own; and whether its connection stays open."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)  # noqa: FBT003
    exchange = Exchange(ASK)
    with theirs, closing(Inbox()) as inbox:
        connection = Connection(ours, inbox)
        carrying = asyncio.create_task(connection.carry(exchange, b"request"))
        for piece in pieces:
            for _ in range(3):
                await asyncio.sleep(0)
            theirs.sendall(piece)
        if ends:
            theirs.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(5):
            await carrying
        kept = connection.open
        connection.close()
    return exchange, kept


HEADS = st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 2])


@given(st.data(), HEADS, chunked())
def test_an_answer_may_be_cut_anywhere(data: st.DataObject, before: bytes, made: tuple[bytes, bytes]) -> None:
    body, framed = made
    head = b"HTTP/1.1 201 Made\r\nx-AUTOTUNE-upstream: a:1, b:2 \r\nTransfer-Encoding:chunked\r\nOther: x\r\n\r\n"
    exchange, kept = asyncio.run(conversation(data.draw(parts(before + head + framed))))
    assert (exchange.status, exchange.upstream, kept) == (201, "b:2", True)
    assert b"".join(piece for _, piece in exchange.reads) == body
    times = [at for at, _ in exchange.reads]
    assert times == sorted(times)
    assert exchange.written_at is not None
    assert all(at >= exchange.written_at for at in times)


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_every_byte_of_an_answer_may_come_alone(before: bytes) -> None:
    exchange, kept = await conversation(one_by_one(before + WHOLE))
    assert (exchange.status, kept) == (200, True)
    assert b"".join(piece for _, piece in exchange.reads).count(b"\n") == 2


@pytest.mark.parametrize(
    ("head", "ends", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", False, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n", False, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: Upgrade, Close\r\n\r\n", False, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", False, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: Keep-Alive\r\n\r\n", False, True),
        (b"HTTP/1.1 200 OK\r\n\r\n", True, False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", True, False),
    ],
)
async def test_a_connection_stays_open_where_both_sides_know_where_the_answer_ends(
    head: bytes, ends: bool, kept: bool
) -> None:
    exchange, stays = await conversation([head + b"hel", b"lo"], ends=ends)
    assert (b"".join(data for _, data in exchange.reads), stays) == (b"hello", kept)


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"\r\n\r\n",
        OPEN + b"not a size\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: much\r\n\r\n",
    ],
)
def test_what_is_no_http_fails_at_once(play: Run, garbage: bytes) -> None:
    """Also while the connection stays open, and nothing more comes."""

    async def whole() -> RequestRecord:
        async with serving(garbage, 30.0) as server, WireClient(server.url, ASK) as asking, asyncio.timeout(5):
            return await asking.send(flight())

    record = play(whole())
    assert record.outcome is Outcome.FAILED
    assert record.error.startswith("BadAnswer: ")


def test_a_head_has_a_bound(play: Run) -> None:
    async def send(size: int, rest: bytes) -> RequestRecord:
        head = HEAD + b"X-Long: " + b"x" * size
        async with serving(head + rest, 30.0) as server, WireClient(server.url, ASK) as asking, asyncio.timeout(5):
            return await asking.send(flight())

    assert play(send(MOST_HEAD // 2, b"\r\n\r\n" + HELLO + DONE + END)).outcome is Outcome.OK
    assert play(send(MOST_HEAD + 1024, b"")).error.startswith("BadAnswer: ")


# connections that can, and cannot, be used again


async def twice(*script: bytes | float | None, pause_s: float = 0.05) -> tuple[list[RequestRecord], Server]:
    async with serving(*script) as server, WireClient(server.url, ASK) as asking:
        records = []
        for index in range(2):
            records.append(await asking.send(flight(index)))
            await asyncio.sleep(pause_s)
    return records, server


@pytest.mark.parametrize(
    ("script", "connections"),
    [
        ((WHOLE,), 1),
        ((HEAD + b"Connection: close\r\n\r\n" + HELLO + DONE + END,), 2),
        ((b"HTTP/1.0 200 OK\r\n\r\n" + PLAIN, None), 2),
        ((b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PLAIN) + PLAIN,), 2),
        ((b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n" % len(PLAIN) + PLAIN,), 1),
        ((WHOLE, None), 2),
        ((WHOLE, 0.02, status(408)), 2),
        ((b"HTTP/1.1 100 Continue\r\n\r\n", 0.02, WHOLE), 1),
    ],
    ids=["kept", "close", "to-the-end", "http-1.0", "http-1.0-kept", "server-closes", "unasked", "continue"],
)
def test_connections_that_cannot_be_used_again(play: Run, script: tuple[Any, ...], connections: int) -> None:
    records, server = play(twice(*script))
    assert [(record.outcome, record.error, record.eval_count) for record in records] == [(Outcome.OK, "", 2)] * 2
    assert [record.connected for record in records] == [True, connections == 2]
    assert server.connections == connections


def test_unasked_bytes_in_the_same_packet_end_the_connection() -> None:
    records, server = asyncio.run(twice(WHOLE + status(408)))
    assert [record.outcome for record in records] == [Outcome.OK] * 2
    assert server.connections == 2


def test_a_broken_answer_is_not_heard_by_the_next_request(play: Run) -> None:
    async def whole() -> list[RequestRecord]:
        async with serving(OPEN, HELLO, 0.2, DONE + END) as server, WireClient(server.url, ASK) as asking:
            cut = flight()
            sending = asyncio.create_task(asking.send(cut))
            await cut.settled.wait()
            cut.cut()
            return [await sending, await asking.send(flight(1))]

    cut, record = play(whole())
    assert (cut.outcome, record.outcome, record.connected) == (Outcome.CUT_OFF, Outcome.OK, True)
    assert len(record.chunk_times) == 1


def test_ipv6(play: Run) -> None:
    async def whole(server: Server) -> RequestRecord:
        try:
            listener = await asyncio.start_server(server.serve, "::1", 0)
        except OSError as error:
            pytest.skip(f"no IPv6 on loopback: {error}")
        server.url = f"http://[::1]:{listener.sockets[0].getsockname()[1]}"
        async with WireClient(server.url, ASK) as asking:
            record = await asking.send(flight())
        listener.close()
        await asyncio.sleep(LOOSE_S)
        return record

    server = Server([WHOLE])
    assert play(whole(server)).outcome is Outcome.OK
    assert f"Host: {server.url.removeprefix('http://')}\r\n" in server.heads[0]


async def test_an_address_of_a_family_that_is_missing_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `localhost` is, where IPv6 is switched off but in /etc/hosts."""
    async with serving(WHOLE) as server, WireClient(server.url, ASK) as asking:
        loop = asyncio.get_running_loop()
        asked = loop.getaddrinfo

        async def both(*place: Any, **more: Any) -> Any:
            missing = (socket.AF_APPLETALK, socket.SOCK_STREAM, 99, "", ("::1", 1, 0, 0))
            return [missing, *await asked(*place, **more)]

        monkeypatch.setattr(loop, "getaddrinfo", both)
        record = await asking.send(flight())
    assert (record.outcome, record.error) == (Outcome.OK, "")


@pytest.mark.parametrize(
    "url",
    [
        *("http://", "http://x:99999", "http://x:-1", "http://x:http", "http://[::1", "no URL", "", "http://a b/"),
        *("http://a..b", f"http://{64 * 'a'}.com", "http://127.0.0.1:9/☃", "http://☃.invalid"),
    ],
)
async def test_a_bad_url_is_the_record_of_each_request(url: str) -> None:
    async with WireClient(url, ASK) as asking:
        records = [await asking.send(flight(index)) for index in range(2)]
        assert await asking.open(2) == 0
    assert [(r.index, r.outcome, r.written_at, r.connected) for r in records] == [
        (0, Outcome.FAILED, None, False),
        (1, Outcome.FAILED, None, False),
    ]
    assert all(record.error for record in records)


async def test_a_header_that_cannot_be_said_is_the_record_of_each_request() -> None:
    async with WireClient("http://127.0.0.1:9", Ask("generate", "tiny", headers={"A": "☃"})) as asking:
        assert (await asking.send(flight())).outcome is Outcome.FAILED


# requests that are too large for one send()

LARGE = 16_000_000


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The URL of a server with one connection, in a thread: it goes on while the client's loop is blocked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join()


def until_closed(connection: socket.socket) -> None:
    try:
        while connection.recv(1 << 20):
            pass
    except OSError:
        pass


def test_a_large_request_is_written_when_its_last_byte_is(play: Run) -> None:
    seen: dict[str, Any] = {}

    def answer(connection: socket.socket) -> None:
        time.sleep(0.1)
        seen["began"], raw = time.monotonic(), bytearray()
        while len(raw) < LARGE or not raw.endswith(b'"}'):
            raw += connection.recv(1 << 20)
        seen["body"] = json.loads(raw.partition(b"\r\n\r\n")[2])
        connection.sendall(WHOLE)

    async def whole(url: str) -> RequestRecord:
        async with WireClient(url, ASK) as asking:
            return await asking.send(flight(text="ab" * (LARGE // 2)))

    with answering(answer) as url:
        record = play(whole(url))
    assert (record.outcome, record.error) == (Outcome.OK, "")
    assert seen["body"]["prompt"] == "ab" * (LARGE // 2)
    assert record.written_at is not None
    assert record.written_at >= seen["began"]


def refuse(connection: socket.socket) -> None:
    """What nginx says to a body that is too large for it, but for the patience to read on."""
    connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    connection.shutdown(socket.SHUT_WR)


def leave(connection: socket.socket) -> None:
    """It reads nothing more, but does not go either."""
    connection.shutdown(socket.SHUT_WR)


def reset(connection: socket.socket) -> None:
    """As a process that ends."""
    time.sleep(0.1)
    connection.close()


@pytest.mark.parametrize(
    ("how", "outcome"), [(refuse, Outcome.REJECTED), (leave, Outcome.FAILED), (reset, Outcome.FAILED)]
)
async def test_an_end_that_comes_before_the_request_has_left_is_the_end(
    how: Callable[[socket.socket], None], outcome: Outcome
) -> None:
    known = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        how(connection)
        known.wait(5)

    with answering(answer) as url:
        async with WireClient(url, Ask("generate", "tiny", timeout_s=0.4)) as asking:
            record = await asking.send(flight(text="x" * LARGE))
            known.set()
    assert record.outcome is outcome
    assert "no end after" not in record.error
    assert "Bad file descriptor" not in record.error


class Watched(socket.socket):
    """A socket that knows whether the loop was still writing to it when it was closed."""

    still_written = False

    def close(self) -> None:
        if self.fileno() >= 0:
            self.still_written = asyncio.get_running_loop().remove_writer(self.fileno())
        super().close()


async def test_nothing_is_closed_that_the_loop_still_writes_to() -> None:
    """Its number would be that of the next connection, which the loop would then not know how to watch."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)  # noqa: FBT003
    sock = Watched(fileno=ours.detach())
    with theirs, closing(Inbox()) as inbox:
        carrying = asyncio.create_task(Connection(sock, inbox).carry(Exchange(ASK), b"x" * LARGE))
        await asyncio.sleep(0.01)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            await carrying
    assert not sock.still_written


# many connections, read together


@contextmanager
def pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Sockets that are read here, each with the other end."""
    with ExitStack() as stack:
        made = [socket.socketpair() for _ in range(count)]
        for pair in made:
            for one in pair:
                stack.enter_context(one)
        yield made


@pytest.mark.parametrize("count", [1, MANY_READS - 1, MANY_READS, MOST_READS, 3 * MOST_READS])
def test_all_that_comes_is_read_however_much_and_whenever_it_comes(play: Run, count: int) -> None:
    def read(ours: socket.socket, found: list[bytes]) -> None:
        found.append(ours.recv(1))

    async def heard() -> list[list[bytes]]:
        with pairs(count) as made, closing(Inbox()) as inbox:
            found: list[list[bytes]] = [[] for _ in made]
            for (ours, _), one in zip(made, found, strict=True):
                inbox.add(ours.fileno(), partial(read, ours, one))
            for wave, pause_s in enumerate((0.0, 0.0, 0.02, 0.0)):  # also while it pauses, and long after
                for _, theirs in made:
                    theirs.sendall(b"%d" % wave)
                await asyncio.sleep(pause_s)
            await until(lambda: all(len(one) == 4 for one in found))
            return found

    assert play(heard()) == [[b"0", b"1", b"2", b"3"]] * count


def test_one_that_another_has_ended_is_not_called(play: Run) -> None:
    async def called() -> int:
        calls = []
        with pairs(2) as made, closing(Inbox()) as inbox:
            numbers = [ours.fileno() for ours, _ in made]

            def end() -> None:
                calls.append(1)
                for number in numbers:
                    inbox.remove(number)

            for (_, theirs), number in zip(made, numbers, strict=True):
                inbox.add(number, end)
                theirs.sendall(b"x")
            await asyncio.sleep(0.02)
        return len(calls)

    assert play(called()) == 1


def test_a_reader_that_fails_does_not_end_the_reading(play: Run) -> None:
    """Also in the middle of a pause, which nobody else would end."""

    async def after() -> int:
        read = []
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        with pairs(2 * MANY_READS) as made, closing(Inbox()) as inbox:

            def fail(ours: socket.socket) -> None:
                read.append(ours.recv(1))
                raise RuntimeError

            for ours, theirs in made:
                inbox.add(ours.fileno(), partial(fail, ours))
                theirs.sendall(b"x")
            await until(lambda: len(read) == len(made))
        return len(read)

    assert play(after()) == 2 * MANY_READS


# the kernel's stamps


def late(kind: type[WireClient | HttpClient], more: Sequence[float] = ()) -> tuple[RequestRecord, list[float], float]:
    """A record of a client whose loop is blocked while texts come; when each was sent, and when the loop went on."""
    sent: list[float] = []
    read = threading.Event()

    def answer(connection: socket.socket) -> None:
        raw = b""
        while b"num_predict" not in raw:
            raw += connection.recv(65536)
        connection.sendall(OPEN)
        for pause_s in (0.1, *more):
            time.sleep(pause_s)
            sent.append(time.monotonic())
            connection.sendall(HELLO)
        read.wait(5)
        connection.sendall(DONE + END)
        until_closed(connection)

    async def whole(url: str) -> tuple[RequestRecord, float]:
        async with kind(url, ASK) as asking:
            asked = flight()
            sending = asyncio.create_task(asking.send(asked))
            await until(lambda: asked.written_at)
            time.sleep(0.4)  # noqa: ASYNC251
            unblocked_at = time.monotonic()
            await asked.settled.wait()
            read.set()
            return await sending, unblocked_at

    with answering(answer) as url:
        record, unblocked_at = asyncio.run(whole(url))
    return record, sent, unblocked_at


def test_the_kernel_stamps_what_a_blocked_loop_reads_late() -> None:
    record, (sent_at,), unblocked_at = late(WireClient)
    assert record.first_content_at is not None
    assert record.receive_lag_s is not None
    assert abs(record.first_content_at - sent_at) < LOOSE_S
    assert abs(record.receive_lag_s - (unblocked_at - sent_at)) < LOOSE_S
    assert unblocked_at - sent_at > 0.2


def test_a_client_without_the_kernels_stamps_is_late() -> None:
    """Else the test above could not fail."""
    record, (sent_at,), unblocked_at = late(HttpClient)
    assert record.first_content_at is not None
    assert record.first_content_at - sent_at > 0.2
    assert record.first_content_at >= unblocked_at
    assert record.receive_lag_s is None


def test_a_stamp_is_never_later_than_the_last_packet_before_the_read() -> None:
    """The kernel puts packets together that nobody reads, and keeps the last one's stamp: no stamp is too early."""
    record, sent, unblocked_at = late(WireClient, (0.05, 0.05, 0.05))
    assert record.first_content_at is not None
    assert sent[0] - LOOSE_S <= record.first_content_at < sent[-1] + LOOSE_S < unblocked_at
    assert record.receive_lag_s is not None
    assert record.receive_lag_s > 0.08
    assert list(record.chunk_times) == sorted(record.chunk_times)


def stamp(seconds: float, kind: int = SO_TIMESTAMPNS, level: int = socket.SOL_SOCKET) -> tuple[int, int, bytes]:
    at = time.time_ns() + round(seconds * 1e9)
    return level, kind, struct.pack("@ll", at // 10**9, at % 10**9)


def test_the_age_of_data() -> None:
    assert age_s([]) == 0.0
    assert age_s([stamp(-3)]) == pytest.approx(3, abs=LOOSE_S)
    assert age_s([stamp(-3, kind=1), stamp(-2)]) == pytest.approx(2, abs=LOOSE_S)
    assert age_s([stamp(-3, level=1234)]) == 0.0
    assert age_s([stamp(5)]) == 0.0  # somebody has set the clock back


def test_written_is_no_later_than_the_answer(play: Run) -> None:
    async def whole() -> list[RequestRecord]:
        async with serving(WHOLE) as server, WireClient(server.url, ASK) as asking:
            return await asyncio.gather(*(asking.send(flight(index)) for index in range(50)))

    for record in play(whole()):
        stamps = [record.intended_at, record.written_at, record.first_content_at, record.finished_at]
        assert stamps == sorted(stamps, key=lambda at: at or 0.0)


# the first text, seen while it comes


@cache
def streams() -> dict[tuple[str, str], tuple[Endpoint, bytes]]:
    """All recorded answers to what a load asks, by version and name."""
    of: dict[str, Endpoint] = {
        "generate": "generate",
        "five": "generate",
        "chat": "chat",
        "v1-chat": "openai",
        "v1-completions": "completions",
    }
    found: dict[tuple[str, str], tuple[Endpoint, bytes]] = {}
    for file in sorted(exchanges.RECORDINGS.glob("*/*.response")):
        version, name = file.parent.name, file.stem
        endpoint = next((of[start] for start in sorted(of, reverse=True) if name.startswith(start)), None)
        if endpoint is not None and "nostream" not in name and file.read_bytes().startswith(b"HTTP/1.1 200"):
            found[version, name] = endpoint, exchanges.body(version, name)
    return found


def hears(endpoint: Endpoint, pieces: Sequence[bytes]) -> tuple[float | None, float | None]:
    """When the first text was seen while it came, and when the parser finds it; the time is the number of the read."""
    asked = Flight(Prompt(0, "prompt", 12), 0.0)
    exchange = Exchange(Ask(endpoint, "tiny"), asked)
    for number, piece in enumerate(pieces):
        exchange.hear(float(number), piece)
    times = DIALECTS[endpoint].parse(exchange.reads).chunk_times
    return asked.first_content_at, times[0] if times else None


def spoken_line(endpoint: Endpoint, body: bytes) -> tuple[int, int] | None:
    """Where the first line with text begins and ends."""
    at = 0
    for row in body.splitlines(keepends=True):
        if DIALECTS[endpoint].parse([(0.0, row)]).chunk_times:
            return at, at + len(row)
        at += len(row)
    return None


def reads_of(pieces: Sequence[bytes], span: tuple[int, int]) -> tuple[int, int]:
    """The numbers of the reads in which a span begins and ends."""
    ends, end = [], 0
    for piece in pieces:
        end += len(piece)
        ends.append(end)
    begin, last = span
    return next(n for n, at in enumerate(ends) if at > begin), next(n for n, at in enumerate(ends) if at >= last)


def agree(endpoint: Endpoint, body: bytes, pieces: Sequence[bytes]) -> None:
    """Seen in the line in which the parser finds it, and that has the time of its end."""
    seen, found = hears(endpoint, pieces)
    span = spoken_line(endpoint, body)
    if span is None:
        assert (seen, found) == (None, None)
        return
    first, last = reads_of(pieces, span)
    assert seen is not None
    assert found == last
    assert first <= seen <= last


def test_there_are_recordings_of_every_endpoint() -> None:
    assert {endpoint for endpoint, _ in streams().values()} == set(DIALECTS)
    assert len(streams()) > 30


@given(st.data(), st.sampled_from(sorted(streams())))
def test_the_first_text_is_seen_where_the_parser_finds_it(data: st.DataObject, which: tuple[str, str]) -> None:
    endpoint, body = streams()[which]
    body = body[:3000] if b"\n" in body[:3000] else body
    agree(endpoint, body, data.draw(parts(body)))


@pytest.mark.parametrize("which", sorted(streams()), ids="/".join)
def test_the_first_text_is_seen_wherever_the_network_cuts_once(which: tuple[str, str]) -> None:
    endpoint, whole = streams()[which]
    span = spoken_line(endpoint, whole)
    body = whole if span is None else whole[: span[1]]
    for cut in range(1, min(len(body), 600)):
        agree(endpoint, body, [body[:cut], body[cut:]])


LINES: dict[Endpoint, Callable[[str], Any]] = {
    "generate": lambda text: {"model": "m", "response": text, "done": False},
    "chat": lambda text: {"message": {"role": "assistant", "content": text}, "done": False},
    "openai": lambda text: {"id": "x", "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}}]},
    "completions": lambda text: {"id": "x", "choices": [{"index": 0, "text": text, "finish_reason": None}]},
}


@given(
    st.data(),
    st.sampled_from(sorted(LINES)),
    st.lists(st.sampled_from(["", '"', "\\", '\\"', '","response":"x', "é", "\x00", " ", "{}"]), max_size=5),
    st.booleans(),
)
def test_texts_that_look_like_json_are_seen_all_the_same(
    data: st.DataObject, endpoint: Endpoint, texts: list[str], spaced: bool
) -> None:
    separators = (", ", ": ") if spaced else (",", ":")
    start = b"data: " if endpoint in {"openai", "completions"} else b""
    rows = [json.dumps(LINES[endpoint](text), separators=separators, ensure_ascii=spaced).encode() for text in texts]
    body = b"".join(start + row + b"\n" for row in rows)
    agree(endpoint, body, data.draw(parts(body)))


def test_a_request_that_only_opens_a_connection_sees_no_text() -> None:
    exchange = Exchange(ASK)
    exchange.hear(1.0, b'{"response":"x"}\n', 0.5)
    assert (exchange.waiting, exchange.receive_lag_s) == (False, None)


def test_only_the_first_text_says_how_long_it_lay_ready() -> None:
    exchange = Exchange(ASK, Flight(Prompt(0, "prompt", 12), 0.0))
    for at, data in enumerate([b'{"response":"","done":false}\n', b'{"response":"a"}\n', b'{"response":"b"}\n']):
        exchange.hear(float(at), data, 0.1 * at)
    assert exchange.receive_lag_s == 0.1
    assert exchange.flight is not None
    assert (exchange.flight.first_content_at, exchange.flight.pieces, exchange.waiting) == (1.0, 3, False)
