"""Layouts up to symmetry against brute force, memory bounds, and the space built of them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import permutations, product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import SpecError
from autotune.inventory import Device, Inventory
from autotune.space import (
    Layout,
    ModelFacts,
    Part,
    Space,
    build,
    called,
    canonical,
    fits,
    instances,
    key,
    layouts,
    needed_bytes,
    orbit,
    parse_layout,
    shortage,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GIB = 2**30


def host(kinds: str, gib: int = 22) -> Inventory:
    """A host whose devices have these kinds, a letter each; small letters are groups of two cores."""
    return Inventory(
        "host",
        tuple(
            Device(index, f"GPU-{index}", "nvidia", f"Card {kind}", gib * GIB, kind)
            if kind.isupper()
            else Device(index, f"cpu:{2 * index}", "cpu", "CPU", gib * GIB, kind, (2 * index, 2 * index + 1), 2)
            for index, kind in enumerate(kinds)
        ),
    )


FACTS = ModelFacts(
    name="made-up",
    digest="sha256:0",
    weights_bytes=8 * GIB,
    layers=32,
    kv_heads=8,
    k_size=128,
    v_size=128,
    context_length=131072,
    sliding_window=None,
    family="llama",
)
"""Needs 8 GiB, and 0.5 GiB for each slot of 4096 tokens in f16."""

FOUR = host("AAAA")

inventories = st.text("ABCa", min_size=1, max_size=4).map(host)
few = st.sets(st.integers(1, 3), max_size=2).map(sorted)


def partitions(rest: tuple[int, ...]) -> Iterator[list[tuple[int, ...]]]:
    """Every way to split some of these devices into groups."""
    if not rest:
        yield []
        return
    first, others = rest[0], rest[1:]
    for groups in partitions(others):
        yield groups
        yield [(first,), *groups]
        for position, group in enumerate(groups):
            yield [*groups[:position], (first, *group), *groups[position + 1 :]]


def by_brute_force(inventory: Inventory, copies: Sequence[int], spans: Sequence[int]) -> set[Layout]:
    """All layouts of devices that are told from each other, by the definition."""
    found = set()
    for groups in partitions(tuple(device.index for device in inventory.devices)):
        makes = [{inventory.devices[index].make for index in group} for group in groups]
        if any(len(make) > 1 for make in makes) or any(len(group) not in [1, *spans] for group in groups):
            continue
        for counts in product(*(copies if len(group) == 1 else (1,) for group in groups)):
            found.add(Layout(tuple(sorted(map(Part, groups, counts)))))
    return found - {Layout(())}


def swapped(layout: Layout, inventory: Inventory) -> Iterator[Layout]:
    """The layout after every permutation of the devices that leaves each among those of its kind."""
    kinds = [device.kind for device in inventory.devices]
    for order in permutations(range(len(kinds))):
        if [kinds[index] for index in order] == kinds:
            parts = (replace(p, devices=tuple(sorted(order[index] for index in p.devices))) for p in layout.parts)
            yield Layout(tuple(sorted(parts)))


# notation


@pytest.mark.parametrize(
    ("text", "instances"),
    [
        ("0", ((0,),)),
        ("0 | 1 | 2 | 3", ((0,), (1,), (2,), (3,))),
        ("0x2 | 1x2", ((0,), (0,), (1,), (1,))),
        ("0+1 | 2+3", ((0, 1), (2, 3))),
        ("0+1+2+3", ((0, 1, 2, 3),)),
        (" 3|1 + 0|2 x 2 ", ((0, 1), (2,), (2,), (3,))),
        ("0x1", ((0,),)),
    ],
)
def test_the_notation_says_which_instance_has_which_devices(text: str, instances: tuple[tuple[int, ...], ...]) -> None:
    layout = parse_layout(text, FOUR)
    assert layout.instances == instances
    assert layout.devices == tuple(sorted({index for instance in instances for index in instance}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 | 0", 'device 0 is named twice; 2 instances on it are written "0x2"'),
        ("0+0", '"0x2"'),
        ("0+1 | 1", '"1x2"'),
        ("0x2 | 0", '"0x2"'),
        ("0 | 7", "there is no device 7; there are 0, 1, 2, 3"),
        ("", '"" is no instance'),
        ("0 |", '"" is no instance'),
        ("a", '"a" is no instance'),
        ("0,1", '"0,1" is no instance'),
        ("0x0", '"0x0" is no instance'),
        ("-1", '"-1" is no instance'),
        ("0+1x2", "only one device is shared"),
        ("0 | 1x1000000", '"1x1000000": allowed are at most 65535 instances on a device'),
        (f"0x{'9' * 5000}", "is no instance"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_layout(text, FOUR)
    assert says in str(caught.value)
    assert f'layout "{text}"' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_instance_is_of_one_make() -> None:
    with pytest.raises(SpecError, match="mixes devices"):
        parse_layout("0+1", host("Aa"))


# symmetry


@given(inventories, few, few)
def test_every_layout_is_there_once_and_read_as_it_is_written(
    inventory: Inventory, copies: list[int], spans: list[int]
) -> None:
    found = layouts(inventory, copies, spans)
    assert len(found) == len(set(found))
    assert all(parse_layout(str(layout), inventory) == layout for layout in found)
    assert all(canonical(layout, inventory) == layout for layout in found)
    assert {canonical(layout, inventory) for layout in by_brute_force(inventory, copies, spans)} == set(found)


@given(inventories, few, few)
def test_orbits_count_what_symmetry_saves(inventory: Inventory, copies: list[int], spans: list[int]) -> None:
    labelled = Counter(canonical(layout, inventory) for layout in by_brute_force(inventory, copies, spans))
    assert {layout: orbit(layout, inventory) for layout in layouts(inventory, copies, spans)} == labelled


@given(st.data())
def test_swapping_equal_devices_changes_nothing(data: st.DataObject) -> None:
    inventory = data.draw(inventories)
    layout = data.draw(st.sampled_from(sorted(by_brute_force(inventory, [1, 2], [2, 3, 4]))))
    same = set(swapped(layout, inventory))
    assert {canonical(other, inventory) for other in same} == {canonical(layout, inventory)}
    assert canonical(layout, inventory) in same
    assert len(same) == orbit(layout, inventory)


def test_four_equal_gpus_need_few_layouts() -> None:
    found = [str(layout) for layout in layouts(FOUR, [1], [2, 4])]
    assert found == [
        "0",
        "0+1",
        "0+1+2+3",
        "0 | 1",
        "0+1 | 2",
        "0+1 | 2+3",
        "0 | 1 | 2",
        "0+1 | 2 | 3",
        "0 | 1 | 2 | 3",
    ]
    assert orbit(parse_layout("0+1 | 2+3", FOUR), FOUR) == 3


def test_eight_gpus_do_not_take_for_ever() -> None:
    found = layouts(host("A" * 8), [1, 2, 3], range(1, 9))
    assert [len(layout.instances) for layout in found] == sorted(len(layout.instances) for layout in found)
    assert len(found) < 1000 < sum(orbit(layout, host("A" * 8)) for layout in found)


def test_unequal_devices_are_told_apart() -> None:
    assert [str(layout) for layout in layouts(host("AB"), [1], [2])] == ["0", "1", "0+1", "0 | 1"]
    assert str(canonical(parse_layout("2x2 | 3 | 1", host("ABAB")), host("ABAB"))) == "0x2 | 1 | 3"


def test_groups_of_cores_have_layouts_too() -> None:
    assert [str(layout) for layout in layouts(host("aa"), [1], [2])] == ["0", "0+1", "0 | 1"]


# memory


def test_an_instance_needs_its_weights_and_all_slots() -> None:
    assert needed_bytes(FACTS, 4096, 4, "f16") == 10 * GIB
    assert needed_bytes(FACTS, 4096, 4, "q8_0") == 8 * GIB + GIB * 17 // 16
    assert needed_bytes(replace(FACTS, context_length=2048), 4096, 4, "f16") == 9 * GIB
    assert needed_bytes(replace(FACTS, sliding_window=1024), 4096, 4, "f16") == 8 * GIB + GIB // 2
    assert needed_bytes(replace(FACTS, k_size=256, v_size=0, context_length=0), 4096, 4, "f16") == 10 * GIB
    assert needed_bytes(replace(FACTS, host_weights_bytes=3 * GIB), 4096, 4, "f16") == 7 * GIB


def test_an_unknown_cache_type_is_refused() -> None:
    with pytest.raises(SpecError, match=r'"q7".*f16.*q8_0'):
        needed_bytes(FACTS, 4096, 4, "q7")


@given(st.integers(1, 2**18), st.integers(1, 512), st.sampled_from(["f16", "q8_0", "q4_0"]))
def test_more_tokens_and_more_slots_never_need_less(num_ctx: int, slots: int, cache: str) -> None:
    need = needed_bytes(FACTS, num_ctx, slots, cache)
    assert FACTS.weights_bytes <= need <= needed_bytes(FACTS, num_ctx + 1, slots, cache)
    assert need <= needed_bytes(FACTS, num_ctx, slots + 1, cache)
    assert need <= needed_bytes(FACTS, num_ctx, slots, "f16")


@given(st.data(), st.integers(0, 60 * GIB), st.integers(0, 22 * GIB), st.integers(1, GIB))
def test_what_fits_also_fits_with_less(data: st.DataObject, need: int, free: int, less: int) -> None:
    inventory = data.draw(inventories)
    layout = data.draw(st.sampled_from(layouts(inventory, [1, 2], [2, 3, 4])))
    if fits(layout, inventory, need, free):
        assert fits(layout, inventory, max(need - less, 0), free)
        assert fits(layout, inventory, need, max(free - less, 0))
        for position in range(len(layout.parts)):
            assert fits(Layout(layout.parts[:position] + layout.parts[position + 1 :]), inventory, need, free)


@pytest.mark.parametrize(
    ("text", "gib", "fitting"),
    [("0", 21, True), ("0", 22, False), ("0x2", 10, True), ("0x2", 11, False), ("0+1", 42, True), ("0+1", 43, False)],
)
def test_each_gpu_is_on_its_own(text: str, gib: int, fitting: bool) -> None:
    assert fits(parse_layout(text, FOUR), FOUR, gib * GIB, GIB) is fitting


def test_unequal_gpus_may_share_unequally() -> None:
    large, small = host("A", gib=24).devices[0], host("AB", gib=8).devices[1]
    assert fits(Layout((Part((0, 1)),)), Inventory("host", (large, small)), 30 * GIB, 0)


def test_instances_on_the_cpu_share_the_ram() -> None:
    inventory = host("aa")
    assert fits(parse_layout("0 | 1", inventory), inventory, 10 * GIB, GIB)
    assert not fits(parse_layout("0 | 1", inventory), inventory, 11 * GIB, GIB)
    assert fits(parse_layout("0+1", inventory), inventory, 21 * GIB, GIB)


def test_a_shortage_is_told_in_figures() -> None:
    need = int(11.9 * GIB)
    why = "needs at least 2 × 11.9 GiB, device 0 has 22.0 GiB less 1.0 GiB to leave free"
    assert shortage(parse_layout("0x2 | 1", FOUR), FOUR, need, GIB) == why
    assert shortage(parse_layout("0+1", FOUR), FOUR, 50 * GIB, 0).endswith("devices 0+1 have together 44.0 GiB")
    assert shortage(parse_layout("0x3", host("a")), host("a"), need, 0).endswith("3 × 11.9 GiB, the host has 22.0 GiB")


# the space


def optional(space: Space) -> list[str]:
    """Parameters that only some configurations have."""
    return [name for name in space.choices if name in {"policy", "weights"} or "@" in name]


def selections(space: Space) -> Iterator[dict[str, Any]]:
    """Every dict with all parameters that each configuration has, and any of the others."""
    for chosen in product(*space.choices.values()):
        params = dict(zip(space.choices, chosen, strict=True))
        for kept in product([True, False], repeat=len(optional(space))):
            left_out = {name for name, keep in zip(optional(space), kept, strict=True) if not keep}
            yield {name: value for name, value in params.items() if name not in left_out}


@cache
def classes_of(layout: str, inventory: Inventory) -> list[str]:
    return sorted({called(member.of) for member in instances({"layout": layout, "num_parallel": 1}, inventory)})


def own_slots(space: Space, layout: str) -> set[str]:
    """The parameters that a layout has for all its classes of instances but the first."""
    others = classes_of(layout, space.limits.inventory)[1:] if space.per_class else []
    return {f"num_parallel@{of}" for of in others}


def unbound(space: Space) -> Iterator[dict[str, Any]]:
    """Every configuration as if anything went together and memory were endless, by the definition of each parameter."""
    seen = set()
    for params in selections(space):
        if not {name for name in optional(space) if "@" in name} & params.keys() <= own_slots(space, params["layout"]):
            continue
        members, expected = space.members(params), set(own_slots(space, params["layout"]))
        if len(members) > 1:
            expected.add("policy")
        if len({member.slots for member in members}) > 1:
            expected.add("weights")
        if expected == set(optional(space)) & params.keys() and key(params) not in seen:
            seen.add(key(params))
            yield params


def made(inventory: Inventory = FOUR, facts: ModelFacts | None = FACTS, **values: Any) -> Any:
    return build(inventory, facts, **{"num_ctx": 4096, "num_parallel": [4, 16], **values})


def test_the_search_of_the_reference_deployment() -> None:
    space = made(policies=["round_robin", "least_conn"])
    assert space.choices == {
        "layout": ("0", "0 | 1", "0 | 1 | 2", "0 | 1 | 2 | 3"),
        "num_parallel": (4, 16),
        "policy": ("round_robin", "least_conn"),
        "flash_attention": ("auto",),
        "kv_cache_type": ("f16",),
    }
    assert (space.before_symmetry, space.after_symmetry, space.after_memory) == (4 * 2 + 11 * 4, 14, 14)
    assert space.reasons == ()


def test_one_instance_needs_no_policy() -> None:
    alone = {"layout": "0", "num_parallel": 4, "flash_attention": "auto", "kv_cache_type": "f16"}
    space = made()
    assert alone in list(space.configurations())
    assert space.allows(alone)
    assert not space.allows({**alone, "policy": "round_robin"})
    assert not space.allows({**alone, "layout": "0 | 1"})
    assert space.allows({**alone, "layout": "0 | 1", "policy": "round_robin"})
    assert "policy" not in made(layouts=["0", "0+1"]).choices


@given(
    st.text("ABa", min_size=1, max_size=3).map(host),
    st.sampled_from([None, FACTS]),
    st.sets(st.sampled_from(["f16", "q8_0"]), min_size=1),
    st.sets(st.integers(1, 3), min_size=1),
)
def test_allowed_is_what_is_listed(
    inventory: Inventory, facts: ModelFacts | None, caches: set[str], threads: set[int]
) -> None:
    values = {"kv_cache_type": sorted(caches), "flash_attention": ["on", "off"], "threads": sorted(threads)}
    try:
        space = made(inventory, facts, copies=[1, 2], num_parallel=[1, 64], **values)
    except SpecError:
        return
    listed = {key(params) for params in space.configurations()}
    assert len(listed) == space.after_memory <= space.after_symmetry <= space.before_symmetry
    for params in selections(space):
        assert space.allows(params) == (key(params) in listed)
    assert bool(space.reasons) == (len(listed) < len(list(unbound(space))))


def test_unknown_parameters_are_not_allowed() -> None:
    params = next(made().configurations())
    assert not made().allows({**params, "num_parallel": 5})
    assert not made().allows({**params, "more": 1})
    assert not made().allows({name: value for name, value in params.items() if name != "layout"})


def test_a_quantised_cache_needs_flash_attention() -> None:
    space = made(kv_cache_type=["f16", "q8_0"], flash_attention=["auto", "off"])
    pairs = {(params["kv_cache_type"], params["flash_attention"]) for params in space.configurations()}
    assert pairs == {("f16", "auto"), ("f16", "off"), ("q8_0", "auto")}
    assert space.reasons == ("kv_cache_type q8_0 with flash_attention off: a quantised cache needs flash attention",)


def test_no_instance_on_the_cpu_has_more_threads_than_cores() -> None:
    space = made(host("aa"), None, threads=[2, 4])
    pairs = {(params["layout"], params["threads"]) for params in space.configurations()}
    assert pairs == {("0", 2), ("0+1", 2), ("0+1", 4), ("0 | 1", 2)}
    assert space.reasons == ("threads 4 with 2 as the cores of an instance: more threads than cores make it crawl",)
    assert {params["threads"] for params in made(threads=[64]).configurations()} == {64}


def test_what_cannot_fit_is_left_out_with_few_reasons() -> None:
    space = made(copies=[1, 2], num_parallel=[4, 8, 32], vram_free_bytes=GIB)
    supply = "device 0 has 22.0 GiB less 1.0 GiB to leave free"
    assert space.reasons == (
        f"layout 0 and 3 more with num_parallel 32: needs at least 24.0 GiB, {supply}",
        f"layout 0x2 and 9 more with num_parallel 8 or more: needs at least 2 × 12.0 GiB, {supply}",
    )
    assert {params["num_parallel"] for params in space.configurations() if "x2" in str(params["layout"])} == {4}


def test_cards_are_spanned_only_if_they_have_to() -> None:
    large = replace(FACTS, weights_bytes=40 * GIB)
    assert "+" not in " ".join(made().choices["layout"])
    layouts_left = {params["layout"] for params in made(facts=large).configurations()}
    assert layouts_left == {"0+1", "0+1+2", "0+1+2+3", "0+1 | 2+3"}
    assert "0+1" in made(spans=[1, 2]).choices["layout"]
    assert made(host("aa")).choices["layout"] == ("0", "0+1", "0 | 1")
    with pytest.raises(SpecError, match=r"search.devices_per_instance: 9: there are 4 devices; allowed is 1 to 4"):
        made(spans=[9])
    assert "0+1+2+3" in made(spans=[4, 9]).choices["layout"]  # of a study for larger hosts, too


def test_written_layouts_are_spelled_canonically_and_taken_once() -> None:
    space = made(layouts=["3", "0", "2+3 | 0+1"])
    assert space.choices["layout"] == ("0", "0+1 | 2+3")
    assert (space.before_symmetry, space.after_symmetry) == (6, 4)


def test_environment_variables_and_batches_are_parameters_like_others() -> None:
    space = made(env={"LLAMA_ARG_CACHE_RAM": ["0", "8192"]}, num_batch=[512], num_parallel=[4, 4])
    assert space.choices["env:LLAMA_ARG_CACHE_RAM"] == ("0", "8192")
    assert all(params["num_batch"] == 512 for params in space.configurations())
    assert space.after_memory == 4 * 2


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_parallel": []}, "no value is left for num_parallel"),
        ({"layouts": []}, "no value is left for layout"),
        ({"kv_cache_type": ["q8_0"], "flash_attention": ["off"]}, "a quantised cache needs flash attention"),
        ({"vram_free_bytes": 22 * GIB}, "nothing fits the memory: layout 0+1+2+3 with num_parallel 4 or more"),
        ({"layouts": ["0", "9"]}, "there is no device 9"),
    ],
)
def test_an_empty_space_says_what_emptied_it(values: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as caught:
        made(**values)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_does_not_depend_on_the_order() -> None:
    params = next(made().configurations())
    assert key(params) == key(dict(reversed(params.items())))
    assert json.loads(key(params)) == params
