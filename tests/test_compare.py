"""Two loads held against each other: what differs, and what cannot be told apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.metrics import Metrics, Summary, compare, difference, figures, verdict
from autotune.metrics.compare import COMPARED, COMPARED_TIMES
from autotune.records import Outcome
from autotune.stats import proportion_interval
from tests.factories import metrics


def load(tps: float = 100.0, around: float = 5.0, **more: Any) -> Metrics:
    return metrics(tps, output_tps_range=(tps - around, tps + around), **more)


def ttft(p95: float, around: float) -> Summary:
    return Summary(400, p95, p95, p95, p95, p95, p95, intervals={"p95": (p95 - around, p95 + around)})


def answered(ok: int, failed: int, cut_off: int = 0) -> dict[str, Any]:
    outcomes = dict.fromkeys((outcome.value for outcome in Outcome), 0)
    outcomes |= {"ok": ok, "failed": failed, "cut_off": cut_off}
    return {"outcomes": outcomes, "success_rate": ok / (ok + failed), "requests": ok + failed + cut_off}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (load(100), load(120), "better"),
        (load(120), load(100), "worse"),
        (load(100), load(104), "not distinguishable"),
        (load(100), metrics(120), None),
    ],
)
def test_more_tokens_are_better(before: Metrics, after: Metrics, said: str | None) -> None:
    assert verdict(before, after, "output_tps") == said


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (ttft(1.0, 0.1), ttft(0.5, 0.1), "better"),
        (ttft(0.5, 0.1), ttft(1.0, 0.1), "worse"),
        (ttft(0.5, 0.1), ttft(0.6, 0.1), "not distinguishable"),
        (ttft(0.5, 0.1), Summary(3, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0), None),
        (Summary(), ttft(0.5, 0.1), None),
    ],
)
def test_less_waiting_is_better(before: Summary, after: Summary, said: str | None) -> None:
    assert verdict(replace(load(), ttft_s=before), replace(load(), ttft_s=after), "ttft_s.p95") == said


def test_a_difference_has_an_interval_that_is_recovered_from_both() -> None:
    found = difference(load(100, 3), load(120, 4), "output_tps")
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((20, 15, 25))  # √(3² + 4²) to both sides


def test_success_is_compared_exactly() -> None:
    before, after = load(**answered(400, 0)), load(**answered(300, 100))
    assert verdict(before, after, "success_rate") == "worse"
    assert verdict(after, before, "success_rate") == "better"
    assert verdict(load(**answered(9, 1)), load(**answered(10, 0)), "success_rate") == "not distinguishable"


def test_who_was_cut_off_says_nothing_of_success() -> None:
    found = difference(load(**answered(10, 0, cut_off=90)), load(**answered(10, 0, cut_off=90)), "success_rate")
    alone = proportion_interval(10, 10, 0.95)
    assert found is not None
    assert found.high == pytest.approx(1 - alone.low)


def test_what_is_neither_good_nor_bad_has_no_verdict() -> None:
    for name in ("input_tokens", "output_tokens", "in_flight", "generating"):
        assert verdict(load(), load(200), name) is None
        assert difference(load(), load(200), name) is None
    nobody = dict.fromkeys((outcome.value for outcome in Outcome), 0)
    assert difference(load(outcomes=nobody), load(), "success_rate") is None


def test_every_figure_is_one_that_can_be_asked_for() -> None:
    names = list(figures(load()))
    assert names == [*COMPARED, *(f"{name}.{one}" for name in COMPARED_TIMES for one in ("mean", "p50", "p95", "p99"))]
    for name in names:
        verdict(load(), load(), name)
    assert compare(load(), load(200))["output_tps"] == 100
    assert compare(metrics(0.0), load())["output_tps"] is None


rates, widths = st.floats(1, 1e4), st.floats(0, 100)


@given(rates, widths, rates, widths)
def test_verdicts_are_opposite_the_other_way_round(one: float, around: float, other: float, wide: float) -> None:
    opposite = {"better": "worse", "worse": "better", "not distinguishable": "not distinguishable"}
    before, after = load(one, around), load(other, wide)
    said = verdict(before, after, "output_tps")
    assert said is not None
    assert verdict(after, before, "output_tps") == opposite[said]
    if one == other:
        assert said == "not distinguishable"
