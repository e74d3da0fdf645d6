"""What the search foretold of its trials, held against what was measured."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from autotune.belief import Range
from autotune.result import TOKENS_PER_S
from autotune.stats import chance_of_at_least

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from autotune.result import TrialResult
    from autotune.spec import Limit, StudySpec

EXPECTED = 0.95
"""Part of the figures that lies within the intervals, if these are right."""
UNLIKELY = 0.01
"""A chance of so few within them below which they are not right: the model contradicts the data."""

_RANGE, _RANGES = TypeAdapter(Range), TypeAdapter(dict[str, Range])


@dataclass(frozen=True, slots=True)
class Held:
    """One figure that was foretold, and what came."""

    name: str
    """tokens/s, or a limit as a score names it."""
    foretold: Range
    measured: float | None
    """None where the trial was not measured in full."""

    @property
    def inside(self) -> bool | None:
        """Whether it came within the interval; None where nothing came."""
        return None if self.measured is None else self.foretold.low <= self.measured <= self.foretold.high

    @property
    def error(self) -> float | None:
        """Logarithm of what came over what was foretold."""
        return math.log(self.measured / self.foretold.value) if self.measured else None


@dataclass(frozen=True, slots=True)
class Foretold:
    """What was foretold of one trial."""

    number: int
    params: Mapping[str, Any]
    figures: tuple[Held, ...]
    """The output, then what the limits are about."""
    holds: float
    """Chance that all limits hold, as it was believed."""
    starts: float
    """Chance that it could be measured."""
    trust: str
    """How far the law was trusted."""


@dataclass(frozen=True, slots=True)
class Check:
    """How well one figure was foretold over all trials: a posterior predictive check."""

    name: str
    n: int
    inside: int
    error: float
    """Mean size of the logarithm of what came over what was foretold."""

    @property
    def chance(self) -> float:
        """Of so few within their intervals, or fewer, if these were right and no trial minded the others."""
        return chance_of_at_least(self.n - self.inside, self.n, 1 - EXPECTED)

    @property
    def contradicted(self) -> bool:
        """Whether the data contradict the model."""
        return self.chance < UNLIKELY


def foretold(
    spec: StudySpec, events: Iterable[Mapping[str, Any]], results: Iterable[TrialResult]
) -> tuple[Foretold, ...]:
    """All that was foretold of trials that are over; the last time counts, where that was more than once.

    Events without limits are of older versions, whose intervals had no room for noise; what is damaged is left out.
    """
    told = {event.get("number"): event for event in events if event["what"] == "foretold" and "limits" in event}
    found = list[Foretold]()
    for result in results:
        with suppress(KeyError, ValueError, TypeError):
            found.append(_held(spec, told[result.number], result))
    return tuple(found)


def _held(spec: StudySpec, told: Mapping[str, Any], result: TrialResult) -> Foretold:
    """Raises KeyError, ValueError, TypeError for what is damaged."""
    whole = result.measured and not result.dropped
    output = _RANGE.validate_python({"value": told["tps"], "low": told["low"], "high": told["high"]})
    limits = _RANGES.validate_python(told["limits"])
    waits = {_named(spec, limit): _measured(spec, limit, result) for limit in spec.objective.limits}
    return Foretold(
        number=result.number,
        params=result.params,
        figures=(
            Held(TOKENS_PER_S, output, result.score.objective if whole else None),
            *(Held(name, found, waits.get(name) if whole else None) for name, found in limits.items()),
        ),
        holds=float(told["holds"]),
        starts=float(told["starts"]),
        trust=str(told["trust"]),
    )


def _named(spec: StudySpec, limit: Limit) -> str:
    """As a score names its constraint."""
    return f"{limit.metric} {limit.statistic} at {spec.level(limit.at).label}"


def _measured(spec: StudySpec, limit: Limit, result: TrialResult) -> float | None:
    metrics = result.levels.get(spec.level(limit.at).label)
    return None if metrics is None else metrics.statistic(limit.metric, limit.statistic)


def checks(every: Sequence[Foretold]) -> list[Check]:
    """One for each figure of which anything came."""
    known: dict[str, list[Held]] = {}
    for one in (figure for trial in every for figure in trial.figures):
        if one.error is not None:
            known.setdefault(one.name, []).append(one)
    return [
        Check(
            name,
            len(figures),
            sum(bool(one.inside) for one in figures),
            fmean(abs(one.error or 0.0) for one in figures),
        )
        for name, figures in known.items()
    ]


def trusted(every: Sequence[Foretold]) -> list[tuple[str, int]]:
    """How far the law was trusted, and for how many trials; the longest first."""
    return Counter(trial.trust for trial in every).most_common()
