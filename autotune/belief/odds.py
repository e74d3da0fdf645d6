"""What is believed, for people: figures with their intervals, and which configurations could still win."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.belief.choice import CANDIDATES, gain
from autotune.belief.fit import TTFT_NOISE
from autotune.belief.question import JOULES
from autotune.space import key
from autotune.spec import PER_JOULE

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from autotune.belief.choice import Chooser
    from autotune.belief.mind import Mind
    from autotune.belief.question import Bound

WIDE = 1.96
"""Standard deviations to the ends of a 95 % interval."""
WORLDS = 4000
"""Draws of all that may be true, in each of which one configuration is the best."""


@dataclass(frozen=True, slots=True)
class Range:
    """A figure, between the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Believed:
    """What a trial of a configuration would measure: its intervals have room for the noise between starts."""

    params: Mapping[str, Any]
    tps: Range
    """Output, tokens/s."""
    limits: dict[str, Range]
    """Of each limit the figure that it is about, s, by its name."""
    goals: dict[str, Range]
    """Of each goal beside the output that is no limit as well: times, s, by name; `tokens_per_joule`."""
    holds: float
    """Chance that all limits hold."""
    starts: float
    """Chance that it can be measured."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A configuration that may be the best."""

    believed: Believed
    chance: float
    """That of all configurations that hold the limits it has the most output, whatever else counts."""
    tried: bool


@dataclass(frozen=True, slots=True)
class Odds:
    """What could still win."""

    contenders: tuple[Contender, ...]
    """All that were tried and could run again, and the most promising others; the likeliest first."""
    nothing: float
    """Chance that no configuration holds the limits."""


def believed(mind: Mind, params: Sequence[Mapping[str, Any]]) -> list[Believed]:
    """What is believed of some configurations; nothing before anything was measured."""
    if not mind.views or not params:
        return []
    found, bounds = mind.forecast(mind.design(params)), mind.question.bounds
    failed = {key(trial.params) for trial in mind.trials if trial.failed}
    sure = {name for trial in mind.trials if trial.measured and (name := key(trial.params)) not in failed}
    holds, spread = found.holds(), np.hypot(found.tps_sd, mind.noise)
    wide = np.hypot(found.bounds_sd, TTFT_NOISE * mind.noise)

    def of(number: int, at: int) -> Range:
        return _range(math.log(bounds[number].most) + found.bounds[number, at], wide[number, at])

    limits, goals = range(mind.question.limits), range(mind.question.limits, len(bounds))
    return [
        Believed(
            params=one,
            tps=_range(found.tps[at], spread[at]),
            limits={bounds[number].name: of(number, at) for number in limits},
            goals=dict(_goal(bounds[number], of(number, at)) for number in goals),
            holds=float(holds[at]),
            starts=1.0 if key(one) in sure else float(found.starts[at]),
        )
        for at, one in enumerate(params)
    ]


def odds(chooser: Chooser) -> Odds | None:
    """Which configurations of the whole space could be the best; None before anything was measured."""
    mind = chooser.mind
    if not mind.views:
        return None
    tried = {chooser.name(trial): trial.params for trial in mind.trials if chooser.runs(trial)}
    fresh = _promising(chooser, tried)
    names, every = [*tried, *map(key, fresh)], [*tried.values(), *fresh]
    design = mind.design(every)
    drawn = mind.draws(design, WORLDS)
    measured = {chooser.name(trial) for trial in mind.trials if trial.measured}
    failed = {chooser.name(trial) for trial in mind.trials if trial.failed}
    starts = np.where([name in measured for name in names], 1.0, mind.forecast(design).starts)
    starts = np.where([name in failed for name in names], 0.0, starts)  # it is neither tried again nor proved
    alive = np.random.default_rng(WORLDS).random(drawn.shape[1:]) < starts
    output = np.where(alive & (drawn[1 : 1 + mind.question.limits] <= 0).all(axis=0), drawn[0], -np.inf)
    winners = np.where(np.isfinite(output.max(axis=1)), output.argmax(axis=1), len(every))
    *chances, nothing = (np.bincount(winners, minlength=len(every) + 1) / len(winners)).tolist()
    found = [
        Contender(one, chance, name in tried)
        for name, one, chance in zip(names, believed(mind, every), chances, strict=True)
    ]
    return Odds(tuple(sorted(found, key=lambda one: (-one.chance, -one.believed.tps.value))), nothing)


def _promising(chooser: Chooser, tried: Container[str]) -> list[Mapping[str, Any]]:
    """Of what was not tried that which may be the best: nothing else need be drawn."""
    rough = chooser.rough
    order = np.argsort(-rough.holds() * rough.starts * gain(rough, chooser.incumbent()))
    fresh = (one for one in map(chooser.pool.__getitem__, order.tolist()) if key(one) not in tried)
    return list(islice(fresh, CANDIDATES))


def _goal(bound: Bound, found: Range) -> tuple[str, Range]:
    """Its name and figure; of energy a belief is about joules for each token."""
    if bound.metric != JOULES:
        return bound.name, found
    return PER_JOULE, Range(1 / found.value, 1 / found.high, 1 / found.low)


def _range(mean: float, sd: float) -> Range:
    return Range(*(math.exp(mean + side * WIDE * sd) for side in (0, -1, 1)))
