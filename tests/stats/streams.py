"""Made-up series to hold the statistics against: seeded, with a mean that is known or that of a very long one."""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BIN_S = 0.1


def autoregressive(phi: float, n: int, rng: random.Random) -> list[float]:
    """A steady series of mean 0 and variance 1, each value alike to the one before by `phi`."""
    value, step, found = rng.gauss(0, 1), math.sqrt(1 - phi * phi), []
    for _ in range(n):
        found.append(value)
        value = phi * value + step * rng.gauss(0, 1)
    return found


def in_flight(busy: float, seconds: int, rng: random.Random, warm_s: int = 60) -> list[float]:
    """Requests on their way, second by second: an open loop that asks for `busy` of what eight slots can do.

    Each takes 4 s in the mean. Above 1 the queue grows without end; it then starts empty.
    """
    before = 0 if busy > 1 else warm_s
    free, at = [0.0] * 8, 0.0
    starts, ends = [], []
    while (at := at + rng.expovariate(8 * busy / 4)) < before + seconds:
        starts.append(at)
        ends.append(max(at, heapq.heappop(free)) + rng.lognormvariate(math.log(4) - 0.125, 0.5))
        heapq.heappush(free, ends[-1])
    ends.sort()
    return [
        float(bisect_right(starts, second) - bisect_right(ends, second)) for second in range(before, before + seconds)
    ]


@dataclass(frozen=True)
class Load:
    """A closed loop of users against instances that decode in steps, as an LLM server does."""

    users: int = 16
    instances: int = 1
    slots: int = 8
    tokens: float = 150.0
    """Mean length of an answer."""
    sigma: float = 0.7
    """Of the logarithm of the length; with 0 all are alike."""
    prompt_s: float = 0.15
    """Nobody decodes while a prompt is read."""
    base_s: float = 0.02
    slot_s: float = 0.002
    context_s: float = 5e-7
    """What a token that is already there adds to a step."""
    think_s: float = 0.0
    fewest: bool = True
    """To the instance with the fewest requests, or to any."""


LOADS = {
    "full": Load(),
    "think time": Load(users=4, think_s=2.0),
    "long answers": Load(tokens=300.0),
    "cluster": Load(users=24, instances=4),
    "full cluster": Load(users=48, instances=4),
}
HARD_LOADS = {
    "one length": Load(users=8, tokens=128.0, sigma=0.0),
    "at random": Load(users=24, instances=4, fewest=False),
    "very long": Load(tokens=800.0, sigma=0.8),
}
"""One has a rhythm. The others remember for as long as a window lasts."""


@dataclass
class Stream:
    """What came of a load."""

    rates: list[float]
    """Tokens/s in each BIN_S."""
    ttfts: list[tuple[float, float]] = field(default_factory=list)
    """Of each request: when it was asked, s, and how long until its first token, s."""


@dataclass
class _Instance:
    now: float = 0.0
    step: int = 0
    context: int = 0
    queue: deque[float] = field(default_factory=deque)
    busy: list[tuple[int, int]] = field(default_factory=list)
    """The last step of each answer, and its length: a heap."""

    def requests(self) -> int:
        return len(self.queue) + len(self.busy)


@cache
def stream(load: Load, seconds: float, seed: int, warm_s: float = 60.0) -> Stream:
    """The load for so long, after a warm-up; it is not drained in between."""
    rng, end = random.Random(seed), warm_s + seconds
    found = Stream([0.0] * round(seconds / BIN_S))
    instances = [_Instance() for _ in range(load.instances)]
    away = [rng.random() * load.tokens * load.base_s for _ in range(load.users)]
    heapq.heapify(away)
    while (one := min(instances, key=lambda instance: instance.now)).now < end:
        while away and away[0] <= one.now:
            _route(load, instances, rng).queue.append(heapq.heappop(away))
        if not one.requests():
            one.now += load.base_s
            continue
        asked = _step(load, one, rng)
        found.ttfts += ((at - warm_s, one.now - at) for at in asked if at >= warm_s)
        if warm_s <= one.now < end:
            found.rates[min(int((one.now - warm_s) / BIN_S), len(found.rates) - 1)] += len(one.busy) / BIN_S
        for _ in range(_ended(one)):
            heapq.heappush(away, one.now + (rng.expovariate(1 / load.think_s) if load.think_s else 0.0))
    found.ttfts.sort()
    return found


def windows(rates: Sequence[float], seconds: float) -> Iterator[Sequence[float]]:
    """A long stream in parts of that length."""
    length = round(seconds / BIN_S)
    return (rates[start : start + length] for start in range(0, len(rates) - length + 1, length))


def _route(load: Load, instances: Sequence[_Instance], rng: random.Random) -> _Instance:
    if load.fewest:
        return min(instances, key=lambda instance: (instance.requests(), rng.random()))
    return rng.choice(instances)


def _step(load: Load, one: _Instance, rng: random.Random) -> list[float]:
    """One step of an instance; when the requests were asked whose first token came with it."""
    asked = []
    while one.queue and len(one.busy) < load.slots:
        asked.append(one.queue.popleft())
        length = max(1, round(rng.lognormvariate(math.log(load.tokens) - load.sigma**2 / 2, load.sigma)))
        heapq.heappush(one.busy, (one.step + length, length))
        one.now += load.prompt_s * rng.lognormvariate(-0.125, 0.5)
    one.now += load.base_s + load.slot_s * len(one.busy) + load.context_s * one.context
    one.step += 1
    one.context += len(one.busy)
    return asked


def _ended(one: _Instance) -> int:
    count = 0
    while one.busy and one.busy[0][0] <= one.step:
        one.context -= heapq.heappop(one.busy)[1]
        count += 1
    return count
