"""What the runs of a proof say: pure, from results to a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

from autotune.confirm.order import looks
from autotune.score import UNDECIDED
from autotune.stats import Interval, mean_interval, next_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from autotune.result import TrialResult
    from autotune.spec import Proof

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
    def measured(self) -> tuple[TrialResult, ...]:
        """The runs that have figures."""
        return tuple(run for run in self.runs if run.measured)

    @property
    def failures(self) -> int:
        """How many have none."""
        return len(self.runs) - len(self.measured)

    @property
    def reason(self) -> str:
        """Why it could not be measured when it last could not; empty if it always could."""
        return next((run.reason for run in reversed(self.runs) if not run.measured), "")

    @property
    def fails(self) -> bool:
        """Whether it cannot be measured more often than not: a single failure may happen to any configuration."""
        return self.failures > len(self.measured)

    @cached_property
    def tps(self) -> tuple[float | None, ...]:
        """Output TPS at the objective's level, block by block, tokens/s; None where it could not be measured."""
        return tuple(run.score.objective for run in self.runs)

    @property
    def mean_tps(self) -> Interval | None:
        """Its mean over fresh starts, tokens/s; None with fewer than two."""
        return _interval(mean_interval, self.tps)

    @property
    def speed(self) -> float:
        """The same as a number to sort by; 0 where it is not known."""
        return self.mean_tps.mean if self.mean_tps else 0.0

    @property
    def next_tps(self) -> Interval | None:
        """Where a further fresh start lands 19 times of 20, tokens/s; None with fewer than two."""
        return _interval(next_interval, self.tps)

    @property
    def slots_used(self) -> int:
        """The most slots of one instance that were in use at one moment of any load; 0 where nothing says so."""
        loads = (metrics for run in self.runs for metrics in run.levels.values())
        return max((one.slots_used for load in loads for one in load.instances.values()), default=0)

    @cached_property
    def undecided(self) -> frozenset[str]:
        """Constraints for which a run had too few requests: neither met nor missed."""
        return frozenset(
            name for run in self.measured for name, value in run.score.constraints.items() if value == UNDECIDED
        )

    def violations(self, confidence: float) -> dict[str, Interval]:
        """The relative violation of each constraint that is decided, ≤ 0 where it is met."""
        if len(self.measured) < 2:
            return {}
        names = [name for name in self.measured[0].score.constraints if name not in self.undecided]
        return {
            name: mean_interval([run.score.constraints[name] for run in self.measured], confidence) for name in names
        }

    @property
    def size(self) -> tuple[int, int, int]:
        """What simple means: instances, slots in all, bytes of memory."""
        if not self.measured:
            return 0, 0, 0
        first = self.measured[0]
        memory = sum(found.size_bytes for found in first.placements)
        return first.instances, first.instances * int(self.params["num_parallel"]), memory


@dataclass(frozen=True)
class Verdict:
    """What a proof says. Candidates are told by their place in `contenders`, the baseline first."""

    contenders: tuple[Contender, ...]
    rules: Proof
    number: int = 0
    """Which proof of the study it is."""

    @property
    def blocks(self) -> int:
        """Complete ones."""
        return len(self.contenders[BASELINE].runs)

    @cached_property
    def confidence(self) -> float:
        """Of each single statement."""
        candidates = len(self.contenders)
        limits = max((len(run.score.constraints) for one in self.contenders for run in one.measured), default=1)
        statements = math.comb(candidates, 2) + candidates * limits
        return 1 - (1 - self.rules.confidence) / (len(looks(self.rules)) * statements)

    @cached_property
    def violations(self) -> tuple[dict[str, Interval], ...]:
        """Of each contender."""
        return tuple(contender.violations(self.confidence) for contender in self.contenders)

    @cached_property
    def _ratios(self) -> dict[tuple[int, int], Interval]:
        """log(TPS of one / TPS of another), from the blocks in which both were measured; at least two."""
        found = {}
        for a, b in combinations(range(len(self.contenders)), 2):
            pairs = zip(self.contenders[a].tps, self.contenders[b].tps, strict=True)
            logs = [math.log(first / second) for first, second in pairs if first and second]
            if len(logs) > 1:
                ratio = mean_interval(logs, self.confidence)
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
        """Whether it was always measured, with enough requests, and meets every limit in the mean of its blocks."""
        contender, violations = self.contenders[one], self.violations[one]
        sound = not contender.failures and not contender.undecided
        return sound and bool(violations) and all(found.mean <= 0 for found in violations.values())

    def misses(self, one: int) -> bool:
        """Whether it is certain that it misses a limit, or cannot be measured."""
        return self.contenders[one].fails or any(found.low > 0 for found in self.violations[one].values())

    def beats(self, one: int, other: int) -> bool:
        """Feasible beats infeasible where the intervals are apart; then more tokens/s beat less."""
        gain = self.gain(one, other)
        more = gain is not None and gain.low > 0 and gain.n >= self.rules.pairs
        return self.outlives(one, other) or (self.feasible(one) and more)

    def outlives(self, one: int, other: int) -> bool:
        """Whether one meets the limits and the other misses one, with intervals that are apart."""
        if not self.feasible(one):
            return False
        own = self.violations[one]
        missed = (name for name, theirs in self.violations[other].items() if theirs.mean > 0 and name in own)
        apart = any(own[name].high < self.violations[other][name].low for name in missed)
        return apart or self.contenders[other].fails

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
        return tuple(
            sorted((one for one in self.others if self._worth(one)), key=lambda one: -self.contenders[one].speed)
        )

    @property
    def nearest(self) -> int:
        """The candidate that came nearest to a win: of the feasible, if any, the one with the most tokens/s."""
        return max(self.others, key=lambda one: (self.feasible(one), self.contenders[one].speed))

    @cached_property
    def equals(self) -> tuple[int, ...]:
        """Winners that cannot be told apart from the one with the most tokens/s, the simplest first."""
        alike = (one for one in self.winners if not self.beats(self.winners[0], one))
        return tuple(sorted(alike, key=lambda one: (self.contenders[one].size, -self.contenders[one].speed)))

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
        if self.blocks < self.rules.pairs:
            return False
        if self.kind is Kind.UNCLEAR:
            return all(self.misses(one) for one in range(len(self.contenders)))
        return all(self._settled(one, self.recommended) for one in self.others if one != self.recommended)

    @property
    def cost(self) -> Interval | None:
        """By which part the recommended one makes more tokens/s than the best winner; None where it is that one."""
        best = self.winners[0] if self.winners else self.recommended
        return None if best == self.recommended else self.gain(self.recommended, best)


def contenders(candidates: Sequence[Mapping[str, Any]], results: Sequence[TrialResult]) -> tuple[Contender, ...]:
    """The candidates with their runs; those of a block that is not complete are left out."""
    whole = results[: len(results) - len(results) % len(candidates)]
    return tuple(Contender(dict(one), tuple(result for result in whole if result.params == one)) for one in candidates)


def _interval(of: Callable[[Sequence[float], float], Interval], values: Sequence[float | None]) -> Interval | None:
    known = [value for value in values if value is not None]
    return of(known, USUAL) if len(known) > 1 else None
