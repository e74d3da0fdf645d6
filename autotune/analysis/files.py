"""Tables as files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pandas as pd

from autotune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


def parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    """The rows as a Parquet file. Raises `UsageError` where pandas finds nothing that can write one."""
    file = io.BytesIO()
    try:
        pd.DataFrame(rows).to_parquet(file, index=False)
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow: pip install pyarrow") from error
    return file.getvalue()
