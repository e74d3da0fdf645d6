"""One run of one client against a truth server of its own: what it said, what it did, and what that cost."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.peers.clients import GAP_S, TOKENS, TTFT_S, Load
from tests.benchmarks.peers.install import programs
from tests.benchmarks.peers.truth import MODEL, Truth

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.peers.clients import Client, Reported
    from tests.benchmarks.peers.truth import Answer

LIMIT_S = 240.0
"""The most one run may take."""

SAMPLE_S = 0.1
TICKS = os.sysconf("SC_CLK_TCK")


class RunFailedError(Exception):
    """The client did not come to its end, or left no figures; with its last words."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all runs share. The server and whoever watches have the first processor, the client has the second."""

    program: Path
    tokenizer: Path
    peers: Path
    server_cpu: int | None
    client_cpu: int | None


@dataclass(frozen=True, slots=True)
class Run:
    """Times are `time.monotonic()`'s."""

    started_at: float
    reported: Reported
    answers: tuple[Answer, ...]
    cpu_s: float
    """Of the client and the children it waited for, from its start to its end."""
    cpu_until: tuple[tuple[float, float], ...]
    """What it and its children had used so far, s, at several times."""


def run(client: Client, streams: int, requests: int, bench: Bench, folder: Path) -> Run:
    """Raises `RunFailedError`."""
    options = ["--ttft-ms", f"{1e3 * TTFT_S}", "--gap-ms", f"{1e3 * GAP_S}", "--tokens", str(TOKENS), "--model", MODEL]
    if bench.server_cpu is not None:
        options += ["--cpu", str(bench.server_cpu)]
    with Truth(bench.program, folder / "truth.csv", options) as truth:
        its = programs(bench.peers, client.package) if client.package else Path()
        load = Load(truth.url, streams, requests, folder, bench.tokenizer, its)
        started_at = time.monotonic()
        cpu_until, cpu_s = _carry_out(client, load, bench)
        answers = truth.stop()
    try:
        reported = client.read(load)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFailedError(f"no figures ({type(error).__name__}: {error})\n{_last_words(folder)}") from error
    if not any(answer.asked == TOKENS and answer.tokens for answer in answers):
        raise RunFailedError(f"it sent no request of the load\n{_last_words(folder)}")
    return Run(started_at, reported, tuple(answers), cpu_s, cpu_until)


def _carry_out(client: Client, load: Load, bench: Bench) -> tuple[tuple[tuple[float, float], ...], float]:
    with (load.folder / "output").open("wb") as output, _on(bench.client_cpu):
        process = subprocess.Popen(
            client.command(load),
            cwd=load.folder,
            env=_environment(client),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    bound = time.monotonic() + LIMIT_S
    try:
        samples, cpu_s = _watch(process, bound)
    finally:
        # children that outlive it would take the next client's processor; the session is of our making
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.returncode is None:
            process.wait()
    if process.returncode:
        ended = "took too long" if time.monotonic() > bound else f"ended with {process.returncode}"
        raise RunFailedError(f"{ended}\n{_last_words(load.folder)}")
    return tuple(samples), cpu_s


def _environment(client: Client) -> dict[str, str]:
    """Ours without proxies, which have no business on loopback, and with the root of the repository to import from."""
    ours = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    root = {} if client.package else {"PYTHONPATH": str(Path(__file__).parents[3])}
    return {**ours, **root, **client.environment, "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1"}


def _watch(process: subprocess.Popen[bytes], bound: float) -> tuple[list[tuple[float, float]], float]:
    """Until it ends or its time is up: what it has used so far, again and again, and at its end."""
    samples: list[tuple[float, float]] = []
    while time.monotonic() < bound:
        samples.append((time.monotonic(), _used_s(process.pid)))
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            process.returncode = os.waitstatus_to_exitcode(status)
            return samples, usage.ru_utime + usage.ru_stime
        time.sleep(SAMPLE_S)
    return samples, samples[-1][1]


def _used_s(pid: int) -> float:
    """CPU time of a process, its living descendants and all they waited for. What is gone meanwhile counts nothing."""
    try:
        # after the name, which may contain anything: state, parent, …, and as 12th to 15th the times
        spent = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:15]
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = [child for thread in threads for child in (thread / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, spent)) / TICKS + sum(_used_s(int(child)) for child in children)


@contextmanager
def _on(cpu: int | None) -> Iterator[None]:
    """What is started inside runs on that processor; a process keeps what its parent had."""
    before = os.sched_getaffinity(0)
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _last_words(folder: Path) -> str:
    lines = (folder / "output").read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-15:])
