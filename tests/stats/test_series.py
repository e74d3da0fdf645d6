"""Whether a series has settled, and whether it grows."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.stats import Trend, mean, mser5, steady_from, trend
from tests.stats.streams import LOADS, autoregressive, in_flight, stream

if TYPE_CHECKING:
    from collections.abc import Callable

numbers = st.floats(min_value=-1e3, max_value=1e3)
moments = st.integers(0, 300_000).map(lambda milliseconds: milliseconds / 1000)


def by_definition(series: list[float]) -> int:
    """The smallest marginal standard error, one truncation after the other."""
    batches = [mean(series[at : at + 5]) for at in range(0, len(series) - 4, 5)]

    def error(cut: int) -> float:
        rest = batches[cut:]
        return math.fsum((one - mean(rest)) ** 2 for one in rest) / len(rest) ** 2

    return 5 * min(range(len(batches) - 9), key=error)


@given(st.lists(st.integers(-50, 50).map(float), min_size=50, max_size=80))
def test_mser_is_the_least_marginal_error(series: list[float]) -> None:
    found = mser5(series)
    assert found % 5 == 0
    batches = [mean(series[at : at + 5]) for at in range(0, len(series) - 4, 5)]
    errors = [
        math.fsum((one - mean(batches[cut:])) ** 2 for one in batches[cut:]) / len(batches[cut:]) ** 2
        for cut in (found // 5, by_definition(series) // 5)
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-9, abs=1e-12)


def test_mser_cuts_a_ramp_and_nothing_else() -> None:
    chance = random.Random(1)
    ramp = [chance.gauss(min(1.0, at / 60), 0.05) for at in range(300)]
    assert 45 <= mser5(ramp) <= 90
    assert steady_from(ramp) == mser5(ramp)
    assert mser5([0.1] * 77) == 0


def test_a_series_that_never_settles() -> None:
    growing = [float(at) for at in range(200)]
    assert mser5(growing) > 100
    assert steady_from(growing) is None
    assert steady_from([1.0] * 99) is None
    assert steady_from([1.0] * 100) == 0


def test_the_start_of_a_closed_loop_is_cut() -> None:
    """All users ask at once: no token while their prompts are read."""
    rates = stream(LOADS["full cluster"], 60, seed=2, warm_s=0).rates
    start = steady_from(rates)
    assert start is not None
    assert 0 < start * 0.1 <= 20


def test_steady_series_are_left_whole() -> None:
    chance = random.Random(3)
    starts = [steady_from(autoregressive(0.5, 300, chance)) for _ in range(100)]
    assert sum(start is None for start in starts) <= 3
    assert sum(start is not None and start <= 50 for start in starts) >= 85


def test_a_line_is_a_trend() -> None:
    times = [10, 11, 13, 14, 17, 20, 21, 22, 23, 30]
    found = trend(times, [3 + 2 * time for time in times], 0.95)
    assert (found.slope, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))
    assert found.rises
    assert not found.falls


def test_the_slope_is_that_of_least_squares() -> None:
    """Anscombe's first set (1973): y = 3 + 0.5 x."""
    x = [10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5]
    y = [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68]
    found = trend(x, y, 0.95)
    assert found.slope == pytest.approx(0.5001, abs=5e-5)
    assert found.low < 0.5 < found.high


@given(st.lists(st.tuples(moments, numbers), min_size=10, max_size=80), st.randoms(use_true_random=False))
def test_a_trend_in_any_order(points: list[tuple[float, float]], rng: random.Random) -> None:
    if len({time for time, _ in points}) < 2:
        return
    shuffled = rng.sample(points, len(points))
    found, again = (trend([t for t, _ in some], [v for _, v in some], 0.95) for some in (points, shuffled))
    assert found == again
    assert found.low <= found.slope <= found.high


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 + 0.3])
def test_what_does_not_change_has_no_trend(value: float) -> None:
    assert trend([0.1 * at for at in range(77)], [value] * 77, 0.95) == Trend(0.0, 0.0, 0.0)


@pytest.mark.parametrize(("phi", "n"), [(0.0, 60), (0.8, 60), (0.8, 300)])
def test_false_alarms(phi: float, n: int) -> None:
    """400 times: at most 8 %, which are 32, and three standard errors more are 48."""
    chance = random.Random(4)
    found = [trend(range(n), autoregressive(phi, n, chance), 0.95) for _ in range(400)]
    assert sum(one.rises or one.falls for one in found) <= 32


def test_a_queue_that_grows_is_seen() -> None:
    chance = random.Random(5)
    full, calm = ([trend(range(60), in_flight(busy, 60, chance), 0.95) for _ in range(100)] for busy in (1.5, 0.6))
    assert sum(one.rises for one in full) >= 85
    assert sum(one.rises for one in calm) <= 8


@pytest.mark.parametrize(
    "call",
    [
        lambda: mser5([1.0] * 49),
        lambda: trend([1.0] * 9, [1.0] * 9, 0.95),
        lambda: trend([1.0] * 11, [1.0] * 12, 0.95),
        lambda: trend([1.0] * 12, [1.0] * 12, 0.95),
    ],
)
def test_too_little(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"at least|times for|more than one"):
        call()
