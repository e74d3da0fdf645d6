"""A client process of a crew: `python -m autotune.benchmark.worker FD`, spoken to over the socket with that number.

It ends with the socket: whatever happens to the process that started it, nothing of it stays.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import socket
import struct
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from autotune.benchmark.carrier import carrier
from autotune.benchmark.exchange import now
from autotune.benchmark.flight import Flight
from autotune.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from autotune.benchmark.flight import Client
    from autotune.benchmark.workload import Prompt

SIZE = struct.Struct("<I")

PIECES_S = 0.1
"""So often the pieces of text that came are told."""


def packed(message: object) -> bytes:
    """A message as it goes over the socket, in both directions: its length, then its pickle."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return SIZE.pack(len(data)) + data


async def unpacked(reader: asyncio.StreamReader) -> Any:
    """The next message; None when there will be no more."""
    try:
        (size,) = SIZE.unpack(await reader.readexactly(SIZE.size))
        return pickle.loads(await reader.readexactly(size))  # noqa: S301 - both ends are ours
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


class _Told(Flight):
    """A flight of this process whose progress the other one is told."""

    __slots__ = ("_number", "_tell", "told")

    def __init__(self, number: int, prompt: Prompt, intended_at: float, address: str, worker: _Worker) -> None:
        super().__init__(prompt, intended_at, address)
        self._number = number
        self._tell = worker.tell
        self.told = 0

    def wrote(self, at: float) -> None:
        super().wrote(at)
        self._tell(("wrote", self._number, at))

    def speak(self, at: float) -> None:
        super().speak(at)
        self._tell(("speak", self._number, at))


class _Worker:
    """What is on its way in this process."""

    def __init__(self, client: Client, writer: asyncio.StreamWriter) -> None:
        self._client = client
        self._writer = writer
        self._flights: dict[int, _Told] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._to_tell: list[tuple[Any, ...]] = []

    def tell(self, message: tuple[Any, ...]) -> None:
        """All that happened in one turn of the loop goes in one write."""
        if not self._to_tell:
            asyncio.get_running_loop().call_soon(self._flush)
        self._to_tell.append(message)

    def _flush(self) -> None:
        messages, self._to_tell = self._to_tell, []
        if not self._writer.is_closing():  # the other end may be gone by now
            self._writer.write(packed(messages))

    async def obey(self, reader: asyncio.StreamReader) -> None:
        """Do what is said, until nothing more is said."""
        counting = asyncio.create_task(self._count())
        while (message := await unpacked(reader)) is not None:
            match message:
                case ("send", number, prompt, intended_at, address, was_cut):
                    flight = self._flights[number] = _Told(number, prompt, intended_at, address, self)
                    flight.was_cut = was_cut
                    self._begin(number, self._send(number))
                case ("cut", number) if number in self._flights:
                    self._flights[number].cut()
                case ("open", number, connections):
                    self._begin(number, self._open(number, connections))
                case ("pulse", number):
                    self.tell(("answer", number, await self._client.pulse()))
        for task in [counting, *self._tasks]:
            task.cancel()

    def _begin(self, number: int, doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._answered(number, doing))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answered(self, number: int, doing: Coroutine[Any, Any, None]) -> None:
        try:
            await doing
        except Exception as error:  # noqa: BLE001 - whatever it is, the other process waits for an answer
            words = error.message if isinstance(error, ClusterError) else f"{type(error).__name__}: {error}"
            self.tell(("failed", number, words))

    async def _send(self, number: int) -> None:
        flight = self._flights[number]
        if not flight.was_cut and (early_s := flight.intended_at - now()) > 0:
            await asyncio.sleep(early_s)
        try:
            record = await self._client.send(flight)
        finally:
            del self._flights[number]
        self.tell(("answer", number, record))

    async def _open(self, number: int, connections: int) -> None:
        self.tell(("answer", number, await self._client.open(connections)))

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(PIECES_S)
            news = {number: one.pieces for number, one in self._flights.items() if one.pieces != one.told}
            for number, pieces in news.items():
                self._flights[number].told = pieces
            if news:
                self.tell(("pieces", news))


async def work(sock: socket.socket) -> None:
    """The life of the process: the target comes first, then requests."""
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    if (target := await unpacked(reader)) is None:
        return
    async with carrier(target) as client:
        gc.collect()
        gc.freeze()
        gc.disable()  # it would stop everything for tens of ms; one load leaves little that only it could free
        writer.write(packed([("answer", 0, None)]))
        await _Worker(client, writer).obey(reader)


@contextmanager
def hurried() -> Iterator[None]:
    """Inside, this thread goes before whatever else wants its core, where that is allowed: as root, or by `ulimit -r`.

    A model that runs on the CPU takes all of it, and a client that waits for its turn is late: by 50 ms and more, with
    a mere `nice` too, which counts among the processes of one session only. It needs a few parts of a hundred of a core
    itself, and the kernel leaves the others a twentieth whatever happens. What it starts goes as everything does.
    """
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setscheduler(0, *before)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """`asyncio.run` for a client: before everybody else, and on uvloop where there is one, where it costs less."""
    with hurried():
        try:
            import uvloop  # noqa: PLC0415 - an extra
        except ImportError:
            return asyncio.run(main)
        return uvloop.run(main)


if __name__ == "__main__":
    run(work(socket.socket(fileno=int(sys.argv[1]))))
