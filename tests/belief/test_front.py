"""Several goals at once: volumes against brute force, and a search that finds the front of a cluster."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.belief import JOULES, Bound, Chooser, Evidence, Loaded, Question
from autotune.belief.front import FAR, Open, covered
from autotune.space import key
from autotune.stats import corner, front, volume
from tests.belief.worlds import EVERY, USERS, World, asked, params
from tests.conftest import gpus, study

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.belief.design import Array

TAIL = Bound("ttft_s", "p95", USERS, 1.0, limit=False)
BOTH = asked(most_s=None, bounds=(TAIL,), goals=(0,))

numbers = st.integers(1, 6).map(float)
clouds = st.integers(2, 3).flatmap(lambda goals: st.lists(st.tuples(*[numbers] * goals), min_size=1, max_size=6))


def cells_under(points: Array, low: Array) -> int:
    """Cells of a grid that some point covers."""
    cells = np.stack(np.meshgrid(*[np.arange(8) + 0.5] * points.shape[1], indexing="ij")).reshape(points.shape[1], -1)
    inside = (cells >= low[:, None]).all(axis=0)
    return int((covered(cells, points) & inside).sum())


# volumes


@given(clouds, st.data())
def test_what_a_point_adds_is_the_volume_with_it_less_that_without_it(
    cloud: list[tuple[float, ...]], data: st.DataObject
) -> None:
    points, goals = np.array(cloud), len(cloud[0])
    low = np.array(data.draw(st.tuples(*[st.integers(0, 3).map(float)] * goals)))
    new = np.array([data.draw(st.tuples(*[numbers] * goals))])
    added = cells_under(np.concatenate([points, new]), low) - cells_under(points, low)
    assert Open.over(points, low).added(new) == pytest.approx([added])


@given(clouds)
def test_the_boxes_do_not_overlap_and_hold_what_is_not_covered(cloud: list[tuple[float, ...]]) -> None:
    points = np.array(cloud)
    low = np.zeros(points.shape[1])
    beyond = Open.over(points, low)
    probes = np.random.default_rng(1).uniform(0, 8, (200, points.shape[1]))
    inside = ((probes[:, None] > beyond.low) & (probes[:, None] < beyond.high)).all(axis=2).sum(axis=1)
    assert inside.tolist() == (~covered(probes.T, points)).astype(int).tolist()
    assert beyond.high.max() == FAR


@pytest.mark.parametrize("goals", [2, 3])
def test_the_expectation_is_that_of_many_draws(goals: int) -> None:
    chance = np.random.default_rng(goals)
    points = chance.normal(size=(7, goals))
    beyond = Open.over(points, np.array(corner(points.tolist())))
    mean, sd = chance.normal(size=(goals, 5)), chance.uniform(0.1, 0.8, (goals, 5))
    draws = mean + sd * chance.standard_normal((40_000, goals, 5))
    told = [beyond.added(draws[:, :, at]).mean() for at in range(5)]
    np.testing.assert_allclose(beyond.expected(mean, sd), told, rtol=0.05, atol=0.004)


def test_what_is_certainly_behind_adds_nothing_and_what_is_ahead_by_more_adds_more() -> None:
    beyond = Open.over(np.array([[2.0, 1.0], [1.0, 2.0]]), np.zeros(2))
    mean = np.array([[0.5, 1.5, 3.0], [0.5, 1.5, 3.0]])
    behind, between, ahead = beyond.expected(mean, np.full((2, 3), 1e-3))
    assert (behind, between, ahead) == pytest.approx((0.0, 0.25, 6.0), abs=1e-6)


# the question


def test_a_goal_that_is_a_limit_too_is_measured_once() -> None:
    limit = {"metric": "ttft_s", "statistic": "p95", "max": 2.0}
    goals = ["tps", "tpot_mean_s", "ttft_p95_s"]
    found = Question.of(study(objective={"metric": goals, "limits": [limit]}), gpus(), None)
    assert found is not None
    assert [(bound.metric, bound.limit) for bound in found.bounds] == [("ttft_s", True), ("tpot_s", False)]
    assert found.goals == (1, 0)
    assert found.limits == 1
    alone = Question.of(study(objective={"limits": [limit]}), gpus(), None)
    assert alone is not None
    assert (alone.goals, alone.limits) == ((), 1)


def test_what_is_only_a_goal_never_misses() -> None:
    world = World(3, question=BOTH)
    mind = world.mind()
    mind.learn(world.trials(4))
    found = mind.forecast(mind.design(EVERY))
    assert found.holds().tolist() == [1.0] * len(EVERY)
    limited = World(3, question=asked(most_s=1e-6)).mind()
    limited.learn(world.trials(4))
    assert limited.forecast(limited.design(EVERY)).holds().max() < 0.5


def test_tokens_per_joule_follow_the_output_at_the_mean_power() -> None:
    per_token = Bound(JOULES, "mean", USERS, 1.0, limit=False)
    world = World(1, question=asked(most_s=None, bounds=(per_token,), goals=(0,)))

    def trial(one: Mapping[str, object], watts: float = 500.0) -> Evidence:
        load = world.trial(one).loads[0]
        return Evidence(one, (load,), ((per_token.name, watts / load.tps),))

    mind = world.mind()
    mind.learn([trial(params(4)), trial(params(8, "0 | 1")), trial(params(16, "0 | 1 | 2 | 3"))])
    assert math.exp(mind.law.power) == pytest.approx(500.0)
    found = mind.forecast(mind.design(EVERY))
    assert np.abs(found.tps + found.bounds[0] - math.log(500.0)).max() < 0.05
    mind.learn([*mind.trials, trial(params(1), 1000.0)])
    assert 500.0 < math.exp(mind.law.power) < 1000.0


# the search


def searched(world: World, count: int) -> Chooser:
    choosing = Chooser(world.mind(), EVERY)
    trials = [world.trial(EVERY[0], 0), world.trial(EVERY[-1], 1)]
    while True:
        choosing.mind.learn(trials)
        if len(trials) >= count:
            return choosing
        trials.append(world.trial(choosing.next(), len(trials)))


def covered_part(seed: int) -> float:
    """Of the volume under the true front, after 14 trials."""
    world = World(seed, noise=0.01, question=BOTH)
    choosing = searched(world, 14)
    points = (world.truth(EVERY) * np.array([[1.0], [-1.0]])).T
    places = [at for at, one in enumerate(EVERY) if key(one) in {key(trial.params) for trial in choosing.mind.trials}]
    every = points.tolist()
    best = [every[at] for at in front([*map(tuple, every)])]
    low = corner(best)
    return volume([every[at] for at in places], low) / volume(best, low)


def test_it_soon_covers_most_of_what_the_true_front_covers() -> None:
    assert np.mean([covered_part(seed) for seed in range(3)]) > 0.95


def test_ranked_shows_the_front_first_what_covers_most_of_it_and_then_the_rest_by_output() -> None:
    world = World(1, noise=0.01, question=BOTH)
    choosing = searched(world, 8)
    ranked = choosing.ranked()
    forecast = choosing.mind.forecast(choosing.mind.design(ranked))
    points = list(zip(forecast.tps.tolist(), (-forecast.bounds[0]).tolist(), strict=True))
    on = front(points)
    assert sorted(on) == list(range(len(on)))
    low = corner([points[at] for at in on])
    two = max(volume(pair, low) for pair in combinations((points[at] for at in on), 2))
    assert volume(points[:1], low) == max(volume([point], low) for point in points)
    assert volume(points[:2], low) > 0.9 * two
    rest = [point[0] for point in points[len(on) :]]
    assert rest == sorted(rest, reverse=True)
    assert len({key(one) for one in ranked}) == len(ranked)


def test_nothing_is_promised_where_all_was_tried_and_much_where_one_end_is_missing() -> None:
    world = World(2, noise=0.005, question=BOTH)
    pool = [params(1), params(32), params(4, "0 | 1 | 2 | 3"), params(32, "0 | 1 | 2 | 3")]
    choosing = Chooser(world.mind(), pool)
    choosing.mind.learn([world.trial(one, at) for at, one in enumerate(pool[:2])])
    some = choosing.promise(0.02)
    assert some is not None
    assert some > 0.9
    choosing.mind.learn([world.trial(one, at) for at, one in enumerate(pool)])
    assert choosing.promise(0.02) == 0.0


def test_a_trial_whose_goal_nobody_knows_still_tells_of_the_output() -> None:
    world = World(2, question=BOTH)
    trials = [replace(world.trial(params(4)), bounds=()), Evidence(params(8), (Loaded(USERS, 50.0),))]
    choosing = Chooser(world.mind(), EVERY)
    choosing.mind.learn(trials)
    assert choosing.next() in EVERY
    assert len(choosing.ranked()) == 2
