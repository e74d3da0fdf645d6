"""A load without a clock against the real one, on the same engines in virtual time: windows, looks, drains, records."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from autotune.benchmark.pacer import ClosedLoop, OpenLoop, Ramp
from autotune.benchmark.phases import Phases
from autotune.goal import Bound, Precise
from autotune.metrics import figures, measure
from autotune.rehearsal.load import run
from autotune.rival import Rival, Screen
from tests.rehearsal.engines import Setup, by_clock

if TYPE_CHECKING:
    from autotune.benchmark.pacer import Level
    from autotune.benchmark.phases import LoadResult
    from autotune.metrics import Metrics

PHASES = Phases(warmup_s=10, warmup_max_s=60, window_s=30, window_max_s=60, drain_s=20)
ALONE = Setup(paces=(1.0,))


def by_events(
    setup: Setup, level: Level, phases: Phases, goal: Precise | None = None, timeout_s: float = float("inf")
) -> tuple[LoadResult, float]:
    return run(setup.instances(), setup.balancer(), level, setup.question, phases, goal, timeout_s=timeout_s)


def measured(loaded: LoadResult) -> Metrics:
    return measure(
        loaded.records, window_start=loaded.window_start, window_end=loaded.window_end, open_loop=loaded.open_loop
    )


def same(mine: tuple[LoadResult, float], theirs: tuple[LoadResult, float]) -> LoadResult:
    """Hold one against the other, and give what both found."""
    found, real = mine[0], theirs[0]
    window = (found.window_start, found.window_end, mine[1])
    assert window == pytest.approx((real.window_start, real.window_end, theirs[1]), abs=1e-6)
    assert found.cautions == real.cautions
    assert found.gave_up == real.gave_up
    assert found.look.limits == real.look.limits
    assert (found.look.enough, found.look.sunk) == (real.look.enough, real.look.sunk)
    ends = ("dropped", "beaten", "stage")
    assert [getattr(found.look, name) for name in ends] == [getattr(real.look, name) for name in ends]
    assert (found.look.after_s or 0.0) == pytest.approx(real.look.after_s or 0.0, abs=1e-6)
    assert (found.look.most_tps or 0.0) == pytest.approx(real.look.most_tps or 0.0, rel=0.05)
    # a sample that is due when the window begins may be in it or not
    assert (found.look.precision or 0.0) == pytest.approx(real.look.precision or 0.0, rel=0.3)
    assert (found.look.overload is None) == (real.look.overload is None)
    assert [(r.index, r.outcome, len(r.chunk_times)) for r in found.records] == [
        (r.index, r.outcome, len(r.chunk_times)) for r in real.records
    ]
    told = figures(measured(found))
    for name, value in figures(measured(real)).items():
        if not name.startswith("queue_s"):  # these engines do not tell
            assert told[name] == (None if value is None else pytest.approx(value, rel=1e-6)), name
    return found


def goal(*bounds: Bound, precision: float | None = 0.05, phases: Phases = PHASES) -> Precise:
    return Precise(bounds, precision, phases.looks, min_success=0.99)


@pytest.mark.parametrize(
    ("policy", "users"),
    [("round_robin", 1), ("round_robin", 6), ("round_robin", 30), ("least_conn", 1), ("least_conn", 6)],
)
def test_users(policy: str, users: int) -> None:
    setup = Setup(policy=policy)
    same(by_events(setup, ClosedLoop(users, 2), PHASES), by_clock(setup, ClosedLoop(users, 2), PHASES))


def test_who_comes_in_one_moment_may_come_in_any_order() -> None:
    """asyncio wakes those of one moment in any order: the requests are then others, and the figures nearly the same."""
    level, phases = ClosedLoop(30, 2), replace(PHASES, window_s=200, window_max_s=200)
    mine, theirs = (measured(load(Setup(), level, phases)[0]) for load in (by_events, by_clock))
    assert mine.output_tps == pytest.approx(theirs.output_tps, rel=0.01)
    assert mine.ttft_s.mean == pytest.approx(theirs.ttft_s.mean, rel=0.02)
    assert mine.ttft_s.p95 == pytest.approx(theirs.ttft_s.p95, rel=0.02)


@pytest.mark.parametrize(
    "level", [OpenLoop(2.0, seed=4), OpenLoop(1.53, "constant", 5), OpenLoop(3.0, Ramp(0.5, 20.0), 6)]
)
def test_arrivals(level: OpenLoop) -> None:
    same(by_events(Setup(), level, PHASES), by_clock(Setup(), level, PHASES))


def test_a_queue_that_only_grows_ends_the_window() -> None:
    level, phases = OpenLoop(5.0, seed=1), replace(PHASES, window_s=120, window_max_s=240)
    wanted = goal(phases=phases)
    found = same(by_events(ALONE, level, phases, wanted), by_clock(ALONE, level, phases, wanted))
    assert found.look.overload is not None
    assert found.window_end - found.window_start < phases.window_s


@pytest.mark.parametrize("rate", [8.0, 40.0])
def test_what_cannot_leave_is_seen_alike(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ("benchmark.traffic", "simulator.play"):
        monkeypatch.setattr(f"autotune.{room}.MOST_IN_FLIGHT", 20)
    level, wanted = OpenLoop(rate, seed=1), goal(Bound("ttft_s", "mean", 60.0))
    found, real = (run(ALONE, level, PHASES, wanted)[0] for run in (by_events, by_clock))
    assert found.look.overload is not None
    assert real.look.overload is not None
    assert found.look.limits == real.look.limits
    assert measured(found).requests == measured(real).requests
    waiting = len(measured(real).ttft_waiting_s)
    assert len(measured(found).ttft_waiting_s) == pytest.approx(waiting, abs=2)
    assert waiting > 100 * (rate > 8)
    assert found.look.overload.offered == pytest.approx(real.look.overload.offered, rel=0.01)
    assert found.full
    assert real.full


@pytest.mark.parametrize(("most_s", "decided"), [(0.3, "violated"), (30.0, "holds")])
def test_looks_end_a_window_as_they_would(most_s: float, decided: str) -> None:
    level, bounds = ClosedLoop(8, 1), (Bound("ttft_s", "mean", most_s), Bound("tpot_s", "p95", 5.0))
    phases = replace(PHASES, window_max_s=120, min_requests=72)
    wanted = goal(*bounds, phases=phases)
    found = same(by_events(ALONE, level, phases, wanted), by_clock(ALONE, level, phases, wanted))
    assert found.look.limits["ttft_s mean"] == decided


SHORT = replace(PHASES, warmup_s=20, window_s=19.3, window_max_s=20)
"""No sample is due in the very moment from which, or at which, a load is looked at."""
RIVAL = Rival(0.0, answer_tokens=55.0, warm_s=8.0)
TTFT = Bound("ttft_s", "p95", 1.0)


def candidate(
    setup: Setup, users: int, tps: float, *bounds: Bound, phases: Phases = PHASES
) -> tuple[LoadResult, LoadResult]:
    """A load that is held against a rival of so many tokens/s; and the same one without."""
    rival, level = replace(RIVAL, tps=tps), ClosedLoop(users, 1)
    waits = tuple((bound.name, bound.most) for bound in bounds)
    screen = Screen(rival, users, setup.slots * len(setup.paces), len(setup.paces), phases.screens, waits)
    alone = goal(*bounds, phases=phases)
    wanted = replace(alone, rival=rival, warmup=screen)
    found = same(by_events(setup, level, phases, wanted), by_clock(setup, level, phases, wanted))
    return found, by_events(setup, level, phases, alone)[0]


@pytest.mark.parametrize(
    ("tps", "part", "bounds", "ends"),
    [
        (400.0, 1.0, (), "beaten in the warm-up"),
        (132.0, 1.0, (), "beaten in the window"),
        (90.0, 1.0, (), "not dropped"),
        (0.0, 1.0, (), "not dropped"),
        (400.0, 200.0, (), "beaten in the warm-up"),  # its slots never fill
        (0.0, 1.0, (replace(TTFT, most=0.5),), "dropped in the warm-up"),  # who has no slot waits too long
        (90.0, 1.0, (replace(TTFT, most=1.4),), "dropped in the window"),
    ],
)
def test_a_candidate_is_dropped_where_it_would_be(
    tps: float, part: float, bounds: tuple[Bound, ...], ends: str
) -> None:
    slow = Setup(paces=(part,))
    found, alone = candidate(slow, 8, tps, *bounds, phases=SHORT)
    look = found.look
    how = "not dropped" if not look.dropped else f"{'beaten' if look.beaten else 'dropped'} in the {look.stage}"
    assert how == ends
    if look.dropped:  # nobody waits for the rest
        assert max(record.finished_at or 0.0 for record in found.records) == pytest.approx(found.window_end)
    else:
        assert (found.records, found.window_end) == (alone.records, alone.window_end)


def test_a_load_without_a_warm_up_is_not_screened() -> None:
    phases = replace(SHORT, warmup_s=0, warmup_max_s=0, window_s=19.0113)
    look = candidate(ALONE, 3, 50.0, phases=phases)[0].look
    assert (look.dropped, look.stage) == (False, "window")


def test_arrivals_are_held_to_their_limits_only() -> None:
    level, wanted = OpenLoop(2.0, seed=4), replace(goal(replace(TTFT, most=0.3)), rival=replace(RIVAL, tps=900.0))
    found = same(by_events(ALONE, level, PHASES, wanted), by_clock(ALONE, level, PHASES, wanted))
    assert (found.look.dropped, found.look.beaten) == (True, False)


def test_a_warm_up_waits_for_every_user() -> None:
    slow, phases = Setup(1, (3.0,), shortest=90), replace(PHASES, warmup_s=2, warmup_max_s=300)
    found = same(by_events(slow, ClosedLoop(9, 1), phases), by_clock(slow, ClosedLoop(9, 1), phases))
    assert found.window_start > 9 * 90 * 0.022 * 3


def test_what_never_ends_is_cut_off_and_said() -> None:
    endless, phases = Setup(2, (1.0,), shortest=4000, longest=5000), replace(PHASES, warmup_max_s=12)
    found = same(by_events(endless, ClosedLoop(5, 1), phases), by_clock(endless, ClosedLoop(5, 1), phases))
    assert any("before the cluster was warm" in caution for caution in found.cautions)


def test_where_there_are_no_users_it_is_requests_that_had_no_answer() -> None:
    endless, phases = Setup(2, (1.0,), shortest=4000, longest=5000), replace(PHASES, warmup_max_s=12)
    found = same(by_events(endless, OpenLoop(1.0, seed=1), phases), by_clock(endless, OpenLoop(1.0, seed=1), phases))
    assert found.cautions[0] == "the warm-up ended before the cluster was warm: no request had an answer"


def test_timeouts_end_a_load_that_nobody_answers() -> None:
    endless = Setup(2, (1.0,), shortest=4000, longest=5000)
    mine = by_events(endless, ClosedLoop(2, 1), PHASES, timeout_s=1.0)
    found = same(mine, by_clock(endless, ClosedLoop(2, 1), PHASES, timeout_s=1.0))
    assert found.gave_up
