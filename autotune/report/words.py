"""Times, configurations, figures and trials in words."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.result import TOKENS_PER_S, amount
from autotune.score import LEAST_LOAD, SURELY, UNDECIDED
from autotune.space import USUAL
from autotune.spec import Cluster

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.earlier import Warmth
    from autotune.metrics import Metrics
    from autotune.report.front import Reached
    from autotune.result import TrialResult
    from autotune.spec import StudySpec
    from autotune.standing import Standing
    from autotune.stats import Interval


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
    rest = [
        f"{name.removeprefix('env:')}={value}"
        for name, value in params.items()
        if name.partition("@")[0] not in {"layout", "num_parallel", "policy"} and USUAL.get(name) != value
    ]
    classes = [
        f"{name.partition('@')[2]} {value}" for name, value in params.items() if name.startswith("num_parallel@")
    ]
    others = f" ({', '.join(classes)})" if classes else ""
    policy = [str(params["policy"])] if "policy" in params else []
    return ", ".join([f"{params['layout']}  NUM_PARALLEL {params['num_parallel']}{others}", *policy, *rest])


def warm(found: Warmth) -> str:
    """The earlier studies that one began with, in one line; empty where there were none."""
    return "; ".join(
        f"{Path(one.folder).name} ({one.trials} trials, counts {one.weight:.0%}{_changes(one.changes)})"
        for one in found.used
    )


def _changes(words: Sequence[str]) -> str:
    return f": {', '.join(words)}" if words else ""


def flags(spec: StudySpec, source: str) -> str:
    """What the command line needs beside the study file with this text, for the study to run as it did."""
    try:
        written = tomllib.loads(source).get("cluster", {}).get("balancer", Cluster.model_fields["balancer"].default)
    except tomllib.TOMLDecodeError:
        written = ""
    return "" if written == spec.cluster.balancer else f" --balancer {spec.cluster.balancer}"


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
    if result.dropped:
        return f"dropped: {result.dropped}"
    missed = [f"{name} ({excess(name, value)})" for name, value in _missed(result) if value != UNDECIDED]
    open_ = [name for name, value in _missed(result) if value == UNDECIDED]
    told = [f"misses {', '.join(missed)}"] if missed else []
    told += [f"not known to meet {', '.join(open_)}"] if open_ else []
    return "; ".join(told) or "feasible"


def _missed(result: TrialResult) -> list[tuple[str, float]]:
    return [(name, value) for name, value in result.score.constraints.items() if value > 0]


def excess(name: str, violation: float) -> str:
    """A violation in words."""
    if name.startswith("success rate"):
        return f"{100 * violation:.1f} percentage points too low"
    if violation == SURELY:
        return "for sure"
    return f"{violation:.0%} over" if violation < 1 else f"{violation + 1:.1f} times the limit"


def distance(name: str, found: Interval) -> str:
    """How far a candidate is from one limit, on either side."""
    if found.mean > 0:
        return f"{name}: {excess(name, found.mean)}"
    if name == LEAST_LOAD:
        return f"{name}: met"
    if name.startswith("success rate"):
        return f"{name}: {-100 * found.mean:.1f} percentage points to spare"
    return f"{name}: {-found.mean:.0%} under the limit (between {-found.high:.0%} and {-found.low:.0%})"


def figure(value: float | None, unit: str = "") -> str:
    """A number in a table."""
    return "–" if value is None else amount(value, unit, 2)


def reached(made: Reached) -> str:
    """What a configuration makes of a goal, with its interval where it has one."""
    if made.value is None:
        return "–"
    return f"{made.value:.4g}" + (f" ({made.between[0]:.4g} to {made.between[1]:.4g})" if made.between else "")


def changed(made: Reached) -> str:
    """The same against the baseline; empty where there is nothing to say."""
    if made.change is None:
        return ""
    ends = made.change_between
    return f"{made.change:+.1%}" + (f" ({ends[0]:+.1%} to {ends[1]:+.1%})" if ends else "")


def percent(value: float | None) -> str:
    """A change; empty where there is none to speak of."""
    return "" if value is None else f"{value:+.0%}"


def seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def objective(value: float | None, result: TrialResult) -> str:
    """The objective of a trial with its unit."""
    return "–" if value is None else f"{amount(value, result.unit)} {result.unit}"


def does(unit: str) -> str:
    """What a configuration does with so many of that unit."""
    return "makes" if unit == TOKENS_PER_S else "takes"


def gain(best: Standing, results: Sequence[TrialResult]) -> str:
    """The best against the baseline: raw TPS is never compared across feasibility."""
    first = results[0]
    if best.results[0].fingerprint == first.fingerprint:
        return " (the baseline)"
    if not first.measured:
        return " (the baseline could not be measured)"
    broken = {violation for _, violation in _missed(first)}
    if broken == {UNDECIDED}:
        return " (the baseline is not known to meet the limits)"
    if broken or not first.score.objective or best.objective is None:
        return " (the baseline misses the limits)"
    return f" ({best.objective / first.score.objective - 1:+.0%} against the baseline)"


def share(value: float) -> str:
    """A part in percent, to a tenth where it is not whole."""
    return f"{value:.0%}" if abs(100 * value - round(100 * value)) < 0.05 else f"{value:.1%}"
