"""The truth server of the benchmarks: what it says, and whether its log is the truth."""

from __future__ import annotations

import json
import time
from contextlib import closing
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from autotune.benchmark.parse import parse_ndjson, parse_sse
from tests.benchmarks.peers.truth import Truth, build, compiler

if TYPE_CHECKING:
    from pathlib import Path

TTFT_S, GAP_S, TOKENS = 0.03, 0.005, 6
LOOSE_S = 0.1
"""Between the clocks of client and server there is nothing; between their processes there is whoever else runs."""

DIALECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "generate": ("/api/generate", {"prompt": "word", "options": {"num_predict": TOKENS}}),
    "chat": ("/api/chat", {"messages": [{"role": "user", "content": "word"}], "options": {"num_predict": TOKENS}}),
    "openai-chat": ("/v1/chat/completions", {"stream": True, "max_tokens": TOKENS}),
    "openai-text": ("/v1/completions", {"stream": True, "prompt": "word", "max_completion_tokens": TOKENS}),
}
USAGE = {"stream_options": {"include_usage": True}}


@pytest.fixture(scope="module", name="program")
def program_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server, compiled once, without a warning."""
    if compiler() is None:
        pytest.skip("no C compiler (cc, gcc) to build the truth server with")
    return build(tmp_path_factory.mktemp("truth"), "-Wall", "-Wextra", "-Werror")


def truth(program: Path, *options: str) -> Truth:
    said = ("--ttft-ms", str(1e3 * TTFT_S), "--gap-ms", str(1e3 * GAP_S), *options)
    return Truth(program, program.with_name("truth.csv"), said)


def connect(url: str) -> closing[HTTPConnection]:
    return closing(HTTPConnection(urlsplit(url).netloc, timeout=10))


def ask(connection: HTTPConnection, path: str, body: dict[str, Any]) -> tuple[float, list[tuple[float, bytes]]]:
    """When the request was written, and the reads of its answer."""
    connection.request("POST", path, json.dumps(body))
    written_at, reads = time.monotonic(), list[tuple[float, bytes]]()
    response = connection.getresponse()
    while data := response.read1():
        reads.append((time.monotonic(), data))
    assert response.status == 200
    return written_at, reads


@pytest.mark.parametrize("dialect", ["generate", "chat", "openai-chat"])
def test_the_parser_finds_complete_answers(program: Path, dialect: str) -> None:
    path, body = DIALECTS[dialect]
    with truth(program) as server, connect(server.url) as connection:
        _, reads = ask(connection, path, body | USAGE)
    parsed = (parse_sse if dialect.startswith("openai") else parse_ndjson)(reads)
    assert (parsed.error, parsed.done_reason, parsed.eval_count) == ("", "length", TOKENS)
    assert len(parsed.chunk_times) == TOKENS
    assert parsed.done_at == reads[-1][0]
    assert parsed.prompt_eval_count
    if not dialect.startswith("openai"):
        assert parsed.total_duration_s
        assert parsed.load_duration_s
        assert parsed.prompt_eval_duration_s
        assert parsed.eval_duration_s


def test_completions_are_streamed_with_their_end_and_their_usage(program: Path) -> None:
    path, body = DIALECTS["openai-text"]
    with truth(program) as server, connect(server.url) as connection:
        _, reads = ask(connection, path, body | USAGE)
    *events, done = [line.removeprefix("data: ") for line in b"".join(d for _, d in reads).decode().split("\n\n")[:-1]]
    last, usage = json.loads(events[-2]), json.loads(events[-1])
    assert done == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1]).split() == ["word"] * TOKENS
    assert last["choices"][0]["finish_reason"] == "length"
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], TOKENS)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_log_agrees_with_a_client_on_the_same_clock(program: Path, dialect: str) -> None:
    path, body = DIALECTS[dialect]
    with truth(program) as server, connect(server.url) as connection:
        for _ in range(2):
            began = time.monotonic()
            written_at, reads = ask(connection, path, body)
            ended = time.monotonic()
        first, second = server.stop()
    assert first.connection == second.connection
    assert (second.dialect, second.asked, second.tokens) == (dialect, TOKENS, TOKENS)
    stamps = [began, second.received_at, second.head_at, second.first_at, second.last_at, ended]
    assert stamps == sorted(stamps)
    assert abs(second.received_at - written_at) < LOOSE_S
    first_text_at = next(at for at, data in reads if b"word" in data)
    assert 0 <= first_text_at - second.first_at < LOOSE_S
    assert second.first_at - second.received_at >= TTFT_S
    assert second.last_at - second.received_at >= TTFT_S + (TOKENS - 1) * GAP_S


def test_several_tokens_can_leave_together(program: Path) -> None:
    path, body = DIALECTS["generate"]
    with truth(program, "--per-send", "4") as server, connect(server.url) as connection:
        _, reads = ask(connection, path, body)
        (answer,) = server.stop()
    assert len(parse_ndjson(reads).chunk_times) == answer.tokens == TOKENS


def test_a_client_that_leaves_is_logged_with_what_it_was_sent(program: Path) -> None:
    with truth(program, "--gap-ms", "200") as server, connect(server.url) as other:
        with connect(server.url) as leaving:
            leaving.request("POST", "/api/generate", "{}")
            with leaving.getresponse() as response:
                response.readline()
        other.request("GET", "/api/version")
        assert other.getresponse().status == 200
        left, asked = server.stop()
    assert 0 < left.tokens < left.asked
    assert (asked.dialect, asked.tokens) == ("other", 0)
    assert asked.connection != left.connection


def test_what_clients_ask_before_they_begin(program: Path) -> None:
    with truth(program) as server, connect(server.url) as connection:
        for path in ("/", "/health", "/api/version", "/api/tags", "/api/ps", "/v1/models"):
            connection.request("GET", path)
            assert json.load(connection.getresponse()) is not None
        connection.request("POST", "/api/show", '{"model": "truth"}')
        assert "completion" in json.load(connection.getresponse())["capabilities"]
        connection.request("POST", "/v1/completions", '{"stream": false}')
        refused = connection.getresponse()
        assert (refused.status, json.load(refused)["error"]) == (400, "this server only streams")
        connection.request("GET", "/metrics")
        assert connection.getresponse().status == 404
