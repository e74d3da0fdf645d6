"""One night for each host and device: a lock that says who holds it and dies with its holder.

A lock is a listening socket in Linux's abstract namespace. It needs no file, no right to write anywhere, and no
clean-up: the kernel drops it with the process. Connecting to it tells the holder's pid (SO_PEERCRED).
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Self

from autotune.cluster import host
from autotune.errors import DeviceBusy

if TYPE_CHECKING:
    from collections.abc import Iterable


class Lock:
    """Holds all of `names` while it is entered. Raises `DeviceBusy`, naming the holder."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        try:
            self.extend(self._names)
        except DeviceBusy:
            self.__exit__()
            raise
        return self

    def extend(self, names: Iterable[str]) -> None:
        """Hold these as well, until the end of the others. Raises `DeviceBusy`."""
        for name in names:
            self._take(name)

    def __exit__(self, *_: object) -> None:
        while self._sockets:
            self._sockets.pop().close()

    def _take(self, name: str) -> None:
        taken = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            taken.bind(_address(name))
            taken.listen()
        except OSError as error:
            taken.close()
            who = holder(name) or "it has just ended; try again"
            raise DeviceBusy(f"{name} is in use by another run of autotune: {who}") from error
        self._sockets.append(taken)


def _address(name: str) -> str:
    return f"\0autotune-{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}"


def holder(name: str) -> str:
    """The process that holds a lock, as people know it; empty if nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(1)
        try:
            asking.connect(_address(name))
        except OSError:
            return ""
        pid = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return host.describe(pid) if pid else "a process in another container"
