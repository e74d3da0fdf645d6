"""The reference page's rows through the real client and the real nginx, in compressed time.

`tests/simulator/test_model.py` has the same rows in virtual time. Which figures are fitted and which are predicted is
said there: the step law comes from rows 3 and 4, contention and overhead from row 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from autotune.store import Store
from tests.night.harness import Folder

if TYPE_CHECKING:
    from autotune.metrics import Metrics

pytestmark = [pytest.mark.nginx, pytest.mark.slow]

ROWS = {
    # layout, num_parallel, users: TTFT in s, tokens/s
    ("0", 4, "10 users"): (13.5, 105.71),
    ("0", 4, "20 users"): (36.7, 104.73),
    ("0", 16, "20 users"): (4.8, 204.70),
    ("0 | 1 | 2 | 3", 16, "20 users"): (0.75, 366.01),
}

CHANGES = {
    'profile = "2x-small"': 'profile = "4x-rtx2080ti"',
    'layouts = ["0", "0 | 1"]': 'layouts = ["0", "0 | 1 | 2 | 3"]',
    'policy = ["least_conn"]': 'policy = ["round_robin"]',
    "num_ctx = 512": "num_ctx = 2048",
    "mean = 24": "mean = 236",
    "levels = [4]": "levels = [10, 20]",
    "warmup_s = 30": "warmup_s = 30\nwarmup_max_s = 150",
    "drain_s = 3": "drain_s = 60",
    "[workload]": '[baseline]\nlayout = "0"\nnum_parallel = 4\n\n[workload]',
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int, str], Metrics]:
    """Baseline and all configurations of one and of four cards, loaded by 10 and 20 users."""
    values = {
        "model": "gemma3n",
        "time_scale": 12,
        "num_parallel": "[16]",
        "trials": 9,
        "warmup_s": 30,
        "window_s": 100,
    }
    folder = Folder(tmp_path_factory.mktemp("rows"), values)
    text = folder.file.read_text()
    for old, new in CHANGES.items():
        assert old in text, old
        text = text.replace(old, new)
    folder.file.write_text(text)
    done = folder.run(timeout_s=280)
    assert done.code == 0, done.output
    results = Store(folder.study).results()
    return {
        (result.layout, result.params["num_parallel"], label): metrics
        for result in results
        for label, metrics in result.levels.items()
    }


@pytest.mark.parametrize("row", list(ROWS), ids=lambda row: f"{row[0].count('|') + 1} cards, {row[1]} slots, {row[2]}")
def test_row(measured: dict[tuple[str, int, str], Metrics], row: tuple[str, int, str]) -> None:
    ttft_s, output_tps = ROWS[row]
    assert measured[row].output_tps == pytest.approx(output_tps, rel=0.1)
    assert measured[row].ttft_s.mean == pytest.approx(ttft_s, rel=0.1)
