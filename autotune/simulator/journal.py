"""What an instance writes to stderr: the lines of Ollama and its llama-server (0.32.15) that a reader of logs needs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from autotune.simulator.environment import go_duration
from autotune.simulator.profiles import MIB

if TYPE_CHECKING:
    from typing import TextIO

    from autotune.simulator.environment import Settings
    from autotune.simulator.memory import Buffers, OutOfMemory, Placement
    from autotune.simulator.profiles import DeviceProfile, Profile

GIB = 1 << 30

ORIGINS = (
    "[http://localhost https://localhost http://localhost:* https://localhost:* http://127.0.0.1 https://127.0.0.1 "
    "http://127.0.0.1:* https://127.0.0.1:* http://0.0.0.0 https://0.0.0.0 http://0.0.0.0:* https://0.0.0.0:* app://* "
    "file://* tauri://* vscode-webview://* vscode-file://*]"
)


class Journal:
    """The log of one instance."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def raw(self, *lines: str) -> None:
        """Lines of the child process, which have no time and no level."""
        self._out.write("".join(f"{line}\n" for line in lines))
        self._out.flush()

    def say(self, source: str, msg: str, *, level: str = "INFO", **fields: object) -> None:
        """One structured line of Ollama's own."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        parts = [f"time={stamp} level={level} source={source} msg={_quoted(msg)}"]
        self.raw(" ".join(parts + [f"{key}={_quoted(str(value))}" for key, value in fields.items()]))

    def access(self, status: int, took_s: float, client: str, method: str, path: str) -> None:
        """The line of one request."""
        stamp = time.strftime("%Y/%m/%d - %H:%M:%S")
        self.raw(f'[GIN] {stamp} | {status:3d} | {go_duration(took_s):>13} | {client:>15} | {method:<7}  "{path}"')

    def config(self, settings: Settings) -> None:
        """The first line: the environment as it was understood."""
        effective = " ".join(f"{key}:{value}" for key, value in sorted(_effective(settings).items()))
        self.say("routes.go:1951", "server config", env=f"map[{effective}]")
        self.say("simulator", "this is a simulation: no GPU is used and no model is run", profile=settings.profile)

    def listening(self, settings: Settings, version: str) -> None:
        """The socket is bound."""
        where = f"[::]:{settings.port}" if not settings.host else f"{settings.host}:{settings.port}"
        self.say("routes.go:2008", f"Listening on {where} (version {version})")
        self.say("runner.go:60", "discovering available GPUs...")
        if settings.cuda_visible_devices:
            selection = {"CUDA_VISIBLE_DEVICES": settings.cuda_visible_devices}
            self.say("runner.go:722", "user overrode visible devices", level="WARN", **selection)
            self.say("runner.go:726", "if GPUs are not correctly discovered, unset and try again", level="WARN")

    def compute(self, devices: list[tuple[str, DeviceProfile]], free: dict[str, int], profile: Profile) -> None:
        """What was discovered."""
        for ordinal, (word, device) in enumerate(devices):
            self.say(
                "types.go:32", "inference compute", id=ordinal, filter_id=word, library="CUDA",
                compute=device.compute_capability, name=f"CUDA{ordinal}", description=device.name,
                libdirs="ollama,cuda_v13", driver="13.0", pci_id="", type="discrete",
                total=_gib(device.memory_bytes), available=_gib(free[device.uuid]),
            )  # fmt: skip
        if not devices:
            memory = _gib(profile.host.memory_mib * MIB)
            self.say(
                "types.go:50", "inference compute", id="cpu", library="cpu", compute="", name="cpu", description="cpu",
                libdirs="ollama", driver="", pci_id="", type="", total=memory, available=memory,
            )  # fmt: skip

    def default_context(self, total_bytes: int, num_ctx: int) -> None:
        """The last line before requests are served."""
        total = _gib(total_bytes) if total_bytes else "0 B"
        self.say("routes.go:2058", "vram-based default context", total_vram=total, default_num_ctx=num_ctx)

    def starting(self, command: str, file: str) -> None:
        """A load begins."""
        self.say("server.go:109", "using llama-server for model", model=file)
        self.say("llama_server.go:433", "starting llama-server", cmd=command)
        self.say("llama_server.go:1048", "loading model via llama-server", model=file)
        self.say("llama_server.go:1295", "waiting for llama-server to start responding")

    def devices_found(self, devices: list[DeviceProfile], free: dict[str, int]) -> None:
        """What the child sees."""
        if not devices:
            return
        self.raw(f"ggml_cuda_init: found {len(devices)} CUDA devices:")
        for ordinal, device in enumerate(devices):
            free_mib = free[device.uuid] // MIB
            self.raw(f"llama_prepare_model_devices: using device CUDA{ordinal} ({device.name}) - {free_mib} MiB free")

    def placed(self, placement: Placement, devices: list[DeviceProfile]) -> None:
        """The layers and the buffers."""
        if devices:
            layers = f"{placement.on_devices}/{placement.ask.model.all_layers}"
            self.raw(f"load_tensors: offloaded {layers} layers to GPU")
        for ordinal, device in enumerate(devices):
            if device.uuid in placement.layers:
                self._buffers(f"CUDA{ordinal}", f"CUDA{ordinal}", placement.buffers(device.uuid))
        if devices:
            self._buffers("CPU", "CUDA_Host", placement.host_buffers)
        else:
            self._buffers("CPU", "CPU", placement.host_buffers)

    def out_of_memory(self, error: OutOfMemory, file: str) -> str:
        """The child's last words, which become the answer's."""
        self.raw(
            f"ggml_backend_cuda_buffer_type_alloc_buffer: allocating {error.needed_bytes / MIB:.2f} MiB on device "
            f"{error.ordinal}: cudaMalloc failed: out of memory"
        )
        lost = f"error: failed to load model {file}: unable to allocate CUDA buffer"
        self.raw(lost)
        return f"cudaMalloc failed: out of memory\n{lost}"

    def load_failed(self, words: str, file: str) -> None:
        """The load came to nothing."""
        self.say("llama_server.go:1023", "llama-server terminated", level="ERROR", error="exit status 1", exit=1)
        self.say("sched.go:641", "Load failed", model=file, error=words)

    def started(self, slots: int, num_ctx: int, took_s: float, loaded: int) -> None:
        """The model serves."""
        self.raw(f"srv load_model: initializing slots, n_slots = {slots}, n_ctx_slot = {num_ctx}, kv_unified = false")
        self.say("llama_server.go:1362", f"llama-server started in {took_s:.2f} seconds")
        self.say("sched.go:728", "loaded runners", count=loaded)

    def _buffers(self, place: str, compute_place: str, buffers: Buffers) -> None:
        weights = "CPU_Mapped" if place == "CPU" else place
        self.raw(f"load_tensors: {weights} model buffer size = {buffers.weights / MIB:.2f} MiB")
        if buffers.kv:
            self.raw(f"llama_kv_cache: {place} KV buffer size = {buffers.kv / MIB:.2f} MiB")
        self.raw(f"sched_reserve: {compute_place} compute buffer size = {buffers.compute / MIB:.2f} MiB")


def _effective(settings: Settings) -> dict[str, object]:
    flash = "true" if settings.flash_attention else "false"
    host = settings.host or "0.0.0.0"  # noqa: S104 – only printed
    return dict[str, object](settings.shown) | {
        "CUDA_VISIBLE_DEVICES": settings.cuda_visible_devices or "",
        "OLLAMA_CONTEXT_LENGTH": settings.context_length,
        "OLLAMA_DEBUG": "INFO",
        "OLLAMA_FLASH_ATTENTION": flash,
        "OLLAMA_GPU_OVERHEAD": 0,
        "OLLAMA_HOST": f"http://{host}:{settings.port}",
        "OLLAMA_KEEP_ALIVE": go_duration(settings.keep_alive_s),
        "OLLAMA_KV_CACHE_TYPE": settings.kv_cache_type,
        "OLLAMA_LOAD_TIMEOUT": settings.load_timeout,
        "OLLAMA_MAX_LOADED_MODELS": settings.max_loaded_models,
        "OLLAMA_MAX_QUEUE": settings.max_queue,
        "OLLAMA_MAX_TRANSFER_STREAMS": 4,
        "OLLAMA_MODELS": settings.models,
        "OLLAMA_NUM_PARALLEL": settings.num_parallel,
        "OLLAMA_ORIGINS": ORIGINS,
        "OLLAMA_REMOTES": "[ollama.com]",
        "OLLAMA_SCHED_SPREAD": "true" if settings.sched_spread else "false",
    }


def _quoted(value: str) -> str:
    if value and not any(char in ' "=\n' for char in value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"


def bind_error(host: str, port: int) -> str:
    """What `ollama serve` says last when somebody else has its port."""
    shown = f"[{host}]" if ":" in host else host
    return f"Error: listen tcp {shown}:{port}: bind: address already in use"
