"""The seam between a plan and what runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from autotune.plan import InstancePlan


@dataclass(frozen=True, slots=True)
class Handle:
    """A started instance."""

    instance: InstancePlan
    pid: int


class Driver(Protocol):
    """Starts and ends instances. Every implementation passes `tests/cluster/test_driver.py`."""

    def start(self, instance: InstancePlan) -> Handle:
        """Begin to start an instance and return at once. Raises `BinaryMissing`."""

    async def stop(self, handle: Handle) -> None:
        """End an instance and all that it left, in bounded time. Ending one twice is fine."""

    def alive(self, handle: Handle) -> bool:
        """Whether the instance's process still runs."""

    def logs(self, handle: Handle) -> str:
        """All that the instance has written since it was started."""
