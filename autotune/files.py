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

_BESIDE_MODE = 0o600
"""As `tempfile` makes files."""


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
    """Whether what is written there goes elsewhere, as into a device or a pipe: nothing may take its place.

    Raises `OSError` for what is another name of a file that somebody has open, as /dev/stdout may be.
    """
    if path.is_file() and path.absolute().parts[1] in {"dev", "proc"}:
        raise OSError(f"leads to a file that is open; write {os.path.realpath(path)}, or another name")
    return path.exists() and not path.is_file()


def check(path: Path) -> None:
    """Whether a file can be written there, for what is known only after hours. Raises `StorageError`."""
    with storage(path):
        if not _passes_on(path):
            handle, temporary = _beside(_end(path))
            os.close(handle)
            Path(temporary).unlink()
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _end(path: Path) -> Path:
    """Where its links lead to: they stay."""
    return Path(os.path.realpath(path))


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
        path = _end(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _beside(path)
        try:
            with os.fdopen(handle, "wb") as file:
                _fill(file, data)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def sweep(paths: Iterable[Path], names: str) -> None:
    """Of these take away what a `write` that was killed has left of files whose names match the pattern `names`.

    Nobody may write there meanwhile. Raises `StorageError`.
    """
    left = re.compile(rf"\.(?:{names})-[a-z0-9_]{{8}}")
    for path in paths:
        with storage(path), contextlib.suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if left.fullmatch(path.name) and stat.S_ISREG(mode) and stat.S_IMODE(mode) == _BESIDE_MODE:
                path.unlink()
