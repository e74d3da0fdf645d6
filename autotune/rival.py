"""What a candidate has to beat, and whether it still can: asked at planned moments of its warm-up and of its window.

In the window the output rate is held against the rival's by batch means. In the warm-up nothing is steady yet, so it is
held against less than that, and only from the moment on at which all slots are busy: prompts that are read at the start
of a load hold up every answer, and are behind a cluster only then. What comes after that moment is, if anything, faster
than the steady state, in which prompts are read as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from autotune.benchmark.phases import Look, rates
from autotune.metrics import CONFIDENCE
from autotune.stats import Looks, batch_means, mean, trend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.benchmark.phases import Sample, Seen

ERROR = 0.01
"""Chance that a candidate is dropped which reaches what has to be beaten, less the margin: half of it in the warm-up,
half in the window."""

MARGIN = 0.03
"""By so much, in parts, may a start of the cluster be slower than another one of the same."""

HOPELESS = 0.9
"""In the warm-up an output rate has to be surely below this part of the rival's."""

STUCK = 0.5
"""Before all slots are busy: neither so large a part of its tokens, nor of its answers begun."""

PAUSE_S = 2.0
"""So long may a host stand still once (its disk, its memory), which says nothing about the configuration: on the
study's clock, so that a host that is played faster has as much less."""

TWICE = 2.0
"""A wait that no queue could make shorter is beyond its limit by this factor, to end a warm-up."""

FULL = 0.9
"""This part of the slots, or of the users, speaks: they are taken to be busy."""

FEWEST_SAMPLES = 20
"""Rates with which an upper end can be told."""

RISING = 1.1
"""A rate whose second half is so many times its first one has not settled: who knows where it ends."""


@dataclass(frozen=True, slots=True)
class Rival:
    """The best so far, as a candidate's load is held against it."""

    tps: float
    """Its output at the objective's level, tokens/s; 0: nothing is known to meet the limits, and only they count."""
    margin: float = MARGIN
    """In parts of it."""
    tokens_per_piece: float = 1.0
    answer_tokens: float | None = None
    """Mean length of an answer under this load; with it the warm-up can tell more."""
    warm_s: float | None = None
    """After so many seconds each of its users had been answered."""

    @property
    def least(self) -> float:
        """Pieces of text a second that a candidate must be able to reach."""
        return self.tps * (1 - self.margin) / self.tokens_per_piece

    @property
    def answer_pieces(self) -> float | None:
        """Of an answer, in the mean."""
        return None if self.answer_tokens is None else self.answer_tokens / self.tokens_per_piece

    def scaled(self, factor: float) -> Rival:
        """The same on a clock that runs `factor` times as long."""
        warm_s = None if self.warm_s is None else self.warm_s * factor
        return replace(self, tps=self.tps / factor, warm_s=warm_s)

    def beaten(self, pieces: Sequence[float], level: float, part: float = 1.0) -> float | None:
        """The most that a steady rate may be, pieces/s, where that is below `part` of what is needed; else None.

        It is told wrongly with a chance of `level` at most.
        """
        found = highest(pieces, level) if self.tps else None
        return found if found is not None and found < part * self.least else None

    def look(self, pieces: float, base: Look) -> Look:
        """The look that ends a load whose rate is at most so many pieces/s."""
        tps = pieces * self.tokens_per_piece
        return replace(base, enough=False, sunk=True, dropped=True, beaten=True, most_tps=tps, part=tps / self.tps)


@dataclass(frozen=True, slots=True)
class Screen:
    """What the warm-up of a closed loop is asked: whether this candidate is hopeless."""

    rival: Rival
    users: int
    slots: int
    """So many requests the cluster answers at a time."""
    instances: int
    looks: tuple[float, ...]
    """Seconds from the load's start."""
    waits: tuple[tuple[str, float], ...] = ()
    """Limits of a TTFT that no mean may exceed: name and seconds."""
    pause_s: float = 0.0
    """So long may the host stand still once."""

    def look(self, seen: Seen) -> tuple[Look, float]:
        """What is certain by now, and since when that holds. `seen.start` is when the last user began."""
        nothing = Look(enough=False, stage="warm-up")
        since = busy_since(seen, math.ceil(FULL * min(self.users, self.slots)))
        if since is None:
            pieces = self._stuck(seen)
            return (nothing if pieces is None else self.rival.look(pieces, nothing)), seen.start
        found = self._awake([sample for sample in seen.samples if sample.at >= since])
        level = Looks.evenly(len(self.looks), ERROR / 2).level(seen.look)
        if (most := self.rival.beaten(found, level, HOPELESS)) is not None:
            return self.rival.look(most, nothing), since
        if missed := self._missed(highest(found, level)):
            return replace(nothing, sunk=True, dropped=True, limits=dict.fromkeys(missed, "violated")), since
        return nothing, since

    def _awake(self, samples: Sequence[Sample]) -> list[float]:
        """Their rates, but for the longest silence, or so much of it as the host may stand still."""
        found, at = rates(samples), 0
        silences = list[tuple[int, int]]()
        for silent, run in groupby(found, key=lambda rate: rate == 0):
            length = len(list(run))
            silences += [(length, at)] if silent else []
            at += length
        if not silences or not self.pause_s:
            return found
        length, begin = max(silences)
        every_s = (samples[-1].at - samples[0].at) / len(found)
        del found[begin : begin + min(length, round(self.pause_s / every_s))]
        return found

    def _missed(self, most: float | None) -> list[str]:
        """Limits that the users without a slot surely miss.

        By Little's law they are as many as answers begin while one of them waits, and no more begin than end.
        """
        answer, silent = self.rival.answer_pieces, self.users - self.slots
        if most is None or answer is None or silent <= 0:
            return []
        wait_s = silent * answer / most if most else math.inf
        return [name for name, limit_s in self.waits if wait_s > TWICE * limit_s]

    def _stuck(self, seen: Seen) -> float | None:
        """The output rate where the slots do not fill, and the cluster does far too little meanwhile.

        One that is busy reads prompts or writes answers. The rival does both at its rates r and R; so whoever is as
        fast has, after a time t, begun r·t answers or written R·t pieces, even if it has done nothing else. Where
        requests fail, nobody knows what it would have done: failures are not slowness, and are counted elsewhere.
        """
        if any(record.outcome.failure for record in seen.records):
            return None
        length_s, answer = seen.at - seen.start, self.rival.answer_pieces
        if answer is None or not self.rival.tps or len(seen.samples) < FEWEST_SAMPLES:
            return None
        written = seen.samples[-1].pieces - seen.samples[0].pieces
        begun = sum(seen.start <= first for first, _ in _spoken(seen))
        needed = STUCK * self.rival.least * max(length_s - self.pause_s, 0.0)
        # prompts that are being read count for nothing yet: all of them, until the rival had read its users' first ones
        early = self.rival.warm_s is None or self.looks[seen.look - 1] < self.rival.warm_s
        read = min(self.users, self.slots) if early else self.instances
        return written / length_s if written < needed and begun + read < needed / answer else None


def highest(pieces: Sequence[float], level: float) -> float | None:
    """The upper end of the mean of a steady rate; None where it cannot be told: too few, or it still rises."""
    if len(pieces) < FEWEST_SAMPLES:
        return None
    half = len(pieces) // 2
    if mean(pieces[half:]) > RISING * mean(pieces[:half]) or trend(range(len(pieces)), pieces, CONFIDENCE).rises:
        return None
    return batch_means(pieces, 1 - 2 * level).high


def busy_since(seen: Seen, streams: int) -> float | None:
    """From when on, after the start, so many answers were being written at once; None where they never were."""
    speaking, spoken = 0, _spoken(seen)
    changes = sorted([(first, 1) for first, _ in spoken] + [(end, -1) for _, end in spoken])
    for (at, change), (then, _) in pairwise([*changes, (math.inf, 0)]):
        speaking += change
        if speaking >= streams and then > seen.start:
            return max(at, seen.start)
    return None


def _spoken(seen: Seen) -> list[tuple[float, float]]:
    """Of each request that has its first text: when that came, and when it ended."""
    ended = [(one.first_content_at, one.finished_at or math.inf) for one in seen.records]
    speak = [(first, math.inf) for _, first in seen.waiting]
    return [(first, end) for first, end in [*ended, *speak] if first is not None]
