"""A night whose objective is the capacity: the largest load at which the limits hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from autotune.analysis import load, recomputed, stored, trials
from autotune.report import markdown, read
from autotune.store import Store
from tests.night.harness import Folder

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.nginx, pytest.mark.slow]

CAPACITY = """
metric = "capacity"
capacity_max = 8
limits = [{ metric = "ttft_s", statistic = "p50", max = 0.04 }]
"""


def test_slots_are_capacity(tmp_path: Path) -> None:
    """With one slot the second user waits for the whole answer of the first; with eight there is room for eight."""
    folder = Folder(tmp_path, {"objective": CAPACITY, "num_parallel": "[4]", "trials": 2, "window_s": 2})
    done = folder.run()
    assert done.code == 0, done.output
    baseline, other = folder.results()
    assert (baseline.score.objective, baseline.unit, baseline.at) == (1.0, "users", "1 users")
    assert dict(baseline.tried) == {4.0: "violated", 2.0: "violated", 1.0: "holds"}
    assert list(baseline.levels) == ["4 users", "2 users", "1 users"]
    assert other.score.objective is not None
    assert other.score.objective >= 4
    assert other.score.feasible
    assert "users (+" in done.output
    store = Store(folder.study)
    said = markdown(read(store), "")
    assert "| capacity, users |" in said
    assert "The client: TTFT ± " in said
    study = load(folder.study)
    assert recomputed(study) == stored(study)
    table = trials(study)
    assert set(table[table["number"] == 0]["users"]) == {1, 2, 4}
    folder.is_clean()
