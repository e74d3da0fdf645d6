"""What the runs of a proof say: pure, from results to a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from itertools import permutations
from statistics import median
from typing import TYPE_CHECKING

from autotune.confirm.conditions import Drift, Heat, drift, heat, noise, shift
from autotune.confirm.contender import USUAL
from autotune.confirm.front import Front
from autotune.confirm.order import BASELINE, looks
from autotune.confirm.shares import Levels, levels
from autotune.spec import OUTPUT
from autotune.stats import (
    Interval,
    block_spread,
    blocks_needed,
    contrast,
    difference_found,
    expected_gain,
    student,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.confirm.contender import Contender
    from autotune.spec import Proof
    from autotune.stats import Spread

MISSED = 0.1
"""How often a true difference may be missed that a proof is said to find."""
LITTLE = 0.2
"""Of what is worth a change: what a further block could gain on the mean is not worth its time if it is less."""
NEARLY = 0.05
"""By so much, in parts of a limit, what is recommended may surely at most miss it for a proof to end early."""
MOST_ALIKE = 0.05
"""By how much something simpler may be slower, however much the noise of a host hides."""
USUAL_GAIN = 0.05
"""The true gain that the length of a proof is told for, where nothing nearer is known."""


class Kind(StrEnum):
    """How a proof can end."""

    WINNER = "winner"
    """A candidate is better than the baseline."""
    FRONT = "front"
    """Of several goals: some candidate is better than the baseline in one of them, and beaten by nobody."""
    KEEP = "keep"
    """None is, by as much as would be worth a change."""
    UNCLEAR = "unclear"
    """They cannot be told apart."""
    UNPROVED = "unproved"
    """Too few blocks to say anything."""


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
    def goals(self) -> tuple[str, ...]:
        """What counts, where that is more than the output; else nothing."""
        named = next((run.score.goals for one in self.contenders for run in one.measured), {})
        return (OUTPUT, *named) if named else ()

    @cached_property
    def front(self) -> Front:
        """What it says of several goals."""
        return Front(self)

    # what the statements may err, and what they rest on

    def _levels(self, blocks: int) -> Levels:
        limits = max((len(run.score.constraints) for one in self.contenders for run in one.measured), default=1)
        return levels(self.rules, blocks, len(self.contenders), limits, max(len(self.goals), 1))

    @cached_property
    def level(self) -> Levels:
        """What each single statement may err after so many blocks."""
        return self._levels(self.blocks)

    @cached_property
    def noise(self) -> Spread | None:
        """How far runs of one candidate scatter within blocks, in parts; of all that were measured in every block."""
        return self.spread([one.tps for one in self.contenders])

    def spread(self, series: Sequence[Sequence[float | None]]) -> Spread | None:
        """The same of any figure, from its values by candidate and block."""
        whole = [values for values in series if values and all(values)]
        if self.blocks < 2 or len(whole) < 2:
            return None
        return block_spread([[math.log(value or 0.0) for value in block] for block in zip(*whole, strict=True)], USUAL)

    @cached_property
    def repeats(self) -> Spread | None:
        """How far the repeats of the baseline scatter by themselves, from start to start."""
        return noise(self.contenders[BASELINE].runs)

    @cached_property
    def counts(self) -> float:
        """The smallest difference that counts, in parts: what is worth a change, or more where noise hides that.

        A proof of the full length finds it nine times of ten. A smaller one is taken for none, unless it is certain.
        """
        return self.least(self.noise)

    def least(self, noise: Spread | None) -> float:
        """The same of any figure with this noise."""
        if noise is None:
            return self.rules.least_gain
        found = difference_found(
            looks(self.rules)[-1],
            noise.sd,
            len(self.contenders),
            error=self._levels(looks(self.rules)[-1]).better,
            missed=MISSED,
        )
        return max(self.rules.least_gain, math.expm1(found))

    @property
    def margin(self) -> float:
        """By how much less a winner may make and still be taken for as fast as another: what counts, within reason."""
        return self.within(self.counts)

    def within(self, counts: float) -> float:
        """The same where so much counts."""
        return max(self.rules.least_gain, min(counts, MOST_ALIKE))

    def needed(self, gain: float = USUAL_GAIN) -> int | None:
        """How many blocks find a true gain over the baseline nine times of ten in this noise; None: not known."""
        if self.noise is None:
            return None
        return max(
            self.rules.pairs,
            blocks_needed(
                math.log1p(gain),
                self.noise.sd,
                len(self.contenders),
                error=self._levels(looks(self.rules)[-1]).better,
                missed=MISSED,
            ),
        )

    @property
    def block_s(self) -> float:
        """How long a block takes, s."""
        return math.fsum(median(run.seconds for run in one.runs) for one in self.contenders if one.runs)

    @cached_property
    def drift(self) -> Drift | None:
        """How this host changed over the proof; None where there are too few runs to tell."""
        return drift(self.contenders)

    def shift(self, one: int) -> Drift | None:
        """How the distance of one to the baseline changed meanwhile; None where there are too few blocks to tell."""
        return shift(self.contenders[one], self.contenders[BASELINE])

    @cached_property
    def heat(self) -> Heat | None:
        """What the GPUs' samples say; None where there are none."""
        return heat(self.contenders)

    # single statements

    @cached_property
    def violations(self) -> tuple[dict[str, Interval], ...]:
        """Of each contender."""
        return tuple(contender.violations(1 - 2 * self.level.limits) for contender in self.contenders)

    @cached_property
    def _ratios(self) -> dict[tuple[int, int], Interval]:
        """log(TPS of one / TPS of another), from the blocks in which both were measured; at least two."""
        return self.ratios([one.tps for one in self.contenders])

    def ratios(self, series: Sequence[Sequence[float | None]]) -> dict[tuple[int, int], Interval]:
        """The same of any figure, from its values by candidate and block."""
        found, noise = {}, self.spread(series)
        for one, other in permutations(range(len(self.contenders)), 2):
            logs = _apart(series[one], series[other])
            if len(logs) > 1:
                below, above = self._sides(one, other)
                found[one, other] = contrast(logs, self._pooled(logs, noise), below=below, above=above)
        return found

    def _pooled(self, logs: Sequence[float], noise: Spread | None) -> Spread | None:
        """What is common to all candidates, for two that were measured in every block."""
        return noise if len(logs) == self.blocks else None

    def _sides(self, one: int, other: int) -> tuple[float, float]:
        """How much the lower and the upper end of a difference may err."""
        if other == BASELINE:
            return self.level.better, self.level.no_better
        if one == BASELINE:
            return self.level.no_better, self.level.better
        return self.level.apart, self.level.apart

    def gain(self, one: int, other: int = BASELINE) -> Interval | None:
        """By which part one makes more tokens/s than the other, 0.5 is half more; None where that was not measured."""
        ratio = self._ratios.get((one, other))
        if ratio is None:
            return None
        return Interval(math.expm1(ratio.mean), math.expm1(ratio.low), math.expm1(ratio.high), ratio.n)

    def worst(self, one: int, other: int = BASELINE) -> tuple[int, float] | None:
        """The block in which one does least well against the other, from 0, and by which part it makes more there."""
        pairs = enumerate(zip(self.contenders[one].tps, self.contenders[other].tps, strict=True))
        gains = [(first / second - 1, block) for block, (first, second) in pairs if first and second]
        return (min(gains)[1], min(gains)[0]) if gains else None

    def feasible(self, one: int) -> bool:
        """Whether it was always measured, with enough requests, and meets every limit in the mean of its blocks."""
        contender, violations = self.contenders[one], self.violations[one]
        sound = not contender.failures and not contender.undecided
        return sound and bool(violations) and all(found.mean <= 0 for found in violations.values())

    def meets(self, one: int, slack: float = 0.0) -> bool:
        """Whether that is certain: that it misses no limit by more than the slack, in parts."""
        return self.feasible(one) and all(found.high <= slack for found in self.violations[one].values())

    def misses(self, one: int) -> bool:
        """Whether it is certain that it misses a limit, or cannot be measured."""
        return self.contenders[one].fails or any(found.low > 0 for found in self.violations[one].values())

    def out(self, one: int) -> bool:
        """Whether no more blocks can show that it meets the limits: it misses one, too few requests come to say, or a
        run of a candidate had no figures."""
        contender = self.contenders[one]
        return self.misses(one) or bool(contender.undecided) or (one != BASELINE and contender.failures > 0)

    def beats(self, one: int, other: int) -> bool:
        """Feasible beats infeasible where they are surely apart; then more tokens/s beat less."""
        gain = self.gain(one, other)
        more = gain is not None and gain.low > 0 and gain.n >= self.rules.pairs
        return self.outlives(one, other) or (self.feasible(one) and more)

    def outlives(self, one: int, other: int) -> bool:
        """Whether one meets the limits and the other misses one, and surely by more in the same blocks."""
        if not self.feasible(one):
            return False
        missed = (name for name, theirs in self.violations[other].items() if theirs.mean > 0)
        return self.contenders[other].fails or any(self._further(other, one, name) for name in missed)

    def _further(self, one: int, other: int, name: str) -> bool:
        """Whether one surely violates a limit by more than the other, in the blocks in which both were measured."""
        both = zip(self.contenders[one].runs, self.contenders[other].runs, strict=True)
        apart = [
            first.score.constraints[name] - second.score.constraints[name]
            for first, second in both
            if name in first.score.constraints and name in second.score.constraints
        ]
        error = self.level.limits
        return len(apart) > 1 and contrast(apart, None, below=error, above=error).low > 0

    # all together

    def _worth(self, one: int) -> bool:
        """Whether it beats the baseline by as much as is worth a change."""
        gain = self.gain(one)
        more = self.beats(one, BASELINE) and gain is not None and gain.mean >= self.rules.least_gain
        return more or self.outlives(one, BASELINE)

    def _seems(self, one: int) -> bool:
        """Whether it looks better than the baseline by as much as is worth a change, certain or not."""
        gain = self.gain(one)
        return not self.misses(one) and gain is not None and gain.mean >= self.rules.least_gain

    def _settled(self, one: int, best: int) -> bool:
        """Whether more blocks could not make this one worth choosing over the best."""
        gain = self.gain(one, best)
        return self.beats(best, one) or self.out(one) or (gain is not None and gain.high < self.counts)

    def _alike(self, one: int) -> bool:
        """Whether this winner surely makes no less than the fastest, up to the margin."""
        gain = self.gain(one, self.winners[0])
        return one == self.winners[0] or (gain is not None and gain.n >= self.rules.pairs and gain.low > -self.margin)

    def _open(self, one: int) -> bool:
        """Whether this winner would be the simplest of the best, if more blocks showed that it is one of them."""
        simpler = self.contenders[one].size < self.contenders[self.recommended].size
        return simpler and not self._alike(one) and not self.beats(self.winners[0], one)

    def _shown_in_time(self, one: int) -> bool:
        """Whether this winner will be shown to be as good as the fastest by the last block, if all stays as it is."""
        gain = self.gain(one, self.winners[0])
        left = self._reach(looks(self.rules)[-1]) / self._reach(self.blocks)
        return gain is not None and gain.mean - left * (gain.mean - gain.low) > -self.margin

    def _reach(self, blocks: int) -> float:
        """Half the interval of the difference of two candidates after so many blocks, in scatters within one."""
        freedom = (blocks - 1) * (len(self.contenders) - 1)
        return student(freedom, 1 - 2 * self._levels(blocks).apart) / math.sqrt(blocks)

    @property
    def others(self) -> range:
        """All but the baseline."""
        return range(1, len(self.contenders))

    @cached_property
    def winners(self) -> tuple[int, ...]:
        """Those better than the baseline, the most tokens/s first; of several goals there is no winner."""
        if self.goals or self.blocks < self.rules.pairs:
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
        """Winners that make as much as the fastest, up to the margin; the simplest first.

        It has to be shown: what could be much slower, for all that few blocks say, is none of them.
        """
        alike = (one for one in self.winners if self._alike(one))
        return tuple(sorted(alike, key=lambda one: (self.contenders[one].size, -self.contenders[one].speed)))

    @cached_property
    def unsettled(self) -> tuple[int, ...]:
        """Winners that are simpler than the recommended one, and neither surely as fast nor surely slower."""
        return tuple(one for one in self.winners if self._open(one))

    @property
    def kind(self) -> Kind:
        """How the proof ends, if it ends here."""
        if self.blocks < self.rules.pairs:
            return Kind.UNPROVED
        if self.goals:
            return self._kind_of_front()
        if self.winners:
            return Kind.WINNER
        kept = all(self._settled(one, BASELINE) and not self._seems(one) for one in self.others)
        return Kind.KEEP if self.feasible(BASELINE) and kept else Kind.UNCLEAR

    def _kind_of_front(self) -> Kind:
        if any(one != BASELINE for one in self.front.points):
            return Kind.FRONT
        return Kind.KEEP if self.feasible(BASELINE) and self.front.beaten else Kind.UNCLEAR

    @property
    def recommended(self) -> int:
        """The simplest of the best; without a winner the baseline."""
        return self.equals[0] if self.winners else BASELINE

    @cached_property
    def _again(self) -> bool:
        """Whether there is a winner, and was one at the look before: a first win may be luck that does not last."""
        before = max((look for look in looks(self.rules) if look < self.blocks), default=0)
        return bool(self.winners) and bool(self.after(before).winners)

    def after(self, blocks: int) -> Verdict:
        """What it said after so many blocks."""
        runs = tuple(replace(one, runs=one.runs[:blocks]) for one in self.contenders)
        return replace(self, contenders=runs)

    @cached_property
    def _rest(self) -> list[int]:
        """The candidates that more blocks could make worth choosing over what is recommended."""
        known = {self.recommended, *self.equals}
        return [one for one in self.others if one not in known and not self._settled(one, self.recommended)]

    @cached_property
    def forgone(self) -> float:
        """By which part more blocks could gain at most on the mean, by showing that another finalist is better than the
        recommended one: the sum of what each is expected to be above it. Equals of the best count for none."""
        best = self.contenders[self.recommended].tps
        apart = [_apart(self.contenders[one].tps, best) for one in self._rest]
        every = (expected_gain(logs, self._pooled(logs, self.noise)) for logs in apart if len(logs) > 1)
        return math.expm1(math.fsum(every))

    @property
    def decided(self) -> bool:
        """Whether more blocks could show nothing that would be worth choosing over what is recommended, or so little
        that it is not worth the time."""
        if self.blocks < self.rules.pairs:
            return False
        if all(self.out(one) for one in self.others) and (self.out(BASELINE) or self.feasible(BASELINE)):
            return True
        if self.goals:
            return self.front.decided
        if self.kind is Kind.UNCLEAR or (self.winners and not self.meets(self.recommended, NEARLY)):
            return False
        if any(map(self._shown_in_time, self.unsettled)):
            return False
        return not self._rest or (self._again and self.forgone < LITTLE * self.rules.least_gain)

    @property
    def cost(self) -> Interval | None:
        """By which part the recommended one makes more tokens/s than the best winner; None where it is that one."""
        best = self.winners[0] if self.winners else self.recommended
        return None if best == self.recommended else self.gain(self.recommended, best)


def _apart(one: Sequence[float | None], other: Sequence[float | None]) -> list[float]:
    """The logarithm of their ratio in each block in which both were measured."""
    return [math.log(first / second) for first, second in zip(one, other, strict=True) if first and second]
