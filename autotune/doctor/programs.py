"""The programs that a night starts. Two of them are asked for their version; neither starts a server for that."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

from autotune.cluster.children import program
from autotune.cluster.nginx import INSTALL, Nginx
from autotune.doctor.check import NOT_NEEDED, Check, State
from autotune.errors import BalancerError, BinaryMissing
from autotune.ollama.env import has_llama_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.inventory import Inventory
    from autotune.spec import StudySpec

OLLAMA = "curl -fsSL https://ollama.com/install.sh | sh"
NGINX_SINCE = (1, 19, 5)
"""The first with the option -e, which keeps the log of the start in the study folder."""
_NOWHERE = "127.0.0.1:1"
"""As OLLAMA_HOST: with a server at hand `ollama --version` tells the server's version first."""
_PATIENCE_S = 10.0


def ollama(spec: StudySpec | None) -> Check:
    """The binary, its version, and what is different about an old one."""
    if spec is not None and spec.cluster.driver == "simulated":
        return Check("Ollama", "ok", NOT_NEEDED)
    binary = spec.cluster.binary if spec is not None else "ollama"
    path = shutil.which(binary)
    if path is None:
        return Check("Ollama", "missing", f"no program {binary!r}", f"{OLLAMA}  # or write its path: cluster.binary")
    try:
        words = _said(path, "--version")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("Ollama", "missing", f"{path} does not run: {error}", OLLAMA)
    told = re.search(r"client version is (\S+)", words) or re.search(r"version is (\S+)", words)
    if told is None:
        last = next(reversed(words.strip().splitlines()), "nothing")
        return Check("Ollama", "warning", f"{path}; to `--version` it says: {last[:200]}", OLLAMA)
    return _version(path, told[1], spec)


def _version(path: str, version: str, spec: StudySpec | None) -> Check:
    found = f"{path}, {version}"
    if has_llama_server(version):
        built = " (built from source: taken for the newest)" if version == "0.0.0" else ""
        return Check("Ollama", "ok", found + built)
    found += ": before 0.30 Ollama serves models with a runner of its own; figures do not carry over to later versions"
    if lost := ", ".join(_llama_server_only(spec)):
        found += f", and it does not know {lost}"
    return Check("Ollama", "warning", found, OLLAMA)


def _llama_server_only(spec: StudySpec | None) -> list[str]:
    """Variables of the study that only llama-server reads."""
    if spec is None:
        return ["LLAMA_ARG_ variables"]
    named = {**spec.cluster.env, **spec.search.env, **spec.baseline.env}
    return sorted(name for name in named if name.startswith("LLAMA_ARG_"))


def nginx(spec: StudySpec | None) -> Check:
    """nginx, unless the study does without."""
    if spec is not None and spec.cluster.balancer == "direct":
        return Check("nginx", "ok", 'not needed: cluster.balancer = "direct"')
    needed: State = "warning" if spec is None else "missing"
    mend = f'{INSTALL}  # or set cluster.balancer = "direct"'
    try:
        path = Nginx.check()
        words = _said(path, "-v")
    except BalancerError:
        return Check("nginx", needed, "no nginx on this host", mend)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("nginx", needed, f"it does not run: {error}", mend)
    told = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", words)
    version = tuple(map(int, told.groups())) if told else NGINX_SINCE
    if version < NGINX_SINCE:
        least = ".".join(map(str, NGINX_SINCE))
        return Check("nginx", needed, f"{path}, {_dotted(version)}: too old; {least} is the first that will do", mend)
    return Check("nginx", "ok", f"{path}, {_dotted(version) if told else 'of an unknown version'}")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def util_linux(found: Inventory | None) -> Check:
    """What starts the others: so that they die with us, and keep to their cores."""
    pinned = found is None or any(device.cpus for device in found.devices)
    names = ["setpriv", *(["taskset"] if pinned else [])]
    paths = {name: path for name in names for path in _path(name)}
    if lacking := [name for name in names if name not in paths]:
        return Check("util-linux", "missing", f"no {', no '.join(lacking)}", "sudo apt-get install util-linux")
    return Check("util-linux", "ok", ", ".join(paths.values()))


def _path(name: str) -> Iterator[str]:
    try:
        yield program(name)
    except BinaryMissing:
        return


def _said(*command: str) -> str:
    """What a program prints until it ends; it has not long to do so, and leaves nothing behind."""
    with subprocess.Popen(
        command,
        env={**os.environ, "OLLAMA_HOST": _NOWHERE},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            return process.communicate(timeout=_PATIENCE_S)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
