"""Tables: one thing a row, search and proof told apart, and the same columns and types whatever is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest

from autotune.analysis import (
    beliefs,
    candidates,
    configuration,
    constraints,
    instances,
    load,
    requests,
    stages,
    stored,
    trials,
)
from tests.analysis.studies import FAST, LEAN, Written, spec
from tests.factories import BASELINE, params

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from autotune.analysis import Study

FRAMES = (trials, constraints, candidates, beliefs, requests, instances, stages)


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.__name__)
def test_columns_and_types_are_the_same_whatever_is_missing(
    frame: Callable[[Study], pd.DataFrame], opened: Study, tmp_path: Path
) -> None:
    made = Written(tmp_path, spec())
    made.trial(params(4, policy="round_robin"), reason="load_failed")
    poor = load(tmp_path)
    assert frame(opened).dtypes.to_dict() == frame(poor).dtypes.to_dict()
    assert "object" not in set(map(str, frame(poor).dtypes))


# trials


def test_a_row_for_each_trial_and_level(opened: Study) -> None:
    every = trials(opened)
    assert every.groupby(["phase", "level"]).size().to_dict() == {
        ("proof", "2 requests/s"): 9,
        ("proof", "2 users"): 9,
        ("search", "2 requests/s"): 4,
        ("search", "2 users"): 4,
    }
    proof = every[(every["phase"] == "proof") & (every["level"] == "2 users")]
    assert proof["block"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert proof["candidate"].tolist() == [0, 1, 1, 0, 1, 0, 0, 1, 0]
    assert every.query("phase == 'search'")[["block", "candidate"]].isna().all(axis=None)


def test_a_trial_has_its_parameters_and_its_figures(opened: Study) -> None:
    first, fast = (trials(opened).query("level == '2 users'").iloc[number] for number in (0, 1))
    assert (fast["layout"], fast["num_parallel"], fast["policy"]) == ("0 | 1", 4, "least_conn")
    assert (fast["instances"], fast["slots"], fast["configuration"]) == (2, 8, "0 | 1 · 4 slots each · least_conn")
    assert (first["baseline"], fast["baseline"]) == (True, False)
    assert (first["feasible"], fast["feasible"]) == (False, True)
    assert (fast["users"], fast["simulated"], fast["seconds"]) == (2, True, 60.0)
    assert fast["began_at"] == pd.Timestamp("2026-01-01T22:00:00Z")
    metrics = stored(opened)["search", 1, "2 users"]
    assert fast["output_tps"] == metrics.output_tps
    assert (fast["ttft_mean_s"], fast["ttft_p95_s"]) == (metrics.ttft_s.mean, metrics.ttft_s.p95)
    assert (fast["tpot_p50_s"], fast["e2e_p99_s"]) == (metrics.tpot_s.p50, metrics.e2e_s.p99)


def test_a_trial_that_could_not_be_measured_says_why(opened: Study) -> None:
    broken = trials(opened).query("number == 2 and phase == 'search'")
    assert broken["reason"].tolist() == ["load_failed"] * 2
    assert not broken["feasible"].any()
    assert broken[["output_tps", "ttft_mean_s", "requests"]].isna().all(axis=None)


def test_constraints_are_relative(opened: Study) -> None:
    found = constraints(opened).query("phase == 'search' and number == 0").set_index("constraint")["violation"]
    assert found["ttft_s mean at 2 requests/s"] == pytest.approx(3.05 / 2 - 1)
    assert found["success rate at 2 users"] == pytest.approx(-0.01)


def test_the_candidates_of_the_proof(opened: Study) -> None:
    baseline, fast = (candidates(opened).iloc[at] for at in (0, 1))
    assert (baseline["runs"], fast["runs"]) == (4, 4)  # the ninth run is of a block that is not complete
    assert (baseline["winner"], fast["winner"], fast["recommended"]) == (False, True, True)
    assert pd.isna(baseline["gain_mean"])
    assert fast["gain_low"] <= fast["gain_mean"] <= fast["gain_high"]
    assert fast["next_low"] <= fast["tps_low"] <= fast["tps_mean"]


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (BASELINE, "0 · 1 slot"),
        (params(4, "0+1"), "0+1 · 4 slots"),
        (params(4, "0x2"), "0x2 · 4 slots each"),
        (FAST, "0 | 1 · 4 slots each · least_conn"),
        (params(4, flash_attention="on"), "0 · 4 slots"),
    ],
)
def test_a_configuration_in_a_few_words(opened: Study, chosen: dict[str, object], words: str) -> None:
    assert configuration(opened, chosen) == words


def test_what_a_study_varies_is_in_the_words(tmp_path: Path) -> None:
    made = Written(tmp_path, spec())
    made.trial(BASELINE)
    made.trial({**FAST, "flash_attention": "on", "env:OLLAMA_X": "1"})
    found = load(tmp_path)
    assert configuration(found, BASELINE) == "0 · 1 slot · flash_attention auto"
    words = "0 | 1 · 4 slots each · least_conn · flash_attention on · OLLAMA_X 1"
    assert trials(found)["configuration"].iloc[-1] == words
    assert trials(found)["env:OLLAMA_X"].isna().tolist() == [True, True, False, False]


# requests


def test_a_row_for_each_request_and_never_a_text(opened: Study) -> None:
    of_users, at_a_rate = (rows for _, rows in requests(opened, 0).groupby("level", sort=False))
    assert len(of_users) == len(opened.store.trials.records(0, 0))
    assert of_users["ttft_s"].unique() == pytest.approx([3.0])
    assert at_a_rate["ttft_s"].unique() == pytest.approx([3.05])  # from when it should have been written
    assert of_users["asked_s"].min() == pytest.approx(-4.95)
    assert at_a_rate["asked_s"].min() == pytest.approx(-5.0)
    assert (of_users["first_text_s"] - of_users["asked_s"]).to_list() == pytest.approx(of_users["ttft_s"].to_list())
    assert not {"input", "output", "prompt", "response", "text"} & set(of_users.columns)


def test_requests_of_the_window_are_those_of_the_figures(opened: Study) -> None:
    for (phase, number, label), metrics in stored(opened).items():
        rows = requests(opened, number, phase).query("in_window")
        rows = rows[rows["level"] == label]
        assert len(rows) == metrics.requests
        assert rows["ttft_s"].mean() == pytest.approx(metrics.ttft_s.mean)


def test_requests_of_all_trials_of_a_phase(opened: Study) -> None:
    assert requests(opened)["number"].unique().tolist() == [0, 1, 3]
    proof = requests(opened, phase="proof")
    assert proof["number"].unique().tolist() == list(range(9))
    assert proof.groupby("number")["candidate"].first().tolist() == [0, 1, 1, 0, 1, 0, 0, 1, 0]
    assert len(requests(opened, 2)) == 0


# instances


def test_an_instance_that_nobody_asked_had_no_share(opened: Study) -> None:
    busy, idle = (instances(opened).query("number == 1 and phase == 'search'").iloc[at] for at in (0, 1))
    assert (busy["instance"], idle["instance"]) == ("ollama-0", "ollama-1")
    assert (busy["share"], busy["slots_used"], busy["slots"]) == (1.0, 2, 4)
    assert (idle["share"], idle["requests"], idle["slots_used"], idle["output_tps"]) == (0.0, 0, 0, 0.0)
    assert pd.isna(idle["ttft_mean_s"])
    assert busy["devices"].startswith("GPU-")
    assert (idle["layers_on_device"], idle["layers"], idle["size_vram_bytes"]) == (8, 8, 900 << 20)


def test_where_nothing_says_who_answered_nobody_was_idle(tmp_path: Path) -> None:
    Written(tmp_path, spec()).trial(FAST, told=False)
    found = instances(load(tmp_path))
    assert found["instance"].tolist() == ["ollama-0", "ollama-1"] * 2
    assert found[["share", "requests", "output_tps", "slots_used"]].isna().all(axis=None)


# stages


def test_stages_are_spans_of_the_wall_clock(opened: Study) -> None:
    load_of_fast = stages(opened).query("phase == 'search' and number == 1 and level == '2 users'").iloc[0]
    assert load_of_fast["stage"] == "load"
    assert load_of_fast["end"] - load_of_fast["begin"] == pd.Timedelta(seconds=1)
    assert (load_of_fast["begin_s"], load_of_fast["end_s"]) == (8.0, 9.0)
    assert stages(opened)["proof"].dropna().unique().tolist() == [0]


def test_nights_and_proofs_are_counted(written: Written) -> None:
    written.begin()
    written.spans(4, error="CancelledError")
    written.prove([dict(BASELINE), LEAN], [3.0, 0.6], runs=2)
    found = stages(load(written.path)).query("night == 1")
    assert found["begin_s"].min() == 0.0
    assert found["proof"].dropna().unique().tolist() == [1]
    assert found["error"].unique().tolist() == ["CancelledError", ""]
