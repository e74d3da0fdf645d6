"""What earlier studies say: of parameters that mean the same, the less the more has changed, and until overruled."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from autotune.belief import Designer, Evidence, Law, Lesson, Mind, Prior, learned, named
from autotune.belief.kernel import HYPOTHESES
from autotune.belief.prior import AGAIN, AS_BEFORE, Expected, doubled
from autotune.belief.question import SPARE_BYTES
from tests.belief.worlds import EVERY, USERS, World, asked, known, params
from tests.belief.worlds import space as space_of

if TYPE_CHECKING:
    from autotune.space import Space

BASELINE = params(4)


def law(space: Space | None = None, users: int = USERS, devices: int = 4, free_bytes: float = SPARE_BYTES) -> Law:
    question = replace(asked(devices), users=users, bounds=(), spare_bytes=free_bytes)
    return Law(question, Designer.of(space or space_of(), devices))


@cache
def studied(seed: int) -> Mind:
    """The belief at the end of an earlier study."""
    world = World(seed, noise=0.02)
    mind = world.mind()
    mind.learn([world.trial(BASELINE, 1000), *world.trials(9)])
    return mind


def taught(seed: int, times: float = 1.0) -> Lesson:
    mind = studied(seed)
    lesson = learned(mind, named(mind.law), times)
    assert lesson is not None
    return lesson


def error(mind: Mind, world: World) -> float:
    """Of the believed output of all configurations: root of the mean square."""
    off = known(mind, *EVERY)[0] - world.truth(EVERY)[0]
    return float(np.sqrt(np.mean(off**2)))


def after(world: World, count: int, *lessons: Lesson) -> Mind:
    """The belief after the baseline and further trials of another night."""
    mind = world.mind(prior=Prior(lessons))
    mind.learn([world.trial(BASELINE, 2000), *world.trials(count + 20)[20:]])
    return mind


def information(lesson: Lesson) -> float:
    return float(np.sum(np.array(lesson.weights) ** 2))


# what it tells


def test_after_its_first_trial_a_warm_study_knows_what_a_cold_one_cannot() -> None:
    warm, cold = [], []
    for seed in range(3):
        world = World(seed, noise=0.02)
        minds = after(world, 0, taught(seed)), after(world, 0)
        doubts = [np.median(known(mind, *EVERY)[1]) for mind in minds]
        assert doubts[0] < 0.7 * doubts[1]
        warm.append(error(minds[0], world))
        cold.append(error(minds[1], world))
    assert np.mean(warm) < 0.6 * np.mean(cold)


def test_where_the_law_held_it_is_likely_to_hold_again() -> None:
    builds = list(dict.fromkeys((one["layout"], one["num_parallel"]) for one in EVERY))
    heights = dict(zip(builds, np.random.default_rng(1).normal(0, 0.3, len(builds)).tolist(), strict=True))
    odd = World(1, noise=0.02, twist=lambda one: heights[one["layout"], one["num_parallel"]])
    mind = odd.mind()
    mind.learn([odd.trial(BASELINE, 1000), *odd.trials(9)])
    unlawful = learned(mind, named(mind.law))
    assert unlawful is not None
    first, last = HYPOTHESES[0], HYPOTHESES[-1]
    far = learned(studied(1), named(mind.law), trusted=0.1)
    assert far is not None
    held, far_held, not_held = (dict(lesson.trust) for lesson in (taught(1), far, unlawful))
    assert held[first.name] > far_held[first.name] > first.chance > not_held[first.name]
    assert held[last.name] < far_held[last.name] < last.chance < not_held[last.name]
    for trust in (held, far_held, not_held):
        assert sum(trust.values()) == pytest.approx(1)
    both, nothing = (
        {one.name: one.chance for one in doubled(HYPOTHESES, law(), lessons)[0]}
        for lessons in ((taught(1), unlawful), (taught(1), replace(taught(1), trust=())))
    )
    assert sum(both.values()) == pytest.approx(1)
    assert both[first.name + AGAIN] == pytest.approx(AS_BEFORE * (held[first.name] + not_held[first.name]) / 2)
    assert nothing[last.name + AGAIN] == pytest.approx(AS_BEFORE * (held[last.name] + last.chance) / 2)


def test_where_the_lesson_is_wrong_the_trials_overrule_it() -> None:
    """That of another host altogether, as if its fingerprint had lied."""
    world, lesson = World(1, noise=0.02), taught(1)
    wrong = replace(lesson, values=tuple(value + 8 * (-1) ** at for at, value in enumerate(lesson.values)))
    misled, warm, cold = after(world, 4, wrong), after(world, 4, lesson), after(world, 4)
    believed = [
        sum(float(view.weights[0]) for view in mind.views if "earlier" in view.hypothesis.name)
        for mind in (misled, warm)
    ]
    assert believed[0] < 0.2
    assert believed[1] > 0.8
    assert "earlier" in warm.trust
    assert error(misled, world) < 1.3 * error(cold, world)


def test_the_more_has_changed_the_less_is_told() -> None:
    every = [information(taught(1, times)) for times in (1.0, 2.0, 4.0)]
    assert every == sorted(every, reverse=True)
    assert every[2] < 0.2 * every[0]


def test_two_studies_tell_more_than_one() -> None:
    world = World(1, noise=0.02)
    lesson = taught(1)
    one, two = after(world, 0, lesson), after(world, 0, lesson, lesson)
    assert np.median(known(two, *EVERY)[1]) < np.median(known(one, *EVERY)[1])


def test_who_has_measured_nothing_teaches_nothing() -> None:
    mind = World().mind()
    mind.learn([Evidence(BASELINE, failed=True)])
    assert learned(mind, named(mind.law)) is None


def test_without_earlier_studies_all_is_as_it_was() -> None:
    world = World(2, noise=0.02)
    plain = world.mind()
    plain.learn([world.trial(BASELINE, 2000), *world.trials(25)[20:]])
    for one, other in zip(known(plain, *EVERY), known(after(world, 5), *EVERY), strict=True):
        assert (one == other).all()


# which parameters mean the same


def test_every_parameter_has_a_name_of_its_own() -> None:
    names = named(law())
    assert len(names) == len(set(names)) == len(law().mean)
    assert {"step", "saturation", "curve", "curve 12", "device 3", "knob num_batch=512", "knob num_batch/256"} <= {
        *names
    }


def test_knobs_and_devices_that_are_others_have_none() -> None:
    names, without = named(law()), named(law(), {"num_batch"}, {1})
    gone = {name for name, left in zip(names, without, strict=True) if not left}
    assert gone == {"device 1", *(name for name in names if "num_batch" in name)}


def test_a_knob_is_found_by_its_name_and_value_wherever_it_stands() -> None:
    here, there = (
        law(space_of(num_batch=(256, 512))),
        law(space_of(num_batch=(256, 512), kv_cache_type=("f16", "q8_0"))),
    )
    names = named(here)
    lesson = Lesson(names, (tuple(float(name == "knob num_batch=512") for name in names),), (0.1,))
    found = Expected.of(there, [lesson])
    assert named(there)[int(np.argmax(found.weights[:, 0]))] == "knob num_batch=512"
    assert np.count_nonzero(found.weights) == 1


def test_what_no_instance_gets_of_a_device_is_another_where_another_amount_is_left_free() -> None:
    usual, more = law(), law(free_bytes=3 * 2**30)
    assert set(named(usual)) ^ set(named(more)) == {"spare", "spare 3072 MiB"}
    assert float(np.exp(more.mean[more.at["spare"]])[0]) == pytest.approx(3 * 2**30)


def test_the_host_gives_way_to_busy_slots_and_not_to_a_share_of_the_users() -> None:
    few, many = law(users=20), law(users=40)
    names = named(few)
    lesson = Lesson(names, (tuple(100.0 * (name == "saturation") for name in names),), (100.0 * math.log(100),))
    found = [float(Expected.of(one, [lesson]).centre(one)[one.at["saturation"]][0]) for one in (few, many)]
    assert np.exp(found) == pytest.approx([5.0, 2.5], rel=0.01)


# what else


def test_slots_that_were_not_there_are_not_there_until_one_is_seen() -> None:
    world = World(0)
    mind = world.mind(prior=Prior(cap=4))
    mind.learn([world.trial(BASELINE)])
    assert mind.cap == 4
    mind.learn([world.trial(BASELINE), replace(world.trial(params(16)), slots=16)])
    assert mind.cap == math.inf
    mind.learn([replace(world.trial(params(16)), slots=2)])
    assert mind.cap == 2


def test_noise_is_what_it_was_until_repeats_say_otherwise() -> None:
    world = World(0)
    mind = world.mind(prior=Prior(noise=0.08))
    mind.learn([world.trial(BASELINE)])
    assert mind.noise == pytest.approx(0.08)
    mind.learn([world.trial(BASELINE)] * 6)
    assert mind.noise < 0.06


def test_it_is_read_as_it_was_written() -> None:
    prior = Prior((taught(1),), (BASELINE,), 4.0, 0.03)
    assert Prior.from_json(json.loads(json.dumps(asdict(prior)))) == prior
    assert Prior.from_json(json.loads(json.dumps(asdict(Prior())))) == Prior()
    broken = asdict(prior)
    broken["lessons"] = [{**broken["lessons"][0], "values": [1.0]}]
    with pytest.raises(ValueError, match="lesson"):
        Prior.from_json(broken)
    broken["lessons"] = [{**asdict(prior)["lessons"][0], "trust": [["the law holds", 0.0]]}]
    with pytest.raises(ValueError, match="chances that are none"):
        Prior.from_json(broken)
    before = asdict(prior)
    del before["lessons"][0]["trust"]
    assert Prior.from_json(before).lessons[0].trust == ()
