"""The stand-in against what real Ollama servers answered: same requests, same shapes."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from autotune.simulator.profiles import MIB, ModelProfile, Profile, load_profile
from tests.simulator.exchange import (
    RECORDINGS,
    Response,
    generate,
    instance,
    recorded,
    recorded_request,
    send,
    shape,
    shapes,
)

if TYPE_CHECKING:
    from pathlib import Path

CPU_VERSION = "v0.32.15"
GPU_VERSION = "v0.32.15-gpu"
FIRST_GPU = "GPU-20800000-0000-4000-8000-000000000000"

SEQUENCE = [
    "version",
    "root",
    "root-head",
    "tags",
    "ps-empty",
    "preload",
    "ps-loaded",
    "generate-stream",
    "generate-nostream",
    "generate-one-token",
    "generate-utf8",
    "generate-template-not-raw",
    "chat-stream",
    "chat-nostream",
    "generate-unknown-option",
    "v1-models",
    "generate-missing-model",
    "generate-empty-model",
    "generate-bad-json",
    "generate-bad-type",
    "generate-bad-option-type",
    "no-such-route",
    "wrong-method",
    "show-missing",
    "embed-not-supported-or-vector",
    "v1-chat-stream",
    "v1-chat-stream-usage",
    "v1-completions-stream-usage",
    "v1-chat-nostream",
    "v1-bad-json",
    "v1-missing-model",
    "ps-after-v1",
    "generate-other-num-ctx-reloads",
    "generate-num-ctx-over-training",
    "ps-clamped-num-ctx",
    "generate-prompt-longer-than-num-ctx",
    "unload",
    "ps-after-unload",
]
"""One server's day, in the order in which it was recorded."""

BIG = {
    "name": "tiny", "layers": 35, "weights_mib": 7500, "embedding_mib": 400, "kv_mib_per_1024_tokens": 120,
    "compute_mib": 520, "step_base_s": 0.001, "step_slot_s": 0.0001, "load_s": 0.01, "warm_load_s": 0.01,
    "context_length": 8192,
}  # fmt: skip
"""The model of the GPU recordings: 15360 MiB of cache for 131072 tokens."""


def cpu_profile() -> Profile:
    small = load_profile("2x-small")
    tiny = small.model("tiny").model_copy(update={"load_s": 0.01})
    others = [tiny.model_copy(update={"name": name}) for name in ("small", "const")]
    host = small.host.model_copy(update={"cpu_slowdown": 1.0})
    return small.model_copy(update={"models": (tiny, *others), "host": host})


def gpu_profile(**changes: object) -> Profile:
    return load_profile("4x-rtx2080ti").model_copy(update={"models": (ModelProfile.model_validate(BIG | changes),)})


def assert_alike(name: str, ours: Response, theirs: Response) -> None:
    assert ours.status == theirs.status, name
    for header in ("content-type", "allow", "connection", "transfer-encoding"):
        assert ours.headers.get(header) == theirs.headers.get(header), (name, header)
    if theirs.status >= 400 or not theirs.body.lstrip().startswith((b"{", b"data:")):
        assert ours.body == theirs.body, name
        return
    assert shapes(ours) == shapes(theirs), name


async def test_a_day_on_a_cpu(tmp_path: Path) -> None:
    async with instance(tmp_path, cpu_profile(), CUDA_VISIBLE_DEVICES="-1") as port:
        for name in SEQUENCE:
            ours = await send(port, recorded_request(CPU_VERSION, name))
            assert_alike(name, ours, recorded(CPU_VERSION, name))


async def test_counts_and_reasons_are_those_of_the_request(tmp_path: Path) -> None:
    async with instance(tmp_path, cpu_profile()) as port:
        for name in ("generate-stream", "generate-one-token", "chat-stream", "generate-prompt-longer-than-num-ctx"):
            ours = await send(port, recorded_request(CPU_VERSION, name))
            theirs = recorded(CPU_VERSION, name)
            for field in ("eval_count", "done_reason"):
                assert ours.lines[-1][field] == theirs.lines[-1][field]
            assert len(ours.lines) == len(theirs.lines)
        assert ours.lines[-1]["prompt_eval_count"] == theirs.lines[-1]["prompt_eval_count"] == 514


async def test_show_has_what_was_shown(tmp_path: Path) -> None:
    async with instance(tmp_path, cpu_profile()) as port:
        ours = (await send(port, recorded_request(CPU_VERSION, "show"))).lines[0]
    theirs = recorded(CPU_VERSION, "show").lines[0]
    assert list(ours) == list(theirs)
    for part in ("details", "model_info"):
        for key, value in theirs[part].items():
            assert shape(ours[part][key]) == shape(value), key


async def test_a_full_queue(tmp_path: Path) -> None:
    async with instance(tmp_path, cpu_profile(), OLLAMA_MAX_QUEUE="1") as port:
        raw = recorded_request(CPU_VERSION, "generate-queue-full")
        answers = await asyncio.gather(*(send(port, raw) for _ in range(12)))
        rejected = [answer for answer in answers if answer.status != 200]
        assert len(rejected) == 10
        for answer in rejected:
            assert_alike("generate-queue-full", answer, recorded(CPU_VERSION, "generate-queue-full"))


async def test_a_full_queue_on_v1(tmp_path: Path) -> None:
    async with instance(tmp_path, cpu_profile(), OLLAMA_MAX_QUEUE="0") as port:
        raw = recorded_request(CPU_VERSION, "v1-queue-full")
        answers = await asyncio.gather(*(send(port, raw) for _ in range(3)))
        rejected = next(answer for answer in answers if answer.status == 503)
        assert_alike("v1-queue-full", rejected, recorded(CPU_VERSION, "v1-queue-full"))


async def test_a_model_that_breaks_in_mid_stream(tmp_path: Path) -> None:
    async with instance(tmp_path, gpu_profile(), AUTOTUNE_SIM_FAULT="error_mid_stream:1") as port:
        ours = await send(port, recorded_request(GPU_VERSION, "generate-cuda-error-mid-stream"))
        theirs = recorded(GPU_VERSION, "generate-cuda-error-mid-stream")
        assert_alike("generate-cuda-error-mid-stream", ours, theirs)
        assert ours.complete
        assert ours.lines[-1] == theirs.lines[-1]
        again = await send(port, generate())
        assert again.lines[-1]["done"]
        assert again.lines[-1]["load_duration"] > 5e6


async def test_a_model_that_breaks_in_mid_stream_of_v1(tmp_path: Path) -> None:
    async with instance(tmp_path, cpu_profile(), AUTOTUNE_SIM_FAULT="error_mid_stream:1") as port:
        ours = await send(port, recorded_request(CPU_VERSION, "v1-chat-runner-killed-mid-stream"))
        assert_alike("v1", ours, recorded(CPU_VERSION, "v1-chat-runner-killed-mid-stream"))
        assert (
            ours.lines[-1]["choices"] == recorded(CPU_VERSION, "v1-chat-runner-killed-mid-stream").lines[-1]["choices"]
        )


@pytest.mark.parametrize(("slots", "log"), [("16", "partial-offload"), ("12", "all-on-gpu")])
async def test_placement(tmp_path: Path, capsys: pytest.CaptureFixture[str], slots: str, log: str) -> None:
    """Layers, buffers as printed, and /api/ps as exactly as those add up."""
    environment = {"CUDA_VISIBLE_DEVICES": FIRST_GPU, "OLLAMA_CONTEXT_LENGTH": "8192", "OLLAMA_NUM_PARALLEL": slots}
    async with instance(tmp_path, gpu_profile(), **environment) as port:
        for name in ("preload", f"ps-{log}", "generate-stream"):
            ours = await send(port, recorded_request(GPU_VERSION, name))
            theirs = recorded(GPU_VERSION, name)
            assert_alike(name, ours, theirs)
            if name.startswith("ps"):
                for field in ("size", "size_vram", "context_length"):
                    assert ours.lines[0]["models"][0][field] == pytest.approx(
                        theirs.lines[0]["models"][0][field], abs=1 << 14
                    )
    written = capsys.readouterr().err
    theirs_log = (RECORDINGS / GPU_VERSION / f"server-log-{log}.txt").read_text()
    for pattern in (
        r"load_tensors: .*",
        r".* buffer size = .*",
        r"-c \d+ -np \d+",
        r"-b \d+ -ub \d+",
        r".*n_slots = .*",
    ):
        assert re.findall(pattern, written) == re.findall(pattern, theirs_log), pattern


async def test_out_of_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = {
        "CUDA_VISIBLE_DEVICES": FIRST_GPU, "OLLAMA_CONTEXT_LENGTH": "8192", "OLLAMA_NUM_PARALLEL": "32",
        "LLAMA_ARG_FIT": "off",
    }  # fmt: skip
    async with instance(tmp_path, gpu_profile(), **environment) as port:
        ours = await send(port, recorded_request(GPU_VERSION, "preload-out-of-memory"))
        theirs = recorded(GPU_VERSION, "preload-out-of-memory")
        assert ours.status == theirs.status == 500
        assert _without_path(ours.error) == _without_path(theirs.error)
        empty = await send(port, recorded_request(GPU_VERSION, "ps-after-out-of-memory"))
        assert empty.body == recorded(GPU_VERSION, "ps-after-out-of-memory").body
    assert "cudaMalloc failed: out of memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("log", "visible"), [("four-gpus-unpinned", None), ("gpu-hidden", "-1"), ("all-on-gpu", FIRST_GPU)]
)
async def test_start(tmp_path: Path, capsys: pytest.CaptureFixture[str], log: str, visible: str | None) -> None:
    """The lines of the start: which devices, how much memory, which default context, which variables."""
    async with instance(tmp_path, gpu_profile(), **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})):
        pass
    ours = capsys.readouterr().err
    theirs = (RECORDINGS / GPU_VERSION / f"server-log-{log}.txt").read_text()
    assert _variables(ours) == _variables(theirs)
    assert re.findall(r"default_num_ctx=\d+|total_vram=\S+", ours) == re.findall(
        r"default_num_ctx=\d+|total_vram=\S+", theirs
    )
    host_memory = r' total="[^"]*" available="[^"]*"' if visible == "-1" else r"$^"
    found = [
        [re.sub(host_memory, "", line) for line in re.findall(r'msg="inference compute".*', log)]
        for log in (ours, theirs)
    ]
    assert found[0] == found[1]
    assert re.findall(r'msg="user overrode.*', ours) == re.findall(r'msg="user overrode.*', theirs)


def test_the_sizes_of_the_recordings_add_up() -> None:
    assert gpu_profile().model().kv_bytes_per_token * 131072 == 15360 * MIB


def _without_path(text: str) -> str:
    return re.sub(r"/\S*blobs/sha256-[0-9a-f]+", "BLOB", text)


def _variables(log: str) -> list[str]:
    config = re.search(r'env="map\[(.*?)\]"\n', log)
    assert config
    return sorted(re.findall(r"(?:^| )([A-Za-z_]+):", re.sub(r"\[.*?\]", "", config[1])))
