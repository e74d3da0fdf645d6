"""The command in this process, and servers beside it."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING, TypeVar

from autotune.cli import main
from autotune.simulator.profiles import load_profile
from tests.simulator.exchange import instance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

T = TypeVar("T")

QUICK = ("--concurrency", "2", "--warmup", "0.1", "--window", "0.4", "--num-predict", "8", "--input-tokens", "20")
STAND_INS_LOG = ("time=", "[GIN] ")
"""How lines of a stand-in begin that runs in this process."""


class Run:
    """The command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, output, complaints."""
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        said = self._capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    def refused(self, code: int, *arguments: object) -> str:
        """The one line with which it refuses, and nothing else."""
        found, out, err = self(*arguments)
        assert (found, out) == (code, "")
        (row,) = (row for row in err.splitlines() if not row.startswith(STAND_INS_LOG))
        assert row.startswith("autotune: ")
        return row.removeprefix("autotune: ")


@contextmanager
def elsewhere(server: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Something that serves, in an event loop of its own beside this thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        there = asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
        try:
            yield there
        finally:
            asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def stand_in(tmp_path: Path) -> Iterator[str]:
    """The URL of a played Ollama."""
    with elsewhere(instance(tmp_path, load_profile("2x-small"))) as port:
        yield f"http://127.0.0.1:{port}"
