"""What `autotune bench` shows while it runs and after each load, and what `autotune compare` says of two results."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.text import Text

from autotune.console import histogram, tables
from autotune.console.contrasts import ONE_WINDOW, contrasts, of_a_proxy, routes
from autotune.console.details import facts, going, headline, rows, waits
from autotune.console.letters import Legible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.console import Console, RenderableType
    from rich.table import Table

    from autotune.bench import Found
    from autotune.benchmark.phases import Progress
    from autotune.console.contrasts import Contrast
    from autotune.goal import Bound
    from autotune.metrics import Metrics

REFRESH_S = 0.24
"""The line is drawn at most so often, by the event loop that measures: a little less than a load reports."""
BEGIN, NEXT = "waiting for the first answer: the model may have to be loaded", "opening connections"
UNBOUNDED = 10_000


class Bench:
    """Shows `autotune bench`: a line that moves while a load runs, all that came of it when it is done, then a table.

    `bounds` are the limits that were asked for; `clock` is the time that a person waits.
    """

    def __init__(
        self, console: Console, bounds: Sequence[Bound] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._bounds = bounds
        self._clock = clock
        self._found: list[Found] = []
        moves = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(Text(BEGIN), console=console, auto_refresh=False, transient=True) if moves else None
        self._drawn_s = -math.inf

    def __enter__(self) -> Bench:
        if self._live:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            with suppress(OSError, SystemExit):  # the terminal may be gone
                self._live.stop()
        if self._found:
            self._table()

    def progress(self, label: str, now: Progress) -> None:
        """How a load goes on."""
        if self._live is None or self._clock() < self._drawn_s + REFRESH_S:
            return
        self._drawn_s = self._clock()
        with suppress(OSError, SystemExit):  # the load goes on without a terminal
            self._live.update(Legible(Text(going(label, now, self._console.width))), refresh=True)

    def level(self, found: Found) -> None:
        """What came of a load."""
        self._found.append(found)
        if self._live:
            self._live.update(Text(NEXT), refresh=True)
        self._print(*details(self._console, found, self._bounds), "")

    def _table(self) -> None:
        """All loads; and what the way through a proxy costs, where both ways were gone."""
        unit = tables.ttft_unit(one.metrics for one in self._found)
        table = tables.levels_table("", unit)
        for one in self._found:
            ok = f"{one.metrics.success_rate:.1%} of {one.metrics.requests}"
            table.add_row(Text(one.label), *tables.cells(one.metrics, unit), ok)
        self._print(table)
        for load, direct, via in routes(self._found):
            title = f"{load}: what the proxy costs"
            self._print("", contrast(self._console, title, ("direct", "via"), of_a_proxy(direct, via)))

    def _print(self, *shown: RenderableType) -> None:
        self._console.print(Legible(Group(*shown)))


def details(console: Console, found: Found, bounds: Sequence[Bound]) -> Iterator[RenderableType]:
    """All that one load says."""
    metrics, every = found.metrics, rows(found)
    yield Text.assemble((f"{found.label}: ", "bold"), headline(metrics))
    yield fitting(console, tables.times(every), tables.times(every, narrow=True))
    yield tables.sentences(facts(found, bounds))
    for caution in found.cautions:
        yield Text(f"caution: {found.label}: {caution}")
    if len(metrics.instances) > 1:
        yield ""
        yield tables.by_instance(metrics.instances)
    limits: dict[str, float] = {bound.statistic: bound.most for bound in bounds if bound.metric == "ttft_s"}
    if drawn := histogram.titled(waits(found), console.width, limits, metrics.ttft_waiting_s):
        yield ""
        yield from drawn


def contrasted(console: Console, before: Mapping[str, Metrics], after: Mapping[str, Metrics]) -> None:
    """Each load of both results, figure by figure: by how much it changed, and what that is worth."""
    for label, old in before.items():
        if label in after:
            found = contrast(console, label, ("before", "after"), contrasts(old, after[label]))
            console.print(Legible(Group("", found)))
    console.print(Legible(Group("", Text(ONE_WINDOW))))


def contrast(console: Console, title: str, sides: Sequence[str], found: Sequence[Contrast]) -> Table:
    """Two sides, in as much room as there is."""
    wide, narrow = (tables.contrast(title, sides, found, narrow=narrow) for narrow in (False, True))
    return fitting(console, wide, narrow)


def fitting(console: Console, wide: Table, narrow: Table) -> Table:
    """The wide one where there is room for it."""
    needs = console.measure(wide, options=console.options.update(width=UNBOUNDED)).maximum
    return wide if needs <= console.width else narrow
