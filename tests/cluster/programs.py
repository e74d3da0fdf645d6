"""Small programs that stand for an Ollama which misbehaves, and processes that are none of ours."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
LISTEN = (
    "import socket, sys; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1);"
    "s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); print('ready', flush=True); sys.stdin.read()"
)


def script(folder: Path, text: str) -> str:
    """A shell program; its path."""
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@contextmanager
def running(*command: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is none of ours, from its first line of output on; ended by its pid whatever happens."""
    variables = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **env}
    process = subprocess.Popen(
        command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        process.first_line = process.stdout.readline().strip()  # type: ignore[attr-defined]
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def python(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program, from its first line of output on."""
    with running(sys.executable, "-c", program, *arguments) as process:
        yield process


def said(process: subprocess.Popen[str]) -> str:
    """The first line of its output."""
    line: str = process.first_line  # type: ignore[attr-defined]
    return line


@contextmanager
def listener(port: int) -> Iterator[subprocess.Popen[str]]:
    """Somebody else who listens on a port of ours."""
    with python(LISTEN, str(port)) as process:
        assert said(process) == "ready"
        yield process
