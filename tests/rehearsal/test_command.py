"""`autotune simulate` as a person calls it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from autotune import rehearsal
from autotune.cli import main
from autotune.errors import DiskFull
from autotune.rehearsal import Point, Rehearsed, Told
from tests.night.harness import Folder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, {"cluster": 'balancer = "direct"', "warmup_s": 1, "window_s": 4, "finalists": 1})


def test_it_says_what_nights_find_and_that_they_are_simulated(
    folder: Folder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = tmp_path / "nights.json"
    assert main(["simulate", str(folder.file), "--nights", "2", "--json", str(target)]) == 0
    said = capsys.readouterr().out
    assert "2 nights of night on 2x-small, simulated in" in said
    assert "recommends within 2% of the best" in said
    assert "nights: 2 of 2" in said
    assert said.strip().splitlines()[-1].startswith("SIMULATED")
    kept = json.loads(target.read_text())
    assert kept["simulated"] is True
    assert len(kept["nights"]) == kept["asked"] == 2
    assert 0 <= kept["summary"]["within_0.02"]["low"] <= kept["summary"]["within_0.02"]["high"] <= 1
    assert not folder.study.exists()


def test_where_nothing_can_meet_the_limits_it_says_so(
    folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    none = Told(1, {}, "nothing", 0.0, 0.0, False, False, 4, 1.0, 0, "")  # noqa: FBT003
    monkeypatch.setattr(rehearsal, "simulate", lambda *_: Rehearsed("s", "p", 1, 9, whole_space=True, nights=(none,)))
    assert main(["simulate", str(folder.file), "--nights", "1"]) == 0
    said = capsys.readouterr().out
    assert "in truth no configuration of the space meets the limits" in said
    assert "recommends within" not in said


def test_of_several_goals_it_says_what_of_the_true_front_is_covered(
    folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, fast = (
        Point({"layout": "0", "num_parallel": slots}, 20.0 * slots, {"ttft_p95_s": slots / 10}, feasible=slots < 4)
        for slots in (1, 4)
    )
    nights = tuple(
        Told(seed, front[0].params, "front", 90.0, 100.0, good, False, 4, 1.0, 4, "", front, covered)  # noqa: FBT003
        for seed, front, covered, good in ((1, (fast, quick), 0.97, False), (2, (quick,), 0.5, True))
    )
    monkeypatch.setattr(rehearsal, "simulate", lambda *_: Rehearsed("s", "p", 2, 9, whole_space=True, nights=nights))
    assert main(["simulate", str(folder.file), "--nights", "2"]) == 0
    said = [" ".join(line.strip("│ ").replace("│", "").split()) for line in capsys.readouterr().out.splitlines()]
    assert "covers 95% of the true front, or more 50.0% 1.3% to 98.7%" in said
    assert "volume that it covers of the true front, median 73.5%" in said
    assert any(line.startswith("night ended: a front was proved 100.0%") for line in said)
    assert any(line.startswith("a proved point that is no better than the baseline 0.0%") for line in said)
    assert "2 nights recommend 0 NUM_PARALLEL 1: 20.00 tokens/s, ttft_p95_s 0.1 in truth" in said
    assert "1 night recommends 0 NUM_PARALLEL 4: 80.00 tokens/s, ttft_p95_s 0.4 in truth, and misses a limit" in said


def test_another_host_is_named_by_its_profile(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    text = folder.file.read_text().replace('driver = "simulated"\nprofile = "2x-small"', 'driver = "process"')
    folder.file.write_text(text.replace("time_scale = 1\n", ""))
    assert main(["simulate", str(folder.file), "--nights", "1"]) == 2
    assert "--profile" in capsys.readouterr().err
    assert main(["simulate", str(folder.file), "--nights", "1", "--profile", "2x-small"]) == 0
    assert "1 nights of night on 2x-small" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nights", "0"], "'0': allowed is a whole number above 0"),
        (
            ["--nights", "1", "--profile", "nowhere"],
            "autotune: --profile nowhere: no such file, and none of the shipped ones",
        ),
        (["--nights", "1", "--json", "/nowhere/at/all"], "no folder that can be written to"),
    ],
)
def test_what_is_wrong_is_one_line(
    folder: Folder, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    try:
        code = main(["simulate", str(folder.file), *arguments])
    except SystemExit as ended:
        code = int(ended.code or 0)
    said = capsys.readouterr().err
    assert code == 2
    assert words in said
    assert len(said.strip().splitlines()) == 1


def test_a_rehearsal_that_was_broken_off_says_so(
    folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Told(1, {"layout": "0", "num_parallel": 4}, "winner", 90.0, 100.0, False, True, 4, 1.0, 4, "")  # noqa: FBT003
    part = Rehearsed("night", "2x-small", 9, 9, whole_space=True, nights=(one,), cautions=("broken off after 1 of 9",))
    monkeypatch.setattr(rehearsal, "simulate", lambda *_: part)
    assert main(["simulate", str(folder.file), "--nights", "9"]) == 130
    said = capsys.readouterr().out
    assert "caution: broken off after 1 of 9" in said
    assert "and misses a limit" in said


def _full(*_: object) -> None:
    raise DiskFull("no room")


@pytest.mark.parametrize("broken", ["autotune.files.write", "autotune.console.rehearsed"])
def test_nights_are_shown_and_kept_each_whatever_becomes_of_the_other(
    broken: str, folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = Told(1, {"layout": "0", "num_parallel": 4}, "winner", 90.0, 100.0, False, True, 4, 1.0, 4, "")  # noqa: FBT003
    found = Rehearsed("night", "2x-small", 1, 9, whole_space=True, nights=(one,))
    monkeypatch.setattr(rehearsal, "simulate", lambda *_: found)
    monkeypatch.setattr(broken, _full)
    target = tmp_path / "nights.json"
    assert main(["simulate", str(folder.file), "--nights", "1", "--json", str(target)]) == 4
    assert ("1 nights of night on 2x-small" in capsys.readouterr().out) is not target.exists()
