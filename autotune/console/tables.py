"""Figures side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from autotune.console.words import configuration, verdict
from autotune.metrics import compare
from autotune.study import standings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.metrics import Metrics
    from autotune.trial import TrialResult

_COMPARED = ("ttft_s.mean", "ttft_s.p50", "ttft_s.p95", "output_tps")


def comparison(before: Mapping[str, Metrics], after: Mapping[str, Metrics]) -> Table:
    """Two results, level by level, with the change in %."""
    table = levels_table("change")
    for label in before:
        if label in after:
            change = compare(before[label], after[label])
            table.add_row(label, *cells(before[label]), "before")
            table.add_row("", *cells(after[label]), "after")
            shown = (change[name] for name in _COMPARED)
            table.add_row("", *("–" if value is None else f"{value:+.1f}%" for value in shown), "change")
    return table


def levels_table(last: str) -> Table:
    table = Table()
    table.add_column("load", overflow="fold")
    for column in ("TTFT mean, s", "p50", "p95", "TPS, tokens/s"):
        _figure(table, column)
    table.add_column(last or "ok", overflow="fold", justify="left" if last else "right")
    return table


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
        table.add_row(f"{label}: baseline", *cells(first), "")
        change = f"{second.output_tps / first.output_tps - 1:+.0%}" if first.output_tps else ""
        table.add_row(f"{label}: best", *cells(second), change)
    return table


def cells(metrics: Metrics) -> tuple[str, ...]:
    ttft = metrics.ttft_s
    numbers = (ttft.mean, ttft.p50, ttft.p95)
    return (*("–" if value is None else f"{value:.2f}" for value in numbers), f"{metrics.output_tps:.2f}")


def ranking(results: Sequence[TrialResult], at: str = "", most: int = 10) -> Table:
    """The best configurations, each with its verdict, and with the TTFT of level `at` (without it the last one)."""
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
        mean = next((last.levels[level].ttft_s.mean for level in reversed(last.levels) if at in ("", level)), None)
        ttft = "–" if mean is None else f"{mean:.2f}"
        name = configuration(standing.params) + ("  (baseline)" if results[0] in standing.results else "")
        table.add_row(str(place), objective, ttft, Text(name), Text(verdict(last)[:100]))
    return table


def _figure(table: Table, column: str) -> None:
    """A column of numbers, which never break, however narrow the window is."""
    table.add_column(column.replace(" ", "\n", 1), justify="right", no_wrap=True)
