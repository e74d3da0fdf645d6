"""What a warm start is worth: nights after an earlier one, on clusters whose best configuration is known.

A cold night, a warm one after an earlier night on the same cluster, and one that is misled: after an earlier night on
another cluster of the same family, as if its fingerprint had lied. All have the same noise.

python -m tests.benchmarks.warm --nights 9
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autotune.belief import Mind, Prior, learned, named
from autotune.belief.choice import Chooser
from autotune.earlier.change import weight
from autotune.earlier.study import unlawful
from autotune.space import key
from tests.benchmarks.clusters import ALL as FAMILIES
from tests.benchmarks.clusters.families import FAMILIES as ORDINARY
from tests.benchmarks.rivals import Informed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.result import TrialResult
    from tests.benchmarks.clusters.cluster import Cluster

TRIALS = 15
SHOWN = (2, 3, 4, 5, 8, 15)
ANOTHER, OTHER = 100_000, 500
"""Added to a seed: the same cluster with other noise; another cluster."""


class Warm(Informed):
    """The search of autotune after an earlier night."""

    def __init__(self, cluster: Cluster, seed: int, prior: Prior) -> None:
        super().__init__(cluster, seed)
        mind = Mind(self._question, self.chooser.mind.designer, prior=prior)
        self.chooser = Chooser(mind, list(cluster.configurations))
        self._waiting = [one for one in (*prior.first, self._rule) if cluster.space.allows(one)]

    def next(self, results: Sequence[TrialResult]) -> Mapping[str, Any] | None:
        tried = {key(result.params) for result in results}
        waiting = next((one for one in self._waiting if key(one) not in tried), None)
        self._learn(results)
        return self.chooser.next() if waiting is None else waiting


@dataclass(frozen=True)
class Night:
    """How far a night has come after each trial."""

    way: str
    near: float
    """So much less than the best, in parts, is as good."""
    share: tuple[float, ...]


def play(cluster: Cluster, searcher: Informed, way: str) -> Night:
    """One night of a way to search."""
    results, share = list[Any](), []
    for number in range(TRIALS):
        params = searcher.next(results) if number else cluster.baseline
        assert params is not None
        users = (cluster.users // 2, cluster.users // 4) if number < 2 else ()
        results.append(cluster.observe(params, number, users))
        chosen = searcher.recommended(results)
        share.append(0.0 if chosen is None else 1 - cluster.regret(chosen))
    return Night(way, max(0.02, cluster.noise), tuple(share))


def prior(cluster: Cluster) -> Prior:
    """What a cold night on a cluster leaves behind."""
    searcher = Informed(cluster, cluster.seed)
    play(cluster, searcher, "")
    mind, best = searcher.chooser.mind, searcher.chooser.recommended()
    lesson = learned(mind, named(mind.law), weight([unlawful(mind)]) ** -0.5)
    assert lesson is not None
    return Prior((lesson,), () if best is None else (best,), noise=mind.noise)


def nights(asked: tuple[str, int]) -> list[Night]:
    """The same night in all ways."""
    family, seed = asked
    earlier = FAMILIES[family](seed)
    cluster = replace(earlier, seed=seed + ANOTHER)
    return [
        play(cluster, Informed(cluster, seed), "cold"),
        play(cluster, Warm(cluster, seed, prior(earlier)), "warm"),
        play(cluster, Warm(cluster, seed, prior(FAMILIES[family](seed + OTHER))), "misled"),
    ]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=9)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--families", default=",".join(ORDINARY))
    parser.add_argument("--processes", type=int, default=1)
    chosen = parser.parse_args()
    families = chosen.families.split(",")
    asked = [(families[at % len(families)], chosen.first + at // len(families)) for at in range(chosen.nights)]
    with ProcessPoolExecutor(chosen.processes) as pool:
        every = []
        for (family, seed), found in zip(asked, pool.map(nights, asked), strict=True):
            every += found
            print(f"{family:6} {seed:4}  ", "   ".join(f"{one.way} {_row(one)}" for one in found), flush=True)
    for way in dict.fromkeys(one.way for one in every):
        of = [one for one in every if one.way == way]
        hits = (sum(one.share[at - 1] >= 1 - one.near for one in of) / len(of) for at in SHOWN)
        short = (sum(1 - one.share[at - 1] for one in of) / len(of) for at in SHOWN)
        cells = "  ".join(f"@{at} {hit:.2f} ({less:.3f})" for at, hit, less in zip(SHOWN, hits, short, strict=True))
        print(f"{way:8}{cells}")


def _row(one: Night) -> str:
    return " ".join(f"{one.share[at - 1]:.3f}" for at in SHOWN)


if __name__ == "__main__":
    main()
