"""Statistics on plain sequences of numbers: pure, deterministic, and quick to import.

- `sample`: mean and quantiles, and how many values they need
- `intervals`, `binomial`, `quantiles`: where a mean, a share, a quantile lies, from independent values
- `batches`: where the mean of a series lies whose values are like their neighbours, and how many it is worth
- `steady`, `trends`: whether a series has settled, and whether it grows
- `looks`, `boundaries`, `decisions`: whether a limit is met, asked more than once
- `differences`: whether two measurements differ
- `fronts`: of points that are good in more than one way, those that no other one beats, and what they cover
- `blocks`: how far repeats scatter, and how candidates differ that ran in the same blocks

A limit on what follows: a window cannot tell of what changes more slowly than the window. The intervals of `batches`
and `trends` are as good as the benchmark `tests/benchmarks/coverage.py` says while the window is some tens of times as
long as the series remembers. Beyond that only a fresh run helps.
"""

from __future__ import annotations

from autotune.stats.batches import FEWEST_BATCHES, batch_means, effective_size, mean_and_size
from autotune.stats.binomial import chance_of_at_least, chance_of_at_most, least_requests, proportion_interval
from autotune.stats.blocks import (
    Spread,
    block_spread,
    blocks_needed,
    contrast,
    difference_found,
    expected_gain,
    repeat_spread,
)
from autotune.stats.boundaries import boundaries
from autotune.stats.decisions import Decision, decide_mean, decide_series, decide_share
from autotune.stats.differences import Difference, Side, difference, quantile_difference
from autotune.stats.fronts import corner, dominates, front, most_first, volume
from autotune.stats.intervals import Interval, mean_interval, next_interval, ready, student
from autotune.stats.looks import Looks
from autotune.stats.quantiles import QuantileInterval, quantile_interval
from autotune.stats.sample import (
    ENOUGH_FOR_A_MEAN,
    QUANTILES,
    TAIL,
    Statistic,
    enough,
    mean,
    ordered_quantile,
    percentile,
    quantile,
)
from autotune.stats.steady import mser5, steady_from
from autotune.stats.trends import Trend, trend

__all__ = [
    "ENOUGH_FOR_A_MEAN",
    "FEWEST_BATCHES",
    "QUANTILES",
    "TAIL",
    "Decision",
    "Difference",
    "Interval",
    "Looks",
    "QuantileInterval",
    "Side",
    "Spread",
    "Statistic",
    "Trend",
    "batch_means",
    "block_spread",
    "blocks_needed",
    "boundaries",
    "chance_of_at_least",
    "chance_of_at_most",
    "contrast",
    "corner",
    "decide_mean",
    "decide_series",
    "decide_share",
    "difference",
    "difference_found",
    "dominates",
    "effective_size",
    "enough",
    "expected_gain",
    "front",
    "least_requests",
    "mean",
    "mean_and_size",
    "mean_interval",
    "most_first",
    "mser5",
    "next_interval",
    "ordered_quantile",
    "percentile",
    "proportion_interval",
    "quantile",
    "quantile_difference",
    "quantile_interval",
    "ready",
    "repeat_spread",
    "steady_from",
    "student",
    "trend",
    "volume",
]
