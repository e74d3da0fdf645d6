"""When it is asked. Pure: offsets in seconds from the start of the load, without end, made before anything is sent.

A closed loop is so many users without think time: it shows how fast a cluster can be. An open loop is requests that
come whatever the cluster does: it shows what happens when they come too fast.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`users` who each send the next request as soon as their last one ended."""

    users: int
    seed: int = 0

    @property
    def label(self) -> str:
        """How people and results name it."""
        return f"{self.users} users"

    def starts(self, spread_s: float) -> tuple[float, ...]:
        """When each user begins, spread over `spread_s`: a random moment in the user's own share of it.

        All at once would be a wave that prefill stretches and that no steady state has; it would roll on for minutes.
        """
        rng = random.Random(f"{self.seed}/starts")
        return tuple(spread_s * (user + rng.random()) / self.users for user in range(self.users))


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """`rate` requests a second: at equal distances, or at random as independent users come (Poisson)."""

    rate: float
    arrivals: Literal["poisson", "constant"] = "poisson"
    seed: int = 0

    @property
    def label(self) -> str:
        """How people and results name it."""
        return f"{self.rate:g} requests/s"

    def times(self) -> Iterator[float]:
        """The intended times. One generator draws all of them: several with one seed would not be Poisson together."""
        if self.arrivals == "constant":
            yield from (index / self.rate for index in count())
        rng = random.Random(f"{self.seed}/arrivals")
        at = 0.0
        while True:
            at += rng.expovariate(self.rate)
            yield at


Level = ClosedLoop | OpenLoop
