"""The reference page's rows through the real client and the real nginx, in compressed time.

`tests/simulator/test_model.py` has the same rows in virtual time. Which figures are fitted and which are predicted is
said there: the step law comes from rows 3 and 4, contention and overhead from row 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.night.harness import Folder

pytestmark = [pytest.mark.nginx, pytest.mark.slow, pytest.mark.quiet]

ROWS = {
    # layout, num_parallel, users: TTFT in s, tokens/s
    ("0", 4, "10 users"): (13.5, 105.71),
    ("0", 4, "20 users"): (36.7, 104.73),
    ("0", 16, "20 users"): (4.8, 204.70),
    ("0 | 1 | 2 | 3", 16, "20 users"): (0.75, 366.01),
}


@pytest.mark.parametrize("row", list(ROWS), ids=lambda row: f"{row[0].count('|') + 1} cards, {row[1]} slots, {row[2]}")
def test_row(reference: Folder, row: tuple[str, int, str]) -> None:
    ttft_s, output_tps = ROWS[row]
    measured = {
        (result.layout, result.params["num_parallel"], label): metrics
        for result in reference.results()
        for label, metrics in result.levels.items()
    }
    assert measured[row].output_tps == pytest.approx(output_tps, rel=0.1)
    assert measured[row].ttft_s.mean == pytest.approx(ttft_s, rel=0.1)
