"""A request on its way, and the seam to whatever carries it: what the load sees of a client, without its library."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from autotune.benchmark.watch import Pulse
    from autotune.benchmark.workload import Prompt
    from autotune.records import RequestRecord


def clock() -> Callable[[], float]:
    """The running loop's clock, s; where that is rounded to milliseconds (uvloop), the one beneath it."""
    loop = asyncio.get_running_loop()
    return loop.time if isinstance(loop, asyncio.BaseEventLoop) else time.monotonic


class Flight:
    """Shared by two: the client notes how far the request is, the load watches and may cut it short.

    Times are the event loop's. The record that comes of it is exact; what is seen here is only for progress.
    """

    __slots__ = (
        "_bound",
        "address",
        "first_content_at",
        "intended_at",
        "on_cut",
        "pieces",
        "prompt",
        "settled",
        "was_cut",
        "written_at",
    )

    def __init__(self, prompt: Prompt, intended_at: float, address: str = "") -> None:
        self.prompt = prompt
        self.intended_at = intended_at
        self.address = address
        """host:port of the instance it goes to, where the client has several."""
        self.written_at: float | None = None
        self.first_content_at: float | None = None
        self.pieces = 0
        """Pieces of text so far, roughly."""
        self.settled = asyncio.Event()
        """Its first text came, or it is over."""
        self.was_cut = False
        self.on_cut: Callable[[], None] | None = None
        """How to reach whoever carries it in another process."""
        self._bound: asyncio.Timeout | None = None

    def wrote(self, at: float) -> None:
        """To be called by the client when the last byte has been handed to the socket."""
        self.written_at = at

    def speak(self, at: float) -> None:
        """To be called by the client at the first text."""
        self.first_content_at = at
        self.settled.set()

    def cut(self) -> None:
        """End it now: its client shall return what came so far, as `cut_off`. Harmless when it is over."""
        self.was_cut = True
        if self.on_cut is not None:
            self.on_cut()
        if self._bound is not None and not self._bound.expired():
            self._bound.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def bounded(self, timeout_s: float | None) -> AsyncIterator[None]:
        """The time in which the client may work on it: TimeoutError when that is up, or when it is cut."""
        if self.was_cut:
            raise TimeoutError
        try:
            async with asyncio.timeout(timeout_s) as self._bound:
                yield
        finally:
            self._bound = None


class Client(Protocol):
    """What carries requests to a cluster."""

    lead_s: float
    """How long before its intended time a request should be handed over; it is sent when that has come."""

    async def open(self, connections: int) -> int:
        """Open that many connections ahead of the load; how many were opened. A server that is gone is no error.

        Raises ClusterError where this host gives no more connections.
        """

    async def send(self, flight: Flight) -> RequestRecord:
        """Carry one request to its end, whatever that is: every request yields a record, and nothing is raised.

        The exceptions are cancellation from outside, and ClusterError where this host gives no more connections. A
        flight that is cut yields `cut_off` with the chunks so far; `finished_at` is then the moment until which it was
        watched.
        """

    async def pulse(self) -> tuple[Pulse, ...]:
        """How each process that carries requests has been since it began; none where nobody knows."""
