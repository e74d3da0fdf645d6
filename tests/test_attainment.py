"""Who met all limits at once: request by request, failures in the denominator."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.metrics import COLD_S, Window, attain, measure
from autotune.metrics.attainment import meets
from autotune.records import Outcome, RequestRecord
from tests.strategies import records

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.metrics import Attainment

WINDOW = Window(0.0, 100.0, open_loop=False, cold_s=COLD_S)
TTFT, TPOT, E2E = {"ttft_s": 1.0}, {"tpot_s": 0.1}, {"e2e_s": 2.0}


def answer(
    at: float = 0.0, ttft_s: float = 0.5, tpot_s: float = 0.05, tokens: int = 11, outcome: Outcome = Outcome.OK
) -> RequestRecord:
    """An answer of one token a chunk."""
    times = tuple(at + ttft_s + tpot_s * number for number in range(tokens))
    return RequestRecord(
        round(10 * at),
        at - 0.3,
        outcome,
        written_at=at,
        first_content_at=times[0],
        finished_at=times[-1],
        chunk_times=times,
        eval_count=tokens,
        done_reason="length",
    )


def cut(record: RequestRecord, waited_s: float, texts: int) -> RequestRecord:
    """The same, followed no further."""
    assert record.written_at is not None
    times = record.chunk_times[:texts]
    return replace(
        record,
        outcome=Outcome.CUT_OFF,
        first_content_at=times[0] if times else None,
        finished_at=record.written_at + waited_s,
        chunk_times=times,
        eval_count=None,
        done_reason="",
    )


@pytest.mark.parametrize(
    ("record", "limits", "met"),
    [
        (answer(), TTFT | TPOT | E2E, True),
        (answer(ttft_s=1.0), TTFT, True),
        (answer(ttft_s=1.1), TTFT, False),
        (answer(ttft_s=1.1), TPOT | E2E, True),
        (answer(tpot_s=0.11), TTFT | TPOT, False),
        (answer(ttft_s=1.0, tpot_s=0.1), E2E, True),
        (answer(ttft_s=1.0, tpot_s=0.11), E2E, False),
        # of one piece there is no time per token: nothing that could be too long
        (answer(tokens=1), TPOT, True),
        (answer(outcome=Outcome.FAILED), TTFT, False),
        (RequestRecord(1, 0.0, Outcome.REJECTED, 0.0, finished_at=0.01), TTFT, False),
        (RequestRecord(1, 0.0, Outcome.TIMEOUT, 0.0, finished_at=0.5), TTFT, False),
        (RequestRecord(1, 0.0, Outcome.FAILED), TTFT, False),
        # without a text the wait is that for the end
        (RequestRecord(1, 0.0, Outcome.EMPTY, 0.0, finished_at=0.9), TTFT | E2E, True),
        (RequestRecord(1, 0.0, Outcome.EMPTY, 0.0, finished_at=1.2), TTFT, False),
        # cut off: known where it had spoken, or had waited too long already
        (cut(answer(), 0.8, 3), TTFT, True),
        (cut(answer(), 0.3, 0), TTFT, None),
        (cut(answer(ttft_s=9), 5.0, 0), TTFT, False),
        (cut(answer(), 0.8, 3), E2E, None),
        (cut(answer(), 0.8, 3), TTFT | TPOT, None),
        (cut(answer(), 5.0, 3), TTFT | E2E, False),
        (cut(answer(ttft_s=1.5), 1.6, 3), TTFT | TPOT, False),
        (cut(answer(), 0.8, 3), {}, True),
    ],
)
def test_who_meets_the_limits(record: RequestRecord, limits: Mapping[str, float], met: bool | None) -> None:
    assert meets(record, WINDOW, limits) is met


def test_waiting_counts_from_the_intention_in_an_open_loop() -> None:
    late = answer(ttft_s=0.9)
    assert meets(late, WINDOW, TTFT) is True
    assert meets(late, replace(WINDOW, open_loop=True), TTFT) is False


def attained(load: Sequence[RequestRecord], *limits: tuple[str, float]) -> Attainment:
    found = attain(load, WINDOW, limits or TTFT.items())
    assert found is not None
    return found


def test_of_several_limits_the_strictest_counts() -> None:
    """A request that waits longer than the median's limit may be one of those that may; it is not a good one."""
    load, limits = [answer(0.0, ttft_s=0.2), answer(1.0, ttft_s=0.7)], [("ttft_s", 0.5), ("ttft_s", 3.0)]
    assert attained(load, *limits) == attained(load, *reversed(limits)) == attained(load, limits[0])
    assert attained(load, *limits).good == 1


def test_attainment_of_a_window() -> None:
    load = [
        *(answer(float(number)) for number in range(6)),
        answer(7.0, ttft_s=1.5),
        answer(8.0, outcome=Outcome.FAILED),
        cut(answer(9.0), 0.3, 0),
        replace(answer(10.0, ttft_s=9.0), load_duration_s=5.0),
        answer(-50.0),
        answer(150.0),
    ]
    found = attained(load)
    assert (found.requests, found.good, found.share) == (8, 6, 0.75)
    low, high = found.range
    assert low == pytest.approx(0.3491, abs=1e-4)  # Clopper and Pearson for 6 of 8
    assert high == pytest.approx(0.9681, abs=1e-4)
    assert found.goodput_tps == pytest.approx(6 * 11 / 100)


def test_goodput_counts_tokens_where_they_arrive() -> None:
    before = answer(-0.75)  # it speaks from −0.25 to 0.25
    assert attained([before]).requests == 0
    assert attained([before]).goodput_tps == pytest.approx(6 / 100)
    assert attained([replace(before, eval_count=22)]).goodput_tps == pytest.approx(12 / 100)


def test_nobody_says_nothing() -> None:
    found = attained([])
    assert (found.requests, found.good, found.share, found.range, found.goodput_tps) == (0, 0, 0.0, (0.0, 1.0), 0.0)


LIMITS = st.dictionaries(st.sampled_from(["ttft_s", "tpot_s", "e2e_s"]), st.floats(0.01, 1e5))


@given(st.lists(records(), max_size=12), LIMITS, st.booleans())
def test_more_limits_are_never_easier(load: list[RequestRecord], limits: dict[str, float], open_loop: bool) -> None:
    window = Window(1e3, 6e4, open_loop, COLD_S)
    found = attain(load, window, limits.items())
    assert (found is None) == (not limits)
    if found is None:
        return
    assert 0 <= found.range[0] <= found.share <= found.range[1] <= 1
    assert found.good <= found.requests
    everything = measure(load, window_start=1e3, window_end=6e4, open_loop=open_loop)
    assert found.goodput_tps <= everything.output_tps * (1 + 1e-9)
    for name in limits:
        easier = {other: most for other, most in limits.items() if other != name}
        for record in load:
            if meets(record, window, easier) is False:
                assert meets(record, window, limits) is False
