"""The figure of a front: its points, its line, and what was proved of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from autotune.analysis import Study, front, load, tps_against_ttft
from autotune.errors import UsageError
from autotune.store import Store
from tests.conftest import study
from tests.factories import BASELINE, result
from tests.proofs import FAST, LEAN
from tests.test_front import proved

if TYPE_CHECKING:
    from pathlib import Path


def told(folder: Path) -> Study:
    return load(proved(folder, (100, 0.5), (200, 0.4), (150, 0.2)).folder)


def test_a_line_goes_through_the_front_and_what_was_proved_has_intervals(tmp_path: Path) -> None:
    drawn = front(told(tmp_path))
    traces = {trace.name: trace for trace in drawn.data}
    line = traces["on the front of the search"]
    assert (line.mode, list(line.x), list(line.y)) == ("lines+markers", [0.2, 0.4], [150, 200])
    assert list(traces["beaten, or misses a limit"].y) == [100, 90]
    points = traces["proved: on the front"]
    assert len(points.x) == len(points.error_x.array) == len(points.error_y.array) == 2
    assert min(points.error_y.array) > 0
    assert list(traces["in the proof"].text) == ["0 · 1 slot (baseline)"]
    assert "Up and to the left is better" in drawn.layout.title.subtitle.text
    assert drawn.layout.xaxis.title.text == "ttft_mean_s"


def test_a_configuration_is_at_the_mean_of_its_trials_as_the_front_has_it(tmp_path: Path) -> None:
    spec, store = study(objective={"metric": ["tps", "ttft_mean_s"]}), Store(tmp_path / "night")
    store.open(spec, "")
    tried = [(BASELINE, 100, 0.5), (FAST, 200, 0.4), (LEAN, 150, 0.2), (FAST, 240, 0.3), (LEAN, 160, None)]
    for number, (chosen, tps, wait_s) in enumerate(tried):
        store.trials.save(result(number, chosen, tps, wait_s, spec=spec), [])
    line = {trace.name: trace for trace in front(load(store.folder)).data}["on the front of the search"]
    assert list(line.x) == pytest.approx([0.2, 0.35])
    assert list(line.y) == [150, 220]
    assert [words.partition("<br>")[2] for words in line.customdata] == ["trials 2, 4", "trials 1, 3"]


def test_a_point_of_the_front_is_not_called_a_winner(tmp_path: Path) -> None:
    notes = [note.text for note in tps_against_ttft(told(tmp_path)).layout.annotations]
    assert any(text.startswith("<b>on the front</b>") for text in notes)
    assert not any("winner" in text for text in notes)


def test_what_is_no_goal_of_the_study_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'ttft_p95_s' is no goal beside the output; there are ttft_mean_s"):
        front(told(tmp_path), "ttft_p95_s")


def test_a_study_with_one_answer_has_no_front(opened: Study) -> None:
    with pytest.raises(UsageError, match="there is no goal beside the output"):
        front(opened)
