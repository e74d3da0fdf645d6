"""What a person sees: live, in a log, and in the morning; on a narrow terminal, and without colours."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autotune import console as view
from autotune import report
from autotune.belief import Prior
from autotune.bench import Found
from autotune.benchmark.pacer import ClosedLoop
from autotune.benchmark.phases import LoadResult, Progress
from autotune.console import SIMULATED, comparison, configuration, morning, outlook, span, verdict
from autotune.console.live import REFRESH_S
from autotune.earlier import Earlier, Warmth
from autotune.errors import DeviceBusy, Interrupted, PortTaken
from autotune.ground import Ground
from autotune.health import examine
from autotune.inventory import Inventory
from autotune.night import Ending
from autotune.ollama.api import ServerFacts
from autotune.score import Score
from autotune.space import build
from autotune.standing import standings
from tests.conftest import TINY, gpus, study
from tests.factories import BASELINE, SPEC, metrics, params, result, space
from tests.screens import ANSI, COLOUR, Clock, screen, text, words

if TYPE_CHECKING:
    from rich.console import Console

    from autotune.metrics import Metrics
    from autotune.result import TrialResult
    from autotune.spec import StudySpec

WIDTHS = (60, 140)
REAL = SPEC.model_copy(update={"cluster": SPEC.cluster.model_copy(update={"driver": "process"})})
FASTER = params(4, "0 | 1", policy="least_conn")
BASE = result(0, tps=100.0)
BEST = result(1, FASTER, tps=161.7, ttft_s=0.9)
LATE = result(2, params(8, "0x2 | 1x2", policy="random_two", threads=8), tps=500.0, ttft_s=4.5)
BROKEN = result(3, params(16), reason="load_failed")
PROGRESS = Progress("window", 12.3, 60.0, 42, 158.25, 0.75)
STORY: list[dict[str, Any]] = [
    {"what": "swept", "process": "pid 7 (ollama)"},
    {"what": "trial begins", "number": 0, "params": BASELINE},
    {"what": "fault", "error": PortTaken("port 9000 is taken"), "left": 2},
    {"what": "start begins", "number": 0},
    {"what": "start", "number": 0, "seconds": 3.0},
    {"what": "preload begins", "number": 0},
    {"what": "progress", "label": "2 users", "progress": PROGRESS},
    {"what": "level", "label": "2 users", "metrics": metrics(100.0)},
    {"what": "result", "result": BASE, "left_s": 120.0},
    {"what": "trial begins", "number": 1, "params": FASTER},
    {"what": "single"},
    {"what": "result", "result": replace(BEST, cautions=("2 users: [/odd] the client was busy",)), "left_s": 60.0},
    {"what": "trial begins", "number": 2, "params": params(16)},
    {"what": "retry", "result": BROKEN},
    {"what": "result", "result": BROKEN, "left_s": None},
    {"what": "something else"},
]


def told(spec: StudySpec, on: Console, story: list[dict[str, Any]], earlier: tuple[TrialResult, ...] = ()) -> str:
    clock = Clock()
    with view.Night(spec, on, earlier, clock) as night:
        for event in story:
            night(event)
            clock.now_s += REFRESH_S
    return words(on)


def dawn(*results: TrialResult, why: str = "7 trials are done", width: int = 140, **more: Any) -> str:
    """The last words of a night."""
    on, spec = screen(width), more.pop("spec", SPEC)
    spent = more.pop("spent", {"night": 3725.0, "measured": 2980.0, "own": 0.5})
    file, source = more.pop("file", Path("nights/study.toml")), more.pop("source", "[study]")
    ending = Ending(why, results, **more)
    found = report.findings(spec, results, ending.proof, ending.unproved)
    morning(on, found, spent, ending, file, source)
    return words(on)


# pieces


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "?"),
        (0, "0 s"),
        (12.4, "12 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (3900, "1 h 05 min"),
        (10 * 3600, "10 h 00 min"),
    ],
)
def test_a_length_of_time(seconds: float | None, said: str) -> None:
    assert span(seconds) == said


def test_a_configuration_leaves_out_what_is_usual() -> None:
    assert configuration(BASELINE) == "0  NUM_PARALLEL 1"
    assert configuration(FASTER) == "0 | 1  NUM_PARALLEL 4, least_conn"
    odd = {**FASTER, "flash_attention": "on", "kv_cache_type": "q8_0", "threads": 4, "env:OLLAMA_X": "1"}
    assert configuration(odd).endswith("least_conn, flash_attention=on, kv_cache_type=q8_0, threads=4, OLLAMA_X=1")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (BASE, "feasible"),
        (LATE, "misses ttft_s mean at 2 users (2.2 times the limit)"),
        (result(ttft_s=3.0), "misses ttft_s mean at 2 users (50% over)"),
        (result(ttft_s=None), "not known to meet ttft_s mean at 2 users"),
        (BROKEN, "infeasible (load_failed): it was told to: load_failed"),
        (
            result(score=Score(9.0, {"success rate at 2 users": 0.19, "e2e_s p95 at 2 users": -0.1})),
            "misses success rate at 2 users (19.0 percentage points too low)",
        ),
    ],
)
def test_a_verdict(found: TrialResult, said: str) -> None:
    assert verdict(found) == said


# while it goes on


def test_a_log_has_a_line_for_all_that_happens() -> None:
    said = told(SPEC, screen(), STORY)
    for line in (
        "ended what an earlier run left behind: pid 7 (ollama)",
        "baseline: 0 NUM_PARALLEL 1",
        "fault of the machine, not of the configuration: port 9000 is taken; the trial is tried again",
        "2 users: 100.0 tokens/s, TTFT mean 0.50 s p50 0.50 s p95 0.50 s, 100% of 400 ok",
        "feasible (1 min 00 s)",
        "best so far 100.0 tokens/s (the baseline): 0 NUM_PARALLEL 1; 1 of 1 trials, search ends in about 2 min 00 s",
        "trial 1: 0 | 1 NUM_PARALLEL 4, least_conn",
        "Ollama serves this model with one slot whatever it is told",
        "caution: 2 users: [/odd] the client was busy",
        "best so far 161.7 tokens/s (+62% against the baseline): 0 | 1 NUM_PARALLEL 4, least_conn",
        "the baseline did not run: it was told to: load_failed; it is tried once more",
        "infeasible (load_failed)",
    ):
        assert line in said
    assert "158.2" not in said  # what moves belongs on a terminal


def test_a_log_says_what_a_trial_is_expected_to_measure() -> None:
    limits = {"ttft_s mean at 2 users": {"value": 0.85432, "low": 0.6, "high": 1.2}}
    figures = {"tps": 512.34, "low": 480.0, "high": 546.0, "limits": limits}
    event = {"what": "foretold", "number": 1, **figures, "holds": 0.93, "starts": 0.99, "trust": "the law holds"}
    said = told(SPEC, screen(), [event])
    assert (
        "expected: 512.3 (480 to 546) tokens/s, ttft_s mean at 2 users 0.8543 (0.6 to 1.2) s,"
        " 93% likely within the limits; the law holds"
    ) in said


def test_a_line_of_a_log_has_the_time_and_is_never_broken() -> None:
    on = screen(60)
    told(SPEC, on, STORY)
    lines = text(on).splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    assert max(map(len, lines)) > 60
    assert "\x1b" not in text(on)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_terminal_shows_what_goes_on_now(width: int) -> None:
    said = told(SPEC, screen(width, terminal=True), STORY[:7])
    for piece in (
        "test: tiny",
        "baseline: 0 NUM_PARALLEL 1",
        "2 users: window, 42 requests",
        "12 of 60 s",
        "158.2 tokens/s",
        "0.75 s limit 2 s",
        "loading the model",
        "restarting what differs",
        "nothing measured yet",
        "0 of 1 trials; 0 s so far",
    ):
        assert piece in said
    said = told(SPEC, screen(width, terminal=True), STORY)
    assert "best so far 161.7 tokens/s (+62% against the baseline)" in said


@pytest.mark.parametrize("width", WIDTHS)
def test_the_moving_part_never_is_wider_than_the_terminal(width: int) -> None:
    on = screen(width, terminal=True)
    with view.Night(SPEC, on) as night:
        for event in STORY:
            night(event)
    on.file = io.StringIO()
    on.print(night.frame())
    lines = ANSI.sub("", text(on)).splitlines()
    assert SIMULATED in "".join(lines[:2])
    assert all(len(line) <= width for line in lines)


def test_colours_are_left_out_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = screen(terminal=True)
    told(SPEC, coloured, STORY)
    assert COLOUR.search(text(coloured))
    monkeypatch.setenv("NO_COLOR", "1")
    plain = screen(terminal=True)
    assert "best so far 161.7 tokens/s" in told(SPEC, plain, STORY)
    assert not COLOUR.search(text(plain))


def test_a_study_that_goes_on_is_held_against_its_own_baseline() -> None:
    said = told(SPEC, screen(), STORY[9:12], earlier=(BASE,))
    assert "best so far 161.7 tokens/s (+62% against the baseline)" in said
    assert "2 of 1 trials" in said


def test_nothing_feasible_is_said_as_long_as_it_is_so() -> None:
    said = told(SPEC, screen(), [{"what": "result", "result": LATE, "left_s": None}])
    assert "nothing feasible so far; 1 of 1 trials" in said


# a played host


def test_every_output_of_a_played_host_says_so() -> None:
    for spec, times in ((SPEC, 1), (REAL, 0)):
        assert told(spec, screen(), STORY).count(SIMULATED) == times
        assert (SIMULATED in told(spec, screen(terminal=True), STORY)) == bool(times)
        assert dawn(BASE, spec=spec).count(SIMULATED) == times
        assert dawn(spec=spec).count(SIMULATED) == times
        assert planned(spec, 140).count(SIMULATED) == times


def test_a_clock_that_runs_faster_makes_a_played_host() -> None:
    fast = REAL.model_copy(update={"cluster": REAL.cluster.model_copy(update={"time_scale": 10})})
    assert SIMULATED in dawn(BASE, spec=fast)


# what would be run


def planned(spec: StudySpec, width: int, **search: Any) -> str:
    on = screen(width)
    here = space(**search)
    outlook(on, Ground(spec, gpus(), ServerFacts("0.32.15", TINY), Path("/models"), Path("/home"), here, BASELINE))
    return words(on)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_plan_shows_devices_space_and_time(width: int) -> None:
    said = planned(SPEC, width)
    for piece in (
        "Devices of played",
        "Small GPU",
        "4.0 GiB",
        "Ollama 0.32.15, tiny (0.8 GiB)",
        "Baseline: 0 NUM_PARALLEL 1",
        "Space: 9 configurations, 9 up to symmetry, 9 that may fit the memory",
        "num_parallel (3): 2, 4, 8",
        "Estimated time: 2 min 10 s a trial, 2 min 10 s for 1 trials, 34 min 40 s to 3 h 28 min for the proof,",
        "with windows of 60 s, which may need 300 s; the budget is at most 1 trials",
    ):
        assert piece in said
    assert "GPU-5a110001-0000-4000-8000-000000000001" in said.replace(" ", "").replace("GPU-", "GPU-") or width == 60


def test_a_plan_says_how_much_of_the_space_will_fit_the_memory() -> None:
    assert "memory as it is foreseen: all of these fit" in planned(SPEC, 140)
    said = planned(SPEC, 140, num_parallel=(2, 4096))
    assert "memory as it is foreseen: 50% of these fit, 0% may, 50% hardly do; none is left out for that" in said
    kept = SPEC.model_copy(update={"cluster": SPEC.cluster.model_copy(update={"vram_free_gib": 3.5})})
    assert "0% of these fit" in (said := planned(kept, 140, vram_free_bytes=int(3.5 * 2**30)))
    assert said.count("the baseline hardly fits") == 1
    assert "the baseline hardly fits" not in planned(SPEC, 140)


def test_a_plan_says_how_fast_answers_must_come_for_its_limits_to_be_known() -> None:
    limits = [{"metric": "ttft_s", "statistic": "p99", "max": 2.0}]
    spec = study(objective={"limits": limits}, workload={"levels": [4, 20], "window_max_s": 240})
    said = planned(spec, 200)
    assert (
        "Limits and goals at 20 users need 368 requests: they come within workload.window_max_s, 240 s, where an answer"
        in said
    )
    assert "takes at most 13 s in the mean" in said
    assert "Limits and goals at 4 users" not in said


WARMTH = Warmth(
    (Earlier("/studies/monday", 18, 0.444, ("driver 1 → 2", "there the law holds")), Earlier("/studies/old", 3, 0.1)),
    ("odd: damaged (not an [/object])",),
    Prior(first=(FASTER,)),
)


def test_a_plan_tells_the_earlier_studies_it_begins_with_and_those_it_does_not() -> None:
    on = screen(200)
    ground = Ground(SPEC, gpus(), ServerFacts("0.32.15", TINY), Path("/models"), Path("/home"), space(), BASELINE)
    outlook(on, ground, WARMTH)
    said = words(on)
    assert (
        "Warm start: monday (18 trials, counts 44%: driver 1 → 2, there the law holds); old (3 trials, counts 10%)"
        in said
    )
    assert "tried first: 0 | 1 NUM_PARALLEL 4, least_conn" in said
    assert "earlier study not used: odd: damaged (not an [/object])" in said
    outlook(on, ground, Warmth(left=tuple(f"s{number}: of another host" for number in range(20))))
    said = words(on)
    assert said.count("earlier study not used") == 1 + 12
    assert "nor are 8 more" in said
    assert "Warm start" not in planned(SPEC, 200)


def test_a_night_says_at_its_start_what_it_begins_with() -> None:
    said = told(SPEC, screen(200), [{"what": "warm start", "warmth": WARMTH}])
    assert "warm start: monday (18 trials, counts 44%: " in said
    assert "earlier study not used: odd: damaged (not an [/object])" in said
    assert "warm start" not in told(SPEC, screen(200), [{"what": "warm start", "warmth": Warmth()}])


def test_a_plan_says_why_each_parameter_is_there_and_what_is_of_which_kind() -> None:
    on, mixed = screen(200), Inventory("host", tuple(replace(gpus(3).devices[n], kind="AAB"[n]) for n in range(3)))
    values: dict[str, Any] = {"num_parallel": (2, 4), "weights": ("equal", "slots"), "policies": ("least_conn",)}
    here = build(mixed, TINY, num_ctx=1024, **values)
    outlook(on, Ground(SPEC, mixed, ServerFacts("0.32.15", TINY), Path("/models"), Path("/home"), here, BASELINE))
    said = words(on)
    assert "kind" in said
    assert f"Space: {here.before_symmetry:,} configurations, {here.after_symmetry:,} up to symmetry" in said
    for one in here.dimensions:
        assert f"{one.name} ({one.count}): {', '.join(map(str, one.values[:6]))}" in said
        assert one.why in said
    assert "num_parallel@B (2): 2, 4 – the same of instances on B" in said
    assert "weights (2): equal, slots" in said


def test_a_plan_says_which_spans_are_for_larger_hosts() -> None:
    search = SPEC.search.model_copy(update={"devices_per_instance": (1, 2, 9)})
    asked = SPEC.model_copy(update={"search": search})
    assert "left out: search.devices_per_instance 9: more than this host's 2" in planned(asked, 140)
    assert "left out" not in planned(SPEC, 140)
    named = search.model_copy(update={"layouts": ("0",)})
    assert "left out" not in planned(SPEC.model_copy(update={"search": named}), 140)


def test_a_plan_of_a_large_host_shows_some_of_its_layouts_and_reasons() -> None:
    on = screen(200)
    many = Inventory("host", tuple(replace(card, kind="ABCD"[n // 4]) for n, card in enumerate(gpus(16).devices)))
    here = build(many, TINY, num_ctx=8192, num_parallel=(2, 64, 128), copies=(1, 2, 3, 4))
    outlook(on, Ground(SPEC, many, ServerFacts("0.32.15", TINY), Path("/models"), Path("/home"), here, BASELINE))
    said = words(on)
    assert not here.choices["layout"]
    assert f"layout ({here.family.count:,}): 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | " in said
    assert said.count("left out: ") == 12
    assert f"left out for {len(here.reasons) - 12} more reasons of the same kind" in said


def test_a_plan_leaves_the_end_of_a_long_list_out() -> None:
    assert "num_parallel (20): 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, …" in planned(
        SPEC, 140, num_parallel=tuple(range(1, 21))
    )


# the morning


def test_a_winner() -> None:
    said = dawn(BASE, BEST, LATE)
    assert "Ended: 7 trials are done." in said
    assert (
        "Best: 0 | 1 NUM_PARALLEL 4, least_conn: 161.7 tokens/s (+62% against the baseline)."
        " This is one measurement, not yet a proof." in said
    )
    assert "The best of the search against the baseline, one run each: 0 | 1 NUM_PARALLEL 4, least_conn" in said
    assert "1 h 02 min, of which 80% was measurement; autotune itself took at most 0.50 s between two trials" in said
    assert "Results are in nights/test; look at them with: optuna-dashboard sqlite:///nights/test/optuna.db" in said


def test_a_winner_that_was_measured_more_than_once() -> None:
    said = dawn(BASE, BEST, replace(BEST, number=2))
    assert "161.7 tokens/s (+62% against the baseline). This is the mean of 2 measurements" in said


def test_a_baseline_that_is_the_best() -> None:
    said = dawn(BASE, result(1, FASTER, tps=90.0))
    assert "Best: 0 NUM_PARALLEL 1: 100.0 tokens/s (the baseline)." in said
    assert "against the baseline, " not in said


def test_a_winner_over_a_baseline_that_is_no_measure() -> None:
    assert "161.7 tokens/s (the baseline misses the limits)." in dawn(result(0, ttft_s=9.0), BEST)
    assert "161.7 tokens/s (the baseline could not be measured)." in dawn(result(0, reason="offloaded"), BEST)


def test_nothing_feasible_shows_what_came_nearest() -> None:
    said = dawn(result(0, ttft_s=9.0), LATE, BROKEN)
    assert (
        "No configuration met the limits. The nearest: 0x2 | 1x2 NUM_PARALLEL 8, random_two, threads=8:"
        " misses ttft_s mean at 2 users (2.2 times the limit)." in said
    )
    assert "not feasible: 1 trial could not be measured: load_failed, as 0 NUM_PARALLEL 16: it was told to" in said


def test_nothing_that_could_be_measured_shows_the_reason() -> None:
    said = dawn(BROKEN, replace(BROKEN, number=1, fingerprint="other"))
    assert said.count("infeasible (load_failed): it was told to: load_failed.") == 1
    assert "2 trials could not be measured: load_failed" in said


@pytest.mark.parametrize(("why", "error"), [("interrupted", Interrupted("x")), ("broken off", DeviceBusy("x"))])
def test_a_night_that_was_cut_short_says_how_to_go_on(why: str, error: Any) -> None:
    said = dawn(BASE, BEST, why=why, error=error)
    assert f"Ended: {why}. Best: 0 | 1 NUM_PARALLEL 4, least_conn: 161.7 tokens/s" in said
    again = "autotune run nights/study.toml --balancer direct"
    assert said.endswith(f"Everything was put away; results are in nights/test. Go on with: {again}")


def test_how_to_go_on_can_be_given_to_a_shell_and_names_the_balancer_that_the_file_does_not() -> None:
    cut: dict[str, Any] = {"error": Interrupted("x"), "file": Path("my nights/a $tudy.toml")}
    said = dawn(BASE, **cut, source='[cluster]\nbalancer = "direct"\n')
    assert said.endswith("results are in my nights/test. Go on with: autotune run 'my nights/a $tudy.toml'")
    nginx = study(cluster={"balancer": "nginx"})
    said = dawn(BASE, **cut, spec=nginx, source='[cluster]\nbalancer = "direct"\n')
    assert said.endswith("autotune run 'my nights/a $tudy.toml' --balancer nginx")
    assert dawn(BASE, **cut, spec=nginx).endswith("autotune run 'my nights/a $tudy.toml'")


def test_what_to_do_next_can_be_given_to_a_shell() -> None:
    said = dawn(BASE, BEST, file=Path("my nights/study.toml"))
    assert "autotune report 'my nights/test' Results" in said
    assert said.endswith("with: optuna-dashboard 'sqlite:///my nights/test/optuna.db'")


def test_a_night_without_a_trial() -> None:
    said = dawn(why="interrupted", error=Interrupted("x"), spent={"night": 0.0, "measured": 0.0, "own": 0.0})
    assert "Ended: interrupted. Nothing was measured. Everything was put away" in said


@pytest.mark.parametrize(
    ("count", "title"),
    [
        (1, "The one configuration"),
        (8, "The 8 configurations, best first"),
        (10, "The 10 configurations, best first"),
        (12, "The best 10 of 12 configurations"),
    ],
)
def test_the_ranking_says_how_many_it_shows(count: int, title: str) -> None:
    every = [result(number, params(number + 1), tps=100.0 + number) for number in range(count)]
    on = screen()
    on.print(view.ranking(report.findings(SPEC, every)))
    assert words(on).startswith(title + " ")
    assert ("(baseline)" in words(on)) == (count <= 10)
    assert text(on).count("feasible") == min(count, 10)


@pytest.mark.parametrize("width", WIDTHS)
def test_tables_fit_the_terminal_and_no_number_is_broken(width: int) -> None:
    on = screen(width)
    results = [BASE, BEST, LATE, BROKEN]
    found = report.findings(SPEC, results)
    on.print(view.ranking(found))
    on.print(view.before_after(found))
    on.print(comparison({"20 users": metrics(12345.67, 123.45)}, {"20 users": metrics(9.0)}))
    assert all(len(line) <= width for line in text(on).splitlines())
    for number in ("161.70", "100.00", "500.00", "4.50", "+62%", "12345.67", " 123 ", "-99.9%"):
        assert number in text(on)


def test_what_a_program_said_is_never_taken_for_markup() -> None:
    odd = replace(BROKEN, params=params(1, **{"env:OLLAMA_X": "[/b]"}), message="cannot open [/dev/x] [red]")
    assert "cannot open [/dev/x] [red]" in dawn(BASE, odd)
    assert "OLLAMA_X=[/b]" in dawn(replace(odd, reason="", score=BASE.score, levels=BASE.levels))
    assert "[/b]" in told(SPEC, screen(terminal=True), [{"what": "trial begins", "number": 1, "params": odd.params}])


def test_the_order_of_the_ranking_is_that_of_the_study() -> None:
    on = screen()
    on.print(view.ranking(report.findings(SPEC, [LATE, BROKEN, BASE, BEST])))
    places = [words(on).index(configuration(one.params).replace("  ", " ")) for one in standings([LATE, BASE, BEST])]
    assert places == sorted(places)


# bench


def found(label: str, figures: Metrics, *cautions: str) -> Found:
    loaded = LoadResult(ClosedLoop(5), 0.0, 60.0, ())
    return Found(label, loaded, figures, examine(loaded, figures), None, cautions)


@pytest.mark.parametrize("width", WIDTHS)
def test_bench_has_a_row_for_each_load(width: int) -> None:
    on = screen(width)
    with view.Bench(on) as bench:
        bench.progress("5 users", PROGRESS)
        bench.level(found("5 users", metrics(81.3, 0.25), "[/odd] the window has 3 requests"))
        bench.level(found("20 users", metrics(160.0, None, requests=0, success_rate=0.995)))
    said = words(on)
    assert "caution: 5 users: [/odd] the window has 3 requests" in said
    assert "┃ mean, ms ┃" in said
    assert "5 users 250 250 250 81.30 100.0% of 400" in said or width == 60
    assert "– – – 160.00" in said
    assert all(len(line) <= width for line in text(on).splitlines())


def test_the_table_of_all_loads_shows_no_percentile_of_too_few_requests_and_tells_short_times_apart() -> None:
    on = screen()
    with view.Bench(on) as bench:
        bench.level(found("1 users", metrics(81.3, 0.0512, requests=9)))
        bench.level(found("5 users", metrics(90.0, 0.0537, requests=71)))
        bench.level(found("20 users", metrics(160.0, 1.234)))
    said = words(on)
    assert "┃ mean, s ┃" in said
    assert "1 users – 0.0512 – 81.30" in said
    assert "5 users 0.0537 0.0537 – 90.00" in said
    assert "20 users 1.23 1.23 1.23 160.00" in said


def test_bench_shows_no_table_of_nothing() -> None:
    on = screen()
    with view.Bench(on):
        pass
    assert words(on) == ""


def test_bench_tells_how_a_load_goes_on_a_terminal() -> None:
    on = screen(terminal=True)
    with view.Bench(on) as bench:
        bench.progress("5 users", PROGRESS)
    assert "5 users: window 12 of 60 s, 158.2 tokens/s, TTFT 0.75 s, 42 requests done" in words(on)


def test_a_comparison_shows_the_change_of_each_figure() -> None:
    on = screen()
    on.print(comparison({"5 users": metrics(100.0, 0.5)}, {"5 users": metrics(150.0, None), "9 users": metrics()}))
    assert "5 users 500 500 500 100.00 before – – – 150.00 after – – – +50.0% change" in words(on)
    assert "9 users" not in words(on)


def test_a_comparison_shows_no_change_of_a_figure_that_too_few_requests_make() -> None:
    on = screen()
    on.print(comparison({"5 users": metrics(100.0, 0.5)}, {"5 users": metrics(150.0, 0.0512, requests=40)}))
    said = "5 users 500 500 500 100.00 before 51.2 51.2 – 150.00 after -89.8% -89.8% – +50.0% change"
    assert said in words(on)
