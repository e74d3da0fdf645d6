"""What is left of a night, and work that is bounded by it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from autotune.errors import Slept

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from autotune.spec import Budget

T = TypeVar("T")

MOST_SLEEP_S = 1.0
"""A host that was away for longer has not measured what it says."""


class TimeUp(Exception):
    """The time of day at which everything must be over has come. It goes no further than the loop of a night."""


def wall() -> datetime:
    """The time of day, here."""
    return datetime.now().astimezone()


def asleep() -> float:
    """Seconds that this host has been suspended since it was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def _next(time_of_day: str, now: datetime) -> datetime:
    """When it is that time here again.

    Where the clocks are put back it comes twice; what is left out where they are put forward comes as much later.
    """
    hour, minute = map(int, time_of_day.split(":"))
    here = now.replace(tzinfo=None)
    today = here.replace(hour=hour, minute=minute, second=0, microsecond=0)
    found = []
    for asked in (today, today + timedelta(days=1)):
        for fold in (0, 1):
            moment = asked.replace(fold=fold).astimezone()
            shown = moment.replace(tzinfo=None)
            if moment > now and (shown == asked or shown > asked > here):
                found.append(moment)
    return min(found)


@dataclass(frozen=True, slots=True)
class Clock:
    """What is left of the budget. `began_s` is the start of this night on the event loop's clock."""

    budget: Budget
    began_s: float
    until: datetime | None
    spent_s: float = 0.0
    """What earlier runs of the study have used of its hours."""
    wall: Callable[[], datetime] = wall
    asleep: Callable[[], float] = asleep
    back_s: float = 0.0
    """How long it takes to put everything back: nobody else has that time."""

    @classmethod
    def start(cls, budget: Budget, spent_s: float = 0.0, wall: Callable[[], datetime] = wall) -> Clock:
        """Begin to count now. A time of day is its next occurrence."""
        until = None if budget.until is None else _next(budget.until, wall().astimezone())
        return cls(budget, asyncio.get_running_loop().time(), until, spent_s, wall)

    @property
    def total_s(self) -> float | None:
        """The whole length of the night; None when only trials bound it."""
        ends = [self.budget.hours * 3600 - self.spent_s] if self.budget.hours is not None else []
        if self.until is not None:  # the wall clock may be set, so it is read anew
            ends.append(self.elapsed_s + (self.until - self.wall()).total_seconds())
        return min(ends) if ends else None

    @property
    def elapsed_s(self) -> float:
        """Seconds since this night began."""
        return asyncio.get_running_loop().time() - self.began_s

    def left_s(self) -> float | None:
        """Seconds until everything must be put back; None when only trials bound the night."""
        total = self.total_s
        return None if total is None else total - self.elapsed_s - self.back_s

    @property
    def whole_s(self) -> float | None:
        """What is shared out between search and proof, earlier nights of the same hours among it."""
        total = self.total_s
        return total if total is None or self.budget.hours is None else total + self.spent_s

    def search_left_s(self, kept_s: float | None = None) -> float | None:
        """Seconds until the search must end to leave time for the proof; None when only trials bound it.

        `kept_s` is what is kept for the proof; its share, where nothing more is known.
        """
        left, whole = self.left_s(), self.whole_s
        if left is None or whole is None:
            return None
        return left - (self.budget.proof_share * whole if kept_s is None else kept_s)

    async def bound(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something that measures. Raises `TimeUp` when a time of day has come, `Slept` where the host was away."""
        before, left = self.asleep(), self.left_s() if self.until is not None else None
        try:
            async with asyncio.timeout(None if left is None else max(left, 0.0)) as timeout:
                found = await work()
        except TimeoutError as error:
            if timeout.expired():
                raise TimeUp from error
            raise
        if (away := self.asleep() - before) > MOST_SLEEP_S:
            raise Slept(f"this host was asleep for {away:.0f} s while it measured")
        return found

    def event(self) -> dict[str, Any]:
        """How far the night is, for whoever watches."""
        return {
            "what": "time",
            "elapsed_s": self.elapsed_s,
            "search_left_s": self.search_left_s(),
            "total_s": self.total_s,
        }
