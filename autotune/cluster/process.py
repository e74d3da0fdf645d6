"""The driver that starts Ollama servers as children of this process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from autotune.cluster.driver import Handle
from autotune.ollama.env import INHERITED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from autotune.cluster.children import Children
    from autotune.plan import InstancePlan


class ProcessDriver:
    """`ollama serve`, or whatever behaves like it, with the environment of the plan and next to nothing else."""

    def __init__(
        self,
        command: Sequence[str],
        children: Children,
        logs: Path,
        *,
        stop_timeout_s: float = 15,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._command = tuple(command)
        self._children = children
        self._logs = logs
        self._stop_timeout_s = stop_timeout_s
        self._env = dict(env or {})

    def start(self, instance: InstancePlan) -> Handle:
        """Begin to start an instance and return at once. Raises `BinaryMissing`."""
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        env = {**inherited, **self._env, **dict(instance.env)}
        process = self._children.start(self._command, env, self._log(instance), instance.cpus)
        return Handle(instance, process.pid)

    async def stop(self, handle: Handle) -> None:
        """End an instance and all that it left, in bounded time."""
        await self._children.end(handle.pid, self._stop_timeout_s)

    def alive(self, handle: Handle) -> bool:
        """Whether the instance's process still runs."""
        return self._children.alive(handle.pid)

    def logs(self, handle: Handle) -> str:
        """All that the instance has written since it was started."""
        try:
            return self._log(handle.instance).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _log(self, instance: InstancePlan) -> Path:
        return self._logs / f"{instance.name}.log"
