"""The candidates of a proof, each with its runs: pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autotune.score import UNDECIDED
from autotune.spec import GOALS, OUTPUT
from autotune.stats import Interval, mean_interval, next_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from autotune.result import TrialResult

USUAL = 0.95
"""Confidence of the intervals that are shown and decide nothing."""
_ALIKE = math.log(1.1)
"""Steps in which a TTFT counts for simplicity: within a tenth it is no reason."""


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

    def values(self, goal: str) -> tuple[float | None, ...]:
        """Of a goal, block by block, in its unit; None where nobody knows."""
        return self.tps if goal == OUTPUT else tuple(run.score.goals.get(goal) for run in self.runs)

    def worth(self, goal: str) -> tuple[float | None, ...]:
        """The same, so turned that more is better."""
        values = self.values(goal)
        return values if GOALS[goal].larger else tuple(1 / value if value else None for value in values)

    def mean(self, goal: str) -> Interval | None:
        """Its mean over fresh starts; None with fewer than two."""
        return _interval(mean_interval, self.values(goal))

    @property
    def mean_tps(self) -> Interval | None:
        """Its mean over fresh starts, tokens/s; None with fewer than two."""
        return self.mean(OUTPUT)

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
        """The relative violation of each constraint that is decided, ≤ 0 where it is met.

        Of a load that one run had alone it is what that run says.
        """
        if len(self.measured) < 2:
            return {}
        found: dict[str, list[float]] = {}
        for run in self.measured:
            for name, value in run.score.constraints.items():
                found.setdefault(name, []).append(value)
        return {
            name: mean_interval(values, confidence) if len(values) > 1 else Interval(values[0], values[0], values[0], 1)
            for name, values in found.items()
            if name not in self.undecided
        }

    @property
    def ttft_s(self) -> float:
        """The longest mean TTFT of any load that all its runs had, mean over them, s; 0 where none is known."""
        runs = [run.levels for run in self.measured]
        every = shared(runs)
        longest = [max((levels[label].ttft_s.mean or 0.0 for label in every), default=0.0) for levels in runs]
        return math.fsum(longest) / len(longest) if longest else 0.0

    @property
    def size(self) -> tuple[int, int, int, int]:
        """What simple means, in this order: instances, bytes of memory, TTFT in steps of a tenth, slots in all."""
        if not self.measured:
            return 0, 0, 0, 0
        first, ttft_s = self.measured[0], self.ttft_s
        memory = sum(found.size_bytes for found in first.placements)
        steps = round(math.log(ttft_s) / _ALIKE) if ttft_s > 0 else 0
        return first.instances, memory, steps, first.slots_in_all


def shared(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The loads that all of some runs had, by label: what decides nothing is not loaded in all of them."""
    return [label for label in runs[0] if all(label in run for run in runs)] if runs else []


def contenders(candidates: Sequence[Mapping[str, Any]], results: Sequence[TrialResult]) -> tuple[Contender, ...]:
    """The candidates with their runs; those of a block that is not complete are left out."""
    whole = results[: len(results) - len(results) % len(candidates)]
    return tuple(Contender(dict(one), tuple(result for result in whole if result.params == one)) for one in candidates)


def _interval(of: Callable[[Sequence[float], float], Interval], values: Sequence[float | None]) -> Interval | None:
    known = [value for value in values if value is not None]
    return of(known, USUAL) if len(known) > 1 else None
