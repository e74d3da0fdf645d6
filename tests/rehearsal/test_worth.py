"""What a night's recommendation is worth, worked out by hand."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest

from autotune.confirm import Kind
from autotune.night import Ending
from autotune.rehearsal.truth import Truth
from autotune.rehearsal.worth import Slept, slept, told
from autotune.space import key
from tests.factories import BASELINE, params, result

TODAY, FAST, QUICK, MIDDLE, LATE = BASELINE, params(16), params(2), params(8), params(32)


def true(tps: float, wait_s: float | None = None, violation: float = -1.0, **more: Any) -> Truth:
    return Truth(tps, violation, goals={} if wait_s is None else {"ttft_p95_s": wait_s}, **more)


ONE = {key(TODAY): true(100), key(FAST): true(200), key(MIDDLE): true(190), key(LATE): true(300, violation=0.5)}
"""What is true where there is one goal."""
E1 = math.e
TWO = {
    key(TODAY): true(1, 1),
    key(FAST): true(E1**2, 1),
    key(QUICK): true(1, E1**-2),
    key(MIDDLE): true(E1, E1**-1),
    key(LATE): true(E1**3, E1**-3, violation=0.5),
}
"""And where there are two: with a front of three points, and the baseline at its corner."""


def night(*recommended: dict[str, Any], kind: str = "winner", tried: tuple[dict[str, Any], ...] = ()) -> Slept:
    return Slept(1, recommended, kind, 9, 3600.0, 4, "", tried or recommended)


def test_one_goal_is_a_share_of_the_best_that_meets_the_limits() -> None:
    found = told(night(MIDDLE), ONE, TODAY, whole_space=True)
    assert (found.tps, found.best_tps, found.share) == (190, 200, 0.95)
    assert found.feasible
    assert found.front == ()
    assert found.near(0.051)
    assert not found.near(0.049)


def test_of_a_large_space_only_what_was_tried_is_known() -> None:
    assert told(night(MIDDLE), ONE, TODAY, whole_space=False).share == 1.0
    assert told(night(MIDDLE, tried=(FAST, MIDDLE)), ONE, TODAY, whole_space=False).share == 0.95


def test_a_night_that_finds_nothing_recommends_nothing() -> None:
    found = told(night(kind="nothing", tried=(LATE,)), ONE, TODAY, whole_space=True)
    assert (found.params, found.tps, found.share) == ({}, 0.0, 0.0)
    assert found.feasible
    assert not found.false_winner
    assert not found.near(0.05)


@pytest.mark.parametrize(("kind", "false"), [("winner", True), ("keep", False), ("search", False)])
def test_a_winner_that_misses_a_limit_or_is_no_better_is_none(kind: str, false: bool) -> None:
    assert told(night(LATE, kind=kind), ONE, TODAY, whole_space=True).false_winner == false
    worse = {**ONE, key(FAST): true(99)}
    assert told(night(FAST, kind=kind), worse, TODAY, whole_space=True).false_winner == false
    assert not told(night(FAST, kind=kind), ONE, TODAY, whole_space=True).false_winner
    assert not told(
        night(FAST, kind=kind), {**worse, key(TODAY): true(100, violation=0.2)}, TODAY, whole_space=True
    ).false_winner


def test_of_two_goals_it_is_the_part_of_the_volume_above_the_low_corner() -> None:
    """The corner lies 0.3 below the worst: MARGIN, and as much of the two octaves of e between worst and best."""
    whole = 2.3 * 0.3 + 1.3 * 1.0 + 0.3 * 1.0
    for recommended, part in (
        ((MIDDLE,), 1.3 * 1.3),
        ((FAST, MIDDLE), 2.3 * 0.3 + 1.3 * 1.0),
        ((FAST, MIDDLE, QUICK), whole),
        ((TODAY,), 0.3 * 0.3),
        ((LATE,), 0.0),
    ):
        found = told(night(*recommended, kind="front"), TWO, TODAY, whole_space=True)
        assert found.covered == pytest.approx(part / whole)
        assert found.share == found.covered
        assert [one.params for one in found.front] == [*recommended]
        assert found.feasible == (LATE not in recommended)


def test_a_point_that_misses_a_limit_does_not_take_away_what_the_others_cover() -> None:
    found = told(night(LATE, FAST, MIDDLE, QUICK, kind="front"), TWO, TODAY, whole_space=True)
    assert found.near(0.02)
    assert not found.feasible
    assert found.false_winner


def test_a_proved_point_has_to_be_better_in_some_goal() -> None:
    worse = {**TWO, key(MIDDLE): true(0.9, 1.1)}
    assert told(night(FAST, MIDDLE, kind="front"), worse, TODAY, whole_space=True).false_winner
    assert not told(night(FAST, TODAY, kind="front"), TWO, TODAY, whole_space=True).false_winner
    mixed = {**TWO, key(MIDDLE): true(0.9, 0.5)}
    assert not told(night(MIDDLE, kind="front"), mixed, TODAY, whole_space=True).false_winner


def test_what_nobody_knows_is_on_no_front_and_no_number() -> None:
    unknown = {**TWO, key(FAST): true(E1**9, math.inf)}
    found = told(night(FAST, kind="search"), unknown, TODAY, whole_space=True)
    assert found.front[0].goals == {"ttft_p95_s": None}
    assert (found.covered, found.feasible) == (0.0, False)


def test_where_nothing_is_feasible_nothing_can_be_covered() -> None:
    none = {name: true(10, 1, violation=1.0) for name in TWO}
    assert told(night(TODAY, kind="keep"), none, TODAY, whole_space=True).covered is None


def test_too_many_failures_are_no_configuration_to_recommend() -> None:
    assert not true(100, succeeds=False).feasible


# what it recommends


class Proof:
    """As much of a verdict as is asked for."""

    def __init__(self, kind: Kind, *points: int) -> None:
        runs = [[result(0, one)] for one in (TODAY, FAST, QUICK)]
        self.kind, self.blocks, self.recommended = kind, 4, 2
        self.contenders = [type("Contender", (), {"params": run[0].params}) for run in runs]
        self.front = type("Front", (), {"points": points})


def ended(proof: Proof | None, *waits: float) -> Slept:
    found = zip((TODAY, FAST, QUICK), waits, strict=True)
    results = [result(at, one, 100.0 + at, wait) for at, (one, wait) in enumerate(found)]
    return slept(1, Ending("over", tuple(results), proof=cast("Any", proof), unproved="" if proof else "no time"), 60.0)


@pytest.mark.parametrize(
    ("proof", "recommended"),
    [
        (Proof(Kind.WINNER), (QUICK,)),
        (Proof(Kind.FRONT, 1, 2), (FAST, QUICK)),
        (Proof(Kind.KEEP), (TODAY,)),
        (Proof(Kind.UNCLEAR), (TODAY,)),
        (Proof(Kind.UNPROVED), (FAST,)),
        (None, (FAST,)),
    ],
)
def test_a_proof_says_what_is_recommended_and_else_the_search(
    proof: Proof | None, recommended: tuple[dict[str, Any], ...]
) -> None:
    found = ended(proof, 0.1, 0.1, 9.0)
    assert found.recommended == recommended
    assert found.kind == (str(proof.kind) if proof else "search")
    assert found.why == ("over" if proof else "over; no time")
    assert found.blocks == (4 if proof else 0)


def test_what_met_no_limit_is_not_recommended() -> None:
    found = ended(None, 9.0, 9.0, 9.0)
    assert (found.recommended, found.kind) == ((), "nothing")
    assert [*map(key, found.tried)] == [*map(key, (TODAY, FAST, QUICK))]
