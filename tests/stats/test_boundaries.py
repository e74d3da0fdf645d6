"""Boundaries of a sequence of looks, against what others have tabulated and against walks that are played."""

from __future__ import annotations

import math
import random

import pytest

from autotune.stats import Looks, boundaries


def test_a_single_look_may_err_as_much_as_all() -> None:
    (level,) = boundaries(Looks((1.0,), 0.02))
    assert level == pytest.approx(0.02, rel=1e-6)


@pytest.mark.parametrize(
    ("first", "second"),
    [(0.0294, 0.0294), (0.00516, 0.04804)],
    ids=["Pocock", "O'Brien and Fleming"],
)
def test_two_looks_are_those_of_the_tables(first: float, second: float) -> None:
    """Two-sided with 5 %: twice 2.178, and 2.797 with 1.977 (Jennison and Turnbull 2000, tables 2.1 and 2.3)."""
    power = math.log2(0.05 / first)
    found = boundaries(Looks((0.5, 1.0), 0.025, power))
    assert 2 * found[0] == pytest.approx(first)
    assert 2 * found[1] == pytest.approx(second, rel=0.01)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_a_level_is_more_than_boole_allows_and_less_than_all_that_was_spent(power: float) -> None:
    looks = Looks.at((4, 6, 8, 10, 14, 18, 24), 0.0125, power)
    found = boundaries(looks)
    assert found[0] == pytest.approx(looks.levels[0], rel=1e-6)
    assert all(level > least for level, least in zip(found[1:], looks.levels[1:], strict=True))
    assert all(level < looks.spent(at + 2) for at, level in enumerate(found[1:]))
    assert sum(found) > 1.2 * looks.alpha


def test_walks_cross_as_often_as_was_planned() -> None:
    looks = Looks.at((4, 6, 8, 12, 24), 0.05)
    bounds = [-_quantile(level) for level in boundaries(looks)]
    chance, walks = random.Random(1), 20000
    crossed = [0] * len(bounds)
    for _ in range(walks):
        sums, before = 0.0, 0.0
        for look, (at, bound) in enumerate(zip(looks.fractions, bounds, strict=True)):
            sums += chance.gauss(0, math.sqrt(at - before))
            before = at
            if sums > bound * math.sqrt(at):
                crossed[look] += 1
                break
    for look in range(len(bounds)):
        spent = looks.spent(look + 1)
        assert sum(crossed[: look + 1]) / walks == pytest.approx(spent, abs=3 * math.sqrt(spent / walks))


def _quantile(level: float) -> float:
    from scipy.special import ndtri  # noqa: PLC0415

    return float(ndtri(level))
