"""Intervals against their definitions, published values, and seeded samples."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from autotune.stats import (
    QUANTILES,
    Statistic,
    chance_of_at_least,
    chance_of_at_most,
    enough,
    least_requests,
    mean,
    mean_interval,
    next_interval,
    proportion_interval,
    quantile,
    quantile_interval,
)

if TYPE_CHECKING:
    from collections.abc import Callable

confidences = st.floats(min_value=0.5, max_value=0.999)
values = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)
counts = st.integers(min_value=1, max_value=400).flatmap(
    lambda n: st.tuples(st.integers(min_value=0, max_value=n), st.just(n))
)


def test_mean_of_the_sleep_data() -> None:
    """Student's own example: ten differences, mean 1.58, standard deviation 1.23; t for 9 degrees is 2.262."""
    gained = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    found = mean_interval(gained, 0.95)
    assert found.n == 10
    assert (found.mean, found.low, found.high) == pytest.approx((1.58, 0.7, 2.46), abs=0.001)


@given(st.lists(values, min_size=2, max_size=40), confidences, st.randoms(use_true_random=False))
def test_a_mean_is_inside_its_interval_in_any_order(sample: list[float], confidence: float, rng: random.Random) -> None:
    found = mean_interval(sample, confidence)
    assert found.low <= found.mean <= found.high
    assert found == mean_interval(rng.sample(sample, len(sample)), confidence)
    further = next_interval(sample, confidence)
    assert further.low <= found.low <= found.high <= further.high


@given(counts, confidences)
def test_proportions_are_those_of_scipy(count: tuple[int, int], confidence: float) -> None:
    successes, n = count
    found = proportion_interval(successes, n, confidence)
    expected = binomtest(successes, n).proportion_ci(confidence, "exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= found.low <= found.mean <= found.high <= 1


def test_a_proportion_in_print() -> None:
    """Three of twenty at 95 %: 3.2 % … 37.9 % (Clopper and Pearson's chart); none of n: 1 − 0.025^(1/n)."""
    found = proportion_interval(3, 20, 0.95)
    assert (found.low, found.high) == pytest.approx((0.0321, 0.3789), abs=5e-5)
    assert proportion_interval(0, 59, 0.9).high == pytest.approx(1 - 0.05 ** (1 / 59))


@given(counts, confidences, confidences)
def test_intervals_widen_with_confidence(count: tuple[int, int], one: float, other: float) -> None:
    less, more = sorted((one, other))
    wide, narrow = proportion_interval(*count, more), proportion_interval(*count, less)
    assert wide.low <= narrow.low <= narrow.high <= wide.high
    outer = quantile_interval(range(count[1]), 0.5, more)
    inner = quantile_interval(range(count[1]), 0.5, less)
    assert outer is None or (inner is not None and outer.low <= inner.low <= inner.high <= outer.high)


@given(st.floats(min_value=0.01, max_value=0.99), st.sampled_from([7, 50, 200]), confidences)
def test_a_proportion_is_covered_as_often_as_it_says(truth: float, n: int, confidence: float) -> None:
    intervals = [proportion_interval(k, n, confidence) for k in range(n + 1)]
    covered = [k for k, found in enumerate(intervals) if found.low <= truth <= found.high]
    assert sum(float(binom.pmf(k, n, truth)) for k in covered) >= confidence - 1e-9


@pytest.mark.parametrize("statistic", sorted(QUANTILES))
def test_quantiles_have_an_interval_from_enough_values_on(statistic: Statistic) -> None:
    n, q = enough(statistic), QUANTILES[statistic]
    assert quantile_interval(range(n - 1), q, 0.95) is None
    found = quantile_interval(range(n), q, 0.95)
    assert found is not None
    assert found.high == n - 1


def test_quantiles_in_print() -> None:
    """The median of 100 at 95 %: the 40th and the 61st value. Of 25: the 8th and the 18th (Conover, table A3)."""
    hundred, few = (quantile_interval(range(1, n + 1), 0.5, 0.95) for n in (100, 25))
    assert hundred is not None
    assert few is not None
    assert (hundred.low, hundred.high) == (40, 61)
    assert (few.low, few.high) == (8, 18)


@given(
    st.lists(values, max_size=200),
    st.floats(min_value=0.02, max_value=0.98),
    confidences,
    st.randoms(use_true_random=False),
)
def test_a_quantile_is_inside_its_interval_in_any_order(
    sample: list[float], q: float, confidence: float, rng: random.Random
) -> None:
    found = quantile_interval(sample, q, confidence)
    if found is not None:
        assert found.low <= found.value <= found.high
        assert {found.low, found.high} <= set(sample)
        assert (found.value, found.n) == (quantile(sample, q), len(sample))
        assert found == quantile_interval(rng.sample(sample, len(sample)), q, confidence)


@given(st.integers(min_value=0, max_value=300), st.floats(min_value=0.02, max_value=0.98), confidences)
def test_quantiles_are_covered_as_often_as_they_say(n: int, q: float, confidence: float) -> None:
    """Of n values, as many lie below the quantile as successes come of n trials."""
    found = quantile_interval(range(n), q, confidence)
    if found is not None:
        low, high = round(found.low) + 1, round(found.high) + 1
        assert float(binom.cdf(high - 1, n, q) - binom.cdf(low - 1, n, q)) >= confidence - 1e-9
        assert float(binom.cdf(low, n, q)) > (1 - confidence) / 2 - 1e-9, "no end could be nearer"


def test_quantiles_of_values_that_are_worth_less() -> None:
    alone, alike = (quantile_interval(range(400), 0.95, 0.95, worth=worth) for worth in (400, 100))
    fewer = quantile_interval(range(100), 0.95, 0.95)
    assert alone == quantile_interval(range(400), 0.95, 0.95)
    assert alone is not None
    assert alike is not None
    assert fewer is not None
    assert alike.low < alone.low < alone.high < alike.high
    assert 4 * fewer.low <= alike.low < 4 * (fewer.low + 2)
    assert quantile_interval(range(400), 0.95, 0.95, worth=71) is None


@given(counts, st.floats(min_value=0.001, max_value=0.9))
def test_chances_are_those_of_the_binomial_distribution(count: tuple[int, int], share: float) -> None:
    violations, n = count
    assert chance_of_at_most(violations, n, share) == pytest.approx(float(binom.cdf(violations, n, share)), abs=1e-10)
    assert chance_of_at_least(violations, n, share) == pytest.approx(
        float(binom.sf(violations - 1, n, share)), abs=1e-10
    )


TABLE = {
    (0.1, 0.05): (29, 46, 61, 103, 167),
    (0.1, 0.01): (44, 64, 81, 127, 197),
    (0.05, 0.05): (59, 93, 124, 208, 336),
    (0.05, 0.01): (90, 130, 165, 259, 398),
    (0.01, 0.05): (299, 473, 628, 1049, 1693),
    (0.01, 0.01): (459, 662, 838, 1307, 2010),
}
"""MLPerf's early stopping: least requests with 0, 1, 2, 5 and 10 violations."""


@pytest.mark.parametrize("case", TABLE)
def test_the_table_of_early_stopping(case: tuple[float, float]) -> None:
    assert tuple(least_requests(violations, *case) for violations in (0, 1, 2, 5, 10)) == TABLE[case]


@given(st.integers(min_value=0, max_value=30), st.floats(min_value=0.01, max_value=0.5), st.floats(0.001, 0.5))
def test_no_fewer_requests_would_do(violations: int, share: float, level: float) -> None:
    n = least_requests(violations, share, level)
    assert chance_of_at_most(violations, n, share) <= level
    assert chance_of_at_most(violations, n - 1, share) > level if n > violations + 1 else True


def test_means_of_normal_values_are_covered() -> None:
    """400 times: 95 % are 380, and 366 … 392 are within three standard errors."""
    chance = random.Random(1)
    found = [mean_interval([chance.gauss(3, 2) for _ in range(8)], 0.95) for _ in range(400)]
    assert 366 <= sum(one.low <= 3 <= one.high for one in found) <= 392
    assert mean([one.mean for one in found]) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: mean_interval([1.0], 0.95),
        lambda: mean_interval([1.0, 2.0], 1.0),
        lambda: proportion_interval(0, 0, 0.95),
        lambda: proportion_interval(3, 2, 0.95),
        lambda: proportion_interval(1, 2, 95),
        lambda: quantile_interval([1.0, 2.0], 1.0, 0.95),
        lambda: quantile_interval([1.0, 2.0], 0.5, 0.0),
        lambda: chance_of_at_most(3, 2, 0.05),
        lambda: chance_of_at_least(1, 2, 1.0),
        lambda: least_requests(0, 0.0, 0.05),
    ],
)
def test_what_has_no_interval(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"at least|between|nothing| in "):
        call()
