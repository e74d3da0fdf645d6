"""What the law says, in the limits where it can be known otherwise."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.belief import Bound, Designer
from autotune.belief.law import Law
from autotune.simulator.model import closed_form
from autotune.simulator.profiles import ModelProfile
from tests.belief.worlds import EVERY, SPACE, USERS, asked, params
from tests.belief.worlds import space as space_of
from tests.test_space import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.belief import Question
    from autotune.belief.design import Array, Design
    from autotune.belief.law import Answer

BASE_S, SLOT_S, READ_TPS = 0.02, 0.002, 2000.0
MODEL = ModelProfile(
    name="made-up", layers=8, weights_mib=1, kv_mib_per_1024_tokens=1, step_base_s=BASE_S, step_slot_s=SLOT_S,
    prefill_tps=READ_TPS, load_s=0, warm_load_s=0,
)  # fmt: skip
ANSWER, PROMPT = 200, 300
PLAIN = {
    "step": np.log(BASE_S), "slot": np.log(SLOT_S), "prompt": np.log(READ_TPS), "kappa": 0.0, "saturation": 20.0,
    "host": -20.0, "host2": -20.0, "share": 0.0,
}  # fmt: skip
"""As the simulator has it: nothing that instances cost each other, and every busy slot reads one prompt."""
MIXED = space_of("AABC", layouts=("0 | 1 | 2 | 3", "0x2 | 2+3", "0+1 | 2 | 3"))


def law_of(question: Question, space: Any = SPACE) -> Law:
    return Law(question, Designer.of(space, len(question.kinds)))


LAW = law_of(asked())


def theta_of(law: Law = LAW, **values: Any) -> Array:
    """One vector of parameters, at their prior's means but for these."""
    theta = law.mean.copy()
    for name, value in values.items():
        theta[law.at[name]] = value
    return theta[None]


def answer(*chosen: Mapping[str, Any], users: float = USERS, law: Law = LAW, **values: Any) -> Answer:
    design = law.designer.design(chosen)
    return law.answer(theta_of(law, **(PLAIN | values)), design, np.full(len(design), float(users)))


# one instance


@pytest.mark.parametrize(("users", "slots"), [(1, 1), (1, 8), (2, 2), (4, 8), (8, 32), (20, 32), (20, 1), (20, 8)])
def test_one_instance_is_as_the_simulator_has_it(users: int, slots: int) -> None:
    found = answer(params(slots), users=users)
    expected = closed_form(MODEL, users, slots, ANSWER, prompt_tokens=PROMPT)
    assert found.tps[0, 0] == pytest.approx(expected.output_tps, rel=0.02)
    assert found.busy[0, 0] == pytest.approx(expected.busy, rel=0.02)
    per_token_s = (expected.service_s - PROMPT / READ_TPS) / ANSWER
    assert found.tpot_s[0, 0] == pytest.approx(per_token_s, rel=0.02)
    if users > slots:
        assert found.ttft_s[0, 0] == pytest.approx(expected.ttft_s, rel=0.03)


def test_with_one_slot_nobody_is_slowed_by_others() -> None:
    found = answer(params(1), params(1), users=20)
    assert found.tpot_s[0, 0] == pytest.approx(BASE_S + SLOT_S, rel=1e-3)
    assert found.busy[0, 0] == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("layout", ["0", "0 | 1", "0x2 | 1x2 | 2x2 | 3x2"])
@pytest.mark.parametrize("users", [60, 200])
def test_more_users_than_slots_wait_by_little_s_law(layout: str, users: int) -> None:
    found = answer(params(4, layout), users=users)
    requests_per_s = found.tps[0, 0] / ANSWER
    held_s = found.busy[0, 0] / requests_per_s
    reads = PROMPT / READ_TPS
    waited_s = found.ttft_s[0, 0] - reads * 2 * (2 if "x" in layout else 1)  # a prompt is read while others are
    assert requests_per_s * (waited_s + held_s) == pytest.approx(users, rel=0.06)


def test_more_users_get_no_more_than_the_slots_can_do() -> None:
    few, many = (answer(params(8), users=users).tps[0, 0] for users in (20, 400))
    assert few == pytest.approx(many, rel=1e-3)


# several instances


@pytest.mark.parametrize("users", [40, 160])
def test_twice_as_many_devices_give_about_twice_as_much(users: int) -> None:
    found = answer(params(8, "0"), params(8, "0 | 1"), params(8, "0 | 1 | 2 | 3"), users=users)
    one, two, four = found.tps[0]
    if users >= 4 * 8 * 4:
        assert two == pytest.approx(2 * one, rel=0.02)
        assert four == pytest.approx(4 * one, rel=0.02)
    assert 1.6 * one < two <= 2.001 * one


def test_who_is_on_the_way_is_at_no_instance() -> None:
    """Where slots are free every second of it is lost; where all are busy it only makes the queue shorter."""
    plain: dict[str, Any] = {"way": -20.0, "slot": -20.0, "kappa": -20.0}  # nobody is slowed by others
    free, slow = (answer(params(32, "0 | 1"), users=8, overhead=np.log(s), **plain) for s in (1e-6, 0.4))
    turn_s = 8 * ANSWER / free.tps[0, 0]
    assert slow.tps[0, 0] / free.tps[0, 0] == pytest.approx(turn_s / (turn_s + 0.4), rel=1e-3)
    assert slow.ttft_s[0, 0] == pytest.approx(free.ttft_s[0, 0] + 0.4, rel=0.01)
    free, slow = (answer(params(2, "0 | 1"), users=40, overhead=np.log(s), **plain) for s in (1e-6, 0.4))
    assert slow.tps[0, 0] == pytest.approx(free.tps[0, 0], rel=1e-3)
    assert slow.ttft_s[0, 0] == pytest.approx(free.ttft_s[0, 0], rel=0.01)


def test_a_policy_may_cost_every_request_time_where_there_is_something_to_choose() -> None:
    way = np.log([1e-6, 0.4, 1e-6])  # round_robin, least_conn, random_two
    chosen = [params(32, "0 | 1", policy=name) for name in ("round_robin", "least_conn", "random_two")]
    first, dear, last = answer(*chosen, users=8, way=way).ttft_s[0] - answer(*chosen, users=8, way=-20.0).ttft_s[0]
    assert dear == pytest.approx(0.4, rel=0.02)
    assert max(abs(first), abs(last)) < 1e-3
    alone = params(32)
    assert answer(alone, users=8, way=way).tps[0, 0] == pytest.approx(answer(alone, users=8, way=-20.0).tps[0, 0])


def test_instances_that_cost_each_other_give_less() -> None:
    chosen = params(8, "0 | 1 | 2 | 3")
    assert answer(chosen, host=np.log(0.1)).tps < 0.9 * answer(chosen).tps


def test_copies_that_share_a_device_are_slower_each_and_together_no_faster() -> None:
    found = answer(params(4, "0 | 1 | 2 | 3"), params(4, "0x2 | 1x2 | 2x2 | 3x2"), users=400)
    assert found.tpot_s[0, 1] > 1.9 * found.tpot_s[0, 0]
    assert found.tps[0, 1] == pytest.approx(found.tps[0, 0], rel=0.01)


WEAK = [0.0, np.log(3.0), 0.0, 0.0]


def test_round_robin_sends_a_weak_device_as_much_and_a_crowd_gathers_there() -> None:
    even, least = params(4, "0 | 1"), params(4, "0 | 1", policy="least_conn")
    found = answer(even, least, device=WEAK, round_robin=-3.0, least_conn=-3.0)
    strong, weak = found.part_share[0, 0, :2]
    assert weak == pytest.approx(strong, rel=0.15)
    assert found.part_share[0, 1, 1] < 0.6 * found.part_share[0, 1, 0]
    assert found.tps[0, 0] < 0.9 * found.tps[0, 1]
    assert found.ttft("p95")[0, 0] > 1.2 * found.ttft("p95")[0, 1]
    assert found.part_tpot_s[0, 0, 1] > found.part_tpot_s[0, 0, 0]


def test_a_weak_device_matters_only_where_it_is_used() -> None:
    plain, weak = (answer(params(4, "0"), params(4, "0 | 1"), device=device) for device in (0.0, WEAK))
    assert weak.tps[0, 0] == plain.tps[0, 0]
    assert weak.tps[0, 1] < plain.tps[0, 1]


def test_weights_send_more_to_where_there_are_more_slots() -> None:
    law = law_of(asked(2, kinds=("A", "B")), space_of("AB", layouts=("0 | 1",), weights=("equal", "slots")))
    mixed = params(2, "0 | 1") | {"num_parallel@B": 8}
    found = answer(mixed, mixed | {"weights": "slots"}, users=10, law=law, round_robin=-3.0)
    assert found.part_share[0, 1, 1] > 2 * found.part_share[0, 1, 0]
    assert found.tps[0, 1] > found.tps[0, 0]


def test_round_robin_sends_few_slots_as_much_as_many() -> None:
    """Of two devices as fast as each other; that one is a little faster changes little."""
    law = law_of(asked(2, kinds=("A", "B")), space_of("AB", layouts=("0 | 1",)))
    mixed = params(2, "0 | 1") | {"num_parallel@B": 8}
    even, faster = (answer(mixed, law=law, round_robin=-3.0, kind=kind) for kind in (0.0, 0.04))
    few, many = even.part_share[0, 0]
    assert few == pytest.approx(many, rel=0.15)
    assert faster.tps[0, 0] == pytest.approx(even.tps[0, 0], rel=0.02)


def permuted(design: Design, order: list[int]) -> Design:
    """The same with its parts in another order."""
    values = {name: getattr(design, name)[:, order] for name in ("copies", "span", "slots", "weight", "devices")}
    return replace(design, **values)


@settings(max_examples=30)
@given(st.permutations(range(4)), st.integers(0, 2**32 - 1))
def test_the_order_of_parts_changes_nothing(order: list[int], seed: int) -> None:
    law = law_of(asked(), MIXED)
    design = law.designer.design(list(MIXED.configurations())[::97])
    theta = law.mean + law.sd * np.random.default_rng(seed).standard_normal((3, len(law.mean)))
    users = np.full(len(design), float(USERS))
    one, other = law.answer(theta, design, users), law.answer(theta, permuted(design, order), users)
    for name in ("tps", "ttft_s", "tpot_s", "prefill_s", "busy"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9)
    np.testing.assert_allclose(one.ttft("p95"), other.ttft("p95"), rtol=1e-9)
    np.testing.assert_allclose(one.part_tpot_s[:, :, order], other.part_tpot_s, rtol=1e-9)


def test_equal_devices_may_change_places() -> None:
    """A layout of two instances is the same on whichever two of four equal devices."""
    design = LAW.designer.design([params(4, "0 | 1")])
    moved = replace(design, devices=design.devices[:, :, [2, 3, 0, 1]])
    users = np.array([float(USERS)])
    theta = theta_of(**PLAIN)
    assert LAW.answer(theta, design, users).tps == LAW.answer(theta, moved, users).tps


def test_a_vector_of_parameters_is_told_the_same_alone_and_among_others() -> None:
    design = LAW.designer.design(EVERY[::7])
    theta = LAW.mean + LAW.sd * np.random.default_rng(1).standard_normal((4, len(LAW.mean)))
    together = LAW.heads(theta, design)
    for number in range(4):
        np.testing.assert_allclose(LAW.heads(theta[number : number + 1], design)[:, 0], together[:, number], atol=0.03)


# whatever it is


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0, 3), st.sampled_from([1, 3, 20, 300]))
def test_whatever_the_parameters_are_it_has_an_answer(seed: int, wide: float, users: int) -> None:
    question = asked(4, kinds=("A", "A", "B", "C"), memory_bytes=(22.0 * GIB,) * 4, weights_bytes=8e9, slot_bytes=1e9)
    law = law_of(question, MIXED)
    design = law.designer.design(list(MIXED.configurations())[seed % 50 :: 61])
    theta = law.mean + wide * law.sd * np.random.default_rng(seed).uniform(-1, 1, (2, len(law.mean)))
    found = law.answer(theta, design, np.full(len(design), float(users)))
    for values in (found.tps, found.ttft_s, found.tpot_s, found.prefill_s, found.busy, found.memory):
        assert np.isfinite(values).all()
        assert (values > 0).all()
    for statistic in ("mean", "p50", "p90", "p95", "p99"):
        assert np.isfinite(found.ttft(statistic)).all()
        assert (found.ttft(statistic) > 0).all()
    assert (found.busy <= design.instances * design.slots.max(axis=1) * 1.001).all()
    np.testing.assert_allclose(found.part_share.sum(axis=2), 1)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_more_users_wait_longer(seed: int, wide: float) -> None:
    design = LAW.designer.design(EVERY[seed % 9 :: 9])
    theta = LAW.mean + wide * LAW.sd * np.random.default_rng(seed).uniform(-1, 1, (1, len(LAW.mean)))
    theta[:, LAW.at["device"]] = 0.0
    theta[:, LAW.at["curve"]] = 0.0  # more busy slots may be faster by it
    found = [LAW.answer(theta, design, np.full(len(design), users)) for users in (5.0, 10.0, 40.0, 160.0)]
    for few, many in pairwise(found):
        assert (many.ttft_s > few.ttft_s * 0.999).all()
        assert (many.ttft("p95") > few.ttft("p95") * 0.999).all()


def test_percentiles_are_in_order() -> None:
    found = answer(*EVERY[::11])
    every = [found.ttft(name) for name in ("p50", "p90", "p95", "p99")]
    assert all((low <= high).all() for low, high in pairwise(every))


def test_what_is_decided_by_is_relative_to_its_limits() -> None:
    bounds = (Bound("ttft_s", "mean", USERS, 2.0), Bound("tpot_s", "mean", 5, 0.1), Bound("e2e_s", "p95", 5, 30.0))
    law = law_of(asked(bounds=bounds))
    design, theta = law.designer.design([params(4)]), law.mean[None]
    main, other = (law.answer(theta, design, np.array([users])) for users in (float(USERS), 5.0))
    e2e = other.ttft("p95")[0, 0] + ANSWER * other.tpot_s[0, 0]
    expected = [main.tps[0, 0], main.ttft_s[0, 0] / 2.0, other.tpot_s[0, 0] / 0.1, e2e / 30.0]
    assert law.heads(theta, design)[:, 0, 0] == pytest.approx(np.log(expected))


# memory


TIGHT = asked(memory_bytes=(16e9,) * 4, weights_bytes=8e9, slot_bytes=0.5e9)
ROOM = 16e9 - 1.2 * 2**30
"""llama.cpp leaves 1 GiB free, and the driver has some from the beginning."""


def test_what_does_not_fit_is_slow() -> None:
    law = law_of(TIGHT)
    fits, spills = answer(params(4), params(32), law=law), answer(params(4), params(32), law=LAW)
    assert fits.memory[0].tolist() == pytest.approx([10e9 / ROOM, 24e9 / ROOM])
    assert fits.tpot_s[0, 0] == pytest.approx(spills.tpot_s[0, 0], rel=0.01)
    assert fits.tpot_s[0, 1] > 2 * spills.tpot_s[0, 1]


def test_memory_is_shared_by_copies_and_split_over_devices() -> None:
    found = answer(params(4), params(4, "0x2 | 1x2 | 2x2 | 3x2"), params(4, "0+1 | 2+3"), law=law_of(TIGHT)).memory[0]
    assert found[1] == pytest.approx(2 * found[0])
    assert found[2] == pytest.approx(found[0] / 2)


def test_what_ollama_tells_of_an_instance_is_without_the_driver_s_own() -> None:
    law = law_of(replace(TIGHT, context_bytes=1e9))
    one, design = law.mean[None], law.designer.design([params(4), params(4, "0x2 | 1x2 | 2x2 | 3x2")])
    assert law.sizing.sizes(one, design)[0].tolist() == pytest.approx([10e9, 10e9])
    assert law.sizing.used(one, design)[0].tolist() == pytest.approx([11e9, 22e9])
    assert law.sizing.full(one, design)[0].tolist() == pytest.approx([11e9 / ROOM, 22e9 / ROOM])


def test_a_quantised_cache_takes_less() -> None:
    plain, small = answer(params(16), params(16, kv_cache_type="q8_0"), law=law_of(TIGHT)).memory[0]
    assert small < plain


def test_groups_of_cores_share_the_host_s_memory() -> None:
    law = law_of(replace(TIGHT, on_cpu=True))
    one, four = answer(params(4), params(4, "0 | 1 | 2 | 3"), law=law).memory[0]
    assert four == pytest.approx(4 * one)


def test_where_nothing_is_known_of_memory_everything_fits() -> None:
    assert answer(*EVERY[::11]).memory.tolist() == [[0] * len(EVERY[::11])]


# knobs


def test_a_knob_turns_steps_and_reading() -> None:
    column = [name for name, value, _ in LAW.designer.knobs if value is None].index("num_batch")
    knobs = np.zeros(len(LAW.designer.knobs))
    knobs[column] = 0.1
    every: list[dict[str, Any]] = [{}, {"knob": knobs}, {"knob_prompt": knobs}]
    plain, step, read = (answer(params(4, num_batch=1024), **values) for values in every)
    assert step.tpot_s == pytest.approx(plain.tpot_s * np.exp(0.2), rel=0.1)
    assert step.tps < plain.tps
    assert read.prefill_s > 1.1 * plain.prefill_s
    first = params(4, num_batch=256)
    assert answer(first, knob=knobs).tps == answer(first).tps


def test_a_parameter_may_be_expected_elsewhere() -> None:
    law = law_of(asked())
    before = law.mean.copy()
    law.centre("step", -2.0)
    changed = np.flatnonzero(law.mean != before)
    assert changed.tolist() == [law.at["step"].start]
    assert law.mean[law.at["step"]].tolist() == [-2.0]
