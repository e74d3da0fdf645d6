"""How exact the client is on this machine, and how much it can take: measured against a server that knows its times.

The server (`benchmark.metronome`) is a process of its own. It notes when the kernel got each request and when it sent
each first token; both sides have the host's one monotonic clock. So the error of a TTFT is what the client says less
what the server knows.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import platform
import secrets
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.benchmark.carrier import Target
from autotune.benchmark.crew import Crew, ended
from autotune.benchmark.dialect import Ask
from autotune.benchmark.load import run
from autotune.benchmark.metronome import GAP_S, TTFT_S
from autotune.benchmark.pacer import ClosedLoop
from autotune.benchmark.phases import Phases
from autotune.benchmark.workload import Lengths, SeededWorkload, mark
from autotune.errors import ClusterError
from autotune.files import write
from autotune.health import MOST_CPU, examine
from autotune.metrics import measure
from autotune.records import Outcome
from autotune.stats import quantile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from autotune.records import RequestRecord

TOKENS = 32
START_S = 10.0
LONGEST_S = 10.0
"""A test that took half of it is the last; the health of each window says what it did not."""
FEWEST = 10
"""Requests without which nothing is said."""
FEWEST_STREAMS = 8
"""With fewer there would be too few requests in some seconds."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What the client of this machine can do, with so many streams at once."""

    concurrency: int
    processes: int
    requests: int
    """From which the errors are taken."""
    error_p50_s: float
    """Of a TTFT: what the client measured less what the server knows, the median of their size."""
    error_p99_s: float
    """99 of 100 TTFTs are nearer than this."""
    cpu_s_per_1000_tokens: float
    """Processor time of all client processes."""
    loop_lag_s: float
    faults: tuple[str, ...] = ()
    """What is wrong with the client at this load; see `health`."""

    @property
    def tokens_per_core(self) -> float:
        """Tokens/s that one client process may take before it is no longer trusted (half a core), one a packet."""
        return MOST_CPU / self.cpu_s_per_1000_tokens * 1000

    def headroom(self, output_tps: float) -> float:
        """How many times that rate the processes of this test could take."""
        return self.processes * self.tokens_per_core / output_tps if output_tps else math.inf


async def selftest(concurrency: int, *, window_s: float = 2.0, most_processes: int | None = None) -> SelfTest:
    """Measure the client with so many streams, in more processes until it is healthy or there are no more cores.

    It takes some seconds, at most ten or so. Raises ClusterError when the server or the client does not start.
    """
    most = most_processes or cores()
    processes, began = 1, time.monotonic()
    while True:
        found = await _measure(max(FEWEST_STREAMS, concurrency), processes, window_s)
        if not found.faults or processes >= most or time.monotonic() - began > LONGEST_S / 2:
            return found
        processes = min(most, 2 * processes)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep(found: Sequence[SelfTest], path: Path | None = None) -> None:
    """Write tests for later: to `path`, or where this user's programs keep such things. Raises `StorageError`."""
    content = {"at": datetime.now(UTC).isoformat(), "host": platform.node(), "tests": [asdict(one) for one in found]}
    write(path or _kept(), json.dumps(content, indent=1))


def kept(concurrency: int) -> SelfTest | None:
    """The last test of this host with that many streams or the next more; None where there is none."""
    try:
        content = json.loads(_kept().read_text(encoding="utf-8"))
        tests = [SelfTest(**{**one, "faults": tuple(one["faults"])}) for one in content["tests"]]
        found = [one for one in tests if one.concurrency >= concurrency and content["host"] == platform.node()]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return min(found, key=lambda one: one.concurrency, default=None)


def _kept() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "autotune" / "selftest.json"


async def _measure(concurrency: int, processes: int, window_s: float) -> SelfTest:
    nonce = secrets.token_hex(8)
    workload = SeededWorkload(0, Lengths("fixed", 64), Lengths("fixed", TOKENS))
    lasts_s = TTFT_S + GAP_S * TOKENS
    phases = Phases(lasts_s, 4 * lasts_s, window_s, window_s, 4 * lasts_s)
    async with _metronome() as url, Crew(Target(url, Ask("generate", "metronome")), processes) as crew:
        loaded = await run(crew, workload, ClosedLoop(concurrency), phases, nonce)
        known = await _log(url)
    metrics = measure(loaded.records, window_start=loaded.window_start, window_end=loaded.window_end)
    errors = _errors(loaded.records, known, nonce)
    health = examine(loaded, metrics)
    if len(errors) < FEWEST or health.cpu_s_per_1000_tokens is None or health.loop_lag_s is None:
        raise ClusterError(f"the self-test has only {len(errors)} requests: this machine is too busy for it")
    return SelfTest(
        concurrency=concurrency,
        processes=processes,
        requests=len(errors),
        error_p50_s=quantile(errors, 0.5),
        error_p99_s=quantile(errors, 0.99),
        cpu_s_per_1000_tokens=health.cpu_s_per_1000_tokens,
        loop_lag_s=health.loop_lag_s,
        faults=health.faults,
    )


def _errors(records: Sequence[RequestRecord], known: Mapping[str, Sequence[float]], nonce: str) -> list[float]:
    """Of each TTFT, s, without a sign."""
    found = []
    for record in records:
        times = known.get(mark(nonce, record.index), ())
        if record.outcome is Outcome.OK and len(times) == 2 and record.first_content_at and record.written_at:
            found.append(abs(record.first_content_at - record.written_at - (times[1] - times[0])))
    return found


@asynccontextmanager
async def _metronome() -> AsyncIterator[str]:
    """The server's URL; it ends with its standard input."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "autotune.benchmark.metronome"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{await _port(process.stdout)}"
    finally:
        process.stdin.close()
        await ended(process)


async def _port(said: asyncio.StreamReader) -> str:
    try:
        async with asyncio.timeout(START_S):
            port = (await said.readline()).decode().strip()
    except TimeoutError as error:
        raise ClusterError("the server of the self-test did not start in time") from error
    if not port.isdecimal():
        raise ClusterError("the server of the self-test did not start; its own words are above")
    return port


async def _log(url: str) -> dict[str, list[float]]:
    """What the server knows: of each request by its mark, when it came and when its first token was sent, s."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"GET /log HTTP/1.1\r\nHost: metronome\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        known: dict[str, list[float]] = json.loads(await reader.readexactly(length))
    finally:
        writer.close()
    return known
