"""What a bad trial costs beside a good one, in seconds of measurement: python -m tests.benchmarks.dropped [seeds].

Every row is the load of a whole trial in virtual time, under the real client's phases: warm-up, window, drain. The
candidates are as fast as the best, or slower, or miss a limit of its TTFT. Starting the instances and loading the model
comes to each of them alike and cannot be shortened; the last column has it, at half a minute.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from autotune.benchmark.load import run
from autotune.benchmark.pacer import ClosedLoop
from autotune.benchmark.phases import Phases
from autotune.goal import Bound, Precise
from autotune.metrics import measure
from autotune.rival import Rival, Screen
from autotune.simulator.clock import run_virtual
from tests.rehearsal.engines import Client, Plain, Setup

if TYPE_CHECKING:
    from autotune.benchmark.phases import LoadResult

START_S = 30.0
"""To start what differs and to load the model, as far as a guess goes."""

PHASES = Phases(warmup_s=10, warmup_max_s=180, window_s=60, window_max_s=300, drain_s=120, min_requests=72)
LIMIT_S = 6.0
"""Of the TTFT's p95."""


@dataclass(frozen=True)
class Case:
    """A candidate beside the best."""

    name: str
    setup: Setup
    limit: bool = False


@dataclass(frozen=True)
class Took:
    """One load."""

    seconds: float
    tps: float
    answer_tokens: float
    warm_s: float
    loaded: LoadResult


def load(setup: Setup, users: int, seed: int, rival: Rival | None, *, limit: bool) -> Took:
    """A whole load; without a rival it is measured in full."""
    slots = setup.slots * len(setup.paces)
    bounds = (Bound("ttft_s", "p95", LIMIT_S),) if limit else ()
    waits = tuple((bound.name, bound.most) for bound in bounds)
    asked = None if rival is None else Screen(rival, users, slots, len(setup.paces), PHASES.screens, waits)
    goal = Precise(bounds, 0.05, PHASES.looks, min_success=0.99, rival=rival, warmup=asked)
    client = Client(setup, None)
    loaded = run_virtual(run(client, Plain(), ClosedLoop(users, seed), PHASES, "n", goal=goal))
    found = measure(loaded.records, window_start=loaded.window_start, window_end=loaded.window_end)
    ended = max(record.finished_at or 0.0 for record in loaded.records)
    return Took(ended, found.output_tps, found.output_tokens or 1.0, loaded.window_start, loaded)


def cases(best: Setup) -> list[Case]:
    """The best, and others beside it."""
    paced = [(f"{part:.0%} of its output", part) for part in (1.0, 0.97, 0.95, 0.9, 0.8, 0.7, 0.5, 0.25, 0.02)]
    slower = [Case(name, replace(best, paces=tuple(pace / part for pace in best.paces))) for name, part in paced]
    fewer = replace(best, slots=max(1, best.slots // 4))
    return [
        *slower,
        Case("a quarter of its slots", fewer),
        Case("the same, with a limit that it misses", fewer, limit=True),
    ]


def table(name: str, best: Setup, users: int, seeds: int) -> None:
    """Rows of one cluster."""
    whole = [load(best, users, seed, None, limit=False) for seed in range(seeds)]
    good_s = fmean(one.seconds for one in whole)
    rival = Rival(
        fmean(one.tps for one in whole),
        answer_tokens=fmean(one.answer_tokens for one in whole),
        warm_s=fmean(one.warm_s for one in whole),
    )
    print(f"\n{name}: {users} users, {rival.tps:.0f} tokens/s; measured in full in {good_s:.0f} s")
    print(f"{'':40}{'dropped':>9}{'warm-up':>9}{'takes':>9}{'of a good one':>15}{'with start':>12}")
    for case in cases(best):
        found = [load(case.setup, users, 100 + seed, rival, limit=case.limit) for seed in range(seeds)]
        takes_s = fmean(one.seconds for one in found)
        dropped = fmean(one.loaded.look.dropped for one in found)
        early = fmean(one.loaded.look.stage == "warm-up" for one in found)
        every = (takes_s + START_S) / (good_s + START_S)
        print(f"{case.name:40}{dropped:9.0%}{early:9.0%}{takes_s:7.0f} s{takes_s / good_s:15.0%}{every:12.0%}")


def main(seeds: int) -> None:
    """Three clusters."""
    table("a queue", Setup(paces=(1.0,), shortest=60, longest=240), 10, seeds)
    table("slots for all", Setup(slots=16, paces=(1.0,), shortest=60, longest=240), 10, seeds)
    table("four instances", Setup(slots=4, paces=(1.0,) * 4, shortest=60, longest=240), 24, seeds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
