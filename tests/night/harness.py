"""Whole nights as a user runs them: the command in a process of its own, on a stand-in Ollama, watched from outside."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from autotune.cluster import host
from autotune.cluster.children import MARK
from autotune.store import Store
from tests.conftest import free_ports

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from autotune.result import TrialResult

STUDY = """
[study]
name = "{name}"

[cluster]
driver = "simulated"
profile = "2x-small"
time_scale = {time_scale}
model = "{model}"
first_port = {port}
balancer_port = {balancer_port}
start_timeout_s = 20
{cluster}

[search]
num_parallel = {num_parallel}
layouts = ["0", "0 | 1"]
policy = ["least_conn"]

[workload]
num_ctx = 512
num_predict = {{ kind = "uniform", mean = 24, spread = 0.5 }}
input_tokens = 40
levels = [4]
warmup_s = {warmup_s}
window_s = {window_s}
window_max_s = {window_s}
drain_s = 3

[objective]
{objective}

[budget]
trials = {trials}

[proof]
finalists = {finalists}
"""


@dataclass
class Folder:
    """A folder with one study file, and the means to run it."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        port = free_ports(8)
        defaults = {
            "name": "night",
            "time_scale": 1,
            "model": "tiny",
            "port": port,
            "balancer_port": port + 7,
            "cluster": "",
            "num_parallel": "[1, 2, 4]",
            "warmup_s": 0.3,
            "window_s": 0.8,
            "objective": "",
            "trials": 3,
            "finalists": 0,
        }
        self.values = defaults | self.values
        self.write()

    def write(self, **values: Any) -> None:
        """(Re)write the study file."""
        self.values |= values
        self.file.write_text(STUDY.format(**self.values))

    @property
    def file(self) -> Path:
        """The study file."""
        return self.path / "night.toml"

    @property
    def study(self) -> Path:
        """The study folder."""
        return self.path / str(self.values["name"])

    def begin(self, *arguments: str) -> Running:
        """Start `autotune run`."""
        # under nohup SIGHUP is ignored, and a night that was started so rightly keeps to that
        awake = ["env", "--default-signal=HUP"]
        return Running(self, [*awake, sys.executable, "-m", "autotune", "run", str(self.file), "--plain", *arguments])

    def run(self, *arguments: str, timeout_s: float = 120) -> Running:
        """`autotune run` to its end."""
        with self.begin(*arguments) as running:
            running.wait(timeout_s)
        return running

    def results(self) -> list[TrialResult]:
        """The finished trials."""
        return Store(self.study).trials.results()

    def events(self) -> list[dict[str, Any]]:
        """What the event log holds so far."""
        path = self.study / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def left_over(self) -> list[str]:
        """Processes that carry the study's mark."""
        pids = [pid for pid in host.processes() if host.environment(pid).get(MARK) == str(self.study)]
        return [host.describe(pid) for pid in pids if (found := host.identity(pid)) and host.runs(found)]

    def taken_ports(self) -> list[int]:
        """Ports of the study that somebody listens on."""
        first, balancer = int(self.values["port"]), int(self.values["balancer_port"])
        return [port for port in (first, first + 1, balancer) if not host.port_free(port)]

    def is_clean(self) -> None:
        """Nothing of the night runs any more, and its ports are free."""
        assert until(lambda: not self.left_over() and not self.taken_ports(), 5), (self.left_over(), self.taken_ports())


class Running:
    """An `autotune run` in a process of its own; ended, whatever happens, when the block is left."""

    def __init__(self, folder: Folder, command: list[str]) -> None:
        self._folder = folder
        self._command = command
        self._log = folder.path / "output.txt"

    def __enter__(self) -> Self:
        env = {**os.environ, **self._folder.env, "PYTHONUNBUFFERED": "1"}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self._folder.path, stdout=log, stderr=subprocess.STDOUT, env=env
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def output(self) -> str:
        """All that it has printed."""
        return self._log.read_text()

    @property
    def code(self) -> int:
        """Its exit code."""
        return self.process.wait()

    def wait(self, timeout_s: float = 60) -> int:
        """Wait for its end; its exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s:\n{self.output}") from None

    def send(self, what: signal.Signals) -> None:
        """Signal it."""
        self.process.send_signal(what)

    def reaches(self, what: str, number: int, timeout_s: float = 60) -> None:
        """Wait until an event of a trial is in the log."""
        seen = until(
            lambda: any(e["what"] == what and e.get("number") == number for e in self._folder.events()), timeout_s
        )
        assert seen, f"no {what!r} of trial {number}:\n{self.output}"


def until(check: Callable[[], bool], timeout_s: float) -> bool:
    """Poll until `check` holds; whether it did in time."""
    end = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def listen(port: int) -> socket.socket:
    """Somebody else on a port."""
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("127.0.0.1", port))
    taken.listen()
    return taken


def script(path: Path, body: str) -> Path:
    """An executable that stands for `ollama`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def stand_in(path: Path, **variables: object) -> Path:
    """An `ollama` that is the simulator, for the driver of real processes."""
    exports = " ".join(f"{name}={value}" for name, value in variables.items())
    return script(path, f'{"export " + exports if exports else ""}\nexec {sys.executable} -m autotune.simulator "$@"')


def without_times(text: str) -> str:
    """Output without clock times."""
    return re.sub(r"\d\d:\d\d:\d\d", "", text)
