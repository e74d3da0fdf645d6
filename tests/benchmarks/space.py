"""How long it takes to build, count and draw from the space of sixteen devices: python -m tests.benchmarks.space

A second and 200 MB are meant to be enough.
"""

from __future__ import annotations

import random
import resource
import time
from itertools import pairwise

from autotune.space import build
from tests.test_counting import CHOICES, MIXED
from tests.test_space import FACTS, host

DRAWN = 1_000
POOL = 4_000
HOSTS = (MIXED, "A" * 16, "A" * 64, "AAAAAAAABBBBBBBB", "aaaaaaaabbbbbbbb")


def main() -> None:
    """Print the times of each step for several hosts."""
    print(f"{'host':17} {'layouts':>13} {'configurations':>22}  build, count, draw {DRAWN}, pool of {POOL}, s")
    for kinds in HOSTS:
        times = [time.perf_counter()]
        space = build(host(kinds), FACTS, num_ctx=4096, **CHOICES)
        times.append(time.perf_counter())
        _ = space.before_symmetry, space.after_symmetry, space.after_memory
        times.append(time.perf_counter())
        drawn = space.sample(random.Random(1), DRAWN)
        times.append(time.perf_counter())
        space.pool(1, POOL)
        times.append(time.perf_counter())
        assert len(drawn) == min(DRAWN, space.size)
        took = " ".join(f"{end - start:6.2f}" for start, end in pairwise(times))
        print(f"{kinds:17.17} {space.family.count:13,} {space.size:22,}  {took}")
    print(
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at most, Python and all its modules in it"
    )


if __name__ == "__main__":
    main()
