"""Faults of the machine: tried again, told, and never held against a configuration."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from autotune.errors import ClusterError, StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from autotune.errors import AutotuneError
    from autotune.events import Events
    from autotune.inventory import Device
    from autotune.store import Store

T = TypeVar("T")

MOST_FAULTS = 3
"""Faults of the machine in a row that end a night."""
FAULT_PAUSE_S = 2.0
QUARANTINE = "quarantined"
"""Key of a study's header."""


async def insist(
    events: Events,
    work: Callable[[], Awaitable[T]],
    before_another: Callable[[], Awaitable[object]] | None = None,
    met: Callable[[AutotuneError], None] | None = None,
) -> T:
    """Do something, and again after a fault of the machine; the third in a row is passed on. `met` hears of each."""
    for left in reversed(range(MOST_FAULTS)):
        try:
            if before_another is not None and left < MOST_FAULTS - 1:
                await before_another()
            return await work()
        except (ClusterError, StorageError) as error:
            _tell(events, error, left)
            if met is not None:
                met(error)
            if not left:
                raise
            await asyncio.sleep(FAULT_PAUSE_S)
    raise AssertionError("unreachable")


def _tell(events: Events, error: AutotuneError, left: int) -> None:
    events.show({"what": "fault", "error": error, "left": left})
    with suppress(StorageError):  # a disk that is full cannot hold that it is
        device = getattr(error, "device", "")
        events.note("trouble", kind=type(error).__name__, said=error.message, device=device, left=left)


def quarantined(store: Store) -> dict[str, str]:
    """Devices that a study has left out since they failed, by id, each with what was said of it."""
    return dict((store.header() or {}).get(QUARANTINE, {}))


def missing(store: Store) -> list[Device]:
    """The same devices, as they were."""
    lost, host = quarantined(store), store.host()
    return [device for device in host[0].devices if device.id in lost] if lost and host else []


async def quarantine(store: Store, events: Events, lost: Mapping[str, str]) -> None:
    """Keep that these devices are left out, for the nights to come and for the morning."""
    device, said = list(lost.items())[-1]

    async def keep() -> None:
        store.write_header({**(store.header() or {}), QUARANTINE: dict(lost)})
        events.note("quarantine", device=device, said=said)

    await insist(events, keep)
