"""A load on instances without a clock: from event to event, by the rules of `benchmark.traffic`.

The ways between client, balancer and instance take no time here; all else is as the stand-in under the real client.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any

from autotune.benchmark.pacer import ClosedLoop, Due
from autotune.benchmark.phases import Sample
from autotune.benchmark.traffic import BACK_OFF_S, MOST_BACK_OFF_S, MOST_IN_FLIGHT
from autotune.records import Outcome, RequestRecord
from autotune.simulator.events import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from autotune.benchmark.pacer import Level
    from autotune.simulator.events import Balancer, Instance, Question

STEP, ARRIVE, WAKE, SEND, TIMEOUT = range(5)
"""Kinds of events, in the order in which those of one moment happen: a step that ends does not wait for who asks then,
and an idle instance begins with all that came at once."""


COMPLETE = (Outcome.OK, Outcome.EMPTY)


@dataclass(frozen=True, slots=True)
class Pulse:
    """The times of a load that no phase has."""

    began: float = 0.0
    spread_s: float = 0.0
    """Users begin within it."""
    every_s: float = 0.25
    """From one sample to the next."""
    timeout_s: float = math.inf
    """Of a request."""


class Play:
    """A load on instances, moved on from event to event by `advance`: who sends, who is on the way, what came back."""

    def __init__(
        self,
        instances: Sequence[Instance],
        balancer: Balancer,
        level: Level,
        ask: Callable[[int, int], Question],
        pulse: Pulse,
    ) -> None:
        """`ask` gives the question of the load's or (of a conversation) the user's next request: index and user."""
        self.now = self.began = pulse.began
        self.window = (math.inf, math.inf)
        self.over = False
        """Nothing more is sent."""
        self.due = math.inf
        """When the next request of an open loop is to be sent."""
        self.full = False
        """Whether requests of the window were held, since as many were on their way as may be."""
        self.flights: dict[Request, None] = {}
        self.records: list[RequestRecord] = []
        self.samples: list[Sample] = []
        self.answered: set[int] = set()
        self.upstreams: set[str] = set()
        self.failures = 0
        self.gave_up = False
        self._instances = instances
        self._balancer = balancer
        self._level = level
        self._ask = ask
        self._pulse = pulse
        self._due_sample = self.began
        self._numbers = count()
        self._order = count()
        self._events: list[tuple[float, int, int, Any]] = []
        self._times = Due(level, self.began)
        self._backs_off: dict[int, int] = {}
        if isinstance(level, ClosedLoop):
            for user, start in enumerate(level.starts(pulse.spread_s)):
                self._plan(self.began + start, SEND, (user, None))
        else:
            self._plan_arrival()

    def advance(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Go on to `until`, or to the event after which `done` holds."""
        while not done():
            at, kind, _, what = self._events[0] if self._events else (math.inf, 0, 0, None)
            if self._due_sample <= (reach := min(at, until)):
                self._sample(reach)
            if at > until:
                self.now = max(self.now, until)
                return
            heappop(self._events)
            self.now = at
            self._happen(kind, what)

    def inside(self, request: Request | RequestRecord) -> bool:
        """Whether it is a request of the window."""
        return self.window[0] <= self.asked_at(request) < self.window[1]

    def asked_at(self, request: Request | RequestRecord) -> float:
        """The stamp from which its TTFT counts."""
        written = request.written_at if isinstance(self._level, ClosedLoop) else None
        return request.intended_at if written is None else written

    def first_at(self, request: Request) -> float | None:
        """When a request on its way has its first token, which may be to come; None while that is not known."""
        return self._instances[request.instance].first_at(request)

    def held(self, at: float) -> list[float]:
        """When the requests of an open loop were due that have not left by then, since too many are on their way."""
        return [self.due, *self._times.before(at)] if self.due < at else []

    def end_sending(self) -> None:
        """Nobody sends any more; what was due in the window and never left has waited all the same."""
        self.over = True
        for at in self.held(self.now):
            if at < self.window[1]:
                self.records.append(RequestRecord(next(self._numbers), at, Outcome.CUT_OFF, finished_at=self.now))

    def cut(self, requests: Iterable[Request], outcome: Outcome = Outcome.CUT_OFF) -> None:
        """End them now, with what they have."""
        for one in list(requests):
            instance = self._instances[one.instance]
            if one.arrived:
                instance.drop(one, self.now)
                if one.begin >= 0 and (end := instance.shorten(self.now)) is not None:
                    self._plan(end, STEP, (instance, instance.leap))
            one.gone = True
            self._balancer.release(one.instance)
            self._record(one, outcome, min(one.end, instance.done(self.now)) if one.begin >= 0 else -1)

    def _plan(self, at: float, kind: int, what: Any) -> None:
        heappush(self._events, (at, kind, next(self._order), what))

    def _happen(self, kind: int, what: Any) -> None:
        if kind == STEP:
            instance, leap = what
            if leap == instance.leap:
                self._step(instance)
        elif kind == ARRIVE:
            self._arrive(what)
        elif kind == WAKE:
            self._begin(what)
        elif kind == TIMEOUT:
            if what in self.flights:
                self.cut([what], Outcome.TIMEOUT)
        elif not self.over:
            self._send(*what)

    def _step(self, instance: Instance) -> None:
        ended = instance.land()
        self._begin(instance)  # before anybody can have heard the answer
        for one in ended:
            self._balancer.release(one.instance)
        for one in ended:
            self._record(one, Outcome.OK if one.question.tokens else Outcome.EMPTY, one.end)

    def _begin(self, instance: Instance) -> None:
        if (end := instance.begin(self.now)) is not None:
            self._plan(end, STEP, (instance, instance.leap))

    def _arrive(self, request: Request) -> None:
        if request.gone:
            return
        request.arrived = True
        instance = self._instances[request.instance]
        instance.queue.append(request)
        if not instance.awake:
            instance.awake = True
            self._plan(self.now, WAKE, instance)
        elif len(instance.busy) < instance.slots and (end := instance.shorten(self.now)) is not None:
            self._plan(end, STEP, (instance, instance.leap))

    def _send(self, user: int, intended_at: float | None) -> None:
        if intended_at is not None:
            if len(self.flights) >= MOST_IN_FLIGHT:
                self.full = self.full or (self.window[0] <= self.now and intended_at < self.window[1])
                self._plan(self.now + BACK_OFF_S, SEND, (user, intended_at))
                return
            self._plan_arrival()
        question = self._ask(next(self._numbers), user)
        chosen = self._balancer.choose()
        request = Request(question, user, self.now if intended_at is None else intended_at, self.now, chosen)
        self.flights[request] = None
        self._plan(self.now + self._instances[chosen].away_s, ARRIVE, request)
        if self._pulse.timeout_s < math.inf:
            self._plan(self.now + self._pulse.timeout_s, TIMEOUT, request)

    def _plan_arrival(self) -> None:
        self.due = self._times.next()
        self._plan(self.due, SEND, (0, self.due))

    def _record(self, one: Request, outcome: Outcome, end: int) -> None:
        """What came of a request that has the steps of its instance up to `end`; −1 for none."""
        del self.flights[one]
        instance, question = self._instances[one.instance], one.question
        times = tuple(instance.steps[one.begin : min(end, one.begin + question.tokens)]) if end >= 0 else ()
        done = outcome in COMPLETE
        finished = instance.steps[end - 1] if done else self.now
        first = instance.steps[one.begin] if done else 0.0
        self.records.append(
            RequestRecord(
                index=question.index,
                intended_at=one.intended_at,
                outcome=outcome,
                written_at=one.written_at,
                first_content_at=times[0] if times else None,
                first_answer_at=times[question.thoughts] if len(times) > question.thoughts else None,
                finished_at=finished,
                chunk_times=times,
                status=200 if times or done else None,
                error="" if outcome is not Outcome.TIMEOUT else f"no end after {self._pulse.timeout_s:g} s",
                upstream=instance.address if times or done else "",
                input_chars=question.chars,
                done_reason=("stop" if question.ends else "length") if done else "",
                prompt_eval_count=question.prompt_tokens if done else None,
                eval_count=question.tokens + question.ends if done else None,
                total_duration_s=finished - one.written_at if done else None,
                load_duration_s=0.0 if done else None,
                prompt_eval_duration_s=first - one.started_at if done else None,
                eval_duration_s=finished - first if done else None,
            )
        )
        self._learn(one, outcome)

    def _learn(self, one: Request, outcome: Outcome) -> None:
        """As `benchmark.traffic` does: a user without think time asks again, after a failure later and later."""
        failed = outcome.failure
        if failed:
            self.failures += 1
            each = self._level.users if isinstance(self._level, ClosedLoop) else math.ceil(self._level.rate)
            alive = any((at := self.first_at(other)) is not None and at <= self.now for other in self.flights)
            self.gave_up = self.gave_up or (self.failures >= 3 * each + 10 and not alive)
        elif outcome in COMPLETE:
            self.failures = 0
            self.answered.add(one.user)
            self.upstreams.add(self._instances[one.instance].address)
        if isinstance(self._level, ClosedLoop) and not self.over:
            times = self._backs_off[one.user] = self._backs_off.get(one.user, 0) + 1 if failed else 0
            wait_s = min(MOST_BACK_OFF_S, BACK_OFF_S * 2 ** min(times - 1, 10)) if times else 0.0
            if wait_s:
                self._plan(self.now + wait_s, SEND, (one.user, None))
            else:
                self._send(one.user, None)

    def _sample(self, until: float) -> None:
        while (at := self._due_sample) <= until:
            pieces = sum([instance.pieces(at) for instance in self._instances])
            self.samples.append(Sample(at, pieces, len(self.flights), len(self.held(at))))
            self._due_sample = self.began + len(self.samples) * self._pulse.every_s
