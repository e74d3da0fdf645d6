"""The command line. Heavy imports where they are used, so that `--help` answers at once."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from autotune.cli.parser import parser
from autotune.errors import AutotuneError, Interrupted, SpecError, StorageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of an output that takes no more."""

THREADS = "OPENBLAS_NUM_THREADS"
"""Read when numpy is loaded. A search has small matrices: more threads wait for each other, and on a host with another
number of cores they would add up in another order."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `autotune`; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # no reason to end is a sign that a terminal lacks
    chosen = parser().parse_args(arguments)
    _open_more()
    os.environ.setdefault(THREADS, "1")
    try:
        code = int(chosen.command(chosen))
        sys.stdout.flush()
        return code
    except SpecError as error:
        _complain(_located(error, chosen))
        return error.exit_code
    except AutotuneError as error:
        _complain(error)
        return error.exit_code
    except (KeyboardInterrupt, asyncio.CancelledError):
        _complain(Interrupted("interrupted"))
        return Interrupted.exit_code
    except BrokenPipeError:  # `autotune … | head`
        _let_go()
        return 0
    except OSError as error:  # `autotune … > on/a/full/device`
        if error.errno not in FULL:
            raise
        _let_go()
        _complain(StorageError(f"the output cannot be written: {error.strerror}"))
        return StorageError.exit_code


def _let_go() -> None:
    """What could not be written is kept until Python ends, and would then be complained of again."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_more() -> None:
    """As many open files as this user may have: every stream of a load is one, and 1,024 is what one usually gets."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _located(error: SpecError, chosen: argparse.Namespace) -> SpecError:
    """What only shows on the host, such as a device that is not there, is an error of the study file all the same."""
    study = str(getattr(chosen, "study", ""))
    return error if study in error.message else SpecError(f"{study}: {error.message}", details=error.details)


def _complain(error: AutotuneError) -> None:
    with suppress(OSError):
        _print(error)


def _print(error: AutotuneError) -> None:
    print(f"autotune: {error.message}", file=sys.stderr)
    for line in error.details.splitlines():
        print(f"    {line}", file=sys.stderr)
