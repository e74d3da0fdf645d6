"""What is believed after trials: how far the law is trusted, memory of a story, slots that are not there, failures."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from autotune.belief import Designer, Evidence, Mind
from autotune.belief.kernel import HYPOTHESES, Places
from autotune.belief.mind import LEAST_SD
from tests.belief.worlds import EVERY, World, asked, known, params
from tests.belief.worlds import space as space_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FIRST = int(np.argmin([one.spread for one in HYPOTHESES]))
LAST = int(np.argmax([one.spread for one in HYPOTHESES]))


def told(world: World, trials: Sequence[Evidence]) -> Mind:
    mind = world.mind()
    mind.learn(trials)
    return mind


def failed(chosen: Mapping[str, Any], **more: Any) -> Evidence:
    return Evidence(chosen, failed=True, **more)


# how far the law is trusted


def odd(seed: int) -> World:
    """A cluster where every layout with its slots does as it pleases."""
    builds = list(dict.fromkeys((one["layout"], one["num_parallel"]) for one in EVERY))
    heights = dict(zip(builds, np.random.default_rng(seed).normal(0, 0.3, len(builds)).tolist(), strict=True))
    return World(seed, noise=0.02, twist=lambda one: heights[one["layout"], one["num_parallel"]])


@pytest.mark.parametrize("seed", range(3))
def test_the_law_is_trusted_where_it_holds(seed: int) -> None:
    world = World(seed, noise=0.02)
    mind = told(world, world.trials(8))
    weights = [float(view.weights[0]) for view in mind.views]
    assert sum(weights) == pytest.approx(1)
    assert weights[FIRST] > HYPOTHESES[FIRST].chance
    assert weights[LAST] < HYPOTHESES[LAST].chance
    assert mind.trust == HYPOTHESES[FIRST].name


def test_the_law_is_not_trusted_where_it_does_not_hold() -> None:
    gained = []
    for seed in range(3):
        world = odd(seed)
        mind = told(world, world.trials(10))
        weights = [float(view.weights[0]) for view in mind.views]
        assert weights[FIRST] < HYPOTHESES[FIRST].chance
        assert mind.trust != HYPOTHESES[FIRST].name
        gained.append(weights[LAST] - HYPOTHESES[LAST].chance)
    assert sum(gained) > 0.5


def test_the_law_may_hold_for_the_output_and_not_for_the_waiting() -> None:
    world = World(0, noise=0.02)
    rng = np.random.default_rng(0)
    trials = [
        replace(trial, bounds=tuple((name, value * math.exp(rng.normal(0, 0.8))) for name, value in trial.bounds))
        for trial in world.trials(12)
    ]
    mind = told(world, trials)
    assert mind.views[FIRST].weights[0] > 2 * mind.views[FIRST].weights[1]


def test_where_the_law_is_not_trusted_there_is_more_doubt() -> None:
    doubts = []
    for world in (World(0, noise=0.02), odd(0)):
        trials = world.trials(10)
        doubts.append(float(np.median(known(told(world, trials), *world.others(trials))[1])))
    assert doubts[1] > 1.5 * doubts[0]


def test_a_hypothesis_that_counts_for_nothing_stays_as_it_is_until_it_counts_again() -> None:
    world = World(0, noise=0.02)
    trials = world.trials(16)
    mind = told(world, trials[:12])
    faint = mind.views[LAST]
    assert not faint.weights.any()
    assert faint not in mind.heard
    mind.learn(trials[:13])
    assert mind.views[LAST].fit is faint.fit
    assert sum(float(view.weights[0]) for view in mind.heard) == pytest.approx(1)
    wild = [world.trial(one.params, times=times) for one, times in zip(trials[13:], (2, 0.4, 2), strict=True)]
    mind.learn([*trials[:13], *wild])
    back = mind.views[LAST]
    assert back.weights[0] > 0.3
    assert back.fit is not faint.fit


def test_before_anything_was_measured_nothing_is_trusted() -> None:
    mind = World().mind()
    assert mind.trust == ""
    mind.learn([failed(params(4))])
    assert mind.trust == ""
    assert mind.views == []


# one story


def same(one: Mind, other: Mind) -> bool:
    return all(
        bool((a == b).all()) for a, b in zip(known(one, *EVERY[::5]), known(other, *EVERY[::5]), strict=True)
    ) and [view.weights.tolist() for view in one.views] == [view.weights.tolist() for view in other.views]


def test_a_night_that_was_interrupted_believes_what_it_would_have() -> None:
    world = World(1, noise=0.02)
    trials = world.trials(7)
    step = world.mind()
    for count in range(1, len(trials) + 1):
        step.learn(trials[:count])
    jump = world.mind()
    jump.learn(trials[:3])
    jump.learn(trials)
    assert same(step, told(world, trials))
    assert same(jump, told(world, trials))


def test_to_be_told_the_same_again_changes_nothing() -> None:
    world = World(1, noise=0.02)
    trials = world.trials(4)
    mind = told(world, trials)
    views = mind.views
    mind.learn(list(trials))
    assert mind.views is views


@pytest.mark.parametrize("shorter", [False, True], ids=["another", "shorter"])
def test_another_story_is_believed_from_its_beginning(*, shorter: bool) -> None:
    world = World(2, noise=0.02)
    trials = world.trials(9)
    mind = told(world, trials[:6])
    story = trials[:3] if shorter else trials[3:]
    mind.learn(story)
    assert same(mind, told(world, story))
    assert mind.trials == story


def test_slots_that_were_missing_in_another_story_are_there_again() -> None:
    world = World(2)
    mind = told(world, [replace(world.trial(params(16)), slots=4)])
    mind.learn([world.trial(params(16))])
    assert mind.design([params(32)]).slots.max() == 32


# repeats


def test_repeats_make_it_surer() -> None:
    world = World(3, noise=0.02)
    trials = world.trials(5)
    one = trials[2].params
    again = [world.trial(one, number) for number in (20, 21, 22)]
    before, after = known(told(world, trials), one)[1], known(told(world, [*trials, *again]), one)[1]
    assert after < 0.9 * before


def test_a_repeated_configuration_is_believed_by_all_its_trials() -> None:
    world = World(3)
    one = params(8, "0 | 1")
    trials = [*world.trials(5), *(world.trial(one, times=times) for times in (0.96, 1.0, 1.04))]
    assert known(told(world, trials), one)[0] == pytest.approx(world.truth([one])[0], abs=0.02)


def test_what_a_window_hardly_knows_teaches_little() -> None:
    world = World(1, noise=0.02)
    trials, one = world.trials(4), world.drawn(1)[0]
    far = world.trial(one, 9, times=1.2)
    usual, vague = (replace(far, loads=(replace(far.loads[0], doubt=doubt),)) for doubt in (0.01, 0.15))
    design = world.mind().design([one])
    plain, same, held = (told(world, [*trials, last]).forecast(design) for last in (far, usual, vague))
    before = told(world, trials).forecast(design).tps[0]
    assert same.tps[0] == plain.tps[0]
    assert plain.tps[0] > before + 0.03
    assert held.tps[0] - before < 0.5 * (plain.tps[0] - before)


def test_repeats_that_differ_are_noise() -> None:
    world = World(3)
    one = params(8, "0 | 1")
    quiet = told(world, [world.trial(one) for _ in range(6)]).noise
    loud = told(world, [world.trial(one, times=times) for times in (0.9, 1.1, 0.95, 1.08, 0.92, 1.05)]).noise
    assert loud > 1.5 * quiet


def test_what_was_cut_short_counts_for_less() -> None:
    world = World(3, noise=0.01)
    trials, one = world.trials(8), params(8, "0 | 1", num_batch=512)
    odd = world.trial(one, 30, times=1.3)
    before, whole, short = (
        float(known(told(world, story), one)[0][0])
        for story in (trials, [*trials, odd], [*trials, replace(odd, rough=True)])
    )
    assert whole > before + 0.05
    assert abs(short - before) < 0.8 * (whole - before)


def test_what_was_cut_short_is_no_repeat() -> None:
    world = World(3)
    one = params(8, "0 | 1")
    loud = [world.trial(one, times=times) for times in (0.9, 1.1, 0.95, 1.08)]
    rough = [loud[0], *(replace(trial, rough=True) for trial in loud[1:])]
    assert told(world, rough).noise == told(world, loud[:1]).noise < told(world, loud).noise


# slots that are not there


def test_slots_that_were_ignored_are_not_counted_on() -> None:
    world = World(4)
    mind = told(world, [world.trial(params(2)), replace(world.trial(params(4)), params=params(16), slots=4)])
    assert mind.cap == 4
    mean, _ = known(mind, params(4), params(8), params(32), params(2))
    assert mean[0] == mean[1] == mean[2] != mean[3]


def test_slots_that_are_as_asked_say_nothing() -> None:
    world = World(4)
    mind = told(world, [replace(world.trial(params(2)), slots=2), replace(world.trial(params(4)), slots=4)])
    assert mind.design([params(32)]).slots.max() == 32


def test_fewer_slots_of_one_class_are_not_missing_ones() -> None:
    """On a host of two kinds of devices, where each has a number of slots of its own."""
    space = space_of("AB", layouts=("0", "0 | 1"), num_parallel=(2, 4, 8))
    world = World(5, space=space, question=asked(2, kinds=("A", "B")))
    both = params(8, "0 | 1") | {"num_parallel@B": 2}
    mind = told(world, [replace(world.trial(both), slots=2)])
    assert mind.design([params(8)]).slots.max() == 8


# failures


def starts(mind: Mind, *every: Mapping[str, Any]) -> list[float]:
    return [float(one) for one in mind.forecast(mind.design(every)).starts]


PAIR = "0x2 | 1x2 | 2x2 | 3x2"


def test_what_failed_fails_again_and_so_does_more_of_it() -> None:
    world = World(6)
    before = told(world, world.trials(3))
    after = told(world, [*world.trials(3), failed(params(16, PAIR), misfit=True)])
    asked_for = [params(16, PAIR), params(32, PAIR), params(16, PAIR, policy="least_conn", num_batch=1024)]
    for was, now in zip(starts(before, *asked_for), starts(after, *asked_for), strict=True):
        assert now < 0.6 * was


def test_what_failed_says_nothing_of_others() -> None:
    world = World(6)
    fine = [world.trial(params(1, PAIR)), world.trial(params(16, "0 | 1"))]
    before, after = told(world, fine), told(world, [*fine, failed(params(32, PAIR), misfit=True)])
    others = [params(1, PAIR), params(16, "0 | 1"), params(1, "0"), params(2, "0+1 | 2+3")]
    for was, now in zip(starts(before, *others), starts(after, *others), strict=True):
        assert now > 0.9 * was
    assert min(starts(after, params(32, PAIR))) < 0.5


def test_slots_that_were_refused_are_refused_to_every_layout() -> None:
    """Memory has to do with the layout; what the server does not serve has not."""
    world = World(6)
    fine = [world.trial(params(2)), world.trial(params(2, "0 | 1"))]
    refused = told(world, [*fine, failed(params(16), refused=True)])
    short = told(world, [*fine, failed(params(16), misfit=True)])
    other = params(32, "0 | 1 | 2 | 3")
    assert starts(refused, other)[0] < 0.6 * starts(short, other)[0]
    assert starts(refused, params(2))[0] > 0.8


def test_chances_to_start_are_chances() -> None:
    question = asked(memory_bytes=(16e9,) * 4, weights_bytes=8e9, slot_bytes=0.5e9)
    world = World(7, question=question)
    trials = [*world.trials(4), failed(params(32), misfit=True), failed(params(8, PAIR))]
    mind = told(world, trials)
    chances = mind.forecast(mind.design(EVERY)).starts
    assert ((chances >= 0) & (chances <= 1)).all()
    fits, spills = starts(told(world, world.trials(4)), params(1), params(32, PAIR))
    assert fits > 0.9
    assert spills < 0.1


# what is foretold


def test_draws_are_as_the_forecast_says() -> None:
    world = World(8, noise=0.02)
    mind = told(world, world.trials(6))
    design = mind.design(EVERY[::6])
    forecast, draws = mind.forecast(design), mind.draws(design, 4000)
    assert draws.shape == (2, 4000, len(design))
    means = np.stack([forecast.tps, *forecast.bounds])
    sds = np.stack([forecast.tps_sd, *forecast.bounds_sd])
    assert (np.abs(draws.mean(axis=1) - means) < 0.12 * sds).all()
    assert draws.std(axis=1) == pytest.approx(sds, rel=0.15)
    assert (draws == mind.draws(design, 4000)).all()


def test_draws_of_one_configuration_twice_are_the_same_draws() -> None:
    world = World(8, noise=0.02)
    mind = told(world, world.trials(6))
    one = world.others(mind.trials)[0]
    first, second = mind.draws(mind.design([one, one]), 500)[0].T
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_a_rough_forecast_has_the_same_middle() -> None:
    world = World(8, noise=0.02)
    mind = told(world, world.trials(6))
    design = mind.design(EVERY[::6])
    np.testing.assert_allclose(mind.rough(design, Places.of(design)).tps, mind.forecast(design).tps, atol=1e-6)


def test_outputs_that_move_together_are_foretold_so() -> None:
    world = World(8, noise=0.02)
    mind = told(world, world.trials(6))
    design = mind.design(EVERY[::6])
    forecast, draws = mind.forecast(design, together=True), mind.draws(design, 4000)[0]
    assert forecast.together is not None
    sds = np.sqrt(np.diag(forecast.together))
    assert sds[sds > LEAST_SD] == pytest.approx(forecast.tps_sd[sds > LEAST_SD])
    assert np.abs(np.cov(draws.T) - forecast.together).max() < 0.12 * sds.max() ** 2


def test_what_stands_beside_a_configuration_does_not_change_its_forecast() -> None:
    world = World(8, noise=0.02)
    mind = told(world, world.trials(6))
    every = known(mind, *EVERY[::6])[0]
    alone = [known(mind, one)[0][0] for one in EVERY[::6]]
    np.testing.assert_allclose(every, alone, atol=0.03)


def test_a_limit_that_is_looser_is_likelier_to_hold() -> None:
    world = World(9, noise=0.02)
    mind = told(world, world.trials(6))
    forecast = mind.forecast(mind.design(EVERY))
    strict, loose = forecast.holds(), forecast.holds(0.1)
    assert (loose >= strict).all()
    assert (loose > strict).any()
    assert ((strict >= 0) & (strict <= 1)).all()


def test_without_limits_all_hold() -> None:
    world = World(9, question=asked(most_s=None))
    mind = told(world, world.trials(2))
    assert mind.forecast(mind.design(EVERY)).holds().tolist() == [1.0] * len(EVERY)


def test_two_limits_hold_less_often_than_either() -> None:
    world = World(9, noise=0.02)
    mind = told(world, world.trials(4))
    one = mind.forecast(mind.design(EVERY))
    both = replace(one, bounds=np.repeat(one.bounds, 2, axis=0), bounds_sd=np.repeat(one.bounds_sd, 2, axis=0))
    np.testing.assert_allclose(both.holds(), one.holds() ** 2)


def test_a_first_trial_alone_is_enough() -> None:
    world = World(10, wide=1.0)
    mind = told(world, world.trials(1))
    forecast = mind.forecast(mind.design(EVERY))
    for values in (forecast.tps, forecast.tps_sd, forecast.bounds, forecast.bounds_sd, forecast.starts):
        assert np.isfinite(values).all()
    assert Mind(world.question, Designer.of(world.space, 4)).trials == []
