"""The loads of trials as tables: every request, and what each instance did.

Seconds and tokens/s are those of the host that is measured, also where it is played and its clock runs faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.analysis.columns import REAL, TEXT, WHICH, WHOLE, YES, frame, of, which
from autotune.analysis.reading import SEARCH
from autotune.analysis.results import configuration
from autotune.metrics import queue_s, tpot_s

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from autotune.analysis.columns import Row
    from autotune.analysis.reading import Run, Study
    from autotune.cluster.verify import Placement
    from autotune.metrics import InstanceMetrics, Metrics, Window
    from autotune.plan import InstancePlan
    from autotune.records import RequestRecord

_REQUEST = {
    **of(WHOLE, "index"),
    **of(TEXT, "outcome", "upstream"),
    **of(YES, "in_window", "cold"),
    **of(REAL, "asked_s", "first_text_s", "last_text_s", "finished_s", "ttft_s", "tpot_s", "queue_s", "e2e_s"),
    **of(WHOLE, "input_tokens", "output_tokens", "input_chars", "output_chars", "chunks", "status"),
    **of(TEXT, "done_reason", "error"),
}


def requests(study: Study, number: int | None = None, phase: str = SEARCH) -> pd.DataFrame:
    """A row for each request of one trial, or of all trials of a phase, from the stored records: of all its loads, also
    of the short ones besides its levels.

    `asked_s`, `first_text_s`, `last_text_s` and `finished_s` count from the begin of the measurement window, so that
    those of the warm-up are negative. `ttft_s` counts from `asked_s`: when the request was written, or, where requests
    come at a rate, when it should have been. `in_window` says whether the TTFT of the trial is taken from it. Lengths
    in tokens and characters; never a text. Raises `StorageError` where records are missing or damaged.
    """
    rows = (
        {**which(run), "level": level.label, **_request(record, window)}
        for run in study.runs
        if run.phase == phase and number in {None, run.result.number}
        for level, window, records in study.loads(run)
        for record in records
    )
    return frame(rows, {**WHICH, "level": TEXT, **_REQUEST})


def _request(record: RequestRecord, window: Window) -> Row:
    asked = window.asked_at(record)
    return {
        "index": record.index,
        "outcome": record.outcome.value,
        "in_window": window.has(asked),
        "cold": window.cold(record),
        "upstream": record.upstream,
        "asked_s": asked - window.start,
        "first_text_s": _since(window.start, record.first_content_at),
        "last_text_s": _since(window.start, record.chunk_times[-1] if record.chunk_times else None),
        "finished_s": _since(window.start, record.finished_at),
        "ttft_s": _since(asked, record.first_content_at),
        "tpot_s": tpot_s(record),
        "queue_s": queue_s(record),
        "e2e_s": _since(asked, record.finished_at),
        "input_tokens": record.prompt_eval_count,
        "output_tokens": record.eval_count,
        "input_chars": record.input_chars,
        "output_chars": record.output_chars,
        "chunks": len(record.chunk_times),
        "done_reason": record.done_reason,
        "status": record.status,
        "error": record.error,
    }


def _since(begin: float, moment: float | None) -> float | None:
    return None if moment is None else moment - begin


_DID = {**of(REAL, "share", "output_tps"), **of(WHOLE, "requests", "slots_used")}
_PLACED = {
    **of(YES, "on_gpu"),
    **of(WHOLE, "layers_on_device", "layers", "size_bytes", "size_vram_bytes", "context_length"),
}
_INSTANCE = {
    **of(TEXT, "instance", "upstream", "devices"),
    **_DID,
    **of(WHOLE, "slots"),
    **of(REAL, "ttft_mean_s", "ttft_p95_s"),
    **_PLACED,
}


def instances(study: Study) -> pd.DataFrame:
    """A row for each trial, level and instance: what it did, and where Ollama has really put the model.

    `share` is its part of the requests, `slots_used` the most at one moment, of `slots`. An instance that nobody asked
    has a share of 0. Raises `StorageError` where a plan is missing or damaged.
    """
    rows = (
        {**which(run), "configuration": configuration(study, run.result.params), "level": label, **row}
        for run in study.runs
        for label, metrics in run.result.levels.items()
        for row in _instances(run, metrics)
    )
    return frame(rows, {**WHICH, "configuration": TEXT, "level": TEXT, **_INSTANCE})


def _instances(run: Run, metrics: Metrics) -> Iterator[Row]:
    """Where nothing says who has served a request, nobody is known to have been idle."""
    plan, idle = run.shelf.plan(run.result.number), 0 if metrics.instances else None
    for one, placement in zip(plan.instances, run.result.placements, strict=True):
        did = metrics.instances.get(one.address)
        yield {**_instance(one, placement, did), **{name: getattr(did, name, idle) for name in _DID}}


def _instance(plan: InstancePlan, placement: Placement, did: InstanceMetrics | None) -> Row:
    return {
        "instance": plan.name,
        "upstream": plan.address,
        "devices": ", ".join(plan.devices),
        "ttft_mean_s": did and did.ttft_mean_s,
        "ttft_p95_s": did and did.ttft_p95_s,
        "slots": placement.num_parallel,
        **{name: getattr(placement, name) for name in _PLACED},
    }
