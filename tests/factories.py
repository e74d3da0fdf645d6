"""Values that many suites need: specs, spaces, metrics and results, each in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.cluster.verify import Placement
from autotune.metrics import Metrics, Summary
from autotune.plan import Provenance, ProvenDevice
from autotune.records import Outcome
from autotune.result import TrialResult
from autotune.score import failed, judge
from autotune.space import Space, build, key
from tests.conftest import gpus, study

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.spec import StudySpec

LIMIT = {"metric": "ttft_s", "statistic": "mean", "max": 2.0}
SPEC = study(objective={"limits": [LIMIT]})
BASELINE: dict[str, Any] = {"layout": "0", "num_parallel": 1, "flash_attention": "auto", "kv_cache_type": "f16"}


PROVENANCE = Provenance(
    autotune="0.1.0",
    python="3.13.1",
    host="server",
    kernel="6.1",
    ollama="0.32.15",
    command=("/usr/local/bin/ollama", "serve"),
    libraries="",
    environment={},
    models_dir="/models of all",
    model="tiny",
    model_digest="abc",
    driver="560.1",
    devices=(ProvenDevice(0, "GPU-1", "Small GPU", 4 << 30),),
)
"""What made-up trials ran on."""
PLACED = Placement(
    instance="ollama-0",
    on_gpu=True,
    compute=("GPU-1",),
    layers_on_device=4,
    layers=8,
    size_bytes=100,
    size_vram_bytes=50,
    num_parallel=4,
    parallel_unsupported=False,
    context_length=1024,
)
"""An instance with half of its model on its device."""


def params(num_parallel: int = 4, layout: str = "0", **more: Any) -> dict[str, Any]:
    """A configuration."""
    return {**BASELINE, "layout": layout, "num_parallel": num_parallel, **more}


def space(num_parallel: Sequence[int] = (2, 4, 8), layouts: Sequence[str] = ("0", "0 | 1"), **more: Any) -> Space:
    """A space on two cards; without anything else it has nine configurations."""
    asked = {"num_parallel": num_parallel, "layouts": layouts, "policies": ("round_robin", "least_conn"), **more}
    return build(gpus(), None, num_ctx=1024, **asked)


def summary(value: float | None, n: int = 400) -> Summary:
    """A sample in which everything takes the same time."""
    return Summary() if value is None else Summary(n, value, value, value, value, value, value)


def metrics(
    tps: float = 100.0,
    ttft_s: float | None = 0.5,
    *,
    requests: int = 400,
    success_rate: float = 1.0,
    waiting: Sequence[float] = (),
    **more: Any,
) -> Metrics:
    """The figures of a load."""
    outcomes = {outcome.value: requests if outcome is Outcome.OK else 0 for outcome in Outcome}
    values: dict[str, Any] = {
        "window_s": 60.0,
        "output_tps": tps,
        "requests": requests,
        "outcomes": outcomes,
        "success_rate": success_rate,
        "ttft_s": summary(ttft_s, requests),
        "ttft_waiting_s": tuple(waiting),
        "tpot_s": summary(0.05),
        "chunk_gap_s": summary(0.05),
        "e2e_s": summary(3.0, requests),
        "send_lag_s": summary(0.001),
        "queue_s": summary(0.2),
        "input_tokens": 60.0,
        "output_tokens": 236.0,
        "tokens_per_chunk": 1.0,
        "stopped_early": 0.0,
        "cold": 0,
        "connected": 0,
        "in_flight": 5.0,
        "generating": 4.0,
        "instances": {},
    }
    return Metrics(**{**values, **more})


def result(  # what a test does not say is as usual
    number: int = 0,
    chosen: Mapping[str, Any] | None = None,
    tps: float = 100.0,
    ttft_s: float | None = 0.5,
    *,
    reason: str = "",
    spec: StudySpec = SPEC,
    **more: Any,
) -> TrialResult:
    """What came of a trial: feasible up to a TTFT of 2 s; with a reason it could not be measured."""
    tried = dict(BASELINE if chosen is None else chosen)
    levels = {} if reason else {level.label: metrics(tps, ttft_s) for level in spec.workload.levels}
    values: dict[str, Any] = {
        "number": number,
        "params": tried,
        "fingerprint": key(tried),
        "layout": tried["layout"],
        "instances": tried["layout"].count("|") + 1,
        "score": failed(reason) if reason else judge(spec, levels),
        "levels": levels,
        "reason": reason,
        "message": f"it was told to: {reason}" if reason else "",
        "began_at": "2026-01-01T22:00:00+00:00",
        "seconds": 60.0,
        "simulated": spec.cluster.simulated,
    }
    return TrialResult(**{**values, **more})
