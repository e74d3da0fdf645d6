"""Files that are there or not, never half; whatever is wrong with one is a `StorageError` that names it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.errors import DiskFull, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO


_FULL = {errno.ENOSPC, errno.EDQUOT}

_BESIDE, _BESIDE_MODE = re.compile(r"\..+-[a-z0-9_]{8}"), 0o600
"""What `tempfile` makes of the names that it is given here."""


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """What the system says about this file inside, as `StorageError`."""
    try:
        yield
    except OSError as error:
        kind = DiskFull if error.errno in _FULL else StorageError
        raise kind(f"{path}: {error.strerror or error}") from error


def _beside(path: Path) -> tuple[int, str]:
    """A new file beside another: its handle and its name."""
    return tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")


def _passes_on(path: Path) -> bool:
    """Whether what is written there goes elsewhere, as into a device or a pipe: nothing may take its place."""
    return path.exists() and not path.is_file()


def check(path: Path) -> None:
    """Whether a file can be written there, for what is known only after hours. Raises `StorageError`."""
    with storage(path):
        if not _passes_on(path):
            handle, temporary = _beside(path)
            os.close(handle)
            Path(temporary).unlink()


def _fill(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def create(path: Path, content: bytes) -> bool:
    """Write a file where none is, all of it or nothing; whether none was there. Raises `StorageError`."""
    with storage(path):
        try:
            file = path.open("xb")
        except FileExistsError:
            return False
        try:
            with file:
                _fill(file, content)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return True


def write(path: Path, content: str | bytes) -> None:
    """Write a file so that there is always the old one or the new one, never a part. Raises `StorageError`."""
    data = content.encode() if isinstance(content, str) else content
    with storage(path):
        if _passes_on(path):
            path.write_bytes(data)
            return
        path = path.resolve()  # a link stays one
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _beside(path)
        try:
            with os.fdopen(handle, "wb") as file:
                _fill(file, data)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def sweep(paths: Iterable[Path]) -> None:
    """Of these take away what a `write` that was killed has left. Nobody may write there meanwhile.

    Raises `StorageError`.
    """
    for path in paths:
        with storage(path):
            mode = path.lstat().st_mode
            if _BESIDE.fullmatch(path.name) and stat.S_ISREG(mode) and stat.S_IMODE(mode) == _BESIDE_MODE:
                path.unlink()
