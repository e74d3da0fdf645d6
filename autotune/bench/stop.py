"""Signals: the load in flight ends at once, with what it has; where there is none, everything ends at once."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from autotune.errors import Interrupted
from autotune.signals import handled

if TYPE_CHECKING:
    from collections.abc import Iterator


class Stop:
    """What the signals of a command do."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        """A load is to end now."""
        self._task = asyncio.current_task()
        self._loading = False

    def __call__(self) -> None:
        """A signal came."""
        if self._loading and not self.asked.is_set():
            self.asked.set()
        elif self._task is not None:
            self._task.cancel()

    @contextmanager
    def here(self) -> Iterator[None]:
        """Inside, a load runs that looks whether it is to end."""
        self._loading = True
        try:
            yield
        finally:
            self._loading = False

    def check(self) -> None:
        """Raises `Interrupted` once a signal has come."""
        if self.asked.is_set():
            raise Interrupted("interrupted")


@contextmanager
def signals() -> Iterator[Stop]:
    """Inside, a signal ends the running task with what it has."""
    stop = Stop()
    with handled(stop):
        yield stop
