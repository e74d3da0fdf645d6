"""Figures side by side."""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from autotune.metrics import compare
from autotune.report import Figures
from autotune.report.words import figure, percent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.metrics import Metrics
    from autotune.report import Findings

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


def before_after(found: Findings) -> Table:
    """Baseline and the recommended configuration at every level, with the change in %."""
    table = Table(title=Text(found.title), title_justify="left")
    table.add_column("load", overflow="fold")
    for column in ("TTFT mean, s", "p50", "p95", "TPS, tokens/s"):
        _figure(table, column)
    for change in found.changes:
        table.add_row(f"{change.label}: baseline", *_shown(change.before))
        table.add_row(f"{change.label}: new", *_shown(change.after))
        table.add_row("", *map(percent, astuple(change.relative)), end_section=True)
    return table


def cells(metrics: Metrics) -> tuple[str, ...]:
    return _shown(Figures.of([metrics]))


def _shown(one: Figures) -> tuple[str, ...]:
    return tuple(map(figure, astuple(one)))


def ranking(found: Findings) -> Table:
    """The best configurations of the search, each with its verdict, and with its TTFT at the objective's level."""
    count, shown = found.configurations, len(found.ranking)
    title = f"The best {shown} of {count} configurations"
    if count <= shown:
        title = "The one configuration" if count == 1 else f"The {count} configurations, best first"
    table = Table(title=title, title_justify="left")
    for column in ("", "TPS, tokens/s", "TTFT mean, s"):
        _figure(table, column)
    for column in ("configuration", "verdict"):
        table.add_column(column, overflow="fold")
    for one in found.ranking:
        figures = (figure(one.tps), figure(one.ttft_mean))
        table.add_row(str(one.number), *figures, Text(one.configuration), Text(one.verdict[:100]))
    return table


def _figure(table: Table, column: str) -> None:
    """A column of numbers, which never break, however narrow the window is."""
    table.add_column(column.replace(" ", "\n", 1), justify="right", no_wrap=True)
