"""What nights say together, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from autotune.rehearsal import Rehearsed, Told
from autotune.stats import proportion_interval


def told(tps: float = 100.0, best: float = 100.0, **more: Any) -> Told:
    plain: dict[str, Any] = {
        "seed": 0,
        "params": {},
        "kind": "winner",
        "feasible": True,
        "false_winner": False,
        "trials": 9,
        "hours": 1.0,
        "blocks": 4,
        "why": "",
    }
    return Told(tps=tps, best_tps=best, **plain | more)


def rehearsed(*nights: Told) -> Rehearsed:
    return Rehearsed("s", "p", len(nights), 9, whole_space=True, nights=nights)


def test_near_the_best_is_a_share_of_nights_with_its_exact_interval() -> None:
    found = rehearsed(told(99), told(97), told(94), told(99, feasible=False))
    assert found.within(0.02) == proportion_interval(1, 4, 0.95)
    assert found.within(0.05) == proportion_interval(2, 4, 0.95)
    assert found.infeasible.mean == 0.25


def test_what_is_lost() -> None:
    found = rehearsed(told(100), told(90), told(80), told(70), told(60))
    assert found.shares == pytest.approx((0.8, 0.64))
    assert [night.regret for night in found.nights] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert rehearsed(told(50, best=0.0)).shares is None
    assert not told(50, best=0.0).near(0.05)


def test_kinds_winners_and_hours() -> None:
    found = rehearsed(told(hours=1.0), told(kind="keep", hours=2.0), told(false_winner=True, hours=3.0))
    assert {kind: share.mean for kind, share in found.kinds.items()} == pytest.approx({"winner": 2 / 3, "keep": 1 / 3})
    assert found.false_winners.mean == pytest.approx(1 / 3)
    assert found.hours == pytest.approx((2.0, 2.8))
    assert found.content()["summary"]["hours"] == {"median": 2.0, "p90": pytest.approx(2.8)}
