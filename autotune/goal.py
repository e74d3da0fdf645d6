"""When a window has told enough: its limits are decided, its output rate is known as exactly as was asked for.

Also when it has told enough to end early: a limit is surely missed, the queue of an open loop grows without end, or a
candidate surely cannot beat the best so far (`rival`).
All of it is looked at at planned moments only, and the error of all looks together is bounded (`stats.Looks`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autotune.benchmark.phases import Look, Overload, rates
from autotune.metrics import COLD_S, COMPLETE, CONFIDENCE, Window, tpot_s, ttft_s
from autotune.records import Outcome
from autotune.rival import ERROR
from autotune.stats import (
    FEWEST_BATCHES,
    QUANTILES,
    Looks,
    Statistic,
    batch_means,
    decide_mean,
    decide_series,
    decide_share,
    enough,
    mean_interval,
    trend,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from autotune.benchmark.phases import Sample, Seen
    from autotune.rival import Rival, Screen
    from autotune.stats import Decision

ALPHA = 0.05
"""Chance that any of the looks decides one limit wrongly, one way or the other."""

SURE = 0.99
"""Confidence with which a queue has to grow: it is looked at often, and ends a trial."""

CLEAR = 1.25
"""What is so many times beyond a limit, or as far within it, is not close. See `tests/benchmarks/coverage.py`."""

SUCCESS = "success rate"
"""Its name among the limits."""

LEAST_GROWTH = 0.1
"""A growing queue matters once this part of all that came has piled up."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit on a statistic of the requests of a window; seconds."""

    metric: str
    """`ttft_s`, `tpot_s` or `e2e_s`."""
    statistic: Statistic
    most: float

    @property
    def name(self) -> str:
        """How people and results name it."""
        return f"{self.metric} {self.statistic}"


@dataclass(frozen=True, slots=True)
class Precise:
    """The goal of a measurement window: limits decided, and the output rate known to `precision`.

    `precision` is half the 95 % interval of the output rate in parts of its mean; None asks for none. `looks` are the
    planned moments, in seconds from the window's start. All seconds are those of this host's clock.
    """

    bounds: tuple[Bound, ...]
    precision: float | None
    looks: tuple[float, ...]
    cold_s: float = COLD_S
    min_success: float | None = None
    """The part of the requests that must succeed; None asks for none."""
    early: bool = True
    """Whether it may end before its least length."""
    rival: Rival | None = None
    """What a candidate has to beat; with it a load is over as soon as it is clear that this one does not win."""
    warmup: Screen | None = None
    """What its warm-up is asked."""

    @property
    def screens(self) -> tuple[float, ...]:
        """When the warm-up is asked."""
        return () if self.warmup is None else self.warmup.looks

    def screen(self, seen: Seen) -> tuple[Look, float]:
        """What is certain in the warm-up."""
        assert self.warmup is not None
        return self.warmup.look(seen)

    def look(self, seen: Seen) -> Look:
        """What is certain by now."""
        found = self._judged(seen)
        if self.rival is None:
            return found
        found = replace(found, dropped=found.sunk)
        if seen.open_loop:  # its output is what was asked for, as long as that is answered
            return found
        level = Looks.evenly(len(self.looks), ERROR / 2).level(seen.look)
        most = self.rival.beaten(rates(seen.samples), level)
        return found if most is None else self.rival.look(most, found)

    def _judged(self, seen: Seen) -> Look:
        """Without a rival."""
        level = Looks.at(self.looks, ALPHA).level(seen.look)
        limits = {bound.name: decide(bound, self._values(bound, seen), level) for bound in self.bounds}
        if self.min_success is not None:
            ended = self._ended(seen)
            vain = _held(seen) and not ended
            limits[SUCCESS] = "open" if vain else decide_success(ended, self.min_success, level)
        precision = _precision(seen.samples)
        overload = _overload(seen) if seen.open_loop and seen.steady else None
        precise = self.precision is None or (precision is not None and precision <= self.precision)
        return Look(
            enough=precise and "open" not in limits.values(),
            sunk=self.early and ("violated" in limits.values() or overload is not None),
            limits=limits,
            precision=precision,
            overload=overload,
        )

    def _values(self, bound: Bound, seen: Seen) -> list[float]:
        """What is known of the bound's metric, in the order of time; what failed is a matter of the success rate.

        Who is still on the way may yet take longer than the limit. To count those asked at the same time that were
        quick would be to count the quick ones: so nobody counts who was asked after the first of whom it is not known.
        """
        window = Window(seen.start, seen.at, seen.open_loop, self.cold_s)
        if bound.metric == "tpot_s":
            done = [r for r in seen.records if r.outcome in COMPLETE and window.has(r.finished_at)]
            return _in_time((window.asked_at(r), tpot_s(r)) for r in done if not window.cold(r))
        known, waiting = _known(bound.metric, window, seen)
        # a mean also minds by how much it is longer
        most = (2 if bound.statistic == "mean" else 1) * bound.most
        old = seen.at - min(most, max((value for _, value in [*known, *waiting]), default=0.0))
        return _in_time([*(one for one in known if one[0] < old), *(one for one in waiting if one[1] >= most)])

    def _ended(self, seen: Seen) -> list[Outcome]:
        window = Window(seen.start, seen.at, seen.open_loop, self.cold_s)
        return [r.outcome for r in seen.records if window.has(window.asked_at(r)) and r.outcome is not Outcome.CUT_OFF]


def _known(metric: str, window: Window, seen: Seen) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Of the requests of a window, by when they were asked, TTFT or E2E; and of those still waiting, since when."""
    asked = [r for r in seen.records if window.has(window.asked_at(r)) and not window.cold(r)]
    if metric == "ttft_s":
        ended = [(window.asked_at(r), wait) for r in asked if (wait := ttft_s(r, window)) is not None]
        known = [*ended, *((at, first - at) for at, first in seen.waiting if first is not None)]
        return known, [(at, seen.at - at) for at, first in seen.waiting if first is None]
    lasted = [(window.asked_at(r), r.finished_at) for r in asked if r.outcome in COMPLETE]
    return [(at, end - at) for at, end in lasted if end is not None], [(at, seen.at - at) for at, _ in seen.waiting]


def decide(bound: Bound, values: Sequence[float], level: float) -> Decision:
    """What the values of a metric, in the order of time, say of a limit; wrong with a chance of `level` at most.

    In a queue neighbours are alike, and many requests are worth few: so a limit may stay open that is far from all that
    was seen. Where the answer is not close, by `CLEAR`, a test that takes requests as independent decides.
    """
    if len(values) < enough("mean"):
        return "open"
    decided = _decide(bound, values, bound.most, level)
    if decided != "open":
        return decided
    if _independent(bound, values, bound.most / CLEAR, level) == "holds":
        return "holds"
    return "violated" if _independent(bound, values, bound.most * CLEAR, level) == "violated" else "open"


def decide_success(ended: Sequence[Outcome], least: float, level: float) -> Decision:
    """Whether enough of the requests that have ended succeeded.

    Missed where that is sure. Held where no more have failed than may: to be sure of that too, 99 % would need some
    400 requests without a failure, and failures are no noise.
    """
    failed = sum(outcome not in COMPLETE for outcome in ended)
    if decide_share(failed, len(ended), 1 - least, level) == "violated":
        return "violated"
    return "holds" if not failed or 1 - failed / len(ended) >= least else "open"


def _in_time(values: Iterable[tuple[float, float | None]]) -> list[float]:
    """Those that are known, by when they were asked for."""
    return [value for _, value in sorted((at, value) for at, value in values if value is not None)]


def _decide(bound: Bound, values: Sequence[float], most: float, level: float) -> Decision:
    """For values of which neighbours may be alike."""
    if bound.statistic == "mean":
        return decide_mean(batch_means(values, 1 - level), most)
    return decide_series([value > most for value in values], values, 1 - QUANTILES[bound.statistic], level)


def _independent(bound: Bound, values: Sequence[float], most: float, level: float) -> Decision:
    """For values that do not depend on each other."""
    if bound.statistic == "mean":
        return decide_mean(mean_interval(values, 1 - level), most)
    violations = sum(value > most for value in values)
    return decide_share(violations, len(values), 1 - QUANTILES[bound.statistic], level)


def _precision(samples: Sequence[Sample]) -> float | None:
    seen = rates(samples)
    if len(seen) < FEWEST_BATCHES:
        return None
    around = batch_means(seen, CONFIDENCE)
    return (around.high - around.low) / 2 / around.mean if around.mean > 0 else None


BY_CHANCE = 2.0
"""So many times √n may come more than go of n random arrivals, without meaning anything."""


def _overload(seen: Seen) -> Overload | None:
    """Whether both the number of requests on their way and the TTFT surely grow, and by how much that matters.

    Who is held waits for all who are on their way: where more and more do, the TTFT grows, whoever had one by now.
    """
    length_s = seen.at - seen.start
    waits = sorted(_waits(seen))
    ended = sum(r.outcome in COMPLETE and seen.start <= (r.finished_at or 0.0) < seen.at for r in seen.records)
    came = sum(seen.start <= r.intended_at < seen.at for r in seen.records) + len(seen.waiting)
    few = len(waits) < FEWEST_BATCHES
    if (few and not _held(seen)) or len(seen.samples) < FEWEST_BATCHES:
        return None
    ttft = None if few else trend([at for at, _ in waits], [wait for _, wait in waits], SURE)
    if not _held(seen) and not (ttft and ttft.rises):
        return None
    here = [float(sample.in_flight + sample.held) for sample in seen.samples]
    queue = trend([sample.at for sample in seen.samples], here, SURE)
    if not queue.rises or queue.slope * length_s < max(LEAST_GROWTH * came, BY_CHANCE * math.sqrt(came)):
        return None
    grows = None if ttft is None else (ttft.low, ttft.high)
    return Overload(came / length_s, ended / length_s, (queue.low, queue.high), grows)


def _held(seen: Seen) -> bool:
    return bool(seen.samples) and seen.samples[-1].held > 0


def _waits(seen: Seen) -> Iterator[tuple[float, float]]:
    """When each request of the window was asked that has its first text, and how long that took."""
    firsts = [(record.intended_at, record.first_content_at) for record in seen.records] + list(seen.waiting)
    return ((at, first - at) for at, first in firsts if first is not None and seen.start <= at < seen.at)
