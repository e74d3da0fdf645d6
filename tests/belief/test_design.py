"""Configurations as arrays: parts, copies, spans, weights and knobs, and which instance is of which part."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.belief import Designer
from autotune.space import Space, build
from tests.belief.worlds import EVERY, SPACE, params
from tests.test_counting import CHOICES, MIXED
from tests.test_space import FACTS, host

if TYPE_CHECKING:
    from autotune.belief.design import Design

BOTH = build(
    host("AAB"), None, num_ctx=4096, num_parallel=(2, 4, 8), policies=("round_robin", "least_conn", "random_two"),
    weights=("equal", "slots"), copies=(1, 2), spans=(1, 2),
)  # fmt: skip
"""Two cards of one kind and one of another."""
LARGE = build(host(MIXED), FACTS, num_ctx=4096, **CHOICES)


def of(chosen: dict[str, Any], space: Space = BOTH, devices: int = 3) -> Design:
    return Designer.of(space, devices).design([chosen])


def there(design: Design, row: int = 0) -> list[tuple[float, float, float, float]]:
    """Copies, span, slots and weight of each part that there is."""
    columns = np.stack([design.copies[row], design.span[row], design.slots[row], design.weight[row]], axis=1)
    return [tuple(column) for column in columns.tolist() if column[0]]


# parts


def test_each_device_has_a_part_of_its_own_with_the_slots_and_weight_of_its_class() -> None:
    design = of(params(4, "0 | 1 | 2", weights="slots") | {"num_parallel@B": 8})
    assert there(design) == [(1, 1, 4, 1), (1, 1, 4, 1), (1, 1, 8, 2)]
    assert design.devices[0].tolist() == np.eye(3).tolist()


def test_without_weights_every_instance_is_sent_as_much() -> None:
    assert there(of(params(2, "0 | 2") | {"num_parallel@B": 8})) == [(1, 1, 2, 1), (1, 1, 8, 1)]


def test_copies_on_one_device_are_one_part() -> None:
    design = of(params(4, "0x2 | 1x2 | 2"))
    assert there(design) == [(2, 1, 4, 1), (2, 1, 4, 1), (1, 1, 4, 1)]
    assert design.instances.tolist() == [5]


def test_an_instance_over_several_devices_has_a_part_of_its_layers_on_each() -> None:
    design = of(params(4, "0+2 | 1"))
    assert sorted(there(design)) == [(1, 1, 4, 1), (1, 2, 4, 1)]
    assert design.devices[0].sum(axis=1).tolist() == [1, 1]
    assert sorted(design.devices[0].tolist()) == [[0, 1, 0], [0.5, 0, 0.5]]


@pytest.mark.parametrize("space", [SPACE, BOTH, LARGE], ids=["four", "both", "large"])
def test_the_parts_are_the_instances_of_the_plan(space: Space) -> None:
    designer = Designer.of(space, len(space.limits.inventory.devices))
    chosen = space.sample(random.Random(1), 60)
    design = designer.design(chosen)
    for row, one in enumerate(chosen):
        members, (parts, belongs) = space.members(one), designer.parts(one)
        assert [parts[place] for place in belongs] == list(members)
        assert len(set(parts)) == len(parts)
        expected = [(Counter(belongs)[at], len(m.devices), m.slots, m.weight) for at, m in enumerate(parts)]
        assert there(design, row) == expected
        assert design.instances[row] == len(members)
        assert design.devices[row].sum() == pytest.approx(len(parts))


@given(st.lists(st.sampled_from(EVERY), min_size=1, max_size=5))
def test_what_stands_beside_a_configuration_changes_nothing_of_it(chosen: list[dict[str, Any]]) -> None:
    designer = Designer.of(SPACE, 4)
    together = designer.design(chosen)
    for row, one in enumerate(chosen):
        alone = designer.design([one])
        assert there(alone) == there(together, row)
        for name in ("shape", "policies", "knobs", "cache", "policy"):
            assert getattr(alone, name)[0].tolist() == getattr(together, name)[row].tolist()


@given(st.lists(st.integers(0, len(EVERY) - 1), max_size=6))
def test_some_of_them_in_another_order_are_as_if_made_anew(rows: list[int]) -> None:
    designer = Designer.of(SPACE, 4)
    taken, made = designer.design(EVERY).take(rows), designer.design([EVERY[row] for row in rows])
    assert len(taken) == len(rows)
    assert taken.params == made.params
    assert [there(taken, row) for row in range(len(rows))] == [there(made, row) for row in range(len(rows))]
    assert taken.knobs.tolist() == made.knobs.tolist()


# shape, policy, knobs


def test_a_shape_is_in_octaves() -> None:
    designer = Designer.of(SPACE, 4)
    design = designer.design([params(1, "0"), params(8, "0x2 | 1x2 | 2x2 | 3x2"), params(2, "0+1 | 2+3")])
    assert design.shape.tolist() == [[0, 0, 0, 0], [3, 1, 0, 3], [1, 0, 1, 1]]


def test_one_instance_alone_has_no_policy() -> None:
    designer = Designer.of(BOTH, 3)
    every = [params(4, layout, policy=policy) for layout in ("0", "0 | 1") for policy in ("least_conn", "random_two")]
    assert designer.design(every).policies.tolist() == [[0, 0], [0, 0], [1, 0], [0, 1]]


def test_a_number_has_a_column_for_its_octaves_and_one_for_each_value_but_the_first() -> None:
    designer = Designer.of(SPACE, 4)
    names = [(name, value) for name, value, _ in designer.knobs]
    assert names == [("num_batch", None), ("num_batch", 512), ("num_batch", 1024)]
    first, second, third = designer.design([params(num_batch=size) for size in (256, 512, 1024)]).knobs
    assert first.tolist() == [0, 0, 0]
    assert second[0] == 1
    assert third[0] == 2
    assert second[1] == third[2] > 0
    assert second[2] == third[1] == 0


def test_a_knob_of_one_value_and_what_the_law_knows_by_name_have_no_column() -> None:
    space = build(
        host("AB"), None, num_ctx=4096, num_parallel=(2, 4), weights=("equal", "slots"),
        flash_attention=("auto", "off"), env={"OLLAMA_X": ["0", "1", "2"]},
    )  # fmt: skip
    found = [(name, value) for name, value, _ in Designer.of(space, 2).knobs]
    assert found == [("flash_attention", "off"), ("env:OLLAMA_X", "1"), ("env:OLLAMA_X", "2")]
    designer = Designer.of(space, 2)
    chosen = [
        params(2) | {"flash_attention": flash, "env:OLLAMA_X": value} for flash in ("auto", "off") for value in "02"
    ]
    assert designer.design(chosen).knobs.tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]


def test_what_the_space_has_no_value_for_is_as_its_first_value() -> None:
    without = {name: value for name, value in params().items() if name != "num_batch"}
    designer = Designer.of(SPACE, 4)
    assert designer.design([without, params(flash_attention="off")]).knobs.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert designer.design([params(num_batch=2048)]).knobs[0, 0] == 3


def test_a_quantised_cache_is_smaller() -> None:
    kinds = ("f16", "q8_0", "q4_0")
    sizes = Designer.of(SPACE, 4).design([params(kv_cache_type=kind) for kind in kinds]).cache
    assert sizes[0] == 1 > sizes[1] > sizes[2] > 0


# slots that are not there


def test_slots_that_are_not_there_are_cut_off() -> None:
    whole = Designer.of(BOTH, 3).design([params(8, "0 | 2") | {"num_parallel@B": 2}, params(2)])
    cut = whole.capped(4)
    assert [there(cut, 0), there(cut, 1)] == [[(1, 1, 4, 1), (1, 1, 2, 1)], [(1, 1, 2, 1)]]
    assert cut.shape[1].tolist() == whole.shape[1].tolist()
    assert whole.slots[0, 0] == 8
    assert whole.capped(math.inf) is whole


def test_no_configurations_are_a_design_too() -> None:
    assert len(Designer.of(SPACE, 4).design([])) == 0
