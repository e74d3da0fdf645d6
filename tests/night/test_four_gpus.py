"""The reference deployment's own study, over the real pynvml with a stand-in for NVIDIA's library."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.cluster import host
from autotune.cluster.children import MARK
from autotune.store import Store
from tests.conftest import free_ports
from tests.night.harness import stand_in, until
from tests.nvml.stub import build_stub

pytestmark = [pytest.mark.nginx, pytest.mark.slow, pytest.mark.quiet]

ROOT = Path(__file__).parents[2]
CARDS = [f"GPU-2080000{number}-0000-4000-8000-00000000000{number}" for number in range(4)]
SCALE = 20
"""The played host is so much faster than the real one would be."""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """`studies/four-gpus.toml` for the played host: its clock, other ports, shorter loads, three trials."""
    text = (ROOT / "studies/four-gpus.toml").read_text()
    port = free_ports(20)
    changes = {
        r"^first_port = .*": f"first_port = {port}",
        r"^balancer_port = .*": f"balancer_port = {port + 19}",
        r"^model = .*": f'model = "gemma3n"\nmodels_dir = "{tmp_path}"\ntime_scale = {SCALE}',
        r"^window_s = .*": "window_s = 30",
        r"^window_max_s = .*": "window_max_s = 200",
        r"^until = .*": "trials = 3\n\n[proof]\nfinalists = 0",
    }
    for pattern, line in changes.items():
        text, found = re.subn(pattern, line, text, flags=re.MULTILINE)
        assert found == 1, pattern
    (tmp_path / "manifests").mkdir()
    path = tmp_path / "four-gpus.toml"
    path.write_text(text)
    return path


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment in which `ollama` is the stand-in and NVML shows four cards."""
    build_stub(tmp_path)
    stand_in(tmp_path / "bin/ollama", AUTOTUNE_SIM_PROFILE="4x-rtx2080ti", AUTOTUNE_SIM_TIME_SCALE=SCALE)
    # variables of our own that must not reach an instance
    stray = {"OLLAMA_NUM_PARALLEL": "99", "CUDA_VISIBLE_DEVICES": "3", "OLLAMA_VULKAN": "1"}
    return {**os.environ, **stray, "LD_LIBRARY_PATH": str(tmp_path), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}


def autotune(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "autotune", *map(str, arguments)]


def test_plan_shows_devices_layouts_counts_and_reasons(study: Path, env: dict[str, str]) -> None:
    done = subprocess.run(autotune("plan", study), env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("NVIDIA GeForce RTX 2080 Ti") == 4
    assert "layout (14): 0, 0x2, 0 | 1, " in done.stdout
    assert "1,160 configurations, 200 up to symmetry" in done.stdout
    assert "Estimated time: " in done.stdout


def test_a_night_of_three_trials_pins_each_instance_to_its_card(
    study: Path, env: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "four-gpus"
    seen: dict[str, dict[str, str]] = {}

    def look() -> bool:
        for pid in host.processes():
            found = host.environment(pid)
            if found.get(MARK) == str(folder) and "OLLAMA_NUM_PARALLEL" in found:
                seen[f"{found['OLLAMA_HOST']} {found['CUDA_VISIBLE_DEVICES']} {found['OLLAMA_NUM_PARALLEL']}"] = found
        return running.poll() is not None

    with (tmp_path / "output.txt").open("wb") as log:
        running = subprocess.Popen(autotune("run", study, "--plain"), env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            assert until(look, 200), (tmp_path / "output.txt").read_text()
        finally:
            running.send_signal(signal.SIGKILL)
            running.wait()
    output = (tmp_path / "output.txt").read_text()
    results = Store(folder).trials.results()
    assert len(results) == 3, output
    assert "SIMULATED" in output
    assert results[0].layout == "0"
    assert results[0].params["num_parallel"] == 4
    assert results[0].levels["20 users"].output_tps == pytest.approx(104.73, rel=0.1)
    around = results[0].samples["20 users"]
    assert [sample.device for sample in around.before] == [0, 1, 2, 3]
    assert all(sample.temperature_c is not None for sample in around.after)
    for found in seen.values():
        assert found["CUDA_VISIBLE_DEVICES"] in CARDS
        assert found["OLLAMA_CONTEXT_LENGTH"] == "2048"
        assert found["OLLAMA_KEEP_ALIVE"] == "-1"
        assert (found["OLLAMA_VULKAN"], found["OLLAMA_NOPRUNE"], found["OLLAMA_NO_CLOUD"]) == ("0", "1", "1")
        assert found["OLLAMA_NUM_PARALLEL"] != "99"
    asked = {(found["OLLAMA_HOST"].rpartition(":")[2], found["CUDA_VISIBLE_DEVICES"]) for found in seen.values()}
    first = int(re.findall(r"^first_port = (\d+)", study.read_text(), re.MULTILINE)[0])
    for result in results:
        for number in range(result.instances):
            assert any(port == str(first + number) for port, _ in asked)
    assert {card for _, card in asked} >= {CARDS[0], CARDS[1]}
