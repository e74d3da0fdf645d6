"""What a proof makes of noise and of real gains, as shares of made-up proofs: python -m tests.benchmarks.proof.

Three candidates, two of them alike; the third makes `gain` more tokens/s. `sd` is of each run by itself, `wander` of
the steps of a random walk from run to run, `drift` goes over a hundred runs, `outliers` are a fifth slower.
"""

from __future__ import annotations

import sys
from collections import Counter
from statistics import fmean
from typing import Any

from autotune.confirm import Kind
from tests.proofs import proved
from tests.virtual import Noise

NOISES: list[dict[str, Any]] = [
    {"sd": 0.01},
    {"sd": 0.03},
    {"sd": 0.02, "wander": 0.01},
    {"sd": 0.01, "drift": 0.2},
    {"sd": 0.01, "outliers": 0.1},
    {"sd": 0.02, "ttft_s": 2.0},
]
GAINS = (0.0, 0.03, 0.05, 0.1, 0.3)


def main(nights: int) -> None:
    """Print a row for each noise and gain."""
    print(f"{'noise':42} {'gain':>5}  {'winner':>6} {'keep':>6} {'unclear':>7}  blocks   ({nights} proofs each)")
    for noise in NOISES:
        for gain in GAINS:
            found = [proved(Noise(seed, **noise), gain) for seed in range(nights)]
            kinds = Counter(one.kind for one in found)
            shares = " ".join(f"{kinds[kind] / nights:6.1%}" for kind in (Kind.WINNER, Kind.KEEP, Kind.UNCLEAR))
            words = ", ".join(f"{name} {value:g}" for name, value in noise.items())
            print(f"{words:42} {gain:5.0%}  {shares}   {fmean(one.blocks for one in found):6.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
