"""What a configuration really does: a closed loop over tables, simulated event by event in C (`truth.c`)."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

SOURCE = Path(__file__).with_name("truth.c")
POLICIES = ("round_robin", "least_conn", "random_two")
STATS, EACH = 7, 10
WARM, REQUESTS, SAMPLES = 150, 600, 4096


@dataclass(frozen=True, slots=True)
class Engine:
    """One instance, as tables."""

    slots: int
    steps: tuple[float, ...]
    """Seconds of a decode step with 1, 2, … busy slots."""
    base_s: float
    """Of reading any prompt."""
    token_s: float
    """Of reading one token of it."""
    group: int = 0
    """Instances of one group share a device."""
    weight: float = 1.0
    """The balancer's."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A whole cluster, as tables. Nothing else decides what is simulated, so that equal setups are simulated once."""

    engines: tuple[Engine, ...]
    policy: str = "round_robin"
    phi: float = 0.0
    """The share of their speed at which decoders go on while a prompt is read."""
    crowd: tuple[float, ...] = ()
    """A factor on all times of an instance by how many of its group are busy, from 1; the last goes on."""
    host: tuple[float, ...] = ()
    """A factor on all steps by how many slots are busy in all, from 1; the last goes on."""
    overhead_s: float = 0.0
    """From the balancer to the queue of an instance."""
    serial_s: float = 0.0
    """What the balancer itself takes for each request, one after the other."""


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop. The lengths are common to all setups: the same seed asks the same questions."""

    users: int
    input_tokens: float
    output_tokens: float
    input_spread: float = 0.0
    output_spread: float = 0.0
    seed: int = 0

    def lengths(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Prompts and answers, log-normal, whole tokens, at least 2."""
        return _lengths(self.seed, (self.input_tokens, self.input_spread), (self.output_tokens, self.output_spread))


@dataclass(frozen=True, slots=True)
class Times:
    """A sample of times, seconds."""

    n: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Share:
    """What one instance did."""

    requests: int
    tokens_per_s: float
    busy: float
    generating: float
    most: int
    """The most slots that were busy at one moment."""
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    tpot_mean_s: float
    tpot_p50_s: float


@dataclass(frozen=True, slots=True)
class Truth:
    """What a configuration really does under a load."""

    users: int
    window_s: float
    tps: float
    requests_per_s: float
    busy: float
    """Mean slots that are taken, prompts that are read included."""
    generating: float
    """Mean slots whose prompt is read, so that tokens come."""
    in_flight: float
    answers: int
    input_tokens: float
    output_tokens: float
    ttft: Times
    tpot: Times
    e2e: Times
    queue: Times
    prefill: Times
    """From the slot to the first token."""
    instances: tuple[Share, ...]


class NoCompiler(Exception):
    """There is nothing to build the simulation with."""


def simulate(setup: Setup, load: Load) -> Truth:
    """What the setup does under the load: `REQUESTS` answers or more, after a warm-up."""
    engines = setup.engines
    count = len(engines)
    prompts, answers = load.lengths()
    width = max(max(len(engine.steps), min(engine.slots, load.users)) for engine in engines) + 1
    arrays = {
        "slots": _ints(engine.slots for engine in engines),
        "group": _ints(engine.group for engine in engines),
        "steps": np.array([_table(engine.steps, width) for engine in engines]),
        "base_s": _floats(engine.base_s for engine in engines),
        "token_s": _floats(engine.token_s for engine in engines),
        "weights": _floats(engine.weight for engine in engines),
        "crowd": np.array(_table(setup.crowd or (1.0,), count + 1)),
        "host": np.array(_table(setup.host or (1.0,), load.users + 1)),
        "prompts": prompts,
        "answers": answers,
    }
    asked = _Input(
        users=load.users, instances=count, groups=max(engine.group for engine in engines) + 1, width=width,
        policy=POLICIES.index(setup.policy), warm=max(WARM, 3 * load.users), requests=max(REQUESTS, 8 * load.users),
        samples=len(prompts), seed=load.seed, phi=setup.phi, overhead_s=setup.overhead_s, serial_s=setup.serial_s,
        **{name: array.ctypes.data for name, array in arrays.items()},
    )  # fmt: skip
    found, each = _Output(), np.zeros((count, EACH))
    if _library().simulate(ctypes.byref(asked), ctypes.byref(found), ctypes.c_void_p(each.ctypes.data)):
        raise MemoryError("no memory for a simulation")
    return _truth(load.users, found, each)


def build() -> Path:
    """The library, compiled once for each version of its source. Raises NoCompiler."""
    library = cache() / f"truth-{source_hash()}.so"
    if library.exists():
        return library
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompiler("the benchmark's clusters are simulated in C: there is no C compiler (cc, gcc, clang) on PATH")
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        made = Path(folder) / library.name
        strict = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run([compiler, *strict, "-o", str(made), str(SOURCE), "-lm"], check=True)
        made.replace(library)  # another process may build at the same time
    return library


def cache() -> Path:
    """The folder for what is computed once."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "ollama-autotune-benchmark"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"ollama-autotune-benchmark-{os.getuid()}"
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.cache
def source_hash() -> str:
    """Of all that decides a truth: what is cached under another one is out of date."""
    digest = hashlib.sha256()
    for path in (SOURCE, *sorted(SOURCE.parent.glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class _Input(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("users", "instances", "groups", "width")),
        *((name, ctypes.c_int32) for name in ("policy", "warm", "requests", "samples")),
        ("seed", ctypes.c_uint64),
        *((name, ctypes.c_double) for name in ("phi", "overhead_s", "serial_s")),
        *((name, ctypes.c_void_p) for name in ("slots", "group", "steps", "base_s", "token_s", "weights")),
        *((name, ctypes.c_void_p) for name in ("crowd", "host", "prompts", "answers")),
    )


_SCALARS = (
    "window_s", "tokens_per_s", "requests_per_s", "busy", "generating", "in_flight", "answers", "prompt_tokens",
    "answer_tokens",
)  # fmt: skip
_TIMES = ("ttft", "tpot", "e2e", "queue", "prefill")


class _Output(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_double) for name in _SCALARS),
        *((name, ctypes.c_double * STATS) for name in _TIMES),
    )


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(build()))
    library.simulate.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    library.simulate.restype = ctypes.c_int
    return library


def _truth(users: int, found: _Output, each: NDArray[np.float64]) -> Truth:
    scalars = [float(getattr(found, name)) for name in _SCALARS]
    window_s, tps, requests_per_s, busy, generating, in_flight, answers, prompt, answer = scalars
    times = {name: _times(getattr(found, name)) for name in _TIMES}
    shares = tuple(map(_share, each.tolist()))
    return Truth(
        users, window_s, tps, requests_per_s, busy, generating, in_flight, int(answers), prompt, answer,
        **times, instances=shares,
    )  # fmt: skip


def _share(row: Sequence[float]) -> Share:
    requests, tokens_per_s, busy, generating, most, *times = row
    mean_s, p50_s, p95_s, tpot_mean_s, tpot_p50_s = times
    return Share(
        int(requests), tokens_per_s, busy, generating, int(most), mean_s, p50_s, p95_s, tpot_mean_s, tpot_p50_s
    )


def _times(values: Sequence[float]) -> Times:
    n, *rest = values
    return Times(int(n), *rest)


def _table(values: Sequence[float], width: int) -> list[float]:
    """By count, from 0, which does not occur; the last value goes on."""
    padded = [values[0], *values, *[values[-1]] * max(0, width - 1 - len(values))]
    return padded[:width]


def _ints(values: Iterable[int]) -> NDArray[np.int32]:
    return np.array(list(values), dtype=np.int32)


def _floats(values: Iterable[float]) -> NDArray[np.float64]:
    return np.array(list(values), dtype=np.float64)


@functools.lru_cache(maxsize=8)
def _lengths(
    seed: int, prompt: tuple[float, float], answer: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng((seed, 1))
    return _log_normal(rng, *prompt), _log_normal(rng, *answer)


def _log_normal(rng: np.random.Generator, mean: float, spread: float) -> NDArray[np.float64]:
    sigma = np.sqrt(np.log1p(spread * spread))
    drawn = mean * np.exp(sigma * rng.standard_normal(SAMPLES) - sigma * sigma / 2)
    return np.asarray(np.maximum(2.0, np.round(drawn)), dtype=np.float64)
