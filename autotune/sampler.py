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
from urllib.parse import quote

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial
from sqlalchemy import NullPool, event
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from autotune.errors import StorageError
from autotune.space import key

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from optuna.trial import FrozenTrial

    from autotune.result import TrialResult
    from autotune.space import Space

STARTUP_TRIALS = 5
"""Trials before TPE has a say; until then configurations are drawn at random."""
_DRAWS = 32
ORDERED = ("num_parallel", "threads", "num_batch")
"""Parameters that are numbers; the others are categories."""


class Sampler:
    """Asks Optuna what to try, and tells it what came of it."""

    def __init__(
        self,
        path: Path,
        name: str,
        seed: int,
        space: Space,
        baseline: Mapping[str, Any],
        first: Mapping[str, Any] | None = None,
    ) -> None:
        """`first` is proposed before all others, if the space has it."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._path = path
        self._name = name
        self._seed = seed
        self._known: dict[str, tuple[Any, ...]] = dict.fromkeys(space.choices, ())
        self._first = key(first) if first is not None else ""
        self._tried: set[str] = set()
        self.limit(space)
        self._learn([baseline])

    def limit(self, space: Space) -> None:
        """Propose only configurations of this space from now on."""
        self._all = {key(params): params for params in space.configurations()}
        self._choices = space.choices
        self._learn({name: value} for name, values in space.choices.items() for value in values)

    def open(self, results: Sequence[TrialResult]) -> None:
        """Bring Optuna's study in line with our results. Raises `StorageError`."""
        self._learn(result.params for result in results)
        ours = [self._frozen(result) for result in results]
        with _storage(self._path):
            self._study = self._create()
            if [*map(_content, self._study.trials)] != [*map(_content, ours)]:
                optuna.delete_study(study_name=self._name, storage=self._storage)
                self._study = self._create()
                self._study.add_trials(ours)
        self._tried = {key(result.params) for result in results}

    @property
    def untried(self) -> int:
        """How many configurations have not been tried."""
        return len(self._all.keys() - self._tried)

    def propose(self) -> dict[str, Any] | None:
        """The next configuration; None when all have been tried.

        The same history and seed give the same proposal, so that a night that was interrupted goes on as it would have.
        What was tried before is drawn again; when TPE insists on it, an untried configuration is drawn at random.
        """
        untried = {key: params for key, params in self._all.items() if key not in self._tried}
        if not untried or self._first in untried:
            return untried.get(self._first)
        with _storage(self._path):
            told = len(self._study.get_trials(deepcopy=False))
            for attempt in range(_DRAWS if told >= STARTUP_TRIALS else 0):
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

    def _create(self) -> optuna.Study:
        # in a URL `?` and `%` would not be characters of a path
        self._storage = RDBStorage(f"sqlite:///{quote(str(self._path))}", engine_kwargs={"poolclass": NullPool})
        event.listen(self._storage.engine, "connect", _unhurried)
        return optuna.create_study(
            storage=self._storage,
            study_name=self._name,
            direction="maximize",
            sampler=RandomSampler(self._seed),  # `propose` has chosen before `begin` asks
            load_if_exists=True,
        )

    def _learn(self, every: Iterable[Mapping[str, Any]]) -> None:
        """Widen the domain by these values: also what lies outside the space must be representable."""
        for params in every:
            for name in params.keys() & self._known.keys():
                self._known[name] = tuple(dict.fromkeys([*self._known[name], params[name]]))
        self._domain = {name: _distribution(name, values) for name, values in self._known.items()}

    def _frozen(self, result: TrialResult) -> FrozenTrial:
        params = {name: value for name, value in result.params.items() if name in self._domain}
        return create_trial(
            state=_state(result),
            value=result.score.objective,
            params=params,
            distributions={name: self._domain[name] for name in params},
            constraints=result.score.constraints,
            user_attrs=_attributes(result),
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
    if drawn in values or isinstance(drawn, str):
        return drawn
    return min(values, key=lambda value: abs(math.log(value / drawn)))


def _content(trial: FrozenTrial) -> tuple[Any, ...]:
    """What TPE learns from."""
    return trial.state, trial.values, trial.params, trial.distributions, trial.constraints


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
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        passing = isinstance(cause, OperationalError)  # a full disk, a lock
        advice = "" if passing else "; remove this file: it is made again from the trials"
        raise StorageError(f"{path}: {str(cause).splitlines()[0]}{advice}") from error
