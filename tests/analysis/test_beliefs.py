"""What the search believed, as a table and as a figure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from autotune.analysis import beliefs, believed_against_measured, load
from tests.analysis.studies import FAST, LEAN, Written, spec
from tests.factories import BASELINE
from tests.test_hindsight import event

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.analysis import Study

NAME = "ttft_s mean at 2 requests/s"


def note(made: Written, number: int, tps: float) -> None:
    limits = {NAME: {"value": 0.5, "low": 0.4, "high": 0.7}}
    told = event(number, tps, limits=limits)
    made.note(told.pop("what"), **told)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """The first trial came as it was foretold, the second did not, and the third does not run."""
    made = Written(tmp_path / "test", spec())
    made.begin()
    made.trial(BASELINE, 3.0)
    output = load(made.path).results[0].score.objective
    assert output is not None
    made.trial(FAST, 0.45)
    fast = load(made.path).results[1].score.objective
    assert fast is not None
    note(made, 0, output)
    note(made, 1, 3 * fast)
    note(made, 2, 20.0)
    made.trial(LEAN, reason="load_failed")
    return load(made.path)


def test_a_row_for_each_trial_and_figure(study: Study) -> None:
    found = beliefs(study)
    assert found["number"].tolist() == [0, 0, 1, 1, 2, 2]
    assert found["figure"].tolist() == ["tokens/s", NAME] * 3
    assert found["inside"].tolist()[:4] == [True, False, False, True]
    assert found["inside"].isna().tolist() == [False] * 4 + [True] * 2
    assert found["error"].tolist()[2] == pytest.approx(-math.log(3))
    assert found["measured"].tolist()[0] == study.results[0].score.objective
    assert set(found["trust"]) == {"the law holds"}


def test_a_search_that_believes_nothing_has_no_rows_of_the_same_columns(opened: Study, study: Study) -> None:
    assert len(beliefs(opened)) == 0
    assert beliefs(opened).dtypes.to_dict() == beliefs(study).dtypes.to_dict()
    assert believed_against_measured(opened).to_json()


def traces(drawn: Any) -> dict[str, list[int]]:
    return {trace.name: list(trace.x) for trace in drawn.data}


def test_the_figure_tells_what_came_within_its_interval(study: Study) -> None:
    drawn = believed_against_measured(study)
    assert traces(drawn) == {"foretold": [0, 1, 2], "measured, within": [0], "measured, outside": [1]}
    assert "1 of 2 came within it; if it is right, 95% do." in drawn.layout.title.subtitle.text
    low = drawn.data[0].y[0] - drawn.data[0].error_y.arrayminus[0]
    assert low == pytest.approx(beliefs(study)["low"].tolist()[0])
    assert "0 | 1 · 4 slots each · least_conn" in drawn.data[2].customdata[0]
    assert traces(believed_against_measured(study, NAME))["measured, within"] == [1]
