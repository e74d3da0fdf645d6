"""How long things take on this host, learned as the night goes: the next trial, the rest of the search, the proof.

A trial is made of what is started for it and of its loads. The first grows with the instances that were not there
already; the second goes with the layout, of which one trial says half and all trials together the other half. How far
trials were from what was expected of them says how far the next one may be.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autotune.stats.intervals import student

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from autotune.plan import InstancePlan, Plan
    from autotune.result import TrialResult

PREPARING = ("start", "preload", "verify")
"""The stages of a trial before its loads."""

IN_TIME = 0.95
"""How likely a trial must be to end in time for it to be begun before a time of day."""
CONFIDENCE = 0.95
"""Of the error of an estimate."""
SPREAD, WORTH = 0.2, 4
"""How far trials are from what is expected of them before any has told, in parts, and how many trials that is worth."""
MOST_KEPT = 0.5
"""Of a night, for the fewest blocks of a proof: with less than half of it a search would find little to prove."""
KINSHIP = 1.0
"""How many trials of a layout's own the mean of all others is worth."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A time that is expected, and half the interval around it."""

    left_s: float
    left_error_s: float


@dataclass(frozen=True, slots=True)
class Turn:
    """One trial, as far as its time goes."""

    layout: str
    seconds: float
    measured: bool = True
    changed: int = 0
    """Instances that were started for it."""
    prepared_s: float | None = None
    """Seconds before its loads began; None where nobody has noted them."""

    @property
    def loads_s(self) -> float:
        """The rest."""
        return max(self.seconds - (self.prepared_s or 0.0), 0.0)


@dataclass(frozen=True)
class Pace:
    """What the trials so far say about those to come."""

    turns: tuple[Turn, ...] = ()

    @cached_property
    def _whole(self) -> tuple[Turn, ...]:
        """Those that went through all their stages; all, where none did."""
        return tuple(turn for turn in self.turns if turn.measured) or self.turns

    @cached_property
    def _layouts(self) -> tuple[Counter[str], Mapping[str, float]]:
        """How often each layout was measured, and its loads in all."""
        totals: defaultdict[str, float] = defaultdict(float)
        for turn in self._whole:
            totals[turn.layout] += turn.loads_s
        return Counter(turn.layout for turn in self._whole), totals

    @cached_property
    def _preparing(self) -> tuple[float, float]:
        """Seconds of any preparation, and those of each instance that is started; neither below 0.

        A straight line by least squares; that nothing to start takes no time counts as one trial. The first load of all
        came from the disk and no other will, so it counts only while it is alone.
        """
        known = [(turn.changed, turn.prepared_s) for turn in self._whole if turn.prepared_s is not None]
        if not known:
            return 0.0, 0.0
        points = [(0.0, 0.0), *(known[1:] or known)]
        many, most = len(points), sum(seconds for _, seconds in points)
        started, squares = sum(x for x, _ in points), sum(x * x for x, _ in points)
        mixed = sum(x * seconds for x, seconds in points)
        spread = many * squares - started**2
        slope = (many * mixed - started * most) / spread if spread else 0.0
        level = (most - slope * started) / many
        if slope < 0:
            return most / len(points[1:]), 0.0
        return (level, slope) if level >= 0 else (0.0, mixed / squares)

    @cached_property
    def _spread(self) -> tuple[float, int]:
        """How far trials are from what all others say of them: a standard deviation of logarithms, degrees of freedom.

        One that failed has told how long its like may take only if it took longer.
        """
        found = []
        for turn in self.turns if len(self._whole) > 1 else ():
            off = math.log(max(turn.seconds, 1e-9) / max(self._of(turn.layout, turn.changed, turn), 1e-9))
            if turn.measured or off > 0:
                found.append(off)
        squares = WORTH * SPREAD**2 + sum(off * off for off in found)
        return math.sqrt(squares / (WORTH + len(found))), WORTH + len(found)

    def _of(self, layout: str, changed: int, without: Turn | None = None) -> float:
        """Seconds that a trial is expected to take, by all trials but one."""
        counts, totals = self._layouts
        left_out = without is not None and (without.measured or self._whole is self.turns)
        own, own_s = counts[layout], totals.get(layout, 0.0)
        every, every_s = counts.total(), sum(totals.values())
        if left_out and without is not None and every > 1:
            own, own_s, every, every_s = own - 1, own_s - without.loads_s, every - 1, every_s - without.loads_s
        fixed, each = self._preparing
        loads_s = (KINSHIP * every_s / every + own_s) / (KINSHIP + own)
        return (fixed if changed else 0.0) + each * changed + loads_s

    def trial_s(self, plan: Plan, running: Iterable[InstancePlan] = ()) -> float:
        """Seconds that a trial of this plan is expected to take where these instances run; 0 before there was any."""
        if not self.turns:
            return 0.0
        return self._of(plan.layout, len(set(plan.instances) - set(running)))

    @property
    def usual_s(self) -> float:
        """Seconds of a trial of which nothing is known."""
        return sum(turn.seconds for turn in self._whole) / len(self._whole) if self.turns else 0.0

    def latest_s(self, usual_s: float, likely: float = IN_TIME) -> float:
        """Within how many seconds a trial that usually takes so long ends, as likely as that."""
        spread, freedom = self._spread
        reach = student(freedom, 2 * likely - 1) * spread * math.sqrt(1 + 1 / max(len(self.turns), 1))
        return usual_s * math.exp(reach)

    def wait(self, trials: float) -> Wait:
        """How long so many trials take together: each differs, and what is usual is not known exactly either.

        Some fail early, as some have.
        """
        spread, freedom = self._spread
        one_s = sum(turn.seconds for turn in self.turns) / max(len(self.turns), 1)
        off = spread * math.sqrt(trials + trials**2 / max(len(self.turns), 1))
        return Wait(trials * one_s, student(freedom, CONFIDENCE) * one_s * off)


def of(seconds: Sequence[float]) -> Pace:
    """What runs of one kind say."""
    return Pace(tuple(Turn("", one) for one in seconds))


@dataclass(frozen=True)
class Cost:
    """What a trial costs now, with what runs at this moment."""

    pace: Pace
    running: frozenset[InstancePlan] = field(default_factory=frozenset)

    def of(self, plan: Plan) -> float:
        """Seconds; 1 before anything has told, so that all cost the same."""
        return self.pace.trial_s(plan, self.running) or 1.0


def turn(result: TrialResult, plan: Plan, running: Iterable[InstancePlan], prepared_s: float | None = None) -> Turn:
    """What a trial says of times, that began when these instances ran."""
    changed = len(set(plan.instances) - set(running))
    return Turn(plan.layout, result.seconds, result.measured, changed, prepared_s if result.measured else None)


def prepared(events: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Seconds before the loads of each trial of the search, by its number; of one that was tried again, of the last."""
    found: dict[int, float] = {}
    for event in events:
        number, what = event.get("number"), event["what"]
        if not isinstance(number, int) or "proof" in event:
            continue
        if what == f"{PREPARING[0]} begins":
            found[number] = 0.0
        elif what in PREPARING and number in found:
            found[number] += event.get("seconds", 0.0)
    return found


def kept_s(share: float, whole_s: float, block_s: Sequence[float], pairs: int) -> float:
    """What a night keeps for its proof, in s: its share, or what the fewest blocks need, if half the night will do.

    `block_s` is how long one block takes with one finalist, with two, and so on, as far as anything is known: so many
    are kept time for as can be. Where not even one can be proved nothing is kept: the night is all for the search.
    """
    if not share or not block_s:
        return share * whole_s
    needed = [pairs * one for one in block_s if pairs * one <= max(share, MOST_KEPT) * whole_s]
    return max(share * whole_s, needed[-1]) if needed else 0.0
