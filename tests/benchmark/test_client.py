"""The client against a server that does everything a server can do wrong."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import threading
import time
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autotune.benchmark.carrier import Target
from autotune.benchmark.client import HttpClient
from autotune.benchmark.crew import Crew
from autotune.benchmark.dialect import LOAD_TIME_OPTIONS, Ask
from autotune.benchmark.flight import Flight
from autotune.benchmark.parse import digest
from autotune.benchmark.wire import WireClient
from autotune.benchmark.workload import Prompt
from autotune.errors import ClusterError
from autotune.records import Outcome, RequestRecord
from tests.benchmark import exchanges
from tests.benchmark.server import DONE, END, HEAD, Server, chunk, event, line, serving, status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from autotune.benchmark.dialect import Endpoint
    from autotune.benchmark.flight import Client

OPEN = HEAD + b"\r\n"
HELLO, WORLD = line(response="Hello", done=False), line(response=" world", done=False)


KINDS: dict[str, Callable[[str, Ask], AbstractAsyncContextManager[Client]]] = {
    "aiohttp": HttpClient,
    "wire": WireClient,
    "crew": lambda url, ask: Crew(Target(url, ask), 1),
}


@pytest.fixture(params=KINDS, autouse=True)
def kind(request: pytest.FixtureRequest) -> str:
    """Every test runs over each client."""
    chosen.append(request.param)
    return str(request.param)


chosen: list[str] = []


def client(url: str, endpoint: Endpoint = "generate", **more: Any) -> AbstractAsyncContextManager[Client]:
    return KINDS[chosen[-1]](url, Ask(endpoint, "tiny", **more))


def flight(index: int = 0) -> Flight:
    return Flight(Prompt(index, f"prompt {index}", 12), asyncio.get_running_loop().time())


async def ask(server: Server, endpoint: Endpoint = "generate", **more: Any) -> RequestRecord:
    async with client(server.url, endpoint, **more) as asking:
        return await asking.send(flight())


async def test_an_answer() -> None:
    async with serving(HEAD + b"X-Autotune-Upstream: a:1, b:2\r\n\r\n", HELLO, 0.1, WORLD, 0.1, DONE + END) as server:
        record = await ask(server)
    assert (record.outcome, record.status, record.error) == (Outcome.OK, 200, "")
    assert (record.upstream, record.connected, record.done_reason) == ("b:2", True, "length")
    assert (record.eval_count, record.prompt_eval_count, record.total_duration_s) == (2, 9, 0.003)
    assert (record.output_chars, record.output_hash) == (11, digest("Hello world"))
    assert (record.input_chars, record.input_hash) == (8, digest("prompt 0"))
    assert record.written_at is not None
    assert record.finished_at is not None
    first, second = record.chunk_times
    assert record.intended_at <= record.written_at <= first == record.first_content_at
    assert second - first == pytest.approx(0.1, abs=0.05)
    assert record.finished_at - second == pytest.approx(0.1, abs=0.05)


async def test_what_is_sent() -> None:
    async with serving(status(503)) as server:
        await ask(server, options={"temperature": 0.5, "seed": 3}, raw=True, headers={"Authorization": "Bearer x"})
        await ask(server, "chat", think=False)
        await ask(server, "openai", options={"seed": 3}, think=False)
        await ask(server, "completions", options={"seed": 3})
    assert server.paths == ["/api/generate", "/api/chat", "/v1/chat/completions", "/v1/completions"]
    assert "Authorization: Bearer x" in server.heads[0]
    assert "Accept-Encoding: identity" in server.heads[0]
    generate, chat, openai, completions = server.bodies
    assert generate == {
        "model": "tiny",
        "stream": True,
        "prompt": "prompt 0",
        "options": {"temperature": 0.5, "seed": 3, "num_predict": 12},
        "raw": True,
    }
    assert chat["messages"] == [{"role": "user", "content": "prompt 0"}]
    assert (chat["think"], chat["options"], "keep_alive" in chat) == (False, {"num_predict": 12}, False)
    assert (openai["max_tokens"], openai["seed"], openai["reasoning_effort"]) == (12, 3, "none")
    assert openai["stream_options"] == {"include_usage": True}
    assert completions == {
        "model": "tiny",
        "prompt": "prompt 0",
        "max_tokens": 12,
        "seed": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("option", sorted(LOAD_TIME_OPTIONS))
def test_options_that_reload_the_model_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        client("http://x", options={option: 1})


def test_options_that_cannot_be_said_are_refused() -> None:
    with pytest.raises(ValueError, match="top_k"):
        client("http://x", "openai", options={"top_k": 1})
    with pytest.raises(ValueError, match="raw"):
        client("http://x", "chat", raw=True)


@pytest.mark.parametrize("version", exchanges.VERSIONS)
@pytest.mark.parametrize(
    ("name", "endpoint", "outcome"),
    [
        ("generate-stream", "generate", Outcome.OK),
        ("chat-stream", "chat", Outcome.OK),
        ("v1-chat-stream-usage", "openai", Outcome.OK),
        ("v1-completions-stream-usage", "completions", Outcome.OK),
        ("generate-queue-full", "generate", Outcome.REJECTED),
        ("v1-queue-full", "openai", Outcome.REJECTED),
        ("generate-missing-model", "generate", Outcome.REJECTED),
        ("generate-repeat-guard", "generate", Outcome.FAILED),
        ("generate-runner-killed-mid-stream", "generate", Outcome.FAILED),
        ("generate-server-sigterm-mid-stream", "generate", Outcome.FAILED),
        ("v1-chat-runner-killed-mid-stream", "openai", Outcome.FAILED),
    ],
)
async def test_recorded_servers(version: str, name: str, endpoint: Endpoint, outcome: Outcome) -> None:
    raw = (exchanges.RECORDINGS / version / f"{name}.response").read_bytes()
    async with serving(raw, None) as server:
        record = await ask(server, endpoint)
    assert record.outcome is outcome
    assert bool(record.error) is (outcome is not Outcome.OK)
    assert bool(record.chunk_times) is (outcome is not Outcome.REJECTED)


async def test_an_empty_answer() -> None:
    async with serving(OPEN, DONE + END) as server:
        record = await ask(server)
    assert (record.outcome, record.first_content_at, record.eval_count) == (Outcome.EMPTY, None, 2)


@pytest.mark.parametrize(
    ("code", "body", "error"),
    [(403, b"", ""), (404, b'{"error":"model \'x\' not found"}', "model 'x' not found"), (502, b"<html>\n", "<html>")],
)
async def test_rejections(code: int, body: bytes, error: str) -> None:
    async with serving(status(code, body)) as server:
        record = await ask(server)
    assert (record.outcome, record.status, record.error) == (Outcome.REJECTED, code, error)
    assert record.finished_at is not None
    assert record.chunk_times == ()


async def test_an_error_line_fails() -> None:
    async with serving(OPEN, HELLO, line(error="model runner has unexpectedly stopped"), END) as server:
        record = await ask(server)
    assert (record.outcome, record.error) == (Outcome.FAILED, "model runner has unexpectedly stopped")
    assert len(record.chunk_times) == 1


async def test_a_stream_without_done_fails() -> None:
    async with serving(OPEN, HELLO, END) as server:
        record = await ask(server)
    assert (record.outcome, record.error) == (Outcome.FAILED, "the stream ended without done")


async def test_a_connection_that_breaks_fails() -> None:
    async with serving(OPEN, HELLO, None) as server:
        record = await ask(server)
    assert record.outcome is Outcome.FAILED
    assert "ClientPayloadError" in record.error or "closed the connection" in record.error
    assert (len(record.chunk_times), record.eval_count) == (1, None)


async def test_a_break_after_done_does_no_harm() -> None:
    async with serving(OPEN, HELLO, DONE, None) as server:
        record = await ask(server)
    assert (record.outcome, record.error, record.eval_count) == (Outcome.OK, "", 2)


async def test_no_answer_at_all_fails() -> None:
    async with serving(None) as server:
        record = await ask(server)
    assert (record.outcome, record.status) == (Outcome.FAILED, None)
    assert "disconnected" in record.error or "closed the connection" in record.error


async def test_nobody_there_fails() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with client(f"http://127.0.0.1:{unused.getsockname()[1]}") as asking:
            assert await asking.open(3) == 0
            record = await asking.send(flight())
    assert (record.outcome, record.written_at, record.connected) == (Outcome.FAILED, None, False)
    assert record.finished_at is not None


@pytest.mark.parametrize("url", ["http://", "http://x:99999", "http://[::1", "http://127.0.0.1:x/"])
async def test_a_bad_url_fails_each_request(url: str) -> None:
    async with client(url) as asking:
        assert await asking.open(2) == 0
        records = await asyncio.gather(*(asking.send(flight(index)) for index in range(2)))
    assert [(record.index, record.outcome, record.written_at) for record in records] == [
        (0, Outcome.FAILED, None),
        (1, Outcome.FAILED, None),
    ]
    assert all(record.error for record in records)


async def test_no_http_at_all_fails() -> None:
    async with serving(b"what do you want?\r\n\r\n", None) as server:
        assert (await ask(server)).outcome is Outcome.FAILED


async def test_a_slow_first_byte_is_waited_for() -> None:
    async with serving(0.1, OPEN, HELLO, DONE, END) as server:
        record = await ask(server)
    assert record.first_content_at is not None
    assert record.written_at is not None
    assert record.first_content_at - record.written_at >= 0.1


@pytest.mark.parametrize("script", [[5.0], [OPEN, HELLO, 5.0]])
async def test_timeout(script: list[bytes | float]) -> None:
    async with serving(*script) as server:
        record = await ask(server, timeout_s=0.1)
    assert (record.outcome, record.error) == (Outcome.TIMEOUT, "no end after 0.1 s")
    assert record.finished_at is not None
    assert 0.1 <= record.finished_at - record.intended_at < 1
    assert len(record.chunk_times) == len(script) // 2


async def test_text_may_be_cut_inside_a_character() -> None:
    whole = '{"response":"schöne Grüße ❤","done":false}\n'.encode()
    cuts = [chunk(whole[at : at + 1]) for at in range(len(whole))]
    async with serving(OPEN, *[part for cut in cuts for part in (cut, 0.0)], DONE + END) as server:
        record = await ask(server)
    assert (record.outcome, record.output_hash) == (Outcome.OK, digest("schöne Grüße ❤"))


async def test_progress_is_seen_at_the_first_text_even_if_it_is_cut() -> None:
    head, tail = b'{"response":', b'"Hi","done":false}\n'
    script = (OPEN, line(response="", done=False), 0.03, chunk(head), 0.03, chunk(tail), 0.2, DONE + END)
    async with serving(*script) as server, client(server.url) as asking:
        one = flight()
        sending = asyncio.create_task(asking.send(one))
        await one.settled.wait()
        assert not sending.done()
        seen = one.first_content_at
        record = await sending
    assert seen == record.first_content_at == record.chunk_times[0]
    assert seen is not None
    assert seen - one.intended_at >= 0.06
    assert one.written_at == record.written_at


async def test_role_only_is_not_progress() -> None:
    role = event('{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}')
    text = event('{"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}')
    async with serving(OPEN, role, 0.05, text, event("[DONE]"), END) as server, client(server.url, "openai") as asking:
        one = flight()
        record = await asking.send(one)
    assert one.first_content_at == record.first_content_at
    assert record.first_content_at is not None
    assert record.first_content_at - record.intended_at >= 0.05
    assert (record.outcome, record.done_reason, len(record.chunk_times)) == (Outcome.OK, "stop", 1)


async def test_completions_are_read_with_their_usage() -> None:
    texts = [event(json.dumps({"choices": [{"index": 0, "text": text, "finish_reason": None}]})) for text in ("", "Hi")]
    last = event('{"choices":[{"index":0,"text":"","finish_reason":"length"}]}')
    usage = event('{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":1}}')
    async with serving(OPEN, *texts, last, usage, event("[DONE]"), END) as server:
        record = await ask(server, "completions")
    assert (record.outcome, record.done_reason, record.eval_count, record.prompt_eval_count) == (
        Outcome.OK,
        "length",
        1,
        7,
    )
    assert (record.output_chars, record.first_answer_at) == (2, record.first_content_at)


@pytest.mark.parametrize(
    ("endpoint", "thought", "answer"),
    [
        ("generate", line(thinking="Hm", response="", done=False), line(response="Hi", done=False)),
        ("chat", line(message={"thinking": "Hm", "content": ""}), line(message={"content": "Hi"})),
        (
            "openai",
            event('{"choices":[{"index":0,"delta":{"role":"assistant","content":"","reasoning":"Hm"}}]}'),
            event('{"choices":[{"index":0,"delta":{"content":"Hi"}}]}'),
        ),
    ],
    ids=["generate", "chat", "openai"],
)
async def test_a_model_that_thinks_speaks_first_and_answers_later(
    endpoint: Endpoint, thought: bytes, answer: bytes
) -> None:
    done = event("[DONE]") if endpoint == "openai" else DONE
    async with serving(OPEN, thought, 0.1, answer, done, END) as server, client(server.url, endpoint) as asking:
        one = flight()
        record = await asking.send(one)
    assert (record.outcome, len(record.chunk_times), record.output_chars) == (Outcome.OK, 2, 4)
    assert record.first_content_at == record.chunk_times[0] == one.first_content_at
    assert record.first_answer_at == record.chunk_times[1]
    assert record.chunk_times[1] - record.chunk_times[0] == pytest.approx(0.1, abs=0.05)


async def test_only_thoughts_are_an_answer_that_never_came() -> None:
    async with serving(OPEN, line(thinking="Hm", response=""), DONE + END) as server:
        record = await ask(server)
    assert (record.outcome, record.first_answer_at, record.first_content_at is None) == (Outcome.OK, None, False)


async def test_cutting_keeps_what_came() -> None:
    async with serving(OPEN, HELLO, 0.02, WORLD, 5.0) as server, client(server.url) as asking:
        one = flight()
        sending = asyncio.create_task(asking.send(one))
        await asyncio.sleep(0.15)
        one.cut()
        one.cut()
        record = await sending
        assert (record.outcome, record.error, len(record.chunk_times)) == (Outcome.CUT_OFF, "", 2)
        assert record.finished_at is not None
        assert 0.15 <= record.finished_at - record.intended_at < 1
        one.cut()


async def test_cut_before_it_was_sent() -> None:
    async with serving(OPEN, HELLO, DONE, END) as server, client(server.url) as asking:
        one = flight()
        one.cut()
        record = await asking.send(one)
    assert (record.outcome, record.written_at, server.bodies) == (Outcome.CUT_OFF, None, [])


async def test_cancellation_from_outside_is_not_an_outcome() -> None:
    async with serving(OPEN, HELLO, 5.0) as server, client(server.url) as asking:
        one = flight()
        sending = asyncio.create_task(asking.send(one))
        await one.settled.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending


async def test_connections_are_opened_ahead_and_reused() -> None:
    async with serving(OPEN, HELLO, DONE, END) as server, client(server.url) as asking:
        assert await asking.open(8) == 8
        for _ in range(3):
            records = await asyncio.gather(*(asking.send(flight(index)) for index in range(8)))
            assert not any(record.connected for record in records)
        assert server.connections == 8


async def test_open_is_bounded() -> None:
    async with serving() as server, WireClient(server.url, Ask("generate", "tiny"), connections=3) as asking:
        assert await asking.open(50) == 3


@contextmanager
def no_more_files(pid: int) -> Iterator[None]:
    """A process may open nothing more."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    next_one = next(number for number in count() if number not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (next_one, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


async def test_a_host_that_gives_no_more_connections_is_no_fault_of_the_server() -> None:
    """As failed requests they would be held against a configuration."""
    async with serving(OPEN, HELLO, DONE, END) as server, client(server.url) as asking:
        assert (await asking.send(flight())).connected
        (pulse,) = await asking.pulse()
        with no_more_files(pulse.pid):
            assert (await asking.send(flight())).outcome is Outcome.OK  # over the connection that is open
            both = await asyncio.gather(asking.send(flight(1)), asking.send(flight(2)), return_exceptions=True)
            (error,) = [one for one in both if isinstance(one, Exception)]
            assert "no more connections" in str(error)
            assert isinstance(error, ClusterError)
            with pytest.raises(ClusterError, match="Too many open files"):
                await asking.open(9)
        assert (await asking.send(flight(3))).outcome is Outcome.OK


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with serving(OPEN, HELLO, DONE, END) as server:
        assert (await ask(server)).outcome is Outcome.OK


def _receive(listener: socket.socket, received: dict[str, float]) -> None:
    """A server in a thread of its own: it sees bytes when they leave, however busy the client's loop is."""
    pending = []
    for _ in range(4):
        connection, _ = listener.accept()
        pending.append(connection)
    threads = [threading.Thread(target=_receive_one, args=(connection, received)) for connection in pending]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _receive_one(connection: socket.socket, received: dict[str, float]) -> None:
    with connection:
        raw = b""
        while b"num_predict" not in raw:
            raw += connection.recv(65536)
        at = time.monotonic()
        received[json.loads(raw.partition(b"\r\n\r\n")[2])["prompt"]] = at
        connection.sendall(OPEN + HELLO + DONE + END)


@pytest.mark.parametrize("kind", ["aiohttp", "wire"], indirect=True)
async def test_written_is_stamped_when_the_bytes_leave() -> None:
    """aiohttp has moved this moment before; a busy loop shows the difference between deciding to write and writing."""
    loop, received = asyncio.get_running_loop(), dict[str, float]()
    busy = True

    def block() -> None:
        if busy:
            time.sleep(0.06)
            loop.call_soon(block)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving_thread = threading.Thread(target=_receive, args=(listener, received))
        serving_thread.start()
        async with client(f"http://127.0.0.1:{listener.getsockname()[1]}") as asking:
            loop.call_soon(block)
            records = await asyncio.gather(*(asking.send(flight(index)) for index in range(4)))
            busy = False
        serving_thread.join()
    late = [received[f"prompt {record.index}"] - (record.written_at or 0.0) for record in records]
    assert all(-0.05 < lag < 0.05 for lag in late), late
    assert all((record.written_at or 0.0) - record.intended_at > 0.06 for record in records)
