"""A terminal that keeps what is written to it, and a clock that goes on when a test says so."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

from rich.console import Console

ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-8]|4[0-8]|9[0-7])[0-9;]*m")


@dataclass
class Clock:
    """Time, by hand."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


def screen(width: int = 140, *, terminal: bool = False, height: int = 60) -> Console:
    """A terminal, or what stands for one in a log."""
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=terminal)


def text(on: Console) -> str:
    """All that was written, with its control sequences."""
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def words(on: Console) -> str:
    """The same as one line of words."""
    return " ".join(ANSI.sub("", text(on)).replace("│", " ").split())
