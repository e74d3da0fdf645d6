"""How alike configurations are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.belief import Designer
from autotune.belief.kernel import HYPOTHESES, Hypothesis, Places, nearness
from tests.belief.worlds import EVERY, SPACE, params

DESIGNER = Designer.of(SPACE, 4)


def places(*chosen: dict[str, object]) -> Places:
    return Places.of(DESIGNER.design(chosen))


def alike(one: dict[str, object], other: dict[str, object]) -> float:
    return float(nearness(places(one), places(other))[0, 0])


@pytest.mark.parametrize("hypothesis", HYPOTHESES, ids=lambda one: one.name)
@given(rows=st.lists(st.integers(0, len(EVERY) - 1), min_size=1, max_size=12))
def test_a_covariance_is_one(hypothesis: Hypothesis, rows: list[int]) -> None:
    at = Places.of(DESIGNER.design([EVERY[row] for row in rows]))
    covariance = hypothesis.covariance(at, at)
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-12)
    np.testing.assert_allclose(np.diag(covariance), hypothesis.spread**2, rtol=1e-6)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9


@pytest.mark.parametrize("hypothesis", HYPOTHESES, ids=lambda one: one.name)
@given(rows=st.lists(st.integers(0, len(EVERY) - 1), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_a_covariance_of_times_is_one(hypothesis: Hypothesis, rows: list[int], seed: int) -> None:
    at = Places.of(DESIGNER.design([EVERY[row] for row in rows]))
    changes = np.random.default_rng(seed).normal(size=(3, len(rows)))
    covariance = hypothesis.between(changes, changes, lambda kernel: kernel(at, at))
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-12)
    np.testing.assert_allclose(np.diag(covariance), hypothesis.variances(changes), rtol=1e-6)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9


def test_the_way_to_an_instance_is_the_policy_s_and_its_times_are_not() -> None:
    one, other = places(params(8, "0 | 1")), places(params(8, "0 | 1", policy="least_conn"))
    slots = places(params(16, "0 | 1"))
    for hypothesis in HYPOTHESES:
        steps, way = hypothesis.kernels
        assert steps(one, other) == pytest.approx(steps(one, one))
        assert way(one, other) < way(one, one)
        assert way(one, slots) == pytest.approx(way(one, one))
        assert steps(one, slots) < steps(one, one)


def test_all_slots_together_are_alike_whatever_the_layout() -> None:
    """And of the output there is less left over beside the times than of a limit."""
    (hypothesis,) = (one for one in HYPOTHESES if one.of_times)
    two, four, other = (
        places(params(8, "0 | 1")),
        places(params(4, "0 | 1 | 2 | 3")),
        places(params(8, "0 | 1 | 2 | 3")),
    )
    without = replace(hypothesis, total=0.0)
    same, far = (
        float(hypothesis.kernels[0](two, one)[0, 0] - without.kernels[0](two, one)[0, 0]) for one in (four, other)
    )
    assert same == pytest.approx(hypothesis.total**2)
    assert 0 < far < 0.8 * same
    assert hypothesis.share(0) < 1 < hypothesis.share(1)


def test_a_configuration_is_nearest_to_itself_and_then_to_its_neighbours() -> None:
    base = params(8, "0 | 1")
    assert alike(base, base) == pytest.approx(1)
    assert alike(base, params(16, "0 | 1")) > alike(base, params(32, "0 | 1"))
    assert alike(base, params(8, "0 | 1", num_batch=512)) > alike(base, params(8, "0 | 1", num_batch=1024))
    assert alike(base, params(8, "0 | 1", policy="least_conn")) < 1
    assert alike(base, params(8, "0 | 1 | 2 | 3")) > alike(base, params(8, "0x2 | 1x2 | 2x2 | 3x2"))
    assert 0 < alike(base, params(1, "0+1 | 2+3")) < 0.5


def test_one_octave_is_as_far_as_the_next() -> None:
    assert alike(params(2), params(4)) == pytest.approx(alike(params(16), params(32)))


def test_knobs_say_nothing_of_layouts() -> None:
    """Of two terms: one sees the whole, one only layout and slots."""
    build = Hypothesis("build", 1.0, 0.0, 0.1, 0.0, 1.0)
    whole = Hypothesis("whole", 1.0, 0.1, 0.0, 0.0, 1.0)
    one, other = places(params(8)), places(params(8, num_batch=1024))
    assert build.covariance(one, other)[0, 0] == pytest.approx(build.spread**2)
    assert whole.covariance(one, other)[0, 0] < whole.spread**2


def test_the_hypotheses_are_all_there_is_and_trust_the_law_less_and_less() -> None:
    assert sum(one.chance for one in HYPOTHESES) == pytest.approx(1)
    spreads = [one.spread for one in HYPOTHESES]
    assert spreads == sorted(spreads)
    assert spreads[0] < spreads[-1]
    assert len({one.name for one in HYPOTHESES}) == len(HYPOTHESES)
