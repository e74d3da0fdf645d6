"""The same configurations, played without a clock and measured on the stand-in by the real client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from autotune.events import Events
from autotune.rehearsal.bench import bench
from autotune.rehearsal.host import host
from autotune.rehearsal.light import NOWHERE
from autotune.result import TrialResult
from autotune.simulator.clock import run_virtual
from autotune.spec import load
from tests.conftest import free_ports
from tests.night.harness import Folder

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.spec import StudySpec

pytestmark = [pytest.mark.slow, pytest.mark.quiet]

SCALE = 8
STEP_S = 0.052
"""One decode step of four instances with five busy slots each. Who comes inside a step waits for its end: the two
milliseconds that a request is on its way to the stand-in, times `SCALE`, decide which step that is."""

STUDY = """
[study]
name = "night"
seed = 1

[cluster]
driver = "simulated"
profile = "4x-rtx2080ti"
time_scale = {scale}
model = "gemma3n"
first_port = {port}
balancer = "direct"

[search]
num_parallel = [16]
layouts = ["0", "0 | 1 | 2 | 3"]
policy = ["least_conn"]
sampler = "grid"

[baseline]
layout = "0"
num_parallel = 4

[workload]
num_ctx = 2048
num_predict = {{ kind = "normal", mean = 236, spread = 0.15 }}
input_tokens = 60
levels = [20]
warmup_s = 40
warmup_max_s = 60
window_s = 120
window_max_s = 120
drain_s = 40

[objective]
end_early = false
precision = 0.5

[budget]
trials = 3

[proof]
finalists = 0
"""


def without_a_clock(spec: StudySpec, results: list[TrialResult]) -> list[TrialResult]:
    async def whole() -> list[TrialResult]:
        there = await host(spec)
        judged = bench(there, spec, Events(NOWHERE), "seed")
        found = list[TrialResult]()
        for one in results:
            judged.extra = tuple(int(label.removesuffix(" users")) for label in one.curve)
            found.append((await judged.trial(one.number, one.params, there.ground.plan(one.params)))[0])
        return found

    return run_virtual(whole())


def test_three_configurations_are_measured_alike(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.file.write_text(STUDY.format(scale=SCALE, port=free_ports(8)))
    done = folder.run(timeout_s=280)
    assert done.code == 0, done.output
    real = folder.results()
    assert any(one.curve for one in real)
    assert {(one.layout, one.params["num_parallel"]) for one in real} == {
        ("0", 4),
        ("0", 16),
        ("0 | 1 | 2 | 3", 16),
    }
    for found, one in zip(without_a_clock(load(folder.file), real), real, strict=True):
        mine, theirs = found.levels["20 users"], one.levels["20 users"]
        assert mine.output_tps == pytest.approx(theirs.output_tps, rel=0.02), one.layout
        assert mine.requests == pytest.approx(theirs.requests, rel=0.02)
        assert mine.tpot_s.p50 == pytest.approx(theirs.tpot_s.p50, rel=0.02)
        # the ways through client and sockets take some ms of this host, times `SCALE`: without a clock there are none
        way_s = theirs.rest_s.mean or 0.0
        assert mine.ttft_s.mean == pytest.approx((theirs.ttft_s.mean or 0.0) - way_s, rel=0.02)
        assert mine.ttft_s.p95 == pytest.approx((theirs.ttft_s.p95 or 0.0) - way_s, rel=0.02, abs=STEP_S)
        assert list(found.curve) == list(one.curve)
        for label, beside in found.curve.items():
            assert beside.output_tps == pytest.approx(one.curve[label].output_tps, rel=0.03), (one.layout, label)
        assert found.placements == one.placements
        assert found.seconds == pytest.approx(one.seconds, rel=0.05)
