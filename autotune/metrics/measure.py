"""Records to figures: pure, and equal to the last bit whenever they are computed again from the same records.

Which requests a figure is taken from:

- counts, success, TTFT and its parts: the requests of the window, followed to their first text. A request belongs to
  the window by the stamp from which its TTFT counts: closed loop `written_at`, open loop `intended_at`, however late
  the client was.
- output TPS and chunk gaps: every piece of text that arrived inside the window, whoever asked for it, and when.
- TPOT, end to end, queueing, token counts: the answers that became complete inside the window. Those that end after it
  did so under a load that was going away.

A request that met a cold model (`load_duration_s` above COLD_S) is counted, and left out of all times.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from autotune.metrics.instances import instances
from autotune.metrics.requests import pace, queue_s, rest_s, since, tpot_s, ttft_s
from autotune.metrics.summary import Summary
from autotune.metrics.tokens import around, drift, output_tps, rates, tokens_per_chunk
from autotune.metrics.values import Metrics
from autotune.metrics.window import COLD_S, Window
from autotune.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from autotune.records import RequestRecord

LATE_S = 0.01
"""A request that leaves so long after its intended time is late."""

COMPLETE = (Outcome.OK, Outcome.EMPTY)
UNDECIDED = (Outcome.CUT_OFF,)


def measure(
    records: Sequence[RequestRecord],
    *,
    window_start: float,
    window_end: float,
    open_loop: bool = False,
    cold_s: float = COLD_S,
) -> Metrics:
    """All figures of a load, from all its records (also those of the warm-up) and its window.

    `cold_s` is `COLD_S` on the clock of the records: on that of a played host all of this host takes as much longer.
    """
    late_s = LATE_S * cold_s / COLD_S
    window = Window(window_start, window_end, open_loop, cold_s)
    records = sorted(records, key=lambda record: (window.asked_at(record), record.index))
    asked = [record for record in records if window.has(window.asked_at(record))]
    complete = [r for r in records if r.outcome in COMPLETE and window.has(r.finished_at)]
    warm, spoke = _warm(complete, window), _warm((r for r in asked if r.first_content_at is not None), window)
    outcomes = {outcome.value: sum(record.outcome is outcome for record in asked) for outcome in Outcome}
    per_chunk = tokens_per_chunk(records)
    series = rates(records, window, per_chunk)
    moved = drift(series)
    in_flight = window.per_second(math.fsum(window.overlap_s(r.written_at, r.finished_at) for r in records))
    return Metrics(
        window_s=window.length_s,
        output_tps=output_tps(records, window, per_chunk),
        output_tps_range=around(series),
        drift=moved[0] if moved else None,
        drift_range=moved[1] if moved else None,
        requests=len(asked),
        outcomes=outcomes,
        success_rate=success_rate(outcomes),
        ttft_s=_summary(ttft_s(record, window) for record in _warm(asked, window)),
        ttft_waiting_s=_waiting(asked, window),
        first_answer_s=Summary.of(since(asked, window, "first_answer_at")),
        load_s=_summary(r.load_duration_s or 0.0 for r in spoke if r.total_duration_s is not None),
        prefill_s=_summary(r.prompt_eval_duration_s or 0.0 for r in spoke if r.total_duration_s is not None),
        rest_s=_summary(rest_s(record, window) for record in spoke),
        tpot_s=_summary(map(tpot_s, warm)),
        chunk_gap_s=Summary.of(_gaps(records, window), intervals=False),
        e2e_s=Summary.of(r.finished_at - window.asked_at(r) for r in warm if r.finished_at is not None),
        send_lag_s=Summary.of(
            (r.written_at - r.intended_at for r in asked if r.written_at is not None), intervals=False
        ),
        receive_lag_s=_summary((record.receive_lag_s for record in asked), intervals=False),
        queue_s=_summary(map(queue_s, warm)),
        input_tokens=_summary(r.prompt_eval_count for r in complete).mean,
        output_tokens=_summary(r.eval_count for r in complete).mean,
        tokens_per_chunk=per_chunk,
        stopped_early=_summary(float(r.done_reason == "stop") for r in complete if r.done_reason).mean,
        late=sum(r.written_at is not None and r.written_at - r.intended_at > late_s for r in asked),
        unsent=sum(r.written_at is None and r.outcome is Outcome.CUT_OFF for r in asked),
        pace=_summary(map(pace, warm)).p50,
        cold=sum(map(window.cold, asked)),
        connected=sum(record.connected for record in asked),
        in_flight=in_flight,
        little=_little(in_flight, complete, window),
        generating=window.per_second(math.fsum(_generating_s(r, window) for r in records)),
        instances=instances(records, asked, window, per_chunk),
    )


def _warm(records: Iterable[RequestRecord], window: Window) -> list[RequestRecord]:
    return [record for record in records if not window.cold(record)]


def success_rate(outcomes: Mapping[str, int]) -> float:
    """The part of the requests that ended well, of those that ended by themselves; 0 where none did. `outcomes` are the
    numbers of all, by the values of `Outcome`."""
    ended = sum(outcomes.values()) - sum(outcomes[outcome.value] for outcome in UNDECIDED)
    return sum(outcomes[outcome.value] for outcome in COMPLETE) / ended if ended else 0.0


def _waiting(asked: Iterable[RequestRecord], window: Window) -> tuple[float, ...]:
    silent = (record for record in asked if record.first_content_at is None)
    return tuple(sorted(waited for record in silent if (waited := ttft_s(record, window)) is not None))


def _gaps(records: Iterable[RequestRecord], window: Window) -> list[float]:
    """Between neighbouring pieces of an answer, s, the shortest first: what ends inside the window."""
    import numpy as np  # noqa: PLC0415 - a tenth of a second, which only who asks shall pay

    times, ends = list[float](), list[int]()
    for record in records:
        inside = window.inside(record.chunk_times)
        first = max(1, inside.start)
        if first < inside.stop and not window.cold(record):
            times += record.chunk_times[first - 1 : inside.stop]
            ends.append(len(times))
    found: list[float] = np.sort(np.delete(np.diff(times), np.array(ends[:-1], dtype=int) - 1)).tolist()
    return found


def _generating_s(record: RequestRecord, window: Window) -> float:
    return window.overlap_s(record.first_content_at, record.chunk_times[-1] if record.chunk_times else None)


def _little(in_flight: float, complete: Sequence[RequestRecord], window: Window) -> float | None:
    """Source: Little, "A Proof for the Queuing Formula L = λW" (Operations Research 9, 1961)."""
    lasted = [r.finished_at - r.written_at for r in complete if r.finished_at is not None and r.written_at is not None]
    return (in_flight - window.per_second(math.fsum(lasted))) / in_flight if lasted and in_flight else None


def _summary(values: Iterable[float | None], *, intervals: bool = True) -> Summary:
    return Summary.of((value for value in values if value is not None), intervals=intervals)
