"""What to try next, and what to recommend, by belief."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtr, ndtri

from autotune.belief.kernel import Places
from autotune.space import key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from autotune.belief.design import Array, Design
    from autotune.belief.mind import Forecast, Mind

CANDIDATES = 250
REPEATS = 3
LIKELY = 0.5
SLACK, SURE = 0.03, 0.8
"""What is recommended misses no limit by more than the slack, as surely as that."""
DRAWS = 400
OUTCOMES = 15
"""Equally likely outcomes of a trial that are looked at."""
NEAR = 0.005
"""So much less output, in parts, is none."""


def improvement(mean: Array, sd: Array, best: float) -> Array:
    """Expected improvement over `best` of what is normal."""
    z = (mean - best) / sd
    found: Array = sd * (z * ndtr(z) + np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi))
    return found


def gain(forecast: Forecast, best: float) -> Array:
    """Expected improvement over the best; while nothing holds the limits, what output there is over the least."""
    if np.isfinite(best):
        return improvement(forecast.tps, forecast.tps_sd, best)
    found: Array = forecast.tps - forecast.tps.min() + 0.05
    return found


def lesson(forecast: Forecast, noise: float) -> Array:
    """[C] by how much a trial of each lifts, on the whole, the highest expected output of all that likely hold.

    The knowledge gradient: what moves together with the measured one moves with it, so that a trial may be worth most
    for what it says of others.
    """
    assert forecast.together is not None
    likely = forecast.holds() * forecast.starts >= LIKELY
    if not likely.any():
        return np.zeros(len(forecast.tps))
    mean = forecast.tps[likely]
    moves = forecast.together[likely] / np.sqrt(np.diag(forecast.together) + noise**2)
    lifted = [(mean[:, None] + z * moves).max(axis=0) for z in ndtri((np.arange(OUTCOMES) + 0.5) / OUTCOMES)]
    found: Array = np.maximum(np.mean(lifted, axis=0) - mean.max(), 0.0)
    return found


@dataclass(eq=False)
class _Now:
    """What is believed after some trials, found when it is asked for first."""

    mind: Mind
    design: Design
    """Of the pool."""
    where: Places

    def __post_init__(self) -> None:
        self.trials, self.cap = self.mind.trials, self.mind.cap

    @cached_property
    def rough(self) -> Forecast:
        """Of the pool."""
        return self.mind.rough(self.design, self.where)

    @cached_property
    def tried(self) -> Forecast:
        """Of the trials."""
        return self.mind.forecast(self.mind.design([trial.params for trial in self.trials]))


@dataclass
class Chooser:
    """Chooses among the configurations of a pool."""

    mind: Mind
    pool: Sequence[Mapping[str, Any]]

    def __post_init__(self) -> None:
        self._whole = self.mind.designer.design(self.pool)
        self._keys = [key(one) for one in self.pool]
        self._place = {name: at for at, name in enumerate(self._keys)}
        self._last = self._begun()

    def _begun(self) -> _Now:
        design = self._whole.capped(self.mind.cap)
        return _Now(self.mind, design, Places.of(design))

    def _now(self) -> _Now:
        """What is believed now; much of the pool stays as it was after fewer trials."""
        last, mind = self._last, self.mind
        if last.cap != mind.cap:
            self._last = self._begun()
        elif last.trials is not mind.trials:
            self._last = _Now(mind, last.design, last.where)
        return self._last

    def next(self, cost: Callable[[Mapping[str, Any]], float] | None = None) -> Mapping[str, Any]:
        """The configuration that promises most, by itself and by what it teaches of others; one may come again.

        With a `cost`, the seconds of a trial, the one that promises most for each second.
        """
        tried = Counter(key(trial.params) for trial in self.mind.trials)
        failed = {key(trial.params) for trial in self.mind.trials if trial.failed}
        barred = {name for name, times in tried.items() if times >= REPEATS} | failed
        free = [one for one, name in zip(self.pool, self._keys, strict=True) if name not in barred]
        if not free or not self.mind.views:  # nothing is left, or nothing was measured
            return self.recommended() or (free or self.pool)[0]
        now = self._now()
        design, rough = now.design, now.rough
        best = self.incumbent()
        open_ = np.array([name not in barred for name in self._keys])
        score = np.where(open_, rough.holds() * rough.starts * gain(rough, best), -1.0)
        chosen = np.argsort(-score)[:CANDIDATES]
        also = [self._place[name] for name in tried if name in self._place and name not in barred]
        rows = np.unique(np.concatenate([chosen[score[chosen] >= 0], np.array(also, dtype=np.intp)]))
        fine = self.mind.forecast(design.take(rows), together=True)
        value = fine.starts * (fine.holds() * gain(fine, best) + lesson(fine, self.mind.noise))
        if cost is not None:
            value = value / np.array([cost(self.pool[row]) for row in rows.tolist()])
        return self.pool[int(rows[int(np.argmax(value))])]

    def incumbent(self) -> float:
        """Believed logarithm of the best output among what was tried and likely holds; -inf without one."""
        belief = self._tried()
        if belief is None:
            return -np.inf
        forecast, measured = belief
        good = measured & (forecast.holds() >= LIKELY)
        return float(forecast.tps[good].max()) if good.any() else -np.inf

    def _tried(self) -> tuple[Forecast, NDArray[np.bool_]] | None:
        trials = self.mind.trials
        if not self.mind.views:
            return None
        return self._now().tried, np.array([trial.measured and not trial.rough for trial in trials])

    def ranked(self) -> list[Mapping[str, Any]]:
        """Of what was tried all that likely holds the limits, the highest believed output first, each once.

        Of those that are as good as the best, as far as anyone knows, the simplest come first.
        Where nothing likely does, what was measured to do: better than nothing.
        """
        belief = self._tried()
        if belief is None:
            return []
        forecast, measured = belief
        good = measured & (forecast.holds(SLACK) >= SURE)
        order = np.argsort(-forecast.tps)
        places = [at for at in order.tolist() if good[at]]
        if places:
            top = places[0]
            near = forecast.tps[top] - max(NEAR, forecast.tps_sd[top] / 2)
            equal = [at for at in places if forecast.tps[at] >= near]
            places = [*sorted(equal, key=self._simple), *places[len(equal) :]]
        places = places or self._met()
        found = {key(self.mind.trials[at].params): self.mind.trials[at].params for at in reversed(places)}
        return list(found.values())[::-1]

    def _simple(self, trial: int) -> tuple[int, int]:
        """What simple means: few instances, then few slots."""
        members = self.mind.designer.members(self.mind.trials[trial].params)
        return len(members), sum(member.slots for member in members)

    def recommended(self) -> Mapping[str, Any] | None:
        """The first of these."""
        return next(iter(self.ranked()), None)

    def _met(self) -> list[int]:
        """The trials that were measured to hold the limits, the most output first."""
        asked = self.mind.question
        met = [
            (load.tps, at)
            for at, trial in enumerate(self.mind.trials)
            if not trial.rough
            and (load := trial.at(asked.users)) is not None
            and all(dict(trial.bounds).get(bound.name, np.inf) <= bound.most for bound in asked.bounds)
        ]
        return [at for _, at in sorted(met, reverse=True)]

    def promise(self, tolerance: float) -> float | None:
        """The chance that anything untried beats the best of what was tried by more than a tolerance."""
        best = self.incumbent()
        if not np.isfinite(best):
            return None
        tried = {key(trial.params) for trial in self.mind.trials}
        fresh = np.array([name not in tried for name in self._keys])
        if not fresh.any():
            return 0.0
        now = self._now()
        design, rough = now.design, now.rough
        bar = best + np.log1p(tolerance)
        score = np.where(fresh, rough.holds() * rough.starts * ndtr((rough.tps - bar) / rough.tps_sd), -1.0)
        rows = np.argsort(-score)[:CANDIDATES]
        rows = rows[score[rows] >= 0]
        fine = self.mind.draws(design.take(rows), DRAWS)
        alive = np.random.default_rng(DRAWS).random(fine.shape[1:]) < rough.starts[rows]
        better = (fine[0] > bar) & (fine[1:] <= 0).all(axis=0) & alive
        return float(better.any(axis=1).mean())
