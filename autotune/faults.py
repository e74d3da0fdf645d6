"""Faults of the machine: tried again, told, and never held against a configuration."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from autotune.errors import ClusterError, StorageError
from autotune.space import moved, parse_layout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

    from autotune.errors import AutotuneError
    from autotune.events import Events
    from autotune.inventory import Inventory
    from autotune.result import TrialResult
    from autotune.store import Shelf, Store

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


def devices_before(store: Store) -> Inventory | None:
    """The devices of a study that has lost some, as they were before; None where it has lost none."""
    host = store.host() if quarantined(store) else None
    return None if host is None else host[0]


@dataclass(frozen=True)
class Losses:
    """What a study has lost to faults of the machine."""

    devices: Mapping[str, str] = field(default_factory=dict)
    """By id, each with what was said of it."""
    trials: frozenset[int] = frozenset()
    """Those whose configurations cannot run on the devices that are left, by number."""

    @classmethod
    def of(cls, store: Store, results: Iterable[TrialResult]) -> Losses:
        """Of these results of a study."""
        devices, before = quarantined(store), devices_before(store)
        if before is None:
            return cls(devices)
        left, layouts = before.without(devices), {one.number: str(one.params["layout"]) for one in results}
        unable = [at for at, text in layouts.items() if moved(parse_layout(text, before), before, left) is None]
        return cls(devices, frozenset(unable))


def spoilt(shelf: Shelf, lost: Collection[str]) -> bool:
    """Whether any of these runs was on one of these devices."""
    return bool(lost) and any(not shelf.plan(one.number).devices.isdisjoint(lost) for one in shelf.results())


async def quarantine(store: Store, events: Events, lost: Mapping[str, str]) -> None:
    """Keep that these devices are left out, for the nights to come and for the morning."""
    device, said = list(lost.items())[-1]

    async def keep() -> None:
        store.write_header({**(store.header() or {}), QUARANTINE: dict(lost)})
        events.note("quarantine", device=device, said=said)

    await insist(events, keep)
