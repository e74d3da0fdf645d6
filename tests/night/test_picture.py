"""The picture of the README: a frame of a real run."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from tests.night.harness import Folder

if TYPE_CHECKING:
    from pathlib import Path

DIRECT = 'balancer = "direct"'


def take(folder: Folder, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autotune.console.picture", str(folder.file), str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_it_is_taken_in_a_window_of_a_late_trial(tmp_path: Path) -> None:
    folder, out = Folder(tmp_path, {"cluster": DIRECT, "trials": 2}), tmp_path / "pictures" / "live.svg"
    done = take(folder, out)
    assert done.returncode == 0, done.stderr
    said = " ".join("".join(ElementTree.parse(out).getroot().itertext()).replace("\xa0", " ").split())
    for piece in (
        "autotune run night.toml",
        "night: tiny",
        "SIMULATED",
        "▶window",
        "trial 1:",
        "4 users: window",
        "╰─",
    ):
        assert piece in said
    assert "url(http" not in out.read_text()  # a picture asks nobody for anything
    assert not folder.study.exists()
    folder.is_clean()


def test_without_a_window_there_is_no_picture(tmp_path: Path) -> None:
    folder, out = Folder(tmp_path, {"cluster": DIRECT, "model": "no-such-model"}), tmp_path / "live.svg"
    done = take(folder, out)
    assert done.returncode == 3
    assert "no-such-model" in done.stderr
    assert not out.exists()
