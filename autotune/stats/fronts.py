"""Points that are good in more than one way: which of them no other one beats. Larger is better in every coordinate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

Point = tuple[float, ...]


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one is nowhere less than the other, and somewhere more."""
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def front(points: Sequence[Point]) -> list[int]:
    """The places of those that no other dominates, the most of the first coordinate first; of equal ones the first."""
    first = {point: place for place, point in reversed(list(enumerate(points)))}
    found = [place for point, place in first.items() if not any(dominates(other, point) for other in first)]
    return sorted(found, key=lambda place: (points[place], -place), reverse=True)


def spread_out(points: Sequence[Point]) -> list[int]:
    """The same, in the order in which they show most of the front: its ends, then what lies in the widest gaps."""
    left = front(points)
    if not left:
        return []
    sides = list(zip(*(points[place] for place in left), strict=True))
    widths = [max(side) - min(side) or 1.0 for side in sides]
    chosen = list(dict.fromkeys(max(left, key=lambda place: points[place][side]) for side in range(len(sides))))

    def gap(place: int) -> float:
        return min(
            math.hypot(*((a - b) / width for a, b, width in zip(points[place], points[other], widths, strict=True)))
            for other in chosen
        )

    while rest := [place for place in left if place not in chosen]:
        chosen.append(max(rest, key=gap))
    return chosen
