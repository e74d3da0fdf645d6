"""The configurations of a search, best first, each with all its trials."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import TYPE_CHECKING, Any

from autotune.score import UNDECIDED
from autotune.space import key
from autotune.spec import GOALS, OUTPUT
from autotune.stats import front, most_first

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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

    @property
    def undecided(self) -> bool:
        """Whether a window of the full length had too few requests for a limit's statistic: the next will, too."""
        return any(UNDECIDED in one.score.constraints.values() for one in self.results if not one.dropped)


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


def provable(results: Sequence[TrialResult], ranked: Sequence[Mapping[str, Any]] | None = None) -> Iterator[Standing]:
    """The configurations of a search besides the baseline that likely hold the limits, best first.

    By belief, where the search has one and `ranked` is what was tried in its order: the best single measurement is the
    luckiest. Else the feasible by what was measured; of several goals the front first, as it is in `ranked`, too.
    """
    standing = standings(results)
    if ranked is None:
        front = on_front(standing)
        shown = (front[at] for at in most_first([one.point for one in front]))
        rest = (one for one in standing if one.feasible and one not in front)
        found: Iterator[Standing] = chain(shown, rest)
    else:
        known = {key(one.params): one for one in standing if all(result.measured for result in one.results)}
        found = (known[name] for name in map(key, ranked) if name in known)
    return (one for one in found if not one.undecided and one.results[0].fingerprint != results[0].fingerprint)


def _rank(standing: Standing) -> tuple[int, float]:
    if all(result.dropped for result in standing.results):
        return 2, standing.violation
    if standing.feasible and standing.objective is not None:
        return 0, -standing.objective
    return (1, standing.violation) if standing.objective is not None else (3, standing.violation)
