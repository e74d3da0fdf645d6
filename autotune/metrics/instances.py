"""The figures of each instance of a cluster, and which of them is slow."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING

from autotune.metrics.requests import since, tpot_s
from autotune.metrics.summary import Summary
from autotune.metrics.tokens import output_tps
from autotune.metrics.values import InstanceMetrics
from autotune.records import Outcome
from autotune.stats import quantile

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from autotune.metrics.window import Window
    from autotune.records import RequestRecord

SLOW = 1.25
"""An instance whose tokens take so many times as long as those of the others is slow: equal cards differ by less."""
ENOUGH_ANSWERS = 10


def instances(
    records: Sequence[RequestRecord], asked: Sequence[RequestRecord], window: Window, per_chunk: float | None
) -> dict[str, InstanceMetrics]:
    """By upstream; of the records of a load, `asked` are those of its window."""
    known = sum(bool(record.upstream) for record in asked)
    upstreams = sorted({record.upstream for record in records} - {""})
    of = {upstream: [record for record in records if record.upstream == upstream] for upstream in upstreams}
    tps = {upstream: output_tps(own, window, per_chunk) for upstream, own in of.items()}
    total = math.fsum(tps.values())
    found: dict[str, InstanceMetrics] = {}
    for upstream, own in of.items():
        mine = [record for record in asked if record.upstream == upstream]
        ttft = Summary.of(since(mine, window, "first_content_at"), intervals=False)
        tpot = Summary.of(_tpots(own, window), intervals=False)
        found[upstream] = InstanceMetrics(
            requests=len(mine),
            share=len(mine) / known if known else 0.0,
            output_tps=tps[upstream],
            tokens_share=tps[upstream] / total if total else 0.0,
            ttft_mean_s=ttft.mean,
            ttft_p50_s=ttft.p50,
            ttft_p95_s=ttft.p95,
            tpot_p50_s=tpot.p50,
            answers=tpot.n,
            slots_used=_slots_used(own, window),
        )
    return found


def slow(found: Mapping[str, InstanceMetrics], alike: Mapping[str, Hashable] | None = None) -> dict[str, float]:
    """The instances whose tokens take much longer than those of the others, and how many times as long.

    The others' figure is their median. Instances with few answers are not judged, nor is one alone; where `alike` says
    what each is, by name, the others are those that are the same.
    """
    what = alike or {}
    tpots = {name: one.tpot_p50_s for name, one in found.items() if one.tpot_p50_s and one.answers >= ENOUGH_ANSWERS}
    ratios = {}
    for name, tpot in tpots.items():
        others = [other for one, other in tpots.items() if one != name and what.get(one) == what.get(name)]
        if others:
            ratios[name] = tpot / quantile(others, 0.5)
    return {name: ratio for name, ratio in ratios.items() if ratio > SLOW}


def _tpots(records: Iterable[RequestRecord], window: Window) -> list[float]:
    ended = [r for r in records if r.outcome is Outcome.OK and window.has(r.finished_at) and not window.cold(r)]
    return [tpot for record in ended if (tpot := tpot_s(record)) is not None]


def _slots_used(records: Iterable[RequestRecord], window: Window) -> int:
    """The most at one moment; one that ends as another begins has made room for it."""
    texts = [(r.chunk_times, r.prompt_eval_duration_s or 0.0) for r in records if r.chunk_times]
    spans = [(times[0] - prompt_s, times[-1]) for times, prompt_s in texts]
    inside = [span for span in spans if span[0] < window.end and span[1] > window.start]
    turns = sorted([(begin, 1) for begin, _ in inside] + [(end, -1) for _, end in inside])
    return max(accumulate(turn for _, turn in turns), default=0)
