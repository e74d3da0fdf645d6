"""A long night does not grow: memory after fifty trials is what it was after five."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.night.harness import Folder

pytestmark = [pytest.mark.nginx, pytest.mark.slow]

TRIALS = 50
MOST_GROWTH_BYTES = 6 * 2**20
"""What fifty results, and Optuna's cache of fifty trials, may take."""


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def test_memory_does_not_grow_from_trial_5_to_trial_50(tmp_path: Path) -> None:
    slots = list(range(1, 26))
    values = {"num_parallel": slots, "trials": f"{TRIALS}\nearly = false", "warmup_s": 0.1, "window_s": 0.2}
    folder = Folder(tmp_path, values)
    with folder.begin() as running:
        running.reaches("trial", 5)
        early = resident_bytes(running.process.pid)
        running.reaches("trial", TRIALS - 2, timeout_s=250)
        late = resident_bytes(running.process.pid)
        assert running.wait(30) == 0, running.output
    assert len(folder.results()) == TRIALS
    print(f"resident after trial 5: {early / 2**20:.1f} MiB, after trial {TRIALS - 2}: {late / 2**20:.1f} MiB")
    assert late - early < MOST_GROWTH_BYTES
    folder.is_clean()
