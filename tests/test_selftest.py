"""The client measured on this machine, against a server that knows its times."""

from __future__ import annotations

import asyncio
import math

import pytest

from autotune.benchmark.workload import mark
from autotune.errors import ClusterError
from autotune.records import Outcome, RequestRecord
from autotune.selftest import SelfTest, _errors, _log, _metronome, cores, selftest

WINDOW_S = 0.4


def plausible(found: SelfTest) -> None:
    assert found.requests >= 10
    # a machine that does something else beside it may be late; what is wrong altogether is a whole TTFT
    assert 0 < found.error_p50_s <= found.error_p99_s
    assert found.error_p50_s < 0.05
    assert 1e-4 < found.cpu_s_per_1000_tokens < 10
    assert found.tokens_per_core == pytest.approx(500 / found.cpu_s_per_1000_tokens)
    assert found.headroom(1000.0) == pytest.approx(found.processes * found.tokens_per_core / 1000)
    assert found.headroom(0.0) == math.inf
    assert 0 < found.loop_lag_s < 1


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sixth of a second each."""
    monkeypatch.setattr("autotune.selftest.TOKENS", 4)


async def test_the_client_of_this_machine() -> None:
    found = await selftest(1, window_s=WINDOW_S, most_processes=1)
    assert (found.concurrency, found.processes) == (8, 1)
    plausible(found)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_client_that_is_too_slow_gets_more_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.health.MOST_CPU", 0.0)
    monkeypatch.setattr("autotune.health.LEAST_SPAN_S", 0.1)
    found = await selftest(12, window_s=WINDOW_S, most_processes=2)
    assert (found.concurrency, found.processes) == (12, 2)
    assert any("of a core in one process" in fault for fault in found.faults)
    plausible(found)


async def test_the_server_knows_when_it_was_asked_and_when_it_spoke() -> None:
    async with _metronome() as url:
        assert await _log(url) == {}
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = b'{"prompt": "0123456789abcdef tell", "options": {"num_predict": 3}}'
        writer.write(b"POST /api/generate HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        said = await reader.readuntil(b"0\r\n\r\n")
        writer.close()
        known = await _log(url)
        assert await _log(url) == {}
    assert said.count(b" tick") == 3
    assert b'"eval_count":3' in said
    ((name, (received_at, sent_at)),) = known.items()
    assert name == "0123456789abcdef"
    assert 0.1 <= sent_at - received_at < 0.2


def test_errors_are_of_complete_answers_that_the_server_knows() -> None:
    def record(index: int, outcome: Outcome = Outcome.OK) -> RequestRecord:
        return RequestRecord(index, 10.0, outcome, written_at=10.0, first_content_at=10.3, finished_at=11.0)

    known = {mark("n", index): [10.1, 10.35] for index in range(4)} | {mark("n", 4): [10.1]}
    load = [record(0), record(1, Outcome.CUT_OFF), record(4), record(9)]
    assert _errors(load, known, "n") == [pytest.approx(0.05)]
    assert _errors(load, known, "other") == []


def test_there_is_a_core() -> None:
    assert cores() >= 1


async def test_a_server_that_does_not_start_is_a_fault_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.selftest.sys.executable", "/bin/true")
    with pytest.raises(ClusterError, match="did not start"):
        async with _metronome():
            pass
