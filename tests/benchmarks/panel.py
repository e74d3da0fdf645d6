"""What a frame of the live view costs in CPU time, in the middle of a long night: python -m tests.benchmarks.panel"""

from __future__ import annotations

import io
import statistics
import time
from pathlib import Path

from rich.console import Console

from autotune.benchmark.phases import Progress
from autotune.console.live import Night
from autotune.ground import Ground
from autotune.ollama.api import ServerFacts
from autotune.telemetry import DeviceSample
from tests.conftest import TINY, gpus
from tests.factories import BASELINE, SPEC, params, result, space

TRIALS, CARDS, REPORTS, ROUNDS = 300, 8, 2400, 200
FACTS = ServerFacts("0.32.15", TINY)


def night(width: int, height: int) -> tuple[Night, Console]:
    """After many trials, late in a long load, on many cards."""
    on = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system="truecolor")
    there = Ground(SPEC, gpus(CARDS), FACTS, Path("/models"), Path("/home"), space(), BASELINE)
    view = Night(SPEC, Console(file=io.StringIO()), clock=time.perf_counter)
    view({"what": "ground", "ground": there})
    for number in range(TRIALS):
        chosen = params(number + 1)
        view({"what": "trial begins", "number": number, "params": chosen, "plan": there.plan(chosen)})
        view({"what": "result", "result": result(number, chosen, 100.0 + number), "left_s": 3600.0})
    samples = (DeviceSample(index, 61, 1500, 3 << 30, 180.0, 0.9, (), throttled=False) for index in range(CARDS))
    view({"what": "devices", "samples": tuple(samples)})
    for step in range(REPORTS):
        now = Progress("window", step / 4, 600.0, step, 100.0 + step % 7, 0.5)
        view({"what": "progress", "label": "2 users", "progress": now})
    return view, on


def main() -> None:
    """Print the median and the worst."""
    for width, height in ((60, 24), (100, 40), (140, 60), (240, 80)):
        view, on = night(width, height)
        times = []
        for _ in range(ROUNDS):
            began = time.process_time()
            on.print(view.frame())
            times.append(1000 * (time.process_time() - began))
        print(f"{width:4} × {height:2}: {statistics.median(times):5.2f} ms a frame, {max(times):5.2f} at most")


if __name__ == "__main__":
    main()
