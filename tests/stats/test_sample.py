"""Statistics against their definitions."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.stats import QUANTILES, TAIL, Statistic, enough, mean, percentile, quantile

if TYPE_CHECKING:
    import random

seconds = st.floats(min_value=0, max_value=1e6, allow_nan=False)
samples = st.lists(seconds, min_size=1, max_size=60)
parts = st.floats(min_value=0, max_value=1)


def test_quantile_type_7() -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert quantile([1.0, 2.0, 3.0, 4.0, 5.0], 0.9) == pytest.approx(4.6)
    assert quantile([7.0], 0.99) == 7.0


@given(st.lists(seconds, min_size=2, max_size=60))
def test_quartiles_are_those_of_the_standard_library(values: list[float]) -> None:
    expected = statistics.quantiles(values, n=4, method="inclusive")
    assert [quantile(values, q) for q in (0.25, 0.5, 0.75)] == pytest.approx(expected)


@given(samples, parts, parts)
def test_quantile_lies_in_the_sample_and_grows_with_q(values: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert min(values) <= quantile(values, low) <= max(values)
    assert quantile(values, low) <= quantile(values, high) or math.isclose(
        quantile(values, low), quantile(values, high), rel_tol=1e-12
    )


@given(samples, st.randoms(use_true_random=False))
def test_order_does_not_matter_to_the_last_bit(values: list[float], rng: random.Random) -> None:
    shuffled = rng.sample(values, len(values))
    assert mean(values) == mean(shuffled)
    assert all(quantile(values, q) == quantile(shuffled, q) for q in QUANTILES.values())


@given(samples)
def test_percentile_by_name(values: list[float]) -> None:
    assert percentile(values, "mean") == mean(values)
    assert percentile(values, "p95") == quantile(values, 0.95)


@pytest.mark.parametrize(("statistic", "n"), [("mean", 10), ("p50", 6), ("p90", 36), ("p95", 72), ("p99", 368)])
def test_enough(statistic: Statistic, n: int) -> None:
    assert enough(statistic) == n


@pytest.mark.parametrize("statistic", sorted(QUANTILES))
def test_enough_is_the_least_with_an_interval(statistic: Statistic) -> None:
    q, n = QUANTILES[statistic], enough(statistic)
    assert q**n <= TAIL < q ** (n - 1)


def test_every_statistic_has_a_size() -> None:
    assert {*QUANTILES, "mean"} == set(get_args(Statistic))


@pytest.mark.parametrize("call", [lambda: mean([]), lambda: quantile([], 0.5), lambda: quantile([1.0], 1.5)])
def test_nothing_has_no_statistics(call: object) -> None:
    with pytest.raises(ValueError, match=r"nothing|between"):
        call()  # type: ignore[operator]
