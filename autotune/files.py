"""Files that are there or not, never half; whatever is wrong with one is a `StorageError` that names it."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.errors import DiskFull, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator


_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """What the system says about this file inside, as `StorageError`."""
    try:
        yield
    except OSError as error:
        kind = DiskFull if error.errno in _FULL else StorageError
        raise kind(f"{path}: {error.strerror or error}") from error


def write(path: Path, content: str | bytes) -> None:
    """Write a file so that there is always the old one or the new one, never a part. Raises `StorageError`."""
    data = content.encode() if isinstance(content, str) else content
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
