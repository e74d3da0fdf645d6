"""Differences of two measurements."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from autotune.stats import (
    Difference,
    Interval,
    QuantileInterval,
    batch_means,
    difference,
    mean_interval,
    quantile_difference,
    quantile_interval,
)
from tests.stats.streams import LOADS, stream, windows

samples = st.lists(st.floats(min_value=0, max_value=1e3), min_size=2, max_size=30)


@given(samples, samples, st.floats(min_value=0.5, max_value=0.99))
def test_it_is_welchs(one: list[float], other: list[float], confidence: float) -> None:
    found = difference(mean_interval(one, confidence), mean_interval(other, confidence), confidence)
    assert found.low <= found.value <= found.high
    if min(max(one) - min(one), max(other) - min(other)) > 1e-3:
        expected = ttest_ind(one, other, equal_var=False).confidence_interval(confidence)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-6)


def test_two_sided() -> None:
    one, other = Interval(12.0, 11.0, 13.0, 20), Interval(9.0, 8.5, 9.5, 20)
    assert difference(one, other, 0.95).side == "higher"
    assert difference(other, one, 0.95).side == "lower"
    assert difference(one, one, 0.95).side == "not distinguishable"
    back = difference(other, one, 0.95)
    assert (-back.high, -back.low) == (difference(one, other, 0.95).low, difference(one, other, 0.95).high)


def test_what_does_not_vary() -> None:
    one, other = (mean_interval([value] * 5, 0.95) for value in (2.0, 1.0))
    assert difference(one, other, 0.95) == Difference(1.0, 1.0, 1.0)
    assert difference(one, one, 0.95).side == "not distinguishable"


def test_a_single_value_says_nothing() -> None:
    with pytest.raises(ValueError, match="at least two"):
        difference(Interval(1.0, 1.0, 1.0, 1), Interval(1.0, 0.0, 2.0, 5), 0.95)


def test_limits_are_recovered() -> None:
    """Each side from the ends that make it: below √(3² + 4²), above √(6² + 8²)."""
    one, other = QuantileInterval(10.0, 7.0, 16.0, 99), QuantileInterval(20.0, 12.0, 24.0, 99)
    assert quantile_difference(one, other) == Difference(-10.0, -15.0, 0.0)
    assert quantile_difference(one, other).side == "not distinguishable"
    assert quantile_difference(one, QuantileInterval(30.0, 29.0, 31.0, 99)).side == "lower"


def p95s(chance: random.Random, factor: float) -> Difference:
    """Of two samples of log-normal waits, the first longer by a factor."""
    found = [
        quantile_interval([scale * chance.lognormvariate(0, 0.5) for _ in range(200)], 0.95, 0.95)
        for scale in (factor, 1.0)
    ]
    assert found[0] is not None
    assert found[1] is not None
    return quantile_difference(found[0], found[1])


def test_quantiles_that_are_alike_and_not() -> None:
    """200 times, 5 % are 10; three standard errors more are 19."""
    chance = random.Random(1)
    assert sum(p95s(chance, 1.0).side != "not distinguishable" for _ in range(200)) <= 12
    assert sum(p95s(chance, 1.7).side == "higher" for _ in range(200)) >= 170


def test_two_runs_of_the_same_load() -> None:
    """100 pairs of windows of 60 s: 5 % are 5, and three standard errors more 11. An eighth more is seen."""
    one, other = (
        [batch_means(part, 0.95) for part in windows(stream(LOADS["full"], 6000, seed).rates, 60)] for seed in (1, 2)
    )
    pairs = list(zip(one, other, strict=True))
    assert sum(difference(a, b, 0.95).side != "not distinguishable" for a, b in pairs) <= 11
    more = [Interval(1.125 * a.mean, 1.125 * a.low, 1.125 * a.high, a.n) for a in one]
    assert sum(difference(a, b, 0.95).side == "higher" for a, b in zip(more, other, strict=True)) >= 85
