"""The client of one server, against the stand-in, against recordings, and against a real Ollama where there is one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from autotune.cluster import host
from autotune.cluster.process import ProcessDriver
from autotune.errors import LoadFailed, ModelMissing, NeverReady
from autotune.inventory import visible_devices
from autotune.ollama.api import Ollama, facts, wait_ready
from autotune.plan import InstancePlan
from autotune.simulator.profiles import load_profile
from tests.conftest import free_ports
from tests.simulator.exchange import instance, recorded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from autotune.cluster.children import Children
    from tests.conftest import RealOllama

SMALL = load_profile("2x-small")


@asynccontextmanager
async def played(tmp_path: Path, **variables: str) -> AsyncIterator[Ollama]:
    async with instance(tmp_path, SMALL, **variables) as port, Ollama(f"http://127.0.0.1:{port}/") as server:
        yield server


@asynccontextmanager
async def answering(**bodies: object) -> AsyncIterator[Ollama]:
    """A server that knows nothing but these bodies, by the last word of their path."""

    async def answer(request: web.Request) -> web.Response:
        body = bodies[request.path.rsplit("/", 1)[-1]]
        if isinstance(body, BaseException):
            assert request.transport is not None
            request.transport.abort()
        if isinstance(body, str):
            return web.Response(text=body)
        if callable(body):
            played: web.Response = await body(request)
            return played
        return web.json_response(body)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.01)
    await runner.setup()
    port = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with Ollama(f"http://127.0.0.1:{port}") as server:
            yield server
    finally:
        await runner.cleanup()


def shown(**info: Any) -> dict[str, Any]:
    return {"model_info": {"general.architecture": "x", "x.block_count": 4, "x.embedding_length": 64, **info}}


TAGS = {"models": [{"name": "m:latest", "digest": "d", "size": 1000}]}


# the stand-in


async def test_a_server_and_its_model_are_known_before_anything_is_loaded(tmp_path: Path) -> None:
    async with played(tmp_path) as server:
        known = await facts(server, "tiny")
        assert known.version == SMALL.version
        model = known.model
        assert (model.layers, model.kv_heads, model.family) == (7, 2, "llama")
        assert (model.weights_bytes, model.context_length) == (800 << 20, 8192)
        assert model.capabilities == ("completion",)
        assert model.host_weights_bytes == 64 * 442 * 2
        assert (await facts(server, "tiny:latest")).model.digest == model.digest
        assert await server.loaded() == []


async def test_a_model_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    async with played(tmp_path) as server:
        with pytest.raises(ModelMissing, match=r"no model 'nosuch' in the store; it has: embed:latest, .*tiny"):
            await facts(server, "nosuch")
        with pytest.raises(ModelMissing, match="has no model 'nosuch'"):
            await server.show("nosuch")


async def test_a_model_that_only_embeds_is_refused(tmp_path: Path) -> None:
    async with played(tmp_path) as server:
        with pytest.raises(ModelMissing, match=r"'embed' generates no text \(it can: embedding\)"):
            await facts(server, "embed")


async def test_preload_loads_as_the_environment_says(tmp_path: Path) -> None:
    async with played(tmp_path, OLLAMA_CONTEXT_LENGTH="1536") as server:
        await server.preload("tiny", 20)
        (loaded,) = await server.loaded()
        assert (loaded.name, loaded.context_length) == ("tiny:latest", 1536)
        assert loaded.size_bytes == loaded.size_vram_bytes > 0
        await server.preload("tiny", 20)
        assert await server.loaded() == [loaded]


async def test_a_load_that_fails_says_why(tmp_path: Path) -> None:
    async with played(tmp_path, AUTOTUNE_SIM_FAULT="load_fails") as server:
        with pytest.raises(LoadFailed, match=r"did not load tiny: llama-server process has terminated.*out of memory"):
            await server.preload("tiny", 20)
        with pytest.raises(LoadFailed, match="model 'nosuch' not found"):
            await server.preload("nosuch", 20)


async def test_a_load_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    async with played(tmp_path, AUTOTUNE_SIM_TIME_SCALE="0.001") as server:
        with pytest.raises(NeverReady, match=r"had not loaded tiny after 0\.2 s"):
            await server.preload("tiny", 0.2)


async def test_a_derived_model_carries_its_parameters_and_goes_again(tmp_path: Path) -> None:
    async with played(tmp_path) as server:
        await server.create("autotune-tiny-batch256", "tiny", {"num_batch": 256, "num_thread": 1})
        derived = await facts(server, "autotune-tiny-batch256")
        assert dict(derived.model.parameters) == {"num_batch": "256", "num_thread": "1"}
        await server.delete("autotune-tiny-batch256")
        await server.delete("autotune-tiny-batch256")
        assert "autotune-tiny-batch256:latest" not in [entry["name"] for entry in await server.models()]
        with pytest.raises(ModelMissing, match="did not create x from nosuch: model 'nosuch' not found"):
            await server.create("x", "nosuch", {})


async def test_a_server_that_listens_is_not_yet_one_that_answers(tmp_path: Path) -> None:
    port = free_ports(1)
    async with Ollama(f"http://127.0.0.1:{port}", timeout_s=1) as server:
        waiting = asyncio.create_task(wait_ready(server, poll_s=0.01))
        async with answering():
            await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
    async with played(tmp_path, AUTOTUNE_SIM_FAULT="never_answer") as mute:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wait_ready(mute), 0.3)


# bodies that no server of today sends, and those that were recorded


@pytest.mark.parametrize("body", ["hello", "{}", "[]", '{"error": "busy"}', ""])
async def test_another_server_is_no_ollama(body: str) -> None:
    async with answering(version=body) as server:
        with pytest.raises(aiohttp.ClientError, match="is no Ollama server"):
            await server.version()


@pytest.mark.parametrize("version", ["v0.24.0", "v0.32.15"])
async def test_recorded_servers_are_understood(version: str) -> None:
    bodies = {name: recorded(version, name).lines[0] for name in ("tags", "show")}
    loaded = recorded(version, "ps-loaded").lines[0]
    async with answering(version={"version": version[1:]}, ps=loaded, **bodies) as server:
        known = await facts(server, "tiny")
        assert known.version == version[1:]
        model = known.model
        assert (model.layers, model.kv_heads, model.k_size, model.v_size) == (2, 2, 16, 16)
        assert model.weights_bytes == 273926
        assert model.host_weights_bytes == 64 * 442 * 2
        assert (model.whole_elements, model.sliding_elements, model.tied_bytes) == (2 * 2 * (16 + 16), 0, 0)
        assert (model.embedding_length, model.feed_forward_length, model.heads, model.vocabulary) == (64, 128, 4, 442)
        assert model.parameters == ()
        assert (await server.loaded())[0].context_length == 1024


async def test_a_partial_offload_as_it_was_recorded() -> None:
    async with answering(ps=recorded("v0.32.15-gpu", "ps-partial-offload").lines[0]) as server:
        (loaded,) = await server.loaded()
    assert (loaded.size_bytes, loaded.size_vram_bytes) == (24583864318, 21479492157)


@pytest.mark.parametrize(
    ("info", "kv_heads", "k_size"),
    [
        ({"x.attention.head_count": 4}, 4, 16),
        ({"x.attention.head_count": 4, "x.attention.head_count_kv": 2}, 2, 16),
        ({"x.attention.head_count": 4, "x.attention.head_count_kv": [0, 2, 4], "x.attention.key_length": 32}, 0, 32),
        ({"x.attention.head_count": 4, "x.attention.head_count_kv": None}, 0, 16),
        ({"x.attention.head_count": 4, "x.attention.head_count_kv": []}, 0, 16),
        ({}, 0, 0),
    ],
)
async def test_where_layers_differ_the_least_is_taken(info: dict[str, Any], kv_heads: int, k_size: int) -> None:
    async with answering(version={"version": "0.30.0"}, tags=TAGS, show=shown(**info)) as server:
        model = (await facts(server, "m")).model
    assert (model.kv_heads, model.k_size, model.layers) == (kv_heads, k_size, 4)


async def test_layers_that_share_a_cache_and_windows_are_counted() -> None:
    info = {"x.attention.shared_kv_layers": 3, "x.attention.sliding_window": 512}
    async with answering(version={"version": "0.30.0"}, tags=TAGS, show=shown(**info)) as server:
        model = (await facts(server, "m")).model
    assert (model.layers, model.sliding_window) == (1, 512)


def tensors(**shapes: list[int]) -> list[dict[str, Any]]:
    """`k0=…` is the tensor of the keys of layer 0; other names are names."""
    names = {"q": "attn_qkv", "k": "attn_k", "v": "attn_v"}
    return [
        {
            "name": f"blk.{name[1:]}.{names[name[0]]}.weight" if name[1:].isdigit() else f"{name}.weight",
            "type": "F16",
            "shape": shape,
        }
        for name, shape in shapes.items()
    ]


KEYS = {f"k{layer}": [64, 32] for layer in range(4)}
VALUES = {f"v{layer}": [64, 16] for layer in range(4)}
HEADS = {"x.attention.head_count": 4, "x.attention.head_count_kv": 2}
SLIDES = {"x.attention.sliding_window": 512}


@pytest.mark.parametrize(
    ("info", "shapes", "elements"),
    [
        (HEADS, {}, (4 * 2 * (16 + 16), 0)),
        (HEADS, {"token_embd": [64, 100]}, (4 * 2 * (16 + 16), 0)),
        ({}, {}, (0, 0)),
        (HEADS | {"x.attention.head_count_kv": [2, 0, 2]}, {}, (2 * 2 * (16 + 16), 0)),
        (HEADS, {**KEYS, **VALUES}, (4 * 48, 0)),
        (HEADS, {**KEYS}, (4 * 64, 0)),
        (HEADS, {"k1": [64, 32], "v1": [64, 32], "k3": [64, 128], "v3": [64, 128]}, (64 + 256, 0)),
        (HEADS, {"q0": [64, 128], "q2": [64, 128]}, (2 * 2 * 32, 0)),
        (HEADS | {"x.attention.key_length_mla": 192, "x.attention.head_count_kv": 1}, {}, (4 * 16, 0)),
        (HEADS | SLIDES, {**KEYS, **VALUES}, (None, None)),
        (HEADS | SLIDES | {"x.attention.sliding_window_pattern": 2}, {**KEYS, **VALUES}, (2 * 48, 2 * 48)),
        (HEADS | SLIDES | {"x.attention.sliding_window_pattern": 4}, {**KEYS, "k3": [64, 100]}, (200, 3 * 64)),
        (
            HEADS | SLIDES | {"x.attention.sliding_window_pattern": [False, True, True, True]},
            {**KEYS, "k0": [64, 100]},
            (200, 3 * 64),
        ),
        (
            HEADS | SLIDES | {"x.attention.sliding_window_pattern": 2, "x.attention.shared_kv_layers": 2},
            {**KEYS, **VALUES},
            (48, 48),
        ),
    ],
)
async def test_what_each_layer_keeps_of_a_token_is_summed(
    info: dict[str, Any], shapes: dict[str, list[int]], elements: tuple[int | None, int | None]
) -> None:
    body = shown(**info) | {"tensors": tensors(**shapes)}
    async with answering(version={"version": "0.30.0"}, tags=TAGS, show=body) as server:
        model = (await facts(server, "m")).model
    assert (model.whole_elements, model.sliding_elements) == elements


@pytest.mark.parametrize(
    ("family", "elements"), [("gemma3", (0, 4 * 48)), ("gptoss", (96, 96)), ("qwen2", (192, 0)), ("new", (None, None))]
)
async def test_which_layers_slide_goes_by_the_family_where_the_file_does_not_say(
    family: str, elements: tuple[int | None, int | None]
) -> None:
    info = {"general.architecture": family, f"{family}.block_count": 4, f"{family}.attention.sliding_window": 512}
    body = {"model_info": info, "tensors": tensors(**KEYS, **VALUES)}
    async with answering(version={"version": "0.30.0"}, tags=TAGS, show=body) as server:
        model = (await facts(server, "m")).model
    assert (model.whole_elements, model.sliding_elements) == elements


async def test_lists_that_were_left_out_are_asked_for() -> None:
    pattern = "x.attention.sliding_window_pattern"
    brief = shown(**HEADS, **SLIDES, **{pattern: None}) | {"tensors": tensors(**KEYS, **VALUES)}
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(await request.json())
        full = brief | {"model_info": brief["model_info"] | {pattern: [True, True, True, False]}}
        return web.json_response(full if asked[-1].get("verbose") else brief)

    async with answering(version={"version": "0.30.0"}, tags=TAGS, show=answer) as server:
        model = (await facts(server, "m")).model
    assert (model.whole_elements, model.sliding_elements) == (48, 3 * 48)
    assert asked == [{"model": "m"}, {"model": "m", "verbose": True}]


@pytest.mark.parametrize(("names", "tied"), [(("token_embd",), 64 * 100 * 2), (("token_embd", "output"), 0), ((), 0)])
async def test_embeddings_that_are_the_output_too_are_told(names: tuple[str, ...], tied: int) -> None:
    sizes = {"x.feed_forward_length": [128, 256], "x.attention.head_count": 4}
    body = shown(**sizes) | {"tensors": tensors(**{name: [64, 100] for name in names})}
    async with answering(version={"version": "0.30.0"}, tags=TAGS, show=body) as server:
        model = (await facts(server, "m")).model
    assert model.tied_bytes == tied
    assert model.vocabulary == (100 if names else 0)
    assert (model.embedding_length, model.feed_forward_length, model.heads) == (64, 256, 4)


async def test_parameters_are_read_as_they_are_printed() -> None:
    text = 'num_ctx                        8192\nstop                           "<|im end|>"\n\n'
    async with answering(version={"version": "0.30.0"}, tags=TAGS, show={"parameters": text}) as server:
        model = (await facts(server, "m")).model
    assert model.parameters == (("num_ctx", "8192"), ("stop", "<|im end|>"))


async def test_an_empty_store_has_no_models() -> None:
    async with answering(version={"version": "0.30.0"}, tags={"models": None}, ps={"models": None}) as server:
        with pytest.raises(ModelMissing, match="it has: none"):
            await facts(server, "m")
        assert await server.loaded() == []


async def test_a_server_that_breaks_off_has_not_loaded() -> None:
    async with answering(generate=ConnectionError()) as server:
        with pytest.raises(LoadFailed, match="broke off while it loaded m"):
            await server.preload("m", 5)


@pytest.mark.parametrize("body", ['{"status": "x"}\n{"error": "no space"}\n', "no space", '{"error": "no space"}'])
async def test_the_last_word_of_a_server_counts(body: str) -> None:
    async with answering(create=body, generate=body) as server:
        with pytest.raises(ModelMissing, match="no space"):
            await server.create("a", "b", {})
        with pytest.raises(LoadFailed, match="no space"):
            await server.preload("a", 5)


# a real Ollama


@pytest.fixture
async def real(real_ollama: RealOllama, children: Children, folder: Path) -> AsyncIterator[Ollama]:
    port = free_ports(1)
    env = {
        "HOME": str(folder / "home"),
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(real_ollama.models),
        "OLLAMA_CONTEXT_LENGTH": "512",
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_NOPRUNE": "1",
        **visible_devices(()),
    }
    driver = ProcessDriver([real_ollama.binary, "serve"], children, folder / "logs")
    handle = driver.start(InstancePlan("real", port, (), tuple(sorted(env.items()))))
    async with Ollama(handle.instance.url) as server:
        await asyncio.wait_for(wait_ready(server), 60)
        yield server
    await driver.stop(handle)
    assert host.port_free(port)


@pytest.mark.ollama
async def test_a_real_server_answers_in_the_same_words(real: Ollama, real_ollama: RealOllama) -> None:
    known = await facts(real, real_ollama.model)
    assert known.version
    assert known.model.layers > 0
    assert known.model.weights_bytes > 0
    with pytest.raises(ModelMissing, match="no model 'nosuch' in the store"):
        await facts(real, "nosuch")
    with pytest.raises(ModelMissing, match="has no model 'nosuch'"):
        await real.show("nosuch")
    with pytest.raises(LoadFailed, match="not found"):
        await real.preload("nosuch", 30)

    assert await real.loaded() == []
    await real.preload(real_ollama.model, 120)
    (loaded,) = await real.loaded()
    assert (loaded.name, loaded.context_length) == (real_ollama.model, 512)


@pytest.mark.ollama
async def test_a_real_server_derives_a_model_loads_it_and_forgets_it(real: Ollama, real_ollama: RealOllama) -> None:
    name = "autotune-test-batch128"
    for _ in range(2):  # the second time changes nothing
        await real.create(name, real_ollama.model, {"num_batch": 128, "num_ctx": 256})
    assert dict((await facts(real, name)).model.parameters) == {"num_batch": "128", "num_ctx": "256"}
    await real.preload(name, 120)
    assert [(one.name, one.context_length) for one in await real.loaded()] == [(f"{name}:latest", 256)]
    await real.delete(name)
    await real.delete(name)
    assert [entry["name"] for entry in await real.models()] == [real_ollama.model]
