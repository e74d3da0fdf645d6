"""Where the tokens of a load arrived in time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from autotune.metrics.summary import CONFIDENCE, Range
from autotune.stats import batch_means, trend

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autotune.metrics.window import Window
    from autotune.records import RequestRecord

BINS = 400
"""Parts into which the window is cut to see how the output rate moves: a window of a minute has some of 150 ms."""


def tokens_per_chunk(records: Iterable[RequestRecord]) -> float | None:
    """How many tokens a piece of text stands for, over all requests that the server has counted."""
    counted = [r for r in records if r.eval_count is not None and r.chunk_times]
    chunks = sum(len(record.chunk_times) for record in counted)
    return sum(record.eval_count or 0 for record in counted) / chunks if chunks else None


def output_tps(records: Iterable[RequestRecord], window: Window, per_chunk: float | None) -> float:
    """Tokens that arrived inside the window, by its length."""
    inside = (len(window.inside(r.chunk_times)) * _worth(r, per_chunk) for r in records)
    return window.per_second(math.fsum(inside))


def tokens(records: Sequence[RequestRecord]) -> float:
    """All that arrived, whenever that was."""
    per_chunk = tokens_per_chunk(records)
    return math.fsum(len(record.chunk_times) * _worth(record, per_chunk) for record in records)


def _worth(record: RequestRecord, per_chunk: float | None) -> float:
    """Tokens that each piece of its text stands for."""
    if record.eval_count is not None and record.chunk_times:
        return record.eval_count / len(record.chunk_times)
    # a load in which nothing was counted: a chunk is a token nearly always
    return 1.0 if per_chunk is None else per_chunk


def rates(records: Iterable[RequestRecord], window: Window, per_chunk: float | None) -> list[float]:
    """The output rate in each of `BINS` equal parts of the window, tokens/s; none for a window without length."""
    if window.length_s <= 0:
        return []
    import numpy as np  # noqa: PLC0415 - a tenth of a second, which only who asks shall pay

    times, counts, worths = list[float](), list[int](), list[float]()
    for record in records:
        inside = window.inside(record.chunk_times)
        times += record.chunk_times[inside.start : inside.stop]
        counts.append(len(inside))
        worths.append(_worth(record, per_chunk))
    per_bin = BINS / window.length_s
    bins = np.minimum(BINS - 1, ((np.array(times) - window.start) * per_bin).astype(int))
    counted = np.bincount(bins, weights=np.repeat(worths, counts), minlength=BINS)
    found: list[float] = (counted * per_bin).tolist()
    return found


def around(series: Sequence[float]) -> Range | None:
    """The interval of the mean rate."""
    if not series:
        return None
    found = batch_means(series, CONFIDENCE)
    return max(0.0, found.low), found.high


def drift(series: Sequence[float]) -> tuple[float, Range] | None:
    """The change of a rate from one end of its series to the other, in parts of its mean, and its interval."""
    centre = math.fsum(series) / len(series) if series else 0.0
    if not centre:
        return None
    found = trend([part / len(series) for part in range(len(series))], series, CONFIDENCE)
    return found.slope / centre, (found.low / centre, found.high / centre)
