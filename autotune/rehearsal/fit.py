"""A hardware profile from what was measured: pure, from sightings to figures, each with where it comes from."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

from autotune.errors import UsageError
from autotune.stats import quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from autotune.rehearsal.sightings import Sighting

FEWEST_TRIALS = 2
MOST_CONTENTION = 1.0
ROUNDS = 60
"""Of a golden section: more than a double can tell apart."""

VARIED = 1.2
"""Prompts have lengths enough for two figures where the longest tenth is so many times the shortest."""

USUAL_OCCUPANCY, USUAL_PREFILL_TPS = 0.7, 2000.0
"""Where nothing was measured."""

NOTHING = 1e-6
"""Less is what floating point leaves."""

UNKNOWN = "not measured"
FEWEST_WAITS, LEAST = 10, 0.1
MOST_NAMED = 6


@dataclass(frozen=True, slots=True)
class Figure:
    """A fitted figure and its origin."""

    value: float
    why: str


@dataclass(frozen=True, slots=True)
class Fit:
    """What the machine is like."""

    step_base_s: Figure
    step_slot_s: Figure
    contention: Figure
    occupancy: Figure
    overhead_s: Figure
    prefill_base_s: Figure
    prefill_tps: Figure
    life_jitter: Figure
    speeds: Mapping[str, Figure]
    """By kind of device."""

    def step_s(self, busy: int) -> float:
        """A step of an instance that is alone, on a device of speed 1."""
        return self.step_base_s.value + self.step_slot_s.value * busy


@dataclass(frozen=True, slots=True)
class _Point:
    """One median step."""

    seen: Sighting
    busy: int
    step_s: float


@dataclass(frozen=True, slots=True)
class _Law:
    """What a step takes, but for who shares the device and the life of the process."""

    base_s: float
    slot_s: float
    contention: float
    speeds: Mapping[str, float]
    """By device."""

    def factor(self, seen: Sighting) -> float:
        """On all times of an instance."""
        speed = fmean(self.speeds.get(device, 1.0) for device in seen.devices)
        return (1 + self.contention * (seen.instances - 1)) / speed

    def step_s(self, seen: Sighting, busy: int) -> float:
        """Of an instance as it was seen."""
        return self.factor(seen) * (self.base_s + self.slot_s * busy)

    def left(self, seen: Sighting) -> float:
        """How many times as long its steps took as this says."""
        return median([step / self.step_s(seen, busy) for busy, (step, _) in seen.steps.items()] or [1.0])

    def pace(self, seen: Sighting) -> float:
        """How many times as long as alone on a device of speed 1 all its times were."""
        return self.factor(seen) * self.left(seen)


def fit(search: Sequence[Sighting], proofs: Sequence[Sighting], kinds: Mapping[str, str]) -> Fit:
    """The figures that explain all sightings of a study best; `kinds` says of each device what it is.

    Raises `UsageError` for too few of them, and where steps are too short to be told.
    """
    every = [*search, *proofs]
    points = [_Point(seen, busy, step) for seen in every for busy, (step, _) in seen.steps.items()]
    trials = {seen.trial for seen in every if seen.steps}
    if len(trials) < FEWEST_TRIALS:
        raise UsageError(f"too few measured trials: {len(trials)}, a profile needs {FEWEST_TRIALS}")
    main = _main(points, kinds)
    plain = [point for point in points if point.seen.residents == 1 and _kind(point.seen, kinds) == main]
    batches = sorted({point.busy for point in plain})
    if len(batches) < 2:
        said = f"{batches[0]} busy slots" if batches else "no device was left to one instance"
        raise UsageError(f"only one batch size was seen ({said}): a profile needs two, as of another num_parallel")
    several = [point.seen for point in plain if point.seen.instances > 1]
    known = bool(several) and len({point.seen.instances for point in plain}) > 1
    share = _least(lambda k: _line(plain, k)[2], 0.0, MOST_CONTENTION) if known else 0.0
    base, slot, _ = _line(plain, share)
    if max(base, slot) < NOTHING:
        told = f"{base:.1g} s + {slot:.1g} s a slot"
        raise UsageError(f"steps are too short to be told ({told}): texts came several at a time")
    speeds = _speeds(points, _Law(base, slot, share, {}), kinds, main)
    law = _Law(base, slot, share, {device: speeds[kind].value for device, kind in kinds.items()})
    read = _prefill(every, law)
    span = f"{batches[0]} to {batches[-1]} busy slots"
    return Fit(
        step_base_s=Figure(base, f"{len(plain)} median steps of {span}, {_named(point.seen for point in plain)}"),
        step_slot_s=Figure(slot, "the same"),
        contention=Figure(share, f"steps beside others, {_named(several)}" if known else UNKNOWN),
        occupancy=_occupancy(every, law),
        overhead_s=_overhead(every, law),
        prefill_base_s=read[0],
        prefill_tps=read[1],
        life_jitter=_life(proofs, law),
        speeds=speeds,
    )


def _main(points: Iterable[_Point], kinds: Mapping[str, str]) -> str:
    """The kind of device that is best known: also in clusters of more than one size, where one is."""
    found: defaultdict[str, list[_Point]] = defaultdict(list)
    for point in points:
        if point.seen.residents == 1 and (kind := _kind(point.seen, kinds)):
            found[kind].append(point)

    def known(kind: str) -> tuple[bool, int]:
        batches = {point.busy for point in found[kind]}
        return len(batches) > 1 and len({point.seen.instances for point in found[kind]}) > 1, len(batches)

    return max(found, key=known) if found else ""


def _kind(seen: Sighting, kinds: Mapping[str, str]) -> str:
    """What its devices are; empty where they differ."""
    own = {kinds[device] for device in seen.devices}
    return own.pop() if len(own) == 1 else ""


def _line(points: Sequence[_Point], share: float) -> tuple[float, float, float]:
    """a, c and what is left of the relative errors of (1 + share·(n − 1)) · (a + c·b), by least squares; a, c ≥ 0."""
    known = [(point.busy, point.step_s / (1 + share * (point.seen.instances - 1))) for point in points]
    slope, base = _straight([(busy, step, 1 / step**2) for busy, step in known])
    return base, slope, math.fsum(((base + slope * busy) / step - 1) ** 2 for busy, step in known)


def _straight(known: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Slope and base, neither below 0, of the straight line through (x, y, weight) with the least squares."""
    total = math.fsum(w for _, _, w in known)
    x, y = (math.fsum(w * one[place] for one in known for w in one[2:]) / total for place in (0, 1))
    spread = math.fsum(w * (one - x) ** 2 for one, _, w in known)
    slope = math.fsum(w * (one - x) * (other - y) for one, other, w in known) / spread if spread else 0.0
    slope = min(max(slope, 0.0), y / x)
    return slope, y - slope * x


def _least(of: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is least, by golden section."""
    part = (math.sqrt(5) - 1) / 2
    for _ in range(ROUNDS):
        left, right = high - part * (high - low), low + part * (high - low)
        low, high = (low, right) if of(left) < of(right) else (left, high)
    return (low + high) / 2


def _speeds(points: Sequence[_Point], law: _Law, kinds: Mapping[str, str], main: str) -> dict[str, Figure]:
    found: defaultdict[str, list[_Point]] = defaultdict(list)
    for point in points:
        if point.seen.residents == 1 and (kind := _kind(point.seen, kinds)):
            found[kind].append(point)
    speeds = {kind: Figure(1.0, UNKNOWN) for kind in kinds.values()}
    for kind, own in found.items():
        faster = median(law.step_s(point.seen, point.busy) / point.step_s for point in own)
        speeds[kind] = Figure(faster, f"steps, {_named(point.seen for point in own)}")
    return speeds | {main: Figure(1.0, "what the model's times are taken on")}


def _occupancy(every: Sequence[Sighting], law: _Law) -> Figure:
    crowded = [seen for seen in every if seen.residents > 1 and seen.steps]
    if not crowded:
        return Figure(USUAL_OCCUPANCY, UNKNOWN)
    parts = [law.left(seen) / seen.residents for seen in crowded]
    return Figure(min(1.0, median(parts)), f"steps of instances that share a device, {_named(crowded)}")


def _overhead(every: Sequence[Sighting], law: _Law) -> Figure:
    """Who finds a free slot still waits for the step that is on its way, which may read a prompt: the least waits tell.

    Of waits that are as likely one as the other, up to a step, a tenth is below a tenth of it.
    """
    found, own = list[float](), [seen for seen in every if len(seen.aways) >= FEWEST_WAITS and seen.steps]
    for seen in own:
        busy = min(seen.steps, key=lambda one: -seen.steps[one][1])
        found.append(max(0.0, quantile(seen.aways, LEAST) - LEAST * seen.steps[busy][0]) / law.pace(seen))
    if not found:
        return Figure(0.0, UNKNOWN)
    return Figure(median(found), f"the shortest waits of those that found a free slot, {_named(own)}")


def _prefill(every: Sequence[Sighting], law: _Law) -> tuple[Figure, Figure]:
    """Reading a prompt: what Ollama says of one that was read alone, less the step in it."""
    own = [seen for seen in every if seen.prompts]
    read = [
        (float(tokens), max(0.0, took / law.pace(seen) - (law.base_s + law.slot_s * busy)), 1.0)
        for seen in own
        for (tokens, took), busy in zip(seen.prompts, seen.prompts_busy, strict=True)
    ]
    total = math.fsum(took for _, took, _ in read)
    if not read or not total:
        return Figure(0.0, UNKNOWN), Figure(USUAL_PREFILL_TPS, UNKNOWN)
    lengths, why = sorted(tokens for tokens, _, _ in read), f"{len(read)} prompts read alone, {_named(own)}"
    if lengths[len(lengths) * 9 // 10] < VARIED * lengths[len(lengths) // 10]:
        tps = math.fsum(lengths) / total
        return Figure(0.0, "prompts of one length do not tell"), Figure(tps, f"{why}: all of about one length")
    slope, base = _straight(read)
    return Figure(base, why), Figure(1 / slope if slope else math.fsum(lengths) / total, "the same")


def _life(proofs: Sequence[Sighting], law: _Law) -> Figure:
    """How fresh starts of one candidate differ, instance by instance."""
    lives: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for seen in proofs:
        if seen.steps:
            lives[seen.candidate, seen.instance].append(math.log(law.left(seen)))
    several = [values for values in lives.values() if len(values) > 1]
    if not several:
        return Figure(0.0, "no proof has repeated a start")
    squares = math.fsum((value - fmean(values)) ** 2 for values in several for value in values)
    free = sum(len(values) - 1 for values in several)
    return Figure(math.sqrt(squares / free), f"{sum(map(len, several))} fresh starts of proofs")


def _named(seen: Iterable[Sighting]) -> str:
    names = sorted({one.trial for one in seen}, key=lambda name: (len(name), name))
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"trials {', '.join(names[:MOST_NAMED])}{more}"
