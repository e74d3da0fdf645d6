"""Instances without a clock: the law of `model.Engine`, played from request to request.

Between two requests that come to an instance or leave it, all its steps are alike, and nobody has to watch them: they
are one leap. A slot that is busy gets a token at the end of each step, so that the tokens of a request are a stretch of
its instance's steps. A night of such loads takes a second, where the stand-in's own takes hours.

What a leap makes coarser: step jitter is drawn once for the leap, with the variance of its mean.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.simulator.model import prefill_s, step_s

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from autotune.simulator.profiles import ModelProfile


@dataclass(frozen=True, slots=True)
class Question:
    """What one request asks of an instance."""

    index: int
    prompt_tokens: int
    tokens: int
    """Of text."""
    ends: bool
    """By itself, with an end token that has no text."""
    chars: int = 0
    thoughts: int = 0
    """Tokens before the answer itself."""


class Balancer:
    """Who gets the next request: nginx's own rules and counters, which all its workers share."""

    def __init__(self, policy: str, weights: Sequence[int], rng: random.Random) -> None:
        """`weights` are the shares of the instances: one for each."""
        self._policy = policy if len(weights) > 1 else "round_robin"
        self._weights = tuple(weights)
        self._every = range(len(weights))
        self._busy = [0] * len(weights)
        self._turns = [0] * len(weights)
        self._rng = rng

    def choose(self) -> int:
        """The instance of one more request; it has it until `release`."""
        chosen = self._choose()
        self._busy[chosen] += 1
        return chosen

    def release(self, instance: int) -> None:
        """One of its requests has ended."""
        self._busy[instance] -= 1

    def _choose(self) -> int:
        if self._policy == "round_robin":
            return self._turn(self._every)
        if self._policy == "random_two":
            return self._better_of_two()
        least = min(map(self._load, self._every))
        equals = [one for one in self._every if self._load(one) == least]
        return equals[0] if len(equals) == 1 else self._turn(equals)

    def _load(self, instance: int) -> float:
        """Requests in flight for its weight."""
        return self._busy[instance] / self._weights[instance]

    def _turn(self, among: Sequence[int]) -> int:
        """Smooth weighted round robin (ngx_http_upstream_round_robin.c); of `least_conn` among those that are equal."""
        for one in among:
            self._turns[one] += self._weights[one]
        chosen = max(among, key=self._turns.__getitem__)
        self._turns[chosen] -= sum([self._weights[one] for one in among])
        return chosen

    def _better_of_two(self) -> int:
        """Of two that are drawn by weight; the second where both are alike (ngx_http_upstream_random_module.c)."""
        one = other = self._rng.choices(self._every, self._weights)[0]
        while other == one:
            other = self._rng.choices(self._every, self._weights)[0]
        return one if self._load(one) < self._load(other) else other


class Request:
    """One request on its way."""

    __slots__ = (
        "arrived",
        "begin",
        "end",
        "gone",
        "instance",
        "intended_at",
        "question",
        "started_at",
        "user",
        "written_at",
    )

    def __init__(self, question: Question, user: int, intended_at: float, written_at: float, instance: int) -> None:
        self.question = question
        self.user = user
        self.intended_at = intended_at
        self.written_at = written_at
        self.instance = instance
        self.begin = self.end = -1
        """Its first step among those of its instance, and the one behind its last; −1 while it waits."""
        self.started_at = 0.0
        self.arrived = self.gone = False
        """It is in a queue or a slot, or was; it was given up."""


class Instance:
    """One loaded model: `slots` slots, a queue in front of them, and when each of its steps has ended or will end."""

    def __init__(  # noqa: PLR0913 - one argument for each thing that makes a step
        self,
        address: str,
        model: ModelProfile,
        slots: int,
        pace: float,
        *,
        overhead_s: float = 0.0,
        time_scale: float = 1.0,
        step_jitter: float = 0.0,
        rng: random.Random | None = None,
    ) -> None:
        self.address = address
        self.slots = slots
        self.away_s = overhead_s * pace / time_scale
        """From the arrival of a request to its place in the queue."""
        self.steps: list[float] = []
        """When each step ended; those of the leap that is on its way are planned."""
        self.queue: deque[Request] = deque()
        self.busy: list[Request] = []
        self.leap = 0
        """Which one is on its way: an event of an earlier one is void."""
        self.awake = False
        """It works, or is about to."""
        self._factor = pace / time_scale
        self._variance = math.expm1(step_jitter**2)
        self._rng = rng
        self._model = model
        self._first = 0
        self._made = 0

    def begin(self, now: float) -> float | None:
        """Fill free slots and plan the next leap; when it ends, or None where there is nothing to do."""
        fresh = [self.queue.popleft() for _ in range(min(self.slots - len(self.busy), len(self.queue)))]
        self.busy += fresh
        self.leap += 1
        self.awake = bool(self.busy)
        if not self.busy:
            return None
        first = self._first = len(self.steps)
        for one in fresh:
            one.begin, one.started_at = first, now
            one.end = first + max(1, one.question.tokens + one.question.ends)
        steps = min([one.end for one in self.busy]) - first
        factor = self._factor * self._jitter(steps)
        each = step_s(self._model, len(self.busy)) * factor
        read = now + factor * sum([prefill_s(self._model, one.question.prompt_tokens) for one in fresh])
        self.steps += [read + each * number for number in range(1, steps + 1)]
        return self.steps[-1]

    def shorten(self, now: float) -> float | None:
        """End the leap with the step that is on its way; when that is, or None where it is so already."""
        on_its_way = bisect_right(self.steps, now, self._first)
        if on_its_way >= len(self.steps) - 1:
            return None
        del self.steps[on_its_way + 1 :]
        self.leap += 1
        return self.steps[-1]

    def land(self) -> list[Request]:
        """The leap is over: who has its last token leaves."""
        self._made += len(self.busy) * (len(self.steps) - self._first)
        self._first = now = len(self.steps)
        ended = [one for one in self.busy if one.end == now]
        if ended:
            self._made -= sum(one.question.ends for one in ended)
            self.busy = [one for one in self.busy if one.end != now]
        return ended

    def drop(self, request: Request, now: float) -> None:
        """It has hung up."""
        if request.begin < 0:
            self.queue.remove(request)
            return
        done = self.done(now)
        self.busy.remove(request)
        self._made += done - self._first  # what it had of this leap stays made

    def done(self, now: float) -> int:
        """Steps that have ended by now."""
        return bisect_right(self.steps, now, self._first)

    def pieces(self, now: float) -> int:
        """Tokens of text so far."""
        return self._made + len(self.busy) * (self.done(now) - self._first)

    def first_at(self, request: Request) -> float | None:
        """When a request has its first token, which may still be to come; None while it waits for a slot."""
        return self.steps[request.begin] if request.begin >= 0 else None

    def _jitter(self, steps: int) -> float:
        if not self._variance or self._rng is None:
            return 1.0
        squared = math.log1p(self._variance / steps)
        return self._rng.lognormvariate(-squared / 2, math.sqrt(squared))
