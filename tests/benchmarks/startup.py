"""How long `autotune --help` takes, from a cold interpreter to its end: python -m tests.benchmarks.startup"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 7


def main() -> None:
    """Print the median, the best and the worst, beside an interpreter that does nothing."""
    for name, arguments in {"autotune --help": ["-m", "autotune", "--help"], "python alone": ["-c", ""]}.items():
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times.append(1000 * (time.perf_counter() - began))
        print(f"{name:16} {statistics.median(times):5.0f} ms ({min(times):.0f} to {max(times):.0f})")


if __name__ == "__main__":
    main()
