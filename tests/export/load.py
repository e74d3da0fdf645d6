"""Loads an exported cluster as the study did, and prints its figures as JSON: STUDY-FOLDER.

In a process of its own, so that it can run where the cluster does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotune import night, report
from autotune.aims import phases
from autotune.benchmark.load import run
from autotune.benchmark.pacer import ClosedLoop
from autotune.benchmark.workload import SeededWorkload
from autotune.metrics import measure
from autotune.store import Store

RELOAD_S = 0.3
"""On a core that others use too a warm model may answer after 50 ms; to load the smallest takes longer than this."""


async def loaded(folder: Path) -> dict[str, Any]:
    """Output TPS and what else tells whether it went well."""
    store = Store(folder)
    spec, proof = store.spec(), report.read(store).proof
    assert proof is not None
    plan = store.proof(proof.number).plan(proof.contenders[proof.recommended].runs[0].number)
    workload, level, scale = night.workload(spec), spec.level(None), spec.cluster.time_scale
    assert isinstance(workload, SeededWorkload)
    assert level.users is not None
    told = (store.header() or {}).get("chars_per_token")
    workload = workload if told is None else replace(workload, chars_per_token=told)
    async with night.client(spec, plan) as client:
        found = (
            await run(
                client,
                workload,
                ClosedLoop(level.users, spec.study.seed),
                phases(spec, level).scaled(1 / scale),
                "installed",
                upstreams=len(plan.instances),
            )
        ).scaled(scale)
    metrics = measure(
        found.records, window_start=found.window_start, window_end=found.window_end, cold_s=RELOAD_S * scale
    )
    return {
        "output_tps": metrics.output_tps,
        "success_rate": metrics.success_rate,
        "cold": metrics.cold,
        "upstreams": len(metrics.instances),
        "errors": sorted({record.error for record in found.records if record.error}),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(loaded(Path(sys.argv[1])))))
