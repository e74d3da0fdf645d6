"""Whose fault a death is: real processes that end in all ways, and a kernel's counters in a folder."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from autotune.cluster import host
from autotune.cluster.deaths import Deaths
from autotune.cluster.driver import Handle
from autotune.errors import ClusterError, InstanceDied, Killed, OutOfHostMemory, OutOfMemory, TrialFailure
from autotune.plan import InstancePlan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INSTANCE = InstancePlan("ollama-0", 11500, ("GPU-1",), ())


@pytest.fixture(autouse=True)
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc with the counter alone."""
    monkeypatch.setattr(host, "PROC", tmp_path)
    counted(tmp_path, 3)
    return tmp_path


def counted(folder: Path, times: int) -> None:
    (folder / "vmstat").write_text(f"pgfault 99\noom_kill {times}\n")


def ended(code: str) -> Handle:
    """A process of ours that has ended, not reaped."""
    process = subprocess.Popen(["/bin/sh", "-c", code])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    STARTED.append(process)
    return Handle(INSTANCE, process.pid)


STARTED: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def reaped() -> Iterator[None]:
    yield
    while STARTED:
        STARTED.pop().wait()


@pytest.mark.parametrize("name", ["KILL", "TERM", "INT", "HUP", "QUIT"])
def test_what_was_ended_by_a_signal_of_somebody_else_is_a_fault_of_the_machine(name: str) -> None:
    error = Deaths().of_server(ended(f"kill -{name} $$"), "its log")
    assert isinstance(error, Killed)
    assert (error.message, error.details) == (f"ollama-0 was ended from outside by SIG{name}", "its log")


@pytest.mark.parametrize("code", ["exit 0", "exit 1", "kill -SEGV $$", "kill -ABRT $$", "kill -BUS $$"])
def test_what_breaks_by_itself_is_not(code: str) -> None:
    assert Deaths().of_server(ended(code), "") is None


def test_what_still_runs_or_is_no_child_has_not_ended() -> None:
    assert host.ending(os.getppid()) is None
    assert host.ending(os.getpid()) is None


def test_an_ending_is_told_again_and_again() -> None:
    handle = ended("kill -KILL $$")
    assert [host.ending(handle.pid) for _ in range(2)] == [-signal.SIGKILL] * 2


def test_the_kernels_verdict_counts_against_the_instance_only_when_it_comes_again(kernel: Path) -> None:
    deaths = Deaths()
    counted(kernel, 4)
    first = deaths.of_server(ended("kill -KILL $$"), "")
    assert isinstance(first, Killed)
    assert first.message == "the kernel has ended ollama-0 for want of memory"
    counted(kernel, 5)
    again = deaths.of_server(ended("kill -KILL $$"), "")
    assert isinstance(again, OutOfHostMemory)
    assert again.reason == "out_of_host_memory"


def test_a_kill_by_hand_after_one_by_the_kernel_is_one_by_hand(kernel: Path) -> None:
    deaths = Deaths()
    counted(kernel, 4)
    deaths.of_server(ended("kill -KILL $$"), "")
    later = deaths.of_server(ended("kill -KILL $$"), "")
    assert isinstance(later, Killed)
    assert "from outside by SIGKILL" in later.message


TERMINATED = 'time=T level=ERROR msg="llama-server terminated" error="{}" exit=unknown\n'


@pytest.mark.parametrize(
    ("before", "how", "kind"),
    [
        ("", "signal: killed", Killed),
        ("", "signal: aborted", InstanceDied),
        ("CUDA error: out of memory\n", "signal: aborted", OutOfMemory),
        ("terminate called after throwing an instance of 'std::bad_alloc'\n", "signal: aborted", OutOfHostMemory),
        ("CUDA error: an illegal memory access was encountered\n", "signal: aborted", InstanceDied),
    ],
)
def test_a_models_process_that_ended_under_load_says_why(before: str, how: str, kind: type[Exception]) -> None:
    deaths, handle = Deaths(), Handle(INSTANCE, 1)
    deaths.seen(handle, "well\n")
    error = deaths.of_model(handle, "well\n" + before + TERMINATED.format(how))
    assert type(error) is kind
    assert isinstance(error, ClusterError if kind is Killed else TrialFailure)


def test_what_ended_before_the_instance_was_well_is_past() -> None:
    deaths, handle = Deaths(), Handle(INSTANCE, 1)
    log = TERMINATED.format("exit status 1")
    deaths.seen(handle, log)
    assert deaths.of_model(handle, log + "loaded\n") is None
    assert Deaths().of_model(handle, log) is None


def test_a_kernel_that_does_not_count_has_ended_nobody(kernel: Path) -> None:
    (kernel / "vmstat").unlink()
    assert host.killed_for_memory() == 0


def test_the_group_of_this_process_counts_too(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (kernel / "self").mkdir()
    (kernel / "self/cgroup").write_text("1:cpu:/x\n0::/a/b\n")
    (kernel / "groups/a/b").mkdir(parents=True)
    (kernel / "groups/a/b/memory.events").write_text("oom 9\noom_kill 2\noom_group_kill 1\n")
    monkeypatch.setattr(host, "CGROUPS", kernel / "groups")
    assert host.killed_for_memory() == 5
