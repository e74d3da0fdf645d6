"""The environment of one instance: Ollama's variables, read as Ollama reads them, and the simulator's own.

AUTOTUNE_SIM_PROFILE     a shipped profile's name or a path (default 4x-rtx2080ti)
AUTOTUNE_SIM_TIME_SCALE  time compression, instead of the profile's
AUTOTUNE_SIM_STATE       the directory through which the instances of one played host know each other
                         (default $HOME/.autotune-simulator)
AUTOTUNE_SIM_SEED        makes answers and jitter repeatable; another seed is another process life
AUTOTUNE_SIM_FAULT       what is to go wrong, comma-separated, for tests: see `Faults`
"""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from autotune.simulator.profiles import DeviceProfile

FOREVER_S = (2**63 - 1) / 1e9
"""Go's longest duration: what Ollama makes of a negative keep_alive."""

TRUE_WORDS = frozenset({"1", "t", "T", "true", "TRUE", "True"})
FALSE_WORDS = frozenset({"0", "f", "F", "false", "FALSE", "False"})

UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(h|ms|m|s|us|µs|ns)")


SHOWN = [
    "GGML_VK_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "HIP_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION", "HTTPS_PROXY",
    "HTTP_PROXY", "LLAMA_ARG_FIT", "LLAMA_ARG_FIT_TARGET", "NO_PROXY", "OLLAMA_EDITOR", "OLLAMA_IGPU_ENABLE",
    "OLLAMA_LLM_LIBRARY", "ROCR_VISIBLE_DEVICES", "http_proxy", "https_proxy", "no_proxy",
]  # fmt: skip
"""Variables that Ollama repeats in its log as they are."""

SHOWN_FLAGS = {
    "OLLAMA_DEBUG_LOG_REQUESTS": False, "OLLAMA_GO_TEMPLATE": True, "OLLAMA_NOHISTORY": False, "OLLAMA_NOPRUNE": False,
    "OLLAMA_NO_CLOUD": False, "OLLAMA_VULKAN": True,
}  # fmt: skip
"""Booleans without effect here, which Ollama repeats in its log as it understood them, and their defaults."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What is to go wrong.

    die_at_start       exits with 1 before it listens
    never_answer       listens, but answers nothing
    load_fails         every load ends as if the device had no memory
    die_under_load:N   is gone, as after SIGKILL, in the middle of the Nth answer
    error_mid_stream:N the model's process breaks in the middle of the Nth answer, once (N is 1 where left out)
    """

    die_at_start: bool = False
    never_answer: bool = False
    load_fails: bool = False
    die_under_load: int = 0
    error_mid_stream: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an instance reads from its environment."""

    host: str
    port: int
    num_parallel: int
    max_queue: int
    max_loaded_models: int
    context_length: int
    """0: by the memory of the visible devices."""
    keep_alive_s: float
    load_timeout: str
    kv_cache_type: str
    flash_attention: bool | None
    sched_spread: bool
    cuda_visible_devices: str | None
    fit: bool
    fit_target_mib: int
    models: Path
    shown: Mapping[str, str]
    """Variables that are only repeated in the log."""
    profile: str
    time_scale: float | None
    state: Path
    seed: str
    faults: Faults


def read(environ: Mapping[str, str]) -> Settings:
    """The settings of this environment. Ollama forgives nearly everything; the simulator's own variables do not."""
    home = Path(_text(environ, "HOME") or "/")
    host, port = address(_text(environ, "OLLAMA_HOST"))
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    return Settings(
        host=host,
        port=port,
        num_parallel=max(1, _uint(environ, "OLLAMA_NUM_PARALLEL", 1)),
        max_queue=_uint(environ, "OLLAMA_MAX_QUEUE", 512),
        max_loaded_models=_uint(environ, "OLLAMA_MAX_LOADED_MODELS", 0),
        context_length=_uint(environ, "OLLAMA_CONTEXT_LENGTH", 0),
        keep_alive_s=_keep_alive(_text(environ, "OLLAMA_KEEP_ALIVE")),
        load_timeout=go_duration(_keep_alive(_text(environ, "OLLAMA_LOAD_TIMEOUT"))),
        kv_cache_type=_text(environ, "OLLAMA_KV_CACHE_TYPE").lower(),
        flash_attention=boolean(_text(environ, "OLLAMA_FLASH_ATTENTION")),
        sched_spread=bool(boolean(_text(environ, "OLLAMA_SCHED_SPREAD"))),
        cuda_visible_devices=None if visible is None else _trimmed(visible),
        fit=_text(environ, "LLAMA_ARG_FIT").lower() not in {"off", "0", "false", "disabled"},
        fit_target_mib=_uint(environ, "LLAMA_ARG_FIT_TARGET", 1024),
        models=Path(_text(environ, "OLLAMA_MODELS") or home / ".ollama" / "models"),
        shown=_shown(environ),
        profile=_text(environ, "AUTOTUNE_SIM_PROFILE") or "4x-rtx2080ti",
        time_scale=_scale(_text(environ, "AUTOTUNE_SIM_TIME_SCALE")),
        state=Path(_text(environ, "AUTOTUNE_SIM_STATE") or home / ".autotune-simulator"),
        seed=_text(environ, "AUTOTUNE_SIM_SEED"),
        faults=_faults(_text(environ, "AUTOTUNE_SIM_FAULT")),
    )


def address(value: str) -> tuple[str, int]:
    """Host and port of an OLLAMA_HOST; an empty host stands for all interfaces."""
    scheme, separator, rest = value.partition("://")
    if not separator:
        scheme, rest = "", value
    port = {"http": 80, "https": 443}.get(scheme, 11434)
    rest = rest.partition("/")[0]
    host, colon, digits = rest.rpartition(":")
    if not colon or rest.endswith("]") or _is_address(rest):
        host, digits = rest, ""
    if digits.isdecimal() and int(digits) < 65536:
        port = int(digits)
    host = host.strip("[]")
    return (host if host or colon else "127.0.0.1"), port


def boolean(value: str) -> bool | None:
    """Go's words; anything else that is set counts as true, `off` included."""
    if not value:
        return None
    return value not in FALSE_WORDS


def duration_s(value: str) -> float | None:
    """A Go duration or whole seconds, s; None if it is neither."""
    sign = -1.0 if value.startswith("-") else 1.0
    bare = value.lstrip("+-")
    if bare.isdecimal():
        return sign * float(bare)
    parts = DURATION.findall(bare)
    if not parts or "".join(number + unit for number, unit in parts) != bare:
        return None
    return sign * sum(float(number) * UNITS_S[unit] for number, unit in parts)


def go_duration(seconds: float) -> str:
    """As Go prints it: 5m0s, 1h2m3.5s, 250ms."""
    if not seconds:
        return "0s"
    ns = min(round(seconds * 1e9), 2**63 - 1)
    for limit, unit, size in ((1_000, "ns", 1), (1_000_000, "µs", 1_000), (1_000_000_000, "ms", 1_000_000)):
        if ns < limit:
            return _decimal(ns, size) + unit
    hours, rest = divmod(ns, 3600 * 10**9)
    minutes, rest = divmod(rest, 60 * 10**9)
    text = f"{_decimal(rest, 10**9)}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def visible(devices: Iterable[DeviceProfile], selection: str | None) -> list[tuple[str, DeviceProfile]]:
    """The devices CUDA would show, each with the word that selected it; the first wrong word ends the list."""
    known = list(devices)
    if selection is None:
        return [(str(ordinal), device) for ordinal, device in enumerate(known)]
    chosen: list[tuple[str, DeviceProfile]] = []
    for word in (part.strip() for part in selection.split(",")):
        device = _device(known, word)
        if device is None or device in [seen for _, seen in chosen]:
            break
        chosen.append((word, device))
    return chosen


def _device(devices: list[DeviceProfile], word: str) -> DeviceProfile | None:
    if word.isdecimal():
        return devices[int(word)] if int(word) < len(devices) else None
    matching = [device for device in devices if word.startswith("GPU-") and device.uuid.startswith(word)]
    return matching[0] if len(matching) == 1 else None


def _trimmed(value: str) -> str:
    return value.strip().strip("\"'")


def _text(environ: Mapping[str, str], key: str) -> str:
    return _trimmed(environ.get(key, ""))


def _uint(environ: Mapping[str, str], key: str, default: int) -> int:
    value = _text(environ, key)
    return int(value) if value.isdecimal() else default


def _shown(environ: Mapping[str, str]) -> dict[str, str]:
    flags = {key: boolean(_text(environ, key)) for key in SHOWN_FLAGS}
    words = {key: str(SHOWN_FLAGS[key] if flag is None else flag).lower() for key, flag in flags.items()}
    return {key: _text(environ, key) for key in SHOWN} | words


def _keep_alive(value: str) -> float:
    seconds = duration_s(value) if value else None
    if seconds is None:
        return 300.0
    return seconds if seconds >= 0 else FOREVER_S


def _scale(value: str) -> float | None:
    if not value:
        return None
    try:
        scale = float(value)
    except ValueError:
        scale = math.nan
    if not (0 < scale < math.inf):
        raise SpecError(f"AUTOTUNE_SIM_TIME_SCALE = {value!r}: must be a number above 0")
    return scale


def _faults(value: str) -> Faults:
    counts: dict[str, int] = {}
    for word in filter(None, (part.strip() for part in value.split(","))):
        name, _, count = word.partition(":")
        counted = name in {"die_under_load", "error_mid_stream"} and (count or "1").isdecimal()
        if not counted and (name not in {"die_at_start", "never_answer", "load_fails"} or count):
            known = "die_at_start, never_answer, load_fails, die_under_load:N, error_mid_stream:N"
            raise SpecError(f"AUTOTUNE_SIM_FAULT = {word!r}: must be one of {known}")
        counts[name] = int(count or 1)
    return Faults(
        die_at_start="die_at_start" in counts,
        never_answer="never_answer" in counts,
        load_fails="load_fails" in counts,
        die_under_load=counts.get("die_under_load", 0),
        error_mid_stream=counts.get("error_mid_stream", 0),
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _decimal(ns: int, size: int) -> str:
    whole, part = divmod(ns, size)
    digits = f"{part:0{len(str(size)) - 1}d}".rstrip("0") if size > 1 else ""
    return f"{whole}.{digits}" if digits else str(whole)
