"""Calls one function in a process of its own and writes what came of it, pickled: see `stub.Stub.call`.

A process loads NVML once for its life, so whoever wants to meet the stand-in must not have met another one before.
"""

from __future__ import annotations

import importlib
import pickle
import sys


def main() -> None:
    """Read (module, function, arguments) from stdin, write (value, None) or (None, exception) to stdout."""
    module, name, positional, named = pickle.load(sys.stdin.buffer)
    outcome: tuple[object, Exception | None]
    try:
        outcome = (getattr(importlib.import_module(module), name)(*positional, **named), None)
    except Exception as error:  # noqa: BLE001 – the caller raises it again
        outcome = (None, error.with_traceback(None))
    pickle.dump(outcome, sys.stdout.buffer)


if __name__ == "__main__":
    main()
