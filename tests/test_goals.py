"""Several goals in a study file, in the score of a trial, and in what is kept of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from autotune import aims, telemetry
from autotune.doctor import devices
from autotune.errors import SpecError
from autotune.inventory import Inventory
from autotune.result import Samples
from autotune.score import Score, judge
from autotune.spec import GOALS, StudySpec, load
from autotune.standing import on_front, standings
from autotune.stats import enough
from autotune.store import Store
from autotune.telemetry import DeviceSample
from tests.conftest import gpus, study
from tests.factories import BASELINE, LIMIT, metrics, params, result
from tests.test_spec import GOOD

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TWO = ["output_tps", "ttft_p95_s"]
BOTH = study(objective={"metric": TWO})
ENERGY = study(objective={"metric": ["tps", "tokens_per_joule"]})
LABEL = BOTH.level(None).label


def read(path: Path, goals: str, *, short: bool = False) -> StudySpec:
    """A study file that asks for these goals, in its table or before it."""
    path.write_text(f"objective = {goals}\n{GOOD.partition('[objective]')[0]}{BUDGET}" if short else _in_table(goals))
    return load(path)


BUDGET = GOOD[GOOD.index("[budget]") :]


def _in_table(goals: str) -> str:
    return f"{GOOD.partition('[objective]')[0]}[objective]\nmetric = {goals}\n{BUDGET}"


# the study file


@pytest.mark.parametrize("short", [False, True], ids=["table", "short"])
def test_goals_are_read_with_the_output_first(tmp_path: Path, *, short: bool) -> None:
    found = read(tmp_path / "night.toml", '["ttft_p95_s", "tps", "tokens_per_joule"]', short=short).objective
    assert found.metric == ("output_tps", "ttft_p95_s", "tokens_per_joule")
    assert [(one.name, one.metric, one.statistic, one.larger) for one in found.goals] == [
        ("ttft_p95_s", "ttft_s", "p95", False),
        ("tokens_per_joule", "", "mean", True),
    ]


@pytest.mark.parametrize(
    ("goals", "said"),
    [
        ('["tps", "ttft_p96_s"]', "'ttft_p96_s' is no goal; allowed are output_tps, ttft_<statistic>_s"),
        ('["tps", 3]', "3 is no goal"),
        ('["tps", ["ttft_p95_s"]]', "['ttft_p95_s'] is no goal"),
        ('["tps", "capacity"]', 'a capacity is no goal beside others: metric = "capacity"'),
        ('["tps", "output_tps"]', "the same goal twice"),
        ('["tps"]', 'allowed are 2 or 3 goals; for one answer write metric = "output_tps"'),
        ("[]", "allowed are 2 or 3 goals"),
        ('["tps", "ttft_p95_s", "tpot_p50_s", "e2e_p99_s"]', "allowed are 2 or 3 goals"),
        ('["ttft_p95_s", "tpot_mean_s"]', "output_tps has to be among the goals"),
    ],
)
@pytest.mark.parametrize("short", [False, True], ids=["table", "short"])
def test_what_is_wrong_with_goals_is_one_line(tmp_path: Path, goals: str, said: str, *, short: bool) -> None:
    with pytest.raises(SpecError) as raised:
        read(tmp_path / "night.toml", goals, short=short)
    assert "\n" not in raised.value.message
    assert raised.value.message.startswith(f"{tmp_path / 'night.toml'}: objective.metric: [")
    assert said in raised.value.message


@pytest.mark.parametrize(("goals", "short"), [('"tps"', False), ("3", False), ('"tps"', True)])
def test_what_is_no_list_is_refused_too(tmp_path: Path, goals: str, *, short: bool) -> None:
    with pytest.raises(SpecError, match="a list of goals") as raised:
        read(tmp_path / "night.toml", goals, short=short)
    assert "\n" not in raised.value.message


def test_every_goal_has_the_name_of_a_figure() -> None:
    assert len(GOALS) == 17
    for goal in GOALS.values():
        assert goal.larger or metrics().statistic(goal.metric, goal.statistic) is not None


def test_one_answer_has_no_goals_and_measures_what_it_did() -> None:
    assert study().objective.goals == ()
    assert study().measured()["objective.metric"] == "output_tps"
    assert StudySpec.model_validate(BOTH.model_dump(mode="json")) == BOTH


# the loads


def test_a_percentile_that_is_a_goal_needs_its_requests_at_the_level_of_the_objective() -> None:
    spec = study(workload={"levels": [2, 4]}, objective={"metric": ["tps", "ttft_p99_s"], "at": 2})
    assert [aims.phases(spec, level).min_requests for level in spec.workload.levels] == [enough("p99"), 0]
    assert aims.phases(study(), study().level(None)).min_requests == 0
    assert aims.phases(ENERGY, ENERGY.level(None)).min_requests == 0


def test_nothing_is_dropped_for_being_slow_where_something_else_counts_too() -> None:
    assert aims.rival(study(), result(tps=500.0)).tps == 500.0
    assert aims.rival(BOTH, result(tps=500.0, spec=BOTH)).tps == 0.0
    assert aims.rival(BOTH, result(tps=500.0, spec=BOTH), 600.0).tps == 0.0


# the score


def test_a_score_has_the_goals_in_their_units() -> None:
    found = judge(BOTH, {LABEL: metrics(200.0, 0.5)})
    assert (found.objective, found.goals, found.values) == (200.0, {"ttft_p95_s": 0.5}, (200.0, 0.5))
    assert judge(study(), {LABEL: metrics(200.0, 0.5)}).goals == {}
    assert judge(ENERGY, {LABEL: metrics()}, per_joule=2.5).goals == {"tokens_per_joule": 2.5}


@pytest.mark.parametrize(
    ("few", "said"),
    [
        (metrics(ttft_s=0.5, requests=5), f"ttft_p95_s at {LABEL}: 5 requests are too few to say"),
        (metrics(waiting=[3.0]), f"ttft_p95_s at {LABEL}: 1 requests never got a first text"),
    ],
)
def test_a_goal_of_which_too_little_was_seen_has_no_value_and_is_a_caution(few: Any, said: str) -> None:
    found = judge(BOTH, {LABEL: few})
    assert (found.goals, found.values) == ({"ttft_p95_s": None}, None)
    assert found.cautions[0].startswith(said)


def test_gpus_that_tell_no_energy_are_a_caution() -> None:
    found = judge(ENERGY, {LABEL: metrics()})
    assert (found.goals, found.cautions) == (
        {"tokens_per_joule": None},
        (f"tokens_per_joule at {LABEL}: the GPUs told no energy",),
    )


def test_goals_are_kept_and_a_trial_of_before_has_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.open(BOTH, "")
    one = result(0, BASELINE, spec=BOTH)
    store.trials.save(one, [])
    assert store.trials.results() == [one]
    path = tmp_path / "trials" / "0000" / "result.json"
    told = json.loads(path.read_text())
    assert told["score"].pop("goals") == {"ttft_p95_s": 0.5}
    path.write_text(json.dumps(told))
    assert store.trials.results() == [replace(one, score=replace(one.score, goals={}))]
    assert store.spec() == BOTH


# energy


def sample(device: int, energy_j: float | None) -> DeviceSample:
    return DeviceSample(device, 50, 1500, 0, 300.0, 1.0, (), throttled=False, energy_j=energy_j)


@pytest.mark.parametrize(
    ("before", "after", "joules"),
    [
        ([10.0, 100.0], [25.0, 110.0], 25.0),
        ([10.0, 100.0], [25.0, None], None),
        ([None, 100.0], [25.0, 110.0], None),
        ([], [], None),
    ],
)
def test_the_energy_of_a_load_is_that_of_all_gpus(
    before: Sequence[float | None], after: Sequence[float | None], joules: float | None
) -> None:
    sides = [tuple(sample(at, one) for at, one in enumerate(side)) for side in (before, after)]
    assert Samples(*sides).joules == joules


def test_tokens_per_joule_need_gpus_that_tell_their_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match=r'"tokens_per_joule".*device 0 \(Small GPU\), 1 .*a played host uses none'):
        telemetry.check(ENERGY, gpus())
    real = Inventory("host", gpus().devices)
    told = [10.0, 20.0]
    monkeypatch.setattr("autotune.telemetry.snapshot", lambda _: tuple(sample(at, one) for at, one in enumerate(told)))
    telemetry.check(ENERGY, real)
    monkeypatch.setattr("autotune.telemetry.snapshot", lambda _: (sample(0, 1.0), sample(1, None)))
    with pytest.raises(SpecError, match=r"device 1 \(Small GPU\): only NVIDIA GPUs do"):
        telemetry.check(ENERGY, real)
    telemetry.check(BOTH, real)


def test_the_doctor_says_so_too() -> None:
    (check,), found = devices.of_study(ENERGY)
    assert (check.state, found) == ("missing", None)
    assert "tokens_per_joule" in check.found


# who is on the front


def test_the_front_is_of_those_that_hold_the_limits_and_know_their_goals() -> None:
    spec = study(objective={"metric": TWO, "limits": [LIMIT]})
    fast, quick, worse, late = (params(slots) for slots in (16, 8, 4, 32))
    results = [
        result(0, BASELINE, 100, 0.5, spec=spec),
        result(1, fast, 300, 1.5, spec=spec),
        result(2, quick, 200, 0.1, spec=spec),
        result(3, worse, 150, 0.2, spec=spec),
        result(4, late, 900, 9.0, spec=spec),
        result(5, params(64), reason="load_failed", spec=spec),
    ]
    assert [one.params for one in on_front(standings(results))] == [fast, quick]
    dropped = [*results[:2], replace(results[2], dropped="too slow")]
    assert quick not in [one.params for one in on_front(standings(dropped))]
    assert on_front(standings([result(0, BASELINE)])) == []
    assert Score(None, {}, goals={"ttft_p95_s": 1.0}).values is None
