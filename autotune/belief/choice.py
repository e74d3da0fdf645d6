"""What to try next, and what to recommend, by belief."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtr, ndtri

from autotune.belief.front import Open, covered, improvement
from autotune.belief.kernel import Places
from autotune.space import key
from autotune.stats import corner, front, most_first

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from autotune.belief.design import Array, Design
    from autotune.belief.evidence import Evidence
    from autotune.belief.forecast import Forecast, Said
    from autotune.belief.mind import Mind

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


def gain(forecast: Forecast, best: float) -> Array:
    """Expected improvement over the best; while nothing holds the limits, what output there is over the least."""
    if np.isfinite(best):
        return improvement(forecast.tps, forecast.tps_sd, best)
    found: Array = forecast.tps - forecast.tps.min() + 0.05
    return found


def _means(forecast: Forecast) -> Array:
    """[1 + bounds, C] of output and bounds."""
    return np.concatenate([forecast.tps[None], forecast.bounds])


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
    place: Mapping[str, int]
    """In the pool, by `key`."""

    def __post_init__(self) -> None:
        self.trials, self.cap = self.mind.trials, self.mind.cap

    @cached_property
    def rough(self) -> Forecast:
        """Of the pool; of a small one it is no rougher than any other."""
        return self.mind.rough(self.design, self.where) if self._said is None else self._fine

    def fine(self, rows: NDArray[np.intp]) -> Forecast:
        """Of some of the pool, together."""
        if self._said is not None:
            return self._fine.take(rows)
        return self.mind.forecast(self.design.take(rows), together=True)

    def draws(self, rows: NDArray[np.intp], count: int) -> Array:
        """[1 + bounds, count, R] of some of the pool."""
        if self._said is not None:
            return self.mind.drawn([one.take(rows) for one in self._said], count)
        return self.mind.draws(self.design.take(rows), count)

    @cached_property
    def _said(self) -> list[Said] | None:
        """Of a small pool, once for all that is asked of it."""
        heads = 1 + len(self.mind.question.bounds)
        return self.mind.said(self.design, self.where, joint=heads) if len(self.design) <= CANDIDATES else None

    @cached_property
    def _fine(self) -> Forecast:
        assert self._said is not None
        return self.mind.mixed(self._said, self.mind.starts(self.design, self.where))

    @cached_property
    def tried(self) -> Forecast:
        """Of the trials."""
        rows = [self.place.get(key(trial.params)) for trial in self.trials]
        if self._said is None or None in rows:
            return self.mind.forecast(self.mind.design([trial.params for trial in self.trials]))
        return self._fine.take(np.array(rows, dtype=np.intp))


@dataclass
class Chooser:
    """Chooses among the configurations of a pool."""

    mind: Mind
    pool: Sequence[Mapping[str, Any]]
    today: Callable[[Mapping[str, Any]], Mapping[str, Any] | None] = lambda params: params
    """What a configuration that was tried is called in the pool; None where it cannot run any more: then it is nothing
    to beat, and not recommended."""

    def __post_init__(self) -> None:
        self._whole = self.mind.designer.design(self.pool)
        self._keys = [key(one) for one in self.pool]
        self._place = {name: at for at, name in enumerate(self._keys)}
        self._last = self._begun()

    def _begun(self) -> _Now:
        design = self._whole.capped(self.mind.cap)
        return _Now(self.mind, design, Places.of(design), self._place)

    def _now(self) -> _Now:
        """What is believed now; much of the pool stays as it was after fewer trials."""
        last, mind = self._last, self.mind
        if last.cap != mind.cap:
            self._last = self._begun()
        elif last.trials is not mind.trials:
            self._last = _Now(mind, last.design, last.where, self._place)
        return self._last

    @property
    def rough(self) -> Forecast:
        """What is roughly believed of the pool now."""
        return self._now().rough

    def runs(self, trial: Evidence) -> bool:
        """Whether what was tried could run again."""
        return self.today(trial.params) is not None

    def name(self, trial: Evidence) -> str:
        """What a trial's configuration goes by."""
        return key(self.today(trial.params) or trial.params)

    def next(
        self, cost: Callable[[Mapping[str, Any]], float] | None = None, busy: Collection[str] = ()
    ) -> Mapping[str, Any]:
        """The configuration that promises most, by itself and by what it teaches of others; one may come again.

        With a `cost`, the seconds of a trial, the one that promises most for each second. None of those that are `busy`
        by their key, if there are others.
        """
        tried = Counter(map(self.name, self.mind.trials))
        failed = {self.name(trial) for trial in self.mind.trials if trial.failed}
        barred = {name for name, times in tried.items() if times >= REPEATS} | failed | set(busy)
        free = [one for one, name in zip(self.pool, self._keys, strict=True) if name not in barred]
        if not free or not self.mind.views:  # nothing is left, or nothing was measured
            return self.recommended() or (free or self.pool)[0]
        now = self._now()
        rough = now.rough
        gained = self._gained(rough)
        open_ = np.array([name not in barred for name in self._keys])
        score = np.where(open_, rough.holds() * rough.starts * gained(rough), -1.0)
        chosen = np.argsort(-score)[:CANDIDATES]
        also = [self._place[name] for name in tried if name in self._place and name not in barred]
        rows = np.unique(np.concatenate([chosen[score[chosen] >= 0], np.array(also, dtype=np.intp)]))
        fine = now.fine(rows)
        better = np.where(self._settled(rows, fine), 0.0, gained(fine))
        value = fine.starts * (fine.holds() * better + self._taught(fine))
        if cost is not None:
            value = value / np.array([cost(self.pool[row]) for row in rows.tolist()])
        fresh = np.array([self._keys[row] not in tried for row in rows.tolist()])
        return self.pool[int(rows[np.lexsort((-rows, fresh, value))[-1]])]

    def _settled(self, rows: NDArray[np.intp], fine: Forecast) -> NDArray[np.bool_]:
        """[R] of what was measured in full: again it can only teach, as the improvement over the best would be over
        itself. And of what was dropped, while what it could not beat stands: dropping it once more is cheap, and says
        nothing new. Not so while nothing holds, or where several goals are all that counts."""
        best = self.incumbent()
        if self.mind.question.goals or not np.isfinite(best):
            return np.zeros(len(rows), dtype=bool)
        full = {self.name(trial) for trial in self.mind.trials if trial.measured and not trial.rough}
        dropped = {self.name(trial) for trial in self.mind.trials if trial.rough}
        names = [self._keys[row] for row in rows.tolist()]
        behind = (fine.tps < best).tolist()
        settled = [name in full or (name in dropped and slow) for name, slow in zip(names, behind, strict=True)]
        return np.array(settled, dtype=bool)

    def _taught(self, forecast: Forecast) -> Array | float:
        """What a trial is worth for what it says of others; of several goals nothing is known to say so."""
        return 0.0 if self.mind.question.goals else lesson(forecast, self.mind.noise)

    def incumbent(self) -> float:
        """Believed logarithm of the best output among what was tried and likely holds; -inf without one."""
        good = self._good()
        return -np.inf if good is None else float(good[0].max())

    def _good(self) -> Array | None:
        """[1 + bounds, N] what is believed of all that was tried and likely holds; None where nothing does."""
        belief = self._tried()
        if belief is None:
            return None
        forecast, measured = belief
        good = measured & (forecast.holds() >= LIKELY)
        return _means(forecast)[:, good] if good.any() else None

    # several goals

    def _wanted(self, of: Array) -> Array:
        """[goals, …] what counts, of [1 + bounds, …]: larger is better."""
        found: Array = np.stack([of[0], *(-of[1 + place] for place in self.mind.question.goals)])
        return found

    def _known(self) -> Array | None:
        """[N, goals] what is believed of these; None where nothing likely holds."""
        good = self._good()
        return None if good is None else self._wanted(good).T

    def _gained(self, rough: Forecast) -> Callable[[Forecast], Array]:
        """How much is expected of a configuration, by what is believed of it. `rough` is a forecast of the whole pool.

        With several goals what it adds to the volume that the front of those known covers, which reaches as low as the
        worst of them, and as the ends that the front may yet have.
        """
        best, known = self.incumbent(), self._known() if self.mind.question.goals else None
        if known is None:
            return lambda forecast: gain(forecast, best)
        likely = rough.holds() * rough.starts >= LIKELY
        wanted = self._wanted(_means(rough))[:, likely]
        ends = [wanted[:, place] for place in wanted.argmax(axis=1)] if likely.any() else []
        return self._expected(known, np.array([*known, *ends]))

    def _expected(self, known: Array, above: Array) -> Callable[[Forecast], Array]:
        """What is added to the front of those known, over the low corner of these points, [N, goals] each."""
        beyond = Open.over(known[front([*map(tuple, known.tolist())])], np.array(corner(above.tolist())))
        rows = [0, *(1 + place for place in self.mind.question.goals)]
        return lambda of: beyond.expected(self._wanted(_means(of)), np.stack([of.tps_sd, *of.bounds_sd])[rows])

    def _showing(self, places: Sequence[int], forecast: Forecast) -> list[int]:
        """The same trials: first those on the front, in the order that shows most of it, each configuration once."""
        once = list({self.name(self.mind.trials[at]): at for at in reversed(places)}.values())[::-1]
        points = [tuple(point) for point in self._wanted(_means(forecast)).T[once].tolist()]
        shown = [once[at] for at in most_first(points)]
        return [*shown, *(at for at in once if at not in shown)]

    def _tried(self) -> tuple[Forecast, NDArray[np.bool_]] | None:
        trials = self.mind.trials
        if not self.mind.views:
            return None
        return self._now().tried, np.array(
            [trial.measured and not trial.rough and self.runs(trial) for trial in trials]
        )

    def ranked(self) -> list[Mapping[str, Any]]:
        """Of what was tried all that likely holds the limits, the highest believed output first, each once.

        Of those that are as good as the best, as far as anyone knows, the simplest come first. With several goals the
        front comes first, in the order that shows most of it (see `autotune.stats.most_first`).
        Where nothing surely does, what likely does; where nothing likely does, what was measured to do: better than
        nothing.
        """
        belief = self._tried()
        if belief is None:
            return []
        forecast, measured = belief
        order, holds = np.argsort(-forecast.tps).tolist(), np.where(measured, forecast.holds(SLACK), 0.0)
        least = SURE if (holds >= SURE).any() else LIKELY
        places = [at for at in order if holds[at] >= least]
        if places and self.mind.question.goals:
            places = self._showing(places, forecast)
        elif places:
            top = places[0]
            near = forecast.tps[top] - max(NEAR, forecast.tps_sd[top] / 2)
            equal = [at for at in places if forecast.tps[at] >= near]
            places = [*sorted(equal, key=self._simple), *places[len(equal) :]]
        places = places or self._met()
        found = {self.name(self.mind.trials[at]): self.mind.trials[at].params for at in reversed(places)}
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
            and self.runs(trial)
            and (load := trial.at(asked.users)) is not None
            and all(dict(trial.bounds).get(bound.name, np.inf) <= bound.most for bound in asked.bounds if bound.limit)
        ]
        return [at for _, at in sorted(met, reverse=True)]

    def promise(self, tolerance: float) -> float | None:
        """The chance that anything untried beats the best of what was tried by more than a tolerance.

        With several goals: that something is better in a goal, by more than that, than each that is as good in the
        others.
        """
        tried = set(map(self.name, self.mind.trials))
        fresh = np.array([name not in tried for name in self._keys])
        if not fresh.any():
            return 0.0
        best = self.incumbent()
        if not np.isfinite(best):
            return None
        now = self._now()
        rough = now.rough
        bar = best + np.log1p(tolerance)
        known = self._known() if self.mind.question.goals else None
        if known is None:
            beating = ndtr((rough.tps - bar) / rough.tps_sd)
        else:
            known = known + np.log1p(tolerance)
            beating = self._expected(known, known)(rough)
        score = np.where(fresh, rough.holds() * rough.starts * beating, -1.0)
        rows = np.argsort(-score)[:CANDIDATES]
        rows = rows[score[rows] >= 0]
        fine = now.draws(rows, DRAWS)
        alive = np.random.default_rng(DRAWS).random(fine.shape[1:]) < rough.starts[rows]
        more = fine[0] > bar if known is None else ~covered(self._wanted(fine), known)
        better = more & (fine[1 : 1 + self.mind.question.limits] <= 0).all(axis=0) & alive
        return float(better.any(axis=1).mean())
