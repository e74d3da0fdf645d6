"""How well a client process does its own work: how late its event loop is, and how much processor it takes."""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from contextlib import suppress
from dataclasses import dataclass

from autotune.benchmark.exchange import now

TICK_S = 0.01
"""So often, in the mean, the loop is asked whether it is in time: at random moments, so that no rhythm can hide."""

NO_FINER_S = 0.0006
"""uvloop's timers are in whole milliseconds: a shorter sleep is none, and the loop would go round and round."""

FINEST_S, FACTOR, BUCKETS = 1e-4, 1.1, 110
"""Lags are counted in buckets that grow by a tenth: from 0.1 ms to 3 s."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """One client process from its begin until now: what two of them differ by happened between them."""

    pid: int
    at: float
    """On the clock of the stamps, s."""
    cpu_s: float
    """Processor time of the whole process, s."""
    lags: tuple[int, ...]
    """How often the loop was so late, by bucket; see `lag_s`."""

    def since(self, before: Pulse) -> Pulse:
        """The same for the time between: `at` is then its length."""
        lags = tuple(late - earlier for late, earlier in zip(self.lags, before.lags, strict=True))
        return Pulse(self.pid, self.at - before.at, self.cpu_s - before.cpu_s, lags)

    def lag_s(self, q: float) -> float | None:
        """The `q` quantile of the loop's lag, s: the upper end of its bucket. None where it was never asked."""
        total, below = sum(self.lags), 0
        for bucket, count in enumerate(self.lags):
            below += count
            if total and below >= q * total:
                return FINEST_S * FACTOR**bucket
        return None


class Watch:
    """Asks the running loop every `TICK_S` seconds whether it is in time."""

    def __init__(self) -> None:
        self._lags = [0] * BUCKETS
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """From now on, in the background."""
        self._task = asyncio.get_running_loop().create_task(self._ask())

    async def end(self) -> None:
        """No more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def pulse(self) -> Pulse:
        """All until now."""
        return Pulse(os.getpid(), now(), time.process_time(), tuple(self._lags))

    async def _ask(self) -> None:
        due = now()
        while True:
            await asyncio.sleep(max(0.0, due - now()))
            # each tick that a blocked loop has missed counts, as late as it was; one that is nearly due does, too:
            # there is no timer for what is left
            while due <= (at := now()) + NO_FINER_S:
                self._lags[_bucket(at - due)] += 1
                due += TICK_S * (0.5 + random.random())


def _bucket(lag_s: float) -> int:
    if lag_s <= FINEST_S:
        return 0
    return min(BUCKETS - 1, math.ceil(math.log(lag_s / FINEST_S) / math.log(FACTOR)))
