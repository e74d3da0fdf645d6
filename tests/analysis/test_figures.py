"""Figures: what they show, what is marked, and that those of a simulated study say so."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.analysis import (
    believed_against_measured,
    by_level,
    load,
    requests,
    requests_over_time,
    slots_by_layout,
    timeline,
    tps_against_ttft,
    trials,
)
from autotune.analysis.style import scale
from tests.analysis.studies import BROKEN, FAST, LEAN, WINDOW, Written, spec
from tests.factories import BASELINE, LIMIT, params

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from autotune.analysis import Study

FIGURES = (tps_against_ttft, by_level, slots_by_layout, believed_against_measured, timeline, requests_over_time)
REAL = {"driver": "process"}


def told(figure: Any) -> str:
    """Title, subtitle and all notes."""
    title = figure.layout.title
    return " ".join([title.text, title.subtitle.text, *(note.text for note in figure.layout.annotations)])


def points(figure: Any) -> dict[str, int]:
    """How many points each trace has, by its name."""
    return {trace.name: len(trace.x) for trace in figure.data if trace.type == "scatter"}


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.__name__)
def test_a_simulated_study_says_so_in_every_figure_and_a_real_one_in_none(
    figure: Callable[[Study], Any], opened: Study, tmp_path: Path
) -> None:
    made = Written(tmp_path, spec(cluster=REAL))
    made.trial(BASELINE)
    assert "SIMULATED: figures of a played host, not of this one" in told(figure(opened))
    assert "SIMULATED" not in figure(load(tmp_path)).to_json()


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.__name__)
def test_every_figure_has_a_title_axes_with_units_and_becomes_a_page(
    figure: Callable[[Study], Any], opened: Study
) -> None:
    drawn = figure(opened)
    assert drawn.layout.title.text.startswith("test: ")
    words = [axis.title.text or "" for axis in (*drawn.select_xaxes(), *drawn.select_yaxes())]
    assert any(unit in word for word in words for unit in ("tokens/s", "slots", ", s", ", min"))
    assert "SIMULATED" in drawn.to_html(include_plotlyjs=False)


# every configuration


def test_trials_are_points_with_baseline_winner_and_limit(opened: Study) -> None:
    drawn = tps_against_ttft(opened)
    assert points(drawn) == {"feasible": 2, "misses a limit": 1, "a run of the proof": 9}
    symbols = {trace.name: trace.marker.symbol for trace in drawn.data}
    assert symbols["feasible"] != symbols["misses a limit"]
    assert "<b>baseline</b><br>0 · 1 slot" in told(drawn)
    assert "<b>winner</b><br>0 | 1 · 4 slots each · least_conn" in told(drawn)
    assert "limit: TTFT mean 2 s" in told(drawn)
    assert "1 of 4 trials could not be measured" in told(drawn)
    assert drawn.layout.shapes[0].x0 == 2.0
    assert "0 | 1 · 4 slots each · least_conn" in drawn.data[0].customdata[0]


def test_without_a_proof_the_best_is_not_called_a_winner(tmp_path: Path) -> None:
    made = Written(tmp_path, spec())
    made.trial(BASELINE, 3.0)
    made.trial(FAST, 2.5)
    assert "<b>nearest to the limits</b>" in told(tps_against_ttft(load(tmp_path)))
    made.trial(LEAN, 0.5)
    assert "<b>best of the search, not proved</b><br>0 | 1 · 2 slots" in told(tps_against_ttft(load(tmp_path)))


def test_a_trial_that_was_dropped_before_the_level_of_the_limit_has_no_point(tmp_path: Path) -> None:
    made = Written(tmp_path, spec(objective={"limits": [{**LIMIT, "at": "2 users"}]}))
    made.trial(BASELINE, 0.5)
    made.drop(LEAN, "cannot beat it")
    made.trial(FAST, 0.4)
    (drawn, *_) = tps_against_ttft(load(tmp_path)).data
    assert list(drawn.x) == pytest.approx([0.5, 0.4])
    assert [words.partition("<br>")[2].partition(":")[0] for words in drawn.customdata] == ["trial 0", "trial 2"]


def climbed(folder: Path) -> Study:
    """A study of a capacity in requests/s, as its two trials tried loads."""
    asked = {"metric": "capacity", "limits": [LIMIT]}
    made = Written(folder, spec(objective=asked, workload={"levels": [{"rate": 1.0}]}))
    made.climb(BASELINE, {1.0: "violated", 0.5: "violated", 0.25: "holds", 0.3: "open"}, 0.25)
    made.climb(FAST, {1.0: "holds", 2.0: "violated", 1.4: "holds"}, 1.4)
    made.trial(BROKEN, reason="load_failed")
    return load(folder)


def test_of_a_capacity_each_trial_is_drawn_at_the_load_that_held(tmp_path: Path) -> None:
    drawn = tps_against_ttft(climbed(tmp_path))
    assert points(drawn) == {"feasible": 2}
    assert list(drawn.data[0].x) == pytest.approx([0.55, 0.55])
    assert ["tokens/s at 0.25 requests/s" in one for one in drawn.data[0].customdata] == [True, False]
    assert "tokens/s at 1.4 requests/s" in drawn.data[0].customdata[1]
    assert drawn.layout.title.text.endswith("tokens/s against the time to first token, each at its own load")


def test_of_a_capacity_the_levels_are_all_loads_that_were_tried(tmp_path: Path) -> None:
    drawn = by_level(climbed(tmp_path))
    every = [f"{load} requests/s" for load in ("0.25", "0.3", "0.5", "1", "1.4", "2")]
    assert [list(trace.x) for trace in drawn.data] == [every] * 4
    assert [[value > 0 for value in trace.y] for trace in drawn.data[::2]] == [
        [True, True, True, True, False, False],
        [False, False, False, True, True, True],
    ]
    assert all(trace.connectgaps for trace in drawn.data)


def test_cells_of_a_capacity_have_its_unit_and_are_not_rounded_to_nothing(tmp_path: Path) -> None:
    found = climbed(tmp_path)
    drawn = slots_by_layout(found)
    assert drawn.layout.title.text == "test: capacity in requests/s by layout and slots"
    assert drawn.data[-1].text == ("<b>0.25</b>", "load_failed", "<b>1.4</b><br>least_conn")
    assert set(trials(found)["unit"]) == {"requests/s"}


def test_where_the_baseline_is_best_nothing_else_is_marked(tmp_path: Path) -> None:
    Written(tmp_path, spec(objective={"limits": []})).trial(BASELINE)
    drawn = tps_against_ttft(load(tmp_path))
    assert [note.text for note in drawn.layout.annotations] == ["<b>baseline</b><br>0 · 1 slot"]
    assert drawn.layout.shapes == ()


def test_a_study_in_which_nothing_could_be_measured_has_figures_all_the_same(tmp_path: Path) -> None:
    Written(tmp_path, spec()).trial(BASELINE, reason="load_failed")
    found = load(tmp_path)
    for figure in (tps_against_ttft, by_level, slots_by_layout, timeline):
        assert "SIMULATED" in told(figure(found))
    with pytest.raises(ValueError, match="search trial 0 was not measured at 2 requests/s"):
        requests_over_time(found)


@given(low=st.floats(1e-3, 1e3), factor=st.floats(1, 1e3))
def test_an_axis_is_logarithmic_from_a_power_of_ten_on_and_then_has_ticks(low: float, factor: float) -> None:
    axis = scale([low * factor, low])
    assert (axis.get("type") == "log") == (low * factor / low >= 10)
    if "tickvals" in axis:
        assert len(axis["tickvals"]) >= 3
        assert all(math.log10(tick) == pytest.approx(round(math.log10(tick), 1), abs=0.01) for tick in axis["tickvals"])
    assert scale([]) == scale([0.0, 1.0]) == {"rangemode": "tozero"}


def test_levels_are_lines_of_the_best_and_of_the_baseline(opened: Study) -> None:
    drawn = by_level(opened)
    names = [trace.name for trace in drawn.data if trace.showlegend]
    assert names == ["0 · 1 slot", "0 | 1 · 4 slots each · least_conn", "0 | 1 · 2 slots each · least_conn"]
    assert list(drawn.data[0].x) == ["2 users", "2 requests/s"]
    assert [trace.line.dash for trace in drawn.data[::2]] == ["dash", "solid", "solid"]


# the space


def test_cells_hold_the_best_and_say_what_misses_and_what_failed(tmp_path: Path) -> None:
    made = Written(tmp_path, spec())
    made.trial(BASELINE, 3.0)
    made.trial(FAST, 0.5)
    made.trial({**FAST, "policy": "round_robin"}, 0.4)
    made.trial(BROKEN, reason="load_failed")
    drawn = slots_by_layout(load(tmp_path))
    feasible, missed, words = drawn.data
    assert (list(feasible.x), list(feasible.y)) == (["1", "4", "32"], ["0", "0 | 1"])
    cells = dict(zip(zip(words.y, words.x, strict=True), words.text, strict=True))
    assert cells["0 | 1", "4"].endswith("round_robin")
    assert cells["0", "1"].startswith("<b>✕ ")
    assert cells["0", "32"] == "load_failed"
    assert [[value is not None for value in row] for row in feasible.z] == [[False] * 3, [False, True, False]]
    assert missed.z[0][0] is not None


# over time


def test_a_night_has_a_row_for_each_trial_and_each_candidate(written: Written) -> None:
    written.begin()
    written.spans(4, error="CancelledError")
    drawn = timeline(load(written.path))
    assert list(drawn.layout.yaxis.categoryarray) == [
        "baseline: 0 · 1 slot",
        "trial 1: 0 | 1 · 4 slots each · least_conn",
        "trial 2: 0 · 32 slots",
        "trial 3: 0 | 1 · 2 slots each · least_conn",
        "proof: baseline, 0 · 1 slot",
        "proof: 0 | 1 · 4 slots each · least_conn",
        "trial 4: not finished",
    ]
    assert "proof: everything started anew" in told(drawn)
    assert len(drawn.layout.shapes) == 2  # the proof, and where the second night begins
    starts = next(bar for bar in drawn.data if bar.name == "start")
    assert sorted(starts.base) == list(starts.base)


def test_runs_of_an_earlier_proof_are_not_taken_for_those_of_the_last(written: Written) -> None:
    written.prove([dict(BASELINE), LEAN], [3.0, 0.6], runs=8)
    rows = list(timeline(load(written.path)).layout.yaxis.categoryarray)
    assert rows[4:] == ["another proof", "proof: baseline, 0 · 1 slot", "proof: 0 | 1 · 2 slots each · least_conn"]


def test_requests_of_users_have_a_row_for_each_user(opened: Study) -> None:
    drawn = requests_over_time(opened, 1, level="2 users")
    waiting, answers = drawn.data
    assert set(waiting.y) == {1, 2}
    assert waiting.marker.pattern.shape != answers.marker.pattern.shape
    assert list(waiting.x) == pytest.approx([0.4] * len(waiting.x))
    assert list(answers.x) == pytest.approx([7 / 8] * len(answers.x))
    assert "0 | 1 · 4 slots each" in told(drawn)
    assert "run 1 of the proof" in told(requests_over_time(opened, 1, "proof"))
    with pytest.raises(ValueError, match="search trial 2 was not measured"):
        requests_over_time(opened, 2)


def test_requests_of_a_load_beside_the_studys_own_are_shown_too(tmp_path: Path) -> None:
    made = Written(tmp_path, spec(workload={"levels": [3, 2]}))
    made.beside(BASELINE, 4, 1)
    found = load(tmp_path)
    drawn = requests_over_time(found, level="1 users")
    assert {shape.x0 for shape in drawn.layout.shapes} == {0.0, WINDOW[1] - WINDOW[0]}
    with pytest.raises(ValueError, match="was not measured at 9 users"):
        requests_over_time(found, level="9 users")


def test_requests_in_one_row_come_one_after_the_other(opened: Study) -> None:
    found = requests(opened, 0).query("level == '2 requests/s'").sort_values("asked_s")
    waiting = requests_over_time(opened, 0).data[0]
    ends: dict[int, float] = {}
    for lane, begin, finished in zip(waiting.y, waiting.base, found["finished_s"], strict=True):
        assert begin >= ends.get(lane, begin)
        ends[lane] = finished


def test_parameters_of_other_kinds_are_columns_too(tmp_path: Path) -> None:
    made = Written(tmp_path, spec())
    made.trial(params(4, num_batch=512))
    assert "4 slots" in told(tps_against_ttft(load(tmp_path)))
