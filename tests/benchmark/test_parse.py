"""Streams of real servers, whole and cut anyhow."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.benchmark.parse import Parsed, digest, error_text, parse_ndjson, parse_sse
from tests.benchmark.exchanges import VERSIONS, body, reads

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmark.exchanges import Reads

NDJSON = ("generate-stream", "generate-utf8", "generate-one-token", "chat-stream", "generate-runner-killed-mid-stream")
SSE = ("v1-chat-stream", "v1-chat-stream-usage", "v1-chat-runner-killed-mid-stream")


def of(name: str, version: str, parse: Callable[[Reads], Parsed] = parse_ndjson) -> Parsed:
    return parse(reads(version, name))


def timeless(parsed: Parsed) -> Parsed:
    done_at = None if parsed.done_at is None else 0.0
    answer_at = None if parsed.first_answer_at is None else 0.0
    return replace(parsed, chunk_times=(0.0,) * len(parsed.chunk_times), done_at=done_at, first_answer_at=answer_at)


def texts(raw: bytes) -> str:
    lines = [json.loads(line) for line in raw.splitlines() if line]
    return "".join(line.get("thinking", "") + line.get("response", "") for line in lines)


@pytest.mark.parametrize("version", VERSIONS)
def test_generate(version: str) -> None:
    parsed, raw = of("generate-stream", version), body(version, "generate-stream")
    last = json.loads(raw.splitlines()[-1])
    assert parsed.eval_count == last["eval_count"] == 24
    assert parsed.total_duration_s == last["total_duration"] / 1e9
    assert parsed.eval_duration_s == last["eval_duration"] / 1e9
    assert (parsed.done_reason, parsed.error) == ("length", "")
    assert (parsed.output_chars, parsed.output_hash) == (len(texts(raw)), digest(texts(raw)))


@pytest.mark.parametrize("version", VERSIONS)
def test_each_text_has_the_time_of_the_read_that_completed_it(version: str) -> None:
    came, parsed = reads(version, "generate-stream"), of("generate-stream", version)
    arrived, expected = b"", list[float]()
    for at, data in came:
        arrived += data
        while len(expected) < arrived.count(b'"done":false'):
            expected.append(at)
    assert parsed.chunk_times == tuple(expected[: len(parsed.chunk_times)])
    assert parsed.done_at == came[-1][0]
    assert sorted(parsed.chunk_times) == list(parsed.chunk_times)


@pytest.mark.parametrize("version", VERSIONS)
def test_chat(version: str) -> None:
    parsed = of("chat-stream", version)
    assert (parsed.eval_count, parsed.done_reason) == (16, "length")
    assert 0 < len(parsed.chunk_times) <= 16


def test_zero_durations_are_left_out() -> None:
    parsed = of("generate-one-token", "v0.24.0")
    assert (parsed.eval_count, parsed.eval_duration_s, len(parsed.chunk_times)) == (1, None, 1)


def test_an_answer_without_text() -> None:
    parsed = of("generate-first-token-is-eos", "v0.24.0")
    assert (parsed.chunk_times, parsed.eval_count, parsed.done_reason) == ((), 1, "stop")
    assert parsed.done_at is not None


@pytest.mark.parametrize("version", VERSIONS)
def test_the_end_token_is_counted_but_has_no_text(version: str) -> None:
    parsed = of("generate-stopped-early", version)
    assert parsed.done_reason == "stop"
    assert parsed.eval_count is not None
    assert parsed.eval_count > len(parsed.chunk_times)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["generate-repeat-guard", "generate-server-sigterm-mid-stream"])
def test_streams_without_done(version: str, name: str) -> None:
    parsed = of(name, version)
    assert parsed.chunk_times
    assert (parsed.done_at, parsed.error, parsed.eval_count) == (None, "", None)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_error_line(version: str) -> None:
    parsed = of("generate-runner-killed-mid-stream", version)
    assert parsed.chunk_times
    assert parsed.done_at is None
    assert parsed.error.startswith("an error was encountered while running the model")


def test_an_error_line_on_a_gpu() -> None:
    parsed = of("generate-cuda-error-mid-stream", "v0.32.15-gpu")
    assert parsed.error
    assert parsed.done_at is None


@pytest.mark.parametrize("version", VERSIONS)
def test_openai(version: str) -> None:
    parsed = of("v1-chat-stream-usage", version, parse_sse)
    assert (parsed.eval_count, parsed.done_reason, parsed.error) == (8, "length", "")
    assert len(parsed.chunk_times) == 8
    assert parsed.done_at is not None
    assert parsed.total_duration_s is None
    assert of("v1-chat-stream", version, parse_sse).eval_count is None


@pytest.mark.parametrize("version", VERSIONS)
def test_openai_hides_an_error_behind_an_empty_chunk(version: str) -> None:
    parsed = of("v1-chat-runner-killed-mid-stream", version, parse_sse)
    assert parsed.chunk_times
    assert parsed.done_at is None


def test_role_is_no_text_and_reasoning_is() -> None:
    deltas = [{"role": "assistant"}, {"role": "assistant", "content": ""}, {"reasoning": "hm"}, {"content": "yes"}]
    events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    came = [(float(i), f"data: {json.dumps(event)}\r\n\r\n".encode()) for i, event in enumerate(events)]
    parsed = parse_sse([*came, (9.0, b": ping\n\ndata:[DONE]")])
    assert (parsed.chunk_times, parsed.output_hash, parsed.done_at) == ((2.0, 3.0), digest("hmyes"), 9.0)


def test_thinking_is_text() -> None:
    line = b'{"response":"","thinking":"hm","done":false}\n'
    assert parse_ndjson(
        [(1.0, line), (2.0, b'{"message":{"content":"a","thinking":"b"},"done":false}\n')]
    ).chunk_times == (
        1.0,
        2.0,
        2.0,
    )


def test_sse_errors() -> None:
    assert (
        parse_sse([(0.0, b'data: {"error":{"message":"out of memory","type":"api_error"}}\n\n')]).error
        == "out of memory"
    )
    assert "not an event" in parse_sse([(0.0, b"<html>busy</html>\n")]).error


def test_a_foreign_body_is_an_error() -> None:
    assert "not a JSON object" in parse_ndjson([(0.0, b"<html>busy</html>\n")]).error


@pytest.mark.parametrize("version", VERSIONS)
def test_rejections_say_why(version: str) -> None:
    for name in ("generate-queue-full", "v1-queue-full"):
        assert error_text(body(version, name)).startswith("server busy, please try again.")


def test_error_texts_are_short() -> None:
    assert len(error_text(b"x" * 5000)) == 200
    assert error_text(b"") == ""
    assert error_text(b"[1]") == "[1]"


@given(st.data())
def test_any_split_of_a_stream_says_the_same(data: st.DataObject) -> None:
    version = data.draw(st.sampled_from(VERSIONS))
    name = data.draw(st.sampled_from(NDJSON + SSE))
    parse, raw = (parse_sse if name in SSE else parse_ndjson), body(version, name)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=40)))
    pieces = [raw[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    split = parse([(float(at), piece) for at, piece in enumerate(pieces)])
    assert timeless(split) == timeless(parse([(0.0, raw)]))
    assert sorted(split.chunk_times) == list(split.chunk_times)


def test_a_stream_byte_by_byte() -> None:
    raw = body("v0.32.15", "generate-utf8")
    split = parse_ndjson([(float(at), raw[at : at + 1]) for at in range(len(raw))])
    assert timeless(split) == timeless(parse_ndjson([(0.0, raw)]))


@given(
    st.lists(st.tuples(st.floats(0, 10), st.binary(max_size=60) | st.sampled_from([b"\n", b"data: ", b'{"error":'])))
)
def test_nothing_raises(came: list[tuple[float, bytes]]) -> None:
    parse_ndjson(came)
    parse_sse(came)


@pytest.mark.parametrize(
    "line",
    [
        b'{"message":3,"response":4,"error":{},"done":true,"eval_count":"x","total_duration":1e400}',
        b'{"done":true,"eval_count":-1,"total_duration":0,"done_reason":null}',
        b'{"choices":[3,{"delta":[]}],"usage":[]}',
        b'{"response":"\\ud800","done":false}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_strange_lines_do_not_raise(line: bytes) -> None:
    assert parse_ndjson([(0.0, line + b"\n")]).eval_count is None
    assert parse_sse([(0.0, b"data: " + line + b"\n")]).eval_count is None
