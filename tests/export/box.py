"""A systemd of our own: booted in namespaces over an overlay of this machine, so that units can really be installed."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from autotune.cluster import host

if TYPE_CHECKING:
    from collections.abc import Sequence

BOOT = Path(__file__).with_name("boot.sh")
SHARED = Path("/mnt/host")
"""Where the box sees the folder that it shares with the test."""
BOOT_S = 30


def missing() -> str:
    """Why there can be no box here; empty if there can."""
    if os.geteuid() != 0:
        return "systemd is booted in namespaces, which needs root"
    programs = [name for name in ("unshare", "nsenter", "systemctl", "ip") if shutil.which(name) is None]
    if programs or not Path("/lib/systemd/systemd").exists():
        return f"no {', '.join(programs) or 'systemd'} on this machine"
    tried = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--net", "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else "no namespaces can be made here"


@dataclass
class Box:
    """Use as a context manager. `folder` is seen inside as /mnt/host."""

    folder: Path

    def __enter__(self) -> Self:
        base = self.folder / "box"
        base.mkdir()
        flags = ["--mount", "--pid", "--fork", "--net", "--cgroup", "--ipc", "--uts", "--kill-child"]
        command = ["unshare", *flags, "bash", str(BOOT), str(self.folder), str(base)]
        with (self.folder / "boot.log").open("wb") as log:
            self._outer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        end = time.monotonic() + BOOT_S
        while not self._is_up():
            if self._outer.poll() is not None or time.monotonic() > end:
                self.__exit__()
                pytest.skip(f"systemd does not boot here: {(self.folder / 'boot.log').read_text()[-300:]}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._outer.send_signal(signal.SIGKILL)  # its child, the init of the box, goes with it, and all else with that
        self._outer.wait()

    def run(self, *command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        inside = ["nsenter", "--target", str(self._init), "--mount", "--pid", "--net", "--cgroup", "--uts", "--ipc"]
        return subprocess.run(
            [*inside, *command], capture_output=True, text=True, timeout=timeout_s, check=False, cwd="/"
        )

    def shell(self, lines: Sequence[str], folder: Path, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run lines of a shell inside, in a folder, up to the first that fails; root needs no sudo."""
        script = "\n".join(["set -e", f"cd {shlex.quote(str(folder))}", *(line.replace("sudo ", "") for line in lines)])
        return self.run("bash", "-c", script, timeout_s=timeout_s)

    def active(self, unit: str) -> str:
        """What systemd says of a unit: active, inactive, failed, …"""
        return self.run("systemctl", "is-active", unit).stdout.strip()

    @property
    def _init(self) -> int:
        return host.children(self._outer.pid)[0]

    def _is_up(self) -> bool:
        if not host.children(self._outer.pid):
            return False
        return self.run("systemctl", "is-active", "basic.target").stdout.strip() == "active"
