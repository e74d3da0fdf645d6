"""A night on a real Ollama, on this host's cores: what runs is proved from the outside, and nothing stays behind."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from autotune.cluster import host
from autotune.cluster.children import MARK
from tests.night.harness import Folder, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RealOllama

pytestmark = [pytest.mark.nginx, pytest.mark.ollama]


def on_cores(path: Path, real_ollama: RealOllama, values: dict[str, Any]) -> Folder:
    """A study of one and two instances, each pinned to its half of the cores."""
    keys = {"binary": real_ollama.binary, "models_dir": real_ollama.models, "devices": "groups:2"}
    cluster = "\n".join(f'{key} = "{value}"' for key, value in keys.items())
    folder = Folder(path, {"model": real_ollama.model, "cluster": cluster, **values})
    text = folder.file.read_text().replace('driver = "simulated"\nprofile = "2x-small"', 'driver = "process"')
    folder.file.write_text(text.replace('layouts = ["0", "0 | 1"]', 'layouts = ["0+1", "0 | 1"]'))
    return folder


@pytest.fixture
def folder(tmp_path: Path, real_ollama: RealOllama) -> Folder:
    return on_cores(tmp_path, real_ollama, {"num_parallel": "[1, 2]", "trials": 4, "warmup_s": 1, "window_s": 4})


def serving(folder: Folder) -> list[list[str]]:
    """The arguments of the processes that serve the model."""
    every = [host.argv(pid) for pid in host.processes() if host.environment(pid).get(MARK) == str(folder.study)]
    return [argv for argv in every if "-np" in argv]


def test_a_night_proves_what_it_ran(folder: Folder) -> None:
    if len(host.PROC.joinpath("cpuinfo").read_text().split("processor\t")) < 3:
        pytest.skip("one core cannot be shared by two instances")
    done = folder.run(timeout_s=200)
    assert done.code == 0, done.output
    assert "SIMULATED" not in done.output
    results = folder.results()
    tried = [(result.instances, result.params["num_parallel"]) for result in results]
    assert tried[:2] == [(1, 1), (2, 2)], "the baseline, and the rule of thumb"
    assert len(tried) == 4
    assert set(tried) <= {(1, 1), (1, 2), (2, 1), (2, 2)}  # one of them may teach more when it is measured again
    for result in results:
        assert not result.simulated
        assert [found.num_parallel for found in result.placements] == [result.params["num_parallel"]] * result.instances
        assert all(found.context_length == 512 for found in result.placements)
        metrics = result.levels["4 users"]
        assert metrics.success_rate == 1
        assert metrics.cold == 0
        assert len(metrics.instances) == result.instances
    folder.is_clean()


def test_killed_under_load_the_process_that_serves_the_model_is_gone_too(folder: Folder) -> None:
    with folder.begin() as running:
        running.reaches("load begins", 0)
        assert serving(folder)
        running.send(signal.SIGKILL)
        running.wait()
    assert until(lambda: not serving(folder), 5)
    folder.is_clean()
