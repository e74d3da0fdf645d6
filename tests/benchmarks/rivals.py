"""Who searches in the benchmark of nights: told all trials so far, each says what to try and what to recommend."""

from __future__ import annotations

import math
import random
import warnings
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from scipy.special import ndtr

from autotune.belief.choice import Chooser
from autotune.belief.design import Designer
from autotune.belief.evidence import evidence
from autotune.belief.front import improvement
from autotune.belief.kernel import Hypothesis
from autotune.belief.mind import Mind
from autotune.belief.question import Question
from autotune.space import key
from autotune.standing import standings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.belief.design import Array
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


class Lawful(Informed):
    """The same without all that is learned beside the law: no bends, no effects, no device of its own, nothing left."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        super().__init__(cluster, seed)
        mind = Mind(self._question, self.chooser.mind.designer, (Hypothesis("alone", 1.0, 1e-3, 1e-3, 1e-3, 1.5),))
        self.chooser, law = Chooser(mind, list(cluster.configurations)), mind.law
        for name in (
            "curve",
            "shape",
            "shape_prompt",
            "policy",
            "knob",
            "knob_batch",
            "knob_prompt",
            "device",
            "host2",
        ):
            law.sd[law.at[name]] = 1e-3


class Physical:
    """A Gaussian process over physical features, from the same first two trials; it has no law."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster, self._pool = cluster, list(cluster.configurations)
        self._rule = cluster.rule_of_thumb
        self._features = self._of(self._pool)
        self._places = {key(one): at for at, one in enumerate(self._pool)}

    def _of(self, every: Sequence[Params]) -> Array:
        """[C, F] octaves of instances, of those that share, of devices each, of slots, and of users beyond them."""
        cluster = self._cluster
        design = Designer.of(cluster.space, len(cluster.inventory.devices)).design(every)
        total = 2.0 ** (design.shape[:, 0] + design.shape[:, 3])
        busy = np.minimum(total, cluster.users)
        more = np.stack([np.log2(busy), np.log2(np.maximum(total / cluster.users, 1))], axis=1)
        return np.concatenate([design.shape, more, 0.7 * design.policies, design.knobs], axis=1)

    def next(self, results: Sequence[TrialResult]) -> Params | None:
        if len(results) < 2:
            return self._rule
        tried = {key(result.params) for result in results}
        (tps, tps_sd), (wait, wait_sd) = self._believed(results, self._features)
        seen, _ = self._believed(results, self._of([result.params for result in results]))[0]
        met = [value for value, result in zip(seen, results, strict=True) if result.score.feasible]
        holds = ndtr(-wait / wait_sd)
        value = holds * improvement(tps, tps_sd, max(met)) if met else holds
        value[[self._places[name] for name in tried if name in self._places]] = -1
        return self._pool[int(np.argmax(value))]

    def recommended(self, results: Sequence[TrialResult]) -> Params | None:
        return best_measured(results)

    def _believed(self, results: Sequence[TrialResult], where: Array) -> list[tuple[Array, Array]]:
        measured = [result for result in results if result.measured]
        at = self._of([result.params for result in measured])
        label, limit = f"{self._cluster.users} users", self._cluster.limit_s
        tps = np.log([result.levels[label].output_tps for result in measured])
        wait = np.log([(result.levels[label].ttft_s.p95 or limit) / limit for result in measured])
        return [_process(at, values, where, noise) for values, noise in ((tps, 0.03), (wait, 0.06))]


def _process(at: Array, values: Array, where: Array, noise: float) -> tuple[Array, Array]:
    """Mean and standard deviation of a Gaussian process, its scales by the marginal likelihood."""
    centre, best = values.mean(), -math.inf
    chosen = (1.0, 1.5)
    for amplitude, length in product((0.1, 0.3, 0.6, 1.2, 2.4), (0.7, 1.5, 3.0, 6.0)):
        covariance = amplitude**2 * _alike(at, at, length) + noise**2 * np.eye(len(at))
        sign, log = np.linalg.slogdet(covariance)
        evidence = -0.5 * (values - centre) @ np.linalg.solve(covariance, values - centre) - 0.5 * sign * log
        if evidence > best:
            best, chosen = float(evidence), (amplitude, length)
    amplitude, length = chosen
    inverse = np.linalg.inv(amplitude**2 * _alike(at, at, length) + noise**2 * np.eye(len(at)))
    between = amplitude**2 * _alike(where, at, length)
    spread = amplitude**2 - ((between @ inverse) * between).sum(axis=1)
    return centre + between @ (inverse @ (values - centre)), np.sqrt(np.maximum(spread, 1e-6))


def _alike(a: Array, b: Array, length: float) -> Array:
    far = math.sqrt(5) * np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2)) / length
    found: Array = (1 + far + far * far / 3) * np.exp(-far)
    return found


RIVALS: dict[str, Any] = {
    "informed": Informed,
    "law": Lawful,
    "physical": Physical,
    "tpe": Tpe,
    "random": Random,
    "thumb": Thumb,
}
