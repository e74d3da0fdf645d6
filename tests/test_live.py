"""The live view: what it shows of a night on large, small and colourless terminals, and how often it is drawn."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from autotune.benchmark.phases import Progress, Stage
from autotune.console.live import REFRESH_S, Night
from autotune.console.panel import lines
from autotune.console.scene import Scene
from autotune.console.spark import MOST_POINTS, Track, bars
from autotune.console.timeline import rows
from autotune.ground import Ground
from autotune.ollama.api import ServerFacts
from autotune.plan import make
from autotune.telemetry import DeviceSample
from tests.conftest import TINY, gpus, study
from tests.factories import BASELINE, LIMIT, SPEC, metrics, params, result, space
from tests.proofs import proof as decided
from tests.proofs import steady
from tests.screens import ANSI, COLOUR, Clock, screen, text, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autotune.result import TrialResult
    from autotune.spec import StudySpec

WIDTHS = (60, 80, 140)
FACTS = ServerFacts("0.32.15", TINY)
FASTER = params(4, "0 | 1", policy="least_conn")
SLOW = params(8, "0x2 | 1", policy="random_two")
BASE = result(0, tps=100.0, ttft_s=0.8)
BEST = result(1, FASTER, tps=161.7, ttft_s=0.9)
LATE = result(2, SLOW, tps=500.0, ttft_s=4.5, cautions=("2 users: the client\nwas busy: fewer users",))
BROKEN = result(3, params(16), reason="load_failed")
HOT = tuple(DeviceSample(index, 61 + index, 1500, 3 << 30, 180.4, 0.9, (), index == 1) for index in range(2))
NIGHT = SPEC.model_copy(update={"budget": SPEC.budget.model_copy(update={"trials": 8})})


def load(tps: float, ttft_s: float | None, *stages: Stage) -> Iterator[tuple[float, dict[str, Any]]]:
    """A load of two users as it is reported, four times in its second; with each event the seconds before it."""
    yield 0.0, {"what": "load begins", "label": "2 users"}
    for stage in stages or ("warm-up", "window", "drain"):
        for step in range(17):
            seen = Progress(stage, step * 0.25, 4.0, step, tps if step else 0.0, ttft_s if step > 2 else None)
            yield 0.25, {"what": "progress", "label": "2 users", "progress": seen}


def trial(came: TrialResult, **begin: Any) -> Iterator[tuple[float, dict[str, Any]]]:
    """A trial, or a run of a proof, up to its result."""
    planned = make(NIGHT, gpus(), FACTS, came.params, (Path("/models"), Path("/home")))
    yield 0.0, {"what": "trial begins", "number": came.number, "params": came.params, "plan": planned, **begin}
    for stage in ("start", "preload", "verify"):
        yield 0.0, {"what": f"{stage} begins", "number": came.number}
        yield 2.0, {"what": stage, "number": came.number, "seconds": 2.0}
    if came.measured:
        found = came.levels["2 users"]
        yield from load(found.output_tps, found.ttft_s.mean)
        yield 0.0, {"what": "level", "label": "2 users", "metrics": found}
        yield 0.0, {"what": "devices", "samples": HOT}
    yield 0.0, {"what": "collect begins", "number": came.number}
    yield 0.1, {"what": "collect", "number": came.number, "seconds": 0.1}


def search(elapsed_s: float = 0.0) -> Iterator[tuple[float, dict[str, Any]]]:
    """A night with four trials."""
    ground = Ground(NIGHT, gpus(), FACTS, Path("/models"), Path("/home"), space(), BASELINE)
    yield 0.0, {"what": "ground", "ground": ground}
    yield 0.0, {"what": "time", "elapsed_s": elapsed_s, "search_left_s": None, "total_s": None}
    for came in (BASE, BEST, LATE, BROKEN):
        yield from trial(came)
        yield 0.0, {"what": "result", "result": came, "left_s": 20.0 * (7 - came.number)}


def proof(runs: int = 5) -> Iterator[tuple[float, dict[str, Any]]]:
    """Its proof: two candidates in alternating blocks."""
    yield 0.0, {"what": "proof begins", "candidates": [BASELINE, FASTER], "pairs": 4, "pairs_max": 12}
    for number in range(runs):
        block, candidate = divmod(number, 2)
        where = {"number": number, "block": block, "candidate": candidate}
        came = (BASE, BEST)[candidate]
        yield from trial(came, what="run begins", **where)
        yield 0.0, {"what": "run", **where, "result": came, "left_s": 20.0 * (7 - number)}
    yield 0.0, {"what": "proof look", "blocks": 4, "verdict": decided(steady(100), steady(162))}


def story() -> list[tuple[float, dict[str, Any]]]:
    """A whole night."""
    return [*search(), *proof(), (0.1, {"what": "night", "seconds": 200.0})]


def seen(told: Sequence[tuple[float, dict[str, Any]]], spec: StudySpec = NIGHT) -> tuple[Scene, float]:
    """The scene after some events, and the time."""
    clock = Clock()
    scene = Scene(spec, (), clock.now_s)
    for wait_s, event in told:
        clock.now_s += wait_s
        scene.see(event, clock.now_s)
    return scene, clock.now_s


def middle(candidate: int = 1) -> tuple[Scene, float]:
    """In the window of a trial after the others, or (candidate 0) before anything was measured."""
    events = [*search()] if candidate else []
    planned = make(NIGHT, gpus(), FACTS, FASTER, (Path("/models"), Path("/home")))
    begin = {"what": "trial begins", "number": 4 * candidate, "params": FASTER, "plan": planned}
    return seen([*events, (0.0, begin), *load(150.0, 0.75, "warm-up", "window")])


def shown(scene: Scene, now_s: float, width: int = 140, height: int = 60) -> str:
    return "\n".join(line.plain for line in lines(scene, now_s, width, height))


# what it shows


@pytest.mark.parametrize("width", WIDTHS)
def test_a_trial_its_stage_and_its_figures(width: int) -> None:
    said = shown(*middle(), width)
    for piece in (
        "test: tiny",
        "SIMULATED: figures of a played host, not of this one",
        "trial 4: 0 | 1  NUM_PARALLEL 4, least_conn",
        "✓restart ✓load ✓check ✓warm-up ▶window  drain  save",
        "2 users: window, 16 requests  ━",
        "4 of 4 s",
        "150.0 tokens/s",
        "0.75 s  limit 2 s",
        "2 × Small GPU, 4 GiB",
        "cautions and faults",
        "× trial 3: infeasible (load_failed)",
        "! trial 2: 2 users: the client was busy: fewer users",
        "4 of 8 trials, search ends in about",
    ):
        assert piece in said
    assert "▇" in said  # the speed, held against the best so far


@pytest.mark.parametrize("width", WIDTHS)
def test_the_best_so_far_against_the_baseline(width: int) -> None:
    table = [line.strip("│ ") for line in shown(*middle(), width).splitlines()]
    best, base, late = (next(line for line in table if line.startswith(mark)) for mark in ("★█", "B█", "▒"))
    assert best.split()[:5] == ["★█", "161.7", "0.90", "s", "+62%"]
    assert base.split()[:4] == ["B█", "100.0", "0.80", "s"]
    assert "%" not in late
    assert any("best so far 161.7 tokens/s (+62% against the baseline)" in line for line in table)


def test_which_instance_is_on_which_device() -> None:
    scene, now_s = seen([*search(), *list(trial(LATE))[:3]])
    for width in WIDTHS:
        said = shown(scene, now_s, width)
        assert "0  ollama-0, 1 " in said
        assert "61 °C  180 W  3.0/4 GiB" in said
        assert "throttled  62 °C  180 W  3.0/4 GiB" in said
    assert "throttled  62 °C  180 W │" in shown(scene, now_s, 100)  # what matters most has room
    scene.samples = ()
    assert "8 slots" in shown(scene, now_s)


def test_devices_that_differ_are_named_and_many_are_cut_short() -> None:
    scene, now_s = middle()
    assert scene.ground is not None
    cards = gpus(20).devices
    mixed = (replace(cards[0], name="NVIDIA GeForce RTX 2080 Ti"), *cards[1:])
    scene.ground = replace(scene.ground, inventory=replace(gpus(), devices=mixed))
    said = shown(scene, now_s)
    assert "0  RTX 2080 Ti  ollama-0" in said
    assert "… and 4 more" in said


def test_a_configuration_that_is_too_slow_says_so_without_a_colour() -> None:
    scene, now_s = seen([*search(), *load(90.0, 3.25, "window")])
    assert "3.25 s  over 2 s" in shown(scene, now_s)


def test_the_drain_leaves_the_figures_of_the_window() -> None:
    said = shown(*seen([*search(), *load(90.0, 1.25, "window"), *list(load(0.0, None, "drain"))[1:]]))
    assert "2 users: drain" in said
    assert "90.0 tokens/s" in said
    assert "1.25 s  limit 2 s" in said


def test_a_limit_of_a_percentile_is_named() -> None:
    spec = study(objective={"limits": [LIMIT | {"statistic": "p95", "max": 5.0}]}, workload={"levels": [1, 2]})
    said = shown(*seen([*load(90.0, 3.25, "window")], spec))
    assert "limit p95 5 s" in said
    assert "now, load 2 of 2" in said


def test_before_anything_is_measured() -> None:
    said = shown(*middle(0))
    assert "nothing measured yet" in said
    assert "baseline: 0 | 1" in said
    assert "getting ready" in shown(*seen([]))


def test_a_stage_is_held_against_its_last_time() -> None:
    events = [*search(), (0.0, {"what": "preload begins"})]
    scene, now_s = seen(events)
    assert "loading the model  ━" in shown(scene, now_s + 1)
    assert "1 of 2 s" in shown(scene, now_s + 1)
    assert "loading the model  1 s" in shown(*seen([(0.0, {"what": "preload begins"}), (1.0, {"what": "?"})]))


def test_a_night_that_is_broken_off_says_so() -> None:
    events = [*search(), (0.0, {"what": "load", "error": "CancelledError", "seconds": 1.0})]
    assert "interrupted: everything is put away" in shown(*seen(events))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_proof(width: int) -> None:
    events = story()
    said = shown(*seen(events[:-1]), width)
    for piece in (
        "proof, block 3 of 4..12",
        "baseline: 0  NUM_PARALLEL 1",
        "proof against the baseline",
        "███·    100.0",
        f"██··    161.7   +62%  {'1: 0|1  np 4' if width == 60 else 'finalist 1: 0 | 1  NUM_PARALLEL 4'}, least_conn",
        "Winner: 0 | 1  NUM_PARALLEL 8, least_conn: 16",
        "4 trials; proof: 5 runs, ends in about 1 min 00 s",
    ):
        assert piece in said
    said = shown(*seen(events), width)
    assert "putting everything away" in said


# the time line


def bar(scene: Scene, now_s: float, width: int = 72) -> tuple[str, str]:
    first, second = rows(scene, now_s, width)
    return first.plain, second.plain


def test_the_time_line_from_begin_to_deadline() -> None:
    scene, _ = seen([(0.0, {"what": "time", "elapsed_s": 0.0, "search_left_s": 48.0, "total_s": 60.0})])
    for came in (BASE, LATE, BROKEN):
        scene.see({"what": "trial begins", "number": came.number, "params": came.params}, scene.turn_s)
        scene.see({"what": "result", "result": came, "left_s": None}, scene.turn_s + 10)
    scene.see({"what": "time", "elapsed_s": 30.0, "search_left_s": 18.0, "total_s": 60.0}, scene.turn_s)
    first, second = bar(scene, scene.turn_s + 5)
    assert first[6:-6] == f"{'█' * 9} {'▒' * 9} {'×' * 9} {'░' * 5}▶{'·' * 12}{'◇' * 12}"
    assert first[:5] == f"{scene.wall(scene.began_s):%H:%M}"
    assert first[-6:] == f" {scene.wall(scene.began_s + 60):%H:%M}"
    assert second[6:].startswith("★B        2         3              ▲ now ")


def test_the_time_line_without_a_deadline_ends_where_it_is_expected_to() -> None:
    scene, now_s = middle()
    first, _ = bar(scene, now_s)
    assert f"~{scene.wall(scene.end_s):%H:%M}" in first
    assert first.count("▶") == 1
    runs = (1 + NIGHT.proof.finalists) * NIGHT.proof.pairs
    assert scene.end_s == pytest.approx(scene.boundary_s + runs * 60.0)


def test_the_time_line_of_a_proof() -> None:
    scene, now_s = seen([*search(), *proof()])
    first, second = bar(scene, now_s, 140)
    assert "◆◆" in first
    assert "·" not in first
    assert "proof" in second


def test_a_night_without_a_proof_has_none_on_its_time_line() -> None:
    spec = study(budget={"trials": 4}, proof={"finalists": 0})
    scene, now_s = seen([*search()][:-2], spec)
    assert "◇" not in "".join(bar(scene, now_s))
    assert scene.end_s == scene.boundary_s


def test_a_night_that_outlasts_its_deadline_stays_on_its_time_line() -> None:
    late = {"what": "time", "elapsed_s": 100.0, "search_left_s": -40.0, "total_s": 60.0}
    scene, now_s = seen([*search(), (0.0, late)])
    first, _ = bar(scene, now_s)
    assert first[:-6].endswith("▶")


def test_a_host_that_was_suspended_ends_its_night_at_the_time_of_day_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = datetime(2026, 11, 20, 23, 0).astimezone()
    monkeypatch.setattr("autotune.clock.wall", lambda: begin)
    left = {"what": "time", "elapsed_s": 0.0, "search_left_s": 4 * 3600.0, "total_s": 8 * 3600.0}
    scene, now_s = seen([(0.0, left)])
    assert "(03:00)" in scene.progress(now_s)
    monkeypatch.setattr("autotune.clock.wall", lambda: begin + timedelta(hours=4))  # one of work, three of sleep
    now_s += 3600.0
    scene.see({"what": "result", "result": BASE, "left_s": 2 * 3600.0}, now_s)
    assert "ends in about 2 h 00 min (05:00)" in scene.progress(now_s)
    scene.see(left | {"elapsed_s": 3600.0, "search_left_s": 2 * 3600.0, "total_s": 5 * 3600.0}, now_s)
    first, second = bar(scene, now_s)
    assert (first[:6], first[-6:]) == ("23:00 ", " 07:00")
    assert "▲ now 03:00" in second


# sparklines


def test_a_point_is_what_happened_since_the_report_before() -> None:
    track = Track("2 users", 10.0)
    for stage, elapsed_s, tps in (("warm-up", 0.5, 0.0), ("warm-up", 1.0, 10.0), ("warm-up", 2.0, 15.0)):
        track.add(Progress(stage, elapsed_s, 5.0, 0, tps, None))  # type: ignore[arg-type]
    track.add(Progress("window", 0.1, 5.0, 0, 0.0, None))
    track.add(Progress("window", 1.1, 5.0, 0, 10.0, 0.5))
    assert [point.tps for point in track.points] == pytest.approx([20.0, 20.0, 11.0])
    assert [point.at_s for point in track.points] == pytest.approx([1.0, 2.0, 3.1])
    assert [point and round(point.tps) for point in track.columns(10)] == [None, 20, 20, 11]
    assert [point and round(point.tps) for point in track.columns(5)] == [20, 16]
    assert track.columns(0) == []


def test_a_load_that_lasts_is_thinned_out() -> None:
    track = Track("2 users", 10.0)
    for step in range(1, 5 * MOST_POINTS):
        track.add(Progress("window", step * 0.25, 5.0, step, 100.0, 0.5))
    assert len(track.points) <= MOST_POINTS
    assert track.points[-1].at_s == (5 * MOST_POINTS - 1) * 0.25
    assert len(track.columns(40)) == 40


def test_bars_go_from_nothing_to_the_top() -> None:
    assert bars([0.0, 50.0, 100.0, 130.0, None], 100.0) == "▁▅██ "
    assert bars([0.0, 1.0], 0.0) == "  "


# every terminal


@given(st.integers(0, len(story())), st.integers(1, 200), st.integers(1, 60))
def test_it_never_is_wider_or_higher_than_the_terminal(told: int, width: int, height: int) -> None:
    drawn = lines(*seen(story()[:told]), width, height)
    assert len(drawn) <= height
    assert all(cell_len(line.plain) == width for line in drawn)


def test_nothing_that_is_shown_breaks_a_line() -> None:
    odd = {"what": "trial begins", "number": 1, "params": params(1, **{"env:OLLAMA_X": "a\nb\tc\x1b[31m"})}
    drawn = lines(*seen([(0.0, odd)]), 100, 30)
    assert any("OLLAMA_X=a b c" in line.plain for line in drawn)
    assert all(line.plain.isprintable() for line in drawn)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("height", [4, 10, 24, 60])
def test_what_reaches_the_terminal_fits_it(width: int, height: int) -> None:
    on = screen(width, terminal=True, height=height)
    with Night(NIGHT, on, clock=Clock()) as night:
        for _, event in story():
            night(event)
    on.file = io.StringIO()
    on.print(night.frame())
    drawn = ANSI.sub("", text(on)).splitlines()
    assert all(len(line) <= width for line in drawn)


@pytest.mark.parametrize("width", WIDTHS)
def test_where_there_is_little_room_what_matters_stays(width: int) -> None:
    scene, now_s = middle()
    whole = shown(scene, now_s, width).splitlines()
    for height in range(len(whole), 3, -1):
        said = shown(scene, now_s, width, height).splitlines()
        assert len(said) == height
        assert any("SIMULATED" in line for line in said[:2])
        assert any("trial 4: 0 | 1" in line for line in said)
    small = shown(scene, now_s, width, 10)
    for piece in ("150.0 tokens/s", "0.75 s", "★█", "▶", "trials"):
        assert piece in small
    assert "█ feasible" not in small
    assert "✓restart" not in small


def test_it_is_read_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    on = screen(terminal=True)
    clock = Clock()
    with Night(NIGHT, on, clock=clock) as night:
        for wait_s, event in story():
            clock.now_s += max(wait_s, REFRESH_S)
            night(event)
    assert not COLOUR.search(text(on))
    for mark in (
        "█ feasible",
        "▒ misses a limit",
        "× failed",
        "B baseline",
        "★ best",
        "◆ proof",
        "over 2 s",
        "▶window",
    ):
        assert mark in words(on)


def test_a_terminal_without_such_letters_gets_others() -> None:
    raw = io.BytesIO()
    on = Console(file=io.TextIOWrapper(raw, encoding="ascii"), width=100, height=50, force_terminal=True)
    with Night(NIGHT, on, clock=Clock()) as night:
        for _, event in story():
            night(event)
        night.say("– ≤ é")
    on.file.flush()
    said = ANSI.sub("", raw.getvalue().decode("ascii"))
    assert "+- test: tiny" in said
    assert "# feasible" in said
    assert "? ? ?" in said


def test_a_terminal_that_cannot_move_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    on = screen(terminal=True)
    with Night(NIGHT, on, clock=Clock()) as night:
        for _, event in search():
            night(event)
    assert "trial 1: 0 | 1 NUM_PARALLEL 4, least_conn" in words(on)
    assert "╭" not in words(on)


# lines


def test_a_log_has_a_line_for_all_that_happens_in_a_proof() -> None:
    on = screen()
    with Night(NIGHT, on, clock=Clock()) as night:
        for _, event in story():
            night(event)
    said = words(on)
    for line in (
        "proof: baseline: 0 NUM_PARALLEL 1",
        "proof: finalist 1: 0 | 1 NUM_PARALLEL 4, least_conn",
        "proof, block 1 of 4..12: baseline: 0 NUM_PARALLEL 1",
        "proof, block 1 of 4..12: finalist 1: 0 | 1 NUM_PARALLEL 4, least_conn",
        "2 users: 161.7 tokens/s, TTFT mean 0.90 s",
        "proof, after 4 blocks: Winner: 0 | 1 NUM_PARALLEL 8, least_conn: 16",
    ):
        assert line in said
    assert "\x1b" not in text(on)


def test_what_is_said_on_a_terminal_stays_above_the_view() -> None:
    on = screen(terminal=True)
    with Night(NIGHT, on, clock=Clock()) as night:
        night({"what": "level", "label": "2 users", "metrics": metrics(100.0)})
    last = ANSI.sub("", text(on)).rstrip().splitlines()
    assert any("2 users: 100.0 tokens/s" in line for line in last)
    assert last[-1].startswith("╰")


# how often


def test_it_is_drawn_four_times_a_second_at_most() -> None:
    on, clock = screen(terminal=True), Clock()
    drawn = 0
    with Night(NIGHT, on, clock=clock) as night:
        for step in range(400):
            before = len(text(on))
            now = Progress("window", step / 32, 60.0, step, 100.0, 0.5)
            night({"what": "progress", "label": "2 users", "progress": now})
            night({"what": "level", "label": "2 users", "metrics": metrics()})
            drawn += len(text(on)) > before
            clock.now_s += 1 / 32
    assert drawn == 400 / 32 / REFRESH_S
    assert words(on).count("2 users: 100.0 tokens/s") == 400


async def test_the_last_of_several_events_is_shown_too() -> None:
    on = screen(terminal=True)
    with Night(NIGHT, on) as night:
        night({"what": "trial begins", "number": 1, "params": FASTER})
        night({"what": "preload begins"})
        assert "loading the model" not in words(on)
        await asyncio.sleep(2 * REFRESH_S)
        assert "loading the model" in words(on)


class _Gone(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


async def test_a_terminal_that_is_gone_stops_nothing() -> None:
    on = screen(terminal=True)
    with Night(NIGHT, on) as night:
        night({"what": "preload begins"})
        night({"what": "start begins"})
        on.file = _Gone()
        await asyncio.sleep(2 * REFRESH_S)
        on.file = io.StringIO()
        await asyncio.sleep(2 * REFRESH_S)
        assert text(on) == ""  # until somebody asks again


# how sure the end is, and what is left out


@pytest.mark.parametrize(
    ("error_s", "said"),
    [
        (1230.0, "search ends in about 3 h 10 min ± 20 min ("),
        (5400.0, "search ends in about 3 h 10 min ± 1 h 30 min ("),
        (75.0, "search ends in about 3 h 10 min ± 1 min 15 s ("),
        (0.0, "search ends in about 3 h 10 min ("),
        (None, "search ends in about 3 h 10 min ("),
    ],
)
def test_the_end_is_told_with_its_error(error_s: float | None, said: str) -> None:
    event = {"what": "result", "result": BASE, "left_s": 11400.0, "left_error_s": error_s}
    scene, now_s = seen([(0.0, event)])
    assert said in scene.progress(now_s)


def test_the_error_of_the_search_is_none_of_the_proof() -> None:
    event = {"what": "result", "result": BASE, "left_s": 60.0, "left_error_s": 30.0}
    begins = {"what": "proof begins", "candidates": [BASELINE, FASTER], "pairs": 4, "pairs_max": 12}
    scene, now_s = seen([(0.0, event), (0.0, begins)])
    assert "±" not in scene.progress(now_s)


def test_a_device_that_is_left_out_is_told_and_stays_in_view() -> None:
    event = {"what": "quarantine", "device": "GPU-2", "said": "device 2 (Card, GPU-2) is gone"}
    scene, now_s = seen([(0.0, event)])
    assert "left out from now on: device 2 (Card, GPU-2) is gone" in "\n".join(map(str, lines(scene, now_s, 100, 40)))
    printed = io.StringIO()
    with Night(NIGHT, Console(file=printed, width=200)) as night:
        night(event)
    assert (
        "left out from now on, and in later nights of this study: device 2 (Card, GPU-2) is gone" in printed.getvalue()
    )
