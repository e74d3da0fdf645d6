"""How a client process watches itself: lags in buckets, and a loop that is blocked now and then."""

from __future__ import annotations

import asyncio
import math
import os
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.benchmark.pacer import ClosedLoop
from autotune.benchmark.phases import LoadResult
from autotune.benchmark.watch import BUCKETS, FACTOR, FINEST_S, Pulse, Watch, _bucket
from autotune.health import MOST_LAG_S, examine
from tests.factories import metrics

LARGEST_S = FINEST_S * FACTOR ** (BUCKETS - 1)

lags = st.floats(min_value=0, max_value=LARGEST_S)
counts = st.lists(st.integers(0, 1000), min_size=BUCKETS, max_size=BUCKETS).map(tuple)
pulses = st.builds(Pulse, st.just(7), st.floats(0, 1e6), st.floats(0, 1e4), counts)


def pulse(*late: float, at: float = 1.0, cpu_s: float = 0.1) -> Pulse:
    found = [0] * BUCKETS
    for lag in late:
        found[_bucket(lag)] += 1
    return Pulse(1, at, cpu_s, tuple(found))


@given(st.lists(lags, min_size=1, max_size=60), st.floats(min_value=0.01, max_value=1))
def test_quantiles_of_a_lag_are_a_tenth_above_the_truth_at_most(late: list[float], q: float) -> None:
    true = sorted(late)[math.ceil(q * len(late) - 1e-9) - 1]
    found = pulse(*late).lag_s(q)
    assert found is not None
    assert max(true, FINEST_S) / (1 + 1e-9) <= found <= max(true, FINEST_S) * FACTOR * (1 + 1e-9)


def test_half_of_the_lags_are_no_more_than_the_median() -> None:
    assert pulse(0.001, 1.0).lag_s(0.5) == pytest.approx(0.001, rel=0.1)
    assert pulse(0.001, 1.0).lag_s(0.51) == pytest.approx(1.0, rel=0.1)


def test_lags_beyond_the_buckets_are_in_the_last() -> None:
    assert pulse(1000.0).lag_s(0.5) == pytest.approx(LARGEST_S)
    assert pulse(0.0).lag_s(0.5) == FINEST_S
    assert LARGEST_S > 3


def test_a_loop_that_was_never_asked_has_no_lag() -> None:
    assert pulse().lag_s(0.99) is None


@settings(max_examples=30)
@given(pulses, pulses)
def test_between_two_pulses_is_what_they_differ_by(before: Pulse, more: Pulse) -> None:
    added = tuple(one + other for one, other in zip(before.lags, more.lags, strict=True))
    span = Pulse(7, before.at + more.at, before.cpu_s + more.cpu_s, added).since(before)
    assert (span.pid, span.lags) == (7, more.lags)
    assert span.at == pytest.approx(more.at, abs=1e-6)
    assert span.cpu_s == pytest.approx(more.cpu_s, abs=1e-6)
    assert replace(before, lags=added).since(before).at == 0


async def watched(blocked_s: float, idle_s: float, seconds: float) -> Pulse:
    """What the watch sees of a loop that is blocked again and again."""
    watch = Watch()
    watch.begin()
    await asyncio.sleep(0.05)
    before, ends = watch.pulse(), time.monotonic() + seconds
    while time.monotonic() < ends:
        time.sleep(blocked_s)  # noqa: ASYNC251
        await asyncio.sleep(idle_s)
    after = watch.pulse()
    await watch.end()
    assert watch.pulse().lags == after.lags
    return after.since(before)


async def test_a_loop_that_is_blocked_is_seen_and_is_a_fault() -> None:
    """20 ms of each 200 ms: as a collector, a parser or a sampler in the same loop would do."""
    span = await watched(0.02, 0.18, 4.5)
    lag = span.lag_s(0.99)
    assert lag is not None
    assert 0.012 < lag < 0.02 + 0.05
    assert span.pid == os.getpid()
    assert 4.5 <= span.at < 8
    assert span.cpu_s < span.at

    begun = Pulse(span.pid, 0.0, 0.0, (0,) * BUCKETS)
    loaded = LoadResult(ClosedLoop(4), 0.0, 4.5, (), pulses=((begun,), (span,)))
    health = examine(loaded, metrics())
    assert health.loop_lag_s == lag > MOST_LAG_S
    (fault,) = health.faults
    assert fault.startswith("its event loop was up to ")


async def test_each_tick_that_was_missed_counts() -> None:
    """A loop that stands still for long was late all the time, not once."""
    span = await watched(0.4, 0.05, 0.4)
    median = span.lag_s(0.5)
    assert median is not None
    assert 0.1 < median < 0.4
    assert sum(span.lags) >= 15


async def test_a_watch_that_never_began_ends() -> None:
    watch = Watch()
    await watch.end()
    assert sum(watch.pulse().lags) == 0


def test_the_clock_goes_on_while_nothing_is_watched() -> None:
    first = Watch().pulse()
    sum(range(200_000))
    second = Watch().pulse()
    assert second.at > first.at
    assert second.cpu_s >= first.cpu_s
