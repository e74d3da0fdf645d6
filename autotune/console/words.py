"""Times, configurations and verdicts in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.score import UNDECIDED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.metrics import Metrics
    from autotune.study import Standing
    from autotune.trial import TrialResult

SIMULATED = "SIMULATED: figures of a played host, not of this one"


def span(seconds: float | None) -> str:
    """A length of time for people: "1 h 05 min", "3 min 20 s", "12 s"."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"


def configuration(params: Mapping[str, Any]) -> str:
    """Parameters in one line, the usual ones left out."""
    usual = {"flash_attention": "auto", "kv_cache_type": "f16"}
    rest = [
        f"{name.removeprefix('env:')}={value}"
        for name, value in params.items()
        if name not in {"layout", "num_parallel", "policy"} and usual.get(name) != value
    ]
    policy = [str(params["policy"])] if "policy" in params else []
    return ", ".join([f"{params['layout']}  NUM_PARALLEL {params['num_parallel']}", *policy, *rest])


def figures(metrics: Metrics) -> str:
    """One level in one line."""
    ttft = metrics.ttft_s
    return (
        f"{metrics.output_tps:.1f} tokens/s,"
        f" TTFT mean {seconds(ttft.mean)} p50 {seconds(ttft.p50)} p95 {seconds(ttft.p95)},"
        f" {metrics.success_rate:.0%} of {metrics.requests} ok"
    )


def verdict(result: TrialResult) -> str:
    """What became of a trial, in one line."""
    if not result.measured:
        return f"infeasible ({result.reason}): {result.message}"
    missed = [f"{name} {_excess(name, value)}" for name, value in result.score.constraints.items() if value > 0]
    return f"misses {', '.join(missed)}" if missed else "feasible"


def _excess(name: str, violation: float) -> str:
    """A violation in words."""
    if name.startswith("success rate"):
        return f"({100 * violation:.1f} percentage points too low)"
    if violation == UNDECIDED:
        return "(too few requests to say)"
    return f"({violation:.0%} over)" if violation < 1 else f"({violation + 1:.1f} times the limit)"


def seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def gain(best: Standing, results: Sequence[TrialResult]) -> str:
    """The best against the baseline: raw TPS is never compared across feasibility."""
    first = results[0]
    if best.results[0].fingerprint == first.fingerprint:
        return " (the baseline)"
    if not first.measured:
        return " (the baseline could not be measured)"
    if not first.score.feasible or not first.score.objective or best.objective is None:
        return " (the baseline misses the limits)"
    return f" ({best.objective / first.score.objective - 1:+.0%} against the baseline)"
