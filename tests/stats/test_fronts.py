"""Points that are good in more than one way: who is on the front, and in which order it is shown."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.stats import corner, dominates, front, most_first, volume

numbers = st.integers(0, 6).map(float)
clouds = st.integers(2, 3).flatmap(lambda goals: st.lists(st.tuples(*[numbers] * goals), max_size=12))


def test_to_dominate_is_to_be_nowhere_less_and_somewhere_more() -> None:
    assert dominates((2, 1), (1, 1))
    assert not dominates((1, 1), (1, 1))
    assert not dominates((2, 0), (1, 1))


@given(clouds)
def test_the_front_is_what_no_other_beats_and_each_point_of_it_is_there_once(points: list[tuple[float, ...]]) -> None:
    places = front(points)
    best = {one for one in points if not any(dominates(other, one) for other in points)}
    assert [points[place] for place in places] == sorted(best, reverse=True)
    assert all(points.index(points[place]) == place for place in places)


@given(clouds)
def test_all_of_the_front_is_shown_and_each_adds_most_to_those_before(points: list[tuple[float, ...]]) -> None:
    places = most_first(points)
    assert sorted(places) == sorted(front(points))
    if not places:
        return
    shown = [points[place] for place in places]
    low = corner(shown)
    for count in range(len(shown)):
        more = [volume([*shown[:count], one], low) for one in shown[count:]]
        assert more[0] > max(more) - 1e-9


def test_what_covers_most_comes_first() -> None:
    circle = [(math.cos(at), math.sin(at)) for at in (0.0, 0.1, 0.8, 0.9, 1.5)]
    assert most_first(circle)[0] in (2, 3)
    assert most_first([]) == []
    assert most_first([(1.0, 1.0), (1.0, 1.0)]) == [0]


def test_the_low_corner_lies_below_all() -> None:
    assert corner([(1.0, 5.0), (3.0, 5.0)]) == pytest.approx((0.7, 4.9))


@given(clouds)
def test_a_volume_is_what_the_cells_of_a_grid_under_the_points_add_up_to(points: list[tuple[float, ...]]) -> None:
    sides = len(points[0]) if points else 2
    cells = itertools.product(range(7), repeat=sides)
    under = sum(any(all(below < at for below, at in zip(one, point, strict=True)) for point in points) for one in cells)
    assert volume(points, (0.0,) * sides) == under
    assert volume(points, (9.0,) * sides) == 0.0
