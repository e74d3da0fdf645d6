"""What one hypothesis says after the evidence: of many configurations roughly, of some exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from autotune.belief import Bound
from autotune.belief.kernel import HYPOTHESES, Places
from autotune.belief.view import ROUGH_SD
from tests.belief.worlds import EVERY, USERS, World, asked, params

if TYPE_CHECKING:
    from autotune.belief import Mind
    from autotune.belief.kernel import Hypothesis

INNER = next(one for one in HYPOTHESES if one.of_times)
each = pytest.mark.parametrize("hypothesis", HYPOTHESES, ids=lambda one: one.name)


def after(hypothesis: Hypothesis, count: int = 8) -> Mind:
    """One hypothesis alone, after trials of a cluster whose builds are odd."""
    world = World(8, noise=0.02, twist=lambda one: 0.3 * (int(one["num_parallel"]) == 8) - 0.2 * ("x" in one["layout"]))
    mind = world.mind(hypotheses=(replace(hypothesis, chance=1.0),))
    mind.learn(world.trials(count))
    return mind


@each
def test_what_is_said_roughly_has_the_same_mean(hypothesis: Hypothesis) -> None:
    mind = after(hypothesis)
    design = mind.design(EVERY)
    where, (view,) = Places.of(design), mind.views
    np.testing.assert_allclose(view.rough(design, where).mean, view.full(design, where).mean, rtol=1e-9)


@each
def test_what_others_say_of_a_head_makes_it_surer(hypothesis: Hypothesis) -> None:
    """Roughly it is as sure as its own trials make it; of times, all that was measured tells more."""
    mind = after(hypothesis)
    design = mind.design(EVERY)
    where, (view,) = Places.of(design), mind.views
    certain = replace(view, fit=replace(view.fit, covariance=np.zeros_like(view.fit.covariance)))
    own = view.rough(design, where).spread - np.square(ROUGH_SD)[:, None]
    every = certain.full(design, where).spread
    assert (every <= own + 1e-9).all()
    assert bool((every < 0.9 * own).any()) == hypothesis.of_times


@each
def test_the_spread_is_that_of_each_by_itself(hypothesis: Hypothesis) -> None:
    mind = after(hypothesis)
    design = mind.design(EVERY[::5])
    (view,) = mind.views
    said = view.full(design, Places.of(design), joint=2)
    np.testing.assert_allclose([np.diag(one) for one in said.joint], said.spread, rtol=1e-6, atol=1e-9)
    assert min(np.linalg.eigvalsh(one).min() for one in said.joint) > -1e-9


def test_what_was_measured_under_other_loads_stands_for_itself() -> None:
    """Of times, all that was measured under the study's own load hangs together; else only what a study decides by."""
    world = World(8, noise=0.02)
    plain = world.trials(5)
    more = [replace(one, loads=(*one.loads, replace(one.loads[0], users=USERS // 4))) for one in plain]
    for hypothesis in HYPOTHESES:
        found = []
        for trials in (plain, more):
            mind = world.mind(hypotheses=(replace(hypothesis, chance=1.0),))
            mind.learn(trials)
            found.append(mind.views[0].rows)
        # output and TTFT's limit; and TPOT, the mean of TTFT, and reading
        heads = [[0, 1], [-1, -1, -1, 0, 1]][hypothesis.of_times]
        for rows in found:
            assert sorted(rows.heads.tolist()) == sorted(heads * len(plain))
            assert sorted(rows.trials.tolist()) == sorted([*range(len(plain))] * len(heads))


def test_what_is_a_limit_is_no_second_measurement() -> None:
    question = asked(bounds=(Bound("tpot_s", "mean", USERS, 1.0),))
    world = World(8, question=question)
    mind = world.mind(hypotheses=(INNER,))
    (one,) = world.trials(1)
    mind.learn([replace(one, bounds=((question.bounds[0].name, one.loads[0].tpot_s or 0.0),))])
    assert mind.views[0].rows.heads.tolist().count(-1) == 3  # both of TTFT, and reading


@each
def test_an_outlier_counts_for_less(hypothesis: Hypothesis) -> None:
    world = World(8, noise=0.02)
    mind = world.mind(hypotheses=(replace(hypothesis, chance=1.0),))
    trials = world.trials(6)
    again = [world.trial(trials[0].params, number) for number in range(20, 24)]
    mind.learn([*trials, *again, world.trial(trials[0].params, 24, times=3.0)])
    (view,) = mind.views
    own = np.diag(np.linalg.inv(view.inverse)) - np.diag(view.rows.covariance(hypothesis, view.tried, view.inner))
    times = (own / view.rows.own**2)[view.rows.heads == 0]
    assert times[-1] > 1.5 * times[:-1].max()


def test_what_an_instance_takes_is_the_same_whoever_balances() -> None:
    """Of a layout that is odd, told with one policy, the other policy is foretold as odd."""
    odd = "0x2 | 1x2 | 2x2 | 3x2"
    world = World(2, wide=0.0, twist=lambda one: 0.4 * (one["layout"] == odd))
    plain = [world.trial(params(slots, layout)) for layout in ("0", "0 | 1", "0 | 1 | 2 | 3") for slots in (4, 8, 16)]
    mind = world.mind(hypotheses=(INNER,))
    design = mind.design([params(8, odd, policy=policy) for policy in ("round_robin", "least_conn")])
    mind.learn(plain)
    before = mind.forecast(design).tps
    mind.learn([*plain, world.trial(params(8, odd))])
    moved = mind.forecast(design).tps - before
    assert moved[0] > 0.2
    assert moved[1] == pytest.approx(moved[0], rel=0.15)


def test_a_step_that_is_odd_shows_in_more_than_the_output() -> None:
    odd = "0x2 | 1x2 | 2x2 | 3x2"
    world = World(2, wide=0.0, twist=lambda one: 0.4 * (one["layout"] == odd))
    plain = [world.trial(params(slots, layout)) for layout in ("0", "0 | 1", "0 | 1 | 2 | 3") for slots in (4, 8, 16)]
    whole = world.trial(params(8, odd))
    alone = replace(whole, loads=(replace(whole.loads[0], tpot_s=None, parts=()),))
    said = []
    for told in (alone, whole):
        mind = world.mind(hypotheses=(INNER,))
        mind.learn([*plain, told])
        said.append(mind.forecast(mind.design([params(16, odd)])))
    assert said[1].tps[0] > said[0].tps[0]
    assert said[1].tps_sd[0] < said[0].tps_sd[0]
