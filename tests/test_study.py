"""The night's loop on a bench that answers by a law, in virtual time; and the order of what it found."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import AutotuneError, BaselineFailed, DeviceBusy, DeviceLost, PortTaken, StorageError
from autotune.events import read
from autotune.sampler import Sampler, Way
from autotune.simulator.clock import run_virtual
from autotune.spec import Budget
from autotune.standing import Standing, standings
from autotune.store import Store
from autotune.study import FAULT_PAUSE_S, MOST_FAULTS, Clock, Night
from tests.factories import BASELINE, PLACED, params, result, space
from tests.virtual import NARROW, RECORD, TRIAL_S, Ended, Played, Studies, by_slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from autotune.result import TrialResult
    from autotune.rival import Rival
    from tests.virtual import Law

ONE_SLOT = replace(PLACED, layers_on_device=8, size_vram_bytes=100, num_parallel=1, parallel_unsupported=True)


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    return Studies(tmp_path / "night")


# what is tried


def test_the_first_trial_is_the_baseline_and_then_the_space_is_searched(studies: Studies) -> None:
    ended = studies.night(trials=4)
    assert ended.results[0].params == BASELINE
    assert not studies.where.allows(BASELINE)
    assert all(studies.where.allows(one.params) for one in ended.results[1:])
    assert ended.store.trials.results() == ended.results
    assert ended.store.trials.records(2, 0) == [RECORD]
    assert [event["number"] for event in ended.seen("trial begins")] == [0, 1, 2, 3]
    assert [event["result"] for event in ended.seen("result")] == ended.results
    assert [event["objective"] for event in read(ended.store.events) if event["what"] == "trial"] == [
        one.score.objective for one in ended.results
    ]


def test_a_plan_is_written_before_its_trial(studies: Studies) -> None:
    bench = Played(faults=[None, RuntimeError("the power is gone")])
    ended, _ = studies.broken(RuntimeError, bench, trials=3)
    assert (ended.store.folder / "trials" / "0001" / "plan.json").exists()
    assert len(ended.store.trials.results()) == 1


# when it ends


@pytest.mark.parametrize(("believed", "part"), [(1e6, 1.0), (0.5, None)])
def test_nobody_is_dropped_for_what_is_only_believed(
    studies: Studies, monkeypatch: pytest.MonkeyPatch, believed: float, part: float | None
) -> None:
    """What the best was measured to make is the most that a candidate has to beat; where less is believed, that."""
    monkeypatch.setattr(Sampler, "incumbent", lambda _: (believed, 0.0))
    asked: list[Rival | None] = []

    def law(number: int, chosen: Mapping[str, Any]) -> TrialResult:
        asked.append(cast("Any", bench).rival)
        return by_slots(number, chosen)

    bench = Played(law)
    found = studies.night(bench, trials=4).results
    assert asked[0] is None
    assert asked[-1] is not None
    most = max(one.levels[bench.spec.level(None).label].output_tps for one in found[:-1])
    assert asked[-1].tps == (believed if part is None else part * most)


def test_it_ends_by_trials(studies: Studies) -> None:
    assert studies.night(trials=3).why == "3 trials are done"


def test_it_ends_when_everything_was_tried(studies: Studies) -> None:
    ended = studies.night(trials=100)
    assert ended.why == "every configuration of the space has been tried"
    assert len(ended.results) == 1 + studies.where.after_memory


def test_it_ends_by_hours_and_keeps_time_for_the_proof(studies: Studies) -> None:
    ended = studies.night(hours=3, proof_share=0.6)
    assert ended.why == "no time is left for another trial"
    assert len(ended.results) == 7
    assert ended.took_s == 7 * TRIAL_S <= 0.4 * 3 * 3600


def test_it_ends_by_the_time_of_day_and_keeps_time_for_the_proof(studies: Studies) -> None:
    ended = studies.night(until="01:40", proof_share=0.5)
    assert ended.why == "no time is left for another trial"
    assert ended.took_s == 8 * TRIAL_S == 0.5 * 160 * 60


def test_whatever_comes_first_ends_it(studies: Studies) -> None:
    assert studies.night(trials=2, hours=9, until="07:00").why == "2 trials are done"
    assert studies.night(trials=9, hours=9, until="23:10").why == "no time is left for another trial"


def test_a_night_that_is_over_before_it_begins_tries_nothing(studies: Studies) -> None:
    studies.night(trials=2)
    ended = studies.night(trials=2)
    assert (ended.why, ended.bench.calls) == ("2 trials are done", [])


# the clock


def at(moment: str) -> datetime:
    """A moment, in the time of this machine."""
    return datetime.fromisoformat(moment).astimezone()


def left_at(moment: str, **budget: Any) -> float | None:
    """Seconds that a night which begins then has for its search."""

    async def asked() -> float | None:
        return Clock.start(Budget(**{"proof_share": 0, **budget}), wall=lambda: at(moment)).search_left_s()

    return run_virtual(asked())


@pytest.mark.parametrize(
    ("now", "until", "hours"),
    [
        ("2026-11-20 23:00:00", "07:00", 8),
        ("2026-11-20 23:50:00", "00:10", 1 / 3),
        ("2026-11-21 00:00:00", "00:10", 1 / 6),
        ("2026-11-21 00:10:00", "00:10", 24),
        ("2026-11-21 00:09:59", "00:10", 1 / 3600),
        ("2026-11-20 23:59:59", "00:00", 1 / 3600),
        ("2026-11-21 07:00:30", "07:00", 24 - 30 / 3600),
        ("2026-12-31 22:00:00", "06:00", 8),
    ],
)
def test_a_time_of_day_is_its_next_occurrence(now: str, until: str, hours: float) -> None:
    assert left_at(now, until=until) == pytest.approx(hours * 3600)


def test_hours_and_a_time_of_day_bound_each_other() -> None:
    assert left_at("2026-11-20 23:00:00", until="07:00", hours=2) == 2 * 3600
    assert left_at("2026-11-20 23:00:00", until="00:00", hours=2) == 3600
    assert left_at("2026-11-20 23:00:00", hours=2, proof_share=0.25) == 1.5 * 3600
    assert left_at("2026-11-20 23:00:00", trials=5) is None


@pytest.fixture
def central_europe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Summer time from the last Sunday in March to the last in October."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("central_europe")
@pytest.mark.parametrize(
    ("evening", "hours"), [("2026-03-28 23:00", 7), ("2026-10-24 23:00", 9), ("2026-06-01 23:00", 8)]
)
def test_seven_in_the_morning_is_seven_when_the_clocks_change(evening: str, hours: float) -> None:
    assert left_at(evening, until="07:00") == hours * 3600


@pytest.mark.usefixtures("central_europe")
@pytest.mark.parametrize(
    ("now", "left_s"),
    [
        ("2026-10-25 01:30+02:00", 3600),  # clocks are put back from 03:00 to 02:00: it comes twice
        ("2026-10-25 02:30+02:00", 3600),
        ("2026-10-25 02:50+02:00", 2400),
        ("2026-10-25 02:10+01:00", 1200),
        ("2026-10-25 02:30+01:00", 24 * 3600),
        ("2026-03-29 01:10+01:00", 4800),  # put forward from 02:00 to 03:00: it is left out
        ("2026-03-28 02:30+01:00", 24 * 3600),
        ("2026-03-29 03:10+02:00", 23 * 3600 + 1200),
    ],
)
def test_a_time_of_day_in_the_hour_that_comes_twice_or_never_is_still_to_come(now: str, left_s: float) -> None:
    assert left_at(now, until="02:30") == left_s


def test_a_clock_that_is_set_in_the_night_moves_the_deadline_but_not_the_hours() -> None:
    async def asked(**budget: Any) -> list[float | None]:
        now, set_back = asyncio.get_running_loop().time, timedelta()
        clock = Clock.start(
            Budget(proof_share=0, **budget), wall=lambda: at("2026-11-20 23:00") + timedelta(seconds=now()) - set_back
        )
        found = [clock.search_left_s()]
        await asyncio.sleep(600)
        found.append(clock.search_left_s())
        set_back = timedelta(minutes=5)
        return [*found, clock.search_left_s()]

    assert run_virtual(asked(until="00:00")) == [3600, 3000, 3300]
    assert run_virtual(asked(hours=1)) == [3600, 3000, 3000]


# what is expected


def lefts(ended: Ended) -> list[float | None]:
    return [event["left_s"] for event in ended.seen("result")]


def test_the_end_is_expected_from_the_trials_so_far(studies: Studies) -> None:
    assert lefts(studies.night(trials=4)) == [3 * TRIAL_S, 2 * TRIAL_S, TRIAL_S, 0.0]


def test_the_end_is_never_expected_after_the_deadline(studies: Studies) -> None:
    assert lefts(studies.night(trials=9, hours=2, proof_share=0.75)) == [1200.0, 600.0, 0.0]


def test_a_space_that_will_be_used_up_ends_the_night_earlier_than_its_budget(studies: Studies) -> None:
    assert lefts(studies.night(trials=100))[-3:] == [2 * TRIAL_S, TRIAL_S, 0.0]
    small = Studies(studies.folder / "small", space((2, 4), ("0",)))
    assert lefts(small.night(hours=24)) == [2 * TRIAL_S, TRIAL_S, 0.0]


# faults of the machine


def test_two_faults_are_forgiven_and_the_trial_is_recorded_once(studies: Studies) -> None:
    bench = Played(faults=[None, PortTaken("first"), DeviceBusy("second")])
    ended = studies.night(bench, trials=3)
    assert ended.numbers == [0, 1, 1, 1, 2]
    assert [one.number for one in ended.results] == [0, 1, 2]
    assert ended.store.trials.results() == ended.results
    assert [(str(event["error"]), event["left"]) for event in ended.seen("fault")] == [("first", 2), ("second", 1)]
    assert bench.cleared == 2
    assert bench.calls[2][1] - bench.calls[1][1] == TRIAL_S + FAULT_PAUSE_S
    reopened = Sampler(ended.store.optuna, "test", 1, studies.where, BASELINE)
    reopened.open(ended.results)
    assert len(reopened._study.trials) == 3


@pytest.mark.parametrize("error", [DeviceLost("GPU-1 is gone"), StorageError("the disk is full")])
def test_the_third_fault_in_a_row_ends_the_night_with_its_exit_code(studies: Studies, error: AutotuneError) -> None:
    faults = [None, None, PortTaken("first"), DeviceBusy("second"), error]
    ended, raised = studies.broken(type(error), Played(faults=list(faults)), trials=9)
    assert raised is error
    assert raised.exit_code == (4 if isinstance(error, StorageError) else 3)
    assert ended.numbers == [0, 1, 2, 2, 2]
    assert [one.number for one in ended.results] == [0, 1]
    assert [event["left"] for event in ended.seen("fault")] == [2, 1, 0]


def test_faults_that_are_not_in_a_row_do_not_end_it(studies: Studies) -> None:
    twice = [PortTaken("again")] * (MOST_FAULTS - 1)
    ended = studies.night(Played(faults=[None, *twice, None, *twice, None, *twice]), trials=4)
    assert ended.numbers == [0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert len(ended.results) == 4


def test_a_cluster_that_cannot_be_put_away_is_a_fault_like_any(studies: Studies) -> None:
    bench = Played(faults=[None, PortTaken("first")], clearing=[DeviceBusy("still there")])
    ended = studies.night(bench, trials=2)
    assert [str(event["error"]) for event in ended.seen("fault")] == ["first", "still there"]
    assert ended.numbers == [0, 1, 1]
    assert len(ended.results) == 2


def test_a_result_that_could_not_be_saved_is_saved_again_and_not_measured_again(studies: Studies) -> None:
    in_the_way = studies.folder / "trials" / "0001" / "result.json"

    def law(number: int, chosen: Mapping[str, Any]) -> TrialResult:
        if number == 1:
            in_the_way.mkdir()
            asyncio.get_running_loop().call_later(FAULT_PAUSE_S / 2, in_the_way.rmdir)
        return by_slots(number, chosen)

    ended = studies.night(Played(law), trials=3)
    assert ended.numbers == [0, 1, 2]
    assert ended.store.trials.results() == ended.results
    assert len(ended.seen("fault")) == 1


def emptied(file: Path) -> None:
    optuna.delete_study(study_name="test", storage=f"sqlite:///{file}")


@pytest.mark.parametrize("lose", [Path.unlink, emptied])
def test_a_night_goes_on_without_optunas_file_and_the_next_makes_it_anew(
    studies: Studies, lose: Callable[[Path], None]
) -> None:
    """All that it holds is in the trials."""
    file = Store(studies.folder).optuna

    def law(number: int, chosen: Mapping[str, Any]) -> TrialResult:
        if number == 1:
            lose(file)
        return by_slots(number, chosen)

    ended = studies.night(Played(law), trials=4)
    assert ended.numbers == [0, 1, 2, 3]
    assert ended.store.trials.results() == ended.results
    assert ended.seen("fault") == []
    assert [event["said"].split(": ", 1)[0] for event in ended.seen("apart")] == [str(file)]
    again = studies.night(trials=5)
    assert (again.numbers, again.seen("apart")) == ([4], [])
    assert len(optuna.load_study(study_name="test", storage=f"sqlite:///{file}").trials) == 5


def test_a_sampler_that_reads_optunas_file_goes_on_without_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = Studies(tmp_path / "night", way=Way("tpe"))
    monkeypatch.setattr(
        Night, "_break", lambda night: night.store.optuna.unlink(missing_ok=True)
    )  # before each proposal
    ended = studies.night(trials=4)
    assert (ended.numbers, len(ended.seen("apart"))) == ([0, 1, 2, 3], 1)


# a configuration that fails


def test_a_configuration_that_fails_is_recorded_and_not_tried_again(studies: Studies) -> None:
    def law(number: int, chosen: Mapping[str, Any]) -> TrialResult:
        return result(number, chosen, reason="load_failed") if number else by_slots(number, chosen)

    ended = studies.night(Played(law), trials=4)
    assert ended.numbers == [0, 1, 2, 3]
    assert [one.reason for one in ended.store.trials.results()] == ["", *["load_failed"] * 3]
    assert [one.score.objective for one in ended.results[1:]] == [None] * 3


def baseline_fails(times: int, reason: str) -> Law:
    """So often, and then no more."""
    failures = [reason] * times

    def law(number: int, chosen: Mapping[str, Any]) -> TrialResult:
        if number == 0 and failures:
            return result(0, chosen, reason=failures.pop(), details="the last words\nof its log")
        return by_slots(number, chosen)

    return law


@pytest.mark.parametrize("reason", ["start_failed", "never_ready", "load_failed", "on_cpu"])
def test_a_baseline_that_does_not_run_gets_a_second_chance(studies: Studies, reason: str) -> None:
    ended = studies.night(Played(baseline_fails(1, reason)), trials=2)
    assert ended.numbers == [0, 0, 1]
    assert [one.measured for one in ended.results] == [True, True]
    assert [event["result"].reason for event in ended.seen("retry")] == [reason]


def test_a_baseline_that_does_not_run_at_all_ends_the_night(studies: Studies) -> None:
    ended, raised = studies.broken(BaselineFailed, Played(baseline_fails(2, "load_failed")), trials=5)
    assert raised.exit_code == 3
    assert raised.message == "the baseline does not run: it was told to: load_failed"
    assert raised.details == "the last words\nof its log"
    assert ended.numbers == [0, 0]
    assert ended.store.trials.results() == []


def test_a_baseline_that_runs_badly_is_a_baseline_all_the_same(studies: Studies) -> None:
    ended = studies.night(Played(baseline_fails(1, "offloaded")), trials=2)
    assert ended.numbers == [0, 1]
    assert ended.results[0].reason == "offloaded"


# a model with one slot


def one_slot(number: int, chosen: Mapping[str, Any]) -> TrialResult:
    return replace(by_slots(number, chosen), placements=(ONE_SLOT,))


def test_a_model_with_one_slot_leaves_num_parallel_nothing_to_tune(studies: Studies) -> None:
    ended = studies.night(Played(one_slot), trials=9)
    assert ended.why == "every configuration of the space has been tried"
    assert [one.params["num_parallel"] for one in ended.results] == [1, 1, 1]
    assert all(NARROW.allows(one.params) for one in ended.results)
    assert len(ended.seen("single")) == 1


def test_a_model_with_one_slot_is_remembered_when_a_study_goes_on(studies: Studies) -> None:
    studies.night(Played(one_slot), trials=2)
    ended = studies.night(Played(one_slot), trials=9)
    assert len(ended.seen("single")) == 1
    assert [one.params["num_parallel"] for one in ended.results] == [1, 1, 1]


# going on


def test_a_study_goes_on_to_its_total_not_to_as_many_more(studies: Studies) -> None:
    first = studies.night(trials=3)
    assert first.numbers == [0, 1, 2]
    second = studies.night(trials=5)
    assert second.numbers == [3, 4]
    assert second.results[:3] == first.results


def test_hours_count_from_the_start_of_each_night(studies: Studies) -> None:
    assert len(studies.night(hours=0.5, proof_share=0).results) == 3
    assert len(studies.night(hours=0.5, proof_share=0).results) == 6


def test_an_error_leaves_what_was_found_and_the_trial_that_broke_is_run_again(studies: Studies) -> None:
    bench = Played(faults=[None, None, RuntimeError("a defect of ours")])
    ended, _ = studies.broken(RuntimeError, bench, trials=4)
    assert [one.number for one in ended.results] == [0, 1]
    assert ended.store.trials.results() == ended.results
    assert standings(ended.results)[0].feasible
    resumed = studies.night(trials=4)
    assert resumed.numbers == [2, 3]
    assert [one.number for one in resumed.store.trials.results()] == [0, 1, 2, 3]


# the order of configurations


def test_feasible_comes_before_infeasible_and_that_before_failed() -> None:
    fast_but_late = result(1, params(8), tps=900.0, ttft_s=3.0)
    later_still = result(2, params(16), tps=1800.0, ttft_s=9.0)
    failing = result(3, params(32), reason="load_failed")
    slow, slower = result(4, params(2), tps=50.0), result(5, params(1), tps=40.0)
    every = standings([failing, later_still, fast_but_late, slower, slow])
    assert [one.results[0].number for one in every] == [4, 5, 1, 2, 3]


def test_trials_of_one_fingerprint_are_one_configuration() -> None:
    repeats = [result(number, params(4), tps=tps) for number, tps in enumerate((100.0, 110.0, 120.0))]
    other = result(3, params(8), tps=115.0)
    best, second = standings([*repeats, other])
    assert (best.results, best.objective) == ((other,), 115.0)
    assert (second.results, second.objective, second.feasible) == (tuple(repeats), 110.0, True)


def test_a_configuration_that_missed_once_is_not_feasible() -> None:
    (one,) = standings([result(0, params(4)), result(1, params(4), ttft_s=4.0)])
    assert not one.feasible
    assert one.violation == pytest.approx(0.5)


def test_a_configuration_that_failed_once_is_not_feasible() -> None:
    (one,) = standings([result(0, params(4)), result(1, params(4), reason="died_under_load")])
    assert (one.feasible, one.objective) == (False, 100.0)


def test_equals_keep_the_order_in_which_they_were_tried() -> None:
    assert [one.results[0].number for one in standings([result(n, params(n)) for n in range(1, 6)])] == [1, 2, 3, 4, 5]


def test_nothing_has_no_order() -> None:
    assert standings([]) == []


made_up = st.lists(
    st.builds(
        lambda slots, tps, ttft_s, reason: result(0, params(slots), tps, ttft_s, reason=reason),
        st.integers(1, 5),
        st.floats(0, 1000),
        st.none() | st.floats(0.01, 20),
        st.sampled_from(["", "", "load_failed"]),
    ),
    max_size=12,
).map(lambda every: [replace(one, number=number) for number, one in enumerate(every)])


def group(standing: Standing) -> int:
    """Feasible, measured, failed."""
    if standing.feasible:
        return 0
    return 1 if standing.objective is not None else 2


def ranks(every: Sequence[Standing]) -> list[tuple[int, float | None]]:
    return [(group(one), one.objective if one.feasible else one.violation) for one in every]


@given(made_up)
def test_any_results_are_in_order(results: list[TrialResult]) -> None:
    every = standings(results)
    assert [group(one) for one in every] == sorted(map(group, every))
    objectives = [one.objective or 0.0 for one in every if group(one) == 0]
    assert objectives == sorted(objectives, reverse=True)
    violations = [one.violation for one in every if group(one) == 1]
    assert violations == sorted(violations)


@given(made_up)
def test_every_trial_stands_once_with_those_of_its_configuration(results: list[TrialResult]) -> None:
    every = standings(results)
    assert sorted(one.number for standing in every for one in standing.results) == [one.number for one in results]
    assert len({standing.results[0].fingerprint for standing in every}) == len(every)
    for standing in every:
        assert {one.fingerprint for one in standing.results} == {standing.results[0].fingerprint}
        assert standing.params == standing.results[0].params
        measured = [one.score.objective for one in standing.results if one.score.objective is not None]
        assert standing.objective == (fmean(measured) if measured else None)


@given(made_up, st.randoms())
def test_the_order_does_not_depend_on_when_something_was_tried(results: list[TrialResult], chance: Any) -> None:
    shuffled = list(results)
    chance.shuffle(shuffled)
    assert ranks(standings(shuffled)) == ranks(standings(results))
