"""Limits decided at planned looks."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.stats import (
    Decision,
    Looks,
    batch_means,
    chance_of_at_least,
    decide_mean,
    decide_series,
    decide_share,
    mean_interval,
    quantile,
)
from tests.stats.streams import LOADS, stream

if TYPE_CHECKING:
    from collections.abc import Callable

P95 = 0.05
alphas = st.floats(min_value=0.001, max_value=0.5)


@given(st.integers(1, 20), alphas, st.floats(min_value=0.5, max_value=4))
def test_the_levels_of_all_looks_are_alpha(number: int, alpha: float, power: float) -> None:
    looks = Looks.evenly(number, alpha, power)
    assert sum(looks.levels) == pytest.approx(alpha)
    assert all(level > 0 for level in looks.levels)
    assert looks.spent(number) == alpha
    assert looks.spent(0) == 0


def test_spending() -> None:
    assert Looks.evenly(5, 0.05).levels == pytest.approx([0.01] * 5)
    assert Looks.at((30, 60, 120, 300), 0.05).fractions == pytest.approx((0.1, 0.2, 0.4, 1.0))
    assert Looks.evenly(2, 0.04, power=3).levels == pytest.approx((0.005, 0.035))
    assert Looks((1.0,), 0.05).level(1) == 0.05


@pytest.mark.parametrize(
    ("violations", "n", "expected"),
    [
        (0, 0, "open"),
        (0, 71, "open"),
        (0, 72, "holds"),
        (2, 10, "open"),
        (3, 10, "violated"),
        (3, 20, "open"),
        (4, 20, "violated"),
        (20, 400, "open"),
    ],
)
def test_a_limit_on_p95(violations: int, n: int, expected: Decision) -> None:
    assert decide_share(violations, n, P95, 0.05) == expected


def test_each_direction_has_half_of_the_level() -> None:
    assert decide_share(0, 59, P95, 0.1) == "holds"
    assert decide_share(0, 58, P95, 0.1) == "open"
    assert chance_of_at_least(3, 10, P95) == pytest.approx(0.0115, abs=5e-5)
    assert decide_share(3, 10, P95, 0.022) == "open"


def test_no_violation_may_be_allowed() -> None:
    assert decide_share(1, 1000, 0.0, 0.05) == "violated"
    assert decide_share(0, 1000, 0.0, 0.05) == "open"


@given(st.integers(0, 60), st.integers(0, 400), alphas, alphas)
def test_a_stricter_level_decides_no_more(violations: int, clean: int, one: float, other: float) -> None:
    strict, loose = (decide_share(violations, violations + clean, P95, level) for level in sorted((one, other)))
    assert strict in ("open", loose)


@given(st.integers(0, 60), st.integers(0, 400), st.floats(min_value=0.1, max_value=1))
def test_requests_that_are_worth_less_decide_no_more(violations: int, clean: int, part: float) -> None:
    n = violations + clean
    assert decide_share(violations, n, P95, 0.05, worth=part * n) in ("open", decide_share(violations, n, P95, 0.05))


def first(violations: list[bool], looks: Looks, levels: tuple[float, ...], within: float = 1.0) -> Decision:
    """What is decided at the first look that decides, of those that have no more than a part of the requests."""
    for part, level in zip(looks.fractions, levels, strict=True):
        n = round(part * len(violations))
        found = decide_share(sum(violations[:n]), n, P95, level)
        if found != "open" and part <= within:
            return found
    return "open"


@pytest.mark.parametrize(("share", "wrong"), [(P95, "violated"), (P95 + 1e-9, "holds")])
def test_looks_together_err_no_more_than_they_may(share: float, wrong: Decision) -> None:
    """800 times 2.5 % are 20, and three standard errors more 33. Without spending there are more."""
    chance, looks = random.Random(1), Looks.evenly(20, 0.05)
    nights = [[chance.random() < share for _ in range(400)] for _ in range(800)]
    assert sum(first(night, looks, looks.levels) == wrong for night in nights) <= 20
    assert sum(first(night, looks, (looks.alpha,) * 20) == wrong for night in nights) > 33


def test_clear_cases_are_decided_early() -> None:
    chance, looks = random.Random(2), Looks.at((80, 160, 240, 320, 400), 0.05)
    for share, expected in ((0.005, "holds"), (0.2, "violated")):
        nights = [[chance.random() < share for _ in range(400)] for _ in range(100)]
        assert sum(first(night, looks, looks.levels, within=0.6) == expected for night in nights) >= 90


def test_violations_that_come_together() -> None:
    """100 requests at a time, and a limit that one of 20 exceeds: 71 times, and 2.5 % are 2 each way."""
    ttfts = stream(LOADS["full"], 6000, 1).ttfts
    limit = quantile([ttft for _, ttft in ttfts], 0.95)
    parts = [ttfts[at : at + 100] for at in range(0, len(ttfts) - 100, 100)]
    found: Counter[str] = Counter()
    for part in parts:
        waits = [ttft for _, ttft in part]
        violations = [wait > limit for wait in waits]
        found[decide_share(sum(violations), len(waits), P95, 0.05)] += 1
        found["in order: " + decide_series(violations, waits, P95, 0.05)] += 1
    assert found["violated"] > 0.08 * len(parts)
    assert found["in order: violated"] + found["in order: holds"] <= 5


def test_a_queue_without_end_violates_at_once() -> None:
    waits = [ttft for _, ttft in stream(LOADS["full"], 30, seed=4).ttfts]
    assert decide_series([wait > 2.0 for wait in waits], waits, P95, 0.01) == "violated"


def test_a_limit_that_is_far_away_holds() -> None:
    waits = [ttft for _, ttft in stream(LOADS["think time"], 300, seed=4).ttfts]
    assert decide_series([wait > 2.0 for wait in waits], waits, P95, 0.05) == "holds"


def test_too_few_to_see_whether_they_are_alike() -> None:
    assert decide_series([True] * 9, [3.0] * 9, P95, 0.05) == "open"
    assert decide_series([True] * 10, [3.0] * 10, P95, 0.05) == "violated"
    assert decide_series([], [], P95, 0.05) == "open"


def test_a_limit_on_the_mean() -> None:
    found = mean_interval([1.0, 2.0, 3.0], 0.95)
    assert decide_mean(found, found.high) == "holds"
    assert decide_mean(found, found.low) == "open"
    assert decide_mean(found, found.low - 1e-9) == "violated"
    steady = batch_means([2.0] * 20, 0.95)
    assert decide_mean(steady, 2.0) == "holds"


@pytest.mark.parametrize(
    "call",
    [
        lambda: Looks((), 0.05),
        lambda: Looks.at((), 0.05),
        lambda: Looks((0.5, 0.5, 1.0), 0.05),
        lambda: Looks((0.5, 0.9), 0.05),
        lambda: Looks((0.0, 1.0), 0.05),
        lambda: Looks((1.0,), 1.0),
        lambda: Looks((1.0,), 0.05, power=0),
        lambda: Looks.evenly(3, 0.05).level(4),
        lambda: Looks.evenly(3, 0.05).level(0),
        lambda: decide_share(1, 0, P95, 0.05),
        lambda: decide_share(1, 2, P95, 0.0),
        lambda: decide_share(1, 2, 1.0, 0.05),
        lambda: decide_series([True] * 10, [1.0] * 9, P95, 0.05),
    ],
)
def test_what_cannot_be_decided(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"grow|between|planned|counted|waits for| in "):
        call()
