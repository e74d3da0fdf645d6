"""The law's parameters from trials: clusters that keep to the law are reproduced, and doubt is as large as errors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from autotune.belief import Evidence
from autotune.belief.fit import Problem, fit
from autotune.belief.kernel import HYPOTHESES, Places
from tests.belief.worlds import World, asked, known, params

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.belief import Mind

TIGHT = (min(HYPOTHESES, key=lambda one: one.spread),)
"""The hypothesis that trusts the law most; what it is called and how much it trusts is not said here."""


def told(world: World, trials: Sequence[Evidence]) -> Mind:
    mind = world.mind(hypotheses=TIGHT)
    mind.learn(trials)
    return mind


@pytest.mark.parametrize("seed", range(3))
def test_what_keeps_to_the_law_is_foretold_where_nothing_was_measured(seed: int) -> None:
    world = World(seed)
    trials = world.trials(24)
    others = world.others(trials)
    mean, sd = known(told(world, trials), *others)
    missed = np.abs(mean - world.truth(others)[0])
    assert np.median(missed) < 0.01
    assert np.quantile(missed, 0.9) < 0.02
    assert np.median(sd) < 0.05


def test_limits_are_foretold_too() -> None:
    world = World(3)
    trials = world.trials(24)
    others = world.others(trials)
    mind = told(world, trials)
    forecast = mind.forecast(mind.design(others))
    assert np.median(np.abs(forecast.bounds[0] - world.truth(others)[1])) < 0.05
    holds, true = forecast.holds() > 0.5, world.truth(others)[1] <= 0
    assert 0.2 < true.mean() < 0.8
    assert (holds == true).mean() > 0.95


def test_doubt_is_as_large_as_what_is_missed() -> None:
    """Over clusters as the prior has them, and trials with the usual noise; both ways it could be wrong by much."""
    z, late = [], []
    for seed in range(6):
        world = World(seed, wide=1.0, noise=0.025)
        trials = world.trials(12)
        others = world.others(trials)
        mind = told(world, trials)
        forecast, true = mind.forecast(mind.design(others)), world.truth(others)
        z.append((forecast.tps - true[0]) / forecast.tps_sd)
        late.append((forecast.bounds[0] - true[1]) / forecast.bounds_sd[0])
    rms = [float(np.sqrt(np.mean(np.concatenate(each) ** 2))) for each in (z, late)]
    print("rms of errors over their standard deviations: output", rms[0], "limit", rms[1])
    assert 0.6 < rms[0] < 1.6
    assert 0.5 < rms[1] < 1.6


def moved(world: World, trials: Sequence[Evidence], others: Sequence[Evidence]) -> np.ndarray:
    """By how much the forecasts differ after these trials, and after others of the same configurations."""
    every = world.others(trials)
    found: np.ndarray = np.abs(known(told(world, others), *every)[0] - known(told(world, trials), *every)[0])
    return found


def test_one_figure_that_is_far_off_moves_little() -> None:
    world = World(1, noise=0.01)
    trials = world.trials(16)
    for at in (4, 9):
        (load,) = trials[at].loads
        odd = [*trials]
        odd[at] = replace(trials[at], loads=(replace(load, tps=0.7 * load.tps),))
        shift = moved(world, trials, odd)
        assert np.median(shift) < 0.03
        assert shift.max() < 0.2


def test_one_slow_trial_among_repeats_moves_little() -> None:
    world = World(1, noise=0.01)
    trials = world.trials(16)
    for at in (4, 9):
        again = [world.trial(trials[at].params, number) for number in (30, 31)]
        slow = world.trial(trials[at].params, 30, times=0.7)
        shift = moved(world, [*trials, *again], [*trials, slow, again[1]])
        assert np.median(shift) < 0.03
        assert shift.max() < 0.15


def test_the_devices_that_are_slow_are_found() -> None:
    world = World(4, wide=0.3, noise=0.01, question=asked(most_s=None))
    world.theta[world.law.at["device"]] = [0.0, 0.0, np.log(1.5), 0.0]
    fitted = told(world, [world.trial(one, number) for number, one in enumerate(world.drawn(12))]).views[0].fit
    found = fitted.theta[world.law.at["device"]]
    assert int(np.argmax(found)) == 2
    assert found[2] - np.delete(found, 2).max() > 0.2


# the parts of it


def problem(world: World, trials: Sequence[Evidence]) -> Problem:
    mind = told(world, trials)
    return Problem(mind.law, trials, mind.design([trial.params for trial in trials]), mind._heads(), TIGHT[0])


def test_how_residuals_change_with_times_is_taken_where_it_is_asked_for() -> None:
    world = World(3, noise=0.02)
    trials = world.trials(6)
    (inner,) = (one for one in HYPOTHESES if one.of_times)
    mind = told(world, trials)
    design = mind.design([trial.params for trial in trials])
    here, there = (Problem(mind.law, trials, design, mind._heads(), inner, None, at) for at in (world.theta, None))
    changes = here.left(world.theta)[1]
    whole = here.rows.covariance(inner, here.where, changes) + np.diag(here.rows.own**2)
    np.testing.assert_allclose(np.linalg.inv(here.whiten.T @ here.whiten), whole, rtol=1e-6, atol=1e-9)
    assert np.abs(there.whiten - here.whiten).max() > 0.01


def test_the_parameters_that_made_the_data_leave_nothing_over() -> None:
    world = World(5)
    world.theta[world.law.at["device"]] = 0.0  # else whether instances are even depends on what stands beside them
    made = problem(world, world.trials(8))
    assert np.abs(made.residuals(world.theta[None])).max() < 1e-3
    assert np.abs(made.residuals(made.law.mean[None])).max() > 1


def test_steps_only_ever_lead_to_what_is_likelier() -> None:
    world = World(6, wide=1.0, noise=0.03)
    made = problem(world, world.trials(8))
    costs = [float(made.cost(fit(made, made.law.mean, steps).theta[None])[0]) for steps in (0, 1, 2, 4, 8, 16)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]


def test_the_covariance_is_one() -> None:
    world = World(7, wide=1.0, noise=0.03)
    covariance = told(world, world.trials(6)).views[0].fit.covariance
    assert np.allclose(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > 0
    assert (np.sqrt(np.diag(covariance)) <= 1.01 * told(world, world.trials(6)).law.sd).mean() > 0.9


def test_more_trials_make_it_surer() -> None:
    world = World(8, noise=0.02)
    every = world.others(world.trials(16))
    few, many = (known(told(world, world.trials(count)), *every)[1] for count in (4, 16))
    assert np.median(many) < 0.7 * np.median(few)


def test_what_had_no_room_says_that_memory_is_short() -> None:
    """Of a model of 8 GB in 17 GB cards; that 8 slots do not fit says how large a slot really is."""
    question = asked(memory_bytes=(17e9,) * 4, weights_bytes=8e9, slot_bytes=0.5e9)
    world = World(9, wide=0.2, question=question)
    good = [world.trial(params(slots), slots) for slots in (1, 2, 4)]
    bad = Evidence(params(8), misfit=True, failed=True)
    before, after = told(world, good).views[0].fit, told(world, [*good, bad]).views[0].fit
    full = world.law.sizing.full(np.stack([before.theta, after.theta]), world.designer.design([params(8)]))[:, 0]
    assert full[0] < 0.8
    assert full[1] > 0.97


def test_what_ran_says_that_there_was_room() -> None:
    """Where a slot is thought to be so large that 8 of them would not fit."""
    question = asked(memory_bytes=(12.9e9,) * 4, weights_bytes=8e9, slot_bytes=0.55e9)
    world = World(9, wide=0.2, question=question)
    trials = [world.trial(params(slots), slots) for slots in (1, 2, 8)]
    fitted = told(world, trials).views[0].fit
    spilled = told(world, [*trials[:2], replace(trials[2], spilled=True)]).views[0].fit
    design = world.designer.design([params(8)])
    every = np.stack([world.law.mean, fitted.theta, spilled.theta])
    believed, known, doubted = world.law.sizing.full(every, design)[:, 0]
    assert believed > 1.05
    assert known < 1.03
    assert doubted > known + 0.02


def test_places_of_one_configuration_are_one() -> None:
    world = World()
    at = Places.of(world.designer.design([params(4), params(4), params(8)]))
    covariance = TIGHT[0].covariance(at, at)
    assert covariance[0, 0] == pytest.approx(covariance[0, 1]) == pytest.approx(TIGHT[0].spread ** 2)
    assert covariance[0, 2] < covariance[0, 1]
