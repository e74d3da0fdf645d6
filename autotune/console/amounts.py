"""Figures in few letters, in the unit in which they are read most easily, with the ends of their intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.metrics import Range, Summary
    from autotune.stats import Statistic

LEAST_S = 1.0
"""What is shorter is shown in milliseconds."""

NONE = "–"


@dataclass(frozen=True, slots=True)
class Unit:
    """What a figure is shown in."""

    name: str
    times: float
    """How many of it make one of what is used inside."""

    def of(self, name: str) -> str:
        """A figure's name with its unit: "TTFT, s"."""
        return f"{name}, {self.name}" if self.name else name


PLAIN, SECONDS, MILLISECONDS, PERCENT = Unit("", 1.0), Unit("s", 1.0), Unit("ms", 1000.0), Unit("%", 100.0)


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure in a table."""

    value: str
    ends: str = ""
    """Of its interval, "[0.71, 0.84]"; empty where there is none."""

    @property
    def line(self) -> str:
        """Both in one line."""
        return " ".join(filter(None, (self.value, self.ends)))


def time_unit(*seconds: float | None) -> Unit:
    """Milliseconds where all that is known is short."""
    known = [abs(value) for value in seconds if value is not None]
    return MILLISECONDS if known and max(known) < LEAST_S else SECONDS


def number(value: float, unit: Unit = PLAIN, sign: str = "") -> str:
    """In three digits, or more where there are more before the point: "0.78", "12.3", "366"; `sign` is "+" or none."""
    shown = value * unit.times
    places = 2 if abs(shown) < 9.995 else 1 if abs(shown) < 99.95 else 0
    return f"{shown:{sign}z.{places}f}"


def significant(value: float, unit: Unit = PLAIN) -> str:
    """In three digits however small it is, where one unit is for many: "0.0512", "0.78" is "0.780"."""
    shown = value * unit.times
    power = int(f"{shown:.2e}".partition("e")[2])
    return f"{shown:z.{max(0, 2 - power)}f}"


def interval(ends: Range | None, unit: Unit = PLAIN, sign: str = "") -> str:
    """The ends in brackets; nothing where there are none."""
    return f"[{number(ends[0], unit, sign)}, {number(ends[1], unit, sign)}]" if ends is not None else ""


def cell(value: float | None, ends: Range | None = None, unit: Unit = PLAIN) -> Cell:
    """A figure with its interval; a dash where it is not known."""
    return Cell(NONE) if value is None else Cell(number(value, unit), interval(ends, unit))


def of_sample(summary: Summary, statistic: Statistic, unit: Unit) -> Cell:
    """One statistic of a sample; a dash where too few values make it."""
    return cell(summary.known(statistic), summary.intervals.get(statistic), unit)
