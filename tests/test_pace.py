"""How long things take, learned from trials: pure values."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import pace
from autotune import plan as plans
from autotune.ollama.api import ServerFacts
from autotune.pace import KINSHIP, MOST_KEPT, SPREAD, Cost, Pace, Turn, Wait, kept_s, prepared, turn
from tests.conftest import TINY, gpus
from tests.factories import SPEC, params, result


def plan_of(layout: str, num_parallel: int = 4, **more: str) -> plans.Plan:
    facts = ServerFacts("0.32.15", TINY)
    return plans.make(SPEC, gpus(), facts, params(num_parallel, layout, **more), (Path("/m"), Path("/h")))


ONE, TWO = plan_of("0"), plan_of("0 | 1")


def test_before_any_trial_nothing_is_known_and_everything_costs_the_same() -> None:
    nothing = Pace()
    assert (nothing.usual_s, nothing.trial_s(ONE), nothing.wait(5)) == (0.0, 0.0, Wait(0.0, 0.0))
    assert Cost(nothing).of(ONE) == Cost(nothing).of(TWO) == 1.0


def test_a_layouts_own_trials_count_beside_those_of_all() -> None:
    known = Pace((Turn("0", 100.0), Turn("0", 120.0), Turn("0 | 1", 200.0)))
    assert known.usual_s == 140
    assert known.trial_s(ONE) == pytest.approx((KINSHIP * 140 + 220) / (KINSHIP + 2))
    assert known.trial_s(TWO) == pytest.approx((KINSHIP * 140 + 200) / (KINSHIP + 1))
    assert known.trial_s(plan_of("0x2")) == pytest.approx(140)


def test_what_need_not_be_started_costs_nothing() -> None:
    """Each instance takes 20 s to start, the loads 60 s; the very first load came from the disk."""
    turns = (
        Turn("0", 200.0, changed=1, prepared_s=140.0),
        Turn("0 | 1", 100.0, changed=2, prepared_s=40.0),
        Turn("0", 80.0, changed=1, prepared_s=20.0),
        Turn("0", 60.0, changed=0, prepared_s=0.0),
    )
    known = Pace(turns)
    cost = Cost(known, frozenset(TWO.instances))
    assert cost.of(TWO) == pytest.approx(60)
    assert cost.of(plan_of("0 | 1", 8)) == pytest.approx(100)
    assert Cost(known).of(ONE) == pytest.approx(80)
    other_policy = plan_of("0 | 1", policy="least_conn")
    assert cost.of(other_policy) == cost.of(TWO)


def test_a_first_start_that_is_alone_counts() -> None:
    known = Pace((Turn("0", 200.0, changed=1, prepared_s=140.0),))
    assert known.trial_s(ONE) == pytest.approx(200)
    assert known.trial_s(ONE, ONE.instances) == pytest.approx(60)


def test_preparing_never_gets_cheaper_with_more_to_start() -> None:
    odd = [Turn("0", 90.0, changed=n, prepared_s=s) for n, s in ((1, 30.0), (1, 50.0), (4, 10.0), (4, 12.0))]
    costs = [Pace(tuple(odd)).trial_s(replace(TWO, instances=TWO.instances[:n])) for n in (0, 1, 2)]
    assert costs == sorted(costs)


def test_what_failed_says_nothing_of_loads() -> None:
    failed = Turn("0 | 1", 5.0, measured=False)
    assert Pace((Turn("0", 100.0), failed)).trial_s(TWO) == pytest.approx(100)
    assert Pace((Turn("0", 100.0), failed)).usual_s == 100
    assert Pace((Turn("0", 100.0), failed)).wait(2).left_s == pytest.approx(105)
    assert Pace((failed,)).usual_s == 5


def test_what_failed_late_says_how_long_its_like_may_take() -> None:
    even = (Turn("0", 100.0),) * 8
    usual = Pace((*even, Turn("0", 5.0, measured=False))).latest_s(100)
    late = Pace((*even, Turn("0", 400.0, measured=False))).latest_s(100)
    assert usual < Pace(even).latest_s(100) * 1.01
    assert late > 1.3 * usual


def test_trials_that_are_alike_make_the_next_one_sure() -> None:
    few, many = (Pace((Turn("0", 100.0),) * n).latest_s(100) for n in (2, 40))
    assert 100 < many < few
    assert many < 115
    assert Pace().latest_s(100) == pytest.approx(100 * math.exp(SPREAD * math.sqrt(2) * 2.132), rel=0.01)


@pytest.mark.parametrize("sd", [0.05, 0.25])
def test_so_many_trials_end_in_the_time_that_is_told(sd: float) -> None:
    chance = random.Random(f"latest {sd}")
    ended = tried = 0
    for _ in range(300):
        turns = tuple(Turn("0", 100 * math.exp(chance.gauss(0, sd))) for _ in range(12))
        known = Pace(turns)
        ended += 100 * math.exp(chance.gauss(0, sd)) <= known.latest_s(known.usual_s)
        tried += 1
    assert 0.92 <= ended / tried <= 1


def test_the_rest_of_a_search_lies_within_its_error() -> None:
    chance = random.Random("rest")
    within = 0
    for _ in range(300):
        turns = tuple(Turn("0", 100 * math.exp(chance.gauss(0, 0.25))) for _ in range(12))
        wait = Pace(turns).wait(20)
        took = sum(100 * math.exp(chance.gauss(0, 0.25)) for _ in range(20))
        within += abs(took - wait.left_s) <= wait.left_error_s
    assert within / 300 >= 0.92


@given(st.lists(st.tuples(st.floats(1, 1e4), st.integers(0, 4), st.booleans()), min_size=1, max_size=20))
def test_whatever_the_trials_were_every_estimate_is_a_length_of_time(drawn: list[tuple[float, int, bool]]) -> None:
    turns = [Turn("0", s, measured, changed, s / 3 if measured else None) for s, changed, measured in drawn]
    known = Pace(tuple(turns))
    for plan in (ONE, TWO):
        for running in ((), ONE.instances, TWO.instances):
            assert 0 < known.trial_s(plan, running) < math.inf
        assert known.trial_s(plan, plan.instances) <= known.trial_s(plan) * (1 + 1e-9)
    assert known.latest_s(known.usual_s) > known.usual_s
    assert known.wait(3).left_error_s > 0


def test_a_turn_counts_what_was_started_for_it() -> None:
    found = turn(replace(result(1), seconds=50.0), TWO, ONE.instances, 30.0)
    assert found == Turn("0 | 1", 50.0, measured=True, changed=1, prepared_s=30.0)
    assert found.loads_s == 20
    assert turn(result(1, reason="load_failed"), TWO, (), 30.0).prepared_s is None


def test_the_log_says_how_long_trials_took_to_prepare() -> None:
    def event(what: str, number: int | None, seconds: float = 0.0, **more: int) -> dict[str, object]:
        return {"what": what, "seconds": seconds, **({} if number is None else {"number": number}), **more}

    log = [
        event("start begins", 0), event("start", 0, 4), event("preload", 0, 9), event("verify", 0, 1),
        event("start begins", 1), event("start", 1, 99), event("start begins", 1), event("start", 1, 2),
        event("preload", 1, 3), event("load", 1, 60), event("start begins", 0, proof=0), event("start", 0, 50, proof=0),
        event("night", None, 100),
    ]  # fmt: skip
    assert prepared(log) == {0: 14.0, 1: 5.0}


@pytest.mark.parametrize(
    ("whole_h", "kept_h"),
    [(10, 4.0), (5, 2.0), (4, 2.0), (3, 80 / 60), (2, 0.0), (1, 0.0)],
)
def test_a_night_keeps_the_share_or_what_the_fewest_blocks_need(whole_h: float, kept_h: float) -> None:
    """Runs of 10 min: four blocks are 80 min with one finalist, and 120 with two."""
    assert kept_s(0.4, whole_h * 3600, [1200.0, 1800.0], 4) == pytest.approx(kept_h * 3600)
    assert MOST_KEPT == 0.5


def test_a_night_keeps_its_share_while_nothing_is_known_and_a_large_one_for_a_proof_that_fits_it() -> None:
    assert kept_s(0.4, 3600, [], 4) == 0.4 * 3600
    assert kept_s(0.7, 2 * 3600, [1200.0, 1800.0], 4) == 0.7 * 2 * 3600


def test_a_night_that_keeps_nothing_keeps_nothing() -> None:
    assert kept_s(0.0, 36000, [1200.0], 4) == 0


def test_runs_of_one_kind_are_a_pace_too() -> None:
    assert pace.of([100.0, 140.0]).usual_s == 120
