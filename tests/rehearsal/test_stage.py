"""The played cluster: what a start, a load and a placement take, and the failures that they end in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from autotune.events import Events
from autotune.rehearsal.bench import Rehearsal, bench
from autotune.rehearsal.host import host
from autotune.rehearsal.light import NOWHERE
from autotune.rehearsal.stage import BALANCER_S, START_S, STOP_S
from autotune.simulator.clock import run_virtual
from autotune.simulator.profiles import load_profile
from tests.rehearsal.studies import profile, small

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from autotune.plan import Plan
    from autotune.result import TrialResult
    from autotune.spec import StudySpec

TINY = load_profile("2x-small").model("tiny")


def on(spec: StudySpec, doing: Callable[[Rehearsal, Callable[..., Plan]], Awaitable[Any]]) -> Any:
    async def whole() -> Any:
        there = await host(spec)

        def plan(layout: str = "0", slots: int = 2, **more: Any) -> Plan:
            policy = {"policy": "least_conn"} if "|" in layout else {}
            return there.ground.plan({**there.ground.baseline, "layout": layout, "num_parallel": slots} | policy | more)

        return await doing(bench(there, spec, Events(NOWHERE), "seed"), plan)

    return run_virtual(whole())


async def took(doing: Awaitable[Any]) -> float:
    now = asyncio.get_running_loop().time
    began = now()
    await doing
    return now() - began


def test_only_what_differs_is_started_and_the_first_load_is_cold() -> None:
    async def doing(judged: Rehearsal, plan: Callable[..., Plan]) -> None:
        stage, one, two = judged.stage, plan("0"), plan("0 | 1")
        assert await took(stage.become(one)) == pytest.approx(START_S + BALANCER_S)
        assert await took(stage.load(one)) == pytest.approx(TINY.load_s)
        assert await took(stage.load(one)) == 0
        assert await took(stage.become(one)) == 0
        assert await took(stage.become(two)) == pytest.approx(START_S + BALANCER_S)
        assert await took(stage.load(two)) == pytest.approx(TINY.warm_load_s)
        assert await took(stage.become(plan("0", 4))) == pytest.approx(STOP_S + START_S + BALANCER_S)
        assert await took(stage.clear()) == pytest.approx(STOP_S)
        assert await took(stage.clear()) == 0

    on(small(), doing)


def test_a_process_keeps_its_life_and_the_next_has_another(tmp_path: Path) -> None:
    spec = small(cluster={"profile": str(profile(tmp_path / "p.toml", host__life_jitter=0.2))})

    async def doing(judged: Rehearsal, plan: Callable[..., Plan]) -> None:
        async def away(plan: Plan) -> list[float]:
            await judged.ready(plan)
            return [instance.away_s for instance in judged.stage.instances(plan, "x")]

        first = await away(plan("0"))
        assert await away(plan("0")) == first
        both = await away(plan("0 | 1"))
        assert both[0] == pytest.approx(first[0] * 1.05)  # with what its neighbour costs it
        assert both[1] != both[0]
        await judged.stage.clear()
        assert await away(plan("0")) != first

    on(spec, doing)


def trial(spec: StudySpec, layout: str, slots: int, **more: Any) -> TrialResult:
    async def doing(judged: Rehearsal, plan: Callable[..., Plan]) -> TrialResult:
        result, _ = await judged.trial(0, {}, plan(layout, slots, **more))
        return result

    found: TrialResult = on(spec, doing)
    return found


@pytest.mark.parametrize(
    ("changes", "layout", "slots", "more", "reason"),
    [
        ({"cluster": {"env": {"LLAMA_ARG_FIT": "off"}}}, "0", 512, {}, "load_failed"),
        ({}, "0", 24, {}, "offloaded"),
        ({}, "0", 2, {"kv_cache_type": "q8_0", "flash_attention": "off"}, "load_failed"),
        ({"cluster": {"load_timeout_s": 0.01}}, "0", 2, {}, "never_ready"),
    ],
    ids=["no memory", "layers on the CPU", "a cache that needs flash attention", "too slow to load"],
)
def test_what_does_not_run_is_a_typed_failure(
    changes: dict[str, Any], layout: str, slots: int, more: dict[str, str], reason: str
) -> None:
    found = trial(small(**({"workload": {"num_ctx": 8192}} | changes)), layout, slots, **more)
    assert (found.reason, found.levels) == (reason, {})
    assert found.message
    assert bool(found.details) is (reason != "offloaded")
    assert found.simulated


def test_the_last_words_are_those_of_the_stand_in() -> None:
    spec = small(cluster={"env": {"LLAMA_ARG_FIT": "off"}}, workload={"num_ctx": 8192})
    assert "cudaMalloc failed: out of memory" in trial(spec, "0", 512).details


def test_a_trial_has_all_that_a_real_one_has() -> None:
    found = trial(small(), "0 | 1", 4)
    metrics = found.levels["6 users"]
    assert metrics.success_rate == 1
    assert len(metrics.instances) == 2
    assert [one.num_parallel for one in found.placements] == [4, 4]
    assert found.looks["6 users"].limits["ttft_s mean"] == "holds"
    assert found.attainments["6 users"].share == 1
    assert metrics.input_tokens == pytest.approx(40, rel=0.1)  # calibrated by the stand-in's own count
    assert found.seconds > 13
