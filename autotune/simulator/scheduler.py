"""Which models are loaded in one instance: loads one at a time, reloads, evicts, unloads when idle. As Ollama does.

A request for a model that is loaded as it asks gets it at once and queues, without bound, in front of its slots. Any
other waits its turn here, where the queue is bounded (OLLAMA_MAX_QUEUE).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autotune.simulator.board import Surroundings
from autotune.simulator.environment import visible
from autotune.simulator.memory import KV_FACTORS, QUANTIZED, SINGLE_DEVICE_SHARE, Ask, OutOfMemory, choose, place
from autotune.simulator.model import Engine, log_normal
from autotune.simulator.profiles import MIB

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Iterator

    from autotune.simulator.board import Board
    from autotune.simulator.environment import Settings
    from autotune.simulator.journal import Journal
    from autotune.simulator.library import Entry
    from autotune.simulator.memory import Placement
    from autotune.simulator.profiles import Profile

ONE_SLOT_FAMILIES = frozenset({
    "mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe", "nemotron_h",
    "nemotron_h_moe", "nemotron_h_omni",
})  # fmt: skip
"""Families that Ollama 0.32 gives one slot whatever OLLAMA_NUM_PARALLEL says."""

CONTEXT_TIERS = ((47 << 30, 262144), (23 << 30, 32768))
"""Default num_ctx by the memory of all visible devices together; 4096 below."""

SMALLEST_CONTEXT = 4


class ServerBusy(Exception):
    """The queue in front of the loads is full."""


class LoadFailed(Exception):
    """The child process ended while it loaded; the words are its last."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a model is loaded with; a request that asks for other values makes it load again."""

    num_ctx: int
    num_batch: int
    num_gpu: int = -1
    num_thread: int = 0


@dataclass(eq=False, slots=True)
class Loaded:
    """One loaded model."""

    entry: Entry
    options: LoadOptions
    slots: int
    placement: Placement
    engine: Engine
    keep_alive_s: float
    users: int = 0
    leaving: bool = False
    expires_at: float = 0.0
    """Wall clock, s since 1970."""
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.TimerHandle | None = None


class Scheduler:
    """The loaded models of one instance."""

    def __init__(
        self, profile: Profile, settings: Settings, board: Board, journal: Journal, rng: random.Random
    ) -> None:
        loop = asyncio.get_running_loop()
        self._profile = profile
        self._settings = settings
        self._board = board
        self._journal = journal
        self._rng = rng
        self.time_scale = settings.time_scale or profile.time_scale
        self._life = log_normal(rng, profile.host.life_jitter)
        self._surroundings = Surroundings(profile, board, loop.time)
        self._loaded: dict[str, Loaded] = {}
        self._gate = asyncio.Lock()
        self._pending = 0
        self.devices = [device for _, device in visible(profile.devices, settings.cuda_visible_devices)]

    def loaded(self) -> list[Loaded]:
        """What /api/ps lists."""
        return list(self._loaded.values())

    def default_context(self) -> int:
        """num_ctx where neither the environment nor a request says one."""
        memory = sum(device.memory_bytes for device in self.devices)
        by_memory = next((tokens for least, tokens in CONTEXT_TIERS if memory >= least), 4096)
        return self._settings.context_length or by_memory

    def free(self) -> dict[str, int]:
        """Free memory of each visible device, bytes."""
        held = [*self._board.others(), *(loaded.placement.taken for loaded in self._loaded.values())]
        return {
            device.uuid: max(0, device.usable_bytes - sum(taken.get(device.uuid, 0) for taken in held))
            for device in self.devices
        }

    def slots_of(self, entry: Entry) -> int:
        """The effective OLLAMA_NUM_PARALLEL."""
        forced = not entry.model.generates or entry.model.family in ONE_SLOT_FAMILIES
        return 1 if forced else self._settings.num_parallel

    def resolve(self, entry: Entry, asked: dict[str, int]) -> LoadOptions:
        """The load options of a request, with everything it leaves out."""
        num_ctx = asked.get("num_ctx") or self.default_context()
        num_ctx = max(SMALLEST_CONTEXT, min(num_ctx, entry.model.context_length))
        batch = asked.get("num_batch") or _default_batch(entry, num_ctx * self.slots_of(entry))
        return LoadOptions(num_ctx, batch, asked.get("num_gpu", -1), asked.get("num_thread", 0))

    @asynccontextmanager
    async def lease(self, entry: Entry, options: LoadOptions, keep_alive_s: float | None) -> AsyncIterator[Loaded]:
        """The model, loaded, until the block is left."""
        loaded = self._ready(entry, options) or await self._in_turn(entry, options)
        self._take(loaded, keep_alive_s)
        try:
            yield loaded
        finally:
            self._give_back(loaded)

    def unload(self, entry: Entry) -> None:
        """End the model now, or when its last request is done."""
        loaded = self._loaded.get(entry.blob)
        if loaded is None:
            return
        loaded.leaving = True
        loaded.keep_alive_s = 0.0
        if not loaded.users:
            self._remove(loaded)

    def crash(self, loaded: Loaded, words: str) -> None:
        """The child process breaks, with all its requests."""
        loaded.engine.die(words)
        self._journal.raw(words)
        self._journal.say(
            "llama_server.go:1023", "llama-server terminated", level="ERROR", error="signal: aborted", exit="unknown"
        )
        self._remove(loaded)

    def _ready(self, entry: Entry, options: LoadOptions) -> Loaded | None:
        loaded = self._loaded.get(entry.blob)
        if loaded is None or loaded.leaving:
            return None
        same_gpu = options.num_gpu in {-1, loaded.options.num_gpu}
        wanted = (options.num_ctx, options.num_batch, options.num_thread)
        has = (loaded.options.num_ctx, loaded.options.num_batch, loaded.options.num_thread)
        return loaded if same_gpu and wanted == has else None

    def _take(self, loaded: Loaded, keep_alive_s: float | None) -> None:
        loaded.users += 1
        loaded.idle.clear()
        if keep_alive_s is not None:
            loaded.keep_alive_s = keep_alive_s
        if loaded.timer:
            loaded.timer.cancel()

    def _give_back(self, loaded: Loaded) -> None:
        loaded.users -= 1
        if loaded.users:
            return
        loaded.idle.set()
        loaded.expires_at = time.time() + loaded.keep_alive_s
        if self._loaded.get(loaded.entry.blob) is loaded:
            # asyncio cannot wait for centuries
            delay_s = min(loaded.keep_alive_s, 10.0**8)
            loaded.timer = asyncio.get_running_loop().call_later(delay_s, self._remove, loaded)

    async def _in_turn(self, entry: Entry, options: LoadOptions) -> Loaded:
        if self._gate.locked() and self._pending >= self._settings.max_queue:
            raise ServerBusy
        self._pending += 1
        try:
            await self._gate.acquire()
        finally:
            self._pending -= 1
        try:
            return self._ready(entry, options) or await self._load(entry, options)
        finally:
            self._gate.release()

    async def _load(self, entry: Entry, options: LoadOptions) -> Loaded:
        began = asyncio.get_running_loop().time()
        slots = self.slots_of(entry)
        ask = Ask(entry.model, options.num_ctx * slots, self._settings.kv_cache_type, _layers(options))
        await self._make_room(entry, ask)
        self._journal.starting(self._command(entry, options, slots), entry.blob)
        if entry.model.family in ONE_SLOT_FAMILIES:
            words = "model architecture does not currently support parallel requests"
            self._journal.say("sched.go:477", words, level="WARN", architecture=entry.model.family)
        with self._board.exclusive():
            placement = self._place(entry, ask)
            self._announce(placement)
        try:
            await self._read_file(entry)
        except BaseException:
            self._announce()
            words = "client connection closed before llama-server finished loading, aborting load"
            self._journal.say("llama_server.go:1310", words)
            raise
        loaded = Loaded(
            entry, options, slots, placement, self._engine(entry, placement, slots),
            self._settings.keep_alive_s,
        )  # fmt: skip
        self._loaded[entry.blob] = loaded
        took_s = asyncio.get_running_loop().time() - began
        self._journal.started(slots, options.num_ctx, took_s, len(self._loaded))
        return loaded

    def _place(self, entry: Entry, ask: Ask) -> Placement:
        free = self.free()
        try:
            self._check(ask, entry)
            chosen = choose(ask, free, spread=self._settings.sched_spread) if ask.layers else ()
            devices = [device for device in self.devices if device.uuid in chosen]
            self._journal.devices_found(devices, free)
            margin_bytes = self._settings.fit_target_mib * MIB
            placement = place(ask, chosen, free, self._profile.host, fit=self._settings.fit, margin_bytes=margin_bytes)
        except OutOfMemory as error:
            raise self._failed(self._journal.out_of_memory(error, entry.blob), entry) from error
        self._journal.placed(placement, devices)
        return placement

    def _check(self, ask: Ask, entry: Entry) -> None:
        if self._settings.faults.load_fails:
            raise OutOfMemory(0, ask.predicted_bytes)
        kv_type = ask.kv_type
        if kv_type not in KV_FACTORS:
            raise self._failed(f"error while handling argument: Unsupported cache type: {kv_type}", entry)
        if kv_type in QUANTIZED and self._settings.flash_attention is False:
            raise self._failed("error: quantized V cache requires flash attention", entry)

    def _failed(self, words: str, entry: Entry) -> LoadFailed:
        words = f"llama-server process has terminated: exit status 1: {words}"
        self._journal.load_failed(words, entry.blob)
        return LoadFailed(words)

    async def _read_file(self, entry: Entry) -> None:
        file = entry.blob.rpartition("/")[2]
        warm = self._board.page_cache(file)
        whole_s = entry.model.warm_load_s if warm else entry.model.load_s
        await asyncio.sleep(whole_s * self._life / self.time_scale)
        self._board.page_cache(file, add=True)

    def _engine(self, entry: Entry, placement: Placement, slots: int) -> Engine:
        shares = placement.shares
        return Engine(
            entry.model,
            slots,
            pace=lambda: self._life * self._surroundings.pace(shares),
            overhead_s=self._profile.host.overhead_s,
            time_scale=self.time_scale,
            jitter=lambda: log_normal(self._rng, self._profile.host.step_jitter),
        )

    async def _make_room(self, entry: Entry, ask: Ask) -> None:
        old = self._loaded.get(entry.blob)
        if old:
            await self._evict(old)
        while self._loaded and self._crowded(ask):
            await self._evict(min(self._loaded.values(), key=lambda loaded: (loaded.users > 0, loaded.keep_alive_s)))

    def _crowded(self, ask: Ask) -> bool:
        most = self._settings.max_loaded_models or 3 * max(1, len(self.devices))
        room = max(self.free().values(), default=ask.predicted_bytes * 2)
        return len(self._loaded) >= most or ask.predicted_bytes > SINGLE_DEVICE_SHARE * room

    async def _evict(self, loaded: Loaded) -> None:
        loaded.leaving = True
        if loaded.users:
            await loaded.idle.wait()
        self._remove(loaded)

    def _remove(self, loaded: Loaded) -> None:
        if loaded.timer:
            loaded.timer.cancel()
        if self._loaded.get(loaded.entry.blob) is loaded:
            del self._loaded[loaded.entry.blob]
            self._announce()

    def _announce(self, *coming: Placement) -> None:
        total: dict[str, int] = {}
        for placement in (*(loaded.placement for loaded in self._loaded.values()), *coming):
            for where, size in placement.taken.items():
                total[where] = total.get(where, 0) + size
        self._board.announce(total)

    def _command(self, entry: Entry, options: LoadOptions, slots: int) -> str:
        return " ".join(_arguments(entry, options, slots, self._settings))


def _arguments(entry: Entry, options: LoadOptions, slots: int, settings: Settings) -> Iterator[str]:
    yield f"/usr/local/lib/ollama/llama-server --model {entry.blob} --port {40000 + settings.port % 20000}"
    yield f"--host 127.0.0.1 --no-webui --offline -c {options.num_ctx * slots} -np {slots}"
    yield "--log-verbosity 4 --no-log-prefix --no-log-timestamps"
    flash = {None: "auto", True: "on", False: "off"}[settings.flash_attention]
    yield f"--flash-attn {flash} -b {options.num_batch} -ub {options.num_batch}"
    if settings.kv_cache_type:
        yield f"--cache-type-k {settings.kv_cache_type} --cache-type-v {settings.kv_cache_type}"
    if options.num_gpu >= 0:
        yield f"-ngl {options.num_gpu}"
    if options.num_thread > 0:
        yield f"-t {options.num_thread}"
    yield "--context-shift --keep 4"


def _layers(options: LoadOptions) -> int:
    return options.num_gpu if options.num_gpu >= 0 else 1 << 16


def _default_batch(entry: Entry, tokens: int) -> int:
    if not entry.model.generates:
        return min(2048, entry.model.context_length)
    if tokens <= 4096:
        return 512
    return 1024 if tokens <= 32768 else 2048
