"""Whose fault it is that a process of ours has ended: the configuration's, or that of whoever ended it from outside.

A server never ends itself by one of these signals: somebody else sent it. Where the kernel did, for want of memory, it
may have been for another process's hunger, so the first time is the machine's fault; when the same instance dies of it
again at once, it is the instance that asks for too much.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autotune.cluster import host
from autotune.errors import InstanceDied, Killed, OutOfHostMemory, OutOfMemory
from autotune.ollama.log import ended, last_words, wanting

if TYPE_CHECKING:
    from autotune.cluster.driver import Handle
    from autotune.errors import AutotuneError
    from autotune.plan import InstancePlan

FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
"""Signals by which a process is ended, not by which it breaks."""


@dataclass
class Deaths:
    """What is known of deaths in one cluster."""

    starved: set[InstancePlan] = field(default_factory=set)
    """Instances that the kernel has ended for want of memory."""
    read: dict[int, int] = field(default_factory=dict)
    """How much of its log was there when an instance was last well, by pid."""
    for_memory: int = field(default_factory=host.killed_for_memory)
    """How many processes the kernel had ended for want of memory when this was last looked at."""

    def seen(self, handle: Handle, log: str) -> None:
        """An instance is well."""
        self.read[handle.pid] = len(log)
        self.for_memory = host.killed_for_memory()

    def of_server(self, handle: Handle, log: str) -> AutotuneError | None:
        """Who else has ended a server; None where nobody has."""
        code = host.ending(handle.pid)
        if code is None or -code not in FROM_OUTSIDE:
            return None
        return self._killed(handle, handle.instance.name, signal.Signals(-code).name, log)

    def of_model(self, handle: Handle, log: str) -> AutotuneError | None:
        """Why the process that serves the model has ended since the instance was well; None where it has not."""
        later = log[self.read.get(handle.pid, len(log)) :]
        how = ended(later)
        if not how:
            return None
        what = f"the process that serves the model of {handle.instance.name}"
        if how == "signal: killed":
            return self._killed(handle, what, "SIGKILL", log)
        kinds = {"device": OutOfMemory, "host": OutOfHostMemory}
        return kinds.get(wanting(later) or "", InstanceDied)(f"{what} broke: {how}", details=last_words(later))

    def _killed(self, handle: Handle, what: str, how: str, log: str) -> AutotuneError:
        before, self.for_memory = self.for_memory, host.killed_for_memory()
        if self.for_memory == before or how != "SIGKILL":
            return Killed(f"{what} was ended from outside by {how}", details=last_words(log))
        said = f"the kernel has ended {what} for want of memory"
        if handle.instance in self.starved:
            return OutOfHostMemory(f"{said}, and again when it was started anew", details=last_words(log))
        self.starved.add(handle.instance)
        return Killed(said, details=last_words(log))
