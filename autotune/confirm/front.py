"""What a proof says where several goals count: who is on the front, whom another one surely beats. Pure.

Of each goal a difference is that of `contest`: the logarithm of a ratio within a block, so turned that more is better.
All statements on all goals hold together with those on the limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

from autotune.confirm.order import BASELINE
from autotune.spec import GOALS
from autotune.stats import Interval

if TYPE_CHECKING:
    from autotune.confirm.contest import Verdict


@dataclass(frozen=True)
class Front:
    """The candidates of a proof, told by their place, the baseline first."""

    verdict: Verdict

    @cached_property
    def _ratios(self) -> dict[str, dict[tuple[int, int], Interval]]:
        """By goal: how much better one is than another."""
        return {goal: self.verdict.ratios(self._series(goal)) for goal in self.verdict.goals}

    @cached_property
    def _counts(self) -> dict[str, float]:
        """By goal: the smallest difference that counts, as a logarithm."""
        verdict = self.verdict
        return {goal: math.log1p(verdict.least(verdict.spread(self._series(goal)))) for goal in verdict.goals}

    def _series(self, goal: str) -> list[tuple[float | None, ...]]:
        return [one.worth(goal) for one in self.verdict.contenders]

    def mean(self, goal: str, one: int) -> Interval | None:
        """What one makes of a goal, in its unit: mean over fresh starts; None with fewer than two."""
        return self.verdict.contenders[one].mean(goal)

    def change(self, goal: str, one: int) -> Interval | None:
        """By which part its figure is larger than the baseline's, −0.5 is half of it; None where nobody knows."""
        found = self._ratios[goal].get((one, BASELINE))
        if found is None:
            return None
        sign = 1 if GOALS[goal].larger else -1
        low, high = sorted(math.expm1(sign * end) for end in (found.low, found.high))
        return Interval(math.expm1(sign * found.mean), low, high, found.n)

    # single statements

    def known(self, one: int) -> bool:
        """Whether all goals of it are: of a percentile too few requests may have come, in this block as in the next."""
        return all(self.mean(goal, one) is not None for goal in self.verdict.goals)

    def _better(self, one: int, other: int) -> list[str]:
        """The goals in which one surely is better."""
        found = ((goal, ratios.get((one, other))) for goal, ratios in self._ratios.items())
        return [goal for goal, ratio in found if ratio and ratio.low > 0 and ratio.n >= self.verdict.rules.pairs]

    def _no_worse(self, goal: str, one: int, other: int) -> bool:
        """Whether one surely is no worse, up to what counts, within reason."""
        ratio = self._ratios[goal].get((one, other))
        return ratio is not None and ratio.low > -math.log1p(self.verdict.within(math.expm1(self._counts[goal])))

    def dominates(self, one: int, other: int) -> bool:
        """Whether one surely beats another: in some goal, and is worse in none; or by the limits."""
        if self.verdict.outlives(one, other):
            return True
        better = self.verdict.feasible(one) and self._better(one, other)
        return bool(better) and all(self._no_worse(goal, one, other) for goal in self._ratios)

    def above(self, one: int) -> list[int]:
        """Those that dominate it."""
        return [other for other in range(len(self.verdict.contenders)) if other != one and self.dominates(other, one)]

    def _gains(self, one: int) -> bool:
        """Whether it surely is better than the baseline in some goal, by as much as is worth a change."""
        least = math.log1p(self.verdict.rules.least_gain)
        return any(self._ratios[goal][one, BASELINE].mean >= least for goal in self._better(one, BASELINE))

    def _alike(self, one: int, other: int) -> bool:
        """Whether they surely differ in no goal by what counts."""
        pairs = ((self._counts[goal], ratios.get((one, other))) for goal, ratios in self._ratios.items())
        return all(ratio is not None and -least < ratio.low and ratio.high < least for least, ratio in pairs)

    def _settled(self, one: int, other: int) -> bool:
        """Whether more blocks could not change how these two stand to each other."""
        if self.verdict.misses(one) or self.verdict.misses(other):
            return True
        closed = [each for each in (one, other) if self.verdict.out(each) or not self.known(each)]
        if any(each != BASELINE for each in closed):
            return True
        if closed:  # the baseline: what is better than it in a goal that both have is on the front all the same
            rest = other if one == BASELINE else one
            return rest in self.points or bool(self.above(rest))
        apart = self._better(one, other) and self._better(other, one)
        return bool(apart) or self.dominates(one, other) or self.dominates(other, one) or self._alike(one, other)

    # all together

    @cached_property
    def points(self) -> tuple[int, ...]:
        """Who is on the front, the most tokens/s first: meets the limits, is known in all goals, dominated by none, and
        better than the baseline in some goal, or that itself."""
        verdict = self.verdict
        if verdict.blocks < verdict.rules.pairs:
            return ()
        found = [
            one
            for one in range(len(verdict.contenders))
            if verdict.feasible(one) and self.known(one) and not self.above(one)
            if one == BASELINE or self._gains(one) or verdict.outlives(one, BASELINE)
        ]
        return tuple(sorted(found, key=lambda one: -verdict.contenders[one].speed))

    @property
    def beaten(self) -> bool:
        """Whether no candidate could still turn out better than the baseline in anything."""
        return all(self._beaten(one) for one in self.verdict.others)

    def _beaten(self, one: int) -> bool:
        return self.verdict.misses(one) or bool(self.above(one)) or self._alike(one, BASELINE)

    @property
    def decided(self) -> bool:
        """Whether more blocks could change nothing."""
        return all(self._settled(*pair) for pair in combinations(range(len(self.verdict.contenders)), 2))
