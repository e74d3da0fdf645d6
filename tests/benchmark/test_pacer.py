"""Arrivals are what they are called."""

from __future__ import annotations

import math
from itertools import islice, pairwise, takewhile

import pytest

from autotune.benchmark.pacer import ClosedLoop, OpenLoop

RATE = 50.0
SECONDS = 400


def gaps(seed: int) -> list[float]:
    times = [0.0, *islice(OpenLoop(RATE, seed=seed).times(), 20_000)]
    return [after - before for before, after in pairwise(times)]


@pytest.mark.parametrize("seed", range(3))
def test_counts_per_second_are_poisson(seed: int) -> None:
    counts = [0] * SECONDS
    for at in takewhile(lambda at: at < SECONDS, OpenLoop(RATE, seed=seed).times()):
        counts[int(at)] += 1
    average = sum(counts) / SECONDS
    variance = sum((count - average) ** 2 for count in counts) / (SECONDS - 1)
    assert average == pytest.approx(RATE, rel=0.03)
    assert variance / average == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("seed", range(3))
def test_gaps_are_exponential(seed: int) -> None:
    """Kolmogorov and Smirnov: the greatest distance between distributions stays below its 0.1 % bound, 1.95/√n."""
    ordered = sorted(gaps(seed))
    n = len(ordered)
    expected = [1 - math.exp(-RATE * gap) for gap in ordered]
    distance = max(max((i + 1) / n - f, f - i / n) for i, f in enumerate(expected))
    assert distance < 1.95 / math.sqrt(n)


def test_gaps_are_independent() -> None:
    found = gaps(5)
    average = sum(found) / len(found)
    lag = sum((a - average) * (b - average) for a, b in pairwise(found)) / sum((a - average) ** 2 for a in found)
    assert abs(lag) < 0.03


def test_constant_arrivals() -> None:
    assert list(islice(OpenLoop(2.5, "constant").times(), 4)) == [0.0, 0.4, 0.8, 1.2]


def test_arrivals_follow_from_the_seed() -> None:
    first = list(islice(OpenLoop(1, seed=4).times(), 20))
    assert first == list(islice(OpenLoop(1, seed=4).times(), 20))
    assert first != list(islice(OpenLoop(1, seed=5).times(), 20))


def test_users_start_spread_out() -> None:
    starts = ClosedLoop(20, seed=1).starts(10.0)
    assert len(starts) == 20
    assert all(0.5 * user <= start < 0.5 * (user + 1) for user, start in enumerate(starts))
    assert starts == ClosedLoop(20, seed=1).starts(10.0) != ClosedLoop(20, seed=2).starts(10.0)
    assert ClosedLoop(3).starts(0.0) == (0.0, 0.0, 0.0)


def test_labels() -> None:
    assert ClosedLoop(20).label == "20 users"
    assert OpenLoop(2.5).label == "2.5 requests/s"
