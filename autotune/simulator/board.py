"""The board on which the instances of one played host see each other: memory held by device, and files already read.

Two boards: `MemoryBoard` for instances inside one process, `FileBoard` for processes. Each instance writes its own
entry; the entry of a process that was killed is void, because its lock is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Protocol, Self
from uuid import uuid4

from autotune.simulator.model import contention, slowdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import IO

    from autotune.simulator.profiles import Profile

Taken = dict[str, int]
"""Bytes by device UUID, and by `cpu`; a key is there where layers are."""

LOOK_AGAIN_S = 0.1
"""How old the knowledge about the neighbours may get while steps run."""


class Board(Protocol):
    """What instances tell each other."""

    def others(self) -> list[Taken]:
        """What each other living instance with a loaded model holds."""

    def announce(self, taken: Taken) -> None:
        """What this instance holds from now on; empty: no model is loaded."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Nobody else looks at free memory and takes it inside this block."""

    def page_cache(self, file: str, *, add: bool = False) -> bool:
        """Whether some instance of this host has read this file to its end; with `add` this one now has."""


class MemoryBoard:
    """A board inside one process. `host` is what the instances of one host share: the same dict for all of them."""

    def __init__(self, host: dict[str, Taken]) -> None:
        self._host = host
        self._own = uuid4().hex

    def others(self) -> list[Taken]:
        return [taken for key, taken in self._host.items() if taken and key not in {self._own, "files"}]

    def announce(self, taken: Taken) -> None:
        self._host[self._own] = dict(taken)

    def exclusive(self) -> AbstractContextManager[None]:
        return nullcontext()

    def page_cache(self, file: str, *, add: bool = False) -> bool:
        files = self._host.setdefault("files", {})
        known = file in files
        if add:
            files[file] = 1
        return known


class FileBoard:
    """A board in a directory. Each entry is a JSON file, replaced whole, beside a file its process holds locked."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._entries = directory / "instances"
        self._entries.mkdir(parents=True, exist_ok=True)
        (directory / "files").mkdir(exist_ok=True)
        self._own = f"{os.getpid()}-{uuid4().hex[:8]}"
        unlocked = self._entries / f"{self._own}.draft"
        self._held = unlocked.open("w")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        unlocked.rename(self._entries / f"{self._own}.lock")  # never visible without its lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the board."""
        self._forget(self._own)
        self._held.close()

    def others(self) -> list[Taken]:
        names = [path.stem for path in self._entries.glob("*.lock") if path.stem != self._own]
        found = [self._read(name) for name in names]
        return [taken for taken in found if taken]

    def announce(self, taken: Taken) -> None:
        draft = self._entries / f"{self._own}.draft"
        draft.write_text(json.dumps(taken))
        draft.replace(self._entries / f"{self._own}.json")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with (self._directory / "lock").open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            yield

    def page_cache(self, file: str, *, add: bool = False) -> bool:
        mark = self._directory / "files" / file
        known = mark.exists()
        if add:
            mark.touch()
        return known

    def _read(self, name: str) -> Taken:
        try:
            with (self._entries / f"{name}.lock").open() as lock:
                if _is_free(lock):
                    self._forget(name)
                    return {}
            entry: Taken = json.loads((self._entries / f"{name}.json").read_text())
        except FileNotFoundError:
            return {}
        return entry

    def _forget(self, name: str) -> None:
        for ending in ("json", "draft", "lock"):
            (self._entries / f"{name}.{ending}").unlink(missing_ok=True)


def _is_free(lock: IO[str]) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    return False


class Surroundings:
    """The pace of one instance: what devices, CPU and neighbours make of its steps. Looks at the board now and then."""

    def __init__(self, profile: Profile, board: Board, clock: Callable[[], float]) -> None:
        self._profile = profile
        self._board = board
        self._clock = clock
        self._looked_at = -LOOK_AGAIN_S
        self._others: list[Taken] = []

    def pace(self, shares: Mapping[str, float]) -> float:
        """The factor on all times of a model whose layers are so placed."""
        self._look()
        residents = Counter(place for taken in self._others for place in taken)
        residents.update(shares.keys())
        return contention(self._profile.host, 1 + len(self._others)) * slowdown(self._profile, shares, residents)

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked_at >= LOOK_AGAIN_S:
            self._others = self._board.others()
            self._looked_at = now
