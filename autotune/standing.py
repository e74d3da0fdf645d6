"""The configurations of a search, best first, each with all its trials."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from autotune.spec import GOALS, OUTPUT
from autotune.stats import front

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.result import TrialResult


@dataclass(frozen=True, slots=True)
class Standing:
    """One configuration with all its trials."""

    params: dict[str, Any]
    results: tuple[TrialResult, ...]

    @property
    def objective(self) -> float | None:
        """Mean over its trials, tokens/s."""
        values = [result.score.objective for result in self.results if result.score.objective is not None]
        return fmean(values) if values else None

    @property
    def goals(self) -> dict[str, float]:
        """Where several count: the mean of each, over the trials that know all of them; empty where none does."""
        scores = [result.score for result in self.results if result.score.goals and not result.dropped]
        known = [values for score in scores if (values := score.values) is not None]
        means = map(fmean, zip(*known, strict=True))
        return dict(zip((OUTPUT, *scores[0].goals), means, strict=True)) if known else {}

    @property
    def point(self) -> tuple[float, ...]:
        """The same as logarithms, so turned that more is better."""
        goals = self.goals if all(self.goals.values()) else {}
        return tuple((1 if GOALS[name].larger else -1) * math.log(value) for name, value in goals.items())

    @property
    def violation(self) -> float:
        """Mean over its trials."""
        return fmean(result.score.violation for result in self.results)

    @property
    def feasible(self) -> bool:
        """Whether every one of its trials was."""
        return all(result.score.feasible for result in self.results)


def standings(results: Sequence[TrialResult]) -> list[Standing]:
    """Configurations, best first: the feasible by objective, then the measured by violation, then the failed.

    Trials with one fingerprint are repeats of one configuration.
    """
    groups: dict[str, list[TrialResult]] = {}
    for result in results:
        groups.setdefault(result.fingerprint, []).append(result)
    every = [Standing(group[0].params, tuple(group)) for group in groups.values()]
    return sorted(every, key=_rank)


def on_front(every: Sequence[Standing]) -> list[Standing]:
    """Those on the front where several goals count, the most of the first goal first; else none."""
    known = [(one, point) for one in every if one.feasible and (point := one.point)]
    return [known[at][0] for at in front([point for _, point in known])]


def _rank(standing: Standing) -> tuple[int, float]:
    if all(result.dropped for result in standing.results):
        return 2, standing.violation
    if standing.feasible and standing.objective is not None:
        return 0, -standing.objective
    return (1, standing.violation) if standing.objective is not None else (3, standing.violation)
