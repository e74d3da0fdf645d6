"""Processes and ports of this host, read from /proc (Linux).

A process is known by its pid together with its start time: a pid alone may belong to another one by now.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.errors import ClusterError

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
_LISTEN = "0A"
_LOOPBACK = {"0100007F", "0" * 8, "0" * 32, "0" * 16 + "FFFF0000" + "0100007F", "0" * 16 + "FFFF0000" + "0" * 8}
"""The addresses at which 127.0.0.1 is listened on, as /proc/net/tcp and tcp6 write them: itself and any, of IPv4, of
both, and as IPv6 has those of IPv4."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, for ever: start time in clock ticks since boot (field 22 of /proc/PID/stat)."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Stat:
    """The part of /proc/PID/stat that matters here."""

    state: str
    parent: int
    session: int
    started: int


def stat(pid: int) -> Stat | None:
    """None when there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(fields[0], int(fields[1]), int(fields[3]), int(fields[19]))


def identity(pid: int) -> Identity | None:
    """None when there is no such process."""
    found = stat(pid)
    return Identity(pid, found.started) if found else None


def runs(process: Identity) -> bool:
    """Whether this very process still runs; a zombie does not."""
    found = stat(process.pid)
    return found is not None and found.started == process.started and found.state not in "ZX"


def ending(pid: int) -> int | None:
    """How a child of this process has ended: its exit code, or a signal below 0; None where it runs or is no child.

    It is not reaped, so that its pid goes to nobody else.
    """
    try:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def killed_for_memory() -> int:
    """How many processes the kernel has ended for want of memory, on this host and in this process's own group."""
    found = _count(PROC / "vmstat", "oom_kill")
    own = (PROC / "self/cgroup").read_text(encoding="utf-8") if (PROC / "self/cgroup").exists() else ""
    groups = [line.split(":", 2)[2].strip("/") for line in own.splitlines() if line.startswith("0::")]
    return found + sum(_count(CGROUPS / group / "memory.events", "oom_kill") for group in groups)


def _count(path: Path, name: str) -> int:
    """A counter in a file of names and numbers; 0 where there is none."""
    with suppress(OSError, ValueError):
        pairs = map(str.split, path.read_text(encoding="ascii").splitlines())
        return next((int(pair[1]) for pair in pairs if pair[:1] == [name]), 0)
    return 0


def processes() -> Iterator[int]:
    """All pids."""
    return (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())


def children(pid: int) -> list[int]:
    """The processes whose parent `pid` is."""
    return [other for other in processes() if (found := stat(other)) and found.parent == pid]


def session(leader: int) -> list[int]:
    """The processes of a session that still run: what a leader started and left behind among them."""
    return [pid for pid in processes() if (found := stat(pid)) and found.session == leader and found.state not in "ZX"]


def environment(pid: int) -> dict[str, str]:
    """The environment a process was started with; empty where it may not be read."""
    try:
        raw = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.split("=", 1) for item in raw.decode(errors="replace").split("\0") if "=" in item)
    return {pair[0]: pair[1] for pair in pairs}


def argv(pid: int) -> list[str]:
    """The arguments of a process; empty where it may not be read."""
    try:
        raw = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode(errors="replace").rstrip("\0").split("\0") if raw else []


def describe(pid: int) -> str:
    """A process as people know it: pid, user, command."""
    import pwd  # noqa: PLC0415 - Windows, where `bench` runs, has no such module

    try:
        user = pwd.getpwuid((PROC / str(pid)).stat().st_uid).pw_name
    except (OSError, KeyError):
        user = "?"
    return f"pid {pid} of {user} ({' '.join(argv(pid))[:120] or '?'})"


def send(pid: int, what: signal.Signals) -> None:
    """Signal a process; one that is gone, or not ours, is fine."""
    try:
        os.kill(pid, what)
    except (ProcessLookupError, PermissionError):
        return


def port_free(port: int) -> bool:
    """Whether 127.0.0.1:port can be listened on now. Raises `ClusterError` where this user may not."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError as error:
            raise ClusterError(f"port {port}: only root may listen below 1024") from error
        except OSError:
            return False
    return True


def port_holder(port: int) -> str:
    """Who listens on a TCP port of 127.0.0.1, as far as may be seen from here."""
    holder = listener(port)
    return "a process that is not visible to this user" if holder is None else describe(holder)


def listener(port: int, likely: int | None = None) -> int | None:
    """The process that listens on a TCP port of 127.0.0.1; the `likely` one is looked at first.

    None where nobody does, or it cannot be seen from here.
    """
    sockets = _listening(port)
    every = chain([] if likely is None else [likely], processes())
    return next((pid for pid in every if sockets.intersection(_open_files(pid))), None)


def _open_files(pid: int) -> Iterator[str]:
    """What a process has open; one that is closed while we look does not hide the others."""
    with suppress(OSError):
        for entry in (PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                yield str(entry.readlink())


def _listening(port: int) -> set[str]:
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            address, _, at = fields[1].rpartition(":")
            if fields[3] == _LISTEN and int(at, 16) == port and address in _LOOPBACK:
                found.add(f"socket:[{fields[9]}]")
    return found
