"""Who cannot beat the best is dropped, and who can is not: moments, simulated loads by the hundred, whole loads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import aims
from autotune.benchmark.load import run
from autotune.benchmark.pacer import ClosedLoop, Level, OpenLoop
from autotune.benchmark.phases import LoadResult, Look, Phases, Sample, Seen
from autotune.benchmark.workload import Lengths, SeededWorkload
from autotune.goal import Bound, Precise
from autotune.records import Outcome, RequestRecord
from autotune.rival import ERROR, PAUSE_S, Rival, Screen, busy_since, highest
from autotune.simulator.clock import run_virtual
from tests.benchmark.standin import Standin
from tests.candidates import MACHINES, PHASES, Candidate, truth
from tests.conftest import study
from tests.factories import metrics, result
from tests.stats.streams import BIN_S, LOADS, stream, windows
from tests.test_goal import ok

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.conftest import Plans

LIMIT = {"metric": "ttft_s", "statistic": "p95", "max": 2.0}


# whom a warm-up drops


@pytest.mark.parametrize("name", MACHINES)
def test_a_candidate_as_fast_as_the_rival_is_not_dropped_in_its_warm_up(name: str) -> None:
    """Of 600 in all, whether it has the rival's slots, or more or fewer of them and another pace."""
    machine = MACHINES[name]
    rival = machine.rival(margin=0.0)
    equals = [replace(machine, slots=max(1, round(machine.slots * part))).as_fast(machine) for part in (1, 4, 0.25)]
    found = [Candidate(one, seed).screened(rival) for one in (equals[0], *equals) for seed in range(10)]
    assert sum(look is not None for look in found) <= ERROR * len(found)


SCREENED = [name for name in MACHINES if "long" not in name.replace("long answers", "") and name != "short answers"]


@pytest.mark.parametrize("name", SCREENED)
def test_one_that_is_half_as_fast_ends_in_its_warm_up(name: str) -> None:
    """Where prompts take most of the time the window has to say it; so where answers are over at once."""
    machine = MACHINES[name]
    half = replace(machine, pace=2.0)
    assert truth(half) == pytest.approx(truth(machine) / 2, rel=0.02)
    found = [Candidate(half, seed).screened(machine.rival()) for seed in range(10)]
    assert sum(look is not None for look in found) >= 9
    steady = not machine.stalls and not machine.slow_start_s
    for look in filter(None, found):
        assert look.beaten
        assert look.most_tps is not None
        assert look.most_tps / machine.rival().tps == look.part
        assert truth(half) < look.most_tps * (1.0 if steady else 1.2)
        assert not steady or look.after_s in PHASES.screens[:3]


@pytest.mark.parametrize("name", ["queue", "cluster", "few users", "slots for all"])
def test_one_that_hardly_lives_is_not_waited_for(name: str) -> None:
    """Its slots never fill, and its users would all have to be answered before a window could begin."""
    dead = replace(MACHINES[name], pace=100.0)
    look = Candidate(dead, 1).screened(MACHINES[name].rival())
    assert look is not None
    assert look.beaten
    assert look.after_s in PHASES.screens[:6]


@pytest.mark.parametrize(("max_s", "dropped"), [(0.5, True), (4.0, True), (60.0, False)])
def test_users_without_a_slot_wait_too_long(max_s: float, dropped: bool) -> None:
    """Ten users on one slot: nine wait, each for as long as nine answers take, 48 s."""
    machine, waits = MACHINES["one slot"], (("ttft_s p95", max_s),)
    look = Candidate(machine, 3).screened(machine.rival(), waits=waits)
    assert (look is not None) == dropped
    if look is not None:
        assert (look.limits, look.beaten, look.dropped, look.sunk) == ({"ttft_s p95": "violated"}, False, True, True)
    assert Candidate(MACHINES["slots for all"], 3).screened(machine.rival(), waits=waits) is None


def test_a_rival_that_meets_nothing_is_not_to_be_beaten() -> None:
    slow = replace(MACHINES["one slot"], pace=9.0)
    only = replace(MACHINES["one slot"].rival(), tps=0.0)
    assert Candidate(slow, 1).screened(only, most_s=60) is None
    assert Candidate(slow, 1).screened(only, waits=(("ttft_s mean", 1.0),)) is not None


# what a warm-up sees


def seen(rates: Sequence[float], start: float = 5.0, every_s: float = 0.1, **more: object) -> Seen:
    samples = [Sample(start, 0, 4)]
    for number, rate in enumerate(rates, 1):
        samples.append(Sample(start + number * every_s, samples[-1].pieces + round(rate * every_s), 4))
    values = {"look": 1, "open_loop": False, "steady": True, "records": (), "waiting": (), "samples": samples, **more}
    return Seen(start=start, at=samples[-1].at, **values)  # type: ignore[arg-type]


def screen(rival: Rival, users: int = 4, slots: int = 4) -> Screen:
    return Screen(rival, users, slots, 1, (7.5, 10.0))


FULL = [(1.0, 2.0)] * 4
"""Four users, who all speak."""


@pytest.mark.parametrize(("rate", "dropped"), [(200, True), (340, True), (360, False), (400, False), (0, True)])
def test_a_steady_rate_is_held_against_nine_tenths(rate: float, dropped: bool) -> None:
    look, since = screen(Rival(400.0, 0.03)).look(seen([rate] * 25, waiting=FULL))
    assert (look.dropped, look.beaten, look.sunk, since) == (dropped, dropped, dropped, 5.0)
    assert (look.stage, look.enough) == ("warm-up", False)
    if dropped:
        assert look.most_tps == pytest.approx(rate, abs=6)
        assert look.part == pytest.approx(rate / 400, abs=0.02)


def test_pieces_are_tokens_by_what_the_rival_says() -> None:
    two = Rival(400.0, tokens_per_piece=2.0)
    assert screen(two).look(seen([200] * 25, waiting=FULL))[0].dropped is False
    look, _ = screen(two).look(seen([100] * 25, waiting=FULL))
    assert look.most_tps == pytest.approx(200)


@pytest.mark.parametrize(
    "moment",
    [
        seen([100] * 25),
        seen([100] * 25, waiting=[*FULL[:3], (1.0, None)]),
        seen([100] * 15, waiting=FULL),
        seen([100] * 25, waiting=[*FULL[:3], (1.0, 7.0)]),
        seen([50 + 10 * number for number in range(25)], waiting=FULL),
        seen([100] * 15 + [120] * 15, waiting=FULL),
        seen([200 + number for number in range(25)], waiting=FULL),
    ],
    ids=["nobody speaks", "one does not yet", "too few", "only just", "it rises", "it jumps", "it rises slowly"],
)
def test_what_is_not_steady_yet_says_nothing(moment: Seen) -> None:
    assert screen(Rival(400.0)).look(moment)[0].dropped is False


@pytest.mark.parametrize(
    ("begun", "rate", "answer", "warm_s", "dropped"),
    [
        (0, 0, 100.0, 10.0, True),
        (0, 0, None, 10.0, False),  # who knows how long an answer is to be
        (0, 0, 100.0, 60.0, False),  # the rival itself was reading its first prompts then
        (0, 300, 100.0, 10.0, False),  # it writes enough
        (3, 0, 10.0, 10.0, True),
        (120, 0, 10.0, 10.0, False),  # it reads enough
    ],
)
def test_a_cluster_that_does_nothing_while_its_slots_are_free(
    begun: int, rate: float, answer: float | None, warm_s: float, dropped: bool
) -> None:
    """Within 5 s a rival of 400 tokens/s has begun 20 answers of 100 tokens, and written 2000."""
    ended = [ok(6.0 + number / 100, 0.1, 0.001) for number in range(begun)]
    rival = Rival(400.0, answer_tokens=answer, warm_s=warm_s)
    moment = seen([rate] * 50, look=2, records=ended, waiting=[(1.0, None)] * 4)
    asked = replace(screen(rival), slots=16, users=10)
    assert asked.look(moment)[0].dropped == dropped


@pytest.mark.parametrize(("silent_s", "dropped"), [(1.5, False), (2.0, False), (4.0, True)])
def test_a_host_that_stands_still_for_a_moment_drops_nobody(silent_s: float, dropped: bool) -> None:
    """Half a second of a load, and silence; without a pause a second of it were too long."""
    asked = replace(screen(Rival(400.0, answer_tokens=20.0, warm_s=0.5)), slots=16, users=10, pause_s=PAUSE_S)
    moment = seen([400] * 5 + [0] * round(silent_s * 10), 0.5, look=2, waiting=[(1.0, None)] * 4)
    assert asked.look(moment)[0].dropped == dropped
    assert replace(asked, pause_s=0.0).look(moment)[0].dropped


@pytest.mark.parametrize(("good", "silent", "dropped"), [(2, 22, False), (20, 20, False), (2, 80, True), (0, 45, True)])
def test_nor_where_all_slots_are_busy(good: int, silent: int, dropped: bool) -> None:
    """Samples of a tenth of a second each: so many as fast as the rival, and then none."""
    moment = seen([400] * good + [0] * silent, waiting=FULL)
    assert replace(screen(Rival(400.0)), pause_s=PAUSE_S).look(moment)[0].dropped == dropped


def test_a_pause_makes_nobody_faster() -> None:
    moment = seen([340] * 25, waiting=FULL)
    assert replace(screen(Rival(400.0)), pause_s=PAUSE_S).look(moment)[0].dropped


def test_failures_are_not_slowness() -> None:
    failed = [RequestRecord(number, 5.0, Outcome.REJECTED, 5.0, finished_at=5.1) for number in range(20)]
    rival = Rival(400.0, answer_tokens=100.0, warm_s=10.0)
    asked = replace(screen(rival), slots=16, users=10)
    assert asked.look(seen([0] * 50, look=2, waiting=[(1.0, None)] * 4))[0].dropped
    assert not asked.look(seen([0] * 50, look=2, records=failed, waiting=[(1.0, None)] * 4))[0].dropped


def test_slots_are_busy_from_when_so_many_speak_at_once() -> None:
    records = [ok(float(at), wait_s=1.0, gap_s=0.2) for at in range(4)]  # each speaks from second 1 to second 3
    assert busy_since(seen([1] * 60, 0.0, records=records), 2) == 2.0
    assert busy_since(seen([1] * 60, 2.5, records=records), 2) == 2.5
    assert busy_since(seen([1] * 60, 5.5, records=records), 2) is None
    assert busy_since(seen([1] * 60, 0.0, records=records), 4) is None
    assert busy_since(seen([1] * 60, 5.5, records=records, waiting=[(1.0, 1.5)]), 1) == 5.5


@given(st.lists(st.floats(0, 1000), min_size=20, max_size=60), st.floats(1e-4, 0.01))
def test_surer_is_never_lower(rates: list[float], level: float) -> None:
    narrow, wide = highest(rates, level), highest(rates, level / 2)
    assert (narrow is None) == (wide is None)
    assert narrow is None or wide is None or narrow <= wide


@given(st.floats(10, 1000), st.floats(10, 1000), st.floats(0.01, 0.5))
def test_who_beats_more_beats_less(rate: float, tps: float, more: float) -> None:
    """A slower rival never drops whom a faster one does not."""
    strict, loose = (Rival(one).beaten([rate] * 40, 0.001) for one in (tps * (1 + more), tps))
    assert strict is not None or loose is None


# windows

LOOKS = (15.0, 30.0, 60.0, 75.0)


def seen_of(samples: Sequence[Sample], look: int) -> Seen:
    return Seen(0.0, samples[-1].at, look, open_loop=False, steady=True, records=(), waiting=(), samples=samples)


def window_look(rates: Sequence[float], rival: Rival) -> Look | None:
    """The look that drops whose output in a window goes like this, in bins."""
    goal = Precise((), 0.05, LOOKS, rival=rival)
    samples = [Sample(0.0, 0, 4)]
    for number, rate in enumerate(rates, 1):
        samples.append(Sample(number * BIN_S, samples[-1].pieces + round(rate * BIN_S), 4))
    for number, at in enumerate(LOOKS, 1):
        moment = seen_of(samples[: round(at / BIN_S)], number)
        if (look := goal.look(moment)).dropped:
            return look
    return None


def test_of_400_windows_of_candidates_as_fast_as_the_rival_hardly_one_is_dropped() -> None:
    wrong = 0
    for load in LOADS.values():
        true = stream(load, 6000, 1)
        tps = sum(true.rates) / len(true.rates)
        wrong += sum(window_look(part, Rival(tps, 0.0)) is not None for part in windows(true.rates, LOOKS[-1]))
    assert wrong <= ERROR * 400


@pytest.mark.parametrize("part", [0.85, 0.7, 0.5])
def test_slower_ones_are_dropped_before_the_end_of_the_window(part: float) -> None:
    found = []
    for load in LOADS.values():
        true = stream(load, 1500, 2)
        tps = sum(true.rates) / len(true.rates) / part
        found += [window_look(rates, Rival(tps)) for rates in windows(true.rates, LOOKS[-1])]
    dropped = [look for look in found if look is not None]
    assert len(dropped) >= (0.5 if part > 0.8 else 0.95) * len(found)
    assert all(look.beaten and look.sunk and not look.enough and (look.part or 1) < 0.97 for look in dropped)


def test_an_open_loop_is_not_held_against_a_rival() -> None:
    moment = replace(seen([100] * 400, 0.0), open_loop=True)
    goal = Precise((), 0.05, LOOKS, rival=Rival(400.0))
    assert goal.look(replace(moment, open_loop=False)).beaten
    assert not goal.look(moment).dropped


# whole loads, in virtual time: 4 slots of 2 s each give 32 pieces/s

SHORT = Phases(warmup_s=20, warmup_max_s=90, window_s=60, window_max_s=120, drain_s=60)


def load(level: Level, rival: Rival | None, *bounds: Bound, slots: int = 4, token_s: float = 0.1) -> LoadResult:
    asked = SeededWorkload(1, Lengths("fixed", 50), Lengths("fixed", 16))
    cluster = Standin(slots=slots, prompt_s=0.5, token_s=token_s)
    waits = tuple((bound.name, bound.most) for bound in bounds)
    users = level.users if isinstance(level, ClosedLoop) else 1
    asks = Screen(rival, users, slots, 1, SHORT.screens, waits) if rival and isinstance(level, ClosedLoop) else None
    goal = Precise(bounds, 0.05, SHORT.looks, rival=rival, warmup=asks)
    return run_virtual(run(cluster, asked, level, SHORT, "n", goal=goal))


def lasted(found: LoadResult) -> float:
    return max(record.finished_at or 0.0 for record in found.records)


def test_half_as_fast_is_over_in_the_warm_up_and_nobody_is_waited_for() -> None:
    found = load(ClosedLoop(6), Rival(64.0))
    assert (found.look.stage, found.look.beaten, found.cautions) == ("warm-up", True, ())
    assert found.look.after_s in (15.0, 20.0)
    assert found.look.after_s == pytest.approx(found.window_end)
    assert 10.0 <= found.window_start < found.window_end
    assert lasted(found) == pytest.approx(found.window_end)
    assert sum(record.outcome is Outcome.CUT_OFF for record in found.records) == 6
    assert found.look.most_tps == pytest.approx(32, rel=0.25)


def test_as_fast_is_measured_in_full() -> None:
    found, alone = load(ClosedLoop(6), Rival(32.0)), load(ClosedLoop(6), None)
    assert not found.look.dropped
    assert (found.window_start, found.window_end) == (alone.window_start, alone.window_end)
    assert found.records == alone.records


def test_a_little_slower_is_over_in_the_window() -> None:
    found = load(ClosedLoop(6), Rival(35.0, margin=0.0))
    assert (found.look.stage, found.look.beaten, found.look.sunk) == ("window", True, True)
    assert found.window_end - found.window_start in [pytest.approx(at) for at in SHORT.looks]
    assert found.look.after_s == pytest.approx(found.window_end)
    assert lasted(found) == pytest.approx(found.window_end)


def test_a_warm_up_that_goes_on_is_asked_again() -> None:
    """One slot and answers of 8 s: ten users would be answered after 80 s."""
    found = load(ClosedLoop(10), Rival(2.5), slots=1, token_s=0.5)
    assert found.look.stage == "warm-up"
    assert found.look.after_s in (30.0, 45.0, 67.5)


def test_a_limit_that_is_missed_twofold_ends_the_warm_up_with_a_rival_only() -> None:
    bound = Bound("ttft_s", "p95", 1.0)
    found, alone = (load(ClosedLoop(24), rival, bound) for rival in (Rival(0.0, answer_tokens=16.0), None))
    assert (found.look.stage, found.look.limits) == ("warm-up", {"ttft_s p95": "violated"})
    assert found.look.dropped
    assert (alone.look.stage, alone.look.sunk, alone.look.dropped) == ("window", True, False)
    assert lasted(found) < lasted(alone) / 2


def test_with_a_rival_who_misses_a_limit_is_not_followed_to_the_end() -> None:
    bound = Bound("e2e_s", "p95", 3.0)
    found, alone = (load(ClosedLoop(12), rival, bound) for rival in (Rival(32.0), None))
    assert found.look.limits == alone.look.limits == {"e2e_s p95": "violated"}
    assert (found.look.dropped, found.look.beaten, found.window_end) == (True, False, alone.window_end)
    assert lasted(found) == pytest.approx(found.window_end)
    assert lasted(alone) > alone.window_end + 2


def test_arrivals_are_measured_whatever_the_rival_did() -> None:
    found = load(OpenLoop(1.0, seed=1), Rival(400.0))
    assert not found.look.dropped


def test_another_clock_tells_another_rate() -> None:
    look = load(ClosedLoop(6), Rival(64.0)).scaled(10.0).look
    assert look.most_tps == pytest.approx(3.2, rel=0.25)
    assert look.after_s in (150.0, 200.0)
    assert look.part == pytest.approx(0.5, rel=0.25)


# from a study


def test_planned_looks_at_a_warm_up() -> None:
    assert SHORT.screens == (15.0, 20.0, 30.0, 45.0, 67.5)
    assert replace(SHORT, warmup_s=0.0).screens == ()
    assert replace(SHORT, warmup_s=10.0, warmup_max_s=10.0).screens == (7.5, 10.0)


def test_the_rival_is_what_the_best_trial_says() -> None:
    spec = study(objective={"limits": [LIMIT]}, workload={"levels": [5, 10]})
    (*_, label) = (level.label for level in spec.workload.levels)
    found = metrics(tps=512.0, tokens_per_chunk=1.25, output_tokens=200.0)
    best = replace(result(spec=spec, tps=512.0), levels={"5 users": metrics(tps=9.0), label: found})
    assert aims.rival(spec, best) == Rival(512.0, tokens_per_piece=1.25, answer_tokens=200.0)
    timed = replace(best, looks={label: Look(after_s=75.0)}, windows={label: (112.0, 172.0)})
    assert aims.rival(spec, timed, 500.0) == Rival(500.0, tokens_per_piece=1.25, answer_tokens=200.0, warm_s=15.0)
    assert aims.rival(spec, result(spec=spec, ttft_s=9.0)).tps == 0.0


def test_a_goal_has_the_rival_on_this_hosts_clock_and_at_the_objectives_level_only() -> None:
    spec = study(
        objective={"limits": [LIMIT, {**LIMIT, "statistic": "p50", "max": 1.0}, {**LIMIT, "at": 5}]},
        workload={"levels": [5, 10]},
        cluster={"time_scale": 4.0},
    )  # fmt: skip
    best = Rival(100.0, answer_tokens=50.0, warm_s=20.0)
    five, ten = spec.workload.levels
    planned = aims.phases(spec, ten).scaled(1 / 4)
    assert aims.goal(spec, ten, planned).rival is None
    assert aims.goal(spec, ten, planned, best).rival == Rival(400.0, answer_tokens=50.0, warm_s=5.0)
    other = aims.goal(spec, five, planned, best).rival
    assert other is not None
    assert (other.tps, other.answer_tokens) == (0.0, None)
    whole = study(objective={"end_early": False})
    assert aims.goal(whole, whole.level(None), planned, best).rival is None


def test_a_warm_up_is_asked_only_where_the_slots_are_known(plan_of: Plans) -> None:
    limits = [LIMIT, {**LIMIT, "statistic": "p50", "max": 1.0}, {**LIMIT, "metric": "e2e_s", "max": 9.0}]
    spec, best = study(objective={"limits": limits}, workload={"levels": [8, {"rate": 3}]}), Rival(100.0)
    users, rate = spec.workload.levels
    plan = plan_of.make("0 | 1", num_parallel=3)
    planned = aims.phases(spec, users)
    assert aims.goal(spec, rate, planned, best, plan).screens == ()
    assert aims.goal(spec, users, planned, best).screens == ()
    spec = study(objective={"limits": limits}, workload={"levels": [8]})
    asked = aims.goal(spec, users, planned, best, plan).warmup
    assert asked is not None
    assert (asked.users, asked.slots, asked.instances) == (8, 6, 2)
    assert (asked.looks, asked.waits) == (planned.screens, (("ttft_s p95", 2.0),))
