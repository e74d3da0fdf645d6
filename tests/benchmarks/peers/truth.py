"""The truth server from Python: `truth.c`, compiled where it is needed, and the log that it leaves."""

from __future__ import annotations

import csv
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCE = Path(__file__).with_name("truth.c")
MODEL = "truth"


def compiler() -> str | None:
    """The C compiler of this machine, if it has one."""
    return shutil.which("cc") or shutil.which("gcc")


def build(folder: Path, *flags: str) -> Path:
    """The server, compiled into the folder. There has to be a compiler."""
    found = compiler()
    assert found is not None, "no C compiler (cc, gcc) to build the truth server with"
    program = folder / "truth"
    subprocess.run([found, "-O2", *flags, "-o", str(program), str(SOURCE)], check=True)
    return program


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as the server saw it. Times are `time.monotonic()`'s, 0 for what never happened."""

    connection: int
    dialect: str
    """Which endpoint; "other" for all that is no generation."""
    asked: int
    tokens: int
    """How many were sent: fewer than asked where the client left."""
    received_at: float
    head_at: float
    first_at: float
    last_at: float


class Truth:
    """A server that runs while it is entered."""

    def __init__(self, program: Path, log: Path, options: Sequence[str] = ()) -> None:
        self._command = [str(program), "--log", str(log), *options]
        self._log = log
        self.url = ""

    def __enter__(self) -> Self:
        self._log.unlink(missing_ok=True)
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        told = self._process.stdout.readline()
        if not told.startswith("port "):
            self.__exit__()
            raise RuntimeError("the truth server did not start; it has said why")
        self.url = f"http://127.0.0.1:{told.split()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.terminate()
            self._process.communicate()

    def stop(self) -> list[Answer]:
        """End it, and return what it saw, in the order in which requests came."""
        self.__exit__()
        with self._log.open(newline="") as file:
            return [_answer(row) for row in csv.DictReader(file)]


def _answer(row: dict[str, str]) -> Answer:
    return Answer(
        connection=int(row["connection"]),
        dialect=row["dialect"],
        asked=int(row["asked"]),
        tokens=int(row["tokens"]),
        received_at=int(row["received_ns"]) / 1e9,
        head_at=int(row["head_ns"]) / 1e9,
        first_at=int(row["first_ns"]) / 1e9,
        last_at=int(row["last_ns"]) / 1e9,
    )
