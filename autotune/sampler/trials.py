"""Optuna's study of a night, beside our store.

Our store is the truth. Optuna's study is brought in line with it at every start, and keeps one trial of its own for
each of ours, with the same number.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import optuna
from optuna.exceptions import StorageInternalError
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from sqlalchemy import NullPool, event
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from autotune.belief import Prior, Question, evidence
from autotune.errors import StorageError
from autotune.sampler.domain import distributions, widened
from autotune.sampler.informed import EVIDENCE, POOL, InformedSampler
from autotune.sampler.rivals import rival
from autotune.space import key

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from optuna.trial import FrozenTrial

    from autotune.belief import Believed, Evidence, Forecast, Odds
    from autotune.result import TrialResult
    from autotune.space import Space
    from autotune.spec import Goal

INFORMED = "informed"
INSTEAD = "tpe"
"""Who searches where the informed search has no law: an open loop, a capacity."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a study is searched."""

    by: str = INSTEAD
    """The name of who searches."""
    question: Question | None = None
    """What the informed search is about; None where it has no law for it."""
    first: Mapping[str, Any] | None = None
    """Proposed before all others, if the space has it."""
    goals: tuple[Goal, ...] = ()
    """What counts beside the output."""
    prior: Prior = field(default_factory=Prior)
    """What earlier studies say; what was best in them comes even before that."""

    @property
    def who(self) -> str:
        """Who really searches."""
        return INSTEAD if self.by == INFORMED and self.question is None else self.by


class Sampler:
    """Asks for what to try, and tells what came of it."""

    def __init__(
        self,
        path: Path | None,
        name: str,
        seed: int,
        space: Space,
        baseline: Mapping[str, Any],
        way: Way | None = None,
    ) -> None:
        """Without a path Optuna's study is in memory. Raises SpecError where a package is missing for the way."""
        way = way or Way()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._path = path
        self._name = name
        self._seed = seed
        self._known: dict[str, tuple[Any, ...]] = dict.fromkeys(space.choices, ())
        self._prior = way.prior
        self._tried: set[str] = set()
        self._question = way.question
        larger = [True, *(goal.larger for goal in way.goals)]
        self._directions = [StudyDirection.MAXIMIZE if more else StudyDirection.MINIMIZE for more in larger]
        self._first = [key(one) for one in (*way.prior.first, way.first) if one is not None]
        self._evidence: list[Evidence] = []
        self.by = way.who
        self._rival = rival(self.by, seed) if self.by != INFORMED else None
        self.limit(space)
        self._learn([baseline])

    def limit(self, space: Space) -> None:
        """Propose only configurations of this space from now on."""
        self._space = space
        best = (dict(one) for one in self._prior.first if space.allows(one))
        self._all = {key(params): params for params in (*space.pool(self._seed, POOL), *best)}
        self._informed = (
            InformedSampler(space, self._question, seed=self._seed, prior=self._prior)
            if self.by == INFORMED and self._question is not None
            else None
        )
        self._learn({name: value} for name, values in space.choices.items() for value in values)
        self._learn(self._all.values() if not space.choices["layout"] else ())

    def open(self, results: Sequence[TrialResult]) -> None:
        """Bring Optuna's study in line with our results. Raises `StorageError`."""
        self._learn(result.params for result in results)
        ours = [self._frozen(result) for result in results]
        with _storage(self._path):
            self._study = self._create()
            same = self._study.directions == self._directions
            if not same or [*map(_content, self._study.trials)] != [*map(_content, ours)]:
                optuna.delete_study(study_name=self._name, storage=self._storage)
                self._study = self._create()
                self._study.add_trials(ours)
        self._tried = {self._called(result.params) for result in results}
        self._evidence = [self._said(result) for result in results]

    def apart(self, results: Sequence[TrialResult]) -> None:
        """Go on in memory from these results, whatever has become of the file."""
        self._path = None
        self.open(results)

    @property
    def untried(self) -> int:
        """How many configurations have not been tried."""
        return len(self._all.keys() - self._tried)

    def propose(self, cost: Callable[[Mapping[str, Any]], float] | None = None) -> dict[str, Any] | None:
        """The next configuration; None when all have been tried.

        The same history and seed give the same proposal, so that a night that was interrupted goes on as it would have.
        The informed search may propose what was tried before: to measure that again may teach more than anything else.
        It looks for what promises most for each of the seconds that `cost` says a trial takes.
        """
        untried = {key: params for key, params in self._all.items() if key not in self._tried}
        if not untried:
            return None
        if waiting := next((name for name in self._first if name in untried), None):
            return untried[waiting]
        if self._informed is not None:
            return self._informed.next(self._evidence, cost)
        assert self._rival is not None
        with _storage(self._path):
            return self._rival.next(self._study, self._space, untried)

    def ranked(self) -> list[dict[str, Any]] | None:
        """What was tried and likely holds the limits, the believed best first; None: nobody believes anything."""
        return self._informed.ranked(self._evidence) if self._informed is not None and self._evidence else None

    def promise(self, tolerance: float) -> float | None:
        """The chance that anything untried is better than the best by more than a tolerance; None: nobody knows."""
        return self._informed.promise(self._evidence, tolerance) if self._informed is not None else None

    def incumbent(self) -> tuple[float, float] | None:
        """Believed output of the best so far, tokens/s, and how much of it a start may differ; None: nobody knows."""
        if self._informed is None or not self._evidence:
            return None
        best = self._informed.incumbent(self._evidence)
        return None if best is None else (best, self._informed.noise)

    def forecast(self, params: Sequence[Mapping[str, Any]]) -> Forecast | None:
        """What is believed of some configurations; None where nothing is."""
        return self._informed.forecast(self._evidence, params) if self._informed is not None else None

    def believed(self, params: Sequence[Mapping[str, Any]]) -> list[Believed]:
        """What trials of some configurations would measure; nothing where nobody believes anything."""
        return self._informed.believed(self._evidence, params) if self._informed is not None else []

    def odds(self) -> Odds | None:
        """Which configurations could still win; None: nobody knows."""
        return self._informed.odds(self._evidence) if self._informed is not None else None

    def foretold(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a trial of a configuration would measure: output and each limited figure with its 95 % interval, the
        chance that all limits hold, and how far the law is trusted; None where nothing is believed."""
        found = next(iter(self.believed([params])), None)
        if found is None:
            return None
        return {
            "tps": found.tps.value,
            "low": found.tps.low,
            "high": found.tps.high,
            "limits": {name: asdict(one) for name, one in found.limits.items()},
            "holds": found.holds,
            "starts": found.starts,
            "trust": self.trust,
        }

    @property
    def trust(self) -> str:
        """How far the informed search trusts its law, in words; empty before it has one."""
        return self._informed.trust if self._informed is not None else ""

    def begin(self, params: Mapping[str, Any]) -> optuna.Trial:
        """Ask for a trial with these parameters. Raises `StorageError`."""
        with _storage(self._path):
            self._study.enqueue_trial(dict(params))
            return self._study.ask({name: self._domain[name] for name in params if name in self._domain})

    def tell(self, trial: optuna.Trial, result: TrialResult) -> None:
        """Report what came of it. Raises `StorageError`.

        A configuration that could not be measured is told as pruned with a violated constraint: of a failed trial TPE
        would learn nothing. So is one that was dropped, with what was measured by then; and, of several goals, one of
        which some goal is not known. What was measured of those Optuna has no place for.
        """
        with _storage(self._path):
            for name, value in result.score.constraints.items():
                trial.set_constraint(name, value)
            for name, value in self._attributes(result).items():
                trial.set_user_attr(name, value)
            for step, value in self._reports(result).items():
                trial.report(value, step)  # of a pruned trial Optuna takes the last report for its value
            self._study.tell(trial, _told(result), state=_state(result))
        self._tried.add(self._called(result.params))
        self._evidence.append(self._said(result))

    def _called(self, params: Mapping[str, Any]) -> str:
        """What a configuration goes by in the space of today."""
        return key(self._space.today(params) or params)

    def _said(self, result: TrialResult) -> Evidence:
        return evidence(result, self._question or Question(1, 1.0, 1.0))

    def _create(self) -> optuna.Study:
        if self._path is None:
            self._storage: Any = InMemoryStorage()
        else:
            # in a URL `?` and `%` would not be characters of a path
            self._storage = RDBStorage(f"sqlite:///{quote(str(self._path))}", engine_kwargs={"poolclass": NullPool})
            event.listen(self._storage.engine, "connect", _unhurried)
        return optuna.create_study(
            storage=self._storage,
            study_name=self._name,
            directions=self._directions,
            # `propose` has chosen before `begin` asks; a seed of numpy's, whatever that of the study
            sampler=RandomSampler(self._seed % 2**32),
            load_if_exists=True,
        )

    def _learn(self, every: Any) -> None:
        """Widen the domain by these values: also what lies outside the space must be representable."""
        self._known = widened(self._known, every)
        self._domain = distributions({name: values for name, values in self._known.items() if values})

    def _frozen(self, result: TrialResult) -> FrozenTrial:
        params = {name: value for name, value in result.params.items() if name in self._domain}
        return create_trial(
            state=_state(result),
            values=_told(result) or tuple(self._reports(result).values()) or None,
            params=params,
            distributions={name: self._domain[name] for name in params},
            constraints=result.score.constraints,
            intermediate_values=self._reports(result),
            user_attrs=self._attributes(result),
        )

    def _reports(self, result: TrialResult) -> dict[int, float]:
        """What a dropped trial had reached by then; where there are several goals Optuna takes none."""
        reached = result.score.objective if result.dropped and len(self._directions) == 1 else None
        return {} if reached is None else {0: reached}

    def _attributes(self, result: TrialResult) -> dict[str, Any]:
        """What optuna-dashboard shows beside the parameters, and what the informed search learns from."""
        attributes = {"fingerprint": result.fingerprint, "reason": result.reason, "simulated": result.simulated}
        for label, metrics in result.levels.items():
            attributes[f"output_tps at {label}"] = metrics.output_tps
            attributes[f"ttft_s mean at {label}"] = metrics.ttft_s.mean
        return attributes | ({EVIDENCE: self._said(result).to_json()} if self._question else {})


def _unhurried(connection: sqlite3.Connection, _: object) -> None:
    """Leave it to the system when to write to the disk: what is lost by a power cut comes back from our store."""
    connection.execute("PRAGMA synchronous=OFF")


def _content(trial: FrozenTrial) -> tuple[Any, ...]:
    """What a sampler learns from."""
    return trial.state, trial.values, trial.params, trial.distributions, trial.constraints


def _state(result: TrialResult) -> TrialState:
    return TrialState.PRUNED if _told(result) is None else TrialState.COMPLETE


def _told(result: TrialResult) -> tuple[float, ...] | None:
    """Its values; None for one that is told as pruned."""
    return None if not result.measured or result.dropped else result.score.values


@contextlib.contextmanager
def _storage(path: Path | None) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, RuntimeError, KeyError) as error:  # KeyError: a study that is gone
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        said = next(iter(str(cause).splitlines()), type(cause).__name__)
        if path is None:
            raise StorageError(f"Optuna: {said}") from error
        passing = isinstance(cause, OperationalError)  # a full disk, a lock
        advice = "" if passing else "; remove this file: it is made again from the trials"
        raise StorageError(f"{path}: {said}{advice}") from error
