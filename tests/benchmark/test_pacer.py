"""Arrivals are what they are called."""

from __future__ import annotations

import heapq
from itertools import islice, pairwise, takewhile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from autotune.benchmark.pacer import ClosedLoop, Due, OpenLoop, Ramp, Trace, make
from autotune.errors import SpecError
from autotune.spec import Level

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

RATE = 50.0
SECONDS = 400
UNLIKELY = 1e-3
"""How seldom a schedule that is what it claims would fail; seeds are fixed, so none does by chance."""


def gaps(times: Iterable[float], count: int = 20_000) -> list[float]:
    return [after - before for before, after in pairwise([0.0, *islice(times, count)])]


def dispersion(times: Iterable[float]) -> float:
    """Variance of the counts per second over their mean: 1 for Poisson."""
    counts = [0] * SECONDS
    for at in takewhile(lambda at: at < SECONDS, times):
        counts[int(at)] += 1
    average = sum(counts) / SECONDS
    assert average == pytest.approx(RATE, rel=0.05)
    return sum((count - average) ** 2 for count in counts) / (SECONDS - 1) / average


def fit(values: Sequence[float], distribution: Any) -> float:
    """Kolmogorov and Smirnov: how probable gaps as far from the distribution as these would be."""
    return float(stats.kstest(values, distribution.cdf).pvalue)


def lag(values: Sequence[float]) -> float:
    """How much a gap says about the next one: their correlation."""
    average = sum(values) / len(values)
    together = sum((a - average) * (b - average) for a, b in pairwise(values))
    return together / sum((a - average) ** 2 for a in values)


@given(st.lists(st.floats(0, 3), max_size=30), st.integers(0, 5))
def test_what_is_due_is_told_ahead_and_comes_all_the_same(moments: list[float], taken: int) -> None:
    level = OpenLoop(RATE, seed=2)
    times = [100 + offset for offset in islice(level.times(), 1000)]
    due = Due(level, 100.0)
    for at in sorted(moments):
        for _ in range(taken):
            assert due.next() == times.pop(0)
        assert due.before(100 + at) == [*takewhile(lambda one, now=100 + at: one < now, times)]  # type: ignore[misc]
    assert due.next() == times[0]
    assert Due(ClosedLoop(3), 100.0).next() == float("inf")


# Poisson


@pytest.mark.parametrize("seed", range(3))
def test_poisson_arrivals(seed: int) -> None:
    loop = OpenLoop(RATE, seed=seed)
    assert dispersion(loop.times()) == pytest.approx(1, abs=0.25)
    assert fit(gaps(loop.times()), stats.expon(scale=1 / RATE)) > UNLIKELY
    assert abs(lag(gaps(loop.times()))) < 0.03


@pytest.mark.parametrize("generators", [2, 4, 10])
def test_several_generators_with_one_seed_are_found_out(generators: int) -> None:
    """As where each process of a load generator draws its share with the seed that all were given."""

    def together() -> Iterable[float]:
        return heapq.merge(*(OpenLoop(RATE / generators, seed=1).times() for _ in range(generators)))

    assert dispersion(together()) == pytest.approx(generators, rel=0.3)
    assert fit(gaps(together()), stats.expon(scale=1 / RATE)) < 1e-100


def test_several_generators_with_seeds_of_their_own_would_do() -> None:
    def together() -> Iterable[float]:
        return heapq.merge(*(OpenLoop(RATE / 4, seed=seed).times() for seed in range(4)))

    assert dispersion(together()) == pytest.approx(1, abs=0.25)
    assert fit(gaps(together()), stats.expon(scale=1 / RATE)) > UNLIKELY


# gamma, constant


@pytest.mark.parametrize("burstiness", [0.25, 0.5, 1.0, 4.0])
def test_gamma_arrivals(burstiness: float) -> None:
    """The counts' variance over their mean goes to that of the gaps over the square of theirs: 1 / burstiness."""
    loop = OpenLoop(RATE, "gamma", 3, burstiness)
    found = gaps(loop.times())
    assert dispersion(loop.times()) == pytest.approx(1 / burstiness, rel=0.25)
    assert fit(found, stats.gamma(burstiness, scale=1 / (burstiness * RATE))) > UNLIKELY
    assert (fit(found, stats.expon(scale=1 / RATE)) > UNLIKELY) is (burstiness == 1)
    assert abs(lag(found)) < 0.03


def test_constant_arrivals() -> None:
    assert list(islice(OpenLoop(2.5, "constant").times(), 4)) == [0.0, 0.4, 0.8, 1.2]
    assert dispersion(OpenLoop(RATE, "constant").times()) < 0.01
    assert fit(gaps(OpenLoop(RATE, "constant").times()), stats.expon(scale=1 / RATE)) < UNLIKELY


# ramp


def due(at: float, start: float, end: float, seconds: float) -> float:
    """Arrivals until then, in the mean: the area below the rate, as a trapezium and a rectangle."""
    within = min(at, seconds)
    reached = start + (end - start) * within / seconds
    return within * (start + reached) / 2 + end * (at - within)


@pytest.mark.parametrize(("start", "end"), [(0.0, 100.0), (20.0, 80.0), (80.0, 20.0), (50.0, 50.0)])
def test_a_ramp_is_poisson_once_time_is_measured_by_its_rate(start: float, end: float) -> None:
    times = list(islice(OpenLoop(end, Ramp(start, 200), seed=2).times(), 20_000))
    assert times[-1] > 200
    found = gaps(due(at, start, end, 200) for at in times)
    assert fit(found, stats.expon()) > UNLIKELY
    assert abs(lag(found)) < 0.03
    assert (fit(gaps(times), stats.expon(scale=1 / end)) > UNLIKELY) is (start == end)


def test_a_ramp_rises_and_stays() -> None:
    times = list(takewhile(lambda at: at < 400, OpenLoop(80, Ramp(20, 200), seed=1).times()))
    counts = [sum(begin <= at < begin + 50 for at in times) / 50 for begin in range(0, 400, 50)]
    assert counts == pytest.approx([27.5, 42.5, 57.5, 72.5, 80, 80, 80, 80], rel=0.1)


@given(st.floats(0, 1e3), st.floats(0.01, 1e3), st.floats(0.1, 1e4), st.floats(0, 1e6))
def test_a_ramp_inverts_its_integral(start: float, end: float, seconds: float, expected: float) -> None:
    at = Ramp(start, seconds).when(expected, end)
    assert due(at, start, end, seconds) == pytest.approx(expected, rel=1e-6, abs=1e-6)


# traces


def test_a_trace_is_replayed_at_any_speed_and_begins_again() -> None:
    trace = Trace((0.0, 1.0, 1.0, 6.0))
    assert (trace.rate, trace.round_s) == (0.5, 8.0)
    assert list(islice(OpenLoop(0.5, trace).times(), 6)) == [0.0, 1.0, 1.0, 6.0, 8.0, 9.0]
    assert list(islice(OpenLoop(1.0, trace).times(), 6)) == [0.0, 0.5, 0.5, 3.0, 4.0, 4.5]


@pytest.mark.parametrize("stamps", [(), (3.0,), (3.0, 3.0)])
def test_a_trace_needs_two_times(stamps: tuple[float, ...]) -> None:
    with pytest.raises(SpecError, match=f"trace 1: the prompts have {len(stamps)} time stamps"):
        make(Level(trace=1), 0, stamps)


# all of them

LEVELS = [
    ({"users": 20}, "20 users"),
    ({"rate": 2.5}, "2.5 requests/s"),
    ({"rate": 2.5, "arrivals": "constant"}, "2.5 requests/s constant"),
    ({"rate": 2.5, "arrivals": "gamma", "burstiness": 0.5}, "2.5 requests/s gamma 0.5"),
    ({"rate": 2.5, "arrivals": "gamma", "burstiness": 2}, "2.5 requests/s gamma 2"),
    ({"ramp": (1, 5), "over_s": 60}, "ramp 1 to 5 requests/s in 60 s"),
    ({"ramp": (1, 5), "over_s": 90}, "ramp 1 to 5 requests/s in 90 s"),
    ({"trace": 1}, "trace"),
    ({"trace": 2.5}, "trace at 2.5x"),
]
STAMPS = (100.0, 100.7, 103.1, 104.9)


@pytest.mark.parametrize(("written", "label"), LEVELS)
def test_a_level_has_one_name(written: dict[str, Any], label: str) -> None:
    level = Level(**written)
    assert level.label == make(level, 7, STAMPS).label == label
    assert isinstance(make(level, 7, STAMPS), ClosedLoop) is (level.users is not None)


@pytest.mark.parametrize("written", [level for level, _ in LEVELS[1:]])
def test_arrivals_follow_from_the_seed_and_the_clock(written: dict[str, Any]) -> None:
    def times(seed: int, scale: float = 1.0) -> list[float]:
        loop = make(Level(**written), seed, STAMPS, scale)
        assert isinstance(loop, OpenLoop)
        return list(islice(loop.times(), 200))

    assert times(4) == times(4)
    assert (times(4) != times(5)) is ("trace" not in written and written.get("arrivals") != "constant")
    assert times(4) == sorted(times(4))
    assert [10 * at for at in times(4, 10)] == pytest.approx(times(4))


def test_users_start_spread_out() -> None:
    starts = ClosedLoop(20, seed=1).starts(10.0)
    assert len(starts) == 20
    assert all(0.5 * user <= start < 0.5 * (user + 1) for user, start in enumerate(starts))
    assert starts == ClosedLoop(20, seed=1).starts(10.0) != ClosedLoop(20, seed=2).starts(10.0)
    assert ClosedLoop(3).starts(0.0) == (0.0, 0.0, 0.0)
