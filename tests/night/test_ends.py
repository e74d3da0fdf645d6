"""How a night can end, and what is left of it: nothing but its results."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.night.harness import Folder, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.nginx, pytest.mark.slow]

STAGES = [
    ("start", "start begins", 0.0),
    ("preload", "preload begins", 0.0),
    ("warm-up", "load begins", 0.02),
    ("load", "load begins", 0.9),
    ("tell", "collect begins", 0.0),
]
"""Name, the event that opens it, seconds after that."""


def test_a_night_runs_to_its_end_and_says_what_it_found(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    done = folder.run()
    assert done.code == 0, done.output
    assert [result.number for result in folder.results()] == [0, 1, 2]
    assert "3 trials are done" in done.output
    assert "Best: " in done.output
    assert "SIMULATED" in done.output
    assert folder.study.stat().st_mode & 0o777 == 0o700
    folder.is_clean()


@pytest.mark.parametrize(("stage", "event", "later_s"), STAGES, ids=[stage[0] for stage in STAGES])
def test_killed_at_any_stage_it_loses_the_trial_in_flight_and_nothing_else(
    tmp_path: Path, stage: str, event: str, later_s: float
) -> None:
    folder = Folder(tmp_path, {"warmup_s": 0.5})
    with folder.begin() as running:
        running.reaches(event, 1)
        until(lambda: False, later_s)
        running.send(signal.SIGKILL)
        running.wait()
    folder.is_clean()
    before = {path: path.read_bytes() for path in folder.study.glob("trials/*/result.json")}
    assert len(before) in ({1, 2} if stage == "tell" else {1})
    again = folder.run()
    assert again.code == 0, again.output
    assert [result.number for result in folder.results()] == [0, 1, 2]
    assert all(path.read_bytes() == content for path, content in before.items())
    folder.is_clean()


@pytest.mark.parametrize(
    ("what", "event"),
    [(signal.SIGINT, "load begins"), (signal.SIGTERM, "start begins"), (signal.SIGHUP, "preload begins")],
)
def test_a_signal_abandons_the_trial_and_puts_everything_away(tmp_path: Path, what: signal.Signals, event: str) -> None:
    folder = Folder(tmp_path)
    with folder.begin() as running:
        running.reaches(event, 1)
        running.send(what)
        assert running.wait(20) == 130, running.output
    assert not folder.left_over()
    assert not folder.taken_ports()
    assert [result.number for result in folder.results()] == [0]
    assert "Ended: interrupted." in running.output
    assert f"Go on with: autotune run {folder.file}" in running.output
    folder.write(trials=2)
    assert folder.run().code == 0
    assert [result.number for result in folder.results()] == [0, 1]


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"cluster": "stop_timeout_s = 60", "window_s": 300})
    with folder.begin() as running:
        running.reaches("load begins", 0)
        running.send(signal.SIGINT)
        running.send(signal.SIGTERM)
        assert running.wait(5) == 130
    folder.is_clean()


def test_a_finished_study_is_not_run_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"trials": 2})
    folder.run()
    before = folder.events()
    again = folder.run()
    assert again.code == 0
    assert len(folder.results()) == 2
    assert not [event for event in folder.events()[len(before) :] if event["what"] == "start"]


def test_a_larger_budget_goes_on_from_there(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"trials": 1})
    folder.run()
    folder.write(trials=2)
    assert folder.run().code == 0
    assert [result.number for result in folder.results()] == [0, 1]


def test_an_exhausted_space_ends_the_search(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"trials": 50, "num_parallel": "[1]"})
    done = folder.run()
    assert done.code == 0
    assert "every configuration of the space has been tried" in done.output
    assert len(folder.results()) == 2


def test_without_nginx_the_client_spreads_the_requests(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"num_parallel": "[2]"})
    assert folder.run("--balancer", "direct").code == 0
    spread = next(result for result in folder.results() if result.instances == 2)
    assert len(spread.levels["4 users"].instances) == 2


def test_limits_that_nothing_meets_show_the_nearest_configuration(tmp_path: Path) -> None:
    limit = '[[objective.limits]]\nmetric = "ttft_s"\nstatistic = "mean"\nmax = 0.0001'
    folder = Folder(tmp_path, {"objective": limit, "trials": 2})
    done = folder.run()
    assert done.code == 1
    assert "No configuration met the limits. The nearest: " in done.output
