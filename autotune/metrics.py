"""Records to figures: pure, and equal to the last bit whenever they are computed again from the same records.

Which requests a figure is taken from:

- counts, success, TTFT: the requests of the window, followed to their first text. A request belongs to the window by
  the stamp from which its TTFT counts: closed loop `written_at`, open loop `intended_at`, however late the client was.
- output TPS and chunk gaps: every piece of text that arrived inside the window, whoever asked for it, and when.
- TPOT, end to end, queueing, token counts: the answers that became complete inside the window. Those that end after it
  did so under a load that was going away.

A request that met a cold model (`load_duration_s` above COLD_S) is counted, and left out of all times.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from autotune.records import Outcome, RequestRecord
from autotune.stats import QUANTILES, Statistic, enough, mean, quantile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

COLD_S = 0.05
"""A warm model answers within a few milliseconds of `load_duration`; loading the smallest takes longer than this."""

COMPLETE = (Outcome.OK, Outcome.EMPTY)
UNDECIDED = (Outcome.CUT_OFF,)


@dataclass(frozen=True, slots=True)
class Summary:
    """A sample in a few figures, each None for an empty one. For a decision, ask `decided` first."""

    n: int = 0
    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, values: Iterable[float]) -> Summary:
        """Exact: from all values, in any order."""
        ordered = sorted(values)
        if not ordered:
            return cls()
        percentiles = {name: quantile(ordered, q) for name, q in QUANTILES.items()}
        return cls(n=len(ordered), mean=mean(ordered), max=ordered[-1], **percentiles)

    def decided(self, statistic: Statistic) -> bool:
        """Whether the sample is large enough for that statistic to be held against a limit."""
        return self.n >= enough(statistic)

    def value(self, statistic: Statistic) -> float | None:
        """The statistic of that name."""
        value: float | None = getattr(self, statistic)
        return value


@dataclass(frozen=True, slots=True)
class InstanceMetrics:
    """What one instance of the cluster did."""

    requests: int
    """Requests of the window that it answered."""
    share: float
    """The same, as a part of those that any instance is known to have answered."""
    output_tps: float
    ttft_mean_s: float | None
    ttft_p95_s: float | None
    slots_used: int = 0
    """The most requests whose prompt was read or whose answer came at one moment of the window."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """The figures of one load. Durations in seconds, rates per second; None where there is nothing to say."""

    window_s: float
    output_tps: float
    """Tokens that arrived inside the window, by its length: a request's `eval_count` is spread over its chunk times."""
    requests: int
    """Requests of the window, whatever became of them."""
    outcomes: dict[str, int]
    """The same, by outcome; every outcome is there."""
    success_rate: float
    """Complete answers, by all requests of the window that came to an end, 0 where none did. An empty answer is one."""
    ttft_s: Summary
    """With those that still waited, at what they had waited by then: it is never less than this."""
    ttft_waiting_s: tuple[float, ...]
    """How long those without a first text had waited when they were cut off or timed out, shortest first."""
    tpot_s: Summary
    chunk_gap_s: Summary
    e2e_s: Summary
    send_lag_s: Summary
    queue_s: Summary
    """What Ollama's total duration leaves when load, prompt and answer are taken away: waiting for a slot."""
    input_tokens: float | None
    """Mean `prompt_eval_count`."""
    output_tokens: float | None
    """Mean `eval_count`."""
    tokens_per_chunk: float | None
    stopped_early: float | None
    """The part of the complete answers that ended on their own, before `num_predict`."""
    cold: int
    connected: int
    """Requests of the window that had to open a connection first."""
    in_flight: float
    """Mean number of requests on their way during the window."""
    generating: float
    """Mean number of requests between their first and their last text: slots in use."""
    instances: dict[str, InstanceMetrics]
    """By upstream, host:port; empty where nothing says who answered."""

    def statistic(self, metric: str, statistic: Statistic) -> float | None:
        """One figure, by the name of a sample ("ttft_s") and that of a statistic ("p95")."""
        summary: Summary = getattr(self, metric)
        return summary.value(statistic)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Window:
    """The measurement window, and which moment of a request puts it inside."""

    start: float
    end: float
    open_loop: bool
    cold_s: float

    @property
    def length_s(self) -> float:
        """Of the window, s."""
        return self.end - self.start

    def has(self, at: float | None) -> bool:
        """Whether a moment is inside: [start, end)."""
        return at is not None and self.start <= at < self.end

    def cold(self, record: RequestRecord) -> bool:
        """Whether the request had to wait for the model to be loaded."""
        return record.load_duration_s is not None and record.load_duration_s > self.cold_s

    def asked_at(self, record: RequestRecord) -> float:
        """The stamp from which the TTFT counts. One that could not even be written waits from when it should have."""
        return record.intended_at if self.open_loop or record.written_at is None else record.written_at

    def inside(self, times: Sequence[float]) -> range:
        """Positions of the times, which never decrease, that are inside."""
        return range(bisect_left(times, self.start), bisect_left(times, self.end))

    def overlap_s(self, begin: float | None, end: float | None) -> float:
        """How much of a span is inside, s."""
        if begin is None or end is None:
            return 0.0
        return max(0.0, min(end, self.end) - max(begin, self.start))

    def per_second(self, amount: float) -> float:
        """An amount of the whole window as a rate."""
        return amount / self.length_s if self.length_s > 0 else 0.0


def measure(
    records: Sequence[RequestRecord],
    *,
    window_start: float,
    window_end: float,
    open_loop: bool = False,
    cold_s: float = COLD_S,
) -> Metrics:
    """All figures of a load, from all its records (also those of the warm-up) and its window."""
    window = Window(window_start, window_end, open_loop, cold_s)
    asked = [record for record in records if window.has(window.asked_at(record))]
    complete = [r for r in records if r.outcome in COMPLETE and window.has(r.finished_at)]
    warm = [record for record in complete if not window.cold(record)]
    outcomes = {outcome.value: sum(record.outcome is outcome for record in asked) for outcome in Outcome}
    per_chunk = tokens_per_chunk(records)
    return Metrics(
        window_s=window.length_s,
        output_tps=_output_tps(records, window, per_chunk),
        requests=len(asked),
        outcomes=outcomes,
        success_rate=_success_rate(outcomes),
        ttft_s=Summary.of([*_ttfts(asked, window), *_waiting(asked, window)]),
        ttft_waiting_s=_waiting(asked, window),
        tpot_s=_summary(map(tpot_s, warm)),
        chunk_gap_s=Summary.of(_gaps(records, window)),
        e2e_s=Summary.of(r.finished_at - window.asked_at(r) for r in warm if r.finished_at is not None),
        send_lag_s=Summary.of(r.written_at - r.intended_at for r in asked if r.written_at is not None),
        queue_s=_summary(map(queue_s, warm)),
        input_tokens=_summary(r.prompt_eval_count for r in complete).mean,
        output_tokens=_summary(r.eval_count for r in complete).mean,
        tokens_per_chunk=per_chunk,
        stopped_early=_summary(float(r.done_reason == "stop") for r in complete if r.done_reason).mean,
        cold=sum(map(window.cold, asked)),
        connected=sum(record.connected for record in asked),
        in_flight=window.per_second(math.fsum(window.overlap_s(r.written_at, r.finished_at) for r in records)),
        generating=window.per_second(math.fsum(_generating_s(r, window) for r in records)),
        instances=_instances(records, asked, window, per_chunk),
    )


def tpot_s(record: RequestRecord) -> float | None:
    """Time per output token after the first: (last − first chunk) / (tokens − tokens of the first chunk).

    The end token is counted in `eval_count` but has no text. Pieces that came with the first network read count as the
    first chunk together. None where there is no second chunk, or the server has not counted.
    """
    times, tokens = record.chunk_times, record.eval_count
    if tokens is None or not times:
        return None
    spoken = tokens - (record.done_reason == "stop")
    later = sum(at > times[0] for at in times)
    return (times[-1] - times[0]) / (spoken * later / len(times)) if spoken > 0 and later else None


def queue_s(record: RequestRecord) -> float | None:
    """Ollama's total less load, prompt and answer; None where it told no total. A part that is missing was 0."""
    if record.total_duration_s is None:
        return None
    parts = (record.load_duration_s, record.prompt_eval_duration_s, record.eval_duration_s)
    return max(0.0, record.total_duration_s - math.fsum(part or 0.0 for part in parts))


def tokens_per_chunk(records: Iterable[RequestRecord]) -> float | None:
    """How many tokens a piece of text stands for, over all requests that the server has counted."""
    counted = [r for r in records if r.eval_count is not None and r.chunk_times]
    chunks = sum(len(record.chunk_times) for record in counted)
    return sum(record.eval_count or 0 for record in counted) / chunks if chunks else None


def _output_tps(records: Iterable[RequestRecord], window: Window, per_chunk: float | None) -> float:
    return window.per_second(math.fsum(_tokens_inside(record, window, per_chunk) for record in records))


def _tokens_inside(record: RequestRecord, window: Window, per_chunk: float | None) -> float:
    times = record.chunk_times
    if not times:
        return 0.0
    chunks = len(window.inside(times))
    if record.eval_count is not None:
        return record.eval_count * chunks / len(times)
    # a load in which nothing was counted: a chunk is a token nearly always
    return chunks * (1.0 if per_chunk is None else per_chunk)


def _success_rate(outcomes: dict[str, int]) -> float:
    ended = sum(outcomes.values()) - sum(outcomes[outcome.value] for outcome in UNDECIDED)
    return sum(outcomes[outcome.value] for outcome in COMPLETE) / ended if ended else 0.0


def _ttfts(asked: Iterable[RequestRecord], window: Window) -> list[float]:
    return [
        record.first_content_at - window.asked_at(record)
        for record in asked
        if record.first_content_at is not None and not window.cold(record)
    ]


def _waiting(asked: Iterable[RequestRecord], window: Window) -> tuple[float, ...]:
    return tuple(
        sorted(
            record.finished_at - window.asked_at(record)
            for record in asked
            if record.outcome in (Outcome.CUT_OFF, Outcome.TIMEOUT)
            and record.first_content_at is None
            and record.finished_at is not None
        )
    )


def _gaps(records: Iterable[RequestRecord], window: Window) -> list[float]:
    gaps: list[float] = []
    for record in records:
        times, inside = record.chunk_times, window.inside(record.chunk_times)
        if not window.cold(record):
            gaps += (times[i] - times[i - 1] for i in range(max(1, inside.start), inside.stop))
    return gaps


def _generating_s(record: RequestRecord, window: Window) -> float:
    return window.overlap_s(record.first_content_at, record.chunk_times[-1] if record.chunk_times else None)


def _instances(
    records: Sequence[RequestRecord], asked: Sequence[RequestRecord], window: Window, per_chunk: float | None
) -> dict[str, InstanceMetrics]:
    known = sum(bool(record.upstream) for record in asked)
    found: dict[str, InstanceMetrics] = {}
    for upstream in sorted({record.upstream for record in records} - {""}):
        own = [record for record in asked if record.upstream == upstream]
        ttft = Summary.of(_ttfts(own, window))
        found[upstream] = InstanceMetrics(
            requests=len(own),
            share=len(own) / known if known else 0.0,
            output_tps=_output_tps((r for r in records if r.upstream == upstream), window, per_chunk),
            ttft_mean_s=ttft.mean,
            ttft_p95_s=ttft.p95,
            slots_used=_slots_used((r for r in records if r.upstream == upstream), window),
        )
    return found


def _slots_used(records: Iterable[RequestRecord], window: Window) -> int:
    """The most at one moment; one that ends as another begins has made room for it."""
    texts = [(r.chunk_times, r.prompt_eval_duration_s or 0.0) for r in records if r.chunk_times]
    spans = [(times[0] - prompt_s, times[-1]) for times, prompt_s in texts]
    inside = [span for span in spans if span[0] < window.end and span[1] > window.start]
    turns = sorted([(begin, 1) for begin, _ in inside] + [(end, -1) for _, end in inside])
    return max(accumulate(turn for _, turn in turns), default=0)


def _summary(values: Iterable[float | None]) -> Summary:
    return Summary.of(value for value in values if value is not None)


COMPARED = ("output_tps", "success_rate", "input_tokens", "output_tokens", "in_flight", "generating")
COMPARED_TIMES = ("ttft_s", "tpot_s", "chunk_gap_s", "e2e_s", "queue_s")


def figures(metrics: Metrics) -> dict[str, float | None]:
    """The figures worth comparing, by name: "output_tps", "ttft_s.p95", …"""
    plain: dict[str, float | None] = {name: getattr(metrics, name) for name in COMPARED}
    for name in COMPARED_TIMES:
        summary: Summary = getattr(metrics, name)
        plain |= {f"{name}.{statistic}": getattr(summary, statistic) for statistic in ("mean", "p50", "p95", "p99")}
    return plain


def compare(before: Metrics, after: Metrics) -> dict[str, float | None]:
    """The change of each figure in percent of what it was; None where one of them is missing, or it was 0."""
    old, new = figures(before), figures(after)
    return {name: _change(old[name], new[name]) for name in old}


def _change(before: float | None, after: float | None) -> float | None:
    return (after - before) / before * 100 if before and after is not None else None
