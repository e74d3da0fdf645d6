"""Nights on clusters whose best configuration is known: how far each way to search has come after 5, 8, 10, … trials.

python -m tests.benchmarks.nights --nights 40 --rivals informed,tpe
"""

from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tests.benchmarks.clusters import ALL as FAMILIES
from tests.benchmarks.clusters import profiled
from tests.benchmarks.rivals import RIVALS

if TYPE_CHECKING:
    from collections.abc import Sequence

TRIALS = 40
TOLERANCES = (0.02, 0.03)


@dataclass(frozen=True)
class Run:
    """One night of one rival: trial by trial what it would have recommended."""

    family: str
    adverse: bool
    seed: int
    rival: str
    size: int
    noise: float
    share: list[float]
    """True output of the recommended over the best; 0 where there is none, or it misses the limit."""
    misses: list[bool]
    """Whether what is recommended misses the limit in truth."""
    ask_s: list[float]
    failed: int


def night(family: str, seed: int, rival: str, trials: int) -> Run:
    """One night."""
    cluster = FAMILIES[family](seed) if family in FAMILIES else profiled(family, seed)
    searcher = RIVALS[rival](cluster, seed)
    results: list[Any] = []
    share, misses, ask = [], [], []
    for number in range(trials):
        began = time.perf_counter()
        params = cluster.baseline if number == 0 else searcher.next(results)
        ask.append(time.perf_counter() - began)
        if params is not None:
            users = (cluster.users // 2, cluster.users // 4) if number < 2 else ()
            results.append(cluster.observe(params, number, users))
        chosen = searcher.recommended(results)
        regret = 1.0 if chosen is None else cluster.regret(chosen)
        share.append(1 - regret)
        misses.append(chosen is not None and regret >= 1.0)
    failed = sum(not result.measured for result in results)
    return Run(
        family, cluster.adverse, seed, rival, len(cluster.configurations), cluster.noise, share, misses, ask, failed
    )


def _one(asked: tuple[str, int, str, int]) -> Run:
    return night(*asked)


def mean_between(run: Run, trials: range, good: Sequence[bool]) -> float:
    """The part of some trials after which it was so."""
    return sum(good[at - 1] for at in trials) / len(trials)


AFTER = {
    "5": range(4, 7),
    "8": range(7, 10),
    "10": range(9, 12),
    "15": range(13, 18),
    "20": range(18, 23),
    "40": range(38, 41),
}


def shares(runs: Sequence[Run], tolerance: float | None) -> dict[str, float]:
    """Share of nights within the tolerance of the best; None: max(2 %, the cluster's noise between restarts)."""
    found = {}
    for name, trials in AFTER.items():
        inside = [at for at in trials if at <= len(runs[0].share)] if runs else []
        if not inside:
            continue
        parts = []
        for run in runs:
            near = max(0.02, run.noise) if tolerance is None else tolerance
            parts.append(sum(run.share[at - 1] >= 1 - near for at in inside) / len(inside))
        found[name] = sum(parts) / len(parts)
    return found


def table(runs: Sequence[Run]) -> str:
    """The shares of each rival, ordinary and adverse families apart, with binomial standard errors."""
    lines = []
    for title, pick in (("ordinary", False), ("adverse", True)):
        for rival in dict.fromkeys(run.rival for run in runs):
            chosen = [run for run in runs if run.rival == rival and run.adverse == pick]
            if not chosen:
                continue
            for label, tolerance in (("max(2 %, noise)", None), ("2 %", 0.02), ("3 %", 0.03)):
                cells = "  ".join(f"@{name} {value:.2f}" for name, value in shares(chosen, tolerance).items())
                at = shares(chosen, tolerance).get("15", 0.0)
                error = math.sqrt(at * (1 - at) / len(chosen))
                lines.append(f"{title:9}{rival:10}{label:17}{cells}  (s.e. {error:.3f}, n {len(chosen)})")
            misses = sum(any(run.misses[12:17]) for run in chosen)
            late = [run.share[min(14, len(run.share) - 1)] for run in chosen]
            tenth = sorted(late)[len(late) // 10]
            asks = [ask for run in chosen for ask in run.ask_s[2:]]
            lines.append(
                f"{'':19}median {median(late):.3f}, p10 {tenth:.3f}, misses a limit in {misses} nights, failed starts "
                f"{sum(run.failed for run in chosen) / len(chosen):.2f}, ask {1000 * median(asks or [0]):.0f} ms "
                f"(max {1000 * max(asks or [0]):.0f})"
            )
    return "\n".join(lines)


def by_family(runs: Sequence[Run], rival: str) -> str:
    """After 15 trials, family by family."""
    lines = []
    for family in dict.fromkeys(run.family for run in runs):
        chosen = [run for run in runs if run.rival == rival and run.family == family]
        cells = [f"{shares(chosen, tolerance).get('15', 0.0):.2f}" for tolerance in (None, 0.02, 0.03)]
        eight = shares(chosen, None).get("8", 0.0)
        lines.append(f"  {family:10} n {len(chosen):3}  @8 {eight:.2f}  @15 {' '.join(cells)}")
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=44)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--rivals", default=",".join(RIVALS))
    parser.add_argument("--families", default=",".join(FAMILIES), help="names, or paths of hardware profiles")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    families = chosen.families.split(",")
    asked = [
        (families[number % len(families)], chosen.first + number // len(families), rival, chosen.trials)
        for number in range(chosen.nights)
        for rival in chosen.rivals.split(",")
    ]
    with ProcessPoolExecutor(chosen.processes) as pool:
        runs = list(pool.map(_one, asked))
    print(table(runs))
    for rival in chosen.rivals.split(","):
        print(rival)
        print(by_family(runs, rival))
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(run) for run in runs]))


if __name__ == "__main__":
    main()
