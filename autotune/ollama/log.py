"""What an Ollama server wrote to its log: the only place where it says how a model was really loaded.

The lines are those of 0.11 to 0.33; `tests/recordings` has real ones.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_ARGV = re.compile(r'msg="starting llama-server" cmd="((?:[^"\\]|\\.)*)"')
_START = re.compile(r'msg="starting (?:llama-server|runner)" cmd="[^\n]* --model ')
_REQUEST = re.compile(r'msg=load request="?\{Operation:(?:fit|alloc|commit) .*?\bParallel:(\d+)')
_SINGLE = re.compile(r'msg="model architecture does not currently support parallel requests"')
_COMPUTE = re.compile(r'msg="inference compute" id=(\S+)(?: filter_id=(\S*))? library=(\S+)')
_NOISE = re.compile(r"^\[GIN|^$|^\.+$")


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How the log says that the model was loaded; None where it does not say."""

    layers_on_device: int | None = None
    layers: int | None = None
    num_parallel: int | None = None
    parallel_unsupported: bool = False
    """Ollama forces NUM_PARALLEL 1 for this model's architecture, and said so."""
    compute: tuple[str, ...] = ()
    """Devices that the server found, as it names them; ("cpu",) when it found no GPU."""


def read_load(log: str) -> LoadReport:
    """The last load in `log`."""
    start = _last(_START, log)
    offloaded = _last(_OFFLOADED, log[start.start() :] if start else log)
    return LoadReport(
        layers_on_device=int(offloaded[1]) if offloaded else None,
        layers=int(offloaded[2]) if offloaded else None,
        num_parallel=_parallel(log),
        parallel_unsupported=_SINGLE.search(log) is not None,
        compute=tuple(_word(match[2]) or match[1] for match in _COMPUTE.finditer(log)),
    )


def argv_parallel(argv: list[str]) -> int | None:
    """The slots in the arguments of the process that serves the model (≥ 0.30 `-np`, ≤ 0.11.4 `--parallel`)."""
    for flag in ("-np", "--parallel"):
        if flag in argv[:-1]:
            return int(argv[argv.index(flag) + 1])
    return None


def last_words(log: str, lines: int = 8) -> str:
    """The end of a log without access lines and progress dots."""
    return "\n".join([line[:400] for line in log.splitlines() if not _NOISE.match(line)][-lines:])


def _parallel(log: str) -> int | None:
    argv = _last(_ARGV, log)
    if argv:
        return argv_parallel(argv[1].split())
    request = _last(_REQUEST, log)
    return int(request[1]) if request else None


def _word(value: str | None) -> str:
    return (value or "").strip('"')


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None
