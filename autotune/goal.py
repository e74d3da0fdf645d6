"""When a window has told enough: its limits are decided, its output rate is known as exactly as was asked for.

Also when it has told enough to end early: a limit is surely missed, or the queue of an open loop grows without end.
All of it is looked at at planned moments only, and the error of all looks together is bounded (`stats.Looks`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.benchmark.phases import Look, Overload, rates
from autotune.metrics import COLD_S, COMPLETE, CONFIDENCE, Window, tpot_s
from autotune.records import Outcome
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
    from collections.abc import Iterator, Sequence

    from autotune.benchmark.phases import Sample, Seen
    from autotune.stats import Decision

ALPHA = 0.05
"""Chance that any of the looks decides a limit wrongly, one way or the other."""

SURE = 0.99
"""Confidence with which a queue has to grow: it is looked at often, and ends a trial."""

CLEAR = 1.25
"""What is so many times beyond a limit, or as far within it, is not close. See `tests/benchmarks/coverage.py`."""

FAR = 100.0
"""So many times a limit stands for a request that failed, in a mean."""

FAILED = (Outcome.FAILED, Outcome.REJECTED, Outcome.TIMEOUT)

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
    early: bool = True
    """Whether it may end before its least length."""

    def look(self, seen: Seen) -> Look:
        """What is certain by now."""
        level = Looks.at(self.looks, ALPHA).level(seen.look)
        limits = {bound.name: decide(bound, self._values(bound, seen), level) for bound in self.bounds}
        precision = _precision(seen.samples)
        overload = _overload(seen) if seen.open_loop else None
        precise = self.precision is None or (precision is not None and precision <= self.precision)
        return Look(
            enough=precise and "open" not in limits.values(),
            sunk=self.early and ("violated" in limits.values() or overload is not None),
            limits=limits,
            precision=precision,
            overload=overload,
        )

    def _values(self, bound: Bound, seen: Seen) -> list[float]:
        """What is known of the bound's metric, in the order of time.

        Who still waits counts as what it has waited, once that is beyond the limit; a request that failed is beyond it.
        """
        window = Window(seen.start, seen.at, seen.open_loop, self.cold_s)
        asked = [r for r in seen.records if window.has(window.asked_at(r)) and not window.cold(r)]
        failed = [(window.asked_at(r), math.inf) for r in asked if r.outcome in FAILED]
        if bound.metric == "ttft_s":
            firsts = [(window.asked_at(r), r.first_content_at) for r in asked if r.outcome not in FAILED]
            known = [(at, first - at) for at, first in [*firsts, *seen.waiting] if first is not None]
            silent = [(at, seen.at - at) for at, first in seen.waiting if first is None]
            return _in_time([*known, *failed], silent, bound.most)
        done = [r for r in seen.records if r.outcome in COMPLETE and window.has(r.finished_at) and not window.cold(r)]
        if bound.metric == "tpot_s":
            paced = [(window.asked_at(record), tpot) for record in done if (tpot := tpot_s(record)) is not None]
            return _in_time([*paced, *failed])
        lasted = [(window.asked_at(r), r.finished_at - window.asked_at(r)) for r in done if r.finished_at is not None]
        return _in_time([*lasted, *failed], [(at, seen.at - at) for at, _ in seen.waiting], bound.most)


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


def _in_time(
    known: Sequence[tuple[float, float]], running: Sequence[tuple[float, float]] = (), most: float = math.inf
) -> list[float]:
    """Values by when they were asked for; of those still running, the ones that are beyond the limit already."""
    return [value for _, value in sorted([*known, *(one for one in running if one[1] > most)])]


def _decide(bound: Bound, values: Sequence[float], most: float, level: float) -> Decision:
    """For values of which neighbours may be alike."""
    if bound.statistic == "mean":
        finite = [min(value, FAR * most) for value in values]
        return decide_mean(batch_means(finite, 1 - level), most)
    allowed = 1 - QUANTILES[bound.statistic]
    return decide_series([value > most for value in values], [min(v, FAR * most) for v in values], allowed, level)


def _independent(bound: Bound, values: Sequence[float], most: float, level: float) -> Decision:
    """For values that do not depend on each other."""
    if bound.statistic == "mean":
        return decide_mean(mean_interval([min(value, FAR * most) for value in values], 1 - level), most)
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
    """Whether both the number of requests on their way and the TTFT surely grow, and by how much that matters."""
    length_s = seen.at - seen.start
    waits = sorted(_waits(seen))
    ended = sum(r.outcome in COMPLETE and seen.start <= (r.finished_at or 0.0) < seen.at for r in seen.records)
    came = sum(seen.start <= r.intended_at < seen.at for r in seen.records) + len(seen.waiting)
    if len(waits) < FEWEST_BATCHES or len(seen.samples) < FEWEST_BATCHES:
        return None
    queue = trend([sample.at for sample in seen.samples], [float(one.in_flight) for one in seen.samples], SURE)
    ttft = trend([at for at, _ in waits], [wait for _, wait in waits], SURE)
    if not (queue.rises and ttft.rises) or queue.slope * length_s < max(
        LEAST_GROWTH * came, BY_CHANCE * math.sqrt(came)
    ):
        return None
    return Overload(came / length_s, ended / length_s, (queue.low, queue.high), (ttft.low, ttft.high))


def _waits(seen: Seen) -> Iterator[tuple[float, float]]:
    """When each request of the window was asked that has its first text, and how long that took."""
    firsts = [(record.intended_at, record.first_content_at) for record in seen.records] + list(seen.waiting)
    return ((at, first - at) for at, first in firsts if first is not None and seen.start <= at < seen.at)
