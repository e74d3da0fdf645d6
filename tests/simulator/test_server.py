"""What an instance does beyond single answers: loads, queues, models, faults, processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import aiohttp
import pytest

from autotune.simulator.board import FileBoard
from autotune.simulator.profiles import load_profile
from tests.simulator.exchange import Response, environ, free_port, generate, instance, request, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL = load_profile("2x-small")
FIRST, SECOND = (device.uuid for device in SMALL.devices)
PRELOAD = request("POST", "/api/generate", {"model": "tiny", "keep_alive": -1})


async def ps(port: int) -> list[dict[str, object]]:
    models: list[dict[str, object]] = (await send(port, request("GET", "/api/ps"))).lines[0]["models"]
    return models


async def test_derived_models_load_with_their_own_options_on_every_instance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create = {"model": "tiny-x", "from": "tiny", "parameters": {"num_thread": 1, "num_batch": 256}}
    async with (
        instance(tmp_path, SMALL) as one,
        instance(tmp_path, SMALL, OLLAMA_NUM_PARALLEL="2", OLLAMA_CONTEXT_LENGTH="1536") as other,
    ):
        made = await send(one, request("POST", "/api/create", create))
        assert made.lines[-1] == {"status": "success"}
        for _ in range(2):
            assert (await send(other, generate("tiny-x"))).lines[-1]["done"]
        chat = {"model": "tiny-x", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
        assert (await send(other, request("POST", "/v1/chat/completions", chat))).status == 200
        shown = await send(other, request("POST", "/api/show", {"model": "tiny-x"}))
        assert "num_batch" in shown.lines[0]["parameters"]
        assert (await send(one, request("DELETE", "/api/delete", {"model": "tiny-x"}))).status == 200
        assert (await send(other, generate("tiny-x"))).status == 404
        assert (await send(one, request("DELETE", "/api/delete", {"model": "tiny"}))).status == 404
        assert (await send(one, request("POST", "/api/create", {"model": "y", "from": "nosuch"}))).status == 404
    written = capsys.readouterr().err
    assert written.count("starting llama-server") == 1
    assert "-c 3072 -np 2" in written
    assert "-b 256 -ub 256 -t 1" in written


async def test_one_slot_families_and_models_that_only_embed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with instance(tmp_path, SMALL, OLLAMA_NUM_PARALLEL="8") as port:
        answer = await send(port, generate("qwen35", stream=False))
        assert answer.lines[0]["thinking"]
        assert (await send(port, generate("qwen35", stream=False, think=False))).lines[0].get("thinking") is None
        assert (await send(port, generate("tiny", think=True))).error == '"tiny" does not support thinking'
        refused = await send(port, generate("embed"))
        assert (refused.status, refused.error) == (400, '"embed" does not support generate')
        vectors = await send(port, request("POST", "/api/embed", {"model": "embed", "input": ["a", "b"]}))
        assert [len(vector) for vector in vectors.lines[0]["embeddings"]] == [768, 768]
        assert (await send(port, request("POST", "/api/embed", {"model": "no", "input": "a"}))).status == 404
    written = capsys.readouterr().err
    assert (
        'level=WARN source=sched.go:477 msg="model architecture does not currently support parallel requests"'
        in written
    )
    assert "-np 1" in written
    assert "-np 8" not in written


async def test_keep_alive(tmp_path: Path) -> None:
    async with instance(tmp_path, SMALL, OLLAMA_KEEP_ALIVE="100ms") as port:
        await send(port, generate(keep_alive=-1))
        await asyncio.sleep(0.2)
        assert str((await ps(port))[0]["expires_at"]).startswith("23")
        await send(port, generate(keep_alive="50ms"))
        await asyncio.sleep(0.2)
        assert await ps(port) == []
        assert (await send(port, generate(keep_alive="soon"))).status == 400


async def test_a_reload_waits_for_the_requests_in_flight(tmp_path: Path) -> None:
    async with instance(tmp_path, SMALL) as port:
        running = asyncio.create_task(send(port, generate(options={"num_predict": 60})))
        await asyncio.sleep(0.15)
        other = await send(port, generate(options={"num_ctx": 1024}))
        assert running.done()
        assert (await running).lines[-1]["eval_count"] == 60
        assert other.lines[-1]["load_duration"] > 1e7
        assert (await ps(port))[0]["context_length"] == 1024


async def test_models_make_room_for_each_other(tmp_path: Path) -> None:
    async with instance(tmp_path, SMALL, CUDA_VISIBLE_DEVICES=FIRST) as port:
        for name in ("tiny", "stops"):
            await send(port, generate(name))
        assert [model["name"] for model in await ps(port)] == ["tiny:latest", "stops:latest"]
        await send(port, generate("qwen35", options={"num_ctx": 32768}))
        assert "qwen35:latest" in [model["name"] for model in await ps(port)]
        assert len(await ps(port)) < 3


async def test_answers_that_end_early_count_the_end_token(tmp_path: Path) -> None:
    async with instance(tmp_path, SMALL) as port:
        for seed in range(12):
            lines = (await send(port, generate("stops", options={"num_predict": 100, "seed": seed}))).lines
            assert lines[-1]["done_reason"] == "stop"
            assert lines[-1]["eval_count"] == len(lines)


async def test_a_seed_repeats_an_answer(tmp_path: Path) -> None:
    async with instance(tmp_path, SMALL, AUTOTUNE_SIM_SEED="1") as port:
        one, same, other = [
            (await send(port, generate(prompt=prompt, stream=False))).lines[0]["response"] for prompt in ("a", "a", "b")
        ]
    assert one == same != other


async def test_a_client_that_gives_up_ends_the_load_and_frees_its_slot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = SMALL.model_copy(update={"models": (SMALL.model("tiny").model_copy(update={"load_s": 0.4}),)})

    async def hang_up_after(seconds: float) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(generate(options={"num_predict": 5000}))
        await asyncio.sleep(seconds)
        writer.close()

    async with instance(tmp_path, slow, OLLAMA_NUM_PARALLEL="1") as port:
        await hang_up_after(0.1)
        await asyncio.sleep(0.05)
        assert await ps(port) == []
        await hang_up_after(0.5)
        assert (await asyncio.wait_for(send(port, generate()), 5)).lines[-1]["eval_count"] == 4
    written = capsys.readouterr().err
    assert "aborting load" in written
    assert written.count("| 499 |") == 2


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:11434", 200),
        ("127.0.0.1", 200),
        ("10.1.2.3", 200),
        ("a.internal", 200),
        ("upstream", 403),
        ("8.8.8.8", 403),
    ],
)
async def test_foreign_hosts_are_turned_away(tmp_path: Path, host: str, status: int) -> None:
    async with instance(tmp_path, SMALL) as port:
        answer = await send(port, request("GET", "/api/version", host=host))
    assert answer.status == status
    assert status == 200 or answer.body == b""


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"AUTOTUNE_SIM_FAULT": "load_fails"}, "out of memory"),
        ({"OLLAMA_KV_CACHE_TYPE": "q3_9"}, "Unsupported cache type"),
        ({"OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_FLASH_ATTENTION": "0"}, "flash attention"),
    ],
)
async def test_loads_that_fail(tmp_path: Path, variables: dict[str, str], words: str) -> None:
    async with instance(tmp_path, SMALL, **variables) as port:
        answer = await send(port, PRELOAD)
        assert answer.status == 500
        assert words in answer.error
        assert await ps(port) == []


async def test_instances_on_one_device_share_its_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variables = {"CUDA_VISIBLE_DEVICES": FIRST, "OLLAMA_CONTEXT_LENGTH": "8192", "OLLAMA_NUM_PARALLEL": "8"}
    async with instance(tmp_path, SMALL, **variables) as one, instance(tmp_path, SMALL, **variables) as two:
        for port in (one, two):
            await send(port, PRELOAD)
        (first,), (second,) = await ps(one), await ps(two)
    assert first["size"] == first["size_vram"]
    assert second["size"] != second["size_vram"]
    assert capsys.readouterr().err.count("offloaded 8/8 layers") == 1


async def test_a_thousand_tokens_at_once_arrive_one_by_one(tmp_path: Path) -> None:
    """Every token is a chunk of its own, however many slots speak; how fast is printed and not judged."""
    async with instance(tmp_path, SMALL, OLLAMA_NUM_PARALLEL="32", AUTOTUNE_SIM_TIME_SCALE="20") as port:
        await send(port, PRELOAD)
        began = time.monotonic()
        body = {"model": "tiny", "prompt": "x", "raw": True, "options": {"num_predict": 100}}
        async with aiohttp.ClientSession() as session:

            async def ask() -> int:
                async with session.post(f"http://127.0.0.1:{port}/api/generate", json=body) as response:
                    return len([line async for line in response.content])

            assert Counter(await asyncio.gather(*(ask() for _ in range(32)))) == {101: 32}
        print(f"{3200 / (time.monotonic() - began):.0f} tokens/s, the client on the same core")


@contextmanager
def process(tmp_path: Path, port: int, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A stand-in of its own; ended by its pid whatever happens."""
    command = [sys.executable, "-m", "autotune.simulator", "serve"]
    variables = {"PATH": os.environ["PATH"], "AUTOTUNE_SIM_PROFILE": "2x-small"} | environ(tmp_path, port, **variables)
    child = subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


async def until_ready(port: int) -> Response:
    for _ in range(200):
        with suppress(OSError):
            return await send(port, request("GET", "/api/version"))
        await asyncio.sleep(0.02)
    raise AssertionError("not ready")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_cuts_the_streams_and_ends_with_0(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    with process(tmp_path, port) as child:
        await until_ready(port)
        running = asyncio.create_task(send(port, generate(options={"num_predict": 5000})))
        await asyncio.sleep(0.4)
        child.send_signal(number)
        cut = await running
        assert cut.status == 200
        assert cut.chunked
        assert not cut.complete
        assert child.wait(5) == 0
        assert not list((tmp_path / ".autotune-simulator" / "instances").iterdir())


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    port = free_port()
    with process(tmp_path, port) as first:
        await until_ready(port)
        with process(tmp_path, port) as second:
            _, written = second.communicate(timeout=10)
            assert second.returncode == 1
            assert f"Error: listen tcp 127.0.0.1:{port}: bind: address already in use" in written
        assert first.poll() is None


async def test_processes_see_each_other_and_forget_the_killed(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    board = FileBoard(tmp_path / ".autotune-simulator")
    with ExitStack() as stack:
        children = [stack.enter_context(process(tmp_path, port, CUDA_VISIBLE_DEVICES=FIRST)) for port in ports]
        for port in ports:
            await until_ready(port)
            await send(port, PRELOAD)
        held = board.others()
        assert [set(taken) for taken in held] == [{FIRST}, {FIRST}]
        assert held[0] == held[1]
        children[0].kill()
        children[0].wait()
        assert len(board.others()) == 1
        assert len(list((tmp_path / ".autotune-simulator" / "instances").glob("*.lock"))) == 2
    board.close()


@pytest.mark.parametrize(("fault", "written"), [("die_at_start", "told to die"), ("explode", "AUTOTUNE_SIM_FAULT")])
def test_a_start_that_fails(tmp_path: Path, fault: str, written: str) -> None:
    with process(tmp_path, free_port(), AUTOTUNE_SIM_FAULT=fault) as child:
        _, err = child.communicate(timeout=10)
        assert child.returncode in {1, 2}
        assert written in err


async def test_an_instance_that_never_answers_but_can_be_stopped(tmp_path: Path) -> None:
    port = free_port()
    with process(tmp_path, port, AUTOTUNE_SIM_FAULT="never_answer") as child:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(until_ready(port), 1.0)
        child.terminate()
        assert child.wait(5) == 0


async def test_an_instance_that_dies_under_load(tmp_path: Path) -> None:
    port = free_port()
    with process(tmp_path, port, AUTOTUNE_SIM_FAULT="die_under_load:2") as child:
        await until_ready(port)
        assert (await send(port, generate())).lines[-1]["done"]
        with suppress(ConnectionError):
            assert not (await send(port, generate(options={"num_predict": 500}))).complete
        assert child.wait(5) == -signal.SIGKILL
