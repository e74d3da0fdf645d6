"""Points that are good in more than one way: who is on the front, and in which order it is shown."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from autotune.stats import dominates, front, spread_out

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
def test_the_ends_are_shown_first_and_then_all_of_the_front(points: list[tuple[float, ...]]) -> None:
    places = spread_out(points)
    assert sorted(places) == sorted(front(points))
    for side, most in enumerate(map(max, zip(*points, strict=True))):
        assert any(points[place][side] == most for place in places[: len(points[0])])


def test_then_comes_what_lies_in_the_widest_gap() -> None:
    circle = [(math.cos(at), math.sin(at)) for at in (0.0, 0.1, 0.2, 0.8, 1.5)]
    assert spread_out(circle)[:3] == [0, 4, 3]
    assert spread_out([]) == []
    assert spread_out([(1.0, 1.0), (1.0, 1.0)]) == [0]
