"""Installs the load generators to compare with, each in an environment of its own: about 10 GB.

    python -m tests.benchmarks.peers.install FOLDER

What cannot be installed is told, and left out. vLLM comes without what it needs to serve models, which its benchmark
does not use; see `alone`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT = Path("~/.cache/autotune-peers").expanduser()


@dataclass(frozen=True, slots=True)
class Peer:
    """A package on its own index, at the version that was measured before; the newest where that is gone."""

    package: str
    version: str
    python: tuple[int, int] = (3, 11)
    """The oldest Python it runs on."""
    alone: tuple[str, ...] = ()
    """What is installed in place of its dependencies."""


PEERS = (
    Peer("guidellm", "0.8.1"),
    Peer("aiperf", "0.13.0"),
    Peer("inference-perf", "0.7.0", python=(3, 12)),
    Peer(
        "vllm",
        "0.33.0",
        alone=("aiohttp", "numpy", "pandas", "pillow", "pybase64", "regex", "tqdm", "transformers"),
    ),
)


def programs(folder: Path, package: str) -> Path:
    """Where the programs of a peer are, or would be."""
    return folder / package / "bin"


def version(folder: Path, package: str) -> str | None:
    """The version that is installed, if any is."""
    python = programs(folder, package) / "python"
    asked = f"import importlib.metadata as m; print(m.version({package!r}))"
    if not python.exists():
        return None
    told = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=False)
    return told.stdout.strip() or None


def reason(folder: Path, package: str) -> str:
    """Why it is not installed, as far as that is known."""
    file = folder / f"{package}.failed"
    return file.read_text(encoding="utf-8").strip() if file.exists() else "`make bench-peers` installs it"


def _interpreters() -> Iterator[str]:
    yield sys.executable
    yield from filter(None, (shutil.which(f"python3.{minor}") for minor in (12, 13, 14, 11)))
    versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    yield from map(str, sorted(versions.glob("3.*/bin/python3")))


def _interpreter(oldest: tuple[int, int]) -> str | None:
    """A Python that is new enough. One that does not even start is none."""
    asked = f"import sys; sys.exit(sys.version_info < {oldest})"
    for python in _interpreters():
        if subprocess.run([python, "-c", asked], capture_output=True, check=False).returncode == 0:
            return python
    return None


def _pip(folder: Path, *arguments: str) -> str:
    """What went wrong; empty when nothing did."""
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
    return (told[-1] if told else "pip failed without a word") if done.returncode else ""


def install(folder: Path, peer: Peer) -> str:
    """Install one peer; what went wrong, or nothing."""
    python = _interpreter(peer.python)
    if python is None:
        return f"it needs Python {'.'.join(map(str, peer.python))}, which is not here"
    own = folder / peer.package
    subprocess.run([python, "-m", "venv", "--clear", str(own)], check=True)
    options = ["--no-deps"] if peer.alone else []
    if _pip(own, *options, f"{peer.package}=={peer.version}") and (wrong := _pip(own, *options, peer.package)):
        return wrong
    return _pip(own, *peer.alone) if peer.alone else ""


def main(folder: Path) -> None:
    """Install what is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for peer in PEERS:
        if there := version(folder, peer.package):
            print(f"{peer.package} {there} is installed")
            continue
        print(f"installing {peer.package} {peer.version} …", flush=True)
        wrong, failed = install(folder, peer), folder / f"{peer.package}.failed"
        failed.unlink(missing_ok=True)
        if wrong:
            failed.write_text(wrong + "\n", encoding="utf-8")
            shutil.rmtree(folder / peer.package, ignore_errors=True)
            print(f"{peer.package} is left out: {wrong}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).expanduser() if len(sys.argv) > 1 else DEFAULT)
