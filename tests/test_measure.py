"""Where the waiting went, whether a load was steady, and which instance is slow: hand-made loads."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.metrics import (
    InstanceMetrics,
    Metrics,
    Summary,
    Window,
    measure,
    pace,
    queue_s,
    rest_s,
    slow,
    tpot_s,
)
from autotune.records import Outcome, RequestRecord
from autotune.stats import batch_means, enough, quantile
from tests.strategies import records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.stats import Statistic

WINDOW = Window(0.0, 10.0, open_loop=False, cold_s=0.05)


def told(
    at: float = 0.0,
    queue: float = 0.2,
    load: float | None = 0.01,
    prefill: float | None = 0.3,
    way: float = 0.04,
    tokens: int = 11,
    token_s: float = 0.1,
) -> RequestRecord:
    """An answer that a server tells all about; what it says adds up."""
    inside = queue + (load or 0.0) + (prefill or 0.0)
    first = at + inside + way
    times = tuple(first + token_s * number for number in range(tokens))
    return RequestRecord(
        round(100 * at),
        at - 0.01,
        Outcome.OK,
        written_at=at,
        first_content_at=first,
        first_answer_at=first,
        finished_at=times[-1],
        chunk_times=times,
        eval_count=tokens,
        done_reason="length",
        total_duration_s=inside + token_s * (tokens - 1),
        load_duration_s=load,
        prompt_eval_duration_s=prefill,
        eval_duration_s=token_s * (tokens - 1) or None,
    )


def of(load: Sequence[RequestRecord], start: float = 0.0, end: float = 10.0, *, open_loop: bool = False) -> Metrics:
    return measure(load, window_start=start, window_end=end, open_loop=open_loop)


# where the waiting went


def test_a_ttft_is_queue_load_prefill_and_the_rest() -> None:
    record = told()
    assert queue_s(record) == pytest.approx(0.2)
    assert rest_s(record, WINDOW) == pytest.approx(0.04)
    metrics = of([record])
    parts = (metrics.queue_s.mean, metrics.load_s.mean, metrics.prefill_s.mean, metrics.rest_s.mean)
    assert parts == pytest.approx((0.2, 0.01, 0.3, 0.04))
    assert sum(part or 0.0 for part in parts) == pytest.approx(metrics.ttft_s.mean)


def test_in_an_open_loop_the_rest_has_what_the_client_was_late() -> None:
    assert rest_s(told(), replace(WINDOW, open_loop=True)) == pytest.approx(0.05)
    assert of([told(0.5)], open_loop=True).rest_s.mean == pytest.approx(0.05)


def test_a_part_that_the_server_leaves_out_was_nothing() -> None:
    metrics = of([told(load=None, prefill=None)])
    assert (metrics.load_s.mean, metrics.prefill_s.mean) == (0.0, 0.0)
    assert metrics.rest_s.mean == pytest.approx(0.04)


def test_who_tells_nothing_has_no_parts() -> None:
    silent = replace(told(), total_duration_s=None, load_duration_s=None, prompt_eval_duration_s=None)
    metrics = of([silent])
    assert (metrics.load_s.n, metrics.prefill_s.n, metrics.rest_s.n, metrics.queue_s.n) == (0, 0, 0, 0)
    assert (metrics.ttft_s.n, rest_s(silent, WINDOW)) == (1, None)
    assert rest_s(replace(told(), first_content_at=None), WINDOW) is None


def test_the_parts_are_those_of_the_windows_requests_without_the_cold_ones() -> None:
    cold, early = told(1.0, load=3.0), told(-5.0, prefill=2.0)
    metrics = of([told(), cold, early])
    assert (metrics.cold, metrics.load_s.n, metrics.prefill_s.max) == (1, 1, 0.3)


def test_the_first_text_of_the_answer_itself() -> None:
    thinks = replace(told(), first_answer_at=0.55 + 0.8)
    only = replace(told(1.0), first_answer_at=None)
    metrics = of([thinks, only])
    assert metrics.first_answer_s.n == 1
    assert metrics.first_answer_s.mean == pytest.approx(1.35)
    assert metrics.ttft_s.n == 2


def test_how_long_first_texts_lay_ready() -> None:
    load = [replace(told(number / 10), receive_lag_s=number / 1000) for number in range(5)] + [told(1.0)]
    metrics = of(load)
    assert (metrics.receive_lag_s.n, metrics.receive_lag_s.max) == (5, 0.004)
    assert metrics.receive_lag_s.intervals == {}


# the client's clock beside the server's


def test_pace_is_the_clients_time_per_token_by_the_servers() -> None:
    assert pace(told()) == pytest.approx(1.0)
    slowed = replace(told(), chunk_times=tuple(0.55 + 0.2 * number for number in range(11)), finished_at=2.55)
    assert pace(slowed) == pytest.approx(2.0)
    assert of([told(), told(0.1), slowed]).pace == pytest.approx(1.0)
    for nothing in (replace(told(), eval_duration_s=None), replace(told(), eval_count=None), told(tokens=1)):
        assert pace(nothing) is None
    assert of([told(tokens=1)]).pace is None


def test_tpot_takes_what_came_with_the_first_read_as_the_first_chunk() -> None:
    bundled = replace(told(), chunk_times=(1.0, 1.0, 1.0, 1.0, 1.4, 1.8), eval_count=6)
    assert tpot_s(bundled) == pytest.approx(0.4)
    assert tpot_s(replace(bundled, chunk_times=(1.0,) * 6)) is None
    assert tpot_s(replace(told(), eval_count=1, done_reason="stop")) is None


# steadiness


def steady(users: int = 4, lasts_s: float = 1.0, until_s: float = 20.0) -> list[RequestRecord]:
    """Users who begin apart and ask without a pause; each answer lasts as long."""
    found = []
    for user in range(users):
        at, number = -5.0 + lasts_s * user / users, 0
        while at < until_s:
            times = tuple(at + lasts_s * part / 10 for part in range(1, 11))
            found.append(
                RequestRecord(
                    100 * user + number,
                    at,
                    Outcome.OK,
                    at,
                    times[0],
                    finished_at=times[-1],
                    chunk_times=times,
                    eval_count=10,
                )
            )
            at, number = times[-1], number + 1
    return found


def test_littles_law_holds_for_a_steady_load() -> None:
    metrics = of(steady())
    assert metrics.in_flight == pytest.approx(4.0)
    assert metrics.little == pytest.approx(0.0, abs=0.02)
    assert metrics.output_tps == pytest.approx(40.0, rel=0.03)


def test_what_is_on_its_way_and_never_ends_is_not_explained() -> None:
    stuck = [RequestRecord(-number, -1.0, Outcome.CUT_OFF, -1.0, finished_at=30.0) for number in range(1, 5)]
    assert of(steady() + stuck).little == pytest.approx(0.5, abs=0.02)
    assert of(stuck).little is None
    assert of([]).little is None


def test_a_steady_rate_does_not_drift() -> None:
    metrics = of(steady())
    assert metrics.drift == pytest.approx(0.0, abs=0.05)
    assert metrics.drift_range is not None
    assert metrics.drift_range[0] < 0 < metrics.drift_range[1]
    assert metrics.output_tps_range is not None
    low, high = metrics.output_tps_range
    assert low <= metrics.output_tps <= high


def stream(moments: Sequence[float]) -> RequestRecord:
    """One long answer with a token at each moment."""
    return RequestRecord(0, -1.0, Outcome.OK, -1.0, moments[0], finished_at=30.0, chunk_times=tuple(moments))


def test_drift_is_the_change_from_end_to_end_by_the_mean() -> None:
    """From 100 to 200 tokens/s: 100 of a mean of 150."""
    moments = [(-100 + math.sqrt(1e4 + 20 * tokens)) / 10 for tokens in range(1500)]
    metrics = of([stream(moments)])
    assert metrics.output_tps == pytest.approx(150, rel=0.01)
    assert metrics.drift == pytest.approx(100 / 150, rel=0.05)
    assert metrics.drift is not None
    assert metrics.drift_range is not None
    assert 0 < metrics.drift_range[0] < metrics.drift < metrics.drift_range[1]
    slower = of([stream(sorted(10.0 - at for at in moments if at > 0))])
    assert slower.drift == pytest.approx(-100 / 150, rel=0.05)


def test_a_window_without_tokens_or_length_does_not_drift() -> None:
    assert (of([]).drift, of([]).drift_range) == (None, None)
    empty = of(steady(), start=3.0, end=3.0)
    assert (empty.drift, empty.output_tps_range) == (None, None)


@pytest.mark.parametrize("seed", range(10))
def test_the_interval_of_the_rate_is_as_wide_as_tokens_are_uneven(seed: int) -> None:
    """A thousand that come at random: two standard errors are 6 tokens/s, and batches know them roughly."""
    rng = random.Random(seed)
    metrics = of([stream(sorted(rng.uniform(0, 10) for _ in range(1000)))])
    assert metrics.output_tps_range is not None
    low, high = metrics.output_tps_range
    assert low <= metrics.output_tps == 100 <= high
    assert 2 < (high - low) / 2 < 18


# instances


def test_the_times_of_an_instance_are_of_its_own_answers() -> None:
    load = [replace(told(number / 2, token_s=0.05), upstream="a:1") for number in range(12)]
    load += [replace(told(number / 2, queue=0.4, token_s=0.1), upstream="b:2") for number in range(12)]
    load.append(replace(told(20.0, token_s=9.0), upstream="b:2"))
    found = of(load).instances
    assert list(found) == ["a:1", "b:2"]
    assert found["a:1"].tpot_p50_s == pytest.approx(0.05)
    assert found["b:2"].tpot_p50_s == pytest.approx(0.1)
    assert (found["a:1"].answers, found["b:2"].answers) == (12, 12)
    assert found["a:1"].ttft_p50_s == pytest.approx(0.55)
    assert found["b:2"].ttft_p50_s == pytest.approx(0.75)
    assert found["a:1"].share == 0.5
    assert found["a:1"].tokens_share == pytest.approx(0.5, abs=0.05)
    assert slow(found) == {"b:2": pytest.approx(2.0)}


def test_slots_in_use_at_one_moment() -> None:
    """A prompt that is read takes a slot; one that ends as another begins has made room for it."""
    one = replace(told(0.0, queue=0.0, load=None, prefill=0.5, way=0.0, tokens=6), upstream="a:1")
    then = replace(told(1.0, queue=0.0, load=None, prefill=0.5, way=0.0, tokens=6), upstream="a:1")
    beside = replace(told(0.4, queue=0.0, load=None, prefill=0.5, way=0.0, tokens=6), upstream="a:1")
    assert one.chunk_times[-1] == pytest.approx(then.written_at)
    assert of([one]).instances["a:1"].slots_used == 1
    assert of([one, beside, then]).instances["a:1"].slots_used == 2
    assert of([replace(one, chunk_times=(), first_content_at=None)]).instances["a:1"].slots_used == 0


def instance(tpot: float | None, answers: int = 20) -> InstanceMetrics:
    return InstanceMetrics(answers, 0.5, 1.0, 1.0, 1.0, tpot_p50_s=tpot, answers=answers)


def test_who_is_slow_is_so_against_the_others() -> None:
    three = {"a": instance(0.1), "b": instance(0.11), "c": instance(0.2)}
    assert slow(three) == {"c": pytest.approx(0.2 / 0.105)}
    assert slow({"a": instance(0.1), "b": instance(0.124)}) == {}
    assert slow({"a": instance(0.1), "b": instance(0.126)}) == {"b": pytest.approx(1.26)}
    assert slow({"a": instance(9.0)}) == {}
    assert slow({"a": instance(0.1), "b": instance(0.9, answers=9)}) == {}
    assert slow({"a": instance(0.1), "b": instance(None)}) == {}
    assert slow({}) == {}


def test_who_is_slow_is_so_against_those_that_are_the_same() -> None:
    found = {"a": instance(0.1), "b": instance(0.2), "c": instance(0.21), "d": instance(0.3), "e": instance(0.9)}
    alike = {"a": "fast", "b": "old", "c": "old", "d": "old", "e": "odd"}
    assert slow(found, alike) == {"d": pytest.approx(0.3 / 0.205)}
    assert slow(found).keys() == {"d", "e"}


# summaries


@pytest.mark.parametrize("statistic", ["p50", "p90", "p95", "p99"])
def test_a_percentile_has_an_interval_once_there_are_enough(statistic: Statistic) -> None:
    least = enough(statistic)
    assert statistic not in Summary.of([1.0] * (least - 1)).intervals
    assert Summary.of([1.0] * least).intervals[statistic] == (1.0, 1.0)
    assert Summary.of([1.0] * least, intervals=False).intervals == {}


def test_the_interval_of_a_mean_is_by_batches() -> None:
    rng = random.Random(4)
    values = [rng.expovariate(1.0) for _ in range(100)]
    around = batch_means(values, 0.95)
    assert Summary.of(values).intervals["mean"] == (around.low, around.high)
    assert "mean" not in Summary.of(values[:9]).intervals


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=120))
def test_intervals_lie_around_their_statistic(values: list[float]) -> None:
    found = Summary.of(values)
    assert found.n == len(values)
    assert found.p95 == quantile(values, 0.95)
    assert found.max == max(values)
    for name, (low, high) in found.intervals.items():
        value = getattr(found, name)
        slack = 1e-9 * max(map(abs, values))
        assert low - slack <= value <= high + slack
        if name != "mean":
            assert {low, high} <= set(values)


def test_waits_that_are_alike_have_wider_intervals() -> None:
    """A queue's: who comes after a long wait waits long, too."""
    rng = random.Random(5)
    independent = [rng.gauss(0, 1) for _ in range(800)]
    alike, value = [], 0.0
    for _ in range(800):
        value = 0.95 * value + math.sqrt(1 - 0.95**2) * rng.gauss(0, 1)
        alike.append(value)
    narrow, wide = Summary.of(independent), Summary.of(alike)
    for name in ("mean", "p50"):
        (low, high), (lower, higher) = narrow.intervals[name], wide.intervals[name]
        assert higher - lower > 2 * (high - low)


@given(st.lists(records(), max_size=12), st.booleans())
def test_figures_are_possible(load: list[RequestRecord], open_loop: bool) -> None:
    metrics = measure(load, window_start=1e3, window_end=6e4, open_loop=open_loop)
    if metrics.output_tps_range is not None:
        low, high = metrics.output_tps_range
        assert 0 <= low <= metrics.output_tps * (1 + 1e-9) + 1e-12
        assert metrics.output_tps <= high * (1 + 1e-9) + 1e-12
    if metrics.drift is not None:
        assert metrics.drift_range is not None
        assert metrics.drift_range[0] <= metrics.drift <= metrics.drift_range[1]
    assert metrics.little is None or metrics.little <= 1
    assert sum(metrics.outcomes.values()) == metrics.requests
    for name, one in metrics.instances.items():
        assert name
        assert 0 <= one.share <= 1
        assert 0 <= one.tokens_share <= 1 + 1e-9
    waits = metrics.ttft_waiting_s
    assert all(before <= after for before, after in pairwise(waits))
