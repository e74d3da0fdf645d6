"""The processes that we started: begun so that they die with us, ended so that nothing is left.

Three lines of defence. `setpriv --pdeathsig TERM` makes the kernel end a child when we die, even by SIGKILL. Each child
leads a session of its own, so that what it left behind can be found and ended with it. Each is written to a ledger in
the study folder, with its start time and a mark in its environment, and the next start ends what is left of it. Until
it stands there a child waits; where we die before that, it ends without having been anything.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Self

from autotune.cluster import host
from autotune.errors import BinaryMissing, ClusterError, StorageError
from autotune.files import storage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

MARK = "AUTOTUNE_STUDY"
"""Every process of a study carries its folder in this variable."""
_WAITS = ("/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "sh")
"""Becomes the command that follows as soon as it reads a line."""
_SHELLS_OWN = ("PWD", "OLDPWD", "SHLVL", "_")
"""Variables that a shell adds."""
_POLL_S = 0.02
_KILL_S = 5.0


class Children:
    """All processes of one study."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ledger = folder / "processes.jsonl"
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(
        self, command: Sequence[str], env: Mapping[str, str], log: Path, cpus: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        """Start a process that dies with us. Raises `BinaryMissing`, `StorageError`, `ClusterError`."""
        prefix = [program("env", "coreutils"), *(f"--unset={name}" for name in _SHELLS_OWN if name not in env)]
        prefix += [program("setpriv", "util-linux"), "--pdeathsig", "TERM"]
        if cpus:
            prefix += [program("taskset", "util-linux"), "-c", ",".join(map(str, cpus))]
        with storage(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            output = log.open("wb")
        with output:
            process = _begin([*prefix, program(command[0]), *command[1:]], {**env, MARK: str(self._folder)}, output)
        self._running[process.pid] = process
        try:
            self._note(process.pid)
        except StorageError:
            _kill_session(process.pid)
            raise
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin as gate:
            gate.write(b"go\n")
        return process

    def alive(self, pid: int) -> bool:
        """Whether a process that we started still runs."""
        return pid in self._running and not _died(pid)

    async def end(self, pid: int, timeout_s: float) -> None:
        """TERM, wait at most `timeout_s`, then KILL of it and of all that is left of its session."""
        process = self._running.get(pid)
        if process is None:
            return
        if not _died(pid):
            host.send(pid, signal.SIGTERM)
            await _gone(lambda: _died(pid), timeout_s)
        _kill_session(pid)
        if not await _gone(lambda: _died(pid) and not host.session(pid), _KILL_S):
            raise ClusterError(f"{host.describe(pid)} does not end, not even by SIGKILL")
        if self._running.pop(pid, None) is not None:
            process.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        ended = await asyncio.gather(*(self.end(pid, _KILL_S) for pid in self._running), return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException):
                raise error

    def kill_all(self) -> None:
        """End everything at once, without waiting."""
        for pid in list(self._running):
            _kill_session(pid)

    async def sweep(self) -> list[str]:
        """End what an earlier run of this study left behind, and wait for its end; says what that was."""
        left = [one for leader in self._recorded() for one in self._left_of(leader)]
        ended = [host.describe(one.pid) for one in left]
        for one in left:
            host.send(one.pid, signal.SIGKILL)
        await _gone(lambda: not any(map(host.runs, left)), _KILL_S)
        self._ledger.unlink(missing_ok=True)
        return ended

    def _left_of(self, leader: host.Identity) -> list[host.Identity]:
        """The process, and what runs in its session; of a session whose leader is gone only what carries our mark."""
        session = [one for pid in host.session(leader.pid) if (one := host.identity(pid))]
        if leader in session:
            return session if self._marked(leader.pid) else []
        later = [one for one in session if one.pid != leader.pid and one.started >= leader.started]
        return [one for one in later if self._marked(one.pid)]

    def _marked(self, pid: int) -> bool:
        """nginx writes its title over its environment; but the title has its arguments, and those our folder."""
        marked = host.environment(pid).get(MARK) == str(self._folder)
        return marked or f"{self._folder}/" in " ".join(host.argv(pid))

    def _note(self, pid: int) -> None:
        found = host.identity(pid)
        if found is not None:
            with storage(self._ledger), self._ledger.open("a", encoding="utf-8") as ledger:
                ledger.write(json.dumps({"pid": found.pid, "started": found.started}) + "\n")

    def _recorded(self) -> list[host.Identity]:
        if not self._ledger.exists():
            return []
        lines = self._ledger.read_text(encoding="utf-8", errors="replace").splitlines()
        return [entry for line in lines if (entry := _entry(line))]


def program(name: str, package: str = "") -> str:
    """The full path of a program. Raises `BinaryMissing`."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        hint = f"; install it: sudo apt-get install {package}" if package else ""
        raise BinaryMissing(f"no program {name!r}{hint}")
    return found


def _begin(command: Sequence[str], env: Mapping[str, str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    """In a session of its own, once it is told to go.

    What the system says against it (no memory, too many processes) is its own fault.
    """
    try:
        return subprocess.Popen(
            [*_WAITS, *command],
            env=env,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ClusterError(f"no process can be started here: {error.strerror or error}") from error


def _entry(line: str) -> host.Identity | None:
    """One line of the ledger; None for a torn one."""
    try:
        written = json.loads(line)
        return host.Identity(written["pid"], written["started"])
    except (ValueError, KeyError, TypeError):
        return None


def _died(pid: int) -> bool:
    """Whether a child has ended. It is not reaped: only so its pid, and its session's, go to nobody else."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _kill_session(leader: int) -> None:
    for pid in host.session(leader):
        host.send(pid, signal.SIGKILL)


def of_another(pid: int, child: int) -> bool:
    """Whether a process is neither a child of ours nor started by it: it has another mark, or none and is older.

    What a child starts may lose its mark (`env -i`, `sudo`), and even its session.
    """
    found, own = host.stat(pid), host.stat(child)
    if found is None or own is None or found.session == child:
        return False
    mark = host.environment(pid).get(MARK)
    return found.started < own.started if mark is None else mark != host.environment(child).get(MARK)


async def _gone(check: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until `check` holds; whether it did in time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    while not check():
        if loop.time() >= end:
            return False
        await asyncio.sleep(_POLL_S)
    return True
