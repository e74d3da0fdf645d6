"""The search of autotune as an Optuna sampler."""

from __future__ import annotations

import json
import math
import random
from typing import TYPE_CHECKING, Any

from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from autotune.belief import JOULES, Chooser, Designer, Evidence, Loaded, Mind, believed, odds
from autotune.sampler.domain import distributions, widened
from autotune.space import key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from autotune.belief import Believed, Forecast, Odds, Prior, Question
    from autotune.space import Space

EVIDENCE = "evidence"
"""The user attribute of a trial with all that was measured, as `Evidence.to_json` writes it."""
POOL = 5000
"""The most configurations that are looked at; of a larger space so many stand for it."""
TOLD = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class InformedSampler(BaseSampler):
    """Chooses by what physics and the trials so far say of each configuration; see `autotune.belief`.

    For any study over a space, with one objective, output in tokens/s, to be made as large as possible; or with
    several, that one first, then the goals of the question in their order. A trial's user attribute `evidence` says
    what was measured beside it; without one its values and its constraints, each of them named as `Bound.name`
    names it and relative to the limit (0.1 is a tenth too much), have to do. A trial without a value, or with one
    that is no finite number above 0, is one that could not be measured; one without a layout is none of this space.
    What others run at the moment is not proposed a second time, nor is what a worker ran that was killed, while
    Optuna calls it running. A trial is asked only for the parameters that its configuration has: where that depends
    on others, suggest what `trial.relative_params` names, and nothing more.
    """

    def __init__(
        self,
        space: Space,
        question: Question,
        *,
        seed: int = 0,
        first: Sequence[Mapping[str, Any]] = (),
        prior: Prior | None = None,
    ) -> None:
        """`first` are proposed before all others, one after the other, where the space has them; `prior` is what
        earlier studies say."""
        self.space = space
        self.pool = space.pool(seed, POOL)
        self._random = random.Random(f"{seed} informed")
        self._first = [dict(one) for one in first if space.allows(one)]
        self._mind = Mind(question, Designer.of(space, len(question.kinds)), prior=prior)
        self._chooser = Chooser(self._mind, self.pool, space.today)
        self._domain = distributions(widened(space.choices, () if space.choices["layout"] else self.pool))

    # as Optuna asks

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """All parameters of the space."""
        return self._domain

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        """The next configuration. Raises ValueError for a study whose first objective is to be small."""
        if study.directions[0] is not StudyDirection.MAXIMIZE:
            raise ValueError("direction: minimize; allowed is maximize: the (first) objective is output in tokens/s")
        known = [one for one in study.get_trials(deepcopy=False) if self._whole(one)]
        running = [one.params for one in known if one.state == TrialState.RUNNING]
        return self.next([of_trial(one, self._mind.question) for one in known if one.state in TOLD], running=running)

    def _whole(self, trial: FrozenTrial) -> bool:
        """Whether it is of a configuration: one that failed may have been asked for a part of its parameters only."""
        if trial.state in {TrialState.FAIL, TrialState.RUNNING}:
            return self.space.allows(trial.params)
        return {"layout", "num_parallel"} <= trial.params.keys()

    def sample_independent(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
        param_name: str,
        param_distribution: BaseDistribution,  # noqa: ARG002
    ) -> Any:
        """A parameter that the chosen configuration does not have: any of its values."""
        return self._random.choice(self.space.choices[param_name] or [str(one["layout"]) for one in self.pool])

    # as a night asks

    def next(
        self,
        trials: Sequence[Evidence],
        cost: Callable[[Mapping[str, Any]], float] | None = None,
        running: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, Any]:
        """What to try after these trials, which may have been tried before, while some are running.

        `cost` as `Chooser.next` has it.
        """
        busy = set(map(key, running))
        tried = {key(trial.params) for trial in trials} | busy
        waiting = [one for one in self._first if key(one) not in tried]
        if waiting:
            return waiting[0]
        self._learn(trials)
        return dict(self._chooser.next(cost, busy))

    def ranked(self, trials: Sequence[Evidence]) -> list[dict[str, Any]]:
        """What was tried and likely holds the limits, the believed best first."""
        self._learn(trials)
        return [dict(one) for one in self._chooser.ranked()]

    def promise(self, trials: Sequence[Evidence], tolerance: float) -> float | None:
        """The chance that anything untried is better than the best by more than a tolerance; None: nobody knows."""
        self._learn(trials)
        return self._chooser.promise(tolerance)

    def forecast(self, trials: Sequence[Evidence], params: Sequence[Mapping[str, Any]]) -> Forecast | None:
        """What is believed of some configurations after these trials; None before anything was measured."""
        self._learn(trials)
        return self._mind.forecast(self._mind.design(params)) if self._mind.views else None

    def believed(self, trials: Sequence[Evidence], params: Sequence[Mapping[str, Any]]) -> list[Believed]:
        """The same in tokens/s and seconds, with intervals that have room for noise; nothing before the first trial."""
        self._learn(trials)
        return believed(self._mind, params)

    def odds(self, trials: Sequence[Evidence]) -> Odds | None:
        """Which configurations could still win; None before anything was measured."""
        self._learn(trials)
        return odds(self._chooser)

    def incumbent(self, trials: Sequence[Evidence]) -> float | None:
        """Believed output of the best that was tried and likely holds the limits, tokens/s; None without one."""
        self._learn(trials)
        best = self._chooser.incumbent()
        return math.exp(best) if math.isfinite(best) else None

    @property
    def noise(self) -> float:
        """Believed standard deviation between starts of one configuration, in parts of its output."""
        return self._mind.noise

    @property
    def trust(self) -> str:
        """How far the law is trusted, in words."""
        return self._mind.trust

    def _learn(self, trials: Sequence[Evidence]) -> None:
        self._mind.learn(trials)


def of_trial(trial: FrozenTrial, question: Question) -> Evidence:
    """What an Optuna trial says. Raises ValueError where its evidence is not as `Evidence.to_json` writes it."""
    if (told := trial.user_attrs.get(EVIDENCE)) is not None:
        try:
            return Evidence.from_json(trial.params, json.loads(told))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"no key {error}" if isinstance(error, KeyError) else error
            raise ValueError(
                f"trial {trial.number}: user attribute {EVIDENCE} = {told!r:.60}: {problem}; allowed is what"
                " Evidence.to_json writes"
            ) from error
    values, dropped = trial.values or [0.0], trial.state == TrialState.PRUNED
    if not 0 < values[0] < math.inf:
        return Evidence(trial.params, failed=True)
    constraints = trial.constraints or {}
    bounds = {
        bound.name: (1 + constraints[bound.name]) * bound.most for bound in question.bounds if bound.name in constraints
    }
    for place, value in zip(question.goals, values[1:], strict=False):
        goal = question.bounds[place]
        bounds[goal.name] = 1 / value if goal.metric == JOULES and value else value
    said = tuple((name, value) for name, value in bounds.items() if 0 < value < math.inf)
    return Evidence(trial.params, (Loaded(question.users, values[0]),), said, rough=dropped)
