"""Means of series, against truths that are known and streams as a server makes them."""

from __future__ import annotations

import random
from statistics import fmean
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.stats import FEWEST_BATCHES, batch_means, effective_size, mean, mean_interval
from autotune.stats.batches import MOST_BATCHES, correlation, cut
from tests.stats.streams import LOADS, autoregressive, stream, windows

if TYPE_CHECKING:
    from collections.abc import Sequence

rates = st.lists(st.floats(min_value=0, max_value=1e4), min_size=FEWEST_BATCHES, max_size=300)
BIN_S = 0.1


def covered(series: Sequence[Sequence[float]], truth: float) -> float:
    found = [batch_means(one, 0.95) for one in series]
    return fmean(one.low <= truth <= one.high for one in found)


@given(rates, st.floats(min_value=0.5, max_value=0.99), st.floats(min_value=0.5, max_value=0.99))
def test_the_mean_is_inside_and_the_interval_widens(series: list[float], one: float, other: float) -> None:
    less, more = (batch_means(series, confidence) for confidence in sorted((one, other)))
    assert less.mean == mean(series)
    assert more.low <= less.low <= less.mean <= less.high <= more.high
    assert FEWEST_BATCHES <= less.n <= MOST_BATCHES


@given(rates)
def test_a_series_is_worth_no_more_than_its_values(series: list[float]) -> None:
    assert 0 < effective_size(series, 0.95) <= len(series)


@given(st.lists(st.floats(min_value=-10, max_value=10), min_size=10, max_size=80), st.integers(1, 10))
def test_parts_are_of_equal_length(series: list[float], count: int) -> None:
    parts = cut(range(len(series)), count)
    assert len(parts) == count
    assert parts[0] == (len(series) // count - 1) / 2
    assert parts == sorted(parts)


def test_correlation_is_one_less_half_of_von_neumanns_ratio() -> None:
    assert correlation([1.0, -1.0, 1.0, -1.0]) == 1 - 12 / 8
    assert correlation([-1.0, -1.0, 1.0, 1.0]) == 1 - 4 / 8
    assert correlation([0.0, 0.0]) == 0.0


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 + 0.3])
def test_a_constant_series(value: float) -> None:
    found = batch_means([value] * 77, 0.95)
    assert found.low == found.mean == found.high == pytest.approx(value)
    assert effective_size([value] * 77, 0.95) == 77


def test_batches_grow_with_the_memory_of_the_series() -> None:
    chance = random.Random(1)
    short, long = ([batch_means(autoregressive(phi, 300, chance), 0.95) for _ in range(40)] for phi in (0.0, 0.97))
    assert fmean(one.n for one in short) > 20
    assert fmean(one.n for one in long) < 15
    assert fmean(one.high - one.low for one in long) > 5 * fmean(one.high - one.low for one in short)


def test_ten_values_are_ten_batches() -> None:
    assert batch_means([float(n % 3) for n in range(FEWEST_BATCHES)], 0.95).n == FEWEST_BATCHES
    for call in (batch_means, effective_size):
        with pytest.raises(ValueError, match="at least 10"):
            call([1.0] * (FEWEST_BATCHES - 1), 0.95)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("seconds", [30, 90])
def test_coverage_of_autoregressive_series(phi: float, seconds: int) -> None:
    """300 times: nominal 95 %, and three standard errors are 3.8 points."""
    chance = random.Random(2)
    series = [autoregressive(phi, round(seconds / BIN_S), chance) for _ in range(300)]
    assert 0.912 <= covered(series, 0.0) <= 0.988
    plain = [mean_interval(one, 0.95) for one in series]
    assert phi == 0 or fmean(one.low <= 0 <= one.high for one in plain) < 0.8


@pytest.mark.parametrize("name", LOADS)
def test_coverage_of_streams(name: str) -> None:
    """80 windows of 30 s at least, and half as many of 60 s: 92 … 98 %, and two standard errors below it."""
    made = stream(LOADS[name], 2400 if "cluster" in name else 6000, 1)
    truth = fmean(made.rates)
    for seconds in (30, 60):
        parts = list(windows(made.rates, seconds))
        assert 0.92 - 0.04 <= covered(parts, truth) <= 1.0
        half = fmean((one.high - one.low) / 2 for one in (batch_means(part, 0.95) for part in parts))
        assert covered(parts, truth + 2 * half) < 0.25, "it sees that the truth is another"


def test_what_waiting_requests_are_worth() -> None:
    """Waits in a queue are alike; those for a free slot are not."""
    waiting, served = ([ttft for _, ttft in stream(LOADS[name], 600, seed=4).ttfts] for name in ("full", "think time"))
    assert effective_size(waiting, 0.95) < 0.2 * len(waiting)
    assert effective_size(served, 0.95) > 0.4 * len(served)
    independent = [random.Random(5).sample(served, len(served)) for _ in range(5)]
    assert fmean(effective_size(one, 0.95) for one in independent) > 0.6 * len(served)
