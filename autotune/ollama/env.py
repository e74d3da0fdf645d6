"""What an environment variable of Ollama means, and since which version.

Source: Ollama's `envconfig/config.go` and `llm/`; llama.cpp's `common/arg.cpp` for `LLAMA_ARG_*`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from autotune.space.forecast import FIT_MARGIN_BYTES, OLD_MARGIN_BYTES

LLAMA_SERVER_SINCE = (0, 30, 0)
"""From here on models are served by llama.cpp's `llama-server`, which reads `LLAMA_ARG_*` from the environment."""

LIBRARIES = "LD_LIBRARY_PATH"
"""Where a server finds its GPU libraries: the one inherited variable that can change what is measured."""
INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", LIBRARIES)
"""What an instance keeps of our own environment: all else would differ from the exported units."""


def parse_version(text: str) -> tuple[int, int, int]:
    """ "0.32.15-rc1" → (0, 32, 15). A build from source says 0.0.0; it is taken for the newest."""
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    version = (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)
    return version if any(version) else (999, 0, 0)


def has_llama_server(version: str) -> bool:
    """Whether this Ollama serves models by `llama-server`."""
    return parse_version(version) >= LLAMA_SERVER_SINCE


@dataclass(frozen=True, slots=True)
class Settings:
    """What one server is told, in words that do not depend on its version."""

    num_parallel: int
    num_ctx: int
    flash_attention: str = "auto"
    kv_cache_type: str = "f16"
    threads: int | None = None
    spread: bool = False
    """Several devices are to share the model, also where one would do."""
    memory_free_bytes: int | None = None
    """To leave free on each device; None leaves it to Ollama."""


def server_env(settings: Settings, version: str) -> dict[str, str]:
    """The variables that make a server of `version` behave as `settings` say."""
    env = {
        "OLLAMA_NUM_PARALLEL": str(settings.num_parallel),
        "OLLAMA_CONTEXT_LENGTH": str(settings.num_ctx),
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_VULKAN": "0",  # else a GPU that is hidden from CUDA comes back through Vulkan
        "OLLAMA_NOPRUNE": "1",  # several servers share one store
        "OLLAMA_NO_CLOUD": "1",
    }
    if settings.flash_attention != "auto":
        env["OLLAMA_FLASH_ATTENTION"] = "1" if settings.flash_attention == "on" else "0"
    elif settings.kv_cache_type != "f16" and not has_llama_server(version):
        env["OLLAMA_FLASH_ATTENTION"] = "1"  # without it the type is ignored, and only the log says so
    if settings.kv_cache_type != "f16":
        env["OLLAMA_KV_CACHE_TYPE"] = settings.kv_cache_type
    if settings.spread:
        env["OLLAMA_SCHED_SPREAD"] = "1"
    if settings.threads is not None and has_llama_server(version):
        env["LLAMA_ARG_THREADS"] = str(settings.threads)
    if settings.memory_free_bytes is not None:
        env |= _memory_left_free(settings.memory_free_bytes, version)
    return env


def _memory_left_free(free_bytes: int, version: str) -> dict[str, str]:
    if has_llama_server(version):
        return {"LLAMA_ARG_FIT_TARGET": str(free_bytes // 2**20)}
    return {"OLLAMA_GPU_OVERHEAD": str(free_bytes)}


def left_free_bytes(asked_bytes: int | None, version: str) -> int:
    """What a server leaves free on each GPU that is told to leave so much, or nothing (None)."""
    if has_llama_server(version):
        return FIT_MARGIN_BYTES if asked_bytes is None else asked_bytes
    return OLD_MARGIN_BYTES + (asked_bytes or 0)


def model_parameters(settings: Settings, version: str, num_batch: int | None, own: dict[str, str]) -> dict[str, int]:
    """Parameters that only a derived model can set; empty where the environment says it all.

    `own` are the model's own parameters: a `num_ctx` among them would win over OLLAMA_CONTEXT_LENGTH.
    """
    parameters = {}
    if num_batch is not None:
        parameters["num_batch"] = num_batch
    if settings.threads is not None and (not has_llama_server(version) or "num_thread" in own):
        parameters["num_thread"] = settings.threads
    if "num_ctx" in own and own["num_ctx"] != str(settings.num_ctx):
        parameters["num_ctx"] = settings.num_ctx
    return parameters
