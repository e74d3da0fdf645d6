"""Under which conditions the runs of a proof were made, tested and not assumed: noise, drift, heat. Pure."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from autotune.confirm.contender import USUAL, shared
from autotune.stats import FEWEST_BATCHES, repeat_spread, trend

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from autotune.confirm.contender import Contender
    from autotune.result import Samples, TrialResult
    from autotune.stats import Spread
    from autotune.telemetry import DeviceSample

LEAST_DRIFT = 0.01
"""A smaller change over a whole proof is not spoken of, however certain."""
LEAST_SLOWER = 0.02
"""By how much a clock has to fall."""


@dataclass(frozen=True, slots=True)
class Drift:
    """A change from the first run to the last, 0.1 is a tenth more, and its 95 % interval."""

    change: float
    low: float
    high: float
    n: int
    """Values that it is made of."""

    @property
    def certain(self) -> bool:
        """Whether it is there, and large enough to matter."""
        return (self.low > 0 or self.high < 0) and abs(self.change) >= LEAST_DRIFT

    def __str__(self) -> str:
        return f"{self.change:+.1%} ({self.low:+.1%} to {self.high:+.1%})"


@dataclass(frozen=True, slots=True)
class Heat:
    """What the GPUs' samples around the loads of a proof say."""

    samples: int
    throttled: dict[int, int]
    """In how many runs of each candidate some GPU was, by its place; of those in which one was."""
    reasons: tuple[str, ...]
    hottest_c: int | None
    clocks: dict[int, Drift]
    """How the clock after a load changed over the proof, by GPU; of those with enough samples."""

    @property
    def slower(self) -> dict[int, Drift]:
        """Of the GPUs whose clock surely fell."""
        return {gpu: one for gpu, one in self.clocks.items() if one.high < 0 and one.change <= -LEAST_SLOWER}


def noise(results: Sequence[TrialResult]) -> Spread | None:
    """How far repeats of one configuration scatter from start to start, in parts of its output; runs in their order.

    What changed slowly meanwhile is no part of it. None for fewer than three that could be measured.
    """
    logs = [math.log(run.score.objective) for run in results if run.score.objective]
    return repeat_spread(logs, USUAL) if len(logs) > 2 else None


def drift(contenders: Sequence[Contender]) -> Drift | None:
    """How this host changed from the first run of the proof to the last; None for fewer than ten that have a figure.

    Of all runs, each against the mean of its candidate.
    """
    every = [(run.number, run.score.objective, at) for at, one in enumerate(contenders) for run in one.measured]
    known = sorted((number, math.log(tps), at) for number, tps, at in every if tps)
    means = {place: fmean(value for _, value, at in known if at == place) for place in {at for *_, at in known}}
    return _drift([(number, value - means[at]) for number, value, at in known])


def shift(one: Contender, baseline: Contender) -> Drift | None:
    """How the distance of one to the baseline changed over the blocks; None where there are fewer than ten."""
    pairs = enumerate(zip(one.tps, baseline.tps, strict=True))
    return _drift([(block, math.log(own / base)) for block, (own, base) in pairs if own and base])


def heat(contenders: Sequence[Contender]) -> Heat | None:
    """What the samples say; None where there are none."""
    runs = [(run.number, at, run) for at, one in enumerate(contenders) for run in one.runs]
    runs.sort(key=lambda numbered: numbered[:2])
    every = [sample for _, _, run in runs for sample in _samples(run)]
    if not every:
        return None
    hot = [sample for sample in every if sample.throttled]
    counts = Counter(at for _, at, run in runs if any(sample.throttled for sample in _samples(run)))
    clocks: dict[int, list[tuple[int, float]]] = {}
    sampled = [(number, run.samples) for number, _, run in runs if run.samples]
    loads = shared([samples for _, samples in sampled])
    for number, samples in sampled:
        for gpu, mhz in _clocks(samples[label] for label in loads).items():
            clocks.setdefault(gpu, []).append((number, math.log(mhz)))
    found = {gpu: one for gpu, points in sorted(clocks.items()) if (one := _drift(points)) is not None}
    return Heat(
        samples=len(every),
        throttled=dict(sorted(counts.items())),
        reasons=tuple(sorted({reason for sample in hot for reason in sample.throttle_reasons})),
        hottest_c=max((one.temperature_c for one in every if one.temperature_c is not None), default=None),
        clocks=found,
    )


def _samples(run: TrialResult) -> Iterator[DeviceSample]:
    for load in run.samples.values():
        yield from (*load.before, *load.after)


def _clocks(loads: Iterable[Samples]) -> dict[int, float]:
    """The mean clock of each GPU at the end of some loads, MHz."""
    found: dict[int, list[int]] = {}
    for load in loads:
        for sample in load.after:
            if sample.sm_clock_mhz:
                found.setdefault(sample.device, []).append(sample.sm_clock_mhz)
    return {gpu: fmean(mhz) for gpu, mhz in found.items()}


def _drift(points: Iterable[tuple[int, float]]) -> Drift | None:
    """From logarithms at the numbers of runs or blocks."""
    numbers, values = zip(*points, strict=True) if (points := list(points)) else ((), ())
    if len(numbers) < FEWEST_BATCHES or numbers[0] == numbers[-1]:
        return None
    found, span = trend(numbers, values, USUAL), numbers[-1] - numbers[0]
    change, low, high = (math.expm1(slope * span) for slope in (found.slope, found.low, found.high))
    return Drift(change, low, high, len(values))
