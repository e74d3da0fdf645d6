"""Names and types of columns: a table has them all, in the same order and types, whatever is missing in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autotune.analysis.reading import Run

Row = dict[str, Any]
Columns = dict[str, str]
"""Names and types, in the order in which they stand."""

TEXT, YES, WHOLE, REAL, MOMENT = "str", "bool", "Int64", "float64", "datetime64[us, UTC]"


def of(kind: str, *names: str) -> Columns:
    """So many columns of one type."""
    return dict.fromkeys(names, kind)


WHICH = {**of(TEXT, "phase"), **of(WHOLE, "number", "block", "candidate")}
"""Which run a row is about."""


def which(run: Run) -> Row:
    """The same of one run."""
    return {"phase": run.phase, "number": run.result.number, "block": run.block, "candidate": run.candidate}


def frame(rows: Iterable[Row], columns: Columns) -> pd.DataFrame:
    """A table of these columns; what a row does not have is missing."""
    return pd.DataFrame(list(rows), columns=list(columns)).astype(columns)
