"""Whole nights as the analysis sees them, and the notebooks that show them."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from autotune.analysis import instances, load, recomputed, requests, stages, stored, timeline, trials
from tests.analysis.studies import FAST, Written, spec
from tests.factories import BASELINE, LIMIT

if TYPE_CHECKING:
    from tests.night.harness import Folder

pytestmark = [pytest.mark.nginx, pytest.mark.slow]

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
MOST_BYTES = 400_000


def test_metrics_computed_again_are_those_of_the_trials_to_the_last_bit(proved: Folder) -> None:
    study = load(proved.file)
    again = recomputed(study)
    assert again == stored(study)
    own = {(phase, label) for phase in ("search", "proof") for label in ("6 requests/s", "4 users")}
    assert {(phase, label) for phase, _, label in again} == own | {("search", "2 users"), ("search", "1 users")}
    assert {number for _, number, label in again if label in {"2 users", "1 users"}} == {0, 1}
    assert sum(phase == "proof" for phase, _, _ in again) == 16
    assert all(metrics.output_tps > 0 for metrics in again.values())


def test_tables_of_a_night_agree_with_each_other(proved: Folder) -> None:
    study = load(proved.study)
    every = trials(study).set_index(["phase", "number", "level"])
    for phase in ("search", "proof"):
        # one that never got a text counts in the metrics with what it had waited, and has no TTFT in the table
        measured = {load: one for load, one in stored(study).items() if load[0] == phase and load in every.index}
        answered = [load for load, one in measured.items() if not one.ttft_waiting_s]
        asked = requests(study, phase=phase).query("in_window and not cold").groupby(["phase", "number", "level"])
        assert (asked.size() <= every.loc[phase]["requests"].max()).all()
        means = asked["ttft_s"].mean()[answered].to_dict()
        assert means == pytest.approx(every.loc[[phase]]["ttft_mean_s"][answered].to_dict())
    shares = instances(study).groupby(["phase", "number", "level"])["share"].sum()
    assert shares.to_dict() == pytest.approx(dict.fromkeys(every.index, 1.0))
    loads = stages(study).query("stage == 'load'")
    assert len(loads) == len(stored(study)) == len(every) + 4  # the first two trials are loaded by fewer users, too
    assert "proof: baseline, 0 · 1 slot" in {row for bar in timeline(study).data for row in bar.y}


# the notebooks


def executed(name: str, study: Path, monkeypatch: pytest.MonkeyPatch, *, errors: bool = False) -> list[Any]:
    """All outputs of a notebook on a study; with `errors` also the first of those."""
    monkeypatch.setenv("AUTOTUNE_STUDY", str(study))
    monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        cell.outputs = []
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOKS)}})
    with pytest.raises(CellExecutionError) if errors else nullcontext():
        client.execute()
    return [output for cell in cells for output in cell.outputs]


def figures(outputs: list[Any]) -> list[Any]:
    plotted = "application/vnd.plotly.v1+json"
    return [output.data[plotted] for output in outputs if plotted in output.get("data", {})]


def printed(outputs: list[Any]) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream")


def test_a_first_look_shows_a_study(proved: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = executed("first-look", proved.study, monkeypatch)
    assert "night: 3 trials and 8 runs of a proof on SIMULATED hardware" in printed(outputs)
    assert len(figures(outputs)) == 6
    assert all("SIMULATED" in json.dumps(figure["layout"]["title"]) for figure in figures(outputs))


def test_a_first_look_says_which_trials_have_no_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Written(tmp_path, spec())
    made.trial(BASELINE, reason="died_under_load")
    alone = executed("first-look", tmp_path, monkeypatch)
    assert str(alone).count("trial 0 could not be measured: it was told to: died_under_load") == 2
    made.trial(FAST)
    outputs = executed("first-look", tmp_path, monkeypatch)
    assert len(figures(outputs)) == len(figures(alone)) + 1 == 5
    assert str(outputs).count("trial 0 could not be measured: it was told to: died_under_load") == 1


def test_a_first_look_at_a_capacity_is_at_the_load_that_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"metric": "capacity", "limits": [LIMIT]}
    made = Written(tmp_path, spec(objective=asked, workload={"levels": [{"rate": 1.0}]}))
    made.climb(BASELINE, {1.0: "violated", 0.5: "holds"}, 0.5)
    shown = [figure["layout"]["title"]["text"] for figure in figures(executed("first-look", tmp_path, monkeypatch))]
    assert shown.count("test: the requests of trial 0, 0.5 requests/s") == 2


@pytest.mark.quiet
def test_the_reference_deployment_is_held_against_its_rows(reference: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = executed("reference-deployment", reference.file, monkeypatch)
    assert "reference-deployment: 3 trials on SIMULATED hardware" in printed(outputs)
    assert len(figures(outputs)) == 4
    assert "366.01" in str(outputs)


@pytest.mark.parametrize(
    ("name", "command"), [("first-look", "make demo"), ("reference-deployment", "autotune run studies/")]
)
def test_without_results_a_notebook_says_in_one_line_what_makes_them(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (output,) = executed(name, tmp_path, monkeypatch, errors=True)
    (line,) = output.traceback
    assert line.startswith(f"autotune: {tmp_path}: no study")
    assert command in line


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_comes_with_its_outputs_small_and_without_paths_of_a_machine(path: Path) -> None:
    text = path.read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    assert len(text) < MOST_BYTES
    assert not [word for word in ("/home/", "/tmp/", "/root/", str(NOTEBOOKS.parent), "Traceback") if word in text]
