"""Nights that several suites look at, each run once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.night.harness import Folder

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """`studies/reference-deployment.toml` less what its rows do not need: 5 users, and four slots on four cards."""
    folder = Folder(tmp_path_factory.mktemp("reference"), {"name": "reference-deployment"})
    changes = {
        r"^first_port = .*": f"first_port = {folder.values['port']}",
        r"^balancer_port = .*": f"balancer_port = {folder.values['balancer_port']}",
        r"^num_parallel = \[.*": "num_parallel = [16]",
        r"^levels = .*": "levels = [10, 20]",
    }
    text = (STUDIES / "reference-deployment.toml").read_text()
    for pattern, line in changes.items():
        text, found = re.subn(pattern, line, text, flags=re.MULTILINE)
        assert found == 1, pattern
    folder.file.write_text(text)
    done = folder.run(timeout_s=280)
    assert done.code == 0, done.output
    return folder


@pytest.fixture(scope="session")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Users, and requests that come at random, on a clock that runs eight times as fast; and a proof."""
    values = {"time_scale": 8, "trials": 3, "finalists": 1, "window_s": 3}
    folder = Folder(tmp_path_factory.mktemp("proved"), values)
    text = folder.file.read_text().replace("levels = [4]", "levels = [{ rate = 6 }, 4]")
    folder.file.write_text(text.replace("finalists = 1", "finalists = 1\npairs_max = 4"))
    done = folder.run()
    assert done.code == 0, done.output
    assert len(list(folder.study.glob("proofs/0000/*/result.json"))) == 8, done.output
    return folder
