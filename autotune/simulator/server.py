"""One instance: `ollama serve` as a client, a log reader and a process manager see it."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import random
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

from autotune.simulator import environment, journal
from autotune.simulator.answers import Answers
from autotune.simulator.api import Api, refusal
from autotune.simulator.board import FileBoard
from autotune.simulator.bodies import Refused
from autotune.simulator.journal import Journal
from autotune.simulator.library import Library
from autotune.simulator.profiles import load_profile
from autotune.simulator.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from autotune.simulator.environment import Settings
    from autotune.simulator.profiles import Profile

CLIENT_GONE = 499
BACKLOG = 4096
LOCAL_ENDINGS = (".localhost", ".local", ".internal")


class PortTakenHere(Exception):
    """Somebody else listens there."""


def run(environ: Mapping[str, str]) -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    settings = environment.read(environ)
    profile = load_profile(settings.profile)
    if settings.faults.die_at_start:
        sys.stderr.write("Error: the simulator was told to die at its start\n")
        return 1
    try:
        asyncio.run(_until_signal(settings, profile))
    except PortTakenHere:
        sys.stderr.write(journal.bind_error(settings.host, settings.port) + "\n")
        return 1
    return 0


async def _until_signal(settings: Settings, profile: Profile) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(settings, profile):
        await stop.wait()


@asynccontextmanager
async def serving(settings: Settings, profile: Profile) -> AsyncIterator[Scheduler]:
    """The instance, listening, until the block is left; then all connections are cut at once, as Ollama's are."""
    log = Journal(sys.stderr)
    log.config(settings)
    async with AsyncExitStack() as stack:
        settings.state.mkdir(parents=True, exist_ok=True)
        board = stack.enter_context(FileBoard(settings.state))
        rng = random.Random(f"{settings.seed} {settings.port}" if settings.seed else None)
        scheduler = Scheduler(profile, settings, board, log, rng)
        library = Library(profile, settings.models, settings.state)
        answers = Answers(library, scheduler, settings.faults, settings.seed)
        door = _Door(settings, Api(profile, library, scheduler, answers), log)
        runner = web.AppRunner(door.application(), handler_cancellation=True, shutdown_timeout=0.01, access_log=None)
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        await _listen(runner, settings)
        _discovered(log, settings, profile, scheduler)
        yield scheduler


async def _listen(runner: web.AppRunner, settings: Settings) -> None:
    site = web.TCPSite(runner, settings.host or None, settings.port, backlog=BACKLOG, reuse_address=True)
    try:
        await site.start()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenHere from error
        raise


def _discovered(log: Journal, settings: Settings, profile: Profile, scheduler: Scheduler) -> None:
    log.listening(settings, profile.version)
    shown = environment.visible(profile.devices, settings.cuda_visible_devices)
    log.compute(shown, scheduler.free(), profile)
    log.default_context(sum(device.memory_bytes for _, device in shown), scheduler.default_context())


class _Door:
    """What every request passes: the check of its Host, the routes, the shape of refusals, the access log."""

    def __init__(self, settings: Settings, api: Api, log: Journal) -> None:
        self._settings = settings
        self._api = api
        self._log = log
        self._local_only = _is_loopback(settings.host)

    def application(self) -> web.Application:
        """All paths lead here."""
        application = web.Application(client_max_size=64 << 20)
        application.router.add_route("*", "/{path:.*}", self._enter)
        application.on_response_prepare.append(_nameless)
        return application

    async def _enter(self, request: web.Request) -> web.StreamResponse:
        began = time.monotonic()
        status = CLIENT_GONE
        try:
            response = await self._respond(request)
            status = response.status
        except ConnectionError as error:
            raise asyncio.CancelledError from error
        finally:
            self._log.access(status, time.monotonic() - began, request.remote or "", request.method, request.path)
        return response

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        if self._settings.faults.never_answer:
            await asyncio.Event().wait()
        if self._local_only and not _is_local(request.headers.get("Host", "")):
            return web.Response(status=403)
        try:
            return await self._api.respond(request)
        except Refused as refused:
            return refusal(request.path, refused)


async def _nameless(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall("Server", None)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_local(host: str) -> bool:
    """Whether a server on a loopback address answers to this name: Ollama's guard against DNS rebinding."""
    name = host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host
    name = name.strip("[]").lower()
    if name in {"", "localhost", socket.gethostname().lower()} or name.endswith(LOCAL_ENDINGS):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified
