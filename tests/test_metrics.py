"""Figures against hand-made loads whose answer is known."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.metrics import Metrics, Summary, compare, figures, measure, queue_s, tokens_per_chunk, tpot_s
from autotune.records import Outcome, RequestRecord, decode, encode
from tests.strategies import records


def ok(index: int = 0, written: float = 0.0, first: float = 1.0, chunks: int = 10, gap: float = 0.1) -> RequestRecord:
    """An answer of one token a chunk, cut off by `num_predict`."""
    times = tuple(first + gap * i for i in range(chunks))
    return RequestRecord(
        index,
        intended_at=written - 0.01,
        outcome=Outcome.OK,
        written_at=written,
        first_content_at=first,
        finished_at=times[-1],
        chunk_times=times,
        eval_count=chunks,
        prompt_eval_count=50,
        done_reason="length",
    )


def of(*load: RequestRecord, start: float = 0.0, end: float = 10.0, open_loop: bool = False) -> Metrics:
    return measure(load, window_start=start, window_end=end, open_loop=open_loop)


def test_tokens_count_where_they_arrive_whoever_asked() -> None:
    before = ok(0, written=-5, first=-0.45)  # five chunks before 0, five after
    after = ok(1, written=9.9, first=9.55)
    beyond = ok(2, written=11, first=9.95, chunks=1)
    assert of(before, after, beyond).output_tps == pytest.approx((5 + 5 + 1) / 10)


def test_eval_count_is_spread_over_the_chunks() -> None:
    assert of(replace(ok(first=9.55), eval_count=30)).output_tps == pytest.approx(15 / 10)


def test_uncounted_answers_get_the_tokens_per_chunk_of_the_load() -> None:
    counted = replace(ok(0), eval_count=20)
    cut = replace(ok(1, written=9, first=9.05, chunks=8), eval_count=None, outcome=Outcome.CUT_OFF)
    assert tokens_per_chunk([counted, cut]) == 2
    assert of(counted, cut).output_tps == pytest.approx((20 + 16) / 10)
    assert of(cut).output_tps == pytest.approx(8 / 10)


def test_window_is_half_open() -> None:
    assert of(replace(ok(), chunk_times=(0.0, 10.0), eval_count=2)).output_tps == pytest.approx(0.1)


def test_ttft_counts_from_the_write_or_from_the_intention() -> None:
    late = replace(ok(), intended_at=0.0, written_at=3.0, first_content_at=4.0)
    assert of(late).ttft_s.mean == 1.0
    assert of(late, open_loop=True).ttft_s.mean == 4.0
    assert of(late).send_lag_s.mean == 3.0


def test_requests_belong_to_the_window_by_the_same_stamp() -> None:
    early = replace(ok(), intended_at=-1.0, written_at=0.5)
    assert of(early).requests == 1
    assert of(early, open_loop=True).requests == 0
    refused = RequestRecord(1, 2.0, Outcome.FAILED, finished_at=2.0)
    assert of(early, refused).outcomes["failed"] == 1


def test_a_first_text_after_the_window_counts() -> None:
    metrics = of(ok(written=9.5, first=14.5))
    assert metrics.ttft_s.mean == 5.0
    assert metrics.output_tps == 0.0
    assert metrics.e2e_s.n == 0


def test_censored_waits_are_kept_and_counted() -> None:
    waiting = RequestRecord(1, 1.0, Outcome.CUT_OFF, written_at=2.0, finished_at=20.0)
    late = RequestRecord(2, 1.0, Outcome.TIMEOUT, written_at=3.0, finished_at=7.0)
    metrics = of(ok(written=0, first=1), waiting, late)
    assert metrics.ttft_waiting_s == (4.0, 18.0)
    assert (metrics.ttft_s.n, metrics.ttft_s.max) == (3, 18.0)
    assert metrics.success_rate == 0.5
    assert metrics.statistic("ttft_s", "mean") == pytest.approx(23 / 3)


def test_who_never_got_a_text_is_where_it_was_asked() -> None:
    """Intervals come from neighbours in time: all who waited at the end would look like a trend."""
    chance = random.Random(1)
    waits = [chance.choice([1.0, 1.1, 1.2, 9.0]) for _ in range(400)]
    answers = [ok(number, written=number / 100, first=number / 100 + wait) for number, wait in enumerate(waits)]
    cut = [
        replace(one, outcome=Outcome.CUT_OFF, first_content_at=None, chunk_times=(), finished_at=one.first_content_at)
        if wait > 2
        else one
        for one, wait in zip(answers, waits, strict=True)
    ]
    assert of(*cut).ttft_s.intervals == of(*answers).ttft_s.intervals
    low, high = of(*cut).ttft_s.intervals["mean"]
    assert high - low < 1


def test_requests_that_the_server_refused_were_sent() -> None:
    refused = RequestRecord(1, 1.0, Outcome.FAILED, finished_at=1.1)
    never = RequestRecord(2, 1.0, Outcome.CUT_OFF, finished_at=9.0)
    assert of(ok(), refused, never).unsent == 1


def test_waits_do_not_depend_on_the_order_of_the_records() -> None:
    cut = replace(ok(0), outcome=Outcome.CUT_OFF, first_content_at=None, chunk_times=(), eval_count=None)
    short, long = replace(cut, finished_at=2.0), replace(cut, finished_at=9.0)
    assert of(short, long) == of(long, short)
    assert of(long, short).ttft_waiting_s == (2.0, 9.0)


def test_success_and_outcomes() -> None:
    rejected = RequestRecord(1, 1.0, Outcome.REJECTED, written_at=1.0, finished_at=1.1, status=503)
    empty = RequestRecord(2, 1.0, Outcome.EMPTY, written_at=1.0, finished_at=1.1)
    metrics = of(ok(), rejected, empty, replace(ok(3), outcome=Outcome.FAILED))
    assert metrics.outcomes == {"ok": 1, "empty": 1, "rejected": 1, "failed": 1, "timeout": 0, "cut_off": 0}
    assert metrics.success_rate == 0.5
    assert of().success_rate == 0.0


def test_cold_requests_stay_out_of_times_only() -> None:
    cold = replace(ok(1, written=1, first=9), load_duration_s=7.0)
    metrics = of(ok(written=0, first=1), cold)
    assert (metrics.cold, metrics.requests, metrics.ttft_s.max, metrics.e2e_s.n) == (1, 2, 1.0, 1)
    assert metrics.output_tps == pytest.approx(20 / 10)


def test_a_request_that_a_busy_warm_server_held_counts_as_it_came() -> None:
    """Ollama's `load_duration` is also how long its scheduler took to look after a request."""
    metrics = of(ok(written=0, first=1), replace(ok(1, written=1, first=3), load_duration_s=0.23))
    assert (metrics.cold, metrics.ttft_s.max) == (0, 2.0)


def test_tpot() -> None:
    assert tpot_s(ok()) == pytest.approx(0.1)
    assert tpot_s(replace(ok(), eval_count=11, done_reason="stop")) == pytest.approx(0.1)
    assert tpot_s(replace(ok(), eval_count=20)) == pytest.approx(0.05)
    assert tpot_s(replace(ok(), chunk_times=(1.0, 1.0, 2.0, 3.0), eval_count=4)) == pytest.approx(1.0)
    for nothing in (ok(chunks=1), replace(ok(), eval_count=None), replace(ok(), chunk_times=())):
        assert tpot_s(nothing) is None


def test_gaps_are_pooled_by_arrival() -> None:
    gaps = of(ok(first=-0.95, chunks=3, gap=1.0), ok(first=9.5, chunks=3, gap=0.3)).chunk_gap_s
    assert gaps.n == 3
    assert gaps.mean == pytest.approx((1.0 + 1.0 + 0.3) / 3)


def test_queue_is_what_is_left() -> None:
    told = replace(ok(), total_duration_s=5.0, load_duration_s=0.01, prompt_eval_duration_s=0.5, eval_duration_s=2.0)
    assert queue_s(told) == pytest.approx(2.49)
    assert queue_s(replace(told, eval_duration_s=None)) == pytest.approx(4.49)
    assert queue_s(ok()) is None
    assert queue_s(replace(told, total_duration_s=1.0)) == 0.0


def test_in_flight_and_generating() -> None:
    metrics = of(*(ok(i, written=-5, first=2, chunks=41, gap=0.1) for i in range(4)))
    assert metrics.in_flight == pytest.approx(4 * 6 / 10)
    assert metrics.generating == pytest.approx(4 * 4 / 10)


def test_instances_add_up() -> None:
    load = [replace(ok(i, written=i, first=i + 1), upstream=f"host:{i % 2}") for i in range(6)]
    metrics = of(*load, replace(ok(9), upstream=""))
    assert {name: found.requests for name, found in metrics.instances.items()} == {"host:0": 3, "host:1": 3}
    assert sum(found.share for found in metrics.instances.values()) == 1.0
    assert metrics.instances["host:0"].ttft_mean_s == 1.0
    assert sum(found.output_tps for found in metrics.instances.values()) == pytest.approx(metrics.output_tps - 1.0)


def test_tokens_and_early_ends() -> None:
    metrics = of(ok(0), replace(ok(1), done_reason="stop", eval_count=6, connected=True))
    assert (metrics.input_tokens, metrics.output_tokens, metrics.stopped_early) == (50, 8, 0.5)
    assert (metrics.tokens_per_chunk, metrics.connected) == (0.8, 1)


def test_few_requests_decide_nothing() -> None:
    assert not Summary.of([1.0] * 71).decided("p95")
    assert Summary.of([1.0] * 72).decided("p95")
    assert Summary.of([]).value("p95") is None
    assert Summary.of([]).mean is None


def test_an_empty_window_has_no_rate() -> None:
    metrics = of(ok(), start=3.0, end=3.0)
    assert (metrics.window_s, metrics.output_tps, metrics.requests) == (0.0, 0.0, 0)


def test_compare_in_percent() -> None:
    slow, fast = of(ok(first=2)), of(ok(0, first=1), ok(1, first=1))
    change = compare(slow, fast)
    assert change["output_tps"] == pytest.approx(100)
    assert change["ttft_s.p50"] == pytest.approx(-50)
    assert change["queue_s.mean"] is None
    assert set(change) == set(figures(slow))


@given(st.lists(records(), max_size=12), st.booleans(), st.randoms(use_true_random=False))
def test_stored_records_give_the_same_figures(load: list[RequestRecord], open_loop: bool, rng: random.Random) -> None:
    first = measure(load, window_start=1e3, window_end=6e4, open_loop=open_loop)
    stored = [decode(json.loads(json.dumps(encode(record)))) for record in rng.sample(load, len(load))]
    assert measure(stored, window_start=1e3, window_end=6e4, open_loop=open_loop) == first
    json.dumps(first.to_dict(), allow_nan=False)


@given(st.lists(records(), max_size=12))
def test_windows_side_by_side_add_up(load: list[RequestRecord]) -> None:
    def tokens(start: float, end: float) -> float:
        return measure(load, window_start=start, window_end=end).output_tps * (end - start)

    assert tokens(0, 7e4) + tokens(7e4, 2e5) == pytest.approx(tokens(0, 2e5))
