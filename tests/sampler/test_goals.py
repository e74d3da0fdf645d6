"""Several goals in Optuna: what it is told, and that each way to search can go on with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState

from autotune.belief import JOULES, Bound, Question
from autotune.sampler import InformedSampler, Sampler, Way
from autotune.sampler.informed import of_trial
from autotune.score import judge
from autotune.space import key
from autotune.spec import GOALS
from tests.conftest import gpus, study
from tests.factories import BASELINE, metrics, result
from tests.test_sampler import SPACE, told

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from autotune.result import TrialResult

SPEC = study(objective={"metric": ["tps", "ttft_p95_s"]})
QUESTION = Question.of(SPEC, gpus(), None)


def law(number: int, chosen: Mapping[str, Any]) -> TrialResult:
    """The more slots the faster, and the later the first text; two configurations have no goal, or nothing at all."""
    slots = chosen["num_parallel"] * (1 + chosen["layout"].count("|"))
    if chosen["layout"] == "0" and chosen["num_parallel"] == 8:
        return result(number, chosen, reason="load_failed", spec=SPEC)
    found = result(number, chosen, tps=30.0 * slots, ttft_s=0.3 * slots, spec=SPEC)
    few = {SPEC.level(None).label: metrics(30.0 * slots, requests=3)}
    return replace(found, score=judge(SPEC, few), levels=few) if slots == 4 else found


def asking(path: Path | None, by: str, results: list[TrialResult] | None = None) -> Sampler:
    made = Sampler(path, "test", 1, SPACE, BASELINE, Way(by, QUESTION, goals=SPEC.objective.goals))
    made.open(results or [])
    return made


def stored(path: Path) -> optuna.Study:
    return optuna.load_study(study_name="test", storage=f"sqlite:///{path}")


@pytest.mark.parametrize("by", ["tpe", "random", "grid", "gp"])
def test_each_way_to_search_goes_through_the_space(by: str) -> None:
    if by == "gp":
        pytest.importorskip("torch")
    results = told(asking(None, by), 1 + SPACE.size, law)
    assert {key(one.params) for one in results[1:]} == {key(one) for one in SPACE.configurations()}


def test_the_informed_search_goes_on_with_what_it_knows() -> None:
    searching = asking(None, "informed")
    results = told(searching, 6, law)
    assert searching.by == "informed"
    ranked = searching.ranked()
    assert ranked
    assert {key(one) for one in ranked} <= {key(one.params) for one in results}
    promise = searching.promise(0.02)
    assert promise is not None
    assert 0 <= promise <= 1


def test_optuna_is_told_all_values_and_what_has_none_as_pruned(tmp_path: Path) -> None:
    path = tmp_path / "optuna.db"
    results = told(asking(path, "grid"), 1 + SPACE.size, law)
    found = stored(path)
    assert found.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    for trial, one in zip(found.trials, results, strict=True):
        known = one.score.values
        assert trial.state == (TrialState.PRUNED if known is None else TrialState.COMPLETE)
        assert trial.values == (None if known is None else list(known))
    assert {trial.state for trial in found.trials} == {TrialState.PRUNED, TrialState.COMPLETE}
    assert found.best_trials


def test_tokens_per_joule_are_to_be_many() -> None:
    made = Sampler(None, "test", 1, SPACE, BASELINE, Way("tpe", goals=(GOALS["tokens_per_joule"],)))
    made.open([])
    assert made._study.directions == [StudyDirection.MAXIMIZE] * 2


@pytest.mark.parametrize("by", ["informed", "tpe"])
def test_a_night_that_was_interrupted_goes_on_as_it_would_have(tmp_path: Path, by: str) -> None:
    results = told(asking(tmp_path / "one.db", by), 7, law)
    again = asking(tmp_path / "two.db", by, results[:6])
    assert told(again, 1, law, before=results[:6])[-1].params == results[6].params
    before = stored(tmp_path / "one.db").trials
    asking(tmp_path / "one.db", by, results)  # nothing is made anew: the moments are those of then
    assert [one.datetime_start for one in stored(tmp_path / "one.db").trials] == [one.datetime_start for one in before]


def test_a_study_that_was_to_have_one_answer_before_it_began_has_several_now(tmp_path: Path) -> None:
    path = tmp_path / "optuna.db"
    Sampler(path, "test", 1, SPACE, BASELINE).open([])
    assert len(stored(path).directions) == 1
    told(asking(path, "tpe"), 2, law)
    assert len(stored(path).directions) == 2


def test_an_ordinary_study_of_optuna_can_be_searched_for_a_front() -> None:
    assert QUESTION is not None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searching = optuna.create_study(
        directions=["maximize", "minimize"], sampler=InformedSampler(SPACE, QUESTION, first=[BASELINE])
    )

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        chosen: dict[str, Any] = {
            name: trial.suggest_int(name, 2, 8, log=True)
            if name == "num_parallel"
            else trial.suggest_categorical(name, values)
            for name, values in SPACE.choices.items()
            if name in trial.relative_params
        }
        slots = chosen["num_parallel"] * (1 + chosen["layout"].count("|"))
        return 30.0 * slots, 0.3 * slots

    searching.optimize(objective, n_trials=5)
    assert len({str(trial.params) for trial in searching.trials}) > 2


def test_the_values_of_a_trial_are_what_its_goals_are_in_the_belief() -> None:
    goal = Bound(JOULES, "mean", 4, 1.0, limit=False)
    question = Question(4, 100.0, 50.0, bounds=(goal,), goals=(0,))
    trial = optuna.trial.create_trial(values=[200.0, 0.5], params={}, distributions={})
    assert dict(of_trial(trial, question).bounds) == {goal.name: 2.0}
    assert of_trial(trial, question).loads[0].tps == 200.0
    nothing = optuna.trial.create_trial(state=TrialState.PRUNED, params={}, distributions={})
    assert of_trial(nothing, question).failed
