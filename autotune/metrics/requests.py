"""What one record says about its request: times that are no stamps, and where its waiting went."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING

from autotune.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autotune.metrics.window import Window
    from autotune.records import RequestRecord


def tpot_s(record: RequestRecord) -> float | None:
    """Time per output token after the first: (last − first chunk) / (tokens − tokens of the first chunk).

    The end token is counted in `eval_count` but has no text. Pieces that came with the first network read count as the
    first chunk together. None where there is no second chunk, or the server has not counted.
    """
    times, tokens = record.chunk_times, record.eval_count
    if tokens is None or not times:
        return None
    spoken = tokens - (record.done_reason == "stop")
    later = len(times) - bisect_right(times, times[0])
    return (times[-1] - times[0]) / (spoken * later / len(times)) if spoken > 0 and later else None


def ttft_s(record: RequestRecord, window: Window) -> float | None:
    """From the question to the first text, s; of a request that was given up before, how long it had waited.

    None for one that failed before its first text.
    """
    at = record.first_content_at
    if at is None and record.outcome in (Outcome.CUT_OFF, Outcome.TIMEOUT):
        at = record.finished_at
    return None if at is None else at - window.asked_at(record)


def queue_s(record: RequestRecord) -> float | None:
    """Ollama's total less load, prompt and answer; None where it told no total. A part that is missing was 0."""
    if record.total_duration_s is None:
        return None
    parts = (record.load_duration_s, record.prompt_eval_duration_s, record.eval_duration_s)
    return max(0.0, record.total_duration_s - math.fsum(part or 0.0 for part in parts))


def rest_s(record: RequestRecord, window: Window) -> float | None:
    """What of the TTFT is neither queue nor load nor prompt: the way through the network, proxies and Ollama itself.

    None where the server told no total, or no text came.
    """
    queue = queue_s(record)
    if queue is None or record.first_content_at is None:
        return None
    told = queue + (record.load_duration_s or 0.0) + (record.prompt_eval_duration_s or 0.0)
    return record.first_content_at - window.asked_at(record) - told


def pace(record: RequestRecord) -> float | None:
    """The client's TPOT by the server's own: near 1 unless the client, or what is between them, delays text.

    `eval_duration` begins with the first token, which comes out of the prompt: an answer of one token has none (in the
    recordings of 0.24 and of 0.32). So it is shared out over the others. None where the server told neither, or an
    answer was too short to have a TPOT.
    """
    mine, tokens = tpot_s(record), record.eval_count
    if mine is None or tokens is None or tokens < 2 or not record.eval_duration_s:
        return None
    return mine / (record.eval_duration_s / (tokens - 1))


def since(records: Iterable[RequestRecord], window: Window, stamp: str) -> list[float]:
    """How long it took from the question to that stamp, s, of the warm requests that have it."""
    warm = (record for record in records if not window.cold(record))
    return [at - window.asked_at(record) for record in warm if (at := getattr(record, stamp)) is not None]
