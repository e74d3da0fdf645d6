"""Two sets of figures held against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from autotune.metrics.summary import CONFIDENCE
from autotune.records import Outcome
from autotune.stats import QuantileInterval, proportion_interval, quantile_difference

if TYPE_CHECKING:
    from autotune.metrics.summary import Summary
    from autotune.metrics.values import Metrics
    from autotune.stats import Difference

COMPARED = ("output_tps", "success_rate", "input_tokens", "output_tokens", "in_flight", "generating")
COMPARED_TIMES = ("ttft_s", "tpot_s", "chunk_gap_s", "e2e_s", "queue_s")


def figures(metrics: Metrics) -> dict[str, float | None]:
    """The figures worth comparing, by name: "output_tps", "ttft_s.p95", …"""
    plain: dict[str, float | None] = {name: getattr(metrics, name) for name in COMPARED}
    for name in COMPARED_TIMES:
        summary: Summary = getattr(metrics, name)
        plain |= {f"{name}.{statistic}": getattr(summary, statistic) for statistic in ("mean", "p50", "p95", "p99")}
    return plain


def compare(before: Metrics, after: Metrics) -> dict[str, float | None]:
    """The change of each figure in percent of what it was; None where one of them is missing, or it was 0."""
    old, new = figures(before), figures(after)
    return {name: _change(old[name], new[name]) for name in old}


def _change(before: float | None, after: float | None) -> float | None:
    return (after - before) / before * 100 if before and after is not None else None


CENSORED = Outcome.CUT_OFF.value
"""Those that were cut off say nothing of success."""

Verdict = Literal["better", "worse", "not distinguishable"]
MORE_IS_BETTER = ("output_tps", "success_rate")


def difference(before: Metrics, after: Metrics, name: str) -> Difference | None:
    """After less before of a figure, with its 95 % interval; None where one of them has no interval.

    Each window is one measurement: what changes from one start to the next is not in its interval (see `confirm`).
    """
    old, new = _around(before, name), _around(after, name)
    return quantile_difference(new, old) if old and new else None


def verdict(before: Metrics, after: Metrics, name: str) -> Verdict | None:
    """Whether a figure became better or worse; None where nothing can be said, or it is neither good nor bad."""
    found = difference(before, after, name)
    if found is None:
        return None
    if found.side == "not distinguishable":
        return found.side
    return "better" if (found.side == "higher") is (name in MORE_IS_BETTER) else "worse"


def _around(metrics: Metrics, name: str) -> QuantileInterval | None:
    """A figure between the ends of its interval."""
    if name == "output_tps":
        value, ends, n = metrics.output_tps, metrics.output_tps_range, metrics.requests
    elif name == "success_rate" and (ended := sum(metrics.outcomes.values()) - metrics.outcomes[CENSORED]):
        between = proportion_interval(round(metrics.success_rate * ended), ended, CONFIDENCE)
        value, ends, n = metrics.success_rate, (between.low, between.high), ended
    elif "." in name:
        sample, statistic = name.split(".")
        summary: Summary = getattr(metrics, sample)
        value, ends, n = getattr(summary, statistic), summary.intervals.get(statistic), summary.n
    else:
        return None
    return QuantileInterval(value, *ends, n) if ends is not None and value is not None else None
