"""The client's own work in a window: what is known of it, and what makes its figures unusable."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from autotune.benchmark.pacer import ClosedLoop, Level, OpenLoop
from autotune.benchmark.phases import LoadResult
from autotune.benchmark.watch import BUCKETS, Pulse, _bucket
from autotune.health import LEAST_LAG_S, MOST_CPU, MOST_LAG_S, Health, examine
from tests.factories import metrics, summary

if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOW_S = 10.0
FOUR_USERS = ClosedLoop(4)


def process(lag_s: float = 0.001, cpu: float = 0.1, pid: int = 1) -> tuple[Pulse, Pulse]:
    """A process at both ends of a window, after some life before."""
    before, late = [3] * BUCKETS, [3] * BUCKETS
    late[_bucket(lag_s)] += 500
    return Pulse(pid, 100.0, 7.0, tuple(before)), Pulse(pid, 100.0 + WINDOW_S, 7.0 + cpu * WINDOW_S, tuple(late))


def loaded(level: Level, *processes: tuple[Pulse, Pulse]) -> LoadResult:
    ends = [tuple(pair[end] for pair in processes) for end in (0, 1)]
    return LoadResult(level, 0.0, WINDOW_S, (), pulses=(ends[0], ends[1]))


def health(
    *processes: tuple[Pulse, Pulse],
    level: Level = FOUR_USERS,
    limit_s: float | None = None,
    scale: float = 1.0,
    **more: Any,
) -> Health:
    found = metrics(**{"window_s": WINDOW_S, "send_lag_s": summary(0.001), "receive_lag_s": summary(0.0005), **more})
    return examine(loaded(level, *processes), found, limit_s, scale)


def test_a_healthy_client() -> None:
    found = health(process(), process(0.002, 0.3, pid=2), tps=400.0, connected=3, little=0.01)
    assert found.faults == ()
    assert found.processes == 2
    assert found.loop_lag_s == pytest.approx(0.002, rel=0.1)
    assert found.cpu == pytest.approx(0.3)
    assert found.cpu_s_per_1000_tokens == pytest.approx((0.1 + 0.3) * WINDOW_S / 4.0)
    assert (found.send_lag_s, found.receive_lag_s) == (0.001, 0.0005)
    assert (found.in_flight, found.intended_in_flight, found.connected, found.little) == (5.0, 4, 3, 0.01)


def test_a_client_that_cannot_tell_is_not_blamed() -> None:
    for pulses in (None, ((), ())):
        found = examine(LoadResult(OpenLoop(1.0), 0, 1, (), pulses=pulses), metrics(send_lag_s=summary(3.0)))
        assert (found.processes, found.loop_lag_s, found.cpu, found.cpu_s_per_1000_tokens) == (0, None, None, None)
        assert (found.faults, found.intended_in_flight) == ((), None)


def test_what_is_not_known_is_none() -> None:
    silent = Pulse(1, 0.0, 0.0, (0,) * BUCKETS)
    found = examine(LoadResult(ClosedLoop(1), 0, 1, (), pulses=((silent,), (silent,))), metrics(0.0))
    assert (found.loop_lag_s, found.cpu, found.cpu_s_per_1000_tokens, found.faults) == (None, None, None, ())
    assert health(process(), send_lag_s=summary(None), receive_lag_s=summary(None)).send_lag_s is None


def test_one_slow_process_is_a_fault_of_all() -> None:
    (fault,) = health(process(), process(0.05, pid=2), process(pid=3)).faults
    assert fault.startswith("its event loop was up to 5")
    assert f"allowed is {1000 * MOST_LAG_S:.1f} ms" in fault


def test_a_process_that_works_too_much() -> None:
    (fault,) = health(process(cpu=0.2), process(cpu=0.72, pid=2)).faults
    assert fault == "it took 72% of a core in one process; allowed is 50%"
    assert health(process(cpu=MOST_CPU)).faults == ()


@pytest.mark.parametrize(
    ("limit_s", "scale", "most_s"),
    [
        (None, 1.0, MOST_LAG_S),
        (10.0, 1.0, MOST_LAG_S),
        (0.25, 1.0, 0.005),
        (0.25, 0.5, 0.01),
        (2.5, 10.0, 0.005),
        (0.02, 1.0, LEAST_LAG_S),
    ],
)
def test_the_lag_that_is_allowed_is_a_part_of_the_limit(limit_s: float | None, scale: float, most_s: float) -> None:
    """The limit is in seconds of the played host, the lag in those of this one."""
    assert health(process(most_s / 1.25), limit_s=limit_s, scale=scale).faults == ()
    (fault,) = health(process(most_s * 1.25), limit_s=limit_s, scale=scale).faults
    assert f"allowed is {1000 * most_s:.1f} ms" in fault


@pytest.mark.parametrize(("level", "faults"), [(OpenLoop(3.0), 1), (ClosedLoop(3), 0)])
def test_late_sends_are_a_fault_of_an_open_loop(level: Level, faults: int) -> None:
    """A closed loop counts from the write: there nobody waits for it."""
    found = health(process(), level=level, send_lag_s=summary(0.03))
    assert len(found.faults) == faults
    assert all("requests left up to 30.0 ms late" in fault for fault in found.faults)
    assert found.send_lag_s == 0.03


def test_who_cannot_leave_since_too_many_are_on_their_way_waits_for_the_server() -> None:
    late, there = metrics(send_lag_s=summary(3.0)), loaded(OpenLoop(3.0), process())
    assert len(examine(there, late).faults) == 1
    assert examine(replace(there, full=True), late).faults == ()
    assert len(examine(replace(loaded(OpenLoop(3.0), process(cpu=0.9)), full=True), late).faults) == 1


def test_lags_of_a_played_host_are_in_seconds_of_this_one() -> None:
    found = health(process(), level=OpenLoop(1.0), scale=10.0, send_lag_s=summary(0.05), receive_lag_s=summary(0.02))
    assert (found.send_lag_s, found.receive_lag_s, found.faults) == (0.005, 0.002, ())


def test_one_pause_in_a_short_window_is_no_fault() -> None:
    """A 99th percentile of few moments is the worst of them."""
    before, late = process(0.05)
    lags = list(before.lags)
    lags[_bucket(0.05)] += 300
    short = before, replace(late, lags=tuple(lags))
    assert health(short).loop_lag_s == pytest.approx(0.05, rel=0.1)
    assert health(short).faults == ()
    assert health((before, late)).faults != ()
    busy = process(cpu=0.9)
    assert health((busy[0], replace(busy[1], at=busy[0].at + 0.5))).faults == ()
    few = summary(3.0, n=300)
    assert health(process(), level=OpenLoop(1.0), send_lag_s=few).faults == ()


def test_a_load_that_only_failed_says_nothing_of_the_client() -> None:
    """It ended at once: the processor time of a moment is anything."""
    result = replace(loaded(FOUR_USERS, process(1.0, 0.9)), gave_up=True)
    found = examine(result, metrics())
    assert found.faults == ()
    assert found.cpu == pytest.approx(0.9)


def test_all_faults_are_told() -> None:
    def faults(found: Sequence[str]) -> list[str]:
        return [fault.split()[0] for fault in found]

    slow = health(process(1.0, 0.9), level=OpenLoop(1.0), send_lag_s=summary(1.0))
    assert faults(slow.faults) == ["its", "it", "requests"]
