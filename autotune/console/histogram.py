"""How times are spread, in rows of bars: pure."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING

from rich.text import Text

from autotune.console.amounts import SECONDS, number, time_unit
from autotune.stats import quantile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autotune.console.amounts import Unit

MOST_ROWS = 20
FEWEST_VALUES = 20
"""With fewer there is nothing to see."""
LONG_TAIL = 5.0
"""p99 by p50 from which on rows are equal in their logarithm: else the tail takes them all."""
MOST_BAR = 60
EIGHTHS = " ▏▎▍▌▋▊▉"

STEPS = (1.0, 2.0, 2.5, 5.0)
DECADES = tuple(
    tuple(map(float, decade.split()))
    for decade in (
        "1 1.1 1.2 1.3 1.5 1.6 1.8 2 2.2 2.4 2.7 3 3.3 3.6 3.9 4.3 4.7 5.1 5.6 6.2 6.8 7.5 8.2 9.1",
        "1 1.2 1.5 1.8 2.2 2.7 3.3 3.9 4.7 5.6 6.8 8.2",
        "1 1.5 2.2 3.3 4.7 6.8",
        "1 2.2 4.7",
        "1",
    )
)
"""A decade in 24, 12, 6, 3 parts, by the preferred numbers of IEC 60063, and in one."""


@dataclass(frozen=True, slots=True)
class Bin:
    """[low, high), and how many are in it."""

    low: float
    high: float
    count: int


def bins(values: Sequence[float]) -> list[Bin]:
    """10 to 20 of round ends over all values; one where all values are alike, none without values."""
    if not values:
        return []
    low, high = min(values), max(values)
    if high - low <= 1e-6 * abs(high):
        return [Bin(low, high, len(values))]
    edges = _round_logarithms(low, high) if logarithmic(values) else _round_steps(low, high)
    counts = [0] * (len(edges) - 1)
    for value in values:
        counts[min(max(bisect_right(edges, value) - 1, 0), len(counts) - 1)] += 1
    return [Bin(begin, end, count) for (begin, end), count in zip(pairwise(edges), counts, strict=True)]


def logarithmic(values: Sequence[float]) -> bool:
    """Whether the tail is so long that equal rows would show nothing but the tail."""
    return min(values) > 0 and quantile(values, 0.99) > LONG_TAIL * quantile(values, 0.5)


def _round_steps(low: float, high: float) -> list[float]:
    decade = math.floor(math.log10((high - low) / MOST_ROWS))
    for exponent, part in product((decade, decade + 1, decade + 2), STEPS):
        step = _scaled(part, exponent)
        numbers = range(math.floor(low / step) - 1, math.floor(high / step) + 3)
        edges = _around([_scaled(number * part, exponent) for number in numbers], low, high)
        if len(edges) <= MOST_ROWS + 1:
            break
    return edges


def _round_logarithms(low: float, high: float) -> list[float]:
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    for parts in DECADES:
        edges = _around([_scaled(part, exponent) for exponent in exponents for part in parts], low, high)
        if len(edges) <= MOST_ROWS + 1:
            break
    return edges


def _scaled(part: float, exponent: int) -> float:
    """part · 10^exponent, to the last bit."""
    return part * 10.0**exponent if exponent >= 0 else part / 10.0**-exponent


def _around(edges: Sequence[float], low: float, high: float) -> list[float]:
    """From the last edge that is not above all values to the first that is."""
    return list(edges[bisect_right(edges, low) - 1 : bisect_right(edges, high) + 1])


def drawn(values: Sequence[float], width: int, limits: Mapping[str, float]) -> list[Text]:
    """A row for each bin, and one for each limit, by its name, where it lies. Never wider than `width`."""
    found = bins(values)
    if len(values) < FEWEST_VALUES:
        return []
    unit = time_unit(quantile(values, 0.5))
    names, counts = _names(found, unit), [f" {one.count}" if one.count else "" for one in found]
    ahead = max(map(len, names)) + 3
    room = max(1, min(MOST_BAR, width - ahead - max(map(len, counts))))
    most = max(one.count for one in found)
    strictest = min(limits.values(), default=math.inf)
    left, lines = sorted(limits.items(), key=lambda limit: limit[1]), []
    for one, name, count in zip(found, names, counts, strict=True):
        while left and one.low >= left[0][1]:
            lines.append(_limit(*left.pop(0), unit, "─" * (ahead - 2)))
        over = one.low >= strictest
        bar = Text(_bar(one.count / most, room), style="red" if over else "cyan")
        lines.append(Text.assemble(f"{name:>{ahead - 1}} ", bar, count))
    return [*lines, *(_limit(*limit, unit, "─" * (ahead - 2)) for limit in left)]


def _bar(share: float, room: int) -> str:
    """As long as the share of the room, to an eighth of a letter; one that is not empty is seen."""
    eighths = math.ceil(share * room * 8)
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def _limit(name: str, most: float, unit: Unit, line: str) -> Text:
    return Text(f"{line}  limit {name} {most * unit.times:g} {unit.name}", style="magenta")


def _names(found: Sequence[Bin], unit: Unit) -> list[str]:
    """From where to where each goes, in as many places as its round ends need."""
    if len(found) == 1:
        return [number(found[0].low, unit)]
    edges = [one.low * unit.times for one in found] + [found[-1].high * unit.times]
    finest = min(after - before for before, after in pairwise(edges))
    places = next(d for d in range(16) if all(abs(round(edge, d) - edge) < finest / 1000 for edge in edges))
    return [f"{begin:.{places}f}–{end:.{places}f}" for begin, end in pairwise(edges)]


def titled(values: Sequence[float], width: int, limits: Mapping[str, float], waiting: Sequence[float]) -> list[Text]:
    """The histogram of TTFTs under its title, and those that never had a text, at what they had waited, below it."""
    rows = drawn(values, width, limits)
    if not rows:
        return []
    spaced = ", rows logarithmic" if logarithmic(values) else ""
    title = Text(f"TTFT, {time_unit(quantile(values, 0.5)).name}, of {len(values)} requests{spaced}")
    return [title, *rows, *_waiting(waiting)]


def _waiting(waiting: Sequence[float]) -> Iterator[Text]:
    if waiting:
        yield Text(f"and {len(waiting)} without a text after {number(min(waiting), SECONDS)} s or more", style="yellow")
