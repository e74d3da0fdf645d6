"""What a person sees: a live view on a terminal, log lines elsewhere, tables at the end. All formatting is here."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autotune.metrics import compare
from autotune.plan import GIB
from autotune.score import UNDECIDED
from autotune.study import standings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rich.console import RenderableType

    from autotune.benchmark.phases import LoadResult, Progress
    from autotune.ground import Ground
    from autotune.metrics import Metrics
    from autotune.night import Ending
    from autotune.spec import StudySpec
    from autotune.study import Standing
    from autotune.trial import TrialResult

SIMULATED = "SIMULATED: figures of a played host, not of this one"
_COMPARED = ("ttft_s.mean", "ttft_s.p50", "ttft_s.p95", "output_tps")
_MOST_VALUES = 12
_STAGES = {
    "start": "restarting what differs",
    "preload": "loading the model",
    "verify": "checking placement and slots",
    "collect": "saving",
}


def span(seconds: float | None) -> str:
    """A length of time for people: "1 h 05 min", "3 min 20 s", "12 s"."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"


def configuration(params: Mapping[str, Any]) -> str:
    """Parameters in one line, the usual ones left out."""
    usual = {"flash_attention": "auto", "kv_cache_type": "f16"}
    rest = [
        f"{name.removeprefix('env:')}={value}"
        for name, value in params.items()
        if name not in {"layout", "num_parallel", "policy"} and usual.get(name) != value
    ]
    policy = [str(params["policy"])] if "policy" in params else []
    return ", ".join([f"{params['layout']}  NUM_PARALLEL {params['num_parallel']}", *policy, *rest])


def figures(metrics: Metrics) -> str:
    """One level in one line."""
    ttft = metrics.ttft_s
    return (
        f"{metrics.output_tps:.1f} tokens/s, TTFT mean {_s(ttft.mean)} p50 {_s(ttft.p50)} p95 {_s(ttft.p95)},"
        f" {metrics.success_rate:.0%} of {metrics.requests} ok"
    )


def verdict(result: TrialResult) -> str:
    """What became of a trial, in one line."""
    if not result.measured:
        return f"infeasible ({result.reason}): {result.message}"
    missed = [f"{name} {_excess(name, value)}" for name, value in result.score.constraints.items() if value > 0]
    return f"misses {', '.join(missed)}" if missed else "feasible"


def _excess(name: str, violation: float) -> str:
    """A violation in words."""
    if name.startswith("success rate"):
        return f"({100 * violation:.1f} percentage points too low)"
    if violation == UNDECIDED:
        return "(too few requests to say)"
    return f"({violation:.0%} over)" if violation < 1 else f"({violation + 1:.1f} times the limit)"


def _s(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


class Night:
    """Shows a night as it goes: feed it the events."""

    def __init__(self, spec: StudySpec, console: Console, earlier: Sequence[TrialResult] = ()) -> None:
        self._spec = spec
        self._console = console
        self._results = list(earlier)
        self._stage = "getting ready"
        self._trial = ""
        self._numbers = ""
        self._left_s: float | None = None
        self._began = datetime.now().astimezone()
        live = Live(console=console, auto_refresh=False, get_renderable=self._render)
        self._live = live if console.is_terminal else None
        self._show: dict[str, Callable[[dict[str, Any]], None]] = {
            "trial begins": self._on_trial,
            "progress": self._on_progress,
            "level": self._on_level,
            "result": self._on_result,
            "fault": self._on_fault,
            "retry": self._on_retry,
            "single": self._on_single,
            "swept": self._on_swept,
        }

    def __enter__(self) -> Night:
        if self._live:
            self._live.start()
        elif self._spec.cluster.simulated:
            self.say(SIMULATED)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event."""
        what = str(event["what"])
        if what in self._show:
            self._show[what](event)
        elif what.removesuffix(" begins") in _STAGES:
            self._stage = _STAGES[what.removesuffix(" begins")]
        if self._live:
            self._live.refresh()

    def say(self, text: str) -> None:
        """A line that stays."""
        stamp = "" if self._live else f"{datetime.now().astimezone():%H:%M:%S} "
        self._console.print(f"{stamp}{text}", markup=False, highlight=False, soft_wrap=True)

    def _on_trial(self, event: dict[str, Any]) -> None:
        name = "baseline" if event["number"] == 0 else f"trial {event['number']}"
        self._trial, self._numbers = f"{name}: {configuration(event['params'])}", ""
        if not self._live:
            self.say(self._trial)

    def _on_progress(self, event: dict[str, Any]) -> None:
        now = event["progress"]
        self._stage = f"{event['label']}: {now.stage} {now.elapsed_s:.0f} s"
        self._numbers = f"{now.output_tps:.1f} tokens/s, TTFT {_s(now.ttft_s)}, {now.requests_done} requests"

    def _on_level(self, event: dict[str, Any]) -> None:
        self.say(f"  {event['label']}: {figures(event['metrics'])}")

    def _on_result(self, event: dict[str, Any]) -> None:
        result: TrialResult = event["result"]
        self._results.append(result)
        self._left_s = event["left_s"]
        self.say(f"  {verdict(result)} ({span(result.seconds)})")
        for caution in result.cautions:
            self.say(f"  caution: {caution}")
        if not self._live:
            self.say(f"  {self._best()}; {self._progress()}")

    def _on_fault(self, event: dict[str, Any]) -> None:
        again = "the trial is tried again" if event["left"] else "that was the last try"
        self.say(f"  fault of the machine, not of the configuration: {event['error']}; {again}")

    def _on_retry(self, event: dict[str, Any]) -> None:
        self.say(f"  the baseline did not run: {event['result'].message}; it is tried once more")

    def _on_single(self, _: dict[str, Any]) -> None:
        self.say("  Ollama serves this model with one slot whatever it is told: num_parallel is left out of the search")

    def _on_swept(self, event: dict[str, Any]) -> None:
        self.say(f"ended what an earlier run left behind: {event['process']}")

    def _progress(self) -> str:
        """How far the night is."""
        trials = self._spec.budget.trials
        done = f"{len(self._results)} of {trials} trials" if trials else f"{len(self._results)} trials"
        if self._left_s is None:
            return done
        ready = datetime.now().astimezone() + timedelta(seconds=self._left_s)
        return f"{done}, search ends in about {span(self._left_s)} ({ready:%H:%M})"

    def _best(self) -> str:
        if not self._results:
            return "nothing measured yet"
        best = standings(self._results)[0]
        if not best.feasible:
            return "nothing feasible so far"
        return f"best so far {best.objective:.1f} tokens/s{_gain(best, self._results)}: {configuration(best.params)}"

    def _render(self) -> RenderableType:
        lines: list[RenderableType] = [Text(f"{self._spec.study.name}: {self._spec.cluster.model}", style="bold")]
        if self._spec.cluster.simulated:
            lines.append(Text(SIMULATED, style="bold magenta"))
        total = self._spec.budget.trials or len(self._results) + 1
        bar = ProgressBar(total=total, completed=min(len(self._results), total), width=60)
        lines.append(Padding(bar, 0))  # a bar does not end its line
        elapsed = datetime.now().astimezone() - self._began
        lines.append(Text(f"{self._progress()}; {span(elapsed.total_seconds())} so far"))
        lines.append(Text(f"{self._trial}\n  {self._stage}\n  {self._numbers}", style="cyan"))
        lines.append(Text(self._best(), style="green"))
        return Group(*lines)


class Bench:
    """Shows `autotune bench`: a line that moves while a level runs, a row of the table when it is done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._table = _levels_table("")
        self._status = console.status("opening connections")

    def __enter__(self) -> Bench:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()
        if self._table.row_count:
            self._console.print(self._table)

    def progress(self, label: str, now: Progress) -> None:
        """How a level goes on."""
        self._status.update(
            f"{label}: {now.stage} {now.elapsed_s:.0f} of {now.planned_s:.0f} s,"
            f" {now.output_tps:.1f} tokens/s, TTFT {_s(now.ttft_s)}"
        )

    def level(self, label: str, metrics: Metrics, loaded: LoadResult) -> None:
        """What came of a level."""
        self._table.add_row(label, *_cells(metrics), f"{metrics.success_rate:.1%} of {metrics.requests}")
        for caution in loaded.cautions:
            self._console.print(f"caution: {label}: {caution}", markup=False, highlight=False)


def comparison(before: Mapping[str, Metrics], after: Mapping[str, Metrics]) -> Table:
    """Two results, level by level, with the change in %."""
    table = _levels_table("change")
    for label in before:
        if label in after:
            change = compare(before[label], after[label])
            table.add_row(label, *_cells(before[label]), "before")
            table.add_row("", *_cells(after[label]), "after")
            shown = (change[name] for name in _COMPARED)
            table.add_row("", *("–" if value is None else f"{value:+.1f}%" for value in shown), "change")
    return table


def _levels_table(last: str) -> Table:
    table = Table()
    table.add_column("load", overflow="fold")
    for column in ("TTFT mean, s", "p50", "p95", "TPS, tokens/s"):
        _figure(table, column)
    table.add_column(last or "ok", overflow="fold", justify="left" if last else "right")
    return table


def _gain(best: Standing, results: Sequence[TrialResult]) -> str:
    """The best against the baseline: raw TPS is never compared across feasibility."""
    first = results[0]
    if best.results[0].fingerprint == first.fingerprint:
        return " (the baseline)"
    if not first.measured:
        return " (the baseline could not be measured)"
    if not first.score.feasible or not first.score.objective or best.objective is None:
        return " (the baseline misses the limits)"
    return f" ({best.objective / first.score.objective - 1:+.0%} against the baseline)"


def outlook(console: Console, ground: Ground) -> None:
    """What a study would run: `autotune plan`."""
    spec, space = ground.spec, ground.space
    if spec.cluster.simulated:
        console.print(SIMULATED, style="bold magenta")
    table = Table(title=Text(f"Devices of {ground.inventory.host}"), title_justify="left")
    for column in ("", "device", "id", "memory"):
        table.add_column(column, overflow="fold")
    for device in ground.inventory.devices:
        memory = f"{device.memory_bytes / GIB:.1f} GiB"
        table.add_row(str(device.index), Text(device.name), Text(device.id), memory)
    console.print(table)
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    say(f"Ollama {ground.facts.version}, {spec.cluster.model} ({ground.facts.model.weights_bytes / GIB:.1f} GiB)")
    say(f"Baseline: {configuration(ground.baseline)}")
    say(
        f"Space: {space.before_symmetry} configurations, {space.after_symmetry} up to symmetry,"
        f" {space.after_memory} that may fit the memory"
    )
    for name, values in space.choices.items():
        shown = ", ".join(map(str, values[:_MOST_VALUES])) + (", …" if len(values) > _MOST_VALUES else "")
        say(f"  {name} ({len(values)}): {shown}")
    for reason in space.reasons:
        say(f"  left out: {reason}")
    say(_length(spec, space.after_memory))


def _length(spec: StudySpec, configurations: int) -> str:
    """How long it would take: what a trial does for certain, and half a minute to restart and load."""
    work = spec.workload
    trial_s = (30 + len(work.levels) * (work.warmup_s + work.window_s + work.drain_s / 4)) / spec.cluster.time_scale
    trials = min(spec.budget.trials or configurations, configurations + 1)
    bounds = [
        f"{spec.budget.hours:g} hours" if spec.budget.hours else "",
        f"until {spec.budget.until}" if spec.budget.until else "",
        f"at most {spec.budget.trials} trials" if spec.budget.trials else "",
    ]
    return (
        f"Estimated time: {span(trial_s)} a trial, {span(trial_s * trials)} for {trials} trials;"
        f" the budget is {', '.join(filter(None, bounds))}"
    )


def morning(console: Console, spec: StudySpec, ending: Ending, spent: Mapping[str, float], study: Path) -> None:
    """The last lines of a night: why it ended, what was found, how to go on."""
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    results = ending.results
    say("")
    if spec.cluster.simulated:
        say(SIMULATED)
    if results:
        console.print(ranking(results))
        best = standings(results)[0].results[-1]
        if best.levels and results[0].levels and best.fingerprint != results[0].fingerprint:
            console.print(before_after(results[0], best))
        for reason, count in Counter(result.reason for result in results if result.reason).items():
            say(f"{count} configuration{'s' if count > 1 else ''} could not be measured: {reason}")
    if spent["night"]:
        say(
            f"{span(spent['night'])}, of which {spent['measured'] / spent['night']:.0%} was measurement;"
            f" autotune itself took at most {spent['own']:.2f} s between two trials"
        )
    say(f"Ended: {ending.why}.")
    say(conclusion(results))
    say(_onward(spec, ending, study))


def _onward(spec: StudySpec, ending: Ending, study: Path) -> str:
    folder = study.parent / spec.study.name
    if ending.error is not None:
        return f"Everything was put away; results are in {folder}. Go on with: autotune run {study}"
    return f"Results are in {folder}; look at them with: optuna-dashboard sqlite:///{folder}/optuna.db"


def before_after(before: TrialResult, after: TrialResult) -> Table:
    """Baseline and another configuration at every level, with the change in %."""
    title = Text(f"The best against the baseline: {configuration(after.params)}")
    table = Table(title=title, title_justify="left")
    table.add_column("load", overflow="fold")
    for column in ("TTFT mean, s", "p50", "p95", "TPS, tokens/s", "change"):
        _figure(table, column)
    for label in before.levels:
        if label not in after.levels:
            continue
        first, second = before.levels[label], after.levels[label]
        table.add_row(f"{label}: baseline", *_cells(first), "")
        change = f"{second.output_tps / first.output_tps - 1:+.0%}" if first.output_tps else ""
        table.add_row(f"{label}: best", *_cells(second), change)
    return table


def _cells(metrics: Metrics) -> tuple[str, ...]:
    ttft = metrics.ttft_s
    numbers = (ttft.mean, ttft.p50, ttft.p95)
    return (*("–" if value is None else f"{value:.2f}" for value in numbers), f"{metrics.output_tps:.2f}")


def ranking(results: Sequence[TrialResult], most: int = 10) -> Table:
    """The best configurations, each with its verdict."""
    every = standings(results)
    title = f"The best {most} of {len(every)} configurations"
    if len(every) <= most:
        title = "The one configuration" if len(every) == 1 else f"The {len(every)} configurations, best first"
    table = Table(title=title, title_justify="left")
    for column in ("", "TPS, tokens/s", "TTFT mean, s"):
        _figure(table, column)
    for column in ("configuration", "verdict"):
        table.add_column(column, overflow="fold")
    for place, standing in enumerate(every[:most], 1):
        last = standing.results[-1]
        objective = "–" if standing.objective is None else f"{standing.objective:.2f}"
        metrics = list(last.levels.values())
        ttft = "–" if not metrics or metrics[-1].ttft_s.mean is None else f"{metrics[-1].ttft_s.mean:.2f}"
        name = configuration(standing.params) + ("  (baseline)" if results[0] in standing.results else "")
        table.add_row(str(place), objective, ttft, Text(name), Text(verdict(last)[:100]))
    return table


def _figure(table: Table, column: str) -> None:
    """A column of numbers, which never break, however narrow the window is."""
    table.add_column(column.replace(" ", "\n", 1), justify="right", no_wrap=True)


def conclusion(results: Sequence[TrialResult]) -> str:
    """The last word of a night, in a sentence."""
    if not results:
        return "Nothing was measured."
    best = standings(results)[0]
    if best.feasible:
        twice = len(best.results)
        times = "one measurement" if twice == 1 else f"the mean of {twice} measurements"
        return (
            f"Best: {configuration(best.params)}: {best.objective:.1f} tokens/s{_gain(best, results)}. "
            f"This is {times}, not yet a proof."
        )
    nearest = configuration(best.params)
    return f"No configuration met the limits. The nearest: {nearest}: {verdict(best.results[-1])}."
