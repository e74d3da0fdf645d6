"""A proof on real processes: it ends a night, it survives being killed, and its runs are kept."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from autotune.confirm import Kind
from autotune.metrics import measure
from autotune.report import read
from autotune.store import Store
from tests.night.harness import Folder, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.nginx, pytest.mark.slow]


def test_a_proof_that_is_killed_goes_on_with_the_run_that_was_in_flight(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"num_parallel": "[4]", "trials": 2, "finalists": 1})
    with folder.begin() as running:
        assert until(lambda: any(event["what"] == "proved" and event["number"] == 2 for event in folder.events()), 60)
        running.send(signal.SIGKILL)
        running.wait()
    folder.is_clean()
    store = Store(folder.study)
    before = {path: path.read_bytes() for path in folder.study.glob("proofs/*/*/result.json")}
    assert len(before) in {3, 4}
    assert "not yet a proof: its proof has 1 of the 4 blocks that it needs" in read(store).answer
    starts = len([event for event in folder.events() if event["what"] == "start"])
    again = folder.run()
    assert again.code == 0, again.output
    assert all(path.read_bytes() == content for path, content in before.items())
    found = read(store).proof
    assert found is not None
    assert (found.kind, found.blocks) == (Kind.WINNER, 4)
    assert "Winner: 0 | 1  NUM_PARALLEL 4, least_conn: " in again.output
    assert "To install it: autotune export" in again.output
    assert len([event for event in folder.events() if event["what"] == "start"]) - starts == 8 - len(before)
    folder.is_clean()
    over = folder.run()
    assert over.code == 0, over.output
    assert over.output.count("4 blocks: ") == 1  # what was decided before is said once
    for run in found.contenders[1].runs:
        start, end = run.windows["4 users"]
        records = store.proof(0).records(run.number, 0)
        assert measure(records, window_start=start, window_end=end) == run.levels["4 users"]


def test_a_signal_in_the_proof_keeps_what_was_found(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"num_parallel": "[4]", "trials": 2, "finalists": 1})
    with folder.begin() as running:
        assert until(lambda: any(event["what"] == "proved" for event in folder.events()), 60)
        running.send(signal.SIGINT)
        assert running.wait(20) == 130, running.output
    assert "Ended: interrupted." in running.output
    assert "This is one measurement, not yet a proof: its proof has 0 of the 4 blocks that it needs." in running.output
    folder.is_clean()
