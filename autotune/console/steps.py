"""What `autotune capacity` and `autotune selftest` show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from autotune.console.amounts import MILLISECONDS, of_sample
from autotune.console.loads import BEGIN
from autotune.doubts import AGING
from autotune.report.words import figure, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from autotune.bench import Capacity, Found, Step
    from autotune.benchmark.phases import Progress
    from autotune.metrics import Summary
    from autotune.selftest import SelfTest
    from autotune.stats import Statistic

BAR = 24
SHOWN: tuple[Statistic, ...] = ("p50", "p95")
WORDS = {"holds": "holds", "violated": "misses", "open": "open"}
COLOURS = {"holds": "green", "violated": "red", "open": "yellow"}


class Steps:
    """Shows a search: a line that moves while a step runs, a line for each that is done, the curve at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status(BEGIN, refresh_per_second=4)

    def __enter__(self) -> Steps:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def progress(self, label: str, now: Progress) -> None:
        """How a step goes on."""
        self._status.update(
            f"{label}: {now.stage} {now.elapsed_s:.0f} s, {now.output_tps:.1f} tokens/s, TTFT {seconds(now.ttft_s)}"
        )

    def step(self, step: Step) -> None:
        """What came of a step."""
        self._say(f"{step.found.label}: {WORDS[step.decision]}; {_why(step.found)}")
        for caution in step.found.cautions:
            self._say(f"  caution: {caution}")

    def answer(self, found: Capacity) -> None:
        """The curve, and the answer as its last line."""
        self._status.stop()
        self._console.print(curve(found))
        if found.ended:
            self._say(f"caution: the search could not go on: {found.ended}")
        if found.doubt:
            self._say(f"caution: {found.doubt}; {AGING}")
        self._say(sentence(found))

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _why(found: Found) -> str:
    if found.loaded.gave_up:
        return "nothing but failures came back"
    limits = ", ".join(f"{name} {WORDS[decision]}" for name, decision in found.loaded.look.limits.items())
    metrics = found.metrics
    waits = ", ".join(f"{name} {_of(metrics.ttft_s, name)}" for name in SHOWN)
    return f"{limits}; {figure(metrics.output_tps)} tokens/s, TTFT in ms {waits} ({metrics.requests} requests)"


def _of(sample: Summary, statistic: Statistic) -> str:
    return of_sample(sample, statistic, MILLISECONDS).value


def sentence(found: Capacity) -> str:
    """The answer of a search."""
    if not found.low:
        below = f"they are missed at {found.high:g} {found.unit}" if math.isfinite(found.high) else "nothing is certain"
        return f"Capacity: the limits surely hold at no load that was tried; {below}"
    if math.isinf(found.high):
        return f"Capacity: at least {found.low:g} {found.unit}; no load was tried at which a limit is surely missed"
    return f"Capacity: {found.low:g} {found.unit}: all limits hold there, and one is missed at {found.high:g}"


def curve(found: Capacity) -> Table:
    """Output rate and waits at each load that was tried, rising."""
    table = Table(title="The curve", title_justify="left")
    for column in (found.unit, "TPS, tokens/s", "TTFT p50, ms", "p95", "TPOT p50, ms"):
        table.add_column(column.replace(" ", "\n", 1), justify="right", no_wrap=True)
    table.add_column("limits", no_wrap=True)
    table.add_column("TPS", no_wrap=True, overflow="crop", max_width=BAR)
    most = max((step.found.metrics.output_tps for step in found.steps), default=0.0)
    for step in sorted(found.steps, key=lambda step: step.load):
        metrics, decision = step.found.metrics, step.decision
        bar = "█" * round(BAR * metrics.output_tps / most) if most else ""
        table.add_row(
            f"{step.load:g}",
            figure(metrics.output_tps),
            *(_of(metrics.ttft_s, name) for name in SHOWN),
            _of(metrics.tpot_s, "p50"),
            Text(WORDS[decision], style=COLOURS[decision]),
            Text(bar, style=COLOURS[decision]),
        )
    return table


def selftests(found: Sequence[SelfTest]) -> Table:
    """How exact the client is with so many streams, and how much it can take."""
    table = Table(title="The client on this machine, against a server that knows its own times", title_justify="left")
    errors = ("TTFT error p50, ms", "p99")
    columns = ("streams", "requests", *errors, "tokens/s a process may take", "processes", "loop late p99, ms")
    for column in columns:
        table.add_column(column.replace(" ", "\n", 1), justify="right")
    for one in found:
        table.add_row(
            str(one.concurrency),
            str(one.requests),
            *(f"±{1000 * error:.2f}" for error in (one.error_p50_s, one.error_p99_s)),
            f"{one.tokens_per_core:,.0f}",
            str(one.processes),
            f"{1000 * one.loop_lag_s:.1f}",
        )
    return table
