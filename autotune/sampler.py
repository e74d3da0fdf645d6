"""Optuna lives here, and in nothing else: what to try next, learned from what was tried.

Our store is the truth. Optuna's study is brought in line with it at every start, and keeps one trial of its own for
each of ours, with the same number.
"""

from __future__ import annotations

import contextlib
import math
import random
import warnings
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from autotune.errors import StorageError
from autotune.space import key

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from autotune.space import Space
    from autotune.trial import TrialResult

STARTUP_TRIALS = 5
"""Trials before TPE has a say; until then configurations are drawn at random."""
_DRAWS = 32
ORDERED = ("num_parallel", "threads", "num_batch")
"""Parameters that are numbers; the others are categories."""


class Sampler:
    """Asks Optuna what to try, and tells it what came of it."""

    def __init__(self, path: Path, name: str, seed: int, space: Space, baseline: Mapping[str, Any]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._path = path
        self._name = name
        self._seed = seed
        self._choices = {
            name: tuple(dict.fromkeys([*values, *_own(baseline, name)])) for name, values in space.choices.items()
        }
        self._domain = {name: _distribution(name, values) for name, values in self._choices.items()}
        self._tried: set[str] = set()
        self.limit(space)

    def limit(self, space: Space) -> None:
        """Propose only configurations of this space from now on."""
        self._all = {key(params): params for params in space.configurations()}

    def open(self, results: Sequence[TrialResult]) -> None:
        """Bring Optuna's study in line with our results. Raises `StorageError`."""
        with _storage(self._path):
            self._study = self._create()
            if [trial.state for trial in self._study.trials] != [_state(result) for result in results]:
                optuna.delete_study(study_name=self._name, storage=self._url)
                self._study = self._create()
                for result in results:
                    self._add(result)
        self._tried = {key(result.params) for result in results}

    def propose(self) -> dict[str, Any] | None:
        """The next configuration; None when all have been tried.

        The same history and seed give the same proposal, so that a night that was interrupted goes on as it would have.
        What was tried before is drawn again; when TPE insists on it, an untried configuration is drawn at random.
        """
        untried = {key: params for key, params in self._all.items() if key not in self._tried}
        if not untried:
            return None
        told = len(self._study.get_trials(deepcopy=False))
        if told >= STARTUP_TRIALS:
            for attempt in range(_DRAWS):
                drawn = self._draw(f"{self._seed}-{told}-{attempt}")
                if drawn is not None and key(drawn) in untried:
                    return drawn
        return random.Random(f"{self._seed}-{told}").choice(list(untried.values()))

    def begin(self, params: Mapping[str, Any]) -> optuna.Trial:
        """Ask for a trial with these parameters. Raises `StorageError`."""
        with _storage(self._path):
            self._study.enqueue_trial(dict(params))
            return self._study.ask({name: self._domain[name] for name in params if name in self._domain})

    def tell(self, trial: optuna.Trial, result: TrialResult) -> None:
        """Report what came of it. Raises `StorageError`.

        A configuration that could not be measured is told as pruned with a violated constraint: of a failed trial TPE
        would learn nothing.
        """
        with _storage(self._path):
            for name, value in result.score.constraints.items():
                trial.set_constraint(name, value)
            for name, value in _attributes(result).items():
                trial.set_user_attr(name, value)
            self._study.tell(trial, result.score.objective, state=_state(result))
        self._tried.add(key(result.params))

    @property
    def _url(self) -> str:
        return f"sqlite:///{self._path}"

    def _create(self) -> optuna.Study:
        storage = RDBStorage(self._url)
        event.listen(storage.engine, "connect", _unhurried)
        return optuna.create_study(
            storage=storage,
            study_name=self._name,
            direction="maximize",
            sampler=RandomSampler(self._seed),  # `propose` has chosen before `begin` asks
            load_if_exists=True,
        )

    def _add(self, result: TrialResult) -> None:
        params = {name: value for name, value in result.params.items() if name in self._domain}
        self._study.add_trial(
            create_trial(
                state=_state(result),
                value=result.score.objective,
                params=params,
                distributions={name: self._domain[name] for name in params},
                constraints=result.score.constraints,
                user_attrs=_attributes(result),
            )
        )

    def _draw(self, salt: str) -> dict[str, Any] | None:
        """One proposal of TPE; None when it is no configuration of the space."""
        tpe = _tpe(random.Random(salt).randrange(2**32))
        blank = create_trial(state=TrialState.RUNNING)
        drawn = tpe.sample_relative(self._study, blank, tpe.infer_relative_search_space(self._study, blank))
        chosen = {name: _nearest(drawn.get(name, values[0]), values) for name, values in self._choices.items()}
        alone = {name: value for name, value in chosen.items() if name != "policy"}
        return next((params for params in (chosen, alone) if key(params) in self._all), None)


def _unhurried(connection: sqlite3.Connection, _: object) -> None:
    """Leave it to the system when to write to the disk: what is lost by a power cut comes back from our store."""
    connection.execute("PRAGMA synchronous=OFF")


def _tpe(seed: int) -> TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=0, constant_liar=False)


def _distribution(name: str, values: Sequence[Any]) -> BaseDistribution:
    """Numbers are ordered, by their ratio: 8 and 16 are as far apart as 16 and 32. All else is a category."""
    if name in ORDERED:
        return IntDistribution(min(values), max(values), log=True)
    return CategoricalDistribution(list(values))


def _nearest(drawn: Any, values: Sequence[Any]) -> Any:
    if drawn in values:
        return drawn
    return min(values, key=lambda value: abs(math.log(value / drawn)))


def _own(baseline: Mapping[str, Any], name: str) -> list[Any]:
    return [baseline[name]] if name in baseline else []


def _state(result: TrialResult) -> TrialState:
    return TrialState.COMPLETE if result.measured else TrialState.PRUNED


def _attributes(result: TrialResult) -> dict[str, Any]:
    """What optuna-dashboard shows beside the parameters."""
    attributes = {"fingerprint": result.fingerprint, "reason": result.reason, "simulated": result.simulated}
    for label, metrics in result.levels.items():
        attributes[f"output_tps at {label}"] = metrics.output_tps
        attributes[f"ttft_s mean at {label}"] = metrics.ttft_s.mean
    return attributes


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StorageError(f"{path}: {str(error).splitlines()[0]}") from error
