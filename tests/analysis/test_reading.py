"""A study is opened by its folder or its file; what is wrong with it is one clear line."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING

import pytest

from autotune.analysis import load, recomputed, requests, stored, trials
from autotune.confirm import Kind
from autotune.errors import AutotuneError, SpecError, StorageError
from autotune.store import FORMAT
from tests.analysis.studies import FAST, LEAN, Written, spec
from tests.factories import BASELINE, PROVENANCE

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.analysis import Study

FILE = """
study.name = "test"
cluster = { driver = "simulated", model = "tiny" }
search.num_parallel = [1]
workload = { num_ctx = 1024, num_predict = 8, input_tokens = 8, levels = [2] }
budget.trials = 1
"""


def test_a_study_is_what_its_folder_tells(opened: Study) -> None:
    assert (opened.name, opened.simulated, opened.level) == ("test", True, "2 requests/s")
    assert [one.params for one in opened.results] == [BASELINE, FAST, opened.results[2].params, LEAN]
    assert [one.number for one in opened.proof] == list(range(9))
    assert opened.candidates == (BASELINE, FAST)
    assert opened.baseline.params == BASELINE
    assert opened.verdict is not None
    assert (opened.verdict.kind, opened.verdict.blocks) == (Kind.WINNER, 4)
    assert (opened.proved, opened.best) == (True, FAST)
    assert opened.header["file"] == "# the study file\n"
    assert opened.provenance == PROVENANCE
    assert opened.events[0]["what"] == "night begins"
    with pytest.raises(FrozenInstanceError):
        opened.spec = spec()  # type: ignore[misc]


def test_a_study_is_found_by_its_file(written: Written) -> None:
    file = written.path.parent / "some.toml"
    file.write_text(FILE)
    assert load(file).results == load(written.path).results == load(str(written.path)).results


def test_without_a_proof_the_best_is_that_of_the_search(tmp_path: Path) -> None:
    made = Written(tmp_path, spec())
    made.trial(BASELINE, 0.6)
    assert load(tmp_path).best == BASELINE
    made.trial(FAST, 0.4)
    found = load(tmp_path)
    assert (found.best, found.proved, found.verdict, found.proof) == (FAST, False, None, ())
    made.prove([dict(BASELINE), LEAN], [0.6, 0.5], runs=2)
    assert load(tmp_path).best == FAST  # two runs are no proof


def test_the_last_proof_with_enough_blocks_is_the_one_that_counts(written: Written) -> None:
    before = load(written.path).candidates
    written.prove([dict(BASELINE), LEAN, FAST], [3.0, 0.6, 0.4], runs=2)
    assert load(written.path).candidates == before
    written.prove([dict(BASELINE), LEAN, FAST], [3.0, 0.6, 0.4], runs=12)
    found = load(written.path)
    assert len(found.candidates) == 3
    assert [run.candidate for run in found.runs if run.phase == "proof"][:6] == [0, 1, 2, 2, 1, 0]


@pytest.mark.parametrize("scale", [1, 12])
def test_metrics_are_computed_again_to_the_last_bit(tmp_path: Path, scale: int) -> None:
    made = Written(tmp_path, spec(cluster={"time_scale": scale}))
    made.trial(BASELINE, 0.3)
    made.trial(FAST, reason="load_failed")
    made.prove([dict(BASELINE), FAST], [0.3, 0.2], runs=3)
    found = load(tmp_path)
    assert recomputed(found) == stored(found)
    assert len(stored(found)) == 2 * (1 + 3)
    users, rate = (stored(found)["search", 0, level.label] for level in found.spec.workload.levels)
    assert rate.ttft_s.mean == pytest.approx((users.ttft_s.mean or 0) + 0.05)  # counted from when they should be sent


def test_what_was_loaded_beside_is_computed_again(tmp_path: Path) -> None:
    made = Written(tmp_path, spec(workload={"levels": [3, 2]}))
    made.trial(BASELINE, 0.3)
    made.beside(FAST, 5, 1)
    found = load(tmp_path)
    assert recomputed(found) == stored(found)
    beside = {label: metrics for (_, number, label), metrics in stored(found).items() if number == 1}
    assert list(beside) == ["3 users", "2 users", "5 users", "1 users"]
    assert (beside["1 users"].ttft_s.mean or 0) - (beside["5 users"].ttft_s.mean or 0) == pytest.approx(0.1)
    rows = requests(found, 1)
    assert rows["level"].unique().tolist() == list(beside)
    assert (rows["level"] == "1 users").sum() == len(found.store.trials.records(1, 3))


def test_a_trial_that_was_dropped_has_what_was_measured_by_then(tmp_path: Path) -> None:
    made = Written(tmp_path, spec())
    made.trial(BASELINE, 0.3)
    made.drop(LEAN, "cannot beat 9 tokens/s: at most 5 after 22 s")
    found = load(tmp_path)
    assert recomputed(found) == stored(found)
    assert [label for _, number, label in stored(found) if number == 1] == ["2 requests/s"]
    assert requests(found, 1)["level"].unique().tolist() == ["2 requests/s"]
    rows = trials(found).query("number == 1")
    assert rows["dropped"].tolist() == ["cannot beat 9 tokens/s: at most 5 after 22 s"] * 2
    assert rows["output_tps"].notna().tolist() == [False, True]
    assert trials(found).query("number == 0")["dropped"].tolist() == ["", ""]


# what is wrong


def refused(path: Path, kind: type[AutotuneError] = StorageError) -> str:
    """The one line with which a study is refused."""
    with pytest.raises(kind) as raised:
        load(path)
    assert "\n" not in raised.value.message
    return raised.value.message


def test_a_study_that_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere") == f"{tmp_path}/nowhere: no study (there is no study.json in this folder)"
    file = tmp_path / "new.toml"
    file.write_text(FILE)
    assert refused(file).startswith(f"{tmp_path}/test: no study")
    assert refused(tmp_path / "none.toml", SpecError) == f"{tmp_path}/none.toml: No such file or directory"
    file.write_text("[study")
    assert refused(file, SpecError).startswith(f"{file}: not TOML")


def test_a_study_without_a_finished_trial(tmp_path: Path) -> None:
    Written(tmp_path, spec())
    assert refused(tmp_path) == f"{tmp_path}: no trial of this study has finished yet"


def test_a_study_of_a_newer_version(written: Written) -> None:
    (written.path / "study.json").write_text(json.dumps({"format": FORMAT + 1}))
    assert f"study.json: format {FORMAT + 1} is of a newer autotune" in refused(written.path)


@pytest.mark.parametrize(
    "name", ["study.json", "trials/0001/result.json", "proofs/0000/proof.json", "proofs/0000/0003/result.json"]
)
@pytest.mark.parametrize("damage", [b"", b'{"a": ', b"[]"])
def test_a_damaged_study_names_the_file(written: Written, name: str, damage: bytes) -> None:
    (written.path / name).write_bytes(damage)
    assert f"{written.path / name}: damaged" in refused(written.path)


def test_damaged_records_are_found_when_they_are_asked_for(written: Written) -> None:
    found = load(written.path)
    path = written.path / "trials/0001/records-1.jsonl.gz"
    path.write_bytes(path.read_bytes()[:40])
    for reading in (recomputed, requests):
        with pytest.raises(StorageError, match=rf"{path}: damaged"):
            reading(found)
    assert len(requests(found, 0)) > 0


def test_in_a_notebook_an_error_is_one_line() -> None:
    assert StorageError("x: damaged")._render_traceback_() == ["autotune: x: damaged"]
    assert StorageError("x", details="a\nb")._render_traceback_() == ["autotune: x", "a", "b"]
