"""The routes of an instance: Ollama's own API and its /v1, as far as a cluster and its clients use them."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web

from autotune.simulator import bodies
from autotune.simulator.bodies import Refused
from autotune.simulator.environment import FOREVER_S
from autotune.simulator.library import go_time, tagged
from autotune.simulator.voices import Chat, Generate, OpenaiChat, OpenaiText

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from autotune.simulator.answers import Answers
    from autotune.simulator.library import Entry, Library
    from autotune.simulator.profiles import Profile
    from autotune.simulator.scheduler import Loaded, Scheduler

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

Json = dict[str, Any]

JSON_TYPE = "application/json; charset=utf-8"
CHUNKED_FROM = 2048
"""Bytes: Go's server does not count a longer body before it sends it."""

OPENAI_KINDS = {400: "invalid_request_error", 404: "not_found_error"}


class Api:
    """Answers requests; refuses by raising `Refused`."""

    def __init__(self, profile: Profile, library: Library, scheduler: Scheduler, answers: Answers) -> None:
        self._profile = profile
        self._library = library
        self._scheduler = scheduler
        self._answers = answers
        self._routes: dict[str, dict[str, Handler]] = {
            "/": {"GET": self._root, "HEAD": self._root},
            "/api/version": {"GET": self._version, "HEAD": self._version},
            "/api/tags": {"GET": self._tags, "HEAD": self._tags},
            "/api/ps": {"GET": self._ps},
            "/api/show": {"POST": self._show},
            "/api/generate": {"POST": self._generate},
            "/api/chat": {"POST": self._chat},
            "/api/embed": {"POST": self._embed},
            "/api/create": {"POST": self._create},
            "/api/delete": {"DELETE": self._delete},
            "/v1/chat/completions": {"POST": self._v1_chat},
            "/v1/completions": {"POST": self._v1_completions},
            "/v1/models": {"GET": self._v1_models},
        }

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """The answer to a request, or what Ollama's router says to one that it does not know."""
        methods = self._routes.get(request.path)
        if methods is None:
            return _text(404, "404 page not found")
        handler = methods.get(request.method)
        if handler is None:
            return _text(405, "405 method not allowed", {"Allow": ", ".join(methods)})
        return await handler(request)

    async def _root(self, _: web.Request) -> web.Response:
        return _text(200, "Ollama is running", {"Content-Type": "text/plain; charset=utf-8"})

    async def _version(self, _: web.Request) -> web.Response:
        return _json({"version": self._profile.version})

    async def _tags(self, _: web.Request) -> web.Response:
        entries = sorted(self._library.entries().values(), key=lambda entry: entry.name)
        return _json({"models": [entry.listed() for entry in entries]})

    async def _ps(self, _: web.Request) -> web.Response:
        return _json({"models": [_running(loaded) for loaded in self._scheduler.loaded()]})

    async def _show(self, request: web.Request) -> web.Response:
        name = await _model_name(request, "ShowRequest")
        return _json(self._known(name, f"model '{tagged(name)}' not found").shown())

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        question = bodies.generate(await request.read())
        return await self._answers.answer(request, question, Generate(question))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        question = bodies.chat(await request.read())
        return await self._answers.answer(request, question, Chat(question))

    async def _v1_chat(self, request: web.Request) -> web.StreamResponse:
        question = bodies.openai(await request.read())
        return await self._answers.answer(request, question, OpenaiChat(question))

    async def _v1_completions(self, request: web.Request) -> web.StreamResponse:
        question = bodies.openai(await request.read())
        return await self._answers.answer(request, question, OpenaiText(question))

    async def _embed(self, request: web.Request) -> web.Response:
        began = asyncio.get_running_loop().time()
        body = bodies.read_object(await request.read(), "EmbedRequest", {"model": str})
        asked = body.get("input") or []
        texts = [asked] if isinstance(asked, str) else [str(text) for text in asked]
        tokens, vectors = await self._answers.embed(body.get("model") or "", texts)
        total_ns = round((asyncio.get_running_loop().time() - began) * 1e9)
        figures = {"total_duration": total_ns, "prompt_eval_count": tokens}
        return _json({"model": body.get("model"), "embeddings": vectors} | figures)

    async def _create(self, request: web.Request) -> web.Response:
        body = bodies.read_object(
            await request.read(), "CreateRequest", {"model": str, "from": str, "parameters": dict}
        )
        origin = self._known(body.get("from") or "", f"model '{body.get('from') or ''}' not found")
        parameters = body.get("parameters") or {}
        bodies.check_options(parameters)
        self._library.derive(body.get("model") or "", origin, parameters)
        if body.get("stream") is False:
            return _json({"status": "success"})
        steps = (f"using existing layer sha256:{origin.digest}", "writing manifest", "success")
        lines = b"".join(_bytes({"status": step}) + b"\n" for step in steps)
        response = web.Response(body=lines, headers={"Content-Type": "application/x-ndjson"})
        response.enable_chunked_encoding()
        return response

    async def _delete(self, request: web.Request) -> web.Response:
        name = await _model_name(request, "DeleteRequest")
        if not self._library.delete(name):
            # what the profile installs stays: other studies on this host need it
            raise Refused(404, f"model '{name}' not found")
        return web.Response(status=200)

    async def _v1_models(self, _: web.Request) -> web.Response:
        names = sorted(self._library.entries())
        same = {"object": "model", "created": int(time.time()), "owned_by": "library"}
        body = _bytes({"object": "list", "data": [{"id": name} | same for name in names]})
        return web.Response(body=body + b"\n", headers={"Content-Type": "application/json"})

    def _known(self, name: str, complaint: str) -> Entry:
        entry = self._library.find(name)
        if entry is None:
            raise Refused(404, complaint)
        return entry


def refusal(path: str, refused: Refused) -> web.Response:
    """An error in the shape of its API."""
    if not path.startswith("/v1/"):
        return _json({"error": refused.message}, refused.status)
    kind = OPENAI_KINDS.get(refused.status, "api_error")
    body = {"error": {"message": refused.message, "type": kind, "param": None, "code": None}}
    if refused.early:
        return _json(body, refused.status)
    return web.Response(status=refused.status, body=_bytes(body) + b"\n", headers={"Content-Type": "application/json"})


async def _model_name(request: web.Request, struct: str) -> str:
    body = bodies.read_object(await request.read(), struct, {"model": str, "name": str})
    return body.get("model") or body.get("name") or ""


def _running(loaded: Loaded) -> Json:
    return {
        "name": loaded.entry.name,
        "model": loaded.entry.name,
        "size": loaded.placement.size_bytes,
        "digest": loaded.entry.digest,
        "details": loaded.entry.details,
        "expires_at": _expiry(loaded),
        "size_vram": loaded.placement.vram_bytes,
        "context_length": loaded.options.num_ctx,
    }


def _expiry(loaded: Loaded) -> str:
    at = time.time() + loaded.keep_alive_s if loaded.users else loaded.expires_at
    latest = datetime.now(UTC).timestamp() + FOREVER_S
    return go_time(int(min(at, latest) * 1e9))


def _json(value: Json, status: int = 200) -> web.Response:
    body = _bytes(value)
    response = web.Response(status=status, body=body, headers={"Content-Type": JSON_TYPE})
    if len(body) > CHUNKED_FROM:
        response.enable_chunked_encoding()
    return response


def _text(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=text.encode(), headers={"Content-Type": "text/plain"} | (headers or {}))


def _bytes(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
