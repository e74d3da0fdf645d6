"""What cannot work is said in one clear line with the documented exit code; nothing is started, nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from autotune.claims import port_locks
from autotune.cluster import host
from autotune.cluster.lock import Lock
from autotune.simulator.profiles import SHIPPED
from tests.night.harness import Folder, Running, listen, script, stand_in
from tests.nvml.stub import build_stub

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.nginx

CARD = "GPU-5a110000-0000-4000-8000-000000000000"


def real(binary: Path, **more: object) -> str:
    """The cluster keys of a study on the driver of real processes, on this host's cores."""
    (binary.parent / "manifests").mkdir(exist_ok=True)
    keys = {"binary": f'"{binary}"', "models_dir": f'"{binary.parent}"', "devices": '"groups:1"', **more}
    return "\n".join(f"{key} = {value}" for key, value in keys.items())


def of_processes(folder: Folder) -> Folder:
    """The study with the driver of real processes."""
    text = folder.file.read_text().replace('driver = "simulated"', 'driver = "process"')
    text = text.replace('profile = "2x-small"\n', "").replace('layouts = ["0", "0 | 1"]', 'layouts = ["0"]')
    folder.file.write_text(text)
    return folder


def refused(done: Running, code: int, *words: str) -> None:
    """One line on what is wrong, and the exit code; details may stand below it, indented."""
    complaint = [line for line in done.output.splitlines() if line.startswith("autotune: ")]
    assert done.code == code, done.output
    assert len(complaint) == 1, done.output
    assert "Traceback" not in done.output
    for word in words:
        assert word in done.output


def test_a_study_that_changed_in_what_it_measures(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"trials": 1})
    folder.run()
    folder.write(window_s=0.9)
    refused(folder.run(), 2, "workload.window_s: was 0.8, is 0.9")
    for command, code in (("plan", 2), ("doctor", 3)):
        asked = [sys.executable, "-m", "autotune", command, str(folder.file)]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert "workload.window_s: was 0.8, is 0.9" in " ".join((done.stdout + done.stderr).split())
    assert len(folder.results()) == 1


def test_a_study_whose_prompts_or_profile_changed_under_their_names(tmp_path: Path) -> None:
    """And one that began before anybody looked at that goes on."""
    folder = Folder(tmp_path, {"trials": 1})
    prompts, profile = tmp_path / "prompts.jsonl", tmp_path / "host.toml"
    shipped = (SHIPPED / "2x-small.toml").read_text()
    profile.write_text(shipped)
    prompts.write_text('{"prompt": "why", "num_predict": 8}\n' * 50)
    text = folder.file.read_text().replace("input_tokens = 40", 'prompts = "prompts.jsonl"')
    folder.file.write_text(text.replace('profile = "2x-small"', 'profile = "host.toml"'))
    assert folder.run().code == 0
    prompts.write_text('{"prompt": "why", "num_predict": 24}\n' * 50)
    refused(folder.run(), 2, "holds trials of another ground: content of workload.prompts: was ")
    prompts.write_text('{"prompt": "why", "num_predict": 8}\n' * 50)
    profile.write_text(f"# the same\n{shipped}")
    assert folder.run().code == 0
    profile.write_text(shipped.replace("step_base_s = ", "step_base_s = 1"))
    refused(folder.run(), 2, "holds trials of another ground: content of cluster.profile: was ")
    header = json.loads((folder.study / "study.json").read_text())
    del header["ground"]["content of cluster.profile"]
    (folder.study / "study.json").write_text(json.dumps(header))
    assert folder.run().code == 0
    profile.write_text(shipped)
    refused(folder.run(), 2, "content of cluster.profile: was ")


def test_a_study_that_has_moved_goes_on(tmp_path: Path) -> None:
    """With the files that it names by paths of its own."""
    (tmp_path / "here").mkdir()
    folder = Folder(tmp_path / "here", {"trials": 1})
    (folder.path / "host.toml").write_text((SHIPPED / "2x-small.toml").read_text())
    folder.file.write_text(folder.file.read_text().replace('profile = "2x-small"', 'profile = "host.toml"'))
    assert folder.run().code == 0
    folder.path = folder.path.rename(tmp_path / "there")
    folder.file.write_text(folder.file.read_text().replace("trials = 1", "trials = 2"))
    assert folder.run().code == 0
    assert len(folder.results()) == 2


def test_a_folder_of_a_newer_version(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"trials": 1})
    folder.study.mkdir()
    (folder.study / "study.json").write_text('{"format": 99}')
    refused(folder.run(), 4, "format 99 is of a newer autotune")


def test_a_port_that_somebody_else_listens_on(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with closing(listen(int(folder.values["balancer_port"]))) as taken:
        refused(folder.run(), 3, f"port {folder.values['balancer_port']} is taken by pid {os.getpid()}")
        assert taken.fileno() >= 0
    assert not folder.left_over()


def test_a_port_that_another_night_will_come_to_use(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    later = int(folder.values["port"]) + 1
    with Lock(port_locks([later])):
        refused(folder.run(), 3, f"port {later} is in use by another run of autotune: pid {os.getpid()}")
    assert not folder.left_over()


def test_a_second_night_on_the_same_study(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"window_s": 60})
    with folder.begin() as first:
        first.reaches("load begins", 0)
        other = tmp_path / "again"
        other.mkdir()
        second = Running(folder, [sys.executable, "-m", "autotune", "run", str(folder.file), "--plain"])
        second._log = other / "output.txt"
        with second:
            second.wait(20)
        refused(second, 3, "in use by another run of autotune", f"pid {first.process.pid}")
        assert first.process.poll() is None


def test_no_such_binary(tmp_path: Path) -> None:
    folder = of_processes(Folder(tmp_path, {"cluster": 'binary = "/nowhere/ollama"'}))
    refused(folder.run(), 3, "cluster.binary = '/nowhere/ollama': no such program")


def test_a_model_that_the_store_does_not_have(tmp_path: Path) -> None:
    ollama = stand_in(tmp_path / "bin/ollama", AUTOTUNE_SIM_PROFILE="2x-small")
    folder = of_processes(Folder(tmp_path, {"model": "nosuch", "cluster": real(ollama)}))
    done = folder.run()
    refused(
        done,
        3,
        "cluster.model = 'nosuch': ",
        "no model 'nosuch' in the store; it has: ",
        f"OLLAMA_MODELS={ollama.parent} OLLAMA_HOST=127.0.0.1:",
    )
    assert "pull nosuch" in done.output


def test_an_embedding_model(tmp_path: Path) -> None:
    refused(Folder(tmp_path, {"model": "embed"}).run(), 3, "'embed' generates no text")


def test_an_ollama_that_dies_at_its_start(tmp_path: Path) -> None:
    ollama = script(tmp_path / "bin/ollama", "echo libcuda.so.1 is broken; exit 7")
    folder = of_processes(Folder(tmp_path, {"cluster": real(ollama)}))
    refused(folder.run(), 3, "died at its start", "libcuda.so.1 is broken")
    folder.is_clean()


def test_an_ollama_that_never_answers(tmp_path: Path) -> None:
    ollama = stand_in(tmp_path / "bin/ollama", AUTOTUNE_SIM_PROFILE="2x-small", AUTOTUNE_SIM_FAULT="never_answer")
    folder = of_processes(Folder(tmp_path, {"cluster": real(ollama)}))
    folder.file.write_text(folder.file.read_text().replace("start_timeout_s = 20", "start_timeout_s = 1.5"))
    refused(folder.run(), 3, "did not answer on 127.0.0.1:")
    folder.is_clean()


def test_a_baseline_whose_model_does_not_load_is_tried_twice(tmp_path: Path) -> None:
    ollama = stand_in(tmp_path / "bin/ollama", AUTOTUNE_SIM_PROFILE="2x-small", AUTOTUNE_SIM_FAULT="load_fails")
    folder = of_processes(Folder(tmp_path, {"cluster": real(ollama)}))
    done = folder.run()
    refused(done, 3, "the baseline does not run")
    assert len([event for event in folder.events() if event["what"] == "preload"]) == 2
    folder.is_clean()


def test_a_gpu_that_nvml_lists_and_ollama_does_not_find(tmp_path: Path) -> None:
    build_stub(tmp_path)
    state = tmp_path / "cards"
    state.write_text("card uuid=GPU-00000000-0000-4000-8000-000000000009 mib=8192 name=Other\n")
    ollama = stand_in(tmp_path / "bin/ollama", AUTOTUNE_SIM_PROFILE="2x-small")
    env = {"LD_LIBRARY_PATH": str(tmp_path), "NVML_STUB_STATE": str(state)}
    folder = of_processes(Folder(tmp_path, {"cluster": real(ollama, devices='"gpu"')}, env))
    lost = "ollama-0 found no GPU: GPU-00000000-0000-4000-8000-000000000009 is lost"
    refused(folder.run(), 3, "fault of the machine, not of the configuration", lost, "no device is left")
    folder.is_clean()


def test_a_gpu_on_which_another_process_holds_memory(tmp_path: Path) -> None:
    build_stub(tmp_path)
    state = tmp_path / "cards"
    state.write_text(f"card uuid={CARD} mib=8192 used=3000 pid={os.getpid()}:3000 name=Card\n")
    ollama = stand_in(tmp_path / "bin/ollama", AUTOTUNE_SIM_PROFILE="2x-small")
    env = {"LD_LIBRARY_PATH": str(tmp_path), "NVML_STUB_STATE": str(state)}
    folder = of_processes(Folder(tmp_path, {"cluster": real(ollama, devices='"gpu"')}, env))
    refused(folder.run(), 3, f"held by pid {os.getpid()}", "free it with", CARD)


def test_a_layout_that_names_a_device_that_is_not_there(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.file.write_text(folder.file.read_text().replace('"0 | 1"', '"0 | 7"'))
    refused(folder.run(), 2, f"{folder.file}: search.layouts", "7")
    folder.file.write_text(folder.file.read_text().replace('"0 | 7"', '"0 | 0"'))
    refused(folder.run(), 2, f"{folder.file}: search.layouts", "0x2")


def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    try:
        folder = Folder(disk)
        refused(folder.run(), 4, "MiB are free on this disk")
        assert not folder.left_over()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_what_another_process_listens_on_is_never_ended(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    port = int(folder.values["port"])
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], stderr=subprocess.DEVNULL
    )
    try:
        assert host.identity(server.pid) is not None
        while host.port_free(port):
            pass
        refused(folder.run(), 3, f"pid {server.pid}", "http.server")
        assert server.poll() is None
    finally:
        server.kill()
        server.wait()


def test_requests_that_all_fail_are_a_reason_and_no_number(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.file.write_text(folder.file.read_text().replace("num_ctx = 512", "num_ctx = 512\nthink = true"))
    refused(folder.run(), 3, "the baseline does not run", "does not support thinking")
    folder.is_clean()


def test_a_context_beyond_what_the_model_was_trained_for(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.file.write_text(folder.file.read_text().replace("num_ctx = 512", "num_ctx = 9000"))
    refused(folder.run(), 2, "workload.num_ctx = 9000: tiny was trained for 8192")


def test_a_model_store_that_is_none(tmp_path: Path) -> None:
    ollama = stand_in(tmp_path / "bin/ollama", AUTOTUNE_SIM_PROFILE="2x-small")
    (tmp_path / "store").mkdir()
    keys = real(ollama).replace(f'models_dir = "{ollama.parent}"', f'models_dir = "{tmp_path}/store"')
    refused(of_processes(Folder(tmp_path, {"cluster": keys})).run(), 2, "cluster.models_dir", "not a model store")
