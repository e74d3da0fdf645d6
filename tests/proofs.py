"""Proofs from made-up runs: of the configurations that many suites speak of."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.confirm import Verdict, contenders, looks, place
from autotune.spec import Proof
from tests.factories import BASELINE, params, result
from tests.virtual import Noise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autotune.result import TrialResult

FAST = params(8, "0 | 1", policy="least_conn")
LEAN = params(4, "0 | 1", policy="least_conn")
CANDIDATES = [BASELINE, FAST, LEAN]
RULES = Proof()


def proof(
    *laws: Sequence[tuple[float, float | None]], rules: Proof = RULES, reasons: dict[int, str] | None = None
) -> Verdict:
    """The verdict on runs of (tokens/s, TTFT in s) by candidate and block; the limit is 2 s."""
    failing, runs = reasons or {}, len(laws[0]) * len(laws)
    found = []
    for number in range(runs):
        block, one = place(number, len(laws))
        tps, ttft_s = laws[one][block]
        found.append(result(number, CANDIDATES[one], tps, ttft_s, reason=failing.get(one, "")))
    return Verdict(contenders(CANDIDATES[: len(laws)], found), rules)


def steady(tps: float, ttft_s: float = 0.5, blocks: int = 4, spread: float = 0.002) -> list[tuple[float, float]]:
    """Blocks that differ a little, in a way of their own for each speed."""
    chance = random.Random(tps)
    return [(tps * chance.gauss(1, spread), ttft_s * chance.gauss(1, spread)) for _ in range(blocks)]


@dataclass
class Lasting(Noise):
    """Noise that lasts: what one run has of it, the next has most of."""

    lasting: float = 0.0
    """Standard deviation of it."""
    alike: float = 0.5
    """Its correlation from one run to the next."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._steps = random.Random(f"lasting {self.seed}")
        self._level = self._steps.gauss(0, self.lasting)

    def run(self, tps: float) -> tuple[float, float]:
        speed = math.exp(self._level)
        self._level *= self.alike
        self._level += self._steps.gauss(0, self.lasting * math.sqrt(1 - self.alike**2))
        made, ttft_s = super().run(tps)
        return made * speed, ttft_s / speed


def proved(
    noise: Noise, gain: float = 0.0, rules: Proof = RULES, restless: Mapping[int, float] | None = None
) -> Verdict:
    """A proof by the rules of a night, of candidates that are all alike, but that one makes so much more.

    `restless` candidates, by their place, scatter by so much more than all others.
    """
    *_, found = looked(noise, gain, rules, restless)
    return found


def looked(
    noise: Noise, gain: float, rules: Proof = RULES, restless: Mapping[int, float] | None = None
) -> Iterator[Verdict]:
    """The same, at each of its looks."""
    runs: list[TrialResult] = []
    chance, more = random.Random(f"restless {noise.seed}"), restless or {}
    for look in looks(rules):
        while len(runs) < look * 3:
            number = len(runs)
            which = place(number, 3)[1]
            own = math.exp(chance.gauss(0, more.get(which, 0.0)))
            tps, ttft_s = noise.run(100.0 * (1 + gain * (which == 1)) * own)
            reason = "died_under_load" if noise.fails() else ""
            runs.append(result(number, CANDIDATES[which], tps, ttft_s, reason=reason))
        found = Verdict(contenders(CANDIDATES, runs), rules)
        yield found
        if found.decided:
            return
