"""What a proof makes of noise and of real gains, as shares of made-up nights: python -m tests.benchmarks.proof.

Three candidates, two of them alike; the third makes `gain` more tokens/s. `sd` is of each run by itself, `wander` of
the steps of a random walk from run to run, `drift` goes over a hundred runs, `outliers` are a fifth slower, `lasting`
is the sd of what half remains of in the next run, `recorded` is a real host that others used too. `restless`: the
baseline, or a candidate, scatters by so much more than the others. `ttft_s 2`: right at the limit.

A block is one run of each candidate, ten minutes each. `said` is how many blocks the proof says, in the median, that a
true gain of 5 % takes. Each share is shown with its 95 % interval. The second table: in how many of the nights a true
gain of 5 % was proved by then, where the night had time for so many blocks and no more.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from autotune.confirm import Kind, looks
from autotune.spec import Proof
from autotune.stats import proportion_interval
from tests.proofs import Lasting, looked, proved
from tests.test_confirm import A_A

if TYPE_CHECKING:
    from collections.abc import Mapping

RUN_H = 1 / 6
SHORT, USUAL, LONG = Proof(pairs_max=12), Proof(), Proof(pairs_max=40)


@dataclass(frozen=True)
class Case:
    """One kind of host."""

    noise: Mapping[str, Any]
    gains: tuple[float, ...] = (0.0, 0.05)
    rules: Proof = USUAL
    restless: Mapping[int, float] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [f"{name} {'' if name == 'recorded' else format(value, 'g')}" for name, value in self.noise.items()]
        words += [f"restless {one} {sd:g}" for one, sd in self.restless.items()]
        words += [] if self.rules == USUAL else [f"<= {self.rules.pairs_max} blocks"]
        return ", ".join(word.strip() for word in words)


CASES = (
    Case({"sd": 0.01}, (0.0, 0.03, 0.05, 0.1)),
    Case({"sd": 0.02}, (0.0, 0.03, 0.05, 0.1)),
    Case({"sd": 0.03}, (0.0, 0.03, 0.05, 0.1)),
    Case({"sd": 0.05}, (0.0, 0.05, 0.1)),
    Case({"sd": 0.02}, rules=SHORT),
    Case({"sd": 0.03}, rules=SHORT),
    Case({"sd": 0.05}, rules=LONG),
    Case({"sd": 0.02, "wander": 0.01}),
    Case({"sd": 0.03, "wander": 0.03}),
    Case({"sd": 0.02, "drift": 0.2}),
    Case({"sd": 0.01, "drift": 1.0}),
    Case({"sd": 0.01, "lasting": 0.03, "alike": 0.5}),
    Case({"sd": 0.01, "lasting": 0.05, "alike": 0.9}),
    Case({"sd": 0.01, "outliers": 0.1}),
    Case({"sd": 0.03, "outliers": 0.1}),
    Case({"sd": 0.01, "recorded": A_A}),
    Case({"sd": 0.02}, restless={0: 0.06}),
    Case({"sd": 0.02}, restless={2: 0.06}),
    Case({"sd": 0.02, "ttft_s": 2.0}),
    Case({"sd": 0.03, "failure_rate": 0.03}),
)


def main(nights: int) -> None:
    """Print a row for each noise and gain, then one for each length of a night."""
    names = f"{'noise':40} {'gain':>4}  {'winner':^22} {'wrong':>6}"
    print(f"{names} {'keep':>6} {'unclear':>7} {'blocks':>6} {'hours':>5} {'said':>5}   ({nights} nights each)")
    for case in CASES:
        for gain in case.gains:
            print(row(case, gain, nights), flush=True)
    for rules in (USUAL, LONG):
        sizes = looks(rules)
        print(f"\n{'a gain of 5 %, after blocks':28}", *(f"{blocks:7}" for blocks in sizes))
        print(f"{'hours':28}", *(f"{3 * blocks * RUN_H:7.1f}" for blocks in sizes))
        for sd in (0.02, 0.03, 0.05):
            won = Counter(first(sd, seed, rules) for seed in range(nights))
            shares = [sum(won[blocks] for blocks in sizes if blocks <= size) / nights for size in sizes]
            print(f"{f'sd {sd:g}':28}", *(f"{share:7.1%}" for share in shares), flush=True)


def first(sd: float, seed: int, rules: Proof) -> int:
    """After how many blocks the true gain was proved; 0: never."""
    every = looked(Lasting(seed, sd), 0.05, rules)
    return next((one.blocks for one in every if one.kind is Kind.WINNER), 0)


def row(case: Case, gain: float, nights: int) -> str:
    """One noise, one gain."""
    found = [proved(Lasting(seed, **case.noise), gain, case.rules, case.restless) for seed in range(nights)]
    kinds = Counter(one.kind for one in found)
    won = proportion_interval(kinds[Kind.WINNER], nights, 0.95)
    wrong = sum(one.recommended not in {0, 1 if gain else 0} for one in found) / nights
    blocks = fmean(one.blocks for one in found)
    said = median(one.needed() or 0 for one in found)
    shares = f"{won.mean:6.1%} ({won.low:5.1%} to {won.high:6.1%}) {wrong:6.1%}"
    rest = f"{kinds[Kind.KEEP] / nights:6.1%} {kinds[Kind.UNCLEAR] / nights:7.1%}"
    return f"{case!s:40} {gain:4.0%}  {shares} {rest} {blocks:6.1f} {3 * blocks * RUN_H:5.1f} {said:5.0f}"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
