"""Scatter and differences in blocks: what they leave out, and how often they are right."""

from __future__ import annotations

import math
import random
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from autotune.stats import (
    block_spread,
    blocks_needed,
    contrast,
    difference_found,
    expected_gain,
    mean_interval,
    repeat_spread,
)

BLOCKS = [[1.0, 2.0, 4.0], [2.0, 2.0, 6.0], [3.0, 5.0, 4.0]]


def played(chance: random.Random, blocks: int, *sds: float) -> list[list[float]]:
    """Blocks that differ much more from each other than candidates do."""
    return [[level + chance.gauss(0, sd) for sd in sds] for level in (chance.gauss(0, 1) for _ in range(blocks))]


def test_the_spread_is_that_of_a_two_way_analysis() -> None:
    # residuals by hand: row and column means 7/3, 10/3, 4 and 2, 3, 14/3; the whole mean 29/9
    residuals = [
        value - fmean(block) - fmean(row[at] for row in BLOCKS) + fmean(map(fmean, BLOCKS))
        for block in BLOCKS
        for at, value in enumerate(block)
    ]
    found = block_spread(BLOCKS, 0.95)
    assert found.freedom == 4
    assert found.variance == pytest.approx(sum(one * one for one in residuals) / 4)
    assert found.low < found.sd < found.high


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3), st.lists(st.floats(-5, 5), min_size=3, max_size=3))
def test_what_is_common_to_a_block_or_a_candidate_is_no_scatter(rows: list[float], columns: list[float]) -> None:
    moved = [
        [value + row + column for value, column in zip(block, columns, strict=True)]
        for block, row in zip(BLOCKS, rows, strict=True)
    ]
    assert block_spread(moved, 0.95).sd == pytest.approx(block_spread(BLOCKS, 0.95).sd)


def test_of_two_candidates_it_is_the_scatter_of_their_differences() -> None:
    pairs = [[1.0, 2.0], [2.0, 5.0], [4.0, 3.0], [7.0, 7.0]]
    found = block_spread(pairs, 0.95)
    assert found.sd == pytest.approx(stdev(second - first for first, second in pairs) / math.sqrt(2))
    assert found.freedom == 3


def test_repeats_do_not_see_a_drift_and_see_what_comes_and_goes() -> None:
    chance = random.Random(1)
    still = [chance.gauss(0, 1) for _ in range(400)]
    rising = [value + 0.05 * number for number, value in enumerate(still)]
    assert repeat_spread(still, 0.95).sd == pytest.approx(1, rel=0.1)
    assert repeat_spread(rising, 0.95).sd == pytest.approx(repeat_spread(still, 0.95).sd, rel=0.01)
    assert stdev(rising) > 5
    assert repeat_spread([0.0, 2.0] * 5, 0.95).sd == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("kind", ["blocks", "repeats"])
def test_the_interval_of_a_spread_holds_as_often_as_it_says(kind: str) -> None:
    chance, held = random.Random(2), 0
    for _ in range(1000):
        if kind == "blocks":
            found = block_spread(played(chance, 6, 0.03, 0.03, 0.03), 0.95)
        else:
            found = repeat_spread([chance.gauss(7, 0.03) for _ in range(12)], 0.95)
        held += found.low <= 0.03 <= found.high
    assert 930 <= held <= 970


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9))
def test_differences_alone_have_students_interval(values: list[float]) -> None:
    found, known = contrast(values, None, below=0.01, above=0.01), mean_interval(values, 0.98)
    assert (found.mean, found.n) == (known.mean, known.n)
    assert found.low == pytest.approx(known.low)
    assert found.high == pytest.approx(known.high)


def test_each_end_errs_by_its_own_part() -> None:
    found = contrast([1.0, 2.0, 3.0, 6.0], None, below=0.001, above=0.1)
    assert found.mean - found.low > 3 * (found.high - found.mean)


def missed(sds: tuple[float, ...], *, blocks: int = 6, error: float = 0.025) -> float:
    """How often the lower end of the difference of the first two, which is 0, lies above it."""
    chance, wrong = random.Random(f"{sds}"), 0
    for _ in range(4000):
        rows = played(chance, blocks, *sds)
        differences = [row[1] - row[0] for row in rows]
        wrong += contrast(differences, block_spread(rows, 0.95), below=error, above=error).low > 0
    return wrong / 4000


def test_a_common_scatter_errs_no_more_often_than_it_may_and_an_uneven_one_twice_as_often_at_worst() -> None:
    assert missed((0.03, 0.03, 0.03)) <= 0.025 + 0.005
    assert missed((0.01, 0.01, 0.06)) <= 0.002  # the others are quiet: far too careful
    assert missed((0.06, 0.01, 0.01)) <= 2 * 0.025


def test_a_common_scatter_makes_short_proofs_narrower() -> None:
    chance = random.Random(3)
    widths = []
    for _ in range(200):
        rows = played(chance, 4, 0.03, 0.03, 0.03)
        differences = [row[1] - row[0] for row in rows]
        common = block_spread(rows, 0.95)
        pooled, alone = (contrast(differences, one, below=0.003, above=0.003) for one in (common, None))
        widths.append((pooled.high - pooled.low, alone.high - alone.low))
    assert fmean(pooled for pooled, _ in widths) < 0.75 * fmean(alone for _, alone in widths)


@given(st.floats(0.01, 0.5), st.floats(0.005, 0.1), st.integers(2, 7))
def test_the_blocks_that_are_needed_are_the_fewest_that_find_it(gain: float, sd: float, candidates: int) -> None:
    blocks = blocks_needed(gain, sd, candidates, error=0.005, missed=0.1)
    assert difference_found(blocks, sd, candidates, error=0.005, missed=0.1) <= gain
    if blocks > 2:
        assert difference_found(blocks - 1, sd, candidates, error=0.005, missed=0.1) > gain


def test_what_was_said_to_be_found_is_found_nine_times_of_ten() -> None:
    blocks = blocks_needed(0.05, 0.03, 3, error=0.01, missed=0.1)
    chance, found = random.Random(4), 0
    for _ in range(1000):
        rows = played(chance, blocks, 0.03, 0.03, 0.03)
        differences = [row[1] - row[0] + 0.05 for row in rows]
        found += contrast(differences, block_spread(rows, 0.95), below=0.01, above=0.01).low > 0
    assert 0.85 <= found / 1000 <= 0.95


@given(st.floats(-0.2, 0.2), st.floats(0.01, 0.1), st.integers(4, 12))
def test_an_expected_gain_is_the_mean_of_what_is_above_0(centre: float, sd: float, blocks: int) -> None:
    differences = [centre + sd * (-1) ** number for number in range(blocks)]
    error, mean = stdev(differences) / math.sqrt(blocks), fmean(differences)
    there = t(blocks - 1, mean, error)
    grid = np.concatenate([np.linspace(0, 1, 20_001), np.geomspace(1, 1e4, 2_000)[1:]])
    expected = np.trapezoid(there.sf(grid), grid)
    assert expected_gain(differences, None) == pytest.approx(expected, rel=2e-3, abs=1e-6)


def test_an_expected_gain_without_scatter_is_the_gain() -> None:
    assert expected_gain([0.1] * 4, None) == pytest.approx(0.1)
    assert expected_gain([-0.1] * 4, None) == 0
    assert expected_gain([0.0, 1.0], None) == math.inf  # one degree of freedom
    assert expected_gain([0.0, 0.01, 0.0, 0.01], block_spread([[0.0, 0.1], [0.1, 0.0], [0.0, 0.1]], 0.95)) > 0.02


def test_too_little_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least three values, not 2"):
        repeat_spread([1.0, 2.0], 0.95)
    with pytest.raises(ValueError, match="not 1 blocks of 2"):
        block_spread([[1.0, 2.0]], 0.95)
    with pytest.raises(ValueError, match="at least two values, not 1"):
        contrast([1.0], None, below=0.01, above=0.01)
    with pytest.raises(ValueError, match="at least two values, not 1"):
        expected_gain([1.0], None)
    with pytest.raises(ValueError, match="only a difference above 0"):
        blocks_needed(0.0, 0.03, 2, error=0.01, missed=0.1)
