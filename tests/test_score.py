"""From metrics to a score: what is feasible, by how much it is not, and that failure is no number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.benchmark.phases import Look
from autotune.metrics import Metrics, Summary
from autotune.score import BEHIND, FAILED, SURELY, TWOFOLD, UNDECIDED, Score, failed, judge, judge_capacity
from autotune.stats import enough
from tests.conftest import study
from tests.factories import metrics, summary

FIVE, TEN = "5 users", "10 users"
LIMIT = f"ttft_s p95 at {TEN}"

figures = st.floats(0.001, 1000)
samples = st.builds(metrics, ttft_s=st.none() | figures, requests=st.integers(0, 500), success_rate=st.floats(0, 1))


def judged(
    found: Metrics, *, maximum: float = 2.0, statistic: str = "p95", metric: str = "ttft_s", **objective: Any
) -> Score:
    """Two levels, with a limit at the second."""
    limits = [{"metric": metric, "statistic": statistic, "max": maximum}]
    spec = study(workload={"levels": [5, 10]}, objective={"limits": limits, **objective})
    return judge(spec, {FIVE: metrics(tps=1.0), TEN: found})


@pytest.mark.parametrize(("ttft_s", "violation"), [(1.0, -0.5), (2.0, 0.0), (3.0, 0.5), (20.0, 9.0)])
def test_a_constraint_is_how_far_a_figure_is_beyond_its_limit(ttft_s: float, violation: float) -> None:
    score = judged(metrics(ttft_s=ttft_s))
    assert score.constraints[LIMIT] == pytest.approx(violation)
    assert score.feasible == (violation <= 0)
    assert score.violation == pytest.approx(max(violation, 0))


def test_the_objective_is_the_throughput_at_its_level() -> None:
    assert judged(metrics(tps=161.0)).objective == 161.0
    assert judged(metrics(tps=161.0), at=5).objective == 1.0


def test_a_limit_holds_at_the_objectives_level_or_where_it_says() -> None:
    limits = [
        {"metric": "ttft_s", "statistic": "mean", "max": 1.0},
        {"metric": "tpot_s", "statistic": "p50", "max": 0.1, "at": 5},
    ]
    spec = study(workload={"levels": [5, 10]}, objective={"limits": limits})
    score = judge(spec, {FIVE: metrics(), TEN: metrics(ttft_s=2.0)})
    assert score.constraints == {
        f"ttft_s mean at {TEN}": 1.0,
        f"tpot_s p50 at {FIVE}": pytest.approx(-0.5),
        f"success rate at {FIVE}": pytest.approx(-0.01),
        f"success rate at {TEN}": pytest.approx(-0.01),
    }
    assert not score.feasible


def test_answers_that_fail_violate_at_every_level() -> None:
    score = judged(metrics(success_rate=0.9))
    assert score.constraints[f"success rate at {TEN}"] == pytest.approx(0.09)
    assert not score.feasible
    assert judged(metrics(success_rate=0.9), min_success_rate=0.9).feasible


@pytest.mark.parametrize("statistic", ["mean", "p50", "p90", "p95", "p99"])
def test_too_few_requests_are_undecided_and_never_feasible(statistic: Any) -> None:
    needed = enough(statistic)
    assert judged(metrics(ttft_s=0.5, requests=needed), statistic=statistic).feasible
    score = judged(metrics(ttft_s=0.5, requests=needed - 1), statistic=statistic)
    assert score.constraints[f"ttft_s {statistic} at {TEN}"] == UNDECIDED
    assert not score.feasible
    (caution,) = score.cautions
    assert caution.startswith(f"ttft_s {statistic} at {TEN}: {needed - 1} requests are too few to say ({needed} are")
    assert caution.endswith("lengthen window_max_s")


def test_no_request_at_all_is_undecided() -> None:
    score = judged(metrics(ttft_s=None, requests=0))
    assert score.constraints[LIMIT] == UNDECIDED
    assert not score.feasible


def test_too_few_requests_that_miss_the_limit_miss_it() -> None:
    assert judged(metrics(ttft_s=3.0, requests=5)).constraints[LIMIT] == pytest.approx(0.5)


def test_requests_that_still_wait_are_never_feasible_and_say_so() -> None:
    score = judged(metrics(ttft_s=0.5, waiting=(0.1,)))  # their true figures are larger, and not known
    assert score.constraints[LIMIT] == UNDECIDED
    assert score.cautions == (f"{LIMIT}: 1 requests never got a first text: lengthen drain_s",)


def test_requests_that_have_waited_beyond_the_limit_violate_it() -> None:
    mixed = Summary.of([0.5] * 90 + [60.0] * 10)
    score = judged(metrics(ttft_s=0.5, waiting=(60.0,) * 10, requests=100), metric="ttft_s")
    late = judge(
        study(
            workload={"levels": [5, 10]}, objective={"limits": [{"metric": "ttft_s", "statistic": "mean", "max": 2.0}]}
        ),
        {FIVE: metrics(), TEN: replace(metrics(waiting=(60.0,) * 10, requests=100), ttft_s=mixed)},
    )
    assert not score.feasible
    assert late.constraints[f"ttft_s mean at {TEN}"] == pytest.approx(mixed.value("mean") / 2 - 1)  # type: ignore[operator]


def test_waiting_for_the_first_text_says_nothing_about_the_time_per_token() -> None:
    assert judged(metrics(waiting=(60.0,)), metric="tpot_s").feasible


def test_what_ended_a_window_early_is_missed() -> None:
    """Were the few figures that there are then within the limit, the trial would win by them."""
    spec = study(
        workload={"levels": [5, 10]}, objective={"limits": [{"metric": "ttft_s", "statistic": "p95", "max": 2.0}]}
    )
    levels = {FIVE: metrics(), TEN: metrics(ttft_s=1.9)}
    for decision, violation in (
        ("violated", SURELY),
        ("holds", pytest.approx(-0.05)),
        ("open", pytest.approx(-0.05)),
    ):
        looks = {FIVE: Look(), TEN: Look(limits={"ttft_s p95": decision})}  # type: ignore[dict-item]
        assert judge(spec, levels, looks).constraints[LIMIT] == violation


def dropped(levels: dict[str, Metrics], looks: dict[str, Look]) -> Score:
    """A candidate with a limit at each of its two levels."""
    limits = [{"metric": "ttft_s", "statistic": "p95", "max": 2.0, "at": at} for at in (5, 10)]
    return judge(study(workload={"levels": [5, 10]}, objective={"limits": limits}), levels, looks)


def test_levels_that_were_not_loaded_say_nothing() -> None:
    beaten = Look(sunk=True, dropped=True, beaten=True, part=0.6)
    score = dropped({TEN: metrics(tps=61.0)}, {TEN: beaten})
    assert score.objective == 61.0
    assert score.constraints == {
        LIMIT: pytest.approx(-0.75),
        f"success rate at {TEN}": pytest.approx(-0.01),
        BEHIND: pytest.approx(0.4),
    }
    assert not score.feasible


def test_of_who_was_dropped_nothing_is_held_against_it_that_is_not_known() -> None:
    nothing = metrics(ttft_s=None, requests=0, success_rate=0.0)
    score = dropped({TEN: nothing}, {TEN: Look(sunk=True, dropped=True, beaten=True, part=0.5)})
    assert score.constraints == {BEHIND: pytest.approx(0.5)}
    assert score.cautions == ()
    failing = dropped({TEN: metrics(success_rate=0.5)}, {TEN: Look(sunk=True, dropped=True)})
    assert failing.constraints[f"success rate at {TEN}"] == pytest.approx(0.49)


def test_who_just_cannot_beat_the_best_is_still_behind_it() -> None:
    score = dropped({TEN: metrics()}, {TEN: Look(sunk=True, dropped=True, beaten=True, part=1.0)})
    assert score.constraints[BEHIND] == UNDECIDED
    assert not score.feasible


@pytest.mark.parametrize(("stage", "least"), [("warm-up", TWOFOLD), ("window", SURELY)])
def test_a_limit_for_which_a_load_ended_is_missed_by_what_that_takes(stage: Any, least: float) -> None:
    look = Look(sunk=True, dropped=True, limits={"ttft_s p95": "violated"}, stage=stage)
    for found in (metrics(ttft_s=1.0), metrics(ttft_s=None, requests=0)):
        assert dropped({TEN: found}, {TEN: look}).constraints[LIMIT] == least
    assert dropped({TEN: metrics(ttft_s=8.0)}, {TEN: look}).constraints[LIMIT] == pytest.approx(3.0)


def test_a_capacity_of_nothing_misses_by_what_its_least_load_misses_most() -> None:
    limits = [{"metric": "ttft_s", "statistic": "p95", "max": 2.0}]
    spec = study(objective={"metric": "capacity", "limits": limits, "precision": 0.05})
    slow, failing = metrics(ttft_s=3.0), metrics(ttft_s=1.0, success_rate=0.5)
    (violation,) = judge_capacity(spec, 0, {"1 users": slow}).constraints.values()
    assert violation == pytest.approx(0.5)
    (violation,) = judge_capacity(spec, 0, {"1 users": failing}).constraints.values()
    assert violation == pytest.approx(0.49)
    assert judge_capacity(spec, 3, {"1 users": slow}).feasible


def test_failure_is_not_a_number() -> None:
    score = failed("load_failed")
    assert (score.objective, score.constraints, score.feasible) == (None, {"load_failed": FAILED}, False)


def test_without_an_objective_nothing_is_feasible() -> None:
    assert not Score(None, {}).feasible


@given(samples, figures)
def test_feasible_means_that_no_constraint_is_above_zero(found: Metrics, maximum: float) -> None:
    score = judged(found, maximum=maximum)
    assert score.feasible == all(value <= 0 for value in score.constraints.values())
    assert score.violation == sum(max(value, 0) for value in score.constraints.values())


@given(samples, figures, figures, st.lists(figures, max_size=2))
def test_a_looser_limit_never_violates_more(found: Metrics, one: float, other: float, waiting: list[float]) -> None:
    found = replace(found, ttft_waiting_s=tuple(waiting))
    tight, loose = (judged(found, maximum=maximum) for maximum in sorted((one, other)))
    assert loose.violation <= tight.violation
    assert loose.feasible or not tight.feasible


@given(st.floats(0.1, 10), st.floats(0.1, 10))
def test_a_later_first_text_never_violates_less(one: float, other: float) -> None:
    early, late = (judged(replace(metrics(), ttft_s=summary(value))) for value in sorted((one, other)))
    assert early.violation <= late.violation
