"""Where the steady part of a series begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.stats.sample import mean

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCH = 5
"""Observations that MSER-5 takes together."""
LEFT = 10
"""Batches that are never cut off: a few are alike by chance, and more often so where neighbours are alike."""


def mser5(series: Sequence[float]) -> int:
    """How many observations to drop from the start so that the mean of the rest is the most precise.

    The rule is the marginal standard error of batches of five: of all d, the one with the least
    Σ(zᵢ − z̄)² / (k − d)² over the batch means z after the first d of k. The least d where several are as good.

    The usual reading: a result beyond half of the series means that no steady part was seen yet. `steady_from` applies
    it. Sources: White, "An Effective Truncation Heuristic for Bias Reduction in Simulation Output" (Simulation 69,
    1997); White, Cobb and Spratt, "A Comparison of Five Steady-State Truncation Heuristics for Simulation" (Winter
    Simulation Conference, 2000). ValueError for fewer than 50 observations.
    """
    count = len(series) // BATCH
    if count < LEFT:
        raise ValueError(f"MSER-5 needs at least {BATCH * LEFT} observations, not {len(series)}")
    batches = [mean(series[BATCH * number : BATCH * (number + 1)]) for number in range(count)]
    best, least = 0, float("inf")
    centre = squares = 0.0
    for kept, batch in enumerate(reversed(batches), start=1):
        # Welford's update: one pass, and exactly 0 while nothing varies
        away = batch - centre
        centre += away / kept
        squares += away * (batch - centre)
        if kept >= LEFT and squares / kept**2 <= least:
            best, least = count - kept, squares / kept**2
    return BATCH * best


def steady_from(series: Sequence[float]) -> int | None:
    """The first observation of the steady part by MSER-5, counted from 0; None while none was seen.

    None where more than half would have to go, and for a series of fewer than 100 observations, half of which is too
    little to tell. Now and then none is seen in a steady series: one of 300 observations that remembers ten of them is
    refused 9 times in 100, one of 600 twice. It never raises.
    """
    if len(series) < 2 * BATCH * LEFT:
        return None
    start = mser5(series)
    return start if 2 * start <= len(series) else None
