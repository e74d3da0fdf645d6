"""Nights with something special about them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from autotune.metrics import measure
from autotune.night import spent
from autotune.store import Store
from tests.night.harness import Folder

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.nginx


def edit(folder: Folder, **lines: str) -> None:
    """Replace whole lines of the study file, by key."""
    text = folder.file.read_text().splitlines()
    for key, line in lines.items():
        assert any(old.startswith(f"{key} = ") for old in text), key
        text = [line if old.startswith(f"{key} = ") else old for old in text]
    folder.file.write_text("\n".join(text))


def test_a_model_that_ollama_serves_with_one_slot_has_no_num_parallel_to_tune(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"model": "qwen35", "trials": 20, "num_parallel": "[2, 4]"})
    done = folder.run()
    assert done.code == 0, done.output
    assert "one slot whatever it is told" in done.output
    assert {result.params["num_parallel"] for result in folder.results()[1:]} == {1}
    assert "every configuration of the space has been tried" in done.output


def test_a_self_test_that_cannot_be_kept_for_the_next_night_ends_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = Folder(tmp_path, {"trials": 1}, {"XDG_STATE_HOME": str(tmp_path / "file")})
    done = folder.run()
    assert done.code == 0, done.output
    assert len(folder.results()) == 1


def test_a_byte_order_mark_of_a_study_file_is_not_kept(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"trials": 1})
    text = folder.file.read_text(encoding="utf-8")
    folder.file.write_text(text, encoding="utf-8-sig")
    assert folder.run().code == 0
    header = Store(folder.study).header()
    assert header is not None
    assert header["file"] == text


def test_requests_that_come_at_random_count_from_when_they_should_have_been_sent(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"trials": 1, "window_s": 2})
    edit(folder, levels="levels = [{ rate = 6 }, { rate = 8, arrivals = 'constant' }]")
    assert folder.run().code == 0
    levels = folder.results()[0].levels
    assert list(levels) == ["6 requests/s", "8 requests/s constant"]
    assert levels["8 requests/s constant"].requests == pytest.approx(16, abs=2)


def test_hours_end_a_night_and_leave_time_for_the_proof(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    edit(folder, trials="hours = 0.006")
    done = folder.run()
    assert done.code == 0, done.output
    assert "no time is left for another trial" in done.output
    assert folder.results()
    # a run begins where it likely ends in time, by what others took: a busy machine may still be late by a part of one
    assert spent(folder.study / "events.jsonl")["night"] < 1.05 * 0.006 * 3600


def test_a_derived_model_is_used_and_gone_afterwards(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"trials": 2})
    edit(folder, policy='policy = ["least_conn"]\nnum_batch = [256]')
    assert folder.run().code == 0
    plan = json.loads((folder.study / "trials/0001/plan.json").read_text())["plan"]
    assert plan["model"].startswith("autotune-tiny-batch256-")
    assert plan["derived"]["parameters"] == [["num_batch", 256]]
    assert not in_store(folder)


def test_figures_computed_from_the_stored_records_are_those_of_the_result(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"trials": 1})
    folder.run()
    result = folder.results()[0]
    records = Store(folder.study).trials.records(0, 0)
    start, end = result.windows["4 users"]
    assert measure(records, window_start=start, window_end=end) == result.levels["4 users"]


def test_a_reader_that_goes_away_does_not_end_the_night(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"trials": 2})
    command = f"{sys.executable} -m autotune run {folder.file} --plain | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len(folder.results()) == 2


def test_a_derived_model_of_a_night_that_was_killed_is_taken_back_by_the_next(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"trials": 3, "num_parallel": "[1]"})
    edit(folder, policy='policy = ["least_conn"]\nnum_batch = [64, 128]')
    with folder.begin() as running:
        running.reaches("load begins", 1)
        assert in_store(folder)
        running.send(signal.SIGKILL)
        running.wait()
    assert in_store(folder)
    assert folder.run().code == 0
    assert not in_store(folder)


def in_store(folder: Folder) -> list[str]:
    """Where the played store still speaks of a derived model."""
    texts = {path: path.read_text(errors="replace") for path in folder.study.glob("run/**/*") if path.suffix == ".json"}
    return [str(path) for path, text in texts.items() if "autotune-tiny-batch" in text]


def test_the_log_of_a_trial_that_failed_is_kept(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"trials": 2, "num_parallel": "[190]"})
    text = folder.file.read_text().replace('layouts = ["0", "0 | 1"]', 'layouts = ["0"]')
    folder.file.write_text(text.replace("num_ctx = 512", "num_ctx = 1024"))
    done = folder.run()
    assert done.code == 0, done.output
    assert folder.results()[1].reason == "offloaded"
    assert "offloaded" in (folder.study / "trials/0001/ollama-0.log").read_text()
