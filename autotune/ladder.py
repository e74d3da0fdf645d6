"""The search for the largest load at which limits hold: pure, and no step is taken twice.

More load never makes waiting shorter, so what is below a load that holds is taken to hold, and what is above one that
misses is taken to miss. A step that stays open is neither; the answer is then an interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.benchmark.phases import Look
    from autotune.stats import Decision

LEAST = 1024
"""A load that is so many times smaller than the first one is not tried."""

MOST_STEPS = 40
"""A search halves a ratio each time: it never needs so many."""


@dataclass
class Search:
    """Which load is tried next. Loads are users (whole numbers) or requests a second, above 0."""

    first: float
    most: float
    resolution: float
    """The interval of the answer may be this part of it."""
    whole: bool
    """Whether loads are whole numbers."""
    told: dict[float, Decision] = field(default_factory=dict)

    def tell(self, load: float, decision: Decision) -> None:
        """What a step said."""
        self.told[load] = decision

    @property
    def low(self) -> float:
        """The largest load that holds; 0 where none is known."""
        holds = [load for load, decision in self.told.items() if decision == "holds"]
        return max((load for load in holds if load < self.high), default=0.0)

    @property
    def high(self) -> float:
        """The smallest load that misses a limit; infinite where none is known."""
        return min((load for load, decision in self.told.items() if decision == "violated"), default=math.inf)

    @property
    def open(self) -> list[float]:
        """Loads between the two that were tried, and stayed open; rising."""
        return sorted(load for load in self.told if self.low < load < self.high)

    @property
    def doubt(self) -> str:
        """That a load misses a limit and a larger one was not found to, which no queue explains; or nothing."""
        larger = [load for load, decision in self.told.items() if decision != "violated" and load > self.high]
        if not larger:
            return ""
        unit = "users" if self.whole else "requests/s"
        loads = f"a limit is missed at {self.high:g} {unit}, and at {min(larger):g} none was found to be"
        return f"{loads}: the server did not stay as it was, or something else ran beside it"

    def next(self) -> float | None:
        """The next load; None when the interval is narrow enough, or nothing more can be tried."""
        if not self.told:
            return self.first
        if len(self.told) >= MOST_STEPS:
            return None
        if math.isinf(self.high):
            # doubled, until something is in the way: a wrong start costs a few short steps
            further = min(self.most, 2 * max(self.told))
            return further if further > max(self.told) else self._between([self.low, *self.open])
        least, *others = sorted(self.told)
        # a load that stays open may be too near the truth to say; half of it that stays open, too, has too few requests
        vain = {self.told[one] for one in (least, *others[:1])} == {"open"}
        if not self.low and not vain and least > self.first / LEAST and 0 < self._rounded(least / 2) < least:
            return self._rounded(least / 2)
        return self._between([self.low, *self.open, self.high])

    def _between(self, known: list[float]) -> float | None:
        """In the widest of the gaps that matter: below the first open load, and above the last."""
        known = [load for load in known if load > 0]
        gaps = {(known[0], known[1]), (known[-2], known[-1])} if len(known) > 1 else set()
        wide = [(high / low, low, high) for low, high in gaps if high / low > 1 + self.resolution]
        for _, low, high in sorted(wide, reverse=True):
            middle = self._rounded(math.sqrt(low * high))
            if low < middle < high:
                return middle
        return None

    def _rounded(self, load: float) -> float:
        return float(round(load)) if self.whole else float(f"{load:.3g}")


def decided(look: Look, *, gave_up: bool) -> Decision:
    """Whether all limits hold at a load: violated as soon as one is, or the queue grows without end, or it fails."""
    decisions = set(look.limits.values())
    if look.overload is not None or gave_up or "violated" in decisions:
        return "violated"
    return "open" if "open" in decisions or not decisions else "holds"
