"""How long the sampler takes to propose, to begin and to be told, up to 60 trials: python -m tests.benchmarks.ask

And how long the informed search takes, in wall and in processor time: a proposal over the most configurations that it
looks at should take no more than half a second. OPENBLAS_NUM_THREADS=1, as small matrices only wait for more threads.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.belief import Question, evidence
from autotune.sampler import InformedSampler, Sampler
from autotune.sampler import informed as informed_search
from autotune.space import build
from tests.conftest import gpus
from tests.factories import BASELINE, SPEC, result, space

if TYPE_CHECKING:
    from autotune.result import TrialResult

TRIALS = 60
SHOWN = (5, 15, 30, 45, 59, 60)
"""After the last the fits begin anew, too."""
POOLS = (500, informed_search.POOL)
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


def informed(most: int) -> None:
    """Print what the informed search takes over so many configurations, each proposal after one trial more."""
    wide = build(
        gpus(8), None, num_ctx=1024, num_parallel=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32), copies=(1, 2, 3), spans=(1, 2, 4),
        policies=("round_robin", "least_conn", "random_two"), flash_attention=("auto", "on"),
        num_batch=(256, 512, 1024),
    )  # fmt: skip
    question = Question.of(SPEC, gpus(8), None)
    assert question is not None
    began = Clock.now()
    informed_search.POOL = most
    searching = InformedSampler(wide, question)
    print(f"\n{len(searching.pool)} of {wide.size} configurations: made in {began.to(Clock.now())} ms")
    print("wall / processor time, ms\ntrials         propose            rank         promise           whole")
    results: list[TrialResult] = []
    chosen: dict[str, Any] = dict(searching.pool[0])
    for number in range(1, TRIALS + 1):
        slots = chosen["num_parallel"] * (1 + chosen["layout"].count("|"))
        results.append(result(number, chosen, tps=300.0 * slots / (10 + slots), ttft_s=4.0 / slots))
        told = [evidence(one, question) for one in results]
        times = [Clock.now()]
        chosen = searching.next(told)
        times.append(Clock.now())
        searching.ranked(told)
        times.append(Clock.now())
        searching.promise(told, 0.02)
        times.append(Clock.now())
        if number in SHOWN:
            took = [one.to(other) for one, other in (*pairwise(times), (times[0], times[-1]))]
            print(f"{number:6}" + "".join(f"{one:>16}" for one in took))


@dataclass(frozen=True)
class Clock:
    """Two clocks: on a busy machine only the processor's says what something takes."""

    wall_s: float
    processor_s: float

    @classmethod
    def now(cls) -> Clock:
        """What they show."""
        return cls(time.perf_counter(), time.process_time())

    def to(self, end: Clock) -> str:
        """Both times from here, ms."""
        return f"{1000 * (end.wall_s - self.wall_s):.0f} / {1000 * (end.processor_s - self.processor_s):.0f}"


if __name__ == "__main__":
    main()
    for most in POOLS:
        informed(most)
