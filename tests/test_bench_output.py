"""What `bench` and `compare` show: figures with intervals, instances, histograms, proxies; narrow, plain, empty."""

from __future__ import annotations

import io
import json
import random
import re
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from autotune import console as view
from autotune.bench import FORMAT, Found
from autotune.benchmark.pacer import ClosedLoop, OpenLoop
from autotune.benchmark.phases import LoadResult, Look, Progress
from autotune.cli import main
from autotune.console.amounts import (
    MILLISECONDS,
    PERCENT,
    SECONDS,
    Unit,
    interval,
    number,
    of_sample,
    significant,
    time_unit,
)
from autotune.console.contrasts import ONE_WINDOW, contrasts, of_a_proxy, routes
from autotune.console.details import client, going, headline, instance_rows, rows
from autotune.console.histogram import MOST_ROWS, bins, drawn, logarithmic, titled
from autotune.doubts import doubts
from autotune.goal import Bound
from autotune.health import Health, examine
from autotune.metrics import COLD_S, Range, Summary, Window, attain, measure
from autotune.records import Outcome, RequestRecord
from tests.factories import metrics, summary
from tests.screens import ANSI, COLOUR, Clock, screen, text, words

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from autotune.metrics import Metrics

WIDTHS = (60, 80, 100, 140)
BOUNDS = (Bound("ttft_s", "p95", 2.0), Bound("tpot_s", "p99", 0.1))
LOOK = Look(limits={"ttft_s p95": "holds", "tpot_s p99": "violated"})
HEALTH = Health(1, 0.0011, 0.031, 0.01, 0.0004, 0.0001, 19.8, 20, 0, 0.0)
PROGRESS = Progress("window", 12.3, 60.0, 42, 158.25, 0.75)


def record(index: int, ttft_s: float, upstream: str = "", thought_s: float = 0.0, **more: Any) -> RequestRecord:
    """A request of the window whose answer has 20 tokens."""
    at = 0.1 * index
    first = at + ttft_s
    times = tuple(first + 0.05 * token for token in range(20))
    values: dict[str, Any] = {
        "written_at": at,
        "first_content_at": first,
        "first_answer_at": first + thought_s,
        "chunk_times": times,
        "finished_at": times[-1],
        "upstream": upstream,
        "eval_count": 20,
        "prompt_eval_count": 200,
        "done_reason": "length",
        "total_duration_s": ttft_s + 0.95,
        "load_duration_s": 0.001,
        "prompt_eval_duration_s": 0.1,
        "eval_duration_s": 0.95,
    }
    return RequestRecord(index, at, Outcome.OK, **values | more)


def loaded(count: int = 500, upstreams: Sequence[str] = ("",), **more: Any) -> tuple[RequestRecord, ...]:
    """As many requests, spread over the instances."""
    chance = random.Random(0)
    waits = [0.2 + chance.expovariate(2.0) for _ in range(count)]
    return tuple(record(index, ttft_s, upstreams[index % len(upstreams)], **more) for index, ttft_s in enumerate(waits))


def load(records: Sequence[RequestRecord], label: str = "20 users", *cautions: str, window_s: float = 50.0) -> Found:
    """What a load of these requests gave."""
    result = LoadResult(ClosedLoop(20), 0.0, window_s, tuple(records), look=LOOK)
    figures = measure(records, window_start=0.0, window_end=window_s)
    limits = ((bound.metric, bound.most) for bound in BOUNDS)
    attained = attain(records, Window(0.0, window_s, open_loop=False, cold_s=COLD_S), limits)
    return Found(label, result, figures, HEALTH, attained, cautions)


def shown(found: Found, width: int = 140, bounds: Sequence[Bound] = BOUNDS, **more: Any) -> str:
    """All that is said of one load."""
    on = screen(width, **more)
    with view.Bench(on, bounds) as bench:
        bench.level(found)
    return ANSI.sub("", text(on))


# figures


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.0, SECONDS, "0.00"),
        (-0.0001, SECONDS, "0.00"),
        (0.784, SECONDS, "0.78"),
        (9.996, SECONDS, "10.0"),
        (12.34, SECONDS, "12.3"),
        (99.96, SECONDS, "100"),
        (12345.6, SECONDS, "12346"),
        (0.0248, MILLISECONDS, "24.8"),
        (0.995, PERCENT, "99.5"),
    ],
)
def test_a_figure_has_three_digits(value: float, unit: Unit, said: str) -> None:
    assert number(value, unit) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        *((0.0, "0.00"), (0.00012, "0.000120"), (0.0512, "0.0512"), (0.09996, "0.100"), (0.5, "0.500")),
        *((1.234, "1.23"), (9.996, "10.0"), (99.96, "100"), (12345.6, "12346")),
    ],
)
def test_a_figure_has_three_digits_however_small_it_is(value: float, said: str) -> None:
    assert significant(value, SECONDS) == said


def test_a_difference_has_a_sign() -> None:
    assert interval((-0.01, 0.04), SECONDS, "+") == "[-0.01, +0.04]"


def test_short_times_are_milliseconds() -> None:
    assert time_unit(None, 0.2) == MILLISECONDS
    assert time_unit(0.2, 1.0) == SECONDS
    assert time_unit(None) == SECONDS


def test_a_statistic_of_too_few_values_is_not_shown() -> None:
    mixed = Summary.of([1.0 + 0.01 * (37 * number % 100) for number in range(100)])
    assert of_sample(mixed, "p50", SECONDS).line.startswith("1.50 [1.")
    assert of_sample(mixed, "p95", SECONDS).value == "1.94"
    assert of_sample(mixed, "p99", SECONDS).line == "–"
    assert of_sample(summary(0.5), "p99", SECONDS).line == "0.50"
    assert of_sample(Summary(), "mean", SECONDS).line == "–"


# one load


@pytest.mark.parametrize("width", WIDTHS)
def test_all_that_a_load_says_fits_and_no_number_is_broken(width: int) -> None:
    found = load(loaded(500, ("127.0.0.1:9000", "127.0.0.1:9001")), "20 users", "[/odd] look at this")
    said = shown(found, width)
    assert all(len(line) <= width and line == line.rstrip() for line in said.splitlines())
    plain = " ".join(said.split())
    for row in rows(found):
        for cell in row.cells:
            assert cell.value in plain
            assert cell.ends.replace(" ", "") in plain.replace(" ", "")
    for piece in (
        headline(found.metrics),
        "limit TTFT p95 at most 2 s: holds (",
        f"limit TPOT p99 at most 100 ms: violated ({of_sample(found.metrics.tpot_s, 'p99', MILLISECONDS).line} ms)",
        "requests; goodput ",
        "tokens 200 in, 20 out, 1.00 a chunk, 0% of the answers stopped early",
        "client 1 process, 3.1% of a core, event loop at most 1.1 ms late (p99), first texts read after 0.1 ms (p99),",
        "caution: 20 users: [/odd] look at this",
        "127.0.0.1:9001 50% 50%",
    ):
        assert piece in plain


def test_intervals_are_beside_their_figure_where_there_is_room() -> None:
    found = load(loaded())
    mean = rows(found)[0].cells[0]
    assert mean.line in shown(found, 140)
    assert mean.line not in shown(found, 60)
    assert "[95% interval]" in shown(found, 140)


def test_a_load_without_intervals_or_limits_says_what_it_has() -> None:
    figures = metrics(100.0, 0.5)
    result = LoadResult(ClosedLoop(5), 0.0, 60.0, ())
    said = shown(Found("5 users", result, figures, examine(result, figures), None, ()), bounds=())
    assert "5 users: 100 tokens/s in a window of 60 s, 100.0% of 400 requests ok\n" in said
    assert re.search(r"TTFT, ms +500 +500 +500 +500\n", said)
    assert "interval" not in said
    assert "limit" not in said
    assert re.search(r"client +0 connections opened", said)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_load_of_which_nothing_is_known_is_shown(width: int) -> None:
    said = shown(load((), "5 users"), width)
    assert re.search(r"TTFT, s +– +– +– +–\n", said)
    assert "0.0% of 0 requests ok" in " ".join(said.split())
    assert "TTFT p95 at most 2 s: holds (0 requests are too few for the figure itself)" in " ".join(said.split())
    assert "of no request is it known whether it met them" in said
    assert "queue" not in said
    assert "█" not in said


def test_what_became_of_requests_that_have_no_answer_is_said() -> None:
    ended = loaded(60)
    broken = [replace(one, outcome=Outcome.TIMEOUT, first_content_at=None, chunk_times=()) for one in ended[:3]]
    said = shown(load([*broken, replace(ended[3], outcome=Outcome.CUT_OFF), *ended[4:]]))
    assert "94.9% of 60 requests ok, 3 timeout, 1 cut off" in said
    assert "and 3 without a text after" in said


def test_a_model_that_thinks_has_a_row_for_its_answer() -> None:
    assert [row.label for row in rows(load(loaded()))] == [
        "TTFT, ms",
        "  queue, ms",
        "  load, ms",
        "  prefill, ms",
        "  rest, ms",
        "TPOT, ms",
        "end to end, s",
    ]
    assert "TTFT to the answer, s" in [row.label for row in rows(load(loaded(thought_s=0.5)))]


def test_a_server_that_tells_no_times_has_no_split_of_the_ttft() -> None:
    found = load(loaded(total_duration_s=None, load_duration_s=None))
    assert [row.label for row in rows(found)] == ["TTFT, ms", "TPOT, ms", "end to end, s"]


@pytest.mark.parametrize(("around", "there"), [((-0.2, -0.1), True), ((0.1, 0.2), True), ((-0.1, 0.2), False)])
def test_drift_is_told_where_it_is_sure(around: Range, there: bool) -> None:
    found = load(loaded())
    found = replace(found, metrics=replace(found.metrics, drift=sum(around) / 2, drift_range=around))
    assert ("the output rate changed by" in shown(found)) == there


@pytest.mark.parametrize(
    ("health", "open_loop", "said"),
    [
        (
            HEALTH,
            False,
            (
                "1 process, 3.1% of a core, event loop at most 1.1 ms late (p99), first texts read after 0.1 ms (p99),"
                " 0 connections opened"
            ),
        ),
        (
            replace(HEALTH, processes=2, receive_lag_s=None, connected=3),
            True,
            (
                "2 processes, at most 3.1% of a core, event loop at most 1.1 ms late (p99), requests left at most"
                " 0.4 ms late (p99), 3 connections opened"
            ),
        ),
        (
            replace(HEALTH, processes=0, loop_lag_s=None, cpu=None, receive_lag_s=None),
            False,
            "0 connections opened",
        ),
    ],
)
def test_the_health_of_the_client_is_a_sentence(health: Health, open_loop: bool, said: str) -> None:
    assert client(health, open_loop=open_loop) == said


# instances


def test_one_instance_has_no_table() -> None:
    found = load(loaded(500, ("127.0.0.1:9000",)))
    assert len(found.metrics.instances) == 1
    assert list(instance_rows(found.metrics.instances)) == []
    assert "127.0.0.1" not in shown(found)


@pytest.mark.parametrize("width", WIDTHS)
def test_many_instances_have_a_row_each_and_the_slow_one_is_named(width: int) -> None:
    names = [f"10.0.0.12:{9000 + number}" for number in range(12)]
    records = [
        replace(one, chunk_times=tuple(one.chunk_times[0] + 0.08 * token for token in range(20)))
        if one.upstream == names[3]
        else one
        for one in loaded(500, names)
    ]
    one = load(records)
    said = shown(replace(one, cautions=tuple(doubts(one.loaded, one.metrics, one.health))), width)
    found = [line for line in said.splitlines() if line.startswith("10.0.0.12:")]
    assert [line.split()[0] for line in found] == names
    plain = " ".join(said.split())
    assert f"instance {names[3]} takes 1.60 times as long for a token as the others: look at its device" in plain
    assert plain.count("times as long for a token as the others") == 1
    assert said.count(names[3]) == 2
    assert all(len(line) <= width for line in said.splitlines())


# histogram


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=50))
def test_every_value_is_in_one_bin(values: list[float]) -> None:
    found = bins(values)
    assert sum(one.count for one in found) == len(values)
    if len(found) == 1:
        assert max(values) - min(values) <= 1e-6 * max(values)
        return
    assert 10 <= len(found) <= MOST_ROWS
    assert all(one.high == other.low for one, other in pairwise(found))
    for one in found:
        inside = sum(one.low <= value < one.high for value in values)
        assert one.count == inside


@given(st.lists(st.floats(1e-3, 1e3), min_size=20, max_size=60), st.integers(40, 140), st.floats(1e-3, 1e3))
def test_a_histogram_fits(values: list[float], width: int, limit: float) -> None:
    lines = drawn(values, width, {"p95": limit})
    assert len(lines) == len(bins(values)) + 1
    assert all(len(line) <= width for line in lines)
    counts = [int(line.plain.split()[-1]) for line in lines if "█" in line.plain or line.plain[-3:-2] in "▏▎▍▌▋▊▉"]
    assert sum(counts) <= len(values)


def test_ends_of_bins_are_round() -> None:
    values = [0.7 + 0.01 * number for number in range(60)]
    names = [line.plain.split()[0] for line in drawn(values, 80, {})]
    assert names[:2] == ["700–750", "750–800"]
    assert len(names) == 12


def test_a_long_tail_is_seen_in_logarithmic_rows() -> None:
    even, tailed = [1 + 0.01 * number for number in range(100)], [0.1 + 0.001 * number for number in range(97)]
    tailed += [3.0, 5.0, 8.0]
    assert not logarithmic(even)
    assert logarithmic(tailed)
    ratios = [one.high / one.low for one in bins(tailed)]
    assert 1.4 < min(ratios) < max(ratios) < 1.6
    assert titled(tailed, 80, {}, ())[0].plain == "TTFT, ms, of 100 requests, rows logarithmic"


@pytest.mark.parametrize(("limit", "place"), [(0.5, 0), (1.2, 4), (1.22, 5), (9.0, 12)])
def test_the_limit_is_where_it_lies(limit: float, place: int) -> None:
    values = [1 + 0.006 * number for number in range(100)]
    lines = drawn(values, 80, {"p95": limit})
    marks = [number for number, line in enumerate(lines) if "limit p95" in line.plain]
    assert marks == [place]
    assert [one.plain.endswith(f"limit p95 {limit:g} s") for one in lines].count(True) == 1
    over = [any(span.style == "red" for span in line.spans) for line in lines if "limit" not in line.plain]
    assert over == [False] * place + [True] * (12 - place)


def test_few_values_make_no_histogram_and_equal_ones_one_row() -> None:
    assert titled([], 80, {}, ()) == []
    assert titled([0.5] * 19, 80, {}, ()) == []
    _, row = titled([0.5] * 20, 80, {}, ())
    assert row.plain.split() == ["500", "█" * 60, "20"]


def test_only_requests_of_the_window_are_drawn() -> None:
    cold = record(0, 30.0, load_duration_s=20.0)
    found = load([cold, *loaded(500)[1:]], window_s=20.0)
    assert "TTFT, ms, of 199 requests" in shown(found)


def test_an_open_loop_counts_from_the_intended_time() -> None:
    records = tuple(replace(one, intended_at=one.intended_at - 5.0) for one in loaded(100))
    result = LoadResult(OpenLoop(10.0), -5.0, 50.0, records)
    figures = measure(records, window_start=-5.0, window_end=50.0, open_loop=True)
    said = shown(Found("10 requests/s", result, figures, HEALTH, None, ()))
    assert "TTFT, s, of 100 requests" in said
    assert "requests left at most 0.4 ms late (p99)" in said


# through a proxy and without it


@pytest.mark.parametrize("width", WIDTHS)
def test_what_a_proxy_costs(width: int) -> None:
    records = loaded()
    late = [record(one.index, (one.first_content_at or 0.0) - (one.written_at or 0.0) + 0.2) for one in records]
    on = screen(width)
    with view.Bench(on) as bench:
        bench.level(load(late, "20 users via"))
        bench.level(load(records, "20 users direct"))
        bench.level(load(records, "40 users via"))
    said = text(on)
    _, title, table = said.partition("20 users: what the proxy costs")
    assert title
    plain = " ".join(table.split())
    assert "direct via change difference TTFT mean, ms" in plain
    assert re.search(r"TTFT p95, m?s [\d.]+ [\d.]+ \+[\d.]+% \+[\d.]+ \[[-+\d.]+, \+[\d.]+\] ", plain)
    assert plain.count("worse") >= 2
    assert "40 users: what" not in said
    assert all(len(line) <= width for line in said.splitlines())


def test_a_proxy_is_held_against_the_instances_themselves() -> None:
    found = [load((), label) for label in ("5 users via", "5 users direct", "9 users", "7 users direct")]
    assert [label for label, _, _ in routes(found)] == ["5 users"]
    assert [(one.label, one.difference.line, one.verdict) for one in of_a_proxy(metrics(), metrics())] == [
        ("TTFT mean, ms", "–", "–"),
        ("TTFT p50, ms", "–", "–"),
        ("TTFT p95, ms", "–", "–"),
        ("output TPS", "–", "–"),
    ]


# compare


def sample(value: float, spread: float = 0.05) -> Summary:
    """With intervals of all statistics."""
    ends = (value - spread, value + spread)
    return replace(summary(value), intervals=dict.fromkeys(("mean", "p50", "p90", "p95", "p99"), ends))


def figures(tps: float = 100.0, ttft_s: float = 0.5, **more: Any) -> Metrics:
    """Those of a load, with intervals of TTFT and TPS."""
    one = metrics(tps, ttft_s)
    return replace(one, ttft_s=sample(ttft_s), output_tps_range=(tps - 5, tps + 5), **more)


def test_a_comparison_says_what_is_better_worse_or_alike() -> None:
    found = {one.label: one for one in contrasts(figures(), figures(150.0, 0.7, e2e_s=summary(2.0)))}
    assert found["output TPS"].verdict == "better"
    assert found["output TPS"].difference.line == "+50.0 [+42.9, +57.1]"
    assert (found["output TPS"].before, found["output TPS"].after) == ("100", "150")
    assert found["TTFT p95, ms"].verdict == "worse"
    assert found["TTFT p95, ms"].change == "+40.0%"
    assert found["success rate, %"].verdict == "not distinguishable"
    assert (found["end to end p50, s"].verdict, found["end to end p50, s"].change) == ("–", "-33.3%")


def test_what_says_nothing_is_not_compared() -> None:
    few = figures(tpot_s=summary(0.05, 100), queue_s=Summary())
    labels = [one.label for one in contrasts(few, few)]
    assert "TPOT p95, ms" in labels
    assert "TPOT p99, ms" not in labels
    assert not any(label.startswith(("queue", "input tokens", "in flight", "chunk gap")) for label in labels)
    longer = replace(few, output_tokens=300.0, in_flight=5.01)
    assert "output tokens" in [one.label for one in contrasts(few, longer)]
    assert "in flight" not in [one.label for one in contrasts(few, longer)]


def test_a_result_is_not_distinguishable_from_itself() -> None:
    found = contrasts(figures(), figures())
    assert {one.verdict for one in found} == {"not distinguishable", "–"}
    assert {one.change for one in found} == {"0%"}


@pytest.mark.parametrize("width", WIDTHS)
def test_a_comparison_fits_and_no_number_is_broken(width: int) -> None:
    on = screen(width)
    before, after = figures(12345.6, 123.4), figures(9.1, 0.012)
    view.contrasted(on, {"20 requests/s": before, "x": before}, {"20 requests/s": after, "y": after})
    said = words(on)
    assert said.startswith("20 requests/s before after change difference output TPS")
    assert " ".join(ONE_WINDOW.split()) in said
    assert all(len(line) <= width for line in text(on).splitlines())
    for one in contrasts(before, after):
        for piece in (one.before, one.after, one.change, one.difference.line, one.verdict):
            assert piece in said


def test_better_is_green_and_worse_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    on = screen(terminal=True)
    view.contrasted(on, {"5 users": figures()}, {"5 users": figures(150.0, 0.7)})
    assert "\x1b[32mbetter\x1b[0m" in text(on)
    assert "\x1b[31mworse\x1b[0m" in text(on)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = screen(terminal=True)
    view.contrasted(plain, {"5 users": figures()}, {"5 users": figures(150.0, 0.7)})
    assert not COLOUR.search(text(plain))
    assert words(plain) == words(on)


def kept(path: Path, one: Metrics, **more: Any) -> Path:
    """A result file of bench."""
    path.write_text(json.dumps({"format": FORMAT, "levels": {"5 users": one.to_dict()}, **more}))
    return path


def test_compare_gives_verdicts_below_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = kept(tmp_path / "a.json", figures()), kept(tmp_path / "b.json", figures(150.0), complete=True)
    assert main(["compare", str(before), str(after)]) == 0
    out = capsys.readouterr().out
    table, _, below = out.partition("\n5 users\n")
    assert "│ 5 users │" in table
    assert re.search(r"output TPS +100 +150 +\+50\.0% +\+50\.0 \[\+42\.9, \+57\.1\] +better\n", below)
    assert below.endswith(f"{ONE_WINDOW}\n")
    assert "caution" not in out


def test_compare_reads_files_without_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def old(name: str, one: Metrics) -> Path:
        plain = one.to_dict()
        for sample in ("ttft_s", "tpot_s", "chunk_gap_s", "e2e_s", "send_lag_s", "queue_s"):
            del plain[sample]["intervals"]
        for name_ in ("output_tps_range", "drift", "drift_range", "first_answer_s", "load_s", "prefill_s", "rest_s"):
            del plain[name_]
        path = tmp_path / name
        path.write_text(json.dumps({"format": 1, "levels": {"5 users": plain}}))
        return path

    assert main(["compare", str(old("a.json", metrics())), str(old("b.json", metrics(150.0)))]) == 0
    assert re.search(r"output TPS +100 +150 +\+50\.0% +– +–\n", capsys.readouterr().out)


def test_compare_names_results_that_are_not_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = kept(tmp_path / "good.json", figures(), complete=True, valid={"5 users": True})
    bad = kept(tmp_path / "bad.json", figures(), complete=False, valid={"5 users": False})
    assert main(["compare", str(good), str(bad)]) == 0
    cautions = [line for line in capsys.readouterr().out.splitlines() if line.startswith("caution: ")]
    assert cautions == [
        f"caution: {bad}: it was broken off: not all of its loads were made",
        f"caution: {bad}: 5 users: the client was too slow, or nothing was answered: do not use it",
    ]
    damaged = kept(tmp_path / "damaged.json", figures(), valid=3)
    assert main(["compare", str(good), str(damaged)]) == 2
    assert "damaged.json: not a result file" in capsys.readouterr().err


# while it goes on, and where it is shown


def test_the_moving_line_says_as_much_as_there_is_room_for() -> None:
    whole = "5 users: window 12 of 60 s, 158.2 tokens/s, TTFT 0.75 s, 42 requests done"
    assert going("5 users", PROGRESS, 80) == whole
    assert going("5 users", PROGRESS, 60) == whole.removesuffix(", 42 requests done")
    assert going("5 users", PROGRESS, 20) == "5 users: window 12 o"
    assert going("5 users", replace(PROGRESS, stage="drain"), 80) == "5 users: drain 12 of 60 s, 42 requests done"


def test_until_something_comes_the_model_may_have_to_be_loaded() -> None:
    waits = "waiting for the first answer: the model may have to be loaded"
    for view_of in (view.Bench, view.Steps):
        on = screen(terminal=True)
        with view_of(on):
            pass
        assert waits in words(on)
    on = screen(terminal=True)
    with view.Bench(on) as bench:
        bench.level(load(loaded(20)))
    assert (words(on).count(waits), "opening connections" in words(on)) == (1, True)


def test_a_terminal_is_drawn_four_times_a_second_at_most_and_a_log_never() -> None:
    clock = Clock()
    for terminal, most in ((True, 5), (False, 0)):
        on = screen(terminal=terminal)
        with view.Bench(on, clock=clock) as bench:
            for tick in range(101):
                clock.now_s += 0.01
                bench.progress(f"{tick} users", PROGRESS)
        assert text(on).count("users: window 12 of 60 s") <= most + terminal  # the last one once more, as it is erased
        assert bool(text(on)) == terminal


def test_a_terminal_that_is_gone_ends_no_load() -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError("gone")

    on = Console(file=Gone(), width=80, force_terminal=True)
    bench = view.Bench(on)
    bench.progress("5 users", PROGRESS)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_letters_that_a_terminal_has_not_end_no_load(encoding: str) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    on = Console(file=file, width=80, force_terminal=True)
    with view.Bench(on, BOUNDS) as bench:
        bench.progress("5 users", replace(PROGRESS, ttft_s=None))
        bench.level(load(loaded(500, ("a:1", "b:1"))))
    view.contrasted(on, {"5 users": figures()}, {"5 users": metrics()})
    file.flush()
    assert isinstance(file.buffer, io.BytesIO)
    said = ANSI.sub("", file.buffer.getvalue().decode(encoding))
    assert re.search(r" 800-1000 #+\.? \d+", said)
    assert "TTFT -" in said


def test_a_log_has_no_control_sequences() -> None:
    said = screen(140)
    with view.Bench(said, BOUNDS) as bench:
        bench.progress("20 users", PROGRESS)
        bench.level(load(loaded()))
    assert "\x1b" not in text(said)
    assert "window 12 of" not in text(said)
