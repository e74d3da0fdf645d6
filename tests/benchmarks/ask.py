"""How long the sampler takes to propose, to begin and to be told, up to 60 trials: python -m tests.benchmarks.ask

A proposal should take no more than half a second.
"""

from __future__ import annotations

import tempfile
import time
from itertools import pairwise
from pathlib import Path

from autotune.sampler import Sampler
from tests.factories import BASELINE, result, space

TRIALS = 60
SPACE = space(
    (1, 2, 3, 4, 6, 8, 12, 16),
    ("0", "0 | 1", "0x2", "0x2 | 1x2"),
    policies=("round_robin", "least_conn", "random_two"),
    flash_attention=("auto", "on"),
)


def main() -> None:
    """Print the times, and at last how long it takes to make a lost database again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optuna.db"
        sampler = Sampler(path, "ask", 1, SPACE, BASELINE)
        sampler.open([])
        results = []
        print(f"{SPACE.after_memory} configurations\ntrials  propose, ms  begin, ms  tell, ms")
        for number in range(TRIALS + 1):
            times = [time.perf_counter()]
            chosen = sampler.propose() if number else BASELINE
            assert chosen is not None
            times.append(time.perf_counter())
            trial = sampler.begin(chosen)
            times.append(time.perf_counter())
            slots = chosen["num_parallel"]
            results.append(result(number, chosen, tps=10.0 * slots, ttft_s=0.2 * slots))
            sampler.tell(trial, results[-1])
            times.append(time.perf_counter())
            if number % 10 == 0:
                took = [1000 * (end - start) for start, end in pairwise(times)]
                print(f"{number:6}  {took[0]:11.1f}  {took[1]:9.1f}  {took[2]:8.1f}")
        path.unlink()
        began = time.perf_counter()
        sampler.open(results)
        print(f"made again from {len(results)} trials in {1000 * (time.perf_counter() - began):.0f} ms")


if __name__ == "__main__":
    main()
