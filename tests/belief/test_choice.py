"""What to try next, and what to recommend."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from autotune.belief import Chooser, Evidence, Loaded, choice
from autotune.belief.choice import NEAR, REPEATS, lesson
from autotune.belief.forecast import Forecast
from autotune.belief.front import improvement
from autotune.space import key
from tests.belief.worlds import EVERY, USERS, World, asked, known, params

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.belief.design import Array

TOLERANCE = 0.02


def chooser(world: World, trials: Sequence[Evidence], pool: Sequence[Mapping[str, Any]] = EVERY) -> Chooser:
    choosing = Chooser(world.mind(), pool)
    choosing.mind.learn(trials)
    return choosing


def true(world: World, one: Mapping[str, Any]) -> float:
    """Its output; nothing where it misses the limit."""
    output, *over = world.truth([one])[:, 0]
    return float(np.exp(output)) if max(over, default=0.0) <= 0 else 0.0


def best(world: World) -> float:
    return max(true(world, one) for one in EVERY)


def searched(world: World, count: int, pool: Sequence[Mapping[str, Any]] = EVERY) -> tuple[Chooser, list[Evidence]]:
    """The chooser after so many trials of its own choice; the first are one instance and one on each device."""
    choosing = Chooser(world.mind(), pool)
    trials = [world.trial(pool[0], 0), world.trial(pool[-1], 1)]
    while True:
        choosing.mind.learn(trials)
        if len(trials) >= count:
            return choosing, trials
        trials.append(world.trial(choosing.next(), len(trials)))


# small pools


def test_a_small_pool_is_chosen_from_as_a_large_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(4, noise=0.02)
    at_once, _ = searched(world, 7)
    assert at_once._now()._said is not None
    monkeypatch.setattr(choice, "CANDIDATES", len(EVERY) - 1)
    one_by_one = Chooser(at_once.mind, EVERY)
    assert one_by_one._now()._said is None
    small, large, rows = at_once._now(), one_by_one._now(), np.arange(3, 40)
    for found, other in ((small.fine(rows), large.fine(rows)), (small.tried, large.tried)):
        for name in ("tps", "tps_sd", "bounds", "bounds_sd", "starts"):
            np.testing.assert_allclose(getattr(found, name), getattr(other, name), rtol=1e-6, atol=1e-9)
    assert small.fine(rows).together == pytest.approx(large.fine(rows).together, rel=1e-6)
    np.testing.assert_allclose(small.draws(rows, 50), large.draws(rows, 50), atol=1e-3)
    assert at_once.ranked() == one_by_one.ranked()
    assert at_once.next() == one_by_one.next()
    assert at_once.promise(TOLERANCE) == pytest.approx(one_by_one.promise(TOLERANCE), abs=0.1)


# what a trial teaches


def forecast(tps: Sequence[float], together: Array, bounds: float = -9.0) -> Forecast:
    """Of outputs that move together, all with one and the same distance to a limit."""
    sd, over = np.sqrt(np.diag(together)), np.full((1, len(tps)), bounds)
    return Forecast(np.array(tps), sd, over, np.ones_like(over), np.ones(len(tps)), together)


@pytest.mark.parametrize("seed", range(3))
def test_a_lesson_is_the_mean_of_what_could_come(seed: int) -> None:
    rng, noise = np.random.default_rng(seed), 0.03
    root = rng.normal(0, 0.1, (5, 5))
    belief = forecast(rng.normal(0, 0.05, 5).tolist(), root @ root.T)
    assert belief.together is not None
    for at, found in enumerate(lesson(belief, noise)):
        of = belief.together[:, at]
        measured = rng.normal(0, math.sqrt(of[at] + noise**2), 20_000)
        after = belief.tps[:, None] + of[:, None] / (of[at] + noise**2) * measured
        assert found == pytest.approx(after.max(axis=0).mean() - belief.tps.max(), rel=0.1, abs=1e-3)


def test_what_says_something_of_others_teaches_more() -> None:
    sd = np.array([0.1, 0.05, 0.2])
    alike = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])  # the last two move as one
    first, second, _ = lesson(forecast([0.0, 0.0, 0.0], alike * np.outer(sd, sd)), 0.02)
    assert second > first > 0


def test_nothing_is_learned_of_what_is_known_or_does_not_hold() -> None:
    assert lesson(forecast([0.0, 0.1], np.zeros((2, 2))), 0.02).max() < 1e-9
    assert lesson(forecast([0.0, 0.1], np.diag([0.01, 0.01]), bounds=9.0), 0.02).tolist() == [0.0, 0.0]


# what to try


@pytest.mark.parametrize("seed", [0, 1])
def test_it_soon_tries_what_is_as_good_as_the_best(seed: int) -> None:
    world = World(seed, noise=0.01)
    choosing, trials = searched(world, 9)
    shares = [true(world, trial.params) / best(world) for trial in trials]
    assert max(shares) > 0.97
    chosen = choosing.recommended()
    assert chosen is not None
    assert true(world, chosen) > 0.96 * best(world)


def test_what_failed_is_never_tried_again() -> None:
    world = World(2)
    bad = [one for one in EVERY if str(one["layout"]).startswith("0x2")]
    trials = [world.trial(params(4)), *(Evidence(one, failed=True) for one in bad[:-1])]
    pool = [*bad[:-1], params(4)]
    choosing = chooser(world, trials, pool)
    assert choosing.next() == params(4)
    assert key(chooser(world, trials).next()) not in {key(one) for one in bad[:-1]}


def test_of_two_promises_the_one_counts_that_takes_less_time() -> None:
    choosing, _ = searched(World(4, noise=0.03), 3)
    free = choosing.next()
    assert choosing.next(lambda _: 60.0) == free
    assert choosing.next(lambda one: 6000.0 if one == free else 60.0) != free


def test_nothing_is_tried_more_often_than_so_many_times() -> None:
    world = World(3, noise=0.05)
    pool = [params(4), params(8), params(8, "0 | 1")]
    _, trials = searched(world, REPEATS * len(pool), pool)
    times = Counter(key(trial.params) for trial in trials)
    assert set(times.values()) == {REPEATS}


def test_what_was_tried_may_be_tried_again() -> None:
    world = World(3, noise=0.05)
    pool = [params(8), params(8, "0 | 1")]
    _, trials = searched(world, 3, pool)
    assert len({key(trial.params) for trial in trials}) == 2


@pytest.mark.parametrize("seed", [0, 4, 5])
def test_the_best_is_not_measured_again_while_something_else_may_be_better(seed: int) -> None:
    """Over itself it seems to promise as much as there is doubt about it; nothing comes of that."""
    world, four = World(seed, noise=0.02, question=asked(most_s=None)), "0 | 1 | 2 | 3"
    best, other = params(8, four), params(8, "0+1 | 2+3")
    tried = (params(1), params(4, four), best, params(16, four), params(2, "0 | 1"))
    story = [world.trial(one, number) for number, one in enumerate(tried)]
    assert chooser(world, story, [best, other]).next() == other


def test_while_nothing_holds_it_moves_to_what_likely_does() -> None:
    """A limit that only many slots in all can hold; what was tried are few."""
    world = World(4, wide=0.2, question=asked(most_s=3.0))
    over = world.truth(EVERY)[1]
    assert 0.1 < (over <= 0).mean() < 0.7
    few = [world.trial(params(slots), slots) for slots in (1, 2)]
    assert (world.truth([trial.params for trial in few])[1] > 0).all()
    choosing = chooser(world, few)
    chosen = choosing.next()
    forecast = choosing.mind.forecast(choosing.mind.design([chosen, few[0].params]))
    assert forecast.holds()[0] > 0.5 > forecast.holds()[1]
    assert world.truth([chosen])[1] < np.median(over)


def test_where_all_is_barred_it_still_answers_from_the_pool() -> None:
    world = World(3)
    pool = [params(4), params(8)]
    trials = [Evidence(params(8), failed=True), *(world.trial(params(4), number) for number in range(REPEATS))]
    assert chooser(world, trials, pool).next() == params(4)
    assert chooser(world, trials[:1], pool[1:]).next() == params(8)


def test_before_anything_was_measured_it_answers() -> None:
    world = World(3)
    assert chooser(world, []).next() in EVERY
    after = chooser(world, [Evidence(params(4), failed=True)])
    assert key(after.next()) != key(params(4))
    assert after.ranked() == []
    assert after.promise(TOLERANCE) is None


def test_improvement_is_what_may_be_gained() -> None:
    rng = np.random.default_rng(1)
    mean, sd = np.array([0.0, 1.0, -1.0]), np.array([1.0, 0.1, 0.5])
    draws = np.maximum(0, mean + sd * rng.standard_normal((200_000, 3)) - 0.5).mean(axis=0)
    assert improvement(mean, sd, 0.5) == pytest.approx(draws, abs=0.005)


# what to recommend


def flat(one: Mapping[str, Any], tps: float, over: float = 0.5) -> Evidence:
    """Output and a limit alone, as an ordinary Optuna study tells them."""
    return Evidence(one, (Loaded(USERS, tps),), tuple((bound.name, over * bound.most) for bound in asked().bounds))


def bare(trial: Evidence, times: float) -> Evidence:
    """Of a trial its output alone, so many times what it was."""
    return replace(trial, loads=(Loaded(USERS, times * trial.loads[0].tps),))


def test_one_lucky_measurement_does_not_win_over_one_that_was_repeated() -> None:
    """Everywhere else the larger batch gives less; where it was measured once it gave more than the other ever did."""
    world = World(5, wide=0.3, question=asked(most_s=None))
    column = [value for _, value, _ in world.designer.knobs].index(1024)
    world.theta[world.law.at["knob"].start + column] = 0.22  # half of it counts
    sure, lucky = params(8, "0 | 1", num_batch=512), params(8, "0 | 1", num_batch=1024)
    ahead = float(np.exp(world.truth([sure])[0, 0] - world.truth([lucky])[0, 0]))
    assert ahead > 1.05
    others = [world.trial(params(slots, "0 | 1", num_batch=size)) for slots in (2, 4, 16, 32) for size in (512, 1024)]
    repeats = [bare(world.trial(sure), times) for times in (0.99, 1.0, 1.01)]
    pool = [sure, lucky]
    once = chooser(world, [*others, *repeats, bare(world.trial(lucky), 1.02 * ahead)], pool).ranked()
    assert once.index(sure) < once.index(lucky)
    again = [bare(world.trial(lucky), times * ahead) for times in (1.02, 1.03, 1.04, 1.03, 1.02, 1.04)]
    often = chooser(world, [*others, *repeats, *again], pool).ranked()
    assert often.index(lucky) < often.index(sure)


def test_ranked_is_by_belief_and_has_each_once() -> None:
    world = World(6, noise=0.05)
    choosing, trials = searched(world, 10)
    again = [*trials, world.trial(trials[3].params, 40), world.trial(trials[3].params, 41)]
    choosing.mind.learn(again)
    ranked = choosing.ranked()
    names = [key(one) for one in ranked]
    assert len(names) == len(set(names))
    assert set(names) <= {key(trial.params) for trial in again}
    believed, spread = known(choosing.mind, *ranked)[:2]
    near = max(NEAR, spread[believed.argmax()] / 2)  # which of these comes first is not said by their output
    assert (believed[:-1] >= np.maximum.accumulate(believed[::-1])[::-1][1:] - near).all()
    assert believed[0] > believed[-1]
    assert choosing.recommended() == ranked[0]


def test_what_likely_misses_the_limit_or_failed_is_not_ranked() -> None:
    world = World(7)
    fast, late, dead = params(32, "0 | 1 | 2 | 3"), params(4, "0 | 1"), params(16, "0 | 1")
    trials = [flat(fast, 100.0), flat(late, 300.0, over=3.0), Evidence(dead, failed=True), flat(params(8), 50.0, 0.8)]
    names = [key(one) for one in chooser(world, trials).ranked()]
    assert key(fast) in names
    assert key(late) not in names
    assert key(dead) not in names


def test_what_was_cut_short_is_not_ranked() -> None:
    world = World(7)
    fast, slow = replace(flat(params(16, "0 | 1"), 120.0), rough=True), flat(params(8), 100.0)
    assert chooser(world, [slow, fast]).ranked() == [slow.params]


def test_where_nothing_is_believed_to_hold_what_was_measured_to_do_is_better_than_nothing() -> None:
    world = World(7)
    one = params(8, "0 | 1")
    trials = [flat(one, 100.0, 4.0), flat(one, 101.0, 4.1), flat(one, 99.0, 0.9), flat(params(4), 50.0, 6.0)]
    assert chooser(world, trials).recommended() == one


def test_where_nothing_holds_nothing_is_recommended() -> None:
    world = World(7)
    assert chooser(world, [flat(params(1), 20.0, 9.0), flat(params(2), 30.0, 7.0)]).recommended() is None


def test_what_was_dropped_is_not_tried_again_while_what_it_could_not_beat_stands() -> None:
    world = World(7)
    best, dropped, far = params(8, "0 | 1 | 2 | 3"), params(8, "0+1 | 2+3"), params(1)
    trials = [world.trial(params(4)), world.trial(best)]
    choosing = chooser(world, trials, [params(4), best, dropped, far])
    after = [*trials, replace(world.trial(dropped), rough=True)]
    choosing.mind.learn(after)

    def cost(one: Mapping[str, Any]) -> float:
        return 1.0 if one == dropped else 100.0  # nothing is restarted, and it ends at once

    assert choosing.next(cost) != dropped
    lost = Chooser(choosing.mind, [params(4), dropped, far], lambda one: None if one == best else one)
    assert lost.next(cost) == dropped, "what it could not beat is no more"


# what is still to be had


def test_at_the_start_much_is_promised_and_nothing_when_all_was_tried() -> None:
    world = World(0, noise=0.01)
    start = chooser(world, [world.trial(params(4)), world.trial(params(16, "0 | 1"))])
    promised = start.promise(TOLERANCE)
    assert promised is not None
    assert 0.5 < promised <= 1
    pool = [params(slots) for slots in (1, 2, 4, 8, 16, 32)]
    assert chooser(world, [world.trial(one) for one in pool], pool).promise(TOLERANCE) == 0.0


def test_a_search_leaves_less_and_less_to_be_had() -> None:
    world = World(0, noise=0.01)
    choosing, trials = searched(world, 12)
    late = choosing.promise(TOLERANCE)
    early = chooser(world, trials[:2]).promise(TOLERANCE)
    assert late is not None
    assert early is not None
    assert 0 <= late < 0.6 * early <= 1
    more = choosing.promise(0.3)
    assert more is not None
    assert more <= late


def test_while_nothing_holds_nobody_knows_what_is_to_be_had() -> None:
    world = World(7)
    assert chooser(world, [flat(params(1), 20.0, 9.0)]).promise(TOLERANCE) is None


def test_what_is_sure_to_fail_promises_nothing() -> None:
    world = World(2, question=asked(most_s=None, memory_bytes=(16e9,) * 4, weights_bytes=8e9, slot_bytes=0.5e9))
    trials = [world.trial(params(slots), slots) for slots in (1, 2)]
    tried, full = [trial.params for trial in trials], params(32, "0x2 | 1x2 | 2x2 | 3x2")
    assert chooser(world, trials, [*tried, full]).promise(TOLERANCE) == pytest.approx(0, abs=0.05)
    roomy = chooser(world, trials, [*tried, params(4, "0 | 1 | 2 | 3")]).promise(TOLERANCE)
    assert roomy is not None
    assert roomy > 0.5
