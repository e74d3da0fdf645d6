"""A client of several processes, for more than one core can take, or to keep the load apart from everything else.

The schedule stays in one place, here: each request is handed to the process that has the fewest, which sends it at its
time and stamps it. All processes of a host have one monotonic clock, so records are merged as they are.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Self

from autotune.benchmark.exchange import now
from autotune.benchmark.worker import packed, unpacked
from autotune.errors import ClusterError
from autotune.records import Outcome, RequestRecord

if TYPE_CHECKING:
    from autotune.benchmark.carrier import Target
    from autotune.benchmark.flight import Flight
    from autotune.benchmark.watch import Pulse

START_S = 30.0
END_S = 5.0


class Crew:
    """The client of a load, in `processes` processes; `async with` it. Raises ClusterError where one does not start."""

    lead_s = 0.05

    def __init__(self, target: Target, processes: int) -> None:
        self._target = target
        self._size = processes
        self._members: list[_Member] = []

    async def __aenter__(self) -> Self:
        begun = [asyncio.create_task(self._join()) for _ in range(self._size)]
        try:
            await asyncio.gather(*begun)
        except BaseException:
            for task in begun:
                task.cancel()
            await asyncio.gather(*begun, return_exceptions=True)
            await self.__aexit__()
            raise
        return self

    async def _join(self) -> None:
        self._members.append(await _Member.start(self._target))

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(member.end() for member in self._members))

    async def open(self, connections: int) -> int:
        """Open connections ahead of the load, in each process its part; how many were opened so far."""
        each = -(-connections // self._size)
        return sum(await asyncio.gather(*(member.ask("open", each) for member in self._members)))

    async def send(self, flight: Flight) -> RequestRecord:
        """Carry one request; see `flight.Client`."""
        member = min(self._members, key=lambda one: len(one.flights))
        return await member.send(flight)

    async def pulse(self) -> tuple[Pulse, ...]:
        """How each process has been. Raises ClusterError when one of them has died."""
        found = await asyncio.gather(*(member.ask("pulse") for member in self._members))
        return tuple(pulse for pulses in found for pulse in pulses)


class _Member:
    """One process, and what it was given to do."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._writer = writer
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._dead = False
        self.flights: dict[int, Flight] = {}
        self._listening = asyncio.create_task(self._listen(reader))

    @classmethod
    async def start(cls, target: Target) -> _Member:
        """A process that is ready. Raises ClusterError."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)  # noqa: FBT003
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "autotune.benchmark.worker", str(theirs.fileno())),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for this process; that one ends with its socket
                )
            except OSError as error:
                ours.close()
                raise ClusterError(f"a client process of autotune cannot be started: {error}") from error
        member = cls(process, *await asyncio.open_unix_connection(sock=ours))
        ready = member._answers[0] = asyncio.get_running_loop().create_future()
        member._writer.write(packed(target))
        try:
            async with asyncio.timeout(START_S):
                await ready
        except (TimeoutError, ClusterError) as error:
            await member.end()
            raise ClusterError("a client process of autotune did not start; its own words are above") from error
        except BaseException:
            await member.end()
            raise
        return member

    async def ask(self, what: str, *more: object) -> Any:
        """The answer to a question. Raises ClusterError when the process has died."""
        number = next(self._numbers)
        return await self._answer(number, (what, number, *more))

    async def _answer(self, number: int, message: tuple[object, ...]) -> Any:
        if self._dead:
            raise ClusterError(f"client process {self._process.pid} of autotune has died")
        self._answers[number] = asyncio.get_running_loop().create_future()
        self._writer.write(packed(message))
        try:
            return await self._answers[number]
        finally:
            self._answers.pop(number, None)

    async def send(self, flight: Flight) -> RequestRecord:
        """The record of a request that the process carries. One that dies has lost it; `pulse` says so."""
        number = next(self._numbers)
        self.flights[number] = flight
        flight.on_cut = lambda: self._writer.write(packed(("cut", number)))
        message = "send", number, flight.prompt, flight.intended_at, flight.address, flight.was_cut
        try:
            record: RequestRecord = await self._answer(number, message)
        except asyncio.CancelledError:
            self._writer.write(packed(("cut", number)))
            raise
        except ClusterError as error:
            if not self._dead:
                raise
            index, failed = flight.prompt.index, Outcome.FAILED
            return RequestRecord(index, flight.intended_at, failed, finished_at=now(), error=error.message)
        finally:
            del self.flights[number]
            flight.on_cut = None
            flight.settled.set()
        return record

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while (messages := await unpacked(reader)) is not None:
            for message in messages:
                self._hear(message)
        self._dead = True
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ClusterError(f"client process {self._process.pid} of autotune has died"))

    def _hear(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("answer", number, value) if number in self._answers and not self._answers[number].done():
                self._answers[number].set_result(value)
            case ("failed", number, words) if number in self._answers and not self._answers[number].done():
                self._answers[number].set_exception(ClusterError(words))
            case ("wrote", number, at) if number in self.flights:
                self.flights[number].wrote(at)
            case ("speak", number, at) if number in self.flights:
                self.flights[number].speak(at)
            case ("pieces", news):
                for number, pieces in news.items():
                    if number in self.flights:
                        self.flights[number].pieces = pieces

    async def end(self) -> None:
        """The process ends with its socket."""
        self._writer.close()
        try:
            await ended(self._process)
        finally:
            self._listening.cancel()


async def ended(process: asyncio.subprocess.Process) -> None:
    """Wait for one that was told to end; who does not is killed, and so it is where nobody can wait for it."""
    try:
        async with asyncio.timeout(END_S):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError) as error:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if isinstance(error, asyncio.CancelledError):
            raise
