"""What an Ollama server wrote to its log: the only place where it says how a model was really loaded.

The lines are those of 0.11 to 0.33; `tests/recordings` has real ones.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Literal

_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_ARGV = re.compile(r'msg="starting llama-server" cmd="((?:[^"\\]|\\.)*)"')
_START = re.compile(r'msg="starting (?:llama-server|runner)" cmd="[^\n]* --model ')
_REQUEST = re.compile(r'msg=load request="?\{Operation:(?:fit|alloc|commit) .*?\bParallel:(\d+)')
_SINGLE = re.compile(r'msg="model architecture does not currently support parallel requests"')
_COMPUTE = re.compile(r'msg="inference compute" id=(\S+)(?: filter_id=(\S*))? library=(\S+)')
_ENDED = re.compile(r'msg="(?:llama-server|llama runner) terminated" error="([^"]*)"')
_OF_DEVICE = re.compile(
    r"cudaMalloc failed|hipMalloc failed|CUDA error: out of memory|(?:HIP|ROCm) error: out of memory"
    r"|out of device memory|ErrorOutOfDeviceMemory|VK_ERROR_OUT_OF_DEVICE_MEMORY|allocating .* on device \d+"
    r"|failed to allocate (?:CUDA|ROCm|Vulkan)\S* buffer",
    re.IGNORECASE,
)
_OF_HOST = re.compile(
    r"requires more system memory|CPU\S* buffer.*failed|failed to allocate .*CPU\S* buffer|cannot allocate memory"
    r"|std::bad_alloc|not enough memory|insufficient memory|out of memory|failed to allocate"
    r"|allocation failed",
    re.IGNORECASE,
)
_RECOVERED = "retrying without pipeline parallelism"
"""llama.cpp says of such a line that it goes on with less."""
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
    offloaded = _last(_OFFLOADED, last_load(log))
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


def wanting(text: str) -> Literal["device", "host"] | None:
    """Whose memory was not enough, by what an answer or a log says; None where it was something else.

    Ollama and llama.cpp have no code for it, only words: those that Ollama itself looks for (`llm/llama_server.go`).
    What names no device and no buffer of one is taken to be the host's.
    """
    lines = [line for line in text.splitlines() if _RECOVERED not in line]
    if any(map(_OF_DEVICE.search, lines)):
        return "device"
    return "host" if any(map(_OF_HOST.search, lines)) else None


def last_load(log: str) -> str:
    """What was written since a model was last begun to be loaded."""
    start = _last(_START, log)
    return log[start.start() :] if start else log


def ended(log: str) -> str:
    """How the process that serves the model ended last, in Go's words ("signal: killed"); empty where it did not."""
    found = _last(_ENDED, log)
    return found[1] if found else ""


def last_words(log: str, lines: int = 8) -> str:
    """The end of a log without access lines and progress dots; of a panic its beginning, which has the reason."""
    told = [line[:400] for line in log.splitlines() if not _NOISE.match(line)]
    panics = [at for at, line in enumerate(told) if line.startswith(("panic: ", "fatal error: "))]
    first = min([*panics[-1:], max(len(told) - lines, 0)])
    return "\n".join(told[first : first + lines])


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
