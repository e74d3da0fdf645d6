"""When it is asked. Pure: offsets in seconds from the start of the load, without end, made before anything is sent.

A closed loop is so many users without think time: it shows how fast a cluster can be. An open loop is requests that
come whatever the cluster does: it shows what happens when they come too fast.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass
from itertools import accumulate, count, islice, repeat
from typing import TYPE_CHECKING, Literal

from autotune.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autotune import spec


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
class Ramp:
    """Random arrivals that begin with `start` requests a second and reach the loop's rate in a straight line.

    They take `seconds` for it, and then stay at that rate.
    """

    start: float
    seconds: float

    def when(self, expected: float, rate: float) -> float:
        """The moment up to which `expected` arrivals are due in the mean: the inverse of the intensity's integral."""
        if expected <= 0:
            return 0.0
        within = (self.start + rate) / 2 * self.seconds
        if expected >= within:
            return self.seconds + (expected - within) / rate
        bend = 2 * (rate - self.start) / self.seconds
        # the root of a quadratic in the form that neither cancels nor divides by a rise of 0
        return 2 * expected / (self.start + math.sqrt(max(0.0, self.start**2 + bend * expected)))


@dataclass(frozen=True, slots=True)
class Trace:
    """Arrivals that were recorded: seconds from the first one, rising. At its end it begins again."""

    stamps: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Requests a second, in the mean, as they were recorded."""
        return (len(self.stamps) - 1) / self.stamps[-1]

    @property
    def round_s(self) -> float:
        """From one beginning to the next: the trace, and once its mean gap."""
        return len(self.stamps) / self.rate


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """`rate` requests a second, of which nobody waits for another.

    `constant` is at equal distances, `poisson` at random as independent users come. The gaps of `gamma` have a gamma
    distribution whose shape is `burstiness`: 1 is Poisson, below it requests come in bursts, above it they are more
    even; their coefficient of variation is 1/√burstiness. A `Ramp` reaches the rate, a `Trace` is replayed so fast
    that it has this rate in the mean.
    """

    rate: float
    arrivals: Literal["poisson", "constant", "gamma"] | Ramp | Trace = "poisson"
    seed: int = 0
    burstiness: float = 1.0

    @property
    def label(self) -> str:
        """How people and results name it: as a level of a study file is named."""
        match self.arrivals:
            case Ramp(start, seconds):
                return f"ramp {start:g} to {self.rate:g} requests/s in {seconds:g} s"
            case Trace() as trace:
                speed = f"{self.rate / trace.rate:g}"
                return "trace" if speed == "1" else f"trace at {speed}x"
            case "gamma":
                return f"{self.rate:g} requests/s gamma {self.burstiness:g}"
            case "constant":
                return f"{self.rate:g} requests/s constant"
            case "poisson":
                return f"{self.rate:g} requests/s"

    @property
    def steady(self) -> bool:
        """Whether they come at one rate from the start to the end, in the mean."""
        return not isinstance(self.arrivals, Ramp | Trace)

    def times(self) -> Iterator[float]:
        """The intended times. One generator draws all of them: several with one seed would not be Poisson together."""
        rng = random.Random(f"{self.seed}/arrivals")
        match self.arrivals:
            case "constant":
                return (index / self.rate for index in count())
            case "poisson":
                return accumulate(rng.expovariate(self.rate) for _ in count())
            case "gamma":
                scale = 1 / (self.burstiness * self.rate)
                return accumulate(rng.gammavariate(self.burstiness, scale) for _ in count())
            case Ramp() as ramp:
                units = accumulate(rng.expovariate(1.0) for _ in count())
                return (ramp.when(expected, self.rate) for expected in units)
            case Trace() as trace:
                slower = trace.rate / self.rate
                return (slower * (turn * trace.round_s + at) for turn in count() for at in trace.stamps)


Level = ClosedLoop | OpenLoop


class Due:
    """When the requests of a load are due, one after the other, on the clock on which it began; users' never are."""

    def __init__(self, level: Level, began: float) -> None:
        self._times = (began + offset for offset in level.times()) if isinstance(level, OpenLoop) else repeat(math.inf)
        self._ahead = deque[float]()

    def next(self) -> float:
        """The next one."""
        return self._ahead.popleft() if self._ahead else next(self._times)

    def before(self, now: float) -> list[float]:
        """All that are due before `now` and still to come, the first one first. `now` never goes back."""
        while not self._ahead or self._ahead[-1] < now:
            self._ahead.append(next(self._times))
        return [*islice(self._ahead, len(self._ahead) - 1)]


def make(level: spec.Level, seed: int, stamps: Sequence[float] = (), scale: float = 1.0) -> Level:
    """The pacer of a study file's level, on a clock that runs `scale` times as fast as its seconds.

    `stamps` are the times of the workload's trace, seconds, for a level that replays it. Raises `SpecError` when there
    are none for it, or all are the same.
    """
    if level.users is not None:
        return ClosedLoop(level.users, seed)
    if level.ramp is not None:
        assert level.over_s is not None
        start, end = level.ramp
        return OpenLoop(end * scale, Ramp(start * scale, level.over_s / scale), seed)
    if level.trace is not None:
        return replay(stamps, level.trace * scale, seed)
    assert level.rate is not None
    return OpenLoop(level.rate * scale, level.arrivals, seed, level.burstiness or 1.0)


def replay(stamps: Sequence[float], speed: float, seed: int) -> OpenLoop:
    """Recorded arrivals, so many times as fast as they came. Raises `SpecError` for times that are none."""
    if not stamps or stamps[-1] <= stamps[0]:
        raise SpecError(
            f"trace {speed:g}: the prompts have {len(stamps)} time stamps; a replay needs a file of prompts with two"
            " different ones (format mooncake, burstgpt or azure)"
        )
    trace = Trace(tuple(stamp - stamps[0] for stamp in stamps))
    return OpenLoop(trace.rate * speed, trace, seed)
