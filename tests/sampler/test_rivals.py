"""The other ways to search, by their names in a study file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import pytest
from optuna.samplers import RandomSampler

from autotune.errors import SpecError
from autotune.sampler import Sampler, Way
from autotune.sampler.rivals import Drawing, rival
from autotune.space import key
from autotune.spec.sections import Search
from tests.factories import BASELINE, result
from tests.test_sampler import SPACE, told

if TYPE_CHECKING:
    from pathlib import Path

    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

EVERY = [key(one) for one in SPACE.configurations()]


def asking(path: Path | None, by: str, seed: int = 1) -> Sampler:
    made = Sampler(path, "test", seed, SPACE, BASELINE, Way(by))
    made.open([])
    return made


@pytest.mark.parametrize("by", ["random", "grid", "tpe"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "in memory"])
def test_each_configuration_is_tried_once(tmp_path: Path, by: str, *, kept: bool) -> None:
    searching = asking(tmp_path / "optuna.db" if kept else None, by)
    results = told(searching, 1 + len(EVERY))
    assert sorted(key(one.params) for one in results[1:]) == sorted(EVERY)
    assert searching.untried == 0
    assert searching.propose() is None


def test_a_grid_is_in_the_order_of_the_space() -> None:
    results = told(asking(None, "grid"), 1 + len(EVERY))
    assert [key(one.params) for one in results[1:]] == EVERY


def test_chance_is_another_with_another_seed_and_the_same_with_the_same() -> None:
    orders = [[key(one.params) for one in told(asking(None, "random", seed), 8)] for seed in (1, 1, 2, 3)]
    assert orders[0] == orders[1]
    assert orders[0][1:] != EVERY[:7]
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("by", ["random", "grid", "tpe"])
def test_a_night_that_was_interrupted_goes_on_as_it_would_have(tmp_path: Path, by: str) -> None:
    results = told(asking(tmp_path / "one.db", by), 7)
    again = Sampler(tmp_path / "two.db", "test", 1, SPACE, BASELINE, Way(by))
    again.open(results[:5])
    assert [one.params for one in told(again, 2, before=results[:5])] == [one.params for one in results]


@pytest.mark.parametrize("by", ["random", "grid"])
def test_a_failure_is_tried_once_as_everything_else(by: str) -> None:
    results = told(asking(None, by), 1 + len(EVERY), lambda number, one: result(number, one, reason="load_failed"))
    assert len({key(one.params) for one in results[1:]}) == len(EVERY)


def test_a_search_that_needs_a_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.sampler.rivals.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r'search\.sampler = "gp".*pip install torch') as raised:
        Sampler(None, "test", 1, SPACE, BASELINE, Way("gp"))
    assert "\n" not in raised.value.message
    Sampler(None, "test", 1, SPACE, BASELINE, Way("tpe"))


def test_a_search_that_needs_no_package_does_not_ask_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.sampler.rivals.find_spec", lambda name: pytest.fail("it asked"))
    for name in ("tpe", "random", "grid"):
        assert rival(name, 1)


def test_every_name_of_a_study_file_is_a_way_to_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.sampler.rivals.find_spec", lambda name: True)
    names = get_args(Search.model_fields["sampler"].annotation)
    assert {"informed", "tpe", "gp", "random", "grid"} == set(names)
    for name in names:
        assert Sampler(None, "test", 1, SPACE, BASELINE, Way(name)).by == ("tpe" if name == "informed" else name)


def test_a_sampler_may_write_to_the_trial_that_it_draws_for() -> None:
    """As Optuna's GP does, to tell other processes. What it wrote is forgotten: a draw is no trial yet."""

    class Writes(RandomSampler):
        def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
            return {"num_parallel": study.trials[1].distributions["num_parallel"]}

        def sample_relative(
            self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
        ) -> dict[str, Any]:
            study._storage.set_trial_system_attr(trial._trial_id, "drawn", "8")
            return {name: self.sample_independent(study, trial, name, one) for name, one in search_space.items()}

    searching = asking(None, "tpe")
    searching._rival = Drawing(Writes, 1)
    results = told(searching, 1 + len(EVERY))
    assert sorted(key(one.params) for one in results[1:]) == sorted(EVERY)
    assert len(searching._study.trials) == len(results)


def test_gp_learns_too() -> None:
    pytest.importorskip("torch")
    results = told(asking(None, "gp"), 1 + len(EVERY))
    assert sorted(key(one.params) for one in results[1:]) == sorted(EVERY)
