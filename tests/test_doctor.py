"""What a host lacks for a night: each thing that is needed, there and not there, and what mends it."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from autotune.claims import locks, port_locks
from autotune.cli import main
from autotune.cluster.lock import Lock
from autotune.console import checkup
from autotune.doctor import Check, devices, examine, places, programs
from autotune.errors import StorageError
from autotune.store import Store
from tests.conftest import cores, free_ports, gpus, study
from tests.factories import result
from tests.night.harness import listen, script, stand_in, until
from tests.nvml import stub as nvml
from tests.test_inventory import grow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.spec import StudySpec
    from tests.nvml.stub import Stub

stub_folder, stub = nvml.stub_folder_fixture, nvml.stub_fixture

NEW = "echo Warning: could not connect to a running Ollama instance; echo Warning: client version is 0.32.15"
UUID = "GPU-20800001-0000-4000-8000-000000000001"


@pytest.fixture(autouse=True)
def tidy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with a new Ollama and a store with one model; neither this machine's nor its nights are looked at."""
    monkeypatch.setattr("autotune.cluster.lock._address", lambda name: f"\0{hash((tmp_path, name))}")
    script(tmp_path / "bin/ollama", NEW)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "store"))
    monkeypatch.setattr("autotune.ollama.models.SERVICE_STORE", tmp_path / "service")
    manifest = tmp_path / "store/manifests/registry.ollama.ai/library/tiny/latest"
    manifest.parent.mkdir(parents=True)
    manifest.touch()


def real(**cluster: Any) -> StudySpec:
    """A study on this host's cores, with ports of its own."""
    first = free_ports(4)
    keys = {"driver": "process", "devices": "groups:1", "first_port": first, "balancer_port": first + 3}
    return study(cluster={**keys, **cluster})


def look(spec: StudySpec | None, folder: Path) -> dict[str, Check]:
    return {check.name: check for check in examine(spec, folder)}


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the host be without these programs."""
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **more: None if name in names else which(name, **more))


# as a whole


def test_a_host_that_has_all(tmp_path: Path) -> None:
    checks = examine(real(), tmp_path / "night")
    names = ["Ollama", "model", "nginx", "util-linux", "device 0", "pinning"]
    assert [check.name for check in checks if check.name not in {"CPU governor", "swap"}] == [
        *names,
        "ports",
        "results",
    ]
    assert {check.state for check in checks if check.name not in {"CPU governor", "swap"}} == {"ok"}
    assert not (tmp_path / "night").exists()


def test_a_simulated_study_needs_neither_ollama_nor_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "ollama", "nginx", "taskset")
    monkeypatch.delenv("OLLAMA_MODELS")
    checks = examine(study(cluster={"first_port": free_ports(4)}), tmp_path)
    assert {check.state for check in checks} == {"ok"}
    played = {check.name: check.found for check in checks}
    assert played["device 1"].endswith(", played")
    assert "not needed: the host is played" in played["Ollama"]
    assert "not needed" in played["nginx"]


def test_without_a_study_ollama_and_a_store_are_needed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = look(None, tmp_path)
    assert found["Ollama"].state == found["models"].state == "ok"
    assert found["models"].found == f"{tmp_path}/store: tiny:latest"
    hide(monkeypatch, "ollama", "nginx")
    monkeypatch.delenv("OLLAMA_MODELS")
    found = look(None, tmp_path)
    assert (found["Ollama"].state, found["models"].state) == ("missing", "missing")
    assert (found["nginx"].state, found["nginx"].found) == ("warning", "no nginx on this host")


# Ollama


def test_no_such_binary(tmp_path: Path) -> None:
    found = programs.ollama(real(binary=str(tmp_path / "nowhere/ollama")))
    assert (found.state, found.found) == ("missing", f"no program '{tmp_path}/nowhere/ollama'")
    assert "cluster.binary" in found.mend


@pytest.mark.parametrize(
    ("says", "state", "words"),
    [
        (NEW, "ok", ", 0.32.15"),
        ("echo ollama version is 0.33.0", "ok", ", 0.33.0"),
        ("echo ollama version is 0.24.0; echo Warning: client version is 0.32.15", "ok", ", 0.32.15"),
        ("echo Warning: client version is 0.0.0", "ok", "0.0.0 (built from source"),
        ("echo ollama version is 0.24.0", "warning", ", 0.24.0: before 0.30"),
        ("echo something else; exit 3", "warning", "it says: something else"),
        ("exit 3", "warning", "it says: nothing"),
    ],
)
def test_what_ollama_says_of_its_version(tmp_path: Path, says: str, state: str, words: str) -> None:
    found = programs.ollama(real(binary=str(script(tmp_path / "own/ollama", says))))
    assert found.state == state
    assert words in found.found
    assert found.found.startswith(str(tmp_path / "own/ollama"))
    assert bool(found.mend) == (state != "ok")


def test_an_old_ollama_does_not_know_some_variables_of_the_study() -> None:
    script(Path(os.environ["OLLAMA_MODELS"]).parent / "bin/ollama", "echo ollama version is 0.24.0")
    asked = study(cluster={"driver": "process"}, search={"env": {"LLAMA_ARG_CACHE_RAM": ["0"], "OLLAMA_DEBUG": ["1"]}})
    assert programs.ollama(asked).found.endswith("it does not know LLAMA_ARG_CACHE_RAM")
    assert programs.ollama(None).found.endswith("it does not know LLAMA_ARG_ variables")


def test_ollama_is_asked_for_its_version_only_and_not_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = script(tmp_path / "own/ollama", f'echo "$@ $OLLAMA_HOST" >> {tmp_path}/asked; {NEW}')
    assert programs.ollama(real(binary=str(told))).state == "ok"
    assert (tmp_path / "asked").read_text() == "--version 127.0.0.1:1\n"
    monkeypatch.setattr(programs, "_PATIENCE_S", 0.2)
    slow = script(tmp_path / "slow/ollama", f"sleep 97 & echo $! > {tmp_path}/pid; wait")
    found = programs.ollama(real(binary=str(slow)))
    assert found.state == "missing"
    assert "does not run" in found.found
    assert until(lambda: not running(int((tmp_path / "pid").read_text())), 5)  # a killed process takes its time to go


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    except OSError:
        return False


def test_an_ollama_that_is_no_program(tmp_path: Path) -> None:
    broken = script(tmp_path / "own/ollama", "")
    broken.write_bytes(b"\x7fELF of another machine")
    found = programs.ollama(real(binary=str(broken)))
    assert (found.state, found.mend) == ("missing", programs.OLLAMA)


# the model


def test_a_model_that_the_store_does_not_have(tmp_path: Path) -> None:
    found = places.model(real(model="gemma3n", first_port=9000), tmp_path)
    assert (found.state, found.found) == ("missing", f"no gemma3n in {tmp_path}/store; it has tiny:latest")
    assert found.mend.startswith(f"OLLAMA_MODELS={tmp_path}/store OLLAMA_HOST=127.0.0.1:9000 ollama serve")
    assert "ollama pull gemma3n" in found.mend


def test_the_store_that_has_the_model_is_found(tmp_path: Path) -> None:
    own = tmp_path / "home/.ollama/models/manifests/hf.co/somebody/model/Q4_0"
    own.parent.mkdir(parents=True)
    own.touch()
    found = places.model(real(model="hf.co/somebody/model:Q4_0"), tmp_path)
    assert (found.state, found.found) == ("ok", f"hf.co/somebody/model:Q4_0 is in {tmp_path}/home/.ollama/models")
    names = {check.found for check in places.model_stores()}
    assert names == {f"{tmp_path}/store: tiny:latest", f"{tmp_path}/home/.ollama/models: hf.co/somebody/model:Q4_0"}


def test_a_store_that_is_none_and_no_store_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = places.model(real(models_dir=tmp_path / "bin"), tmp_path)
    assert found.state == "missing"
    assert "cluster.models_dir" in found.found
    monkeypatch.delenv("OLLAMA_MODELS")
    found = places.model(real(), tmp_path)
    assert found.state == "missing"
    assert found.mend == "ollama pull tiny  # or write cluster.models_dir"
    (none,) = places.model_stores()
    assert (none.state, none.mend) == ("missing", "ollama pull MODEL")


def test_an_empty_store_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "home/.ollama/models/manifests").mkdir(parents=True)
    assert [(check.state, check.found) for check in places.model_stores()] == [
        ("ok", f"{tmp_path}/store: tiny:latest"),
        ("warning", f"{tmp_path}/home/.ollama/models: empty"),
    ]


def test_what_this_user_may_not_read_or_write_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shut = tmp_path / "store/manifests"
    batches = study(cluster={"driver": "process"}, search={"num_batch": [256]})
    assert places.model(batches, tmp_path).state == "ok"
    monkeypatch.setattr(os, "access", lambda path, mode: path != shut)  # root may do all
    found = places.model(batches, tmp_path)
    assert found.state == "missing"
    assert "num_batch needs a derived model" in found.found
    monkeypatch.setattr(Path, "iterdir", refuse)
    (first, *_) = places.model_stores()
    assert (first.state, first.mend) == ("warning", "sudo autotune doctor")
    assert first.found.endswith("run as its owner or as root")


def refuse(path: Path) -> Iterator[Path]:
    raise PermissionError(13, "Permission denied", str(path))


def test_a_played_host_may_not_have_the_model(tmp_path: Path) -> None:
    found = places.model(study(cluster={"model": "nosuch"}), tmp_path)
    assert (found.state, found.found[:36]) == ("missing", "the played host has no nosuch; it ha")
    assert places.model(study(cluster={"profile": "nosuch"}), tmp_path).state == "ok"
    assert look(study(cluster={"profile": "nosuch"}), tmp_path)["devices"].state == "missing"


def test_a_file_of_prompts_that_is_not_there(tmp_path: Path) -> None:
    work = study().workload.model_copy(update={"input_tokens": None, "prompts": tmp_path / "none.jsonl"})
    spec = study().model_copy(update={"workload": work})
    (found,) = places.prompts(spec)
    assert found.found == f"{tmp_path}/none.jsonl cannot be read"
    (tmp_path / "none.jsonl").touch()
    assert list(places.prompts(spec)) == []


# nginx, util-linux


def test_nginx_is_needed_by_a_study_that_does_not_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "nginx")
    found = programs.nginx(real(balancer="nginx"))
    assert (found.state, found.found) == ("missing", "no nginx on this host")
    assert found.mend == 'sudo apt-get install nginx-light  # or set cluster.balancer = "direct"'
    assert programs.nginx(real(balancer="direct")).state == "ok"
    assert programs.nginx(None).state == "warning"


@pytest.mark.parametrize(
    ("says", "state", "words"),
    [
        ("echo nginx version: nginx/1.18.0 '(Ubuntu)' >&2", "missing", "1.18.0: too old; 1.19.5 is the first"),
        ("echo nginx version: nginx/1.27.3 >&2", "ok", ", 1.27.3"),
        ("echo hello", "ok", "of an unknown version"),
    ],
)
def test_what_nginx_says_of_its_version(tmp_path: Path, says: str, state: str, words: str) -> None:
    script(tmp_path / "bin/nginx", says)
    found = programs.nginx(real(balancer="nginx"))
    assert found.state == state
    assert words in found.found


def test_an_nginx_that_is_no_program(tmp_path: Path) -> None:
    script(tmp_path / "bin/nginx", "").write_bytes(b"\x7fELF of another machine")
    assert programs.nginx(real(balancer="nginx")).state == "missing"


def test_taskset_is_needed_only_to_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    assert programs.util_linux(None).state == "ok"
    hide(monkeypatch, "taskset")
    assert programs.util_linux(gpus()).state == "ok"
    assert programs.util_linux(cores((0,))).found == "no taskset"
    hide(monkeypatch, "taskset", "setpriv")
    found = programs.util_linux(None)
    assert (found.state, found.found) == ("missing", "no setpriv, no taskset")
    assert found.mend == "sudo apt-get install util-linux"


# devices


def seen(stub: Stub, spec: StudySpec | None, folder: Path) -> dict[str, Check]:
    """What is found in a process that sees the stand-in for NVML."""
    return {check.name: check for check in stub.call(examine, spec, folder)}


def test_gpus_with_their_driver_and_their_ports(stub: Stub, tmp_path: Path) -> None:
    port = free_ports(5)
    spec = real(devices="gpu", first_port=port, balancer_port=port + 4)
    found = seen(stub, spec, tmp_path)
    assert {check.state for check in found.values()} == {"ok"}
    assert found["NVIDIA driver"].found == "550.90.07"
    assert found["device 1"].found == f"NVIDIA GeForce RTX 2080 Ti, 22.0 GiB, {UUID}"
    assert "device 3" in found
    assert "pinning" not in found
    first = spec.cluster.first_port
    assert found["ports"].found == f"{first}-{first + 3} can be listened on"


def test_a_gpu_that_somebody_uses_is_missing_to_a_study_and_a_warning_without(stub: Stub, tmp_path: Path) -> None:
    pid = os.getpid()
    stub.tell(f"card uuid={UUID} used=3000 pid={pid}:2048 pid=999999:952\n")
    held = seen(stub, real(devices="gpu"), tmp_path)["device 0"]
    assert held.state == "missing"
    assert f"in use: 2.0 GiB held by pid {pid} of" in held.found
    assert "not visible from here" in held.found
    assert held.mend.endswith(f"kill {pid}") or "systemctl" in held.mend or "stop" in held.mend
    assert seen(stub, None, tmp_path)["device 0"].state == "warning"
    stub.tell(f"card uuid={UUID} used=3000\n")
    hidden = seen(stub, real(devices="gpu"), tmp_path)["device 0"]
    assert (hidden.state, hidden.mend) == ("missing", devices.UNKNOWN)


@pytest.mark.parametrize("state", ["init 9\n", "init 12\n"])
def test_no_driver_is_missing_to_a_study_on_gpus_only(stub: Stub, tmp_path: Path, state: str) -> None:
    stub.tell(state)
    asked = seen(stub, real(devices="gpu"), tmp_path)
    assert asked["devices"].state == "missing"
    assert "no NVIDIA GPU can be used here" in asked["devices"].found
    assert asked["devices"].mend.startswith("install the NVIDIA driver")
    assert seen(stub, real(devices="auto"), tmp_path)["device 0"].state == "ok"
    found = seen(stub, None, tmp_path)
    assert found["NVIDIA driver"].state in {"ok", "warning"}  # this machine's bus may have a card
    assert found["CPU"].state == "ok"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("init 18\n", "NVML does not start: "),
        (f"card uuid={UUID} lost\n", "GPU 0 (NVML's count) has fallen off the bus"),
    ],
)
def test_what_is_broken_is_missing_in_any_case(stub: Stub, tmp_path: Path, state: str, words: str) -> None:
    stub.tell(state)
    for spec, name in ((real(devices="auto"), "devices"), (None, "NVIDIA driver")):
        found = seen(stub, spec, tmp_path)[name]
        assert (found.state, found.mend) == ("missing", devices.BROKEN)
        assert found.found.startswith(words)


def test_a_device_that_is_not_there(stub: Stub, tmp_path: Path) -> None:
    found = seen(stub, real(devices=["0", "7"]), tmp_path)
    assert found["devices"].state == "missing"
    assert "there is no GPU 7; NVML shows 0 = GPU-20800000" in found["devices"].found
    assert found["ports"].state == "ok"


def test_an_amd_gpu_is_taken_as_it_is_written(tmp_path: Path) -> None:
    found = look(real(devices=[{"id": "0", "make": "amd", "name": "MI50", "memory_gib": 32}]), tmp_path)
    assert (found["device 0"].state, found["device 0"].found) == ("ok", "MI50, 32.0 GiB, 0")


@pytest.mark.parametrize(
    ("vendor", "kind", "name", "state", "words"),
    [
        ("0x10de", "0x030200", "NVIDIA driver", "warning", "there is a card, but no NVIDIA GPU can be used here"),
        ("0x8086", "0x030000", "NVIDIA driver", "ok", "no NVIDIA GPU; a study can use the CPU"),
        ("0x10de", "0x040300", "NVIDIA driver", "ok", "no NVIDIA GPU; a study can use the CPU"),
        ("0x1002", "0x030000", "AMD GPU", "ok", "a study has to name it"),
    ],
)
def test_a_card_without_a_driver_is_seen_on_the_bus(
    stub: Stub, tmp_path: Path, vendor: str, kind: str, name: str, state: str, words: str
) -> None:
    stub.tell("init 9\n")
    tree = grow(tmp_path / "tree", [str(cpu) for cpu in sorted(os.sched_getaffinity(0))], [])
    tree.write("sys/bus/pci/devices/0000:01:00.0/vendor", f"{vendor}\n")
    tree.write("sys/bus/pci/devices/0000:01:00.0/class", f"{kind}\n")
    tree.write("sys/bus/pci/devices/0000:02:00.0/other", "")
    checks, found = stub.call(devices.of_host, tree.sysfs, tree.procfs)
    (check,) = (check for check in checks if check.name == name)
    assert check.state == state
    assert words in check.found
    assert found.devices[0].make == "cpu"


def test_a_governor_that_saves_power_and_memory_that_is_swapped_out_are_warnings(tmp_path: Path) -> None:
    tree = grow(tmp_path, ["0"], [])
    governor = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    assert [check.name for check in devices.pace(cores((0,)), tree.sysfs, tree.procfs)] == ["pinning"]
    tree.write(governor, "powersave\n")
    tree.write("proc/meminfo", "MemTotal: 9 kB\nSwapTotal:  4194304 kB\nSwapFree:  1048576 kB\n")
    _, clock, swap = devices.pace(cores((0,)), tree.sysfs, tree.procfs)
    assert (clock.state, clock.found.split(":")[0]) == ("warning", "powersave")
    assert clock.mend.startswith("echo performance | sudo tee /sys/")
    assert (swap.state, swap.found[:24]) == ("warning", "3.0 GiB are swapped out:")
    tree.write(governor, "performance\n")
    assert {check.name: check.state for check in devices.pace(cores((0,)), tree.sysfs, tree.procfs)} == {
        "pinning": "ok",
        "CPU governor": "ok",
        "swap": "warning",
    }
    assert list(devices.pace(gpus(), tree.sysfs, tree.procfs)) == []


def test_a_process_that_may_not_pin_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(pid: int, cpus: set[int]) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", forbid)
    found = look(real(), tmp_path)["pinning"]
    assert (found.state, found.found[-24:]) == ("missing", " Operation not permitted")


# layouts, ports, other nights, the disk


def test_a_layout_that_the_devices_do_not_have(tmp_path: Path) -> None:
    found = look(study(search={"layouts": ["0", "0 | 7"]}), tmp_path)["layouts"]
    assert found.state == "missing"
    assert found.found.startswith("search.layouts[1]: ")


@pytest.mark.parametrize(
    ("search", "instances"),
    [({"layouts": ["0", "0x2 | 1x2"]}, 4), ({"layouts": ["0"]}, 1), ({"instances_per_device": [1, 3]}, 6), ({}, 2)],
)
def test_ports_are_those_of_the_layout_with_the_most_instances(search: dict[str, Any], instances: int) -> None:
    assert places.layouts(study(search=search), gpus(2)) == ([], instances)
    assert places.layouts(study(search=search), None) == ([], 1)


def test_a_port_that_somebody_listens_on(tmp_path: Path) -> None:
    spec = real(balancer="nginx")
    with closing(listen(spec.cluster.balancer_port)):
        found = look(spec, tmp_path)
    taken = found[f"port {spec.cluster.balancer_port}"]
    assert taken.state == "missing"
    assert taken.found.startswith(f"taken by pid {os.getpid()} of ")
    assert "ports" not in found


def test_without_a_study_a_taken_port_is_a_warning() -> None:
    with maybe_listening(9999):
        (taken,) = (check for check in places.usual_ports(1) if check.name in {"port 9999", "ports"})
    assert (taken.name, taken.state) == ("port 9999", "warning")


@contextmanager
def maybe_listening(port: int) -> Iterator[None]:
    """Somebody on a port, be it this test or whoever was there before."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", port))
            taken.listen()
        except OSError:
            pass
        yield


def test_ports_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = places.ports(study(cluster={"first_port": 65535}), 2)
    assert (found.state, found.found[:28]) == ("missing", "cluster.first_port = 65535: ")

    def forbid(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("autotune.cluster.host.socket.socket.bind", forbid)  # root may listen anywhere
    (low,) = places.ports(study(cluster={"first_port": 80}), 1)
    assert (low.name, low.found) == ("port 80", "port 80: only root may listen below 1024")
    assert low.mend == "choose ports from 1024 on, or run as root"


def test_another_night_on_the_same_devices_is_named(tmp_path: Path) -> None:
    spec = real()
    found = cores(tuple(sorted(os.sched_getaffinity(0))))
    assert list(places.nights(spec, found, tmp_path, 2)) == []
    with Lock(port_locks([spec.cluster.first_port + 1])):
        assert list(places.nights(spec, found, tmp_path, 1)) == []
        (night,) = places.nights(spec, found, tmp_path, 2)
        assert night.found.startswith(f"it holds port {spec.cluster.first_port + 1}: pid ")
    with Lock(locks(spec, found, tmp_path / "other")):
        (night,) = places.nights(spec, found, tmp_path, 2)
    assert night.state == "missing"
    assert f"pid {os.getpid()} of " in night.found


def test_where_results_land(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = places.results(tmp_path / "not/yet")
    assert (found.state, found.found.split(":")[0]) == ("ok", f"{tmp_path}/not/yet")
    (tmp_path / "file").touch()
    found = places.results(tmp_path / "file/night")
    assert (found.state, found.found) == ("missing", f"{tmp_path}/file/night cannot be written to")
    monkeypatch.setattr(places, "LEAST_FREE_BYTES", 2**80)
    found = places.results(tmp_path)
    assert found.state == "missing"
    assert "MiB are free on this disk, a night needs" in found.found


def test_a_path_that_is_no_text_is_no_place_for_results(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"w\xfcx")
    found = places.results(folder)
    assert (found.state, found.mend) == ("missing", "put the study file into another folder, or rename this one")
    with pytest.raises(StorageError, match="the path is not UTF-8 text"):
        Store(folder).open(study(), "")
    with pytest.raises(StorageError, match="the path is not UTF-8 text"):
        Store(folder).goes_on(study())
    assert not folder.exists()


def test_results_that_a_study_cannot_go_on_with(tmp_path: Path) -> None:
    spec, other = study(), study(workload={"num_ctx": 2048})
    store = Store(tmp_path)
    store.open(spec, "")
    assert places.results(tmp_path, other).state == "ok"
    store.trials.save(result(0), [])
    assert places.results(tmp_path, spec).state == "ok"
    found = places.results(tmp_path, other)
    assert (found.state, found.mend) == ("missing", "write another study.name")
    assert "workload.num_ctx: was " in found.found
    (tmp_path / "study.json").unlink()
    assert "trials without a study.json" in places.results(tmp_path, spec).found


def test_results_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a night that root has run: another name would leave behind what was measured."""
    Store(tmp_path).open(study(), "")
    monkeypatch.setattr(Path, "exists", denied)
    found = places.results(tmp_path, study())
    assert (found.state, found.mend) == ("missing", f"sudo chown -R {os.getuid()} {tmp_path}")


def denied(path: Path) -> bool:
    raise PermissionError(13, "Permission denied", str(path))


# the command


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["doctor", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def written(path: Path, **cluster: Any) -> Path:
    """A study file on this host's cores."""
    first = free_ports(3)
    keys = {"model": "tiny", "devices": "groups:1", "first_port": first, "balancer_port": first + 2, **cluster}
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
    work = "num_ctx = 512\nnum_predict = 8\ninput_tokens = 8\nlevels = [1]"
    path.write_text(
        f'[study]\nname = "night"\n[cluster]\n{lines}\n[search]\nnum_parallel = [1]\n[workload]\n{work}\n'
        "[budget]\ntrials = 1\n"
    )
    return path


def test_json_is_one_object_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "night.toml", balancer="direct")
    code, out, err = run(capsys, file, "--json")
    found = json.loads(out)
    assert (code, err, found["format"], found["ok"]) == (0, "", 1, True)
    assert set(found) == {"format", "ok", "checks"}
    assert all(set(check) == {"name", "state", "found", "mend"} for check in found["checks"])
    assert f"{tmp_path}/night: " in found["checks"][-1]["found"]
    assert not (tmp_path / "night").exists()


def test_something_that_is_missing_ends_with_the_code_of_a_cluster_that_cannot_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "night.toml", balancer="direct", model="gemma3n")
    code, out, _ = run(capsys, file, "--json")
    assert (code, json.loads(out)["ok"]) == (3, False)
    code, out, err = run(capsys, file)
    assert (code, err) == (3, "")
    assert "no gemma3n in" in out
    assert "1 missing, " in out.splitlines()[-1]


def test_a_balancer_of_the_command_line_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "nginx")
    file = written(tmp_path / "night.toml")
    assert run(capsys, file)[0] == 3
    assert run(capsys, file, "--balancer", "direct")[0] == 0


def test_a_bad_study_file_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "night.toml", balancer="haproxy")
    code, out, err = run(capsys, file, "--json")
    assert (code, out) == (2, "")
    assert err.startswith(f"autotune: {file}: cluster.balancer: 'haproxy': ")
    assert run(capsys, tmp_path / "none.toml")[0] == 2


def test_the_simulator_in_place_of_ollama_is_a_warning_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary = stand_in(tmp_path / "played/ollama", AUTOTUNE_SIM_PROFILE="2x-small")
    code, out, _ = run(capsys, written(tmp_path / "night.toml", binary=str(binary), balancer="direct"), "--json")
    found = json.loads(out)["checks"][0]
    assert (code, found["state"]) == (0, "warning")
    assert "usage: python -m autotune.simulator serve" in found["found"]


def test_what_mends_can_be_copied_in_one_line() -> None:
    screen = Console(width=60, record=True, file=io.StringIO())
    mend = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    checks = [Check("one", "warning", "[red]words[/red] " * 20, mend), Check("two", "ok", "fine")]
    checkup(screen, checks)
    said = screen.export_text()
    assert f"  one: {mend}\n" in said
    assert "[red]" in said
    assert said.endswith("Nothing is missing, 1 warning.\n")
