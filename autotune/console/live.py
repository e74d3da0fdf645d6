"""What moves while something runs: a live view on a terminal, log lines elsewhere."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.text import Text

from autotune.console.tables import cells, levels_table
from autotune.console.words import SIMULATED, configuration, figures, gain, seconds, span, verdict
from autotune.study import standings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from autotune.benchmark.phases import LoadResult, Progress
    from autotune.metrics import Metrics
    from autotune.spec import StudySpec
    from autotune.trial import TrialResult

_STAGES = {
    "start": "restarting what differs",
    "preload": "loading the model",
    "verify": "checking placement and slots",
    "collect": "saving",
}


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
            with suppress(OSError, SystemExit):  # the terminal may be gone
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
        self._numbers = f"{now.output_tps:.1f} tokens/s, TTFT {seconds(now.ttft_s)}, {now.requests_done} requests"

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
        return f"best so far {best.objective:.1f} tokens/s{gain(best, self._results)}: {configuration(best.params)}"

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
        self._table = levels_table("")
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
            f" {now.output_tps:.1f} tokens/s, TTFT {seconds(now.ttft_s)}"
        )

    def level(self, label: str, metrics: Metrics, loaded: LoadResult) -> None:
        """What came of a level."""
        self._table.add_row(label, *cells(metrics), f"{metrics.success_rate:.1%} of {metrics.requests}")
        for caution in loaded.cautions:
            self._console.print(f"caution: {label}: {caution}", markup=False, highlight=False)
