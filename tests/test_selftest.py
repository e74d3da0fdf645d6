"""The client measured on this machine, against a server that knows its times."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from autotune.benchmark.workload import mark
from autotune.cluster import host
from autotune.errors import ClusterError
from autotune.records import Outcome, RequestRecord
from autotune.selftest import SelfTest, _errors, _log, _metronome, cores, selftest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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
        _, _, port = url.rpartition(":")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
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


PARENT = """
import asyncio, signal
from autotune.selftest import _log, _metronome

async def main():
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    async with _metronome() as url:
        print(url, flush=True)
        await interrupted.wait()
        await asyncio.sleep(0.2)
        print(await _log(url))

asyncio.run(main())
"""


@asynccontextmanager
async def parent() -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A process of its own session that has started the server, and the server's URL."""
    said = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT), stdout=said, stderr=said, start_new_session=True
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            url = (await process.stdout.readline()).decode().strip()
        yield process, url
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def gone(url: str) -> None:
    """Wait until nobody listens there."""
    async with asyncio.timeout(5):
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                await _log(url)
                await asyncio.sleep(0.05)


async def test_an_interrupt_is_for_who_started_the_server() -> None:
    async with parent() as (process, url):
        os.killpg(process.pid, signal.SIGINT)
        said, complaints = await process.communicate()
        assert (said, complaints, process.returncode) == (b"{}\n", b"", 0)
        await gone(url)


async def test_the_server_ends_with_who_started_it() -> None:
    async with parent() as (process, url):
        assert await _log(url) == {}
        process.kill()
        await gone(url)


async def test_a_server_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.benchmark.crew.END_S", 0.1)
    async with _metronome() as url:
        (pid,) = [one for one in host.children(os.getpid()) if "benchmark.metronome" in host.describe(one)]
        os.kill(pid, signal.SIGSTOP)
    await gone(url)


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
