"""A night beside its grid: what the benchmark makes of results, and that its grid leaves nothing out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autotune.events import Events
from autotune.ground import baseline, space
from autotune.ollama.api import ServerFacts
from autotune.rehearsal.host import host
from autotune.rehearsal.nights import night
from autotune.simulator.clock import run_virtual
from autotune.space import key
from autotune.spec import load
from autotune.store import Store
from tests.benchmarks.compared import Belief, Compared, Foretold, Spent, compared, foretold, rows
from tests.benchmarks.grid import finished, page, whole
from tests.conftest import TINY, cores
from tests.factories import params, result
from tests.rehearsal.studies import small

if TYPE_CHECKING:
    from autotune.result import TrialResult
    from autotune.spec import StudySpec

LABEL = "2 users"
SLOW, FAST, LATE, BROKEN = params(1), params(4), params(8), params(16)


def repeat(fast: float, late_s: float, *, broken: bool = False) -> list[TrialResult]:
    """A repeat of a grid of four; the limit is a TTFT of 2 s."""
    return [
        result(0, SLOW, 50.0),
        result(1, LATE, 200.0, late_s),
        result(2, FAST, fast),
        result(3, BROKEN, reason="load_failed") if broken else result(3, BROKEN, 150.0),
    ]


def found(*repeats: list[TrialResult], **more: Any) -> Compared:
    values: dict[str, Any] = {"choices": {}, "foretold": (), "spent": (), "night_minutes": 1.0}
    return Compared("made up", len(repeats), rows(repeats, LABEL), **{**values, **more})


def test_the_best_of_a_grid_holds_the_limits_in_the_mean_of_its_repeats() -> None:
    close = found(repeat(100.0, 2.2), repeat(110.0, 1.9, broken=True))
    assert [row.params for row in close.rows] == [FAST, SLOW, LATE, BROKEN]
    assert [row.holds for row in close.rows] == [True, True, False, False]
    assert close.rows[0].tps == pytest.approx(105)
    rank, below = close.place(SLOW)
    assert rank == 2
    assert below == pytest.approx(1 - 50 / 105)
    held = found(repeat(100.0, 2.2), repeat(110.0, 1.7))
    assert held.rows[0].params == LATE


def test_noise_is_what_repeats_of_one_configuration_differ_by() -> None:
    assert found(repeat(100.0, 1.0)).noise is None
    noisy = found(repeat(100.0, 1.0), repeat(110.0, 1.0))
    assert noisy.noise == pytest.approx(math.sqrt(math.log(1.1) ** 2 / 2 / 4))  # one of four that differ
    assert noisy.alike() == 1


def test_one_that_made_nothing_has_no_logarithm() -> None:
    (row,) = rows([[result(0, SLOW, 0.0)], [result(0, SLOW, 50.0)]], LABEL)
    assert (row.every, row.tps) == ((50.0,), 50.0)


def test_what_cannot_be_told_from_the_best_is_counted() -> None:
    assert found(repeat(170.0, 1.0), repeat(210.0, 1.0)).alike() == 2  # 190 tokens/s, and 200
    assert found(repeat(189.0, 1.0), repeat(191.0, 1.0)).alike() == 1


def test_a_trial_that_was_begun_again_was_foretold_again() -> None:
    told = [
        {"what": "foretold", "number": 1, "tps": tps, "low": 80.0, "high": 125.0, "holds": 0.9} for tps in (500, 100)
    ]
    results = [result(0, SLOW, 50.0), result(1, FAST, 110.0), result(2, LATE, 120.0, dropped="cannot beat")]
    (one,) = foretold(told, results, LABEL)
    assert (one.number, one.belief.tps, one.tps, one.dropped) == (1, 100, 110.0, False)
    assert one.belief.off(110.0) == pytest.approx(math.log(100 / 110))


def test_an_interval_is_wider_by_the_noise_of_what_it_is_held_against() -> None:
    said = Belief(100.0, 95.0, 105.3, 0.9)
    assert said.covers(105.0)
    assert not said.covers(107.0)
    assert said.covers(107.0, noise=0.03)


def test_what_was_dropped_says_nothing_of_a_belief() -> None:
    said = Belief(100.0, 90.0, 111.0, 0.9)
    told = [Foretold(1, FAST, said, 104.0, dropped=False), Foretold(2, LATE, said, 20.0, dropped=True)]
    agreed = found(repeat(100.0, 1.0), foretold=(*told, Foretold(3, BROKEN, said, None, dropped=False))).before()
    assert agreed is not None
    assert (agreed.count, agreed.inside, agreed.noisy) == (1, 1, 1)
    assert agreed.median == agreed.p90 == pytest.approx(math.log(1.04))


def test_the_last_belief_is_held_against_what_was_tried_and_what_was_not() -> None:
    sure, wrong = Belief(100.0, 95.0, 105.3, 1.0), Belief(80.0, 75.0, 85.0, 0.1)
    told = {key(FAST): sure, key(SLOW): wrong}
    every = rows([repeat(100.0, 1.0)], LABEL, [key(FAST)], told)
    last = Compared("made up", 1, every, {}, (), (), 1.0).last()
    assert {name: (agreed.count, agreed.inside, right) for name, (agreed, right) in last.items()} == {
        "all": (2, 1, 1),
        "tried": (1, 1, 1),
        "untried": (1, 0, 0),
    }


def test_dropped_trials_are_told_apart_in_what_was_spent() -> None:
    spent = Spent.of("search", [result(0, seconds=30.0), result(1, seconds=8.0, dropped="cannot beat")])
    assert (spent.trials, spent.dropped, spent.full_s, spent.dropped_s) == (2, 1, 30.0, 8.0)
    assert spent.minutes == pytest.approx(38 / 60)


def slept(spec: StudySpec, folder: Path) -> Store:
    """A whole night in virtual time, kept in a folder."""
    store = Store(folder / spec.study.name)
    store.open(spec, "")

    async def through() -> None:
        await night(await host(spec), spec.study.seed, store)

    run_virtual(through())
    return store


def test_a_night_is_held_against_every_configuration_of_its_space(tmp_path: Path) -> None:
    spec = small(
        workload={"warmup_s": 2, "window_s": 5, "window_max_s": 5, "drain_s": 5},
        search={"num_parallel": [1, 4], "policy": ["least_conn"]},
        budget={"trials": 3},
        proof={"pairs_max": 4},
    )
    ground = run_virtual(host(spec)).ground
    one = slept(spec, tmp_path)
    grid = slept(whole(spec, 1, ground.space.size), tmp_path)
    results, names = grid.trials.results(), {key(params) for params in ground.space.configurations()}
    assert len(results) == len(names)
    assert {key(result.params) for result in results} == names
    assert not any(result.dropped for result in results)
    assert not grid.proofs()
    said = compared(spec, ground, one, [grid])
    assert len(said.rows) == len(names)
    assert all(row.belief is not None for row in said.rows)
    assert said.place(said.choices["best believed"])[1] < 0.1
    assert [told.number for told in said.foretold] == [1, 2]
    assert [spent.trials for spent in said.spent] == [3, 8, 4]
    text = page(said)
    assert "4 configurations, each measured once" in text
    assert "rank" in text
    assert said.last()["all"][0].count == len(names)
    assert said.content()["places"]["baseline"] == said.place(said.choices["baseline"])


def test_the_study_for_two_cores_has_a_space_that_can_be_measured_whole() -> None:
    spec = load(Path(__file__).parent / "benchmarks" / "cpu.toml")
    room = space(spec, cores((0,), (1,)), ServerFacts("0.32.15", TINY))
    assert room.size == 32
    assert baseline(spec, cores((0,), (1,))) in room.configurations()


def test_each_repeat_asks_other_questions_in_another_order() -> None:
    first, second = (whole(small(), number, 9) for number in (1, 2))
    assert first.study != second.study
    assert first.study.seed != second.study.seed  # of the order, too
    assert first.search == second.search


async def test_a_study_is_finished_when_its_last_night_came_to_its_end(tmp_path: Path) -> None:
    spec, store = small(), Store(tmp_path / "study")
    assert not finished(store, spec)
    store.open(spec, "")
    assert not finished(store, spec)
    events = Events(store.events)
    with pytest.raises(ValueError, match="broken off"), events.span("night"):
        raise ValueError("broken off")
    assert not finished(store, spec)
    with events.span("night"):
        assert not finished(store, spec)
    assert finished(store, spec)
    assert not finished(store, small(budget={"trials": 5}))
