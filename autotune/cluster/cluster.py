"""The running cluster. It becomes a plan by restarting only what differs, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

import aiohttp

from autotune.cluster import host, verify
from autotune.cluster.children import of_another
from autotune.cluster.deaths import Deaths
from autotune.errors import (
    AutotuneError,
    BalancerError,
    InstanceDied,
    LoadFailed,
    LoadTimeout,
    NeverReady,
    OutOfHostMemory,
    OutOfMemory,
    PortTaken,
    StartFailed,
    TrialFailure,
)
from autotune.files import storage
from autotune.ollama.api import Ollama, wait_ready
from autotune.ollama.log import last_load, last_words, wanting

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from pathlib import Path

    from autotune.cluster.driver import Driver, Handle
    from autotune.cluster.nginx import Nginx
    from autotune.cluster.verify import Placement
    from autotune.plan import DerivedModel, InstancePlan, Plan

T = TypeVar("T")
_FORGET_S = 15.0


class Cluster:
    """Instances by a driver, and nginx in front of them (None: the client spreads the requests)."""

    def __init__(
        self,
        driver: Driver,
        nginx: Nginx | None,
        *,
        start_timeout_s: float,
        load_timeout_s: float,
        ledger: Path | None = None,
    ) -> None:
        """`ledger` is where names of derived models are kept while they are in the user's store."""
        self._driver = driver
        self._nginx = nginx
        self._start_timeout_s = start_timeout_s
        self._load_timeout_s = load_timeout_s
        self._ledger = ledger
        self._handles: dict[InstancePlan, Handle] = {}
        self._derived: dict[DerivedModel, InstancePlan] = {}
        """Names that we added to the user's store, and an instance on that store."""
        self._deaths = Deaths()
        self.stop_s = 0.0
        """The longest that ending what runs has taken so far."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.clear()
        finally:
            await self._forget_orphans()

    async def become(self, plan: Plan) -> None:
        """Run exactly `plan`: what is equal and alive goes on, all else is ended, then the missing is started.

        Raises `TrialFailure` for an instance that does not start, `ClusterError` for what is the machine's fault.
        """
        kept = {one: handle for one, handle in self._handles.items() if self._stays(one, plan)}
        await self._stop(handle for one, handle in self._handles.items() if one not in kept)
        await self.start(*(one for one in plan.instances if one not in kept))
        if self._nginx is not None:
            await self._nginx.become(plan)

    async def start(self, *instances: InstancePlan) -> None:
        """Start instances, and wait until each answers. Raises `TrialFailure`, `PortTaken`, `BinaryMissing`."""
        for instance in instances:
            _need_port(instance)
            self._handles[instance] = self._driver.start(instance)
        await _all(self._ready(self._handles[instance]) for instance in instances)

    async def load(self, plan: Plan) -> None:
        """Have every instance load the model; those that have it answer at once. Raises `TrialFailure`."""
        if plan.derived is not None:
            await self._derive(plan, plan.derived)
        await _all(self._preload(self._handles[instance], plan.model) for instance in plan.instances)

    async def placements(self, plan: Plan) -> tuple[Placement, ...]:
        """Where every instance really has the model."""
        return tuple(await _all(self._placement(self._handles[instance]) for instance in plan.instances))

    def check(self) -> None:
        """Whether all that should run does, since `placements`.

        Raises `BalancerError`, `Killed` for what somebody else has ended, and `InstanceDied`, `OutOfMemory`,
        `OutOfHostMemory` for what is the configuration's own.
        """
        if self._nginx is not None and self._handles and not self._nginx.alive():
            raise BalancerError("nginx has died")
        for handle in self._handles.values():
            if not self._driver.alive(handle):
                raise self._died(InstanceDied, f"{handle.instance.name} has died", handle)
            if (error := self._deaths.of_model(handle, self._driver.logs(handle))) is not None:
                raise error

    def logs(self) -> dict[str, str]:
        """What every instance has written since it was started, by its name."""
        return {handle.instance.name: self._driver.logs(handle) for handle in self._handles.values()}

    async def clear(self) -> None:
        """End everything that runs."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._stop, self._handles.values())
            if self._nginx is not None:
                stack.push_async_callback(self._nginx.stop)
            await self._forget_derived()

    def _stays(self, instance: InstancePlan, plan: Plan) -> bool:
        return instance in plan.instances and self._driver.alive(self._handles[instance])

    async def _stop(self, handles: Iterable[Handle]) -> None:
        ending = list(handles)
        now = asyncio.get_running_loop().time
        began = now()
        try:
            await _all(self._driver.stop(handle) for handle in ending)
        finally:
            self.stop_s = max(self.stop_s, now() - began)
            for handle in ending:
                if not self._driver.alive(handle):
                    self._handles.pop(handle.instance, None)

    async def _ready(self, handle: Handle) -> None:
        instance = handle.instance
        async with Ollama(instance.url, timeout_s=5) as server:
            waiting = asyncio.ensure_future(wait_ready(server))
            try:
                async with asyncio.timeout(self._start_timeout_s):
                    while not waiting.done():
                        if not self._driver.alive(handle):
                            raise self._dead_at_start(handle)
                        await asyncio.wait([waiting], timeout=0.05)
                    waiting.result()
                    self._need_own_port(handle)
            except TimeoutError as error:
                message = f"{instance.name} did not answer on {instance.address} in {self._start_timeout_s:g} s"
                raise self._with_log(NeverReady, message, handle) from error
            finally:
                waiting.cancel()

    def _need_own_port(self, handle: Handle) -> None:
        """Who answered may be an Ollama of another cluster, or of the user, which took the port after it was free."""
        answers = host.listener(handle.instance.port, handle.pid)
        if answers is not None and of_another(answers, handle.pid):
            raise _lost_port(handle, host.describe(answers))
        if not self._driver.alive(handle):
            raise self._dead_at_start(handle)

    def _dead_at_start(self, handle: Handle) -> AutotuneError:
        """A port that was taken between check and start is the machine's fault; all else as `_died` says."""
        if not host.port_free(handle.instance.port):
            return _lost_port(handle, host.port_holder(handle.instance.port))
        return self._died(StartFailed, f"{handle.instance.name} died at its start", handle)

    async def _preload(self, handle: Handle, model: str) -> None:
        async with Ollama(handle.instance.url) as server:
            try:
                await server.preload(model, self._load_timeout_s)
            except NeverReady as failure:
                raise self._with_log(LoadTimeout, failure.message, handle) from failure
            except LoadFailed as failure:
                raise self._unloaded(failure, handle) from failure

    def _unloaded(self, failure: LoadFailed, handle: Handle) -> AutotuneError:
        """Why a model did not load: its server is gone, there is no memory, or something else."""
        if not self._driver.alive(handle):
            return self._died(LoadFailed, failure.message, handle)
        log = self._driver.logs(handle)
        kinds = {"device": OutOfMemory, "host": OutOfHostMemory}
        kind = kinds.get(wanting(failure.message) or wanting(last_load(log)) or "", type(failure))
        return self._with_log(kind, failure.message, handle)

    async def _placement(self, handle: Handle) -> Placement:
        async with Ollama(handle.instance.url) as server:
            try:
                loaded = await server.loaded()
            except (aiohttp.ClientError, TimeoutError) as error:
                message = f"{handle.instance.name} does not answer: {error}"
                raise self._died(InstanceDied, message, handle) from error
        log = self._driver.logs(handle)
        self._deaths.seen(handle, log)
        return verify.placement(handle, log, loaded)

    async def _derive(self, plan: Plan, derived: DerivedModel) -> None:
        """Made anew each time: it costs milliseconds, and the name may have gone with a server that died."""
        first = self._handles[plan.instances[0]]
        self._derived[derived] = first.instance
        if self._ledger is not None:
            with storage(self._ledger):
                self._ledger.write_text("".join(f"{one.name}\n" for one in self._derived), encoding="utf-8")
        async with Ollama(first.instance.url) as server:
            try:
                await server.create(derived.name, derived.parent, dict(derived.parameters))
            except (aiohttp.ClientError, TimeoutError) as error:
                message = f"{first.instance.name} did not create {derived.name}: {error}"
                raise self._died(InstanceDied, message, first) from error

    async def _forget_derived(self) -> None:
        """Names that we added to the user's store go again, while a server of ours still runs."""
        alive = [handle for handle in self._handles.values() if self._driver.alive(handle)]
        if not alive or not self._derived:
            return
        with suppress(aiohttp.ClientError, TimeoutError):
            async with Ollama(alive[0].instance.url, timeout_s=_FORGET_S) as server:
                for derived in list(self._derived):
                    await server.delete(derived.name)
                    del self._derived[derived]
            if self._ledger is not None:
                self._ledger.unlink(missing_ok=True)

    async def _forget_orphans(self) -> None:
        """No server was left that could forget them: one is started for that."""
        if not self._derived:
            return
        instance = next(iter(self._derived.values()))
        try:
            with suppress(AutotuneError, TimeoutError):
                async with asyncio.timeout(_FORGET_S):
                    await self.start(instance)
                await self._forget_derived()
        finally:
            await self._stop(self._handles.values())

    def _died(self, kind: type[TrialFailure], message: str, handle: Handle) -> AutotuneError:
        """`kind`, unless it was somebody else who ended the instance."""
        return self._deaths.of_server(handle, self._driver.logs(handle)) or self._with_log(kind, message, handle)

    def _with_log(self, kind: type[TrialFailure], message: str, handle: Handle) -> TrialFailure:
        return kind(message, details=last_words(self._driver.logs(handle)))


def _need_port(instance: InstancePlan) -> None:
    if not host.port_free(instance.port):
        raise PortTaken(f"port {instance.port} ({instance.name}) is taken by {host.port_holder(instance.port)}")


def _lost_port(handle: Handle, holder: str) -> PortTaken:
    return PortTaken(f"port {handle.instance.port} ({handle.instance.name}) was taken by {holder}")


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run everything to its end, then raise the first error: what was begun is never left half done."""
    done: list[T] = []
    errors: list[BaseException] = []
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            errors.append(result)
        else:
            done.append(result)
    if errors:
        raise errors[0]
    return done
