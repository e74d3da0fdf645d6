"""Virtual time: an event loop that never waits, so that a night passes in seconds.

What has to be slept through is skipped; what is computed takes no time at all. Sockets between two ends inside this
loop work, because data that is ready always goes before the next timer. Threads do not: nothing here waits for them.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class Standstill(RuntimeError):
    """Every task waits for something, and no timer is set that could ever wake one."""


class _Skipping(selectors.DefaultSelector):
    """A selector that, instead of blocking for a time, moves the clock on by that time."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Standstill("virtual time stands still: every task waits and no timer is set")
        self.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` starts at 0 and jumps from timer to timer."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._skipping.now_s


def run_virtual(coro: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coro)
