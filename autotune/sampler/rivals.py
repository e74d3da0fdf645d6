"""The other ways to search, by their names in a study file: samplers of Optuna, and a grid."""

from __future__ import annotations

import random
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from optuna import create_study
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import TrialState

from autotune.errors import SpecError
from autotune.sampler.domain import nearest
from autotune.space import key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from optuna import Study

    from autotune.space import Space

STARTUP_TRIALS = 5
"""Trials before Optuna's samplers have a say; until then configurations are drawn at random."""
DRAWS = 32

Params = dict[str, Any]


class Drawing:
    """A sampler of Optuna over the configurations of a pool: what is none of them, or was tried, is drawn again."""

    def __init__(self, sampler: Callable[[int], BaseSampler], seed: int) -> None:
        self._sampler = sampler
        self._seed = seed

    def next(self, study: Study, space: Space, untried: Mapping[str, Params]) -> Params:
        """An untried configuration; when the sampler insists on others, one at random.

        The same history and seed give the same, so that a night that was interrupted goes on as it would have.
        """
        told = len(study.get_trials(deepcopy=False))
        asked = _copied(study)
        for attempt in range(DRAWS if told >= STARTUP_TRIALS else 0):
            seed = random.Random(f"{self._seed}-{told}-{attempt}").randrange(2**32)
            for drawn in self._drawn(asked, space, seed, untried):
                if key(drawn) in untried:
                    return untried[key(drawn)]
        return random.Random(f"{self._seed}-{told}").choice(list(untried.values()))

    def _drawn(self, study: Study, space: Space, seed: int, untried: Mapping[str, Params]) -> list[Params]:
        """What one draw may mean: parameters that depend on others are there or not. The trial is forgotten."""
        study.sampler = self._sampler(seed)
        trial = study.ask()
        drawn = trial.relative_params
        study.tell(trial, state=TrialState.FAIL)
        known = next(iter(untried.values()))
        chosen = {name: nearest(drawn.get(name, values[0]), values) for name, values in space.choices.items() if values}
        chosen.setdefault("layout", drawn.get("layout", known["layout"]))
        without = {name: value for name, value in chosen.items() if name not in {"policy", "weights"}}
        return [chosen, {name: value for name, value in chosen.items() if name != "weights"}, without]


def _copied(study: Study) -> Study:
    """The same in memory: a sampler may write to the trial that it draws for."""
    copy = create_study(directions=study.directions)
    copy.add_trials(study.get_trials(deepcopy=False))
    return copy


class Shuffled:
    """All configurations in a random order."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def next(self, study: Study, space: Space, untried: Mapping[str, Params]) -> Params:  # noqa: ARG002
        """One of the untried."""
        told = len(study.get_trials(deepcopy=False))
        return random.Random(f"{self._seed}-{told}").choice(list(untried.values()))


class Grid:
    """All configurations in the order of the space."""

    def next(self, study: Study, space: Space, untried: Mapping[str, Params]) -> Params:  # noqa: ARG002
        """The first of the untried."""
        return next(iter(untried.values()))


Rival = Drawing | Shuffled | Grid


def rival(name: str, seed: int) -> Rival:
    """By its name in a study file. Raises SpecError where a package is missing for it."""
    makers: dict[str, Callable[[int], Rival]] = {
        "tpe": lambda seed: Drawing(_tpe, seed),
        "gp": lambda seed: Drawing(_gp(), seed),
        "random": Shuffled,
        "grid": lambda _: Grid(),
    }
    return makers[name](seed)


def _tpe(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=0, constant_liar=False)


def _gp() -> Callable[[int], BaseSampler]:
    if find_spec("torch") is None:
        raise SpecError('search.sampler = "gp": needs torch; pip install torch, or take another sampler')

    def make(seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return GPSampler(seed=seed, n_startup_trials=0, deterministic_objective=False)

    return make
