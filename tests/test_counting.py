"""Spaces that are counted and drawn from without being listed, against those that are listed."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from autotune.errors import SpecError
from autotune.space import Layout, Part, Space, build, fits, key, layouts, orbit, parse_layout
from tests.test_space import FACTS, GIB, host, made

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from autotune.inventory import Inventory

MIXED = "AAAAAABBBBBCCCCC"
CHOICES: dict[str, Any] = {
    "num_parallel": [1, 2, 4, 8, 12, 16, 24, 32],
    "copies": [1, 2, 3],
    "spans": [1, 2, 4],
    "policies": ["round_robin", "least_conn", "random_two"],
    "weights": ["equal", "slots"],
    "flash_attention": ["auto", "on"],
    "kv_cache_type": ["f16", "q8_0"],
    "num_batch": [256, 512, 1024],
    "vram_free_bytes": GIB,
}
"""What may be chosen on sixteen devices of three kinds."""


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """A space on a small host, mixed or not, with too little memory for some of it; `made` from what is drawn."""
    values = {
        "num_parallel": draw(st.sets(st.sampled_from([1, 2, 3, 24, 64]), min_size=1, max_size=3)),
        "copies": draw(st.sets(st.integers(1, 3), min_size=1, max_size=2)),
        "spans": draw(st.none() | st.sets(st.integers(1, 3), min_size=1)),
        "policies": draw(st.sets(st.sampled_from(["round_robin", "least_conn"]), min_size=1)),
        "weights": draw(st.sets(st.sampled_from(["equal", "slots"]), min_size=1)),
        "flash_attention": draw(st.sets(st.sampled_from(["auto", "on", "off"]), min_size=1, max_size=2)),
        "kv_cache_type": draw(st.just({"f16"}) | st.just({"f16", "q8_0"})),
        "threads": draw(st.none() | st.sets(st.integers(1, 4), min_size=1, max_size=2)),
        "num_batch": draw(st.none() | st.just({256, 512})),
    }
    asked: dict[str, Any] = {name: sorted(each) if isinstance(each, set) else each for name, each in values.items()}
    asked |= {"per_class": draw(st.sampled_from(["auto", True, False])), "cache_brings_flash": draw(st.booleans())}
    inventory = draw(st.text("ABab", min_size=1, max_size=3).map(host))
    return build_or_reject(inventory, draw(st.sampled_from([None, FACTS])), asked)


def build_or_reject(inventory: Inventory, facts: Any, asked: Mapping[str, Any]) -> Space:
    try:
        return build(inventory, facts, num_ctx=4096, **asked)
    except SpecError:  # nothing is left
        reject()


def orbits(space: Space, listed: list[dict[str, Any]]) -> int:
    inventory = space.limits.inventory
    return sum(orbit(parse_layout(one["layout"], inventory), inventory) for one in listed)


# counts


@settings(max_examples=150)
@given(spaces())
def test_what_is_counted_is_what_is_listed(space: Space) -> None:
    listed = list(space.configurations())
    assert space.exact
    assert len({key(params) for params in listed}) == len(listed) == space.size
    assert all(map(space.allows, listed))
    endless = replace(space, limits=replace(space.limits, needs={}))
    unbound = list(endless.configurations())
    assert space.after_symmetry == len(unbound)
    assert space.before_symmetry == orbits(space, unbound)
    assert max(len(space.members(one)) for one in listed) <= space.most_instances


@settings(max_examples=60)
@given(spaces())
def test_memory_leaves_out_what_the_definition_does(space: Space) -> None:
    """Each part of a GPU for itself, all instances on the CPU together, each instance with its own slots."""
    inventory = space.limits.inventory
    endless = replace(space, limits=replace(space.limits, needs={}))
    listed = {key(params) for params in space.configurations()}
    for params in endless.configurations():
        needs = [space.limits.needs.get((m.slots, str(params["kv_cache_type"])), 0) for m in space.members(params)]
        on_cpu = 0
        holds = True
        for member, need in zip(space.members(params), needs, strict=True):
            if inventory.devices[member.devices[0]].make == "cpu":
                on_cpu += need
            else:
                holds &= fits(Layout((Part(member.devices, member.crowd),)), inventory, need, 0)
        assert (key(params) in listed) == (holds and on_cpu <= 22 * GIB)


@pytest.mark.parametrize(
    ("kinds", "copies", "spans"),
    [("AAAAAAAA", [1, 2], [2, 4]), ("AAABBB", [1, 3], [2, 3]), ("aaaabb", [1, 2], [2, 3, 6]), ("AABBCC", [2], [2])],
)
def test_layouts_are_counted_as_they_are_listed(kinds: str, copies: list[int], spans: list[int]) -> None:
    every = layouts(host(kinds), copies, spans)
    space = made(host(kinds), None, copies=copies, spans=spans, num_parallel=[4], policies=["least_conn"])
    assert space.family.count == len(every) == space.size
    assert space.before_symmetry == sum(orbit(layout, host(kinds)) for layout in every)


def test_sixteen_devices_of_three_kinds_are_counted_and_drawn_from_in_little_memory() -> None:
    tracemalloc.start()
    try:
        space = build(host(MIXED), FACTS, num_ctx=4096, **CHOICES)
        counts = space.before_symmetry, space.after_symmetry, space.after_memory
        drawn = space.sample(random.Random(1), 1000)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert space.exact
    assert not space.small
    assert counts[0] > 100 * counts[1] > 1000 * counts[2] > 10**12
    assert space.choices["layout"] == ()
    assert len({key(params) for params in drawn}) == 1000
    assert all(map(space.allows, drawn))
    assert most < 200 * 2**20


def test_what_is_too_much_to_count_is_bounded_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, Any] = {"num_parallel": [1, 2, 4, 8, 16, 32], "copies": [1, 2], "weights": ["equal", "slots"]}
    true = made(host("aaabbb", 45), **values)
    monkeypatch.setattr("autotune.space.counting.MOST_STEPS", 2500)
    bound = made(host("aaabbb", 45), **values)
    assert true.exact
    assert not bound.exact
    assert true.size < bound.size < bound.after_symmetry == true.after_symmetry


def test_too_many_kinds_are_refused_with_a_way_out() -> None:
    with pytest.raises(SpecError, match=r"8 kinds of devices.*search\.devices_per_instance"):
        made(host("aabbccddeeffgghh"))
    assert made(host("aabbccddeeffgghh", 999), spans=[1, 2], per_class=False).size > 10**6


# classes


def test_on_one_kind_of_devices_all_instances_have_as_many_slots() -> None:
    for per_class in ("auto", True, False):
        space = made(host("AAA"), spans=[1, 2], weights=["equal", "slots"], per_class=per_class)
        assert not any("@" in name or name == "weights" for name in space.choices)


def test_each_class_of_instances_has_slots_of_its_own() -> None:
    space = made(host("AAB"), None, spans=[1, 2], weights=["equal", "slots"])
    assert [name for name in space.choices if "num_parallel" in name] == [
        "num_parallel", "num_parallel@A+B", "num_parallel@B"
    ]  # fmt: skip
    params = {"layout": "0+2 | 1", "num_parallel": 4, "num_parallel@A+B": 16, "policy": "round_robin"}
    rest = {"flash_attention": "auto", "kv_cache_type": "f16"}
    assert space.allows({**params, **rest, "weights": "slots"})
    assert [
        (m.devices, m.kinds, m.crowd, m.slots, m.weight) for m in space.members({**params, "weights": "slots"})
    ] == [
        ((0, 2), (0, 1), 1, 16, 4),
        ((1,), (0,), 1, 4, 1),
    ]
    assert {m.weight for m in space.members({**params, "weights": "equal"})} == {1}
    assert not space.allows({**params, **rest})  # without a word on weights
    assert not space.allows({**params, **rest, "num_parallel@A+B": 4, "weights": "slots"})  # which would all be equal
    assert space.allows({**params, **rest, "num_parallel@A+B": 4})
    assert not space.allows({**params, **rest, "layout": "0 | 1", "weights": "slots"})  # where there is no such class
    assert space.allows({"layout": "2", "num_parallel": 4, **rest})  # the first class of its layout


def test_classes_can_be_left_alike() -> None:
    space = made(host("AB"), per_class=False, weights=["equal", "slots"])
    assert not any("@" in name or name == "weights" for name in space.choices)
    assert [member.slots for member in space.members({"layout": "0 | 1", "num_parallel": 4})] == [4, 4]


def test_a_small_card_may_have_fewer_slots_than_a_large_one() -> None:
    small, large = host("A", 12).devices[0], host("AB", 22).devices[1]
    inventory = replace(host("AB"), devices=(small, large))
    both = [one for one in made(inventory, policies=["least_conn"]).configurations() if one["layout"] == "0 | 1"]
    assert {(one["num_parallel"], one["num_parallel@B"]) for one in both} == {(4, 4), (4, 16)}


# draws


def large(space: Space, patch: pytest.MonkeyPatch) -> Space:
    """The same space, taken for one that cannot be listed."""
    patch.setattr("autotune.space.choices.ENUMERATED", 0)
    return replace(space)


@settings(max_examples=60)
@given(spaces(), st.integers(0, 9))
def test_what_is_drawn_is_in_the_space_and_the_same_for_equal_seeds(space: Space, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        drawn = large(space, patch).sample(random.Random(seed), 30)
        assert drawn == large(space, patch).sample(random.Random(seed), 30)
        assert len({key(params) for params in drawn}) == len(drawn)
        assert min(space.size, 5) <= len(drawn) <= min(space.size, 30)
        assert all(map(space.allows, drawn))
    listed = space.sample(random.Random(seed), 30)
    assert len({key(params) for params in listed}) == len(listed) == min(30, space.size)
    assert all(map(space.allows, listed))


@settings(max_examples=40)
@given(spaces())
def test_every_configuration_can_be_drawn(space: Space) -> None:
    if space.size > 60:
        return
    found: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        again = large(space, patch)
        for seed in range(40):
            found.update(map(key, again.sample(random.Random(seed), space.size)))
    assert found == set(map(key, space.configurations()))


def test_each_layout_is_drawn_as_often_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    space = made(host("AAAB"), None, copies=[1, 2], spans=[1, 2], num_parallel=[4])
    rng = random.Random(1)
    drawn = Counter(large(space, monkeypatch).sample(rng, 1)[0]["layout"] for _ in range(40 * space.family.count))
    assert len(drawn) == space.family.count
    assert 15 < min(drawn.values()) <= max(drawn.values()) < 75  # four standard deviations about 40


@settings(max_examples=60)
@given(spaces())
def test_a_pool_has_every_value_and_every_number_of_instances(space: Space) -> None:
    listed = list(space.configurations())
    values, numbers = valued(space, listed)
    most = 2 * (len(values) + len(numbers)) + 20
    pool = space.pool(3, most)
    assert pool == space.pool(3, most)
    assert len({key(params) for params in pool}) == len(pool) <= most
    assert all(map(space.allows, pool))
    assert valued(space, pool) == (values, numbers)
    if space.size <= most:
        assert sorted(map(key, pool)) == sorted(map(key, listed))


def valued(space: Space, every: list[dict[str, Any]]) -> tuple[set[tuple[str, Any]], set[int]]:
    """All values but layouts, and all numbers of instances."""
    values = {item for params in every for item in params.items() if item[0] != "layout"}
    return values, {len(space.members(params)) for params in every}


def test_a_pool_of_a_large_space_has_all_layouts_that_use_devices_alike() -> None:
    space = build(host(MIXED), FACTS, num_ctx=4096, **CHOICES)
    pool = space.pool(1, 1500)
    assert len(pool) == 1500
    assert all(map(space.allows, pool))
    there = {params["layout"] for params in pool}
    each = range(16)
    assert " | ".join(map(str, each)) in there
    assert " | ".join(f"{index}x2" for index in each) in there
    assert {" | ".join(map(str, each[:6])), " | ".join(map(str, each[6:11])), "0", "6", "11", "0x2"} <= there
    numbers = Counter(len(space.members(params)) for params in pool)
    assert set(numbers) == set(range(1, 33))
    assert min(numbers.values()) >= 15
    seen = {item for params in pool for item in params.items()}
    fitting = {name: set(values) - ({32} if "num_parallel" in name and "+" not in name else set())
               for name, values in space.choices.items() if name != "layout"}  # fmt: skip
    assert {(name, value) for name, values in fitting.items() for value in values} <= seen


def test_a_kind_that_holds_no_instance_is_not_waited_for() -> None:
    """Four cards of each of two kinds, and one that is too small for the model: all others are used alike."""
    *cards, small = host("AAAABBBBC").devices
    there = replace(host("A"), devices=(*cards, replace(small, memory_bytes=2 * GIB)))
    space = build(there, FACTS, num_ctx=1024, num_parallel=[2, 4], copies=[1], spans=[1])
    first = [str(space.family.spelled(shapes)) for shapes in space.family.alike(space.fitting)][:5]
    assert first == [" | ".join(map(str, range(8))), "0 | 1 | 2 | 3", "4 | 5 | 6 | 7", "0", "0 | 1"]


def test_where_instances_cannot_be_told_apart_by_number_layouts_are_drawn_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("autotune.space.family.CELLS", 100)
    space = build(host("AAABB"), FACTS, num_ctx=4096, **{**CHOICES, "copies": [1], "spans": [1, 2]})
    monkeypatch.setattr("autotune.space.choices.ENUMERATED", 0)
    drawn = space.sample(random.Random(1), 200)
    assert len(drawn) == 200
    assert all(map(space.allows, drawn))
    assert len(space.pool(1, 200)) == 200
    assert space.most_instances == 5


# words


def test_each_dimension_says_why_it_is_there() -> None:
    space = build(host("AAB"), None, num_ctx=4096, env={"OLLAMA_MAX_QUEUE": ["8"]}, **{**CHOICES, "threads": [4]})
    told = {one.name: one for one in space.dimensions}
    assert list(told) == list(space.choices)
    assert all(one.count >= len(one.values) > 0 and one.why for one in told.values())
    assert "A = 0 1, B = 2" in told["layout"].why
    assert "instances on B" in told["num_parallel@B"].why
    assert "several instances" in told["policy"].why
    assert "differ in slots" in told["weights"].why
    assert "search.env" in told["env:OLLAMA_MAX_QUEUE"].why


def test_a_space_that_is_not_listed_still_shows_some_layouts() -> None:
    space = build(host(MIXED), None, num_ctx=4096, **CHOICES)
    (layout,) = (one for one in space.dimensions if one.name == "layout")
    assert layout.count == space.family.count > len(layout.values) > 0
    assert all(layouts_of(space, layout.values))


def layouts_of(space: Space, texts: tuple[Any, ...]) -> Iterator[bool]:
    return (bool(space.shapes(text)) for text in texts)


def test_instances_that_fit_the_ram_one_by_one_but_not_together_are_told() -> None:
    space = made(host("aaa"), spans=[1], num_parallel=[1, 4])
    lack = "needs at least 3 × 8.5 GiB, the host has 22.0 GiB"
    assert space.reasons == (f"more than 2 instances on the CPU with num_parallel 1 or more: {lack}",)
    with pytest.raises(SpecError, match=r"nothing fits the memory: more than 2 instances"):
        made(host("aaa"), layouts=["0 | 1 | 2"])


def test_before_0_30_auto_is_on_where_the_cache_is_quantised() -> None:
    values: dict[str, Any] = {"kv_cache_type": ["f16", "q8_0"], "flash_attention": ["auto", "on"]}
    both = product(["auto", "on"], ["f16", "q8_0"])
    new, old = made(**values), made(**values, cache_brings_flash=True)
    assert pairs(new) == set(both)
    assert pairs(old) == pairs(new) - {("auto", "q8_0")}
    assert "the same as on" in old.reasons[0]
    assert pairs(made(kv_cache_type=["q8_0"], cache_brings_flash=True)) == {("auto", "q8_0")}


def pairs(space: Space) -> set[tuple[Any, Any]]:
    return {(params["flash_attention"], params["kv_cache_type"]) for params in space.configurations()}
