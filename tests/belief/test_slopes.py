"""How the law changes with its parameters, held against the law itself a little way off."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from autotune.belief import JOULES, Bound
from autotune.belief.law import PART
from autotune.belief.slopes import Slopes, linear
from tests.belief.test_law import MIXED, law_of
from tests.belief.worlds import SPACE, USERS, asked, space
from tests.test_space import GIB

if TYPE_CHECKING:
    from autotune.belief.design import Array
    from autotune.belief.law import Law
    from autotune.belief.slopes import Quantity

BOUNDS = (
    Bound("ttft_s", "p95", USERS, 2.0),
    Bound("tpot_s", "mean", 5, 0.1),
    Bound("e2e_s", "p50", 5, 30.0),
    Bound("ttft_s", "mean", 60, 2.0),
    Bound(JOULES, "mean", USERS, 1.0, limit=False),
)
TIGHT = asked(
    kinds=("A", "A", "B", "C"), memory_bytes=(12.0 * GIB,) * 4, weights_bytes=8e9, slot_bytes=3e8, bounds=BOUNDS
)
WEIGHED = space("AB", layouts=("0 | 1",), weights=("equal", "slots"))
WORLDS = {
    "equal devices": (asked(bounds=BOUNDS), SPACE),
    "three kinds, short of memory": (TIGHT, MIXED),
    "groups of cores": (replace(TIGHT, on_cpu=True), MIXED),
    "weights": (asked(2, kinds=("A", "B"), bounds=BOUNDS), WEIGHED),
}
FAR = 1e-5


def near(law: Law, seed: int, wide: float) -> tuple[Array, Array]:
    """A vector of parameters, and all that lie a little below and above it by one of them."""
    theta = law.mean + wide * law.sd * np.random.default_rng(seed).standard_normal(len(law.mean))
    steps = FAR * np.eye(len(theta))
    return theta, np.concatenate([theta - steps, theta + steps])


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("wide", [0.0, 0.3, 1.0])
def test_what_a_study_decides_by_changes_as_it_says(name: str, wide: float) -> None:
    law = law_of(*WORLDS[name])
    design = law.designer.design(list(WORLDS[name][1].configurations())[3::61])
    theta, around = near(law, 5, wide)
    found = linear(law, theta, design)
    below, above = np.split(law.heads(around, design), 2, axis=1)
    np.testing.assert_allclose(found.values, law.heads(theta[None], design)[:, 0], rtol=1e-12)
    np.testing.assert_allclose(found.slopes, (above - below) / (2 * FAR), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("name", WORLDS)
def test_times_change_it_as_their_parameters_do_together(name: str) -> None:
    """A step is as much longer as both of its parts are; the way to an instance, as what it is for each policy."""
    law = law_of(*WORLDS[name])
    design = law.designer.design(list(WORLDS[name][1].configurations())[3::61])
    theta, _ = near(law, 5, 0.5)
    found, at = linear(law, theta, design), law.at
    steps = found.slopes[:, at["step"].start] + found.slopes[:, at["slot"].start]
    way = found.slopes[:, at["overhead"].start] + found.slopes[:, at["way"]].sum(axis=1)
    together = np.stack([steps, -found.slopes[:, at["prompt"].start], way], axis=1)
    np.testing.assert_allclose(found.inner, together, rtol=1e-9, atol=1e-12)
    alone = linear(law, theta, design, inner=True)
    np.testing.assert_array_equal(alone.inner, found.inner)
    np.testing.assert_array_equal(alone.values, found.values)
    assert np.abs(found.inner).max(axis=(0, 2)).min() > 0.001


@pytest.mark.parametrize("users", [1, 4, 12, 200])
def test_all_that_is_measured_changes_as_it_says(users: int) -> None:
    law = law_of(TIGHT, MIXED)
    design = law.designer.design(list(MIXED.configurations())[::61])
    many = np.full(len(design), float(users))
    theta, around = near(law, 3, 0.5)
    quantities: list[Quantity] = [
        ("tps", ""), ("prefill_s", ""), ("ttft_s", "mean"), ("ttft_s", "p95"), ("tpot_s", ""), (PART, 0),
    ]  # fmt: skip
    found = Slopes(law, theta, design, law.trace(theta[None], design, many)).of(quantities)
    answer = law.answer(around, design, many)
    for number, quantity in enumerate(quantities):
        below, above = np.split(np.log(answer.of(*quantity)), 2)
        np.testing.assert_allclose(found[:, number].T, (above - below) / (2 * FAR), rtol=2e-3, atol=1e-4)
