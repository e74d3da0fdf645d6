"""Figures side by side."""

from __future__ import annotations

from dataclasses import astuple
from textwrap import shorten
from typing import TYPE_CHECKING, Literal

from rich.table import Table
from rich.text import Text

from autotune.console.amounts import NONE, Cell, Unit, significant, time_unit
from autotune.console.contrasts import known
from autotune.console.details import STATISTICS, instance_rows, instance_units
from autotune.metrics import compare
from autotune.report.beliefs import odds_rows
from autotune.report.words import changed, figure, percent, reached

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from autotune.belief import Contender
    from autotune.console.contrasts import Contrast
    from autotune.console.details import Fact, Row
    from autotune.metrics import InstanceMetrics, Metrics
    from autotune.report import Figures, Findings
    from autotune.stats import Statistic

_WAITS: tuple[Statistic, ...] = ("mean", "p50", "p95")
WORDS = 100
"""The most characters of a verdict beside figures: the report has it whole."""
_COMPARED = (*(f"ttft_s.{statistic}" for statistic in _WAITS), "output_tps")


def comparison(before: Mapping[str, Metrics], after: Mapping[str, Metrics]) -> Table:
    """Two results, level by level, with the change in %."""
    both = [label for label in before if label in after]
    unit = ttft_unit(side[label] for label in both for side in (before, after))
    table = levels_table("change", unit)
    for label in both:
        old, new = before[label], after[label]
        table.add_row(label, *cells(old, unit), "before")
        table.add_row("", *cells(new, unit), "after")
        change = compare(old, new)
        shown = (change[name] if known(old, name) and known(new, name) else None for name in _COMPARED)
        table.add_row("", *(NONE if value is None else f"{value:+.1f}%" for value in shown), "change")
    return table


def levels_table(last: str, unit: Unit) -> Table:
    table = Table()
    table.add_column("load", overflow="fold")
    for column in (unit.of("TTFT mean"), "p50", "p95", "TPS, tokens/s"):
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


def ttft_unit(loads: Iterable[Metrics]) -> Unit:
    """In what the TTFT of all these loads is shown."""
    return time_unit(*(value for metrics in loads for value in _waits(metrics)))


def cells(metrics: Metrics, unit: Unit) -> tuple[str, ...]:
    """Of one load; a dash where too few requests make a figure."""
    waits = (NONE if value is None else significant(value, unit) for value in _waits(metrics))
    return (*waits, figure(metrics.output_tps))


def _waits(metrics: Metrics) -> list[float | None]:
    return [metrics.ttft_s.known(statistic) for statistic in _WAITS]


def _shown(one: Figures) -> tuple[str, ...]:
    return tuple(map(figure, astuple(one)))


def ranking(found: Findings) -> Table:
    """The best configurations of the search, each with its verdict, and with its TTFT at the objective's level."""
    count, shown = found.configurations, len(found.ranking)
    title = f"The best {shown} of {count} configurations"
    if count <= shown:
        title = "The one configuration" if count == 1 else f"The {count} configurations, best first"
    table = Table(title=title, title_justify="left")
    for column in ("", found.objective, "TTFT mean, s"):
        _figure(table, column)
    for column in ("configuration", "verdict"):
        table.add_column(column, overflow="fold")
    for one in found.ranking:
        figures = (figure(one.tps, found.unit), figure(one.ttft_mean))
        table.add_row(
            str(one.number), *figures, Text(one.configuration), Text(shorten(one.verdict, WORDS, placeholder=" …"))
        )
    return table


def front(found: Findings) -> Table:
    """Where several goals count: who is on the front, and who was beaten."""
    table = Table(title="The front", title_justify="left")
    _figure(table, "trial")
    table.add_column("configuration", overflow="fold")
    for one in found.front[0].reached:
        table.add_column(one.goal, justify="right", no_wrap=True)
    table.add_column("where", overflow="fold")
    for point in found.front:
        cells = (Text("\n".join(filter(None, (reached(one), changed(one))))) for one in point.reached)
        number = "–" if point.trial is None else str(point.trial)
        table.add_row(number, Text(point.configuration), *cells, Text(point.place), style="" if point.on else "dim")
    return table


def odds(contenders: Sequence[Contender]) -> Table:
    """What could still win, the likeliest first."""
    head, rows = odds_rows(contenders)
    table = Table(title="What could still win", title_justify="left")
    for column in head[:-1]:
        _figure(table, column)
    table.add_column(head[-1], overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _figure(table: Table, column: str) -> None:
    """A column of numbers, which never break, however narrow the window is."""
    table.add_column(column.replace(" ", "\n", 1), justify="right", no_wrap=True)


# plain ones, without lines: what belongs to one load


STYLES = {"better": "green", "worse": "red"}


def times(rows: Iterable[Row], *, narrow: bool = False) -> Table:
    """Mean and percentiles of each metric, each with its interval: beside it, or below it where there is no room."""
    every = list(rows)
    intervals = any(cell.ends for row in every for cell in row.cells)
    table = _plain("[95% interval]" if intervals else "", *STATISTICS, narrow=narrow, justify="left")
    for row in every:
        table.add_row(Text(row.label), *(_cell(one, narrow=narrow) for one in row.cells))
    return table


def sentences(facts: Iterable[Fact]) -> Table:
    """What a table cannot say, each behind what it is about."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for fact in facts:
        table.add_row(Text(fact.about), fact.text)
    return table


def by_instance(found: Mapping[str, InstanceMetrics]) -> Table:
    """What each instance did; the slow ones in a colour."""
    wait, pace = instance_units(found)
    head = ("requests", "tokens", f"TTFT\np50, {wait.name}", "p95", f"TPOT\np50, {pace.name}", "TPS")
    table = _plain("instance", *head, narrow=True)
    for row in instance_rows(found):
        table.add_row(*map(Text, row.cells), style="yellow" if row.slow else "")
    return table


def contrast(title: str, sides: Sequence[str], rows: Iterable[Contrast], *, narrow: bool = False) -> Table:
    """Figures of two sides, by how much they differ, and what that is worth."""
    verdict = () if narrow else ("",)
    table = _plain("", *sides, "change", "difference", *verdict, narrow=narrow)
    table.title, table.title_justify, table.title_style = Text(title), "left", "bold"
    for row in rows:
        said, apart = Text(row.verdict, style=STYLES.get(row.verdict, "")), _cell(row.difference, narrow=False)
        below = apart if row.verdict == NONE else Text.assemble(apart, "\n", said)
        table.add_row(Text(row.label), row.before, row.after, row.change, *([below] if narrow else [apart, said]))
    if not narrow:
        table.columns[-1].justify = "left"
    return table


def _plain(first: str, *columns: str, narrow: bool, justify: Literal["left", "right"] = "right") -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1 if narrow else 2, 0, 0), header_style="dim")
    table.add_column(Text(first), overflow="fold")
    for column in columns:
        table.add_column(column, justify=justify, no_wrap=True)
    return table


def _cell(one: Cell, *, narrow: bool) -> Text:
    """The interval stays behind the figure."""
    ends = one.ends.replace(", ", ",") if narrow else one.ends
    return Text.assemble(one.value, ("\n" if narrow else " ") if ends else "", (ends, "dim"))
