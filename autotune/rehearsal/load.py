"""A load in its phases, without a clock: the rules of `benchmark.load`, over `simulator.play`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from autotune.benchmark.load import FEWEST_SAMPLES, LEAST_SAMPLE_S, MOST_DRIFT, SAMPLE_S, cold
from autotune.benchmark.pacer import ClosedLoop, OpenLoop
from autotune.benchmark.phases import Anything, LoadResult, Look, Phases, Seen, rates
from autotune.simulator.play import Play, Pulse
from autotune.stats import mean, steady_from, trend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autotune.benchmark.pacer import Level
    from autotune.benchmark.phases import Goal
    from autotune.simulator.events import Balancer, Instance, Question, Request


def run(  # noqa: PLR0913 - one argument for each thing that makes a load
    instances: Sequence[Instance],
    balancer: Balancer,
    level: Level,
    ask: Callable[[int, int], Question],
    phases: Phases,
    goal: Goal | None = None,
    *,
    began: float = 0.0,
    timeout_s: float = float("inf"),
) -> tuple[LoadResult, float]:
    """What came of a load that begins at `began`, and when it was over. All times are on one clock, in seconds."""
    shortest_s = min(phases.warmup_s or float("inf"), phases.window_s)
    every_s = max(LEAST_SAMPLE_S, min(SAMPLE_S, shortest_s / 100))
    play = Play(instances, balancer, level, ask, Pulse(began, phases.warmup_s / 2, every_s, timeout_s))
    load = _Load(play, level, phases, len(instances))
    load.warm_up(goal or Anything())
    if not load.dropped:
        load.measure(goal or Anything())
    load.drain()
    return load.result(), play.now


class _Load:
    def __init__(self, play: Play, level: Level, phases: Phases, upstreams: int) -> None:
        self._play = play
        self._level = level
        self._phases = phases
        self._upstreams = upstreams
        self._cautions: list[str] = []
        self._look = Look()
        self._screened = 0

    @property
    def dropped(self) -> bool:
        """Whether nobody wants to know more of this candidate."""
        return self._look.dropped

    def warm_up(self, goal: Goal) -> None:
        """Until users and instances are at work and the load is steady, or until it is hopeless."""
        play, phases = self._play, self._phases
        latest = play.began + phases.warmup_max_s
        self._warmed(play.began + phases.warmup_s, goal)
        self._warmed(latest, goal, lambda: not self._cold())
        while phases.warmup_s and not self._over and self._moves() and play.now < latest:
            self._warmed(min(latest, play.now + phases.warmup_s / 4), goal)
        if self.dropped:
            return
        if lacks := self._cold():
            self._cautions.append(f"the warm-up ended before the cluster was warm: {lacks}")
        elif phases.warmup_s and self._moves():
            self._cautions.append("the warm-up ended before the output rate was steady: lengthen warmup_max_s")

    @property
    def _over(self) -> bool:
        return self.dropped or self._play.gave_up

    def _warmed(self, deadline: float, goal: Goal, done: Callable[[], bool] = lambda: False) -> None:
        """`_until`, with the looks that are planned on the way."""
        play = self._play
        for after_s in goal.screens[self._screened :]:
            at = play.began + after_s
            if self.dropped or at > deadline:
                break
            self._until(at, done)
            if play.now < at:
                return
            self._screened += 1
            self._screen(goal)
        if not self.dropped:
            self._until(deadline, done)

    def _screen(self, goal: Goal) -> None:
        """Ask whether the load is hopeless; its window is then what says so."""
        play = self._play
        last_began = play.began + self._phases.warmup_s / 2
        look, since = goal.screen(self._seen(self._screened, last_began, list(play.flights)))
        if look.dropped:
            self._look, play.window = replace(look, after_s=play.now - play.began), (since, play.now)

    def measure(self, goal: Goal) -> None:
        """The window: as long as its goal needs, and until it has the requests that its statistics need."""
        play, phases = self._play, self._phases
        start = end = play.now
        play.window = (start, float("inf"))
        for number, after_s in enumerate(phases.looks, 1):
            end = start + after_s
            self._until(end)
            if play.gave_up:
                break
            look = goal.look(self._seen(number, start, [one for one in play.flights if play.inside(one)]))
            self._look = replace(look, after_s=play.now - play.began)
            enough = self._look.enough and after_s >= phases.window_s and self._asked() >= phases.min_requests
            if self._look.sunk or enough:
                break
        play.window = (start, min(end, play.now) if play.gave_up else end)
        if (asked := self._asked()) < phases.min_requests and not self._look.sunk:
            self._cautions.append(f"the window has {asked} requests, its statistics need {phases.min_requests}")

    def drain(self) -> None:
        """Hold the load up until the window's requests have their first text; then follow them to their end."""
        play, bound = self._play, self._play.now + self._phases.drain_s
        waits = self._look.overload is None and not self.dropped
        if waits:
            self._until(bound, lambda: play.due >= play.window[1])
            self._first_texts(bound)
        play.end_sending()
        play.cut(one for one in play.flights if play.asked_at(one) >= play.window[1])
        if waits:
            self._until(bound, lambda: not play.flights)
            if left := sum(map(play.inside, play.flights)):
                self._cautions.append(f"{left} requests of the window were still running when the drain ended")
        play.cut(play.flights)

    def result(self) -> LoadResult:
        """What came of it."""
        play = self._play
        if play.gave_up:
            self._cautions.append(f"the last {play.failures} requests all failed: {play.records[-1].error}")
        return LoadResult(
            self._level,
            *play.window,
            records=tuple(sorted(play.records, key=lambda record: record.index)),
            cautions=tuple(self._cautions),
            gave_up=play.gave_up,
            look=self._look,
            full=play.full,
        )

    def _until(self, deadline: float, done: Callable[[], bool] = lambda: False) -> None:
        self._play.advance(deadline, lambda: self._play.gave_up or done())

    def _first_texts(self, bound: float) -> None:
        if self._play.gave_up:
            return
        waiting = [one for one in self._play.flights if self._play.inside(one)]

        def silent() -> list[Request]:
            return [one for one in waiting if one in self._play.flights and not self._spoken(one)]

        while (left := silent()) and self._play.now < bound:
            # who has a slot has a time for its first text; nobody else gets one before a slot is free
            coming = [at for one in left if (at := self._play.first_at(one)) is not None]
            if coming:
                self._until(min(bound, *coming))
            else:
                self._begun(left, bound)

    def _begun(self, requests: Sequence[Request], bound: float) -> None:
        """Until one of them has a slot, or is over."""
        play = self._play
        self._until(bound, lambda: any(one not in play.flights or play.first_at(one) is not None for one in requests))

    def _spoken(self, request: Request) -> bool:
        at = self._play.first_at(request)
        return at is not None and at <= self._play.now

    def _cold(self) -> str:
        return cold(self._level, len(self._play.answered), len(self._play.upstreams), self._upstreams)

    def _moves(self) -> bool:
        seen = rates(self._play.samples)
        if len(seen) < FEWEST_SAMPLES or steady_from(seen) is not None:
            return False
        late = seen[len(seen) // 2 :]
        slope = trend(range(len(late)), late, 0.95)
        return (slope.rises or slope.falls) and abs(slope.slope) * len(late) > MOST_DRIFT * mean(late)

    def _asked(self) -> int:
        return sum(map(self._play.inside, self._play.records)) + sum(map(self._play.inside, self._play.flights))

    def _seen(self, number: int, start: float, on_their_way: Sequence[Request]) -> Seen:
        play = self._play
        asked = [(play.asked_at(one), play.first_at(one)) for one in on_their_way]
        heard = [(at, first if first is not None and first <= play.now else None) for at, first in asked]
        return Seen(
            start=start,
            at=play.now,
            look=number,
            open_loop=isinstance(self._level, OpenLoop),
            steady=isinstance(self._level, ClosedLoop) or self._level.steady,
            records=play.records,
            waiting=[*heard, *((at, None) for at in play.held(play.now) if at >= start)],
            samples=[sample for sample in play.samples if sample.at >= start],
        )
