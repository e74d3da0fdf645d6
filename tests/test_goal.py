"""When a window has told enough: decisions from hand-made moments, and whole loads that end early or do not."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.benchmark.load import run
from autotune.benchmark.pacer import ClosedLoop, Level, OpenLoop
from autotune.benchmark.phases import LoadResult, Overload, Phases, Sample, Seen
from autotune.benchmark.workload import Lengths, SeededWorkload
from autotune.goal import SUCCESS, Bound, Precise
from autotune.records import Outcome, RequestRecord
from autotune.simulator.clock import run_virtual
from tests.benchmark.standin import Standin

if TYPE_CHECKING:
    from collections.abc import Sequence

END_S = 100.0
BOTH = (False, True)
TTFT = Bound("ttft_s", "p95", 2.0)


def ok(at: float, wait_s: float = 0.5, gap_s: float = 0.05, chunks: int = 11) -> RequestRecord:
    """A complete answer."""
    times = tuple(at + wait_s + gap_s * number for number in range(chunks))
    return RequestRecord(
        int(1000 * at),
        at,
        Outcome.OK,
        written_at=at,
        first_content_at=times[0],
        finished_at=times[-1],
        chunk_times=times,
        eval_count=chunks,
        done_reason="length",
    )


def spread(waits: Sequence[float]) -> list[RequestRecord]:
    """Answers with these waits, evenly over the first nine tenths of the window."""
    return [ok(0.9 * END_S * number / len(waits), wait) for number, wait in enumerate(waits)]


def failed(count: int, outcome: Outcome = Outcome.FAILED) -> list[RequestRecord]:
    """Requests without a text."""
    places = [0.9 * END_S * number / count for number in range(count)]
    return [RequestRecord(-number, at, outcome, at, finished_at=at + 0.1) for number, at in enumerate(places)]


def seen(
    records: Sequence[RequestRecord],
    waiting: Sequence[tuple[float, float | None]] = (),
    samples: Sequence[Sample] = (),
    *,
    look: int = 1,
    open_loop: bool = False,
    steady: bool = True,
) -> Seen:
    return Seen(0.0, END_S, look, open_loop, steady, records, waiting, samples)


def decided(bound: Bound, records: Sequence[RequestRecord], waiting: Sequence[tuple[float, float | None]] = ()) -> str:
    look = Precise((bound,), None, (END_S,)).look(seen(records, waiting))
    (decision,) = look.limits.values()
    assert (look.enough, look.sunk) == (decision != "open", decision == "violated")
    return decision


# limits


def test_bounds_have_the_names_of_limits() -> None:
    assert TTFT.name == "ttft_s p95"
    assert set(Precise((TTFT, Bound("e2e_s", "mean", 9.0)), None, (1.0,)).look(seen([])).limits) == {
        "ttft_s p95",
        "e2e_s mean",
    }


@pytest.mark.parametrize(("statistic", "least"), [("p50", 10), ("p90", 36), ("p95", 72), ("p99", 368)], ids=str)
def test_so_many_clean_requests_settle_a_limit(statistic: str, least: int) -> None:
    bound = Bound("ttft_s", statistic, 2.0)  # type: ignore[arg-type]
    assert decided(bound, spread([0.5] * least)) == "holds"
    assert decided(bound, spread([0.5] * (least - 1))) == "open"


@pytest.mark.parametrize("statistic", ["mean", "p50", "p90", "p95", "p99"])
def test_what_is_far_beyond_a_limit_is_violated_soon(statistic: str) -> None:
    bound = Bound("ttft_s", statistic, 2.0)  # type: ignore[arg-type]
    rng = random.Random(1)
    assert decided(bound, spread([rng.uniform(4, 6) for _ in range(20)])) == "violated"
    assert decided(bound, spread([rng.uniform(4, 6) for _ in range(5)])) == "open"
    assert decided(bound, []) == "open"


def test_what_is_close_stays_open() -> None:
    rng = random.Random(2)
    waits = [rng.expovariate(1.5) for _ in range(200)]
    assert sum(wait > 2 for wait in waits) / 200 == pytest.approx(0.05, abs=0.02)
    assert decided(TTFT, spread(waits)) == "open"
    assert decided(Bound("ttft_s", "mean", sum(waits) / 200), spread(waits)) == "open"


def test_a_mean_needs_ten() -> None:
    bound = Bound("ttft_s", "mean", 2.0)
    assert decided(bound, spread([0.5, 0.6] * 5)) == "holds"
    assert decided(bound, spread([0.5, 0.6] * 4)) == "open"


def test_an_early_look_needs_more() -> None:
    """The error of all looks together is bounded, so that each of several may err less often than one would."""
    looks = (25.0, 50.0, END_S)
    clean = spread([0.5] * 80)
    assert Precise((TTFT,), None, (END_S,)).look(seen(clean)).limits == {TTFT.name: "holds"}
    assert Precise((TTFT,), None, looks).look(seen(clean, look=1)).limits == {TTFT.name: "open"}
    assert Precise((TTFT,), None, looks).look(seen(spread([0.5] * 120), look=1)).limits == {TTFT.name: "holds"}


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.REJECTED, Outcome.TIMEOUT])
def test_failures_are_a_matter_of_the_success_rate(outcome: Outcome) -> None:
    """As in the score: what is decided early is what would be judged in the end."""
    records = [*spread([0.5] * 100), *failed(40, outcome)]
    bounds = tuple(Bound(metric, "p95", 2.0) for metric in ("ttft_s", "tpot_s", "e2e_s"))
    look = Precise(bounds, None, (END_S,), min_success=0.9).look(seen(records))
    assert look.limits == {bound.name: "holds" for bound in bounds} | {SUCCESS: "violated"}
    assert look.sunk


@pytest.mark.parametrize(
    ("good", "bad", "decision"),
    [(100, 0, "holds"), (99, 1, "holds"), (98, 2, "open"), (60, 40, "violated"), (0, 0, "holds")],
)
def test_the_success_rate_is_missed_only_where_that_is_sure(good: int, bad: int, decision: str) -> None:
    records = [*spread([0.5] * good), *failed(bad), *failed(50, Outcome.CUT_OFF)]
    assert Precise((), None, (END_S,), min_success=0.99).look(seen(records)).limits == {SUCCESS: decision}


def test_what_was_cut_off_and_what_was_cold_say_nothing() -> None:
    cold = [replace(ok(float(number), 9.0), load_duration_s=5.0) for number in range(40)]
    assert decided(TTFT, [*spread([0.5] * 100), *failed(40, Outcome.CUT_OFF), *cold]) == "holds"


def test_requests_of_the_warm_up_are_not_counted() -> None:
    early = [ok(-float(number + 1), 9.0) for number in range(80)]
    assert decided(TTFT, [*early, *spread([0.5] * 80)]) == "holds"
    assert decided(TTFT, [*early, *spread([0.5] * 20)]) == "open"


def test_who_still_waits_counts_once_beyond_the_limit() -> None:
    long = [(END_S - 30.0, None)] * 40
    short = [(END_S - 1.0, None)] * 40
    spoke = [(END_S - 30.0, END_S - 29.5)] * 40
    clean = spread([0.5] * 100)
    assert decided(TTFT, clean, long) == "violated"
    assert decided(TTFT, clean, short) == "holds"
    assert decided(TTFT, clean[:40], spoke) == "holds"
    assert decided(Bound("ttft_s", "mean", 2.0), clean, long) == "violated"
    assert decided(Bound("e2e_s", "p95", 2.0), clean, long) == "violated"
    assert decided(Bound("e2e_s", "p95", 2.0), clean, short) == "holds"


def test_the_quick_among_the_young_do_not_count() -> None:
    """Who was asked with them and is slow is not known yet: they would count as if nobody was."""
    old, young = spread([0.5] * 65), [ok(END_S - 1.5, 0.1)] * 200
    silent = [(END_S - 1.8, None)]
    assert decided(TTFT, [*old, *young], silent) == "open"
    assert decided(TTFT, [*old, *[ok(END_S - 2.5, 0.1)] * 200], silent) == "holds"
    assert decided(Bound("e2e_s", "p95", 2.0), [*old, *young], silent) == "open"
    few = spread([0.5] * 9)
    assert decided(Bound("ttft_s", "mean", 2.0), [*few, *[ok(END_S - 2.5, 0.1)] * 200], [(END_S - 3, None)]) == "open"


def test_a_limit_that_is_far_away_is_not_waited_for() -> None:
    """All who were asked a second ago are known: whether the limit is two seconds or a thousand."""
    for most in (2.0, 1000.0):
        assert decided(Bound("ttft_s", "p95", most), spread([0.5] * 72), [(END_S - 0.1, None)]) == "holds"
        assert decided(Bound("e2e_s", "p95", most), spread([0.5] * 72), [(END_S - 0.1, None)]) == "holds"


@pytest.mark.parametrize("most", [0.5, 20.0])
def test_waits_beyond_a_limit_are_found_as_often_with_a_long_limit(most: float) -> None:
    """One in eight waits longer than the limit, and one in twenty may: nobody may say that it holds."""
    decisions = []
    for seed in range(60):
        rng = random.Random(seed)
        asked = [(END_S * number / 200, most * rng.choice([0.2] * 7 + [1.5])) for number in range(200)]
        ended = [ok(at, wait, 0.0) for at, wait in asked if at + wait < END_S]
        waiting = [(at, None) for at, wait in asked if at + wait >= END_S]
        decisions.append(decided(Bound("ttft_s", "p95", most), ended, waiting))
    assert "holds" not in decisions
    assert decisions.count("violated") > 30


def test_waiting_counts_from_the_intention_in_an_open_loop() -> None:
    late = [replace(record, intended_at=record.intended_at - 5.0) for record in spread([0.5] * 100) if record.index]
    late = [record for record in late if record.intended_at >= 0]
    goal = Precise((TTFT,), None, (END_S,))
    assert goal.look(seen(late)).limits == {TTFT.name: "holds"}
    assert goal.look(seen(late, open_loop=True)).limits == {TTFT.name: "violated"}


def test_time_per_token_and_end_to_end() -> None:
    answers = [ok(float(number), 0.5, gap_s=0.05) for number in range(90)]
    assert decided(Bound("tpot_s", "p95", 0.1), answers) == "holds"
    assert decided(Bound("tpot_s", "p95", 0.02), answers) == "violated"
    assert decided(Bound("e2e_s", "p95", 1.5), answers) == "holds"
    assert decided(Bound("e2e_s", "p95", 0.8), answers) == "violated"
    assert decided(Bound("tpot_s", "p95", 0.1), [replace(one, eval_count=None) for one in answers]) == "open"


def test_a_failure_that_had_spoken_has_a_ttft() -> None:
    broken = [replace(one, outcome=Outcome.FAILED, eval_count=None) for one in spread([3.0] * 60)]
    assert decided(Bound("ttft_s", "p50", 2.0), broken) == "violated"
    assert decided(Bound("e2e_s", "p50", 2.0), broken) == "open"


def test_an_answer_that_speaks_longer_than_its_limit_violates_it() -> None:
    speaking = [(float(number), number + 0.5) for number in range(60)]
    assert decided(Bound("e2e_s", "p95", 10.0), [], speaking) == "violated"


@given(
    st.lists(st.floats(0.01, 10), min_size=1, max_size=120),
    st.sampled_from(["mean", "p50", "p90", "p95", "p99"]),
    st.floats(0.05, 8),
    st.floats(1.001, 3),
)
def test_a_wider_limit_is_never_worse(waits: list[float], statistic: str, most: float, wider: float) -> None:
    """Where one holds a wider one is not violated, and the other way round."""
    records = spread(waits)
    strict, loose = (decided(Bound("ttft_s", statistic, at), records) for at in (most, most * wider))  # type: ignore[arg-type]
    assert (strict, loose) != ("holds", "violated")


# precision


def samples(rates: Sequence[float], every_s: float = 0.25, in_flight: Sequence[int] = ()) -> list[Sample]:
    found = [Sample(0.0, 0, in_flight[0] if in_flight else 4)]
    for number, rate in enumerate(rates, 1):
        busy = in_flight[min(number, len(in_flight) - 1)] if in_flight else 4
        found.append(Sample(number * every_s, found[-1].pieces + round(rate * every_s), busy))
    return found


def test_a_steady_rate_is_known_exactly() -> None:
    look = Precise((), 0.01, (END_S,)).look(seen([], samples=samples([400.0] * 100)))
    assert (look.precision, look.enough, look.sunk) == (0.0, True, False)


def test_precision_is_half_the_interval_and_grows_narrower() -> None:
    rng = random.Random(3)
    rates = [rng.gauss(400, 80) for _ in range(1600)]
    wide, narrow = (Precise((), 0.02, (END_S,)).look(seen([], samples=samples(rates[:count]))) for count in (100, 1600))
    assert wide.precision is not None
    assert narrow.precision is not None
    # 1.96 standard errors of a fifth of the mean, and some more for what the batches do not know
    assert 0.7 < wide.precision / (1.96 * 0.2 / 100**0.5) < 2
    assert 0.7 < narrow.precision / (1.96 * 0.2 / 1600**0.5) < 2
    assert (wide.enough, narrow.enough) == (False, True)


def test_too_few_samples_say_nothing() -> None:
    look = Precise((), 0.5, (END_S,)).look(seen([], samples=samples([400.0] * 9)))
    assert (look.precision, look.enough) == (None, False)
    assert Precise((), None, (END_S,)).look(seen([])).enough
    nothing = Precise((), 0.5, (END_S,)).look(seen([], samples=samples([0.0] * 50)))
    assert (nothing.precision, nothing.enough) == (None, False)


def test_all_that_is_asked_for_has_to_be_known() -> None:
    goal = Precise((TTFT,), 0.05, (END_S,))
    steady = samples([400.0] * 100)
    assert goal.look(seen(spread([0.5] * 80), samples=steady)).enough
    assert not goal.look(seen(spread([0.5] * 20), samples=steady)).enough
    assert not goal.look(seen(spread([0.5] * 80))).enough


# overload, by hand


def queue(rate: float, served: float, *, open_loop: bool = True) -> Seen:
    """A moment of one server that takes 1/served seconds for each request, which come at equal distances."""
    arrivals = [number / rate for number in range(int(END_S * rate))]
    free, firsts = 0.0, []
    for at in arrivals:
        firsts.append(max(at, free))
        free = firsts[-1] + 1 / served
    pairs = list(zip(arrivals, firsts, strict=True))
    ended = [
        RequestRecord(number, at, Outcome.OK, at, first_content_at=first, finished_at=first + 1 / served)
        for number, (at, first) in enumerate(pairs)
        if first + 1 / served < END_S
    ]
    waiting = [(at, first if first < END_S else None) for at, first in pairs[len(ended) :]]
    moments = [0.5 * number for number in range(int(2 * END_S))]
    busy = [
        Sample(moment, 0, sum(at <= moment for at in arrivals) - sum((r.finished_at or 0) <= moment for r in ended))
        for moment in moments
    ]
    return seen(ended, waiting, busy, open_loop=open_loop)


def test_a_queue_that_only_grows_is_an_overload() -> None:
    look = Precise((), None, (END_S,)).look(queue(10, 8))
    assert look.overload is not None
    assert look.sunk
    assert look.overload.offered == pytest.approx(10, rel=0.02)
    assert look.overload.served == pytest.approx(8, rel=0.02)
    assert look.overload.over == pytest.approx(0.25, abs=0.03)
    assert look.overload.ttft_per_s is not None
    for (low, high), true in ((look.overload.in_flight_per_s, 2.0), (look.overload.ttft_per_s, 0.25)):
        assert 0 < low <= high
        assert (low + high) / 2 == pytest.approx(true, rel=0.1)


def growing(*, waits: bool, busy: bool) -> Seen:
    """Ten requests a second of which the waits grow, or their number, or both."""
    at = [number / 10 for number in range(900)]
    ended = [ok(moment, 0.5 + (0.05 * moment if waits else 0.0)) for moment in at]
    number = [Sample(float(second), 0, 4 + (3 * second if busy else second % 2)) for second in range(100)]
    return seen(ended, (), number, open_loop=True)


def test_both_have_to_grow() -> None:
    """More on their way are longer answers, too; longer waits alone pass."""
    goal = Precise((), None, (END_S,))
    found = {(waits, busy): goal.look(growing(waits=waits, busy=busy)).sunk for waits in BOTH for busy in BOTH}
    assert found == {(waits, busy): waits and busy for waits in BOTH for busy in BOTH}


@pytest.mark.parametrize(
    "moment",
    [
        queue(7.5, 8),
        queue(8.5, 8),  # six of a hundred pile up: not enough to matter
        queue(10, 8, open_loop=False),
        replace(queue(10, 8), steady=False),  # a ramp grows, and so does what is on its way
        replace(queue(10, 8), samples=()),
        replace(queue(10, 8), records=(), waiting=()),
    ],
    ids=["below", "little", "closed", "ramp", "no samples", "nobody"],
)
def test_what_is_no_overload(moment: Seen) -> None:
    look = Precise((), None, (END_S,)).look(moment)
    assert (look.overload, look.sunk) == (None, False)


def holding(*, more: bool) -> Seen:
    """As many on their way as may be, of before the window; of its own all are held: more and more, or fewer."""
    held = [(number / 10, None) for number in range(1000)]
    moments = [Sample(float(second), 0, 20, 10 * (second if more else 99 - second) + 1) for second in range(100)]
    return seen([], held, moments, open_loop=True)


def test_requests_that_cannot_leave_have_not_succeeded_and_are_too_many_once_they_are_more_and_more() -> None:
    goal = Precise((Bound("tpot_s", "p95", 1.0),), None, (END_S,), min_success=0.99)
    look = goal.look(holding(more=True))
    assert look.limits == {"tpot_s p95": "open", SUCCESS: "open"}
    assert look.overload is not None
    assert (look.overload.offered, look.overload.served, look.overload.ttft_per_s) == (10.0, 0.0, None)
    fewer = goal.look(holding(more=False))
    assert (fewer.overload, fewer.sunk) == (None, False)
    assert Precise((TTFT,), None, (END_S,)).look(holding(more=False)).limits[TTFT.name] == "violated"


def test_a_cluster_that_answers_nothing_is_over_without_end() -> None:
    assert Overload(10.0, 0.0, (1, 2), (1, 2)).over == float("inf")


# whole loads, in virtual time: 4 slots, 2 s each, can do 2 requests/s

PHASES = Phases(warmup_s=10, warmup_max_s=60, window_s=120, window_max_s=240, drain_s=60)
CAPACITY = 2.0


def load(level: Level, *bounds: Bound, precision: float | None = None, phases: Phases = PHASES) -> LoadResult:
    asked = SeededWorkload(1, Lengths("fixed", 50), Lengths("fixed", 16))
    cluster = Standin(slots=4, prompt_s=0.5, token_s=0.1)
    return run_virtual(run(cluster, asked, level, phases, "n", goal=Precise(bounds, precision, phases.looks)))


def lasted(result: LoadResult) -> float:
    return result.window_end - result.window_start


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("excess", "latest_s"), [(0.5, 120.0), (1.0, 60.0), (3.0, 60.0)])
def test_an_overloaded_window_ends_early_and_says_by_how_much(excess: float, latest_s: float, seed: int) -> None:
    result = load(OpenLoop(CAPACITY * (1 + excess), seed=seed))
    assert result.look.overload is not None
    assert result.look.sunk
    assert lasted(result) <= latest_s + 1e-6 < PHASES.window_max_s
    assert lasted(result) in [pytest.approx(end) for end in PHASES.looks]
    assert result.look.overload.over == pytest.approx(excess, rel=0.3)
    assert result.look.overload.served == pytest.approx(CAPACITY, rel=0.15)
    # nobody is waited for any more
    assert max(record.finished_at or 0 for record in result.records) == pytest.approx(result.window_end, abs=0.1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("part", [0.3, 0.6, 0.8])
def test_a_load_below_capacity_is_never_an_overload(part: float, seed: int) -> None:
    result = load(OpenLoop(CAPACITY * part, seed=seed))
    assert (result.look.overload, result.look.sunk) == (None, False)
    assert lasted(result) == pytest.approx(PHASES.window_s)


@pytest.mark.parametrize(("part", "seed"), [(0.8, 37), (0.9, 14), (0.95, 29), (0.95, 50)])
def test_a_queue_that_grows_by_chance_is_no_overload(part: float, seed: int) -> None:
    """Of sixty seeds one at 0.8 of the capacity, two at 0.9, four at 0.95."""
    assert load(OpenLoop(CAPACITY * part, seed=seed)).look.overload is None


def test_more_users_than_slots_are_no_overload() -> None:
    result = load(ClosedLoop(12))
    assert (result.look.overload, result.look.sunk) == (None, False)


def test_a_window_ends_early_when_a_limit_is_surely_missed() -> None:
    result = load(ClosedLoop(12), Bound("ttft_s", "p50", 1.0))
    assert result.look.limits == {"ttft_s p50": "violated"}
    assert lasted(result) == pytest.approx(PHASES.looks[0])


def test_a_window_that_is_decided_has_its_least_length() -> None:
    result = load(ClosedLoop(4), Bound("ttft_s", "p95", 1.0), precision=0.05)
    assert result.look.limits == {"ttft_s p95": "holds"}
    assert result.look.enough
    assert result.look.precision is not None
    assert result.look.precision <= 0.05
    assert lasted(result) == pytest.approx(PHASES.window_s)


def test_a_window_grows_while_something_is_open() -> None:
    result = load(OpenLoop(0.6, "constant"), Bound("ttft_s", "p95", 1.0))
    assert result.look.limits == {"ttft_s p95": "holds"}
    assert PHASES.window_s < lasted(result) < PHASES.window_max_s
    longest = load(OpenLoop(0.2, "constant"), Bound("ttft_s", "p95", 1.0))
    assert longest.look.limits == {"ttft_s p95": "open"}
    assert lasted(longest) == pytest.approx(PHASES.window_max_s)


def test_planned_ends_grow_by_a_quarter() -> None:
    looks = PHASES.looks
    assert looks[:3] == (30.0, 60.0, 120.0)
    assert looks[-1] == 240.0
    assert all(after / before <= 1.25**1.5 for before, after in pairwise(looks[2:]))
    assert replace(PHASES, window_max_s=120).looks == (30.0, 60.0, 120.0)
