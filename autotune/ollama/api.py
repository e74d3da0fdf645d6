"""The part of Ollama's HTTP API that a tuner needs besides its load, as a typed client of one server.

Source: Ollama's `server/routes.go` and `api/types.go`.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from autotune.errors import LoadFailed, ModelMissing, NeverReady
from autotune.space import ModelFacts

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOKED_UP = frozenset({"token_embd.weight", "per_layer_token_embd.weight"})
"""Tensors that llama.cpp keeps in host memory whatever it offloads: rows are looked up in them, not multiplied."""
ELEMENT_BITS = {"F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q6_K": 6.5625, "Q5_K": 5.5, "Q4_K": 4.5, "Q4_0": 4.5}
"""Bits of one weight, its share of the block's scales included (ggml-common.h). An unknown type is taken for F16, so
that the memory which is certainly needed comes out too small rather than too large."""
PERIODS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gptoss": 2, "gpt-oss": 2, "exaone4": 4}
"""Families of which llama.cpp knows that all layers slide but the last of so many (`src/models`)."""
NEVER_SLIDE = frozenset({"llama", "mistral", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe"})
"""Families whose window llama.cpp does not use, though their files name one."""
PATTERN = "attention.sliding_window_pattern"
PER_LAYER = (PATTERN, "attention.head_count_kv")
"""What may be a list with an entry for each layer, which Ollama leaves out (null) unless it is asked for all."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loaded model as `/api/ps` shows it."""

    name: str
    digest: str
    size_bytes: int
    size_vram_bytes: int
    context_length: int


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says before any model is loaded."""

    version: str
    model: ModelFacts


class Ollama:
    """One server. Use as an async context manager."""

    def __init__(self, url: str, *, timeout_s: float = 30) -> None:
        self.url = url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def version(self) -> str:
        """The server's version. Raises `aiohttp.ClientError` or `TimeoutError` while it is not ready."""
        async with self._session.get(f"{self.url}/api/version") as response:
            response.raise_for_status()
            body = _last_object(await response.text())
        if "version" not in body:
            raise aiohttp.ClientPayloadError(f"{self.url} is no Ollama server: {str(body)[:200]}")
        return str(body["version"])

    async def models(self) -> list[Mapping[str, Any]]:
        """The models in the server's store."""
        async with self._session.get(f"{self.url}/api/tags") as response:
            response.raise_for_status()
            return list((await response.json())["models"] or [])

    async def show(self, model: str, *, verbose: bool = False) -> Mapping[str, Any]:
        """All about one model; its lists too (megabytes of tokens among them) if `verbose`. Raises `ModelMissing`."""
        status, body = await self._post("/api/show", {"model": model} | ({"verbose": True} if verbose else {}))
        if status == 404:
            raise ModelMissing(f"{self.url} has no model {model!r}")
        if status != 200:
            raise ModelMissing(f"{self.url} cannot show the model {model!r}: {body.get('error', status)}")
        return body

    async def loaded(self) -> list[Loaded]:
        """The models in memory."""
        async with self._session.get(f"{self.url}/api/ps") as response:
            response.raise_for_status()
            models = (await response.json())["models"] or []
        return [
            Loaded(
                name=model["name"],
                digest=model["digest"],
                size_bytes=model["size"],
                size_vram_bytes=model["size_vram"],
                context_length=model.get("context_length", 0),
            )
            for model in models
        ]

    async def preload(self, model: str, timeout_s: float) -> None:
        """Load `model` as the server's environment says: no option goes with it. Raises `LoadFailed`, `NeverReady`."""
        try:
            status, body = await self._post("/api/generate", {"model": model}, timeout_s)
        except TimeoutError as error:
            raise NeverReady(f"{self.url} had not loaded {model} after {timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            raise LoadFailed(f"{self.url} broke off while it loaded {model}: {error}") from error
        if status != 200 or body.get("done_reason") != "load":
            raise LoadFailed(f"{self.url} did not load {model}: {body.get('error', body)}")

    async def create(self, name: str, parent: str, parameters: Mapping[str, int]) -> None:
        """Derive a model: `parent` with other parameters. Raises `ModelMissing`."""
        request = {"model": name, "from": parent, "parameters": dict(parameters), "stream": False}
        status, body = await self._post("/api/create", request, 300)
        if status != 200 or body.get("status") != "success":
            raise ModelMissing(f"{self.url} did not create {name} from {parent}: {body.get('error', body)}")

    async def delete(self, name: str) -> None:
        """Remove a model's name; one that is not there is fine."""
        async with self._session.delete(f"{self.url}/api/delete", json={"model": name}) as response:
            await response.read()

    async def _post(self, path: str, body: object, timeout_s: float | None = None) -> tuple[int, dict[str, Any]]:
        timeout = self._timeout if timeout_s is None else aiohttp.ClientTimeout(total=timeout_s)
        async with self._session.post(f"{self.url}{path}", json=body, timeout=timeout) as response:
            text = await response.text()
        return response.status, _last_object(text)


def _last_object(text: str) -> dict[str, Any]:
    """The last JSON object of a body that may be one object, lines of them, or plain text."""
    for line in reversed([text, *text.splitlines()]):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return {"error": text[:400]} if text.strip() else {}


async def wait_ready(server: Ollama, poll_s: float = 0.05) -> str:
    """Poll `/api/version` until it answers: a socket that listens is not yet a server that does. Without bound."""
    while True:
        try:
            return await server.version()
        except (aiohttp.ClientError, TimeoutError):
            await asyncio.sleep(poll_s)


async def facts(server: Ollama, model: str) -> ServerFacts:
    """Ask a server about itself and `model`. Raises `ModelMissing`, also for a model that cannot generate text."""
    version, models = await server.version(), await server.models()
    entry = next((entry for entry in models if full_name(entry["name"]) == full_name(model)), None)
    if entry is None:
        there = ", ".join(sorted(str(entry["name"]) for entry in models)) or "none"
        raise ModelMissing(f"no model {model!r} in the store; it has: {there}")
    shown = await server.show(model)
    if _left_out(shown.get("model_info") or {}):
        shown = await server.show(model, verbose=True)
    capabilities = tuple(shown.get("capabilities") or ())
    if capabilities and "completion" not in capabilities:
        raise ModelMissing(f"{model!r} generates no text (it can: {', '.join(capabilities)}): there is nothing to tune")
    return ServerFacts(version, _model_facts(model, entry, shown, capabilities))


def full_name(model: str) -> str:
    """A model's name with all that may be left out (Ollama's `types/model/name.go`)."""
    tagged = model if ":" in model.rsplit("/", 1)[-1] else f"{model}:latest"
    left_out = ("registry.ollama.ai", "library")[: max(0, 2 - tagged.count("/"))]
    return "/".join((*left_out, tagged))


def _model_facts(
    name: str, entry: Mapping[str, Any], shown: Mapping[str, Any], capabilities: tuple[str, ...]
) -> ModelFacts:
    info: Mapping[str, Any] = shown.get("model_info") or {}
    architecture = str(info.get("general.architecture", ""))

    def number(key: str, default: int = 0, most: bool = False) -> int:
        value = info.get(f"{architecture}.{key}", default)
        if isinstance(value, list):
            return int((max if most else min)(value, default=0))
        return int(value or 0)  # null: one for each layer, which Ollama leaves out; they may be 0 (a state, no cache)

    heads = number("attention.head_count")
    head_size = number("embedding_length") // heads if heads else 0
    kv_heads, k_size = number("attention.head_count_kv", heads), number("attention.key_length", head_size)
    latent = f"{architecture}.attention.key_length_mla" in info  # llama.cpp then reads the values out of the keys
    v_size = 0 if latent else number("attention.value_length", head_size)
    tensors = shown.get("tensors") or []
    looked_up = {tensor["name"]: _bytes(tensor) for tensor in tensors if tensor["name"] in LOOKED_UP}
    shapes = {str(tensor["name"]): list(tensor["shape"]) for tensor in tensors}
    layers = number("block_count") - number("attention.shared_kv_layers")
    whole, sliding = _elements(architecture, info, _widths(info, architecture, shapes, layers, k_size + v_size))
    return ModelFacts(
        name=name,
        digest=str(entry["digest"]),
        weights_bytes=int(entry["size"]),
        layers=layers,
        kv_heads=kv_heads,
        k_size=k_size,
        v_size=v_size,
        context_length=number("context_length"),
        sliding_window=number("attention.sliding_window") or None,
        family=str(shown.get("details", {}).get("family", architecture)),
        capabilities=capabilities,
        parameters=_parameters(str(shown.get("parameters") or "")),
        host_weights_bytes=sum(looked_up.values()),
        tied_bytes=0 if "output.weight" in shapes else looked_up.get("token_embd.weight", 0),
        whole_elements=whole,
        sliding_elements=sliding,
        embedding_length=number("embedding_length"),
        feed_forward_length=number("feed_forward_length", most=True),
        heads=number("attention.head_count", most=True),
        vocabulary=shapes.get("token_embd.weight", [0])[-1],
    )


def _left_out(info: Mapping[str, Any]) -> bool:
    architecture = info.get("general.architecture", "")
    return any(info.get(f"{architecture}.{key}", 0) is None for key in PER_LAYER)


def _widths(
    info: Mapping[str, Any], architecture: str, shapes: Mapping[str, list[int]], layers: int, head_elements: int
) -> list[int]:
    """Keys and values of one token in each layer that has a cache of its own, as its tensors say where they do."""
    default = info.get(f"{architecture}.attention.head_count", 0)
    heads = info.get(f"{architecture}.attention.head_count_kv", default) or 0
    told = [heads] * layers if isinstance(heads, int) else [*heads, *[0] * layers][:layers]
    if not any(".attn_" in name for name in shapes):
        return [count * head_elements for count in told]

    def width(layer: int) -> int:
        keys = shapes.get(f"blk.{layer}.attn_k.weight")
        if keys:
            return keys[-1] + shapes.get(f"blk.{layer}.attn_v.weight", keys)[-1]
        fused = any(f"blk.{layer}.{name}.weight" in shapes for name in ("attn_qkv", "attn_kv_a_mqa"))
        return told[layer] * head_elements if fused else 0

    return [width(layer) for layer in range(layers)]


def _elements(architecture: str, info: Mapping[str, Any], widths: list[int]) -> tuple[int | None, int | None]:
    """The sums over the layers that keep the whole context, and over those that slide; None where nothing tells."""
    pattern = info.get(f"{architecture}.{PATTERN}") or PERIODS.get(architecture)
    if not info.get(f"{architecture}.attention.sliding_window") or architecture in NEVER_SLIDE:
        return sum(widths), 0
    if not pattern:
        return None, None
    if isinstance(pattern, int):
        pattern = [layer % pattern < pattern - 1 for layer in range(len(widths))]
    sliding = sum(width for width, slides in zip(widths, pattern, strict=False) if slides)
    return sum(widths) - sliding, sliding


def _bytes(tensor: Mapping[str, Any]) -> int:
    return int(prod(tensor["shape"]) * ELEMENT_BITS.get(str(tensor["type"]).upper(), 16) / 8)


def _parameters(text: str) -> tuple[tuple[str, str], ...]:
    """`/api/show` prints parameters as lines of name and value."""
    pairs = (line.split(None, 1) for line in text.splitlines())
    return tuple((pair[0], pair[1].strip().strip('"')) for pair in pairs if len(pair) == 2)
