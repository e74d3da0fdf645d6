"""A client of several processes: as one of one process would be, and never longer there than who started it."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import uvloop

from autotune.benchmark.carrier import Target, carrier
from autotune.benchmark.crew import Crew
from autotune.benchmark.dialect import Ask
from autotune.benchmark.flight import Flight
from autotune.benchmark.load import run
from autotune.benchmark.pacer import ClosedLoop, OpenLoop
from autotune.benchmark.phases import LoadResult, Phases
from autotune.benchmark.worker import _Worker
from autotune.benchmark.worker import run as run_client
from autotune.benchmark.workload import Lengths, Prompt, SeededWorkload
from autotune.cluster import host
from autotune.errors import ClusterError
from autotune.records import Outcome, RequestRecord
from autotune.selftest import _metronome
from autotune.stats import ready
from tests.benchmark.server import DONE, END, HEAD, Server, line, serving
from tests.conftest import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager

    from autotune.benchmark.flight import Client

OPEN = HEAD + b"\r\n"
HELLO = line(response="Hello", done=False)
ASK = Ask("generate", "tiny")
NOBODY = "http://127.0.0.1:9"


def crew(url: str, processes: int = 2) -> Crew:
    return Crew(Target(url, ASK), processes)


def flight(index: int = 0, in_s: float = 0.0) -> Flight:
    return Flight(Prompt(index, f"prompt {index}", 12), time.monotonic() + in_s)


async def pids(client: Client) -> list[int]:
    return [pulse.pid for pulse in await client.pulse()]


def workers() -> list[int]:
    """The client processes of this one that still run."""
    mine = [host.identity(pid) for pid in host.children(os.getpid()) if "benchmark.worker" in host.describe(pid)]
    return [one.pid for one in mine if one is not None and host.runs(one)]


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """Whatever a test does to them, no worker is there when it has ended."""
    yield
    left = workers()
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if left:
        await asyncio.sleep(0.1)


# as one process would be


async def records(client: AbstractAsyncContextManager[Client], count: int) -> list[RequestRecord]:
    async with client as asking:
        await asking.open(count)
        return await asyncio.gather(*(asking.send(flight(index)) for index in range(count)))


def told(record: RequestRecord) -> RequestRecord:
    """What of a record does not depend on when it was."""
    return replace(
        record,
        intended_at=0.0,
        written_at=None,
        first_content_at=None,
        first_answer_at=None,
        finished_at=None,
        receive_lag_s=None,
        chunk_times=(0.0,) * len(record.chunk_times),
    )


@pytest.mark.parametrize("play", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_records_are_those_of_one_process(play: Callable[[Coroutine[None, None, None]], None]) -> None:
    thinking = line(thinking="Hm", response="", done=False)
    head = HEAD + b"X-Autotune-Upstream: a:1\r\n\r\n"

    async def whole() -> None:
        async with serving(head, thinking, 0.01, HELLO, 0.01, line(response=" you"), DONE + END) as server:
            one = await records(carrier(Target(server.url, ASK)), 7)
            several = await records(crew(server.url), 7)
        assert [told(record) for record in several] == [told(record) for record in one]
        assert [record.index for record in several] == list(range(7))
        assert all(record.outcome is Outcome.OK and not record.connected for record in several)
        for record in several:
            stamps = [record.intended_at, record.written_at, record.first_content_at, record.finished_at]
            assert stamps == sorted(stamps, key=lambda at: at or 0.0)
            assert record.receive_lag_s is not None

    play(whole())


async def test_who_has_the_fewest_gets_the_next() -> None:
    async with serving(OPEN, HELLO, 0.2, DONE + END) as server, crew(server.url, 3) as several:
        sending = [asyncio.create_task(several.send(flight(index))) for index in range(7)]
        await until(lambda: len(server.bodies) == 7)
        busy = [len(member.flights) for member in several._members]
        assert sorted(busy) == [2, 2, 3]
        assert all(record.outcome is Outcome.OK for record in await asyncio.gather(*sending))
        assert [len(member.flights) for member in several._members] == [0, 0, 0]


async def test_who_is_busy_gets_nothing_more() -> None:
    async with serving(OPEN, HELLO, 0.05, DONE + END) as server, crew(server.url) as several:
        first, second = several._members
        cut = flight()
        long = asyncio.create_task(first.send(cut))
        for index in range(1, 4):
            sending = asyncio.create_task(several.send(flight(index)))
            await asyncio.sleep(0)
            assert (len(first.flights), len(second.flights)) == (1, 1) or long.done()
            await sending
        await long


async def test_connections_are_opened_in_each_process() -> None:
    async with serving(OPEN, HELLO, DONE + END) as server, crew(server.url) as several:
        assert await several.open(5) == 6
        assert server.connections == 6
        assert not any([(await several.send(flight(index))).connected for index in range(4)])


async def test_what_is_handed_over_early_leaves_at_its_time() -> None:
    async with serving(OPEN, HELLO, DONE + END) as server, crew(server.url, 1) as several:
        record = await several.send(flight(in_s=0.2))
    assert record.written_at is not None
    assert 0 <= record.written_at - record.intended_at < 0.1


async def test_progress_is_told_before_the_end() -> None:
    async with serving(OPEN, HELLO, HELLO, 0.2, DONE + END) as server, crew(server.url, 1) as several:
        one = flight()
        sending = asyncio.create_task(several.send(one))
        await one.settled.wait()
        await until(lambda: one.pieces == 2)
        assert not sending.done()
        seen = one.written_at, one.first_content_at
        record = await sending
    assert seen == (record.written_at, record.first_content_at)


async def test_every_process_has_a_pulse() -> None:
    async with serving(OPEN, HELLO, DONE + END) as server, crew(server.url) as several:
        before = await several.pulse()
        await asyncio.sleep(0.2)
        spans = [after.since(earlier) for earlier, after in zip(before, await several.pulse(), strict=True)]
    assert len({span.pid for span in spans} | {os.getpid()}) == 3
    for span in spans:
        assert 0.2 <= span.at < 5
        assert 0 <= span.cpu_s < span.at
        assert sum(span.lags) > 0


# arrivals, however many processes carry them

RATE, SEED = 300.0, 42
CHEAP = SeededWorkload(0, Lengths("fixed", 16), Lengths("fixed", 1))
SHORT = Phases(warmup_s=0.2, warmup_max_s=1, window_s=0.9, window_max_s=0.9, drain_s=0.5)


@cache
def arrivals(processes: int, again: int) -> LoadResult:
    """A load of Poisson arrivals, or another one; answers take a tenth of a second, so that many are on their way."""

    ready()  # else the first load would stand still for it in the middle of its arrivals

    async def whole() -> LoadResult:
        async with _metronome() as url:
            target = Target(url, ASK)
            async with carrier(target) if processes == 1 else Crew(target, processes) as client:
                return await run(client, CHEAP, OpenLoop(RATE, "poisson", SEED), SHORT, "nonce")

    return asyncio.run(whole())


def dispersion(times: Sequence[float], bin_s: float = 0.04) -> float:
    """Variance by mean of the counts in equal parts of time: 1 for Poisson, 4 where four draw the same gaps."""
    counts = [0] * int((max(times) - min(times)) / bin_s)
    for at in times:
        if (part := int((at - min(times)) / bin_s)) < len(counts):
            counts[part] += 1
    mean = sum(counts) / len(counts)
    return sum((count - mean) ** 2 for count in counts) / (len(counts) - 1) / mean


def distance(gaps: Sequence[float], rate: float) -> float:
    """Kolmogorov and Smirnov's: the most by which the gaps' distribution is away from the exponential one."""
    ordered, n = sorted(gaps), len(gaps)
    expected = [1 - math.exp(-rate * gap) for gap in ordered]
    return max(max((place + 1) / n - one, one - place / n) for place, one in enumerate(expected))


@pytest.mark.parametrize("processes", [1, 4])
def test_intended_times_are_those_of_the_one_schedule(processes: int) -> None:
    loaded = arrivals(processes, 0)
    intended = [record.intended_at for record in loaded.records]
    assert [record.index for record in loaded.records] == list(range(len(intended)))
    assert len(intended) > 300
    planned = OpenLoop(RATE, "poisson", SEED).times()
    began = intended[0] - next(planned)
    assert intended[1:] == pytest.approx([began + next(planned) for _ in intended[1:]], abs=1e-6)
    assert all(record.outcome in {Outcome.OK, Outcome.CUT_OFF} for record in loaded.records)


def poisson(times: Sequence[float], slack: float = 0.0) -> bool:
    """Whether these are Poisson arrivals, as well as a few hundred can say; `slack` for what timers do to gaps."""
    gaps = [after - before for before, after in pairwise(times)]
    n, mean = len(gaps), sum(gaps) / len(gaps)
    along = sum((one - mean) * (other - mean) for one, other in pairwise(gaps)) / sum((one - mean) ** 2 for one in gaps)
    near = distance(gaps, RATE) < 1.63 / math.sqrt(n) + slack
    return 0.5 < dispersion(times) < 1.6 + 2 * slack and near and abs(along) < 0.15 + slack


def stamps(loaded: LoadResult, name: str) -> list[float]:
    inside = [r for r in loaded.records if loaded.window_start <= r.intended_at < loaded.window_end]
    assert len(inside) > 200
    return sorted(getattr(record, name) for record in inside)


@pytest.mark.quiet
@pytest.mark.parametrize("processes", [1, 4])
def test_arrivals_are_poisson(processes: int) -> None:
    """Four processes that each draw from one seed would have a dispersion of 4, and gaps of 0 beside each other."""
    assert poisson(stamps(arrivals(processes, 0), "intended_at"))
    # timers are no finer than a millisecond, a third of a mean gap; and a machine may stand still in one of the loads
    assert any(poisson(stamps(arrivals(processes, again), "written_at"), 0.2) for again in range(3))


def test_the_measures_of_arrivals_see_what_is_not_poisson() -> None:
    """Else the test above could not fail."""
    planned = OpenLoop(RATE / 4, "poisson", SEED).times()
    alike = [at for at, _ in zip(planned, range(120), strict=False) for _ in range(4)]
    assert dispersion(alike) > 3
    assert not poisson(alike, 0.2)
    even = [number / RATE for number in range(480)]
    assert dispersion(even) < 0.1
    assert not poisson(even, 0.2)


# processes that end


async def test_a_process_that_is_killed_fails_its_requests() -> None:
    async with serving(OPEN, HELLO, 0.2, DONE + END) as server, crew(server.url) as several:
        flights = [flight(index) for index in range(4)]
        sending = [asyncio.create_task(several.send(one)) for one in flights]
        await asyncio.gather(*(one.settled.wait() for one in flights))
        first, _ = await pids(several)
        lost = {one.prompt.index for one in several._members[0].flights.values()}
        os.kill(first, signal.SIGKILL)
        found = await asyncio.gather(*sending)
        with pytest.raises(ClusterError, match=f"process {first} of autotune has died"):
            await several.pulse()
        with pytest.raises(ClusterError):
            await several.open(2)
        later = await several.send(flight(9))
    assert {record.index for record in found if record.outcome is Outcome.FAILED} == lost
    assert len(lost) == 2
    assert all(record.outcome is Outcome.OK for record in found if record.index not in lost)
    for record in [record for record in found if record.index in lost] + [later]:
        assert (record.outcome, record.chunk_times, record.finished_at is None) == (Outcome.FAILED, (), False)
        assert f"process {first} of autotune has died" in record.error


async def test_a_load_that_loses_a_process_is_a_fault_of_the_machine() -> None:
    async with _metronome() as url, crew(url) as several:
        loading = asyncio.create_task(
            run(several, CHEAP, ClosedLoop(4), replace(SHORT, window_s=0.4, window_max_s=0.4), "nonce")
        )
        await asyncio.sleep(0.3)
        os.kill((await pids(several))[0], signal.SIGKILL)
        with pytest.raises(ClusterError):
            await loading


async def test_who_does_not_start_is_a_fault_of_the_machine(capfd: pytest.CaptureFixture[str]) -> None:
    missing = Crew(Target("https://127.0.0.1:9", ASK, ca_file="/no/such.pem"), 1)
    with pytest.raises(ClusterError, match="did not start"):
        await missing.__aenter__()
    assert workers() == []
    assert "FileNotFoundError" in capfd.readouterr().err


class Interpreters:
    """Stands for `sys` where a crew looks for its Python: this one, then one that ends at once."""

    def __init__(self, *paths: str) -> None:
        self._paths = iter(paths)

    @property
    def executable(self) -> str:
        return next(self._paths)


async def test_if_one_does_not_start_none_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.benchmark.crew.sys", Interpreters(sys.executable, "/bin/false"))
    with pytest.raises(ClusterError, match="did not start"):
        await crew(NOBODY).__aenter__()
    await until(lambda: not workers(), 0.5)


async def test_who_is_cancelled_while_it_starts_leaves_nobody() -> None:
    starting = asyncio.create_task(crew(NOBODY).__aenter__())
    await until(lambda: len(workers()) == 2)
    await asyncio.sleep(0.05)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await until(lambda: not workers(), 0.5)


async def test_nobody_is_there_after_the_end() -> None:
    async with crew(NOBODY) as several:
        assert sorted(await pids(several)) == sorted(workers())
        identities = [host.identity(pid) for pid in workers()]
    assert not any(host.runs(one) for one in identities if one)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_a_process_cannot_carry_has_an_answer_all_the_same() -> None:
    async with crew("http://a..b", 1) as several, asyncio.timeout(0.4):
        assert (await several.send(flight())).outcome is Outcome.FAILED


# whoever started it

PARENT = """
import asyncio, signal, sys, time
from autotune.benchmark.carrier import Target
from autotune.benchmark.crew import Crew
from autotune.benchmark.dialect import Ask
from autotune.benchmark.flight import Flight
from autotune.benchmark.worker import run as run_client
from autotune.benchmark.workload import Prompt

async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, print, "interrupted")
    async with Crew(Target(sys.argv[1], Ask("generate", "tiny")), 2) as crew:
        flights = [Flight(Prompt(index, "prompt", 12), time.monotonic()) for index in range(2)]
        sending = [asyncio.create_task(crew.send(flight)) for flight in flights]
        await asyncio.gather(*(flight.settled.wait() for flight in flights))
        print(*[pulse.pid for pulse in await crew.pulse()], flush=True)
        print(*[record.outcome for record in await asyncio.gather(*sending)])

asyncio.run(main())
"""


@asynccontextmanager
async def parent(server: Server) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[host.Identity]]]:
    """A process of its own session that has two requests on their way, and its workers."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, server.url), stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            found = [host.identity(int(pid)) for pid in (await process.stdout.readline()).split()]
        alive = [one for one in found if one is not None and host.runs(one)]
        assert len(alive) == 2
        yield process, alive
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def test_a_killed_parent_leaves_no_worker() -> None:
    async with serving(OPEN, HELLO, 30.0) as server, parent(server) as (process, alive):
        process.kill()
        await process.wait()
        await until(lambda: not any(host.runs(one) for one in alive), 5)


async def test_an_interrupt_is_for_the_parent() -> None:
    async with serving(OPEN, HELLO, 0.3, DONE + END) as server, parent(server) as (process, alive):
        os.killpg(process.pid, signal.SIGINT)
        said, _ = await process.communicate()
        assert said.split() == [b"interrupted", b"ok", b"ok"]
        assert process.returncode == 0
        assert not any(host.runs(one) for one in alive)


@pytest.mark.parametrize("play", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_when_nobody_listens_any_more_nothing_is_told(play: Callable[[Coroutine[None, None, None]], None]) -> None:
    complaints: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        ours, theirs = socket.socketpair()
        _, writer = await asyncio.open_unix_connection(sock=theirs)
        worker = _Worker(carrier(Target(NOBODY, ASK)), writer)
        writer.close()
        await asyncio.sleep(0.01)
        worker.tell(("pieces", {}))
        await asyncio.sleep(0.01)
        ours.close()

    play(main())
    assert complaints == []


def test_a_client_goes_first_and_its_children_do_not() -> None:
    def policies() -> tuple[int, int]:
        said = subprocess.run(
            [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"], capture_output=True, check=True
        )
        return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, int(said.stdout)

    async def inside() -> tuple[int, int]:
        return policies()

    before = policies()
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        os.sched_setscheduler(0, before[0], os.sched_param(0))
    except OSError:
        pytest.skip("this user may not go before others")
    assert run_client(inside()) == (os.SCHED_RR, before[1])
    assert policies() == before
