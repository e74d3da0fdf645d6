"""Faults of the machine in real nights: what somebody else does to it is never held against a configuration."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from autotune.cluster import host
from autotune.cluster.children import MARK
from autotune.faults import quarantined
from autotune.store import Store
from tests.full_disk import fill
from tests.night.harness import Folder, Running, listen, stand_in, until
from tests.night.test_refusals import of_processes, real
from tests.nvml.stub import build_stub

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.nginx, pytest.mark.slow]

CARDS = [f"GPU-5a11000{index}-0000-4000-8000-00000000000{index}" for index in range(2)]


def troubles(folder: Folder) -> list[dict[str, Any]]:
    return [event for event in folder.events() if event["what"] == "trouble"]


def instances(folder: Folder) -> list[int]:
    """The pids of the servers of a night."""
    marked = [pid for pid in host.processes() if host.environment(pid).get(MARK) == str(folder.study)]
    return [pid for pid in marked if "autotune.simulator" in host.argv(pid)]


def balancer(folder: Folder) -> list[int]:
    """The pid of its nginx, which has only its title to be known by."""
    titles = {pid: " ".join(host.argv(pid)) for pid in host.processes()}
    return [pid for pid, title in titles.items() if "nginx: master" in title and f"{folder.study}/" in title]


def went_on(folder: Folder, done: Running, kind: str) -> None:
    """All trials are there, none was blamed, and what happened is told."""
    assert done.code == 0, done.output
    assert [one.number for one in folder.results()] == [0, 1, 2]
    assert [one.reason for one in folder.results()] == ["", "", ""], done.output
    assert kind in [event["kind"] for event in troubles(folder)]
    assert "fault of the machine, not of the configuration" in done.output
    folder.is_clean()


def test_an_nginx_that_somebody_kills(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with folder.begin() as running:
        running.reaches("load begins", 1)
        (pid,) = balancer(folder)
        os.kill(pid, signal.SIGKILL)
        running.wait()
    went_on(folder, running, "BalancerError")
    assert "nginx has died" in running.output


def test_an_instance_that_somebody_kills(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    text = folder.file.read_text()
    folder.file.write_text(text.replace("drain_s = 3", "drain_s = 3\nwarmup_max_s = 3"))  # it waits for all to answer
    with folder.begin() as running:
        running.reaches("load begins", 1)
        os.kill(instances(folder)[0], signal.SIGKILL)
        running.wait()
    went_on(folder, running, "Killed")
    assert "was ended from outside by SIGKILL" in running.output


def test_a_night_that_is_stopped_and_goes_on(tmp_path: Path) -> None:
    """Ctrl-Z and `fg`: its clients went on meanwhile, but nobody gave them a next request."""
    folder = Folder(tmp_path, {"window_s": 2.0})
    with folder.begin() as running:
        running.reaches("load begins", 1)
        time.sleep(1)  # its warm-up
        running.process.send_signal(signal.SIGSTOP)
        time.sleep(1.6)
        running.process.send_signal(signal.SIGCONT)
        running.wait(60)
    went_on(folder, running, "Slept")
    assert "autotune stood still for" in running.output


def test_a_port_that_is_stolen_between_two_trials(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with folder.begin() as running:
        running.reaches("load begins", 0)
        with closing(listen(int(folder.values["port"]) + 1)):
            assert until(lambda: bool(troubles(folder)), 60), running.output
        running.wait()
    went_on(folder, running, "PortTaken")
    assert f"taken by {host.describe(os.getpid())[:20]}" in running.output


def test_a_port_that_stays_stolen_ends_the_night_with_what_was_found(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with folder.begin() as running:
        running.reaches("load begins", 0)
        with closing(listen(int(folder.values["port"]) + 1)):
            running.wait()
    assert running.code == 3
    assert [one.number for one in folder.results()] == [0]
    assert [event["left"] for event in troubles(folder)] == [2, 1, 0]


def test_a_disk_that_fills_up_ends_the_night_and_a_later_one_goes_on(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=280m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    try:
        folder = Folder(disk)
        with folder.begin() as running:
            running.reaches("load begins", 1)
            fill(disk / "ballast")
            running.wait()
        assert running.code == 4, running.output
        assert "No space left on device" in running.output
        (disk / "ballast").unlink()
        assert [one.number for one in folder.results()] == [0]
        folder.is_clean()
        again = folder.run()
        assert again.code == 0, again.output
        assert [one.reason for one in folder.results()] == ["", "", ""]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# a GPU that falls off the bus


@pytest.fixture
def two_cards(tmp_path: Path) -> Folder:
    """A study on real processes and two cards that NVML shows."""
    build_stub(tmp_path)
    ollama = stand_in(tmp_path / "bin/ollama", AUTOTUNE_SIM_PROFILE="2x-small")
    env = {"LD_LIBRARY_PATH": str(tmp_path), "NVML_STUB_STATE": str(tmp_path / "cards")}
    folder = Folder(tmp_path, {"cluster": real(ollama, devices='"gpu"'), "num_parallel": "[1, 2, 4, 8]"}, env)
    of_processes(folder)
    text = folder.file.read_text().replace('layouts = ["0"]', 'layouts = ["0", "0 | 1"]')
    folder.file.write_text(text)
    show(folder)
    return folder


def show(folder: Folder, lost: int | None = None) -> None:
    """What NVML shows from now on."""
    lines = [
        f"card uuid={card} mib=4096{' lost' if lost == index else ''} name=Card" for index, card in enumerate(CARDS)
    ]
    there = folder.path / "cards-new"
    there.write_text("\n".join(lines) + "\n")
    there.replace(folder.path / "cards")


def test_a_card_that_falls_off_the_bus_is_left_out_and_the_night_goes_on(two_cards: Folder) -> None:
    with two_cards.begin() as running:
        running.reaches("load begins", 0)
        until(lambda: bool(two_cards.results()), 60)
        show(two_cards, lost=1)
        running.wait()
    assert running.code == 0, running.output
    assert [one.reason for one in two_cards.results()] == ["", "", ""]
    store = Store(two_cards.study)
    for number in (1, 2):
        assert [one.devices for one in store.trials.plan(number).instances] == [(CARDS[0],)]
    assert list(quarantined(store)) == [CARDS[1]]
    assert "left out from now on" in running.output
    assert [event["device"] for event in troubles(two_cards)] == [CARDS[1]] * 3
    two_cards.is_clean()


def test_a_night_goes_on_on_the_other_card_and_a_later_one_though_the_first_is_still_gone(two_cards: Folder) -> None:
    with two_cards.begin() as running:
        running.reaches("load begins", 0)
        until(lambda: bool(two_cards.results()), 60)
        show(two_cards, lost=0)
        running.wait()
    assert running.code == 0, running.output
    two_cards.file.write_text(two_cards.file.read_text().replace("trials = 3", "trials = 4"))
    again = two_cards.run()
    assert again.code == 0, again.output
    assert [one.reason for one in two_cards.results()] == [""] * 4
    store = Store(two_cards.study)
    used = [[one.devices for one in store.trials.plan(number).instances] for number in range(4)]
    assert used == [[(CARDS[0],)], *[[(CARDS[1],)]] * 3]
    assert list(quarantined(store)) == [CARDS[0]]
    two_cards.is_clean()
    plan = [sys.executable, "-m", "autotune", "plan", str(two_cards.file)]
    shown = subprocess.run(plan, env={**os.environ, **two_cards.env}, capture_output=True, text=True, check=True).stdout
    assert CARDS[1] in shown
    assert CARDS[0] not in shown
