"""What the clusters are like, eight of each family: python -m tests.benchmarks.clusters [family …]"""

from __future__ import annotations

import statistics
import sys
import time

from tests.benchmarks.clusters import ALL

SEEDS = 8


def main() -> None:
    """One line for each family."""
    print("family     configurations         share of hits, %        thumb hits   fails   noise, %   s a cluster")
    for family in sys.argv[1:] or ALL:
        began = time.perf_counter()
        drawn = [ALL[family](seed) for seed in range(SEEDS)]
        took_s = (time.perf_counter() - began) / SEEDS
        sizes = sorted(len(cluster.configurations) for cluster in drawn)
        shares = sorted(100 * cluster.hit_share for cluster in drawn)
        thumbs = sum(cluster.hit(cluster.rule_of_thumb) for cluster in drawn)
        failing = statistics.mean(
            sum(truth is None for truth in cluster.all().values()) / len(cluster.configurations) for cluster in drawn
        )
        noise = statistics.mean(cluster.noise for cluster in drawn)
        print(
            f"{family:10} {sizes[0]:5}-{sizes[-1]:5} median {statistics.median(sizes):5.0f}"
            f"  {shares[0]:5.2f}-{shares[-1]:5.2f} median {statistics.median(shares):5.2f}"
            f"  {thumbs:5}/{SEEDS}  {100 * failing:5.1f} %  {100 * noise:5.1f}  {took_s:8.2f}"
        )


if __name__ == "__main__":
    main()
