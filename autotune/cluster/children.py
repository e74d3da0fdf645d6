"""The processes that we started: begun so that they die with us, ended so that nothing is left.

Three lines of defence. `setpriv --pdeathsig TERM` makes the kernel end a child when we die, even by SIGKILL. Each child
leads a session of its own, so that what it left behind can be found and ended with it. Each is written to a ledger in
the study folder, with its start time and a mark in its environment, and the next start ends what is left of it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Self

from autotune.cluster import host
from autotune.errors import BinaryMissing, ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

MARK = "AUTOTUNE_STUDY"
"""Every process of a study carries its folder in this variable."""
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
        """Start a process that dies with us. Raises `BinaryMissing`."""
        prefix = [program("setpriv", "util-linux"), "--pdeathsig", "TERM"]
        if cpus:
            prefix += [program("taskset", "util-linux"), "-c", ",".join(map(str, cpus))]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*prefix, program(command[0]), *command[1:]],
                env={**env, MARK: str(self._folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[process.pid] = process
        self._note(process.pid)
        return process

    def alive(self, pid: int) -> bool:
        """Whether a process that we started still runs."""
        process = self._running.get(pid)
        return process is not None and process.poll() is None

    async def end(self, pid: int, timeout_s: float) -> None:
        """TERM, wait at most `timeout_s`, then KILL of it and of all that is left of its session."""
        process = self._running.get(pid)
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            await _gone(lambda: process.poll() is not None, timeout_s)
        _kill_session(pid)
        if not await _gone(lambda: process.poll() is not None and not host.session(pid), _KILL_S):
            raise ClusterError(f"{host.describe(pid)} does not end, not even by SIGKILL")
        del self._running[pid]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for pid in list(self._running):
            await self.end(pid, _KILL_S)

    def kill_all(self) -> None:
        """End everything at once, without waiting."""
        for pid in list(self._running):
            _kill_session(pid)

    async def sweep(self) -> list[str]:
        """End what an earlier run of this study left behind, and wait for its end; says what that was."""
        ended, gone = [], []
        for leader in self._recorded():
            for pid in {leader.pid, *host.session(leader.pid)}:
                found = host.identity(pid)
                if found is not None and self._is_ours(found, leader):
                    ended.append(host.describe(pid))
                    gone.append(found)
                    host.send(pid, signal.SIGKILL)
        await _gone(lambda: not any(map(host.runs, gone)), _KILL_S)
        self._ledger.unlink(missing_ok=True)
        return ended

    def _is_ours(self, found: host.Identity, leader: host.Identity) -> bool:
        """The same process, or one of its session that carries our mark: never a pid that was given out again."""
        if host.environment(found.pid).get(MARK) != str(self._folder):
            return False
        return found == leader if found.pid == leader.pid else found.started >= leader.started

    def _note(self, pid: int) -> None:
        found = host.identity(pid)
        if found is not None:
            with self._ledger.open("a", encoding="utf-8") as ledger:
                ledger.write(json.dumps({"pid": found.pid, "started": found.started}) + "\n")

    def _recorded(self) -> list[host.Identity]:
        if not self._ledger.exists():
            return []
        lines = self._ledger.read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines if line.endswith("}")]
        return [host.Identity(entry["pid"], entry["started"]) for entry in entries]


def program(name: str, package: str = "") -> str:
    """The full path of a program. Raises `BinaryMissing`."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        hint = f"; install it: sudo apt-get install {package}" if package else ""
        raise BinaryMissing(f"no program {name!r}{hint}")
    return found


def _kill_session(leader: int) -> None:
    for pid in host.session(leader):
        host.send(pid, signal.SIGKILL)


async def _gone(check: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until `check` holds; whether it did in time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    while not check():
        if loop.time() >= end:
            return False
        await asyncio.sleep(_POLL_S)
    return True
