"""Proofs from made-up runs: of the configurations that many suites speak of."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from autotune.confirm import Verdict, contenders, looks, place
from autotune.spec import Proof
from tests.factories import BASELINE, params, result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.result import TrialResult
    from tests.virtual import Noise

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


def proved(noise: Noise, gain: float = 0.0) -> Verdict:
    """A proof by the rules of a night, of candidates that are all alike, but that one makes so much more."""
    runs: list[TrialResult] = []
    found = Verdict(contenders(CANDIDATES, runs), RULES)
    for look in looks(RULES):
        while len(runs) < look * 3:
            number = len(runs)
            which = place(number, 3)[1]
            tps, ttft_s = noise.run(100.0 * (1 + gain * (which == 1)))
            reason = "died_under_load" if noise.fails() else ""
            runs.append(result(number, CANDIDATES[which], tps, ttft_s, reason=reason))
        found = Verdict(contenders(CANDIDATES, runs), RULES)
        if found.decided:
            break
    return found
