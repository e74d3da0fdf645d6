"""What a server is told, in the words of its version."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.ollama.env import Settings, has_llama_server, model_parameters, parse_version, server_env

OLD, NEW = "0.24.0", "0.32.15"
ALWAYS = {
    "OLLAMA_NUM_PARALLEL": "4",
    "OLLAMA_CONTEXT_LENGTH": "2048",
    "OLLAMA_KEEP_ALIVE": "-1",
    "OLLAMA_MAX_LOADED_MODELS": "1",
    "OLLAMA_VULKAN": "0",
    "OLLAMA_NOPRUNE": "1",
    "OLLAMA_NO_CLOUD": "1",
}


def settings(**changes: object) -> Settings:
    return Settings(**{"num_parallel": 4, "num_ctx": 2048, **changes})  # type: ignore[arg-type]


def beyond(version: str, **changes: object) -> dict[str, str]:
    """What these settings add to what every server is told."""
    env = server_env(settings(**changes), version)
    assert env.items() >= ALWAYS.items()
    return {name: value for name, value in env.items() if name not in ALWAYS}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.32.15", (0, 32, 15)),
        ("0.32.15-rc1", (0, 32, 15)),
        ("0.30", (0, 30, 0)),
        ("1.2.3+abc", (1, 2, 3)),
        ("0.0.0", (999, 0, 0)),
        ("", (999, 0, 0)),
        ("unknown", (999, 0, 0)),
    ],
)
def test_versions(text: str, version: tuple[int, int, int]) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("version", "new"), [("0.29.9", False), ("0.24.0", False), ("0.30.0", True), ("0.30.0-rc1", True), ("0.0.0", True)]
)
def test_llama_server_begins_with_0_30(version: str, new: bool) -> None:
    assert has_llama_server(version) is new


@pytest.mark.parametrize("version", [OLD, NEW])
def test_what_is_left_to_ollama_is_not_written(version: str) -> None:
    assert beyond(version) == {}


@pytest.mark.parametrize("version", [OLD, NEW])
def test_flash_attention_and_spread_are_the_same_in_all_versions(version: str) -> None:
    assert beyond(version, flash_attention="on") == {"OLLAMA_FLASH_ATTENTION": "1"}
    assert beyond(version, flash_attention="off") == {"OLLAMA_FLASH_ATTENTION": "0"}
    assert beyond(version, spread=True) == {"OLLAMA_SCHED_SPREAD": "1"}


def test_a_quantised_cache_needs_flash_attention_told_before_0_30() -> None:
    assert beyond(NEW, kv_cache_type="q8_0") == {"OLLAMA_KV_CACHE_TYPE": "q8_0"}
    assert beyond(OLD, kv_cache_type="q8_0") == {"OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_FLASH_ATTENTION": "1"}
    off = beyond(OLD, kv_cache_type="q8_0", flash_attention="off")
    assert off == {"OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_FLASH_ATTENTION": "0"}


def test_threads_are_told_to_llama_server_and_else_need_a_derived_model() -> None:
    assert beyond(NEW, threads=2) == {"LLAMA_ARG_THREADS": "2"}
    assert beyond(OLD, threads=2) == {}
    assert model_parameters(settings(threads=2), NEW, None, {}) == {}
    assert model_parameters(settings(threads=2), OLD, None, {}) == {"num_thread": 2}
    assert model_parameters(settings(threads=2), NEW, None, {"num_thread": "8"}) == {"num_thread": 2}


def test_memory_to_leave_free() -> None:
    assert beyond(NEW, memory_free_bytes=3 << 30) == {"LLAMA_ARG_FIT_TARGET": "3072"}
    assert beyond(OLD, memory_free_bytes=3 << 30) == {"OLLAMA_GPU_OVERHEAD": str(3 << 30)}
    assert beyond(NEW, memory_free_bytes=0) == {"LLAMA_ARG_FIT_TARGET": "0"}


@pytest.mark.parametrize("version", [OLD, NEW])
def test_num_batch_needs_a_derived_model(version: str) -> None:
    assert model_parameters(settings(), version, 512, {}) == {"num_batch": 512}


def test_a_context_of_the_models_own_is_overridden_where_it_differs() -> None:
    assert model_parameters(settings(), NEW, None, {"num_ctx": "8192"}) == {"num_ctx": 2048}
    assert model_parameters(settings(), NEW, None, {"num_ctx": "2048", "temperature": "1"}) == {}


@given(
    st.builds(
        Settings,
        num_parallel=st.integers(1, 512),
        num_ctx=st.integers(4, 1 << 20),
        flash_attention=st.sampled_from(["auto", "on", "off"]),
        kv_cache_type=st.sampled_from(["f16", "q8_0", "q4_0"]),
        threads=st.none() | st.integers(1, 256),
        spread=st.booleans(),
        memory_free_bytes=st.none() | st.integers(0, 1 << 40),
    ),
    st.sampled_from([OLD, NEW, "0.0.0"]),
)
def test_a_server_is_told_only_variables_that_an_export_can_set(written: Settings, version: str) -> None:
    env = server_env(written, version)
    assert all(name.startswith(("OLLAMA_", "LLAMA_ARG_")) and value for name, value in env.items())
    assert env["OLLAMA_NUM_PARALLEL"] == str(written.num_parallel)
    assert not has_llama_server(version) or "OLLAMA_GPU_OVERHEAD" not in env
    assert has_llama_server(version) or not any(name.startswith("LLAMA_ARG_") for name in env)
