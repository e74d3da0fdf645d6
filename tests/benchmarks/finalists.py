"""What more finalists are worth: a search of 15 trials, then the same night's proof with one, two, three and four.

On clusters whose best configuration is known. A run of a proof is a fresh start with the noise of its cluster.

python -m tests.benchmarks.finalists --nights 22
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from autotune.confirm import Verdict, contenders, looks, place
from autotune.space import key
from autotune.spec import Proof
from autotune.stats import proportion_interval
from tests.benchmarks.clusters import ALL as FAMILIES
from tests.benchmarks.clusters.families import FAMILIES as ORDINARY
from tests.benchmarks.rivals import Informed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.clusters.cluster import Cluster

TRIALS, FIRST_RUN = 15, 1000
FINALISTS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Ended:
    """How a proof ended."""

    finalists: int
    near: bool
    """Whether it recommends one of the best: within 2 %, or the noise between starts."""
    lost: float
    """By which part what it recommends makes less than the best; 1 where that misses a limit."""
    kind: str
    runs: int


def search(cluster: Cluster, seed: int) -> list[Mapping[str, Any]]:
    """What a search ranks, the believed best first."""
    searcher, results = Informed(cluster, seed), list[Any]()
    for number in range(TRIALS):
        params = searcher.next(results) if number else cluster.baseline
        assert params is not None
        users = (cluster.users // 2, cluster.users // 4) if number < 2 else ()
        results.append(cluster.observe(params, number, users))
    searcher.recommended(results)
    return [one for one in searcher.chooser.ranked() if key(one) != key(cluster.baseline)]


def prove(cluster: Cluster, best: Sequence[Mapping[str, Any]], finalists: int) -> Ended:
    """The proof by its own rules, without an end of the night."""
    rules = Proof(finalists=finalists)
    candidates = [dict(one) for one in (cluster.baseline, *best[:finalists])]
    runs: list[Any] = []
    for look in looks(rules):
        turns = [place(number, len(candidates))[1] for number in range(len(runs), look * len(candidates))]
        runs += [cluster.observe(candidates[turn], FIRST_RUN + len(runs) + at, ()) for at, turn in enumerate(turns)]
        found = Verdict(contenders(candidates, runs), rules)
        if found.decided:
            break
    lost = cluster.regret(candidates[found.recommended])
    return Ended(finalists, lost <= max(0.02, cluster.noise), lost, found.kind.value, len(runs))


def night(family: str, seed: int) -> list[Ended]:
    """One search, and each proof of it."""
    cluster = FAMILIES[family](seed)
    best = search(cluster, seed)
    return [prove(cluster, best, finalists) for finalists in FINALISTS] if best else []


def table(name: str, ended: Sequence[Ended]) -> None:
    """A row for each number of finalists."""
    for finalists in FINALISTS:
        found = [one for one in ended if one.finalists == finalists]
        share = proportion_interval(sum(one.near for one in found), len(found), 0.95)
        runs = [one.runs for one in found]
        won = sum(one.kind == "winner" for one in found) / len(found)
        print(
            f"{name:9} {finalists}  {share.mean:6.1%} ({share.low:.1%} to {share.high:.1%})"
            f"  {fmean(min(one.lost, 0.3) for one in found):6.2%}  {won:6.1%}  {fmean(runs):6.1f} {median(runs):6.0f}"
        )


def main() -> None:
    """Print the share of nights near the best, what is lost, winners, and the runs that it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=22, help="nights of each family")
    parser.add_argument("--first", type=int, default=200, help="the first seed")
    parser.add_argument("--processes", type=int, default=None)
    asked = parser.parse_args()
    every = [(family, asked.first + seed) for seed in range(asked.nights) for family in FAMILIES]
    with ProcessPoolExecutor(asked.processes) as pool:
        found = list(pool.map(night, *zip(*every, strict=True)))
    print("nights  finalists  near the best  lost in the mean  winners  runs: mean, median")
    for name, ordinary in (("ordinary", True), ("adverse", False)):
        nights = [ended for (family, _), ended in zip(every, found, strict=True) if (family in ORDINARY) == ordinary]
        table(name, [one for ended in nights for one in ended])


if __name__ == "__main__":
    main()
