"""What is believed in plain figures, and how likely each configuration is the best."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from autotune.belief import JOULES, Bound, Chooser, Evidence, believed, odds
from autotune.belief.fit import TTFT_NOISE
from autotune.belief.odds import WIDE
from autotune.report.beliefs import expected, odds_rows, remaining
from autotune.space import key
from autotune.spec import PER_JOULE
from tests.belief.worlds import EVERY, USERS, World, asked, params

SOME = EVERY[::5]


def test_what_is_believed_is_told_in_tokens_and_seconds_with_room_for_noise() -> None:
    world = World(0, noise=0.02)
    mind = world.mind()
    every = [params(8, "0 | 1"), params(2)]
    assert believed(mind, every) == []
    mind.learn(world.trials(3))
    found, forecast = believed(mind, every), mind.forecast(mind.design(every))
    (bound,) = world.question.bounds
    assert [one.params for one in found] == every
    for at, one in enumerate(found):
        limit = one.limits[bound.name]
        assert one.tps.value == pytest.approx(math.exp(forecast.tps[at]))
        assert limit.value == pytest.approx(bound.most * math.exp(forecast.bounds[0, at]))
        assert math.log(one.tps.high / one.tps.value) == pytest.approx(
            WIDE * math.hypot(forecast.tps_sd[at], mind.noise)
        )
        wide = math.hypot(forecast.bounds_sd[0, at], TTFT_NOISE * mind.noise)
        assert math.log(limit.value / limit.low) == pytest.approx(WIDE * wide)
        assert (one.holds, one.starts) == (forecast.holds()[at], forecast.starts[at])


def test_of_several_goals_each_is_told() -> None:
    tail = Bound("ttft_s", "p95", USERS, 1.0, limit=False)
    joules = Bound(JOULES, "mean", USERS, 1.0, limit=False)
    world = World(0, noise=0.02, question=asked(bounds=(tail, joules), goals=(1, 2)))
    mind = world.mind()
    mind.learn([replace(one, bounds=(*one.bounds, (joules.name, 0.5))) for one in world.trials(5)])
    one = believed(mind, [params()])[0]
    assert list(one.goals) == [tail.name, PER_JOULE]
    assert all(0 < found.low < found.value < found.high for found in one.goals.values())
    assert one.goals[PER_JOULE].low < 2.0 < one.goals[PER_JOULE].high
    said = expected(one)
    assert f"; {tail.name} " in said
    assert f"; {PER_JOULE} " in said
    chances = odds(Chooser(mind, SOME))
    assert chances is not None
    head, rows = odds_rows(chances.contenders)
    assert (head[0], head[2], len(rows[0])) == ("most tokens/s", f"{tail.name}, s", len(head))
    assert "make the most tokens/s, one goal of several, with" in remaining(chances, 1)


def test_chances_to_be_the_best_are_of_all_configurations_and_add_up() -> None:
    world = World(1, noise=0.02)
    chooser = Chooser(world.mind(), SOME)
    assert odds(chooser) is None
    trials = world.trials(3)
    chooser.mind.learn(trials)
    found = odds(chooser)
    assert found is not None
    every = [*SOME, *(trial.params for trial in trials)]
    assert {key(one.believed.params) for one in found.contenders} == {key(one) for one in every}
    assert {key(one.believed.params) for one in found.contenders if one.tried} == {key(one.params) for one in trials}
    chances = [one.chance for one in found.contenders]
    assert sum(chances) + found.nothing == pytest.approx(1)
    assert chances == sorted(chances, reverse=True)
    assert found == odds(chooser)


def test_where_all_was_measured_the_best_of_it_is_the_favourite() -> None:
    world, every = World(2, noise=0.005), [params(slots, "0 | 1") for slots in (1, 2, 4, 8)]
    chooser = Chooser(world.mind(), every)
    chooser.mind.learn([world.trial(one, number) for number, one in enumerate(every)])
    found, (output, *over) = odds(chooser), world.truth(every)
    assert found is not None
    best = int(np.where((np.array(over) <= 0).all(axis=0), output, -np.inf).argmax())
    assert found.contenders[0].believed.params == every[best]
    assert found.contenders[0].chance > 0.9


def test_a_limit_that_nothing_holds_leaves_nothing_to_win() -> None:
    world = World(0, noise=0.02, question=asked(most_s=1e-3))
    chooser = Chooser(world.mind(), SOME)
    chooser.mind.learn(world.trials(2))
    found = odds(chooser)
    assert found is not None
    assert found.nothing > 0.99


def test_what_could_not_be_measured_does_not_win() -> None:
    world = World(3, noise=0.02)
    chooser = Chooser(world.mind(), SOME)
    trials = world.trials(3)
    chooser.mind.learn(trials)
    before = odds(chooser)
    assert before is not None
    first = next(one.believed.params for one in before.contenders if not one.tried)
    chooser.mind.learn([*trials, Evidence(first, failed=True)])
    after = odds(chooser)
    assert after is not None
    chances = {key(one.believed.params): one.chance for one in before.contenders}
    (now,) = (one.chance for one in after.contenders if one.believed.params == first)
    assert chances[key(first)] > 0
    assert now == 0  # it is not tried again


def test_what_was_measured_can_be_measured() -> None:
    world = World(3, noise=0.02)
    mind, trials = world.mind(), world.trials(3)
    first = trials[2].params
    mind.learn([*trials, *(Evidence(one, failed=True, misfit=True) for one in EVERY[-3:] if one != first)])
    assert believed(mind, [first])[0].starts == 1
    mind.learn([*trials, Evidence(first, failed=True)])
    assert believed(mind, [first])[0].starts < 1
    found = odds(Chooser(mind, SOME))
    assert found is not None
    assert [one.chance for one in found.contenders if one.believed.params == first] == [0]


def test_the_chances_are_what_they_say() -> None:
    """Over many clusters the favourites are the best as often as they are said to be."""
    said, right = [], []
    for seed in range(8):
        world = World(seed, noise=0.02, question=asked(most_s=None))
        chooser = Chooser(world.mind(), SOME)
        chooser.mind.learn([world.trial(SOME[at], at) for at in (0, 11, 20)])
        found = odds(chooser)
        assert found is not None
        first, (output,) = found.contenders[0], world.truth(SOME)
        said.append(first.chance)
        right.append(first.believed.params == SOME[int(output.argmax())])
    print(sum(said), sum(right))
    spread = math.sqrt(sum(chance * (1 - chance) for chance in said))
    assert abs(sum(said) - sum(right)) < 2.6 * spread
