"""Shares of requests: exact, from the binomial distribution.

`n` may be less than what was counted, and no whole number: what `effective_size` says the requests are worth. The
violations are then less by the same part. The binomial distribution is continued by the incomplete beta function, as
Korn and Graubard do in "Confidence Intervals for Proportions with Small Expected Number of Positive Counts Estimated
from Survey Data" (Survey Methodology 24, 1998).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from autotune.stats.intervals import Interval, tail

if TYPE_CHECKING:
    from collections.abc import Callable


def chance_of_at_most(violations: float, n: float, share: float) -> float:
    """The chance of so many violations or fewer in `n` requests that violate by `share` each, none minding the others.

    Small: the true share is less. ValueError unless 0 ≤ violations ≤ n and 0 ≤ share < 1.
    """
    _check(violations, n, share)
    if violations == n:
        return 1.0
    return float(_beta()(n - violations, violations + 1, 1 - share))


def chance_of_at_least(violations: float, n: float, share: float) -> float:
    """The chance of so many violations or more. Small: the true share is more. Otherwise as `chance_of_at_most`."""
    _check(violations, n, share)
    if violations == 0:
        return 1.0
    return float(_beta()(violations, n - violations + 1, share))


def least_requests(violations: int, allowed_share: float, level: float) -> int:
    """The least number of requests of which so many may violate, for a one-sided test to say that the share is met.

    With 0.05 and 0.05, p95 at 95 %: 59 with no violation, 93 with one; the table that MLPerf's early stopping goes by
    (Reddi et al., "MLPerf Inference Benchmark", ISCA 2020). ValueError unless share and level are between 0 and 1.
    """
    if not 0 < allowed_share < 1 or not 0 < level < 1:
        raise ValueError(f"a share and a level are between 0 and 1, not {allowed_share} and {level}")
    below, above = violations, violations + 1
    while chance_of_at_most(violations, above, allowed_share) > level:
        below, above = above, 2 * above
    while above - below > 1:
        middle = (below + above) // 2
        if chance_of_at_most(violations, middle, allowed_share) > level:
            below = middle
        else:
            above = middle
    return above


def proportion_interval(successes: int, n: int, confidence: float) -> Interval:
    """Where the chance of a success lies, when `successes` of `n` trials were one; between 0 and 1.

    Exact: the chance of an interval beside the truth is never more than it says, and often less. Source: Clopper and
    Pearson, "The Use of Confidence or Fiducial Limits Illustrated in the Case of the Binomial" (Biometrika 26, 1934).
    ValueError for no trials, or more successes than trials.
    """
    if n < 1:
        raise ValueError("a proportion of nothing")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials")
    from scipy.special import betaincinv  # noqa: PLC0415

    beyond, failures = tail(confidence), n - successes
    low = float(betaincinv(successes, failures + 1, beyond)) if successes else 0.0
    high = float(betaincinv(successes + 1, failures, 1 - beyond)) if failures else 1.0
    return Interval(successes / n, low, high, n)


@cache
def _beta() -> Callable[..., Any]:
    """The regularized incomplete beta function."""
    from scipy.special import betainc  # noqa: PLC0415 - a quarter of a second, which only who asks shall pay

    return betainc


def _check(violations: float, n: float, share: float) -> None:
    if not 0 <= violations <= n:
        raise ValueError(f"{violations} violations in {n} requests")
    if not 0 <= share < 1:
        raise ValueError(f"a share of violations is between 0 and 1, not {share}")
