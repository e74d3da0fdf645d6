"""How long the sampler takes to propose, to begin and to be told, up to 60 trials: python -m tests.benchmarks.ask

And how long the informed search takes, over the most configurations that it looks at. A proposal should take no more
than half a second.
"""

from __future__ import annotations

import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.belief import Question, evidence
from autotune.sampler import InformedSampler, Sampler
from autotune.sampler.informed import POOL
from autotune.space import build
from tests.conftest import gpus
from tests.factories import BASELINE, SPEC, result, space

if TYPE_CHECKING:
    from autotune.result import TrialResult

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


def informed() -> None:
    """Print the times of the informed search, each proposal after one trial more."""
    wide = build(
        gpus(8), None, num_ctx=1024, num_parallel=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32), copies=(1, 2, 3), spans=(1, 2, 4),
        policies=("round_robin", "least_conn", "random_two"), flash_attention=("auto", "on"),
        num_batch=(256, 512, 1024),
    )  # fmt: skip
    question = Question.of(SPEC, gpus(8), None)
    assert question is not None
    began = time.perf_counter()
    searching = InformedSampler(wide, question)
    print(f"{wide.size} configurations, {len(searching.pool)} of at most {POOL} looked at")
    print(f"made in {1000 * (time.perf_counter() - began):.0f} ms\ntrials  propose, ms  rank, ms  promise, ms")
    results: list[TrialResult] = []
    chosen: dict[str, Any] = dict(searching.pool[0])
    for number in range(TRIALS + 1):
        slots = chosen["num_parallel"] * (1 + chosen["layout"].count("|"))
        results.append(result(number, chosen, tps=300.0 * slots / (10 + slots), ttft_s=4.0 / slots))
        told = [evidence(one, question) for one in results]
        times = [time.perf_counter()]
        chosen = searching.next(told)
        times.append(time.perf_counter())
        searching.ranked(told)
        times.append(time.perf_counter())
        searching.promise(told, 0.02)
        times.append(time.perf_counter())
        if number % 10 == 0:
            took = [1000 * (end - start) for start, end in pairwise(times)]
            print(f"{number + 1:6}  {took[0]:11.1f}  {took[1]:8.1f}  {took[2]:11.1f}")


if __name__ == "__main__":
    main()
    informed()
