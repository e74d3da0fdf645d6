"""The signals by which a person, or a system that goes down, ends a command."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def handled(on_signal: Callable[[], None]) -> Iterator[None]:
    """Inside, each of them calls `on_signal` in the running loop, in place of what it does.

    A SIGHUP that was ignored when we were started (nohup) stays ignored.
    """
    loop = asyncio.get_running_loop()
    chosen = [name for name in ENDING if name != signal.SIGHUP or signal.getsignal(name) != signal.SIG_IGN]
    for name in chosen:
        loop.add_signal_handler(name, on_signal)
    try:
        yield
    finally:
        for name in chosen:
            loop.remove_signal_handler(name)
