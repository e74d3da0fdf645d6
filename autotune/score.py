"""Metrics → objective, constraints, cautions. A constraint is fulfilled at 0 or below (Optuna's convention)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autotune.benchmark.phases import Look
from autotune.records import Outcome
from autotune.stats import enough

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.metrics import Metrics
    from autotune.spec import Goal, Limit, Objective, StudySpec

UNDECIDED = 0.001
"""Violation of a limit whose statistic has too few requests: never feasible, and not far from it either."""
SURELY = 0.002
"""Violation of a limit that is surely missed although the figures are within it: those that count are not yet there."""
LEAST_LOAD = "limits at the least load"
"""The constraint of a trial that searched its capacity."""
BEHIND = "behind the best"
"""The constraint of a candidate that was dropped because it cannot beat the best so far."""
TWOFOLD = 1.0
"""Violation of a limit that a warm-up has missed: it ends only where that is twice as much as is allowed, or more."""
FAILED = 10.0
"""Violation of a configuration that could not be measured: worse than missing any limit tenfold."""


@dataclass(frozen=True, slots=True)
class Score:
    """How good one trial was."""

    objective: float | None
    """Output TPS of the whole cluster at the objective's level, tokens/s, or its capacity, users or requests/s; None
    when nothing could be measured."""
    constraints: dict[str, float]
    """Relative violation of each limit: 0.5 is half too much, −0.5 is half of what is allowed."""
    cautions: tuple[str, ...] = ()
    goals: dict[str, float | None] = field(default_factory=dict)
    """What counts beside the objective, by the names of the study file and in their units; None where nobody knows it,
    as of a percentile of too few requests. Empty where there is one answer."""

    @property
    def values(self) -> tuple[float, ...] | None:
        """The objective, then the other goals; None where one is not known."""
        every = (self.objective, *self.goals.values())
        known = tuple(value for value in every if value is not None)
        return known if len(known) == len(every) else None

    @property
    def violation(self) -> float:
        """Sum of all violations."""
        return sum(value for value in self.constraints.values() if value > 0)

    @property
    def feasible(self) -> bool:
        """Whether every constraint holds."""
        return self.objective is not None and self.violation == 0


def judge(
    spec: StudySpec,
    levels: Mapping[str, Metrics],
    looks: Mapping[str, Look] | None = None,
    per_joule: float | None = None,
) -> Score:
    """The score of a trial from its metrics at each level, and the last look at each window, by level label.

    `per_joule` is how many tokens its load at the objective's level made of a joule.

    One that was dropped is judged by what it has: levels that were not loaded say nothing, nor does a limit that was
    not decided by then, and where it was behind the best it is infeasible by that.
    """
    constraints: dict[str, float] = {}
    cautions: list[str] = []
    looks = looks or {}
    out = any(look.dropped for look in looks.values())
    for limit in spec.objective.limits:
        label = spec.level(limit.at).label
        if label not in levels:
            continue
        name = f"{limit.metric} {limit.statistic} at {label}"
        look = looks.get(label, Look())
        violation = _decided(limit, levels[label], look)
        if out and violation == UNDECIDED and look.limits.get(f"{limit.metric} {limit.statistic}") != "violated":
            continue
        constraints[name] = violation
        if _violation(limit, levels[label]) == UNDECIDED and not out:
            cautions.append(_undecided(name, limit, levels[label]))
    for label, metrics in levels.items():
        look = looks.get(label, Look())
        if not look.dropped or _ended(metrics):
            constraints[f"success rate at {label}"] = _missing_success(spec.objective, metrics)
        if label in looks and spec.level(label).users is None:
            constraints[f"overload at {label}"] = 0.0 if look.overload is None else min(FAILED, look.overload.over)
        if look.beaten:
            constraints[BEHIND] = max(1 - (look.part or 0.0), UNDECIDED)
    at = spec.level(None).label
    goals = {goal.name: _reached(goal, levels[at], per_joule) for goal in spec.objective.goals}
    if not out:
        cautions += [_unknown(goal, at, levels[at]) for goal in spec.objective.goals if goals[goal.name] is None]
    return Score(levels[at].output_tps, constraints, tuple(cautions), goals)


def _reached(goal: Goal, metrics: Metrics, per_joule: float | None) -> float | None:
    """What a load makes of a goal; None where too little was seen to say."""
    if goal.larger:
        return per_joule
    waiting = goal.metric == "ttft_s" and metrics.ttft_waiting_s
    known: float | None = getattr(metrics, goal.metric).known(goal.statistic)
    return None if waiting else known


def _unknown(goal: Goal, at: str, metrics: Metrics) -> str:
    name = f"{goal.name} at {at}"
    return f"{name}: the GPUs told no energy" if goal.larger else _undecided(name, goal, metrics)


def _decided(limit: Limit, metrics: Metrics, look: Look) -> float:
    """The violation of a limit, also where the load ended for it: its few figures may then be within the limit."""
    found = _violation(limit, metrics)
    if look.limits.get(f"{limit.metric} {limit.statistic}") != "violated":
        return found
    return max(found, TWOFOLD if look.stage == "warm-up" else SURELY)


def _ended(metrics: Metrics) -> int:
    """Requests of a window that came to an end by themselves."""
    return metrics.requests - metrics.outcomes[Outcome.CUT_OFF.value]


def judge_capacity(spec: StudySpec, low: float, steps: Mapping[str, Metrics]) -> Score:
    """The score of a trial that searched its capacity, from its steps by level label; `low` surely holds, 0 is none.

    Where not even the least load holds, it is infeasible by what that load misses most.
    """
    least = min(steps.values(), key=lambda metrics: metrics.in_flight)
    missed = max([_missing_success(spec.objective, least), *(_violation(one, least) for one in spec.objective.limits)])
    return Score(low, {LEAST_LOAD: 0.0 if low else max(missed, UNDECIDED)})


def failed(reason: str) -> Score:
    """The score of a configuration that could not be measured."""
    return Score(None, {reason: FAILED})


def _violation(limit: Limit, metrics: Metrics) -> float:
    value = metrics.statistic(limit.metric, limit.statistic)
    if value is None:
        return UNDECIDED
    waiting = limit.metric == "ttft_s" and metrics.ttft_waiting_s  # their true figures are larger, and not known
    decided = not waiting and getattr(metrics, limit.metric).decided(limit.statistic)
    return value / limit.max - 1 if decided else max(value / limit.max - 1, UNDECIDED)


def _undecided(name: str, limit: Limit | Goal, metrics: Metrics) -> str:
    found, needed = getattr(metrics, limit.metric).n, enough(limit.statistic)
    if found < needed:
        return f"{name}: {found} requests are too few to say ({needed} are needed): lengthen window_max_s"
    return f"{name}: {len(metrics.ttft_waiting_s)} requests never got a first text: lengthen drain_s"


def _missing_success(objective: Objective, metrics: Metrics) -> float:
    return objective.min_success_rate - metrics.success_rate
