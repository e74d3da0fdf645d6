"""The night's budget: done by a time of day, time for the proof, an early end. Nights in virtual time."""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from autotune.errors import BaselineFailed
from autotune.events import Events, read
from autotune.night import whole
from autotune.rehearsal.light import NOWHERE, LightStore
from autotune.simulator.clock import run_virtual
from autotune.space import key
from autotune.spec import Budget
from autotune.study import ASKED, EARLIEST, Clock, Night
from tests.factories import BASELINE, SPEC, params, result, space
from tests.virtual import EVENING, NARROW, TRIAL_S, Noise, Played, Studies, on_two_cards

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from autotune.plan import Plan
    from autotune.result import TrialResult
    from autotune.sampler import Sampler

SPEC_OF_PROOF = SPEC.model_copy(update={"proof": SPEC.proof.model_copy(update={"pairs_max": 400, "pairs": 8})})
"""A proof that goes on for as long as there is time."""


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    return Studies(tmp_path / "night", space((2, 3, 4, 6, 8, 12, 16, 24, 32, 64)))


# done by a time of day


@dataclass
class Draws:
    """A sampler that draws without looking."""

    seed: int
    left: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left = [params(n, "0 | 1") for n in range(1, 200)]
        random.Random(self.seed).shuffle(self.left)

    @property
    def untried(self) -> int:
        return len(self.left)

    def propose(self, _: Callable[[Mapping[str, Any]], float]) -> dict[str, Any]:
        return self.left[-1]

    def begin(self, chosen: Mapping[str, Any]) -> Mapping[str, Any]:
        return chosen

    def tell(self, chosen: Mapping[str, Any], _: TrialResult) -> None:
        self.left = [one for one in self.left if key(one) != key(chosen)]

    def promise(self, _: float) -> None:
        return None

    def ranked(self) -> None:
        return None

    def incumbent(self) -> None:
        return None

    def foretold(self, _: Mapping[str, Any]) -> None:
        return None

    def limit(self, _: Any) -> None:
        raise AssertionError("nothing is lost here")


@dataclass
class Slept:
    """How one night went."""

    late_s: float
    given_up: bool
    runs: int


def slept(seed: int, lasts: Callable[[Plan], float], until: str = "07:00", stop_s: float = 10.0) -> Slept:
    """A night, search and proof, that a time of day ends; what is put back then takes its time too."""

    async def night() -> Slept:
        now = asyncio.get_running_loop().time
        bench = Played(Noise(seed, sd=0.03).law, spec=SPEC_OF_PROOF, lasts=lasts, stop_s=stop_s)
        clock = Clock.start(Budget(until=until), wall=lambda: EVENING + timedelta(seconds=now()))
        end_s = clock.left_s()
        assert end_s is not None
        ending = await whole(
            Night(
                cast("Any", bench),
                LightStore(),
                cast("Sampler", Draws(seed)),
                Events(NOWHERE),
                replace(clock, asleep=lambda: 0.0),
                BASELINE,
                on_two_cards,
                lambda: NARROW,
                [],
            )
        )
        await asyncio.sleep(stop_s)
        return Slept(now() - end_s, "given up" in ending.why, len(bench.calls))

    return run_virtual(night())


def noisy(seed: int, sd: float = 0.3) -> Callable[[Plan], float]:
    """Ten minutes for one instance, fourteen for two, and now and then half as long again."""
    chance = random.Random(f"times {seed}")

    def lasts(plan: Plan) -> float:
        slow = 1.5 if chance.random() < 0.05 else 1.0
        return (1.0 + 0.4 * (len(plan.instances) - 1)) * 600 * slow * math.exp(chance.gauss(-sd * sd / 2, sd))

    return lasts


def test_nights_of_noisy_trials_are_over_by_the_time_of_day() -> None:
    """By what is expected alone, and to the second by giving up what takes longer."""
    every = [slept(seed, noisy(seed)) for seed in range(200)]
    assert all(night.late_s <= 1e-6 for night in every)
    assert sum(not night.given_up for night in every) >= 0.97 * len(every)
    idle_s = sorted(-night.late_s for night in every)
    assert idle_s[len(every) // 2] < 1800  # it is not bought with idleness
    assert sorted(night.runs for night in every)[len(every) // 2] > 30


def test_the_time_that_putting_back_takes_is_kept_too() -> None:
    assert slept(1, lambda _: 600.0, stop_s=300.0).late_s <= -300.0
    assert slept(1, lambda _: 600.0, stop_s=300.0).runs < slept(1, lambda _: 600.0, stop_s=0.0).runs


def test_a_trial_that_goes_on_and_on_is_given_up_when_the_time_is_up(studies: Studies) -> None:
    bench = Played(lasts=lambda plan: 9e9 if plan.num_parallel > 1 else 600.0)
    ended = studies.night(bench, until="01:00")
    assert ended.why == "the time is up; trial 1 took longer than expected and was given up"
    assert ended.took_s == 2 * 3600
    assert ended.store.trials.results() == ended.results
    assert [one.number for one in ended.results] == [0]


def test_hours_are_no_promise_and_give_nothing_up(studies: Studies) -> None:
    bench = Played(lasts=lambda plan: 7200.0 if plan.num_parallel > 1 else 600.0)
    ended = studies.night(bench, hours=1, proof_share=0)
    assert (len(ended.results), ended.took_s) == (2, 7800.0)


def test_a_night_too_short_for_its_baseline_says_so(studies: Studies) -> None:
    _, error = studies.broken(BaselineFailed, Played(), until="23:05")
    assert error.exit_code == 3
    assert "the time was up before the baseline was measured" in error.message


def test_a_proof_whose_run_goes_on_and_on_ends_with_what_it_has(studies: Studies) -> None:
    calls: list[int] = []

    def lasts(_: Plan) -> float:
        calls.append(1)
        return 9e9 if len(calls) > 4 + 4 * 4 + 1 else 600.0

    ended = studies.night(Played(lasts=lasts, law=Noise(1).law), proof=True, until="07:00", trials=4, proof_share=0.4)
    assert ended.took_s == 8 * 3600
    assert ended.why.endswith("is up; a run took longer than expected and was given up")
    assert ended.proof is not None
    assert ended.proof.blocks == 4


# time for the proof


def test_more_than_the_share_is_kept_where_the_fewest_blocks_need_it(studies: Studies) -> None:
    """Four blocks of two are 80 min of three hours, and a tenth of them is 18."""
    ended = studies.night(Played(Noise(1).law), proof=True, hours=3, proof_share=0.1)
    assert len(ended.results) == 9
    assert ended.why.startswith("no time is left for another trial; the proof: ")
    assert ended.proof is not None
    assert ended.proof.blocks >= 4


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_nothing_is_kept_for_a_proof_that_does_not_fit(studies: Studies, share: float) -> None:
    """Four blocks of two are 80 min, more than half of two hours: what was kept for them nobody would use."""
    assert studies.night(hours=2, proof_share=share).took_s == 12 * TRIAL_S
    whole = Studies(studies.folder / "proved", studies.where).night(
        Played(Noise(1).law), proof=True, hours=2, proof_share=share
    )
    assert (len(whole.results), whole.proof) == (12, None)


def test_time_is_kept_for_a_proof_that_fits_though_the_baseline_is_slow(studies: Studies) -> None:
    """Eight runs of 6 min are 48 min, the share; by the baseline's 8 min they would be more than half the night."""
    slow = Played(Noise(1).law, lasts=lambda plan: 480.0 if plan.layout == "0" and plan.num_parallel == 1 else 360.0)
    ended = studies.night(slow, proof=True, hours=2, proof_share=0.4)
    assert ended.proof is not None
    assert ended.proof.blocks >= 4


# what is expected


def test_what_is_left_is_told_with_its_error(studies: Studies) -> None:
    chance = random.Random("left")
    bench = Played(lasts=lambda _: 600 * math.exp(chance.gauss(0, 0.1)))
    told = [(event["left_s"], event["left_error_s"]) for event in studies.night(bench, trials=9).seen("result")]
    errors = [error for _, error in told[:-1]]
    assert errors == sorted(errors, reverse=True)
    assert all(0 < error < left for left, error in told[:-1])
    assert told[-1] == (0.0, 0.0)


def test_a_deadline_is_known_to_a_trial(studies: Studies) -> None:
    told = [event["left_error_s"] for event in studies.night(hours=2, proof_share=0.75).seen("result")]
    assert told == [*[TRIAL_S / 2] * 2, 0.0]


def test_what_runs_costs_less_to_try(studies: Studies) -> None:
    ended = studies.night(trials=3)
    plan = ended.store.trials.plan(2)
    assert ended.night.running == frozenset(plan.instances)
    assert ended.night.cost.of(plan) == pytest.approx(TRIAL_S)


def test_a_resumed_night_knows_what_trials_took(studies: Studies) -> None:
    studies.night(trials=3)
    ended = studies.night(trials=4)
    assert len(ended.night.turns) == 4
    assert [one.seconds for one in ended.night.turns] == [TRIAL_S] * 4


# an early end


def test_a_search_without_promise_ends_early_and_says_so(studies: Studies) -> None:
    studies.promises = [0.4, 0.04, 0.05, 0.041, 0.032, 0.01]
    ended = studies.night(hours=20, proof_share=0.1)
    assert ended.why == "nothing untried is likely to be better by more than 2 % (3.2 % chance)"
    assert len(ended.results) == EARLIEST + 4
    noted = [event for event in read(ended.store.events) if event["what"] == "promise"]
    assert [event["chance"] for event in noted] == [0.4, 0.04, 0.05, 0.041, 0.032]
    whole_night = Studies(studies.folder / "all", studies.where).night(hours=20, proof_share=0.1)
    assert ended.took_s < 0.6 * whole_night.took_s


def test_one_answer_is_not_enough(studies: Studies) -> None:
    studies.promises = [0.01, 0.9] * 20
    assert ASKED == 2
    assert studies.night(trials=20).why == "20 trials are done"


def test_few_trials_are_not_enough(studies: Studies) -> None:
    studies.promises = [0.0] * 20
    assert len(studies.night(trials=20).results) == EARLIEST + ASKED - 1


def test_a_night_that_is_told_to_goes_on(studies: Studies) -> None:
    studies.promises = [0.0] * 20
    assert studies.night(trials=15, early=False).why == "15 trials are done"


def test_a_sampler_that_cannot_say_promises_nothing_and_ends_nothing(studies: Studies) -> None:
    studies.promises = [None] * 20
    assert studies.night(trials=15).why == "15 trials are done"


def test_what_is_better_by_less_than_the_tolerance_is_the_studys_to_say(studies: Studies) -> None:
    studies.promises = [0.0] * 20
    assert "by more than 10 % (0 % chance)" in studies.night(trials=20, tolerance=0.1).why


def test_an_early_end_gives_its_time_to_the_proof(studies: Studies) -> None:
    studies.promises = [0.0] * 20
    ended = studies.night(Played(Noise(1).law), proof=True, hours=9, proof_share=0.3)
    assert "nothing untried is likely to be better" in ended.why
    assert ended.proof is not None
    assert ended.proof.blocks * 3 * TRIAL_S > 0.3 * 9 * 3600


def test_trials_that_failed_are_no_reason_to_hurry(studies: Studies) -> None:
    def law(number: int, chosen: Mapping[str, Any]) -> TrialResult:
        return result(number, chosen, reason="out_of_memory" if number % 2 else "")

    assert len(studies.night(Played(law), trials=9).results) == 9


# while there is nothing to prove


def missing(until: int) -> Played:
    """A host on which nothing meets the limits before that trial."""
    return Played(lambda number, chosen: result(number, chosen, 100.0 + number, 9.0 if number < until else 0.1))


@pytest.mark.parametrize("proof", [False, True])
def test_a_search_that_finds_nothing_has_the_whole_night(studies: Studies, *, proof: bool) -> None:
    ended = studies.night(missing(99), proof=proof, hours=1.5, proof_share=0.4)
    assert len(ended.results) == 9
    assert ended.took_s == 9 * TRIAL_S
    assert ended.why == "no time is left for another trial"


def test_what_it_finds_late_is_proved_in_what_is_left(studies: Studies) -> None:
    """Of three hours 80 min are kept; the first that meets the limits comes after 80, and one more ends in time."""
    late = studies.night(missing(7), hours=3, proof_share=0.4)
    assert len(late.results) == 9
    assert late.took_s == 9 * TRIAL_S


def test_a_baseline_that_alone_meets_the_limits_is_nothing_to_prove(studies: Studies) -> None:
    alone = Played(lambda number, chosen: result(number, chosen, 100.0, 0.1 if not number else 9.0))
    assert len(studies.night(alone, hours=1.5, proof_share=0.4).results) == 9
