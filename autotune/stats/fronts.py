"""Points that are good in more than one way: which of them no other one beats. Larger is better in every coordinate."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

Point = tuple[float, ...]
MARGIN = 0.1
"""So far below the worst point lies a low corner: in parts of the way to the best, and at least."""


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one is nowhere less than the other, and somewhere more."""
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def front(points: Sequence[Point]) -> list[int]:
    """The places of those that no other dominates, the most of the first coordinate first; of equal ones the first."""
    first = {point: place for place, point in reversed(list(enumerate(points)))}
    found = [place for point, place in first.items() if not any(dominates(other, point) for other in first)]
    return sorted(found, key=lambda place: (points[place], -place), reverse=True)


def corner(points: Sequence[Sequence[float]]) -> Point:
    """A low corner under these points: as far below the worst of each side as says `MARGIN`."""
    ends = ((min(side), max(side)) for side in zip(*points, strict=True))
    return tuple(low - MARGIN - MARGIN * (high - low) for low, high in ends)


def volume(points: Sequence[Sequence[float]], low: Sequence[float]) -> float:
    """What points cover above a low corner together (the hypervolume), by slabs of the last coordinate."""
    *rest, floor = low
    if not rest:
        return max([point[0] - floor for point in points if point[0] > floor], default=0.0)
    edges = [floor, *sorted({point[-1] for point in points if point[-1] > floor})]
    slabs = (
        (above - below, [point[:-1] for point in points if point[-1] >= above]) for below, above in pairwise(edges)
    )
    return sum(height * volume(covering, rest) for height, covering in slabs)


def most_first(points: Sequence[Point]) -> list[int]:
    """The front, in the order that shows most of it: first what covers most, then what adds most to that.

    A point never adds more than it would have added to fewer: so one whose gain, found anew, is still ahead of what all
    others would have added before is the next.
    """
    places = front(points)
    if not places:
        return []
    low = corner([points[place] for place in places])
    waiting = [(-volume([points[place]], low), rank) for rank, place in enumerate(places)]
    heapify(waiting)
    shown, covered = list[int](), 0.0
    while waiting:
        _, rank = heappop(waiting)
        whole = volume([*(points[place] for place in shown), points[places[rank]]], low)
        if waiting and waiting[0][0] < covered - whole:
            heappush(waiting, (covered - whole, rank))
        else:
            shown.append(places[rank])
            covered = whole
    return shown
