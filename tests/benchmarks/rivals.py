"""Who searches in the benchmark of nights: told all trials so far, each says what to try and what to recommend."""

from __future__ import annotations

import math
import random
import warnings
from typing import TYPE_CHECKING, Any, Protocol

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from autotune.belief.choice import Chooser
from autotune.belief.design import Designer
from autotune.belief.evidence import evidence
from autotune.belief.mind import Mind
from autotune.belief.question import Question
from autotune.space import key
from autotune.study import standings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.result import TrialResult
    from tests.benchmarks.clusters.cluster import Cluster

    Params = Mapping[str, Any]


class Rival(Protocol):
    """A way to search."""

    def next(self, results: Sequence[TrialResult]) -> Params | None:
        """What to try; None when it wants nothing more."""

    def recommended(self, results: Sequence[TrialResult]) -> Params | None:
        """What it would install now."""


def best_measured(results: Sequence[TrialResult]) -> Params | None:
    """The feasible configuration that measured the most."""
    first = next(iter(standings(results)), None)
    return first.params if first is not None and first.feasible else None


class Random:
    """Draws without replacement."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._order = list(cluster.configurations)
        random.Random(f"{seed} random").shuffle(self._order)

    def next(self, results: Sequence[TrialResult]) -> Params | None:
        return self._order[len(results) % len(self._order)]

    def recommended(self, results: Sequence[TrialResult]) -> Params | None:
        return best_measured(results)


class Thumb:
    """The rule of thumb alone: measured once."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._rule = cluster.rule_of_thumb

    def next(self, results: Sequence[TrialResult]) -> Params | None:
        return self._rule if len(results) < 2 else None

    def recommended(self, results: Sequence[TrialResult]) -> Params | None:
        return self._rule


class Tpe:
    """Optuna's TPE, as black-box searches use it."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=5)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._known = {key(params): params for params in cluster.configurations}
        self._choices = cluster.space.choices
        self._random = random.Random(f"{seed} tpe")
        self._told = 0
        self._domain = {
            name: IntDistribution(int(min(values)), int(max(values)), log=True)
            if name == "num_parallel"
            else CategoricalDistribution(values)
            for name, values in self._choices.items()
        }

    def next(self, results: Sequence[TrialResult]) -> Params | None:
        for result in results[self._told :]:
            self._study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE if result.measured else TrialState.PRUNED,
                    value=result.score.objective,
                    params=result.params,
                    distributions={name: self._domain[name] for name in result.params},
                    constraints=result.score.constraints,
                )
            )
        self._told = len(results)
        tried = {key(result.params) for result in results}
        for _ in range(20):
            drawn = self._draw()
            if drawn in self._known and drawn not in tried:
                return self._known[drawn]
        return self._known[self._random.choice(sorted(self._known.keys() - tried))]

    def _draw(self) -> str:
        trial = self._study.ask()
        drawn: dict[str, Any] = {}
        for name, values in self._choices.items():
            if isinstance(distribution := self._domain[name], IntDistribution):
                number = trial.suggest_int(name, distribution.low, distribution.high, log=True)
                drawn[name] = min(values, key=lambda value: abs(math.log(int(value) / number)))
            else:
                drawn[name] = trial.suggest_categorical(name, list(values))
        self._study.tell(trial, state=TrialState.FAIL)
        if key(drawn) not in self._known:
            drawn.pop("policy", None)
        return key(drawn)

    def recommended(self, results: Sequence[TrialResult]) -> Params | None:
        return best_measured(results)


class Informed:
    """The search of autotune."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        question = Question.of(cluster.spec, cluster.inventory, cluster.facts)
        assert question is not None
        self._question = question
        designer = Designer.of(cluster.space, len(cluster.inventory.devices))
        self.chooser = Chooser(Mind(question, designer), list(cluster.configurations))
        self._rule = cluster.rule_of_thumb
        self._told = -1

    def _learn(self, results: Sequence[TrialResult]) -> None:
        if len(results) == self._told:
            return
        self._told = len(results)
        self.chooser.mind.learn([evidence(result, self._question) for result in results])

    def next(self, results: Sequence[TrialResult]) -> Params | None:
        if len(results) < 2:
            return self._rule
        self._learn(results)
        return self.chooser.next()

    def recommended(self, results: Sequence[TrialResult]) -> Params | None:
        self._learn(results)
        return self.chooser.recommended()


RIVALS: dict[str, Any] = {"random": Random, "tpe": Tpe, "thumb": Thumb, "informed": Informed}
