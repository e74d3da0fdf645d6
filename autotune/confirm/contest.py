"""What the runs of a proof say: pure, from results to a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

from autotune.confirm.order import looks
from autotune.stats import Interval, mean_interval, next_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.spec import Proof
    from autotune.trial import TrialResult

USUAL = 0.95
"""Confidence of the intervals that are shown and decide nothing."""
BASELINE = 0
"""Its place among the candidates."""


class Kind(StrEnum):
    """How a proof can end."""

    WINNER = "winner"
    """A candidate is better than the baseline."""
    KEEP = "keep"
    """None is, by as much as would be worth a change."""
    UNCLEAR = "unclear"
    """They cannot be told apart."""
    UNPROVED = "unproved"
    """Too few blocks to say anything."""


@dataclass(frozen=True)
class Contender:
    """One candidate, with its runs in complete blocks."""

    params: dict[str, Any]
    runs: tuple[TrialResult, ...]

    @cached_property
    def reason(self) -> str:
        """Why it could not be measured, in any of its runs; empty if it always could."""
        return next((run.reason for run in self.runs if not run.measured), "")

    @cached_property
    def tps(self) -> tuple[float, ...]:
        """Output TPS at the objective's level, block by block, tokens/s; empty if it once could not be measured."""
        return () if self.reason else tuple(run.score.objective or 0.0 for run in self.runs)

    @property
    def mean_tps(self) -> Interval | None:
        """Its mean over fresh starts, tokens/s; None with fewer than two."""
        return mean_interval(self.tps, USUAL) if len(self.tps) > 1 else None

    @property
    def next_tps(self) -> Interval | None:
        """Where a further fresh start lands 19 times of 20, tokens/s; None with fewer than two."""
        return next_interval(self.tps, USUAL) if len(self.tps) > 1 else None

    @property
    def slots_used(self) -> int:
        """The most slots of one instance that were in use at one moment of any load; 0 where nothing says so."""
        loads = (metrics for run in self.runs for metrics in run.levels.values())
        return max((one.slots_used for load in loads for one in load.instances.values()), default=0)

    def violations(self, confidence: float) -> dict[str, Interval]:
        """The relative violation of each constraint, ≤ 0 where it is met."""
        if self.reason or len(self.runs) < 2:
            return {}
        names = self.runs[0].score.constraints
        return {name: mean_interval([run.score.constraints[name] for run in self.runs], confidence) for name in names}

    @property
    def size(self) -> tuple[int, int, int]:
        """What simple means: instances, slots in all, bytes of memory."""
        if not self.runs:
            return 0, 0, 0
        first = self.runs[0]
        memory = sum(found.size_bytes for found in first.placements)
        return first.instances, first.instances * int(self.params["num_parallel"]), memory


@dataclass(frozen=True)
class Verdict:
    """What a proof says. Candidates are told by their place in `contenders`, the baseline first."""

    contenders: tuple[Contender, ...]
    rules: Proof

    @property
    def blocks(self) -> int:
        """Complete ones."""
        return len(self.contenders[BASELINE].runs)

    @cached_property
    def confidence(self) -> float:
        """Of each single statement."""
        limits = sum(len(contender.runs[0].score.constraints) for contender in self.contenders if contender.runs)
        statements = math.comb(len(self.contenders), 2) + limits
        return 1 - (1 - self.rules.confidence) / (len(looks(self.rules)) * statements)

    @cached_property
    def violations(self) -> tuple[dict[str, Interval], ...]:
        """Of each contender."""
        return tuple(contender.violations(self.confidence) for contender in self.contenders)

    @cached_property
    def _ratios(self) -> dict[tuple[int, int], Interval]:
        """log(TPS of one / TPS of another), where both were always measured."""
        found = {}
        for a, b in combinations(range(len(self.contenders)), 2):
            pairs = list(zip(self.contenders[a].tps, self.contenders[b].tps, strict=False))
            if len(pairs) > 1 and all(first > 0 and second > 0 for first, second in pairs):
                ratio = mean_interval([math.log(first / second) for first, second in pairs], self.confidence)
                found[a, b] = ratio
                found[b, a] = Interval(-ratio.mean, -ratio.high, -ratio.low, ratio.n)
        return found

    def gain(self, one: int, other: int = BASELINE) -> Interval | None:
        """By which part one makes more tokens/s than the other, 0.5 is half more; None where that was not measured."""
        ratio = self._ratios.get((one, other))
        if ratio is None:
            return None
        return Interval(math.expm1(ratio.mean), math.expm1(ratio.low), math.expm1(ratio.high), ratio.n)

    def feasible(self, one: int) -> bool:
        """Whether it was always measured and meets every limit in the mean of its blocks."""
        violations = self.violations[one]
        return bool(self.contenders[one].runs) and bool(violations) and all(v.mean <= 0 for v in violations.values())

    def misses(self, one: int) -> bool:
        """Whether it is certain that it misses a limit, or cannot be measured."""
        return bool(self.contenders[one].reason) or any(v.low > 0 for v in self.violations[one].values())

    def beats(self, one: int, other: int) -> bool:
        """Feasible beats infeasible where the intervals are apart; then more tokens/s beat less."""
        gain = self.gain(one, other)
        return self.outlives(one, other) or (self.feasible(one) and gain is not None and gain.low > 0)

    def outlives(self, one: int, other: int) -> bool:
        """Whether one meets the limits and the other misses one, with intervals that are apart."""
        if not self.feasible(one):
            return False
        own = self.violations[one]
        missed = any(v.mean > 0 and own[name].high < v.low for name, v in self.violations[other].items())
        return missed or bool(self.contenders[other].reason)

    def _worth(self, one: int) -> bool:
        """Whether it beats the baseline by as much as is worth a change."""
        gain = self.gain(one)
        more = self.beats(one, BASELINE) and gain is not None and gain.mean >= self.rules.least_gain
        return more or self.outlives(one, BASELINE)

    def _settled(self, one: int, best: int) -> bool:
        """Whether more blocks could not make this one worth choosing over the best."""
        gain = self.gain(one, best)
        return self.beats(best, one) or self.misses(one) or (gain is not None and gain.high < self.rules.least_gain)

    @property
    def others(self) -> range:
        """All but the baseline."""
        return range(1, len(self.contenders))

    @cached_property
    def winners(self) -> tuple[int, ...]:
        """Those better than the baseline, the most tokens/s first."""
        if self.blocks < self.rules.pairs:
            return ()
        return tuple(sorted((one for one in self.others if self._worth(one)), key=self._by_tps))

    def _by_tps(self, one: int) -> float:
        tps = self.contenders[one].mean_tps
        return -tps.mean if tps else 0.0

    @cached_property
    def equals(self) -> tuple[int, ...]:
        """Winners that cannot be told apart from the one with the most tokens/s, the simplest first."""
        alike = (one for one in self.winners if not self.beats(self.winners[0], one))
        return tuple(sorted(alike, key=lambda one: (self.contenders[one].size, self._by_tps(one))))

    @property
    def kind(self) -> Kind:
        """How the proof ends, if it ends here."""
        if self.blocks < self.rules.pairs:
            return Kind.UNPROVED
        if self.winners:
            return Kind.WINNER
        settled = all(self._settled(one, BASELINE) for one in self.others)
        return Kind.KEEP if self.feasible(BASELINE) and settled else Kind.UNCLEAR

    @property
    def recommended(self) -> int:
        """The simplest of the best; without a winner the baseline."""
        return self.equals[0] if self.winners else BASELINE

    @property
    def decided(self) -> bool:
        """Whether more blocks could show nothing that would be worth choosing over what is recommended."""
        return self.kind in (Kind.WINNER, Kind.KEEP) and all(
            self._settled(one, self.recommended) for one in self.others if one != self.recommended
        )

    @property
    def cost(self) -> Interval | None:
        """By which part the recommended one makes more tokens/s than the best winner; None where it is that one."""
        best = self.winners[0] if self.winners else self.recommended
        return None if best == self.recommended else self.gain(self.recommended, best)


def contenders(candidates: Sequence[Mapping[str, Any]], results: Sequence[TrialResult]) -> tuple[Contender, ...]:
    """The candidates with their runs; those of a block that is not complete are left out."""
    whole = results[: len(results) - len(results) % len(candidates)]
    return tuple(Contender(dict(one), tuple(result for result in whole if result.params == one)) for one in candidates)
