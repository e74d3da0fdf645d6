"""Loads in virtual time, against a cluster whose figures can be worked out by hand."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from autotune.benchmark.load import run
from autotune.benchmark.pacer import ClosedLoop, Level, OpenLoop
from autotune.benchmark.phases import LoadResult, Phases, Progress
from autotune.benchmark.traffic import Traffic
from autotune.benchmark.workload import ConversationWorkload, Lengths, SeededWorkload, make
from autotune.benchmark.workload.conversations import USERS
from autotune.goal import Bound, Precise
from autotune.ladder import decided
from autotune.metrics import Metrics, measure
from autotune.records import Outcome
from autotune.simulator.clock import run_virtual
from tests.benchmark.standin import Standin

if TYPE_CHECKING:
    from collections.abc import Callable

PHASES = Phases(warmup_s=10, warmup_max_s=100, window_s=40, window_max_s=120, drain_s=60)
ANSWERS = SeededWorkload(1, Lengths("fixed", 50), Lengths("uniform", 20, 0.5))


def load(
    level: Level,
    phases: Phases = PHASES,
    progress: Callable[[Progress], None] | None = None,
    upstreams: int = 1,
    **law: Any,
) -> tuple[LoadResult, Standin]:
    async def whole() -> tuple[LoadResult, Standin]:
        cluster = Standin(**law)
        result = await run(cluster, ANSWERS, level, phases, "trial 1", progress, upstreams)
        assert len(asyncio.all_tasks()) == 1
        return result, cluster

    return run_virtual(whole())


def figures(result: LoadResult) -> Metrics:
    return measure(
        result.records,
        window_start=result.window_start,
        window_end=result.window_end,
        open_loop=result.open_loop,
    )


@pytest.mark.parametrize(("users", "slots"), [(1, 4), (4, 4), (12, 4)])
def test_closed_loop_is_little_and_the_slots(users: int, slots: int) -> None:
    """Busy slots × tokens a second while one speaks, and users without think time are always on their way."""
    result, cluster = load(ClosedLoop(users), slots=slots)
    metrics = figures(result)
    tokens = metrics.output_tokens or 0.0
    expected = min(users, slots) * tokens / (0.5 + 0.1 * (tokens - 1))
    assert metrics.output_tps == pytest.approx(expected, rel=0.05)
    assert metrics.in_flight == pytest.approx(users, rel=1e-6)
    assert (cluster.busiest, cluster.opened) == (users, users)
    assert (metrics.success_rate, result.cautions, result.gave_up) == (1.0, (), False)
    assert metrics.tpot_s.mean == pytest.approx(0.1)


def test_every_request_has_one_record() -> None:
    for level in (ClosedLoop(7), OpenLoop(3.0)):
        result, cluster = load(level)
        assert [record.index for record in result.records] == list(range(cluster.sent))


def test_the_window_has_its_length_and_no_seam() -> None:
    result, _ = load(ClosedLoop(8))
    assert result.window_start == pytest.approx(10)
    assert result.window_end - result.window_start == pytest.approx(40)
    crossing = [r for r in result.records if (r.written_at or 0) < result.window_start < (r.finished_at or 0)]
    assert len(crossing) == 8


def test_users_begin_apart() -> None:
    result, _ = load(ClosedLoop(10), slots=10, token_s=1)
    starts = sorted(record.intended_at for record in result.records)[:10]
    assert all(0.5 * user <= start < 0.5 * (user + 1) for user, start in enumerate(starts))


def test_the_load_is_held_up_until_the_window_has_its_first_texts() -> None:
    """Had sending stopped with the window, those at its end would wait less than those before."""
    result, _ = load(ClosedLoop(12), slots=4)
    end = result.window_end
    inside = [r for r in result.records if result.window_start <= (r.written_at or 0) < end]
    beyond = [r for r in result.records if (r.written_at or 0) >= end]
    last_text = max(r.first_content_at or 0 for r in inside)
    assert last_text > end
    assert beyond
    stop = max(record.intended_at for record in beyond)
    assert stop <= last_text + 1e-6
    assert last_text - stop < 2
    assert all(record.outcome is Outcome.OK for record in inside)
    waits = [(r.first_content_at or 0) - (r.written_at or 0) for r in inside]
    assert sum(waits[-10:]) / 10 == pytest.approx(sum(waits) / len(waits), rel=0.2)


def test_what_was_sent_after_the_window_is_cut_and_what_came_is_kept() -> None:
    result, _ = load(ClosedLoop(12), slots=4)
    cut = [record for record in result.records if record.outcome is Outcome.CUT_OFF]
    assert cut
    assert all((record.written_at or 0) >= result.window_end for record in cut)
    assert figures(result).outcomes["cut_off"] == 0


def test_the_drain_is_bounded() -> None:
    result, _ = load(ClosedLoop(3), replace(PHASES, drain_s=5), slots=1, prompt_s=1, token_s=1)
    metrics = figures(result)
    assert max(record.finished_at or 0 for record in result.records) == pytest.approx(result.window_end + 5)
    assert metrics.outcomes["cut_off"] > 0
    assert metrics.ttft_waiting_s
    assert "still running" in result.cautions[-1]
    cut = [r for r in result.records if r.outcome is Outcome.CUT_OFF and r.chunk_times]
    assert cut


def test_no_drain_at_all() -> None:
    result, _ = load(ClosedLoop(3), replace(PHASES, drain_s=0))
    assert max(record.finished_at or 0 for record in result.records) == pytest.approx(result.window_end)


def test_the_window_grows_until_it_has_its_requests() -> None:
    result, _ = load(ClosedLoop(4), replace(PHASES, min_requests=100))
    metrics = figures(result)
    assert 40 < metrics.window_s < 120
    assert metrics.window_s == pytest.approx(62.5)  # the third planned end: 40 s, 50 s, 62.5 s
    assert metrics.requests >= 100
    assert result.cautions == ()


def test_the_window_does_not_grow_for_ever() -> None:
    result, _ = load(ClosedLoop(4), replace(PHASES, min_requests=1000))
    assert figures(result).window_s == pytest.approx(120)
    assert "its statistics need 1000" in result.cautions[0]


def test_the_warm_up_waits_for_every_user() -> None:
    result, _ = load(ClosedLoop(3), slots=1, tokens=100)
    assert result.window_start == pytest.approx(3 * (0.5 + 9.9), abs=2)
    assert {record.outcome for record in result.records if (record.finished_at or 0) < result.window_start} == {
        Outcome.OK
    }


def test_the_warm_up_is_bounded() -> None:
    result, _ = load(ClosedLoop(3), replace(PHASES, warmup_max_s=20), slots=1, tokens=100)
    assert result.window_start == pytest.approx(20)
    assert "users had an answer" in result.cautions[0]


def test_the_warm_up_waits_for_every_instance() -> None:
    result, _ = load(ClosedLoop(1), upstreams=2, instances=("a:1", "b:2"), tokens=150)
    assert result.window_start == pytest.approx(2 * (0.5 + 14.9), abs=6)
    assert result.cautions == ()


def test_instances_that_never_answer_are_a_caution() -> None:
    result, _ = load(ClosedLoop(4), upstreams=3, instances=("a:1", "b:2"))
    assert result.window_start == pytest.approx(100)
    assert "2 of 3 instances" in result.cautions[0]
    assert set(figures(result).instances) == {"a:1", "b:2"}


def test_open_loop_sends_whatever_the_cluster_does() -> None:
    result, cluster = load(OpenLoop(4.0, "constant"), slots=1)
    sent = [r.written_at for r in result.records if result.window_start <= r.intended_at < result.window_end]
    assert len(sent) == pytest.approx(160, abs=1)
    assert cluster.busiest > 100
    metrics = figures(result)
    assert metrics.send_lag_s.max == pytest.approx(0, abs=1e-6)
    assert metrics.ttft_waiting_s
    assert (metrics.ttft_s.max or 0) > 50


def test_open_loop_below_capacity() -> None:
    result, _ = load(OpenLoop(1.0, seed=3), slots=64)
    metrics = figures(result)
    assert metrics.ttft_s.mean == pytest.approx(0.5)
    assert metrics.output_tps == pytest.approx(20, rel=0.25)
    assert metrics.success_rate == 1.0


def test_open_loop_beyond_its_bound_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.benchmark.traffic.MOST_IN_FLIGHT", 20)
    result, cluster = load(OpenLoop(4.0, "constant"), slots=1)
    assert cluster.busiest <= 21
    metrics = figures(result)
    assert metrics.requests == pytest.approx(160, abs=1)
    assert len(metrics.ttft_waiting_s) > 100
    assert (metrics.ttft_s.p50 or 0) > 40
    assert min(metrics.ttft_waiting_s) > 60


@pytest.mark.parametrize("bound", [Bound("ttft_s", "mean", 5.0), Bound("tpot_s", "p95", 1.0)])
def test_a_load_of_which_nothing_leaves_is_too_much(bound: Bound, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that may be on their way are of the warm-up, and no request of the window can join them."""
    monkeypatch.setattr("autotune.benchmark.traffic.MOST_IN_FLIGHT", 20)
    goal = Precise((bound,), None, PHASES.looks, min_success=0.99)

    async def whole() -> LoadResult:
        return await run(Standin(slots=1), ANSWERS, OpenLoop(40.0, seed=1), PHASES, "trial 1", goal=goal)

    result = run_virtual(whole())
    assert all(record.written_at is None for record in result.records if record.intended_at >= result.window_start)
    assert decided(result.look, gave_up=result.gave_up) == "violated"
    assert result.look.limits["success rate"] == "open"
    assert result.look.overload is not None
    assert result.look.overload.offered == pytest.approx(40, rel=0.2)
    assert result.window_end - result.window_start == pytest.approx(PHASES.looks[0])
    assert result.full


def test_a_load_that_leaves_when_it_is_due_is_not_held() -> None:
    assert not load(OpenLoop(1.0, seed=3), slots=64)[0].full
    assert not load(ClosedLoop(12), slots=4)[0].full


async def test_what_is_late_while_there_is_room_is_not_held() -> None:
    traffic = Traffic(Standin(slots=1), ANSWERS, OpenLoop(1000.0), "late")
    traffic.due = traffic.began - 1.0  # as where the event loop has not come to it yet
    assert traffic.held() == []


def test_a_server_that_dies_ends_the_load_early_without_a_hot_loop() -> None:
    result, _ = load(ClosedLoop(5), dead=lambda now: now > 25)
    assert result.gave_up
    assert "all failed: refused" in result.cautions[-1]
    assert 25 < result.window_end < 50
    failed = [record for record in result.records if record.outcome is Outcome.FAILED]
    assert 25 <= len(failed) < 60
    assert figures(result).success_rate < 0.8


def test_a_user_backs_off_more_and_more() -> None:
    result, _ = load(ClosedLoop(1), dead=lambda _: True)
    begins = [record.intended_at for record in result.records]
    pauses = [later - earlier for earlier, later in pairwise(begins)]
    assert pauses[:7] == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


@pytest.mark.parametrize("level", [ClosedLoop(2), OpenLoop(2.0)])
def test_a_server_that_never_lived(level: Level) -> None:
    result, _ = load(level, dead=lambda _: True)
    assert result.gave_up
    assert result.window_start == result.window_end < 20
    metrics = figures(result)
    assert (metrics.output_tps, metrics.success_rate, metrics.requests) == (0.0, 0.0, 0)


def test_a_server_that_comes_back_is_measured() -> None:
    result, _ = load(ClosedLoop(3), dead=lambda now: 20 < now < 23)
    assert not result.gave_up
    assert 0.7 < figures(result).success_rate < 1


def test_refusals_beside_answers_are_no_reason_to_give_up() -> None:
    result, _ = load(ClosedLoop(3), dead=lambda now: now % 30 > 2, tokens=400)
    assert not result.gave_up
    assert figures(result).outcomes["failed"] > 30


def test_bodies_are_equal_and_nonces_fresh() -> None:
    seen: dict[str, list[str]] = {"a": [], "b": []}

    class Listening(Standin):
        async def send(self, flight: Any) -> Any:
            seen[nonce].append(flight.prompt.text)
            return await super().send(flight)

    for nonce in seen:
        run_virtual(run_with(Listening, nonce))
    assert [text[16:] for text in seen["a"]] == [text[16:] for text in seen["b"]]
    assert not {text[:16] for text in seen["a"]} & {text[:16] for text in seen["b"]}


async def run_with(kind: type[Standin], nonce: str) -> LoadResult:
    return await run(kind(), ANSWERS, ClosedLoop(4), PHASES, nonce)


def test_equal_loads_are_equal() -> None:
    assert load(ClosedLoop(6))[0] == load(ClosedLoop(6))[0]


def test_progress() -> None:
    told: list[Progress] = []
    result, _ = load(ClosedLoop(4), progress=told.append)
    assert [stage for stage, before in zip(stages(told), ["", *stages(told)], strict=False) if stage != before] == [
        "warm-up",
        "window",
        "drain",
    ]
    assert len(told) == pytest.approx(4 * (max(r.finished_at or 0 for r in result.records)), rel=0.1)
    last = [one for one in told if one.stage == "window"][-1]
    assert last.output_tps == pytest.approx(figures(result).output_tps, rel=0.05)
    assert last.ttft_s == pytest.approx(figures(result).ttft_s.mean, rel=0.1)
    assert last.planned_s == 40
    assert last.elapsed_s == pytest.approx(40, abs=0.5)


def stages(told: list[Progress]) -> list[str]:
    return [one.stage for one in told]


@pytest.mark.parametrize(("after_s", "window_s"), [(5.0, 0.0), (40.0, 28.0)])
def test_a_load_that_is_broken_off_has_what_came_by_then(after_s: float, window_s: float) -> None:
    async def whole() -> LoadResult:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(after_s, stop.set)
        result = await run(Standin(slots=4), ANSWERS, ClosedLoop(12), PHASES, "trial 1", stop=stop)
        assert asyncio.get_running_loop().time() <= after_s + 1
        assert len(asyncio.all_tasks()) == 1
        return result

    found = run_virtual(whole())
    assert found.broken_off
    assert not found.gave_up
    assert found.window_end - found.window_start == pytest.approx(window_s, abs=2)
    assert sum("it was broken off" in caution for caution in found.cautions) == 1
    outcomes = {record.outcome for record in found.records}
    assert outcomes == {Outcome.OK, Outcome.CUT_OFF}
    if window_s:  # as fast as if it had gone on: what was on its way counts
        assert figures(found).output_tps == pytest.approx(
            figures(load(ClosedLoop(12), slots=4)[0]).output_tps, rel=0.05
        )


def test_cancelling_leaves_nothing_behind() -> None:
    async def whole() -> int:
        cluster = Standin()
        loading = asyncio.create_task(run(cluster, ANSWERS, ClosedLoop(5), PHASES, "n"))
        await asyncio.sleep(30)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        return len(asyncio.all_tasks())

    assert run_virtual(whole()) == 1


def test_the_collector_rests_in_the_window_only() -> None:
    states: dict[str, set[bool]] = {}
    load(ClosedLoop(2), progress=lambda one: states.setdefault(one.stage, set()).add(gc.isenabled()))
    assert states["window"] == {False}
    assert states["warm-up"] == {True}
    assert gc.isenabled()


def test_the_turns_of_a_conversation_are_a_users_one_after_the_other() -> None:
    talk = make(1, Lengths("uniform", 20, 0.5), Lengths("fixed", 50), turns=3)
    assert isinstance(talk, ConversationWorkload)
    result = run_virtual(run(Standin(), talk, ClosedLoop(5), PHASES, "trial 1"))
    for user in range(5):
        own = [record for record in result.records if record.index % USERS == user]
        assert [record.index for record in own] == [talk.index(user, number) for number in range(len(own))]
        assert all((now.finished_at or 0) <= then.intended_at for now, then in pairwise(own))
