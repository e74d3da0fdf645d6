"""What `autotune simulate` shows: how far it is, and what many nights say together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from autotune.report.words import configuration, figure, span
from autotune.simulator import SIMULATED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from autotune.rehearsal import Rehearsed, Told
    from autotune.stats import Interval

STAGES = {"truth": "how fast each configuration really is", "nights": "nights"}
KINDS = {
    "winner": "a winner was proved",
    "front": "a front was proved",
    "keep": "keep the baseline",
    "unclear": "cannot be told apart",
    "unproved": "the proof had no time to end",
    "search": "no proof",
    "nothing": "nothing met the limits",
}
MOST_SHOWN = 3
"""Recommendations, the most frequent first."""


class Nights:
    """A line that says how far a rehearsal is."""

    def __init__(self, console: Console) -> None:
        self._status = console.status(SIMULATED, refresh_per_second=4)
        self._console = console
        self._tenth = -1

    def __enter__(self) -> Nights:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def progress(self, what: str, done: int, of: int) -> None:
        """So many of so many; where there is no terminal a line for every tenth of the nights."""
        line = f"{STAGES[what]}: {done} of {of}"
        self._status.update(line)
        tenth = 10 * done // of if of else 0
        if not self._console.is_terminal and what == "nights" and tenth != self._tenth:
            self._tenth = tenth
            self._console.print(line, markup=False, highlight=False)


def rehearsed(console: Console, found: Rehearsed) -> None:
    """The table, the configurations that were recommended, and what it all is."""
    console.print(summary(found))
    for line in _recommended(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for caution in found.cautions:
        console.print(f"caution: {caution}", markup=False, highlight=False, soft_wrap=True)
    console.print(SIMULATED, markup=False, highlight=False)


def summary(found: Rehearsed) -> Table:
    """What the nights say together."""
    count = len(found.nights)
    title = f"{count} nights of {found.study} on {found.profile}, simulated in {found.took_s:.0f} s"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("figure", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    hopeless = found.whole_space and not any(night.best_tps for night in found.nights)
    if hopeless:
        table.add_row("in truth no configuration of the space meets the limits", "", "")
    for part in () if hopeless else (0.02, 0.05):
        table.add_row(_near(found, part), *_share(found.within(part)))
    if found.shares is not None:
        parts = "volume that it covers of" if found.several else "true TPS in parts of"
        table.add_row(f"{parts} {_best(found)}, median", f"{found.shares[0]:.1%}", "")
        table.add_row("nine of ten nights reach", f"{found.shares[1]:.1%}", "")
    for kind, share in found.kinds.items():
        table.add_row(f"night ended: {KINDS.get(kind, kind)}", *_share(share))
    table.add_row(
        "a proved point that is no better than the baseline" if found.several else "a winner that is none",
        *_share(found.false_winners),
    )
    table.add_row("recommends what in truth misses a limit", *_share(found.infeasible))
    middle, late = found.hours
    table.add_row("length of a night, median", span(3600 * middle), "")
    table.add_row("nine of ten nights are over after", span(3600 * late), "")
    return table


def _near(found: Rehearsed, part: float) -> str:
    if found.several:
        return f"covers {1 - part:.0%} of {_best(found)}, or more"
    return f"recommends within {part:.0%} of {_best(found)}"


def _best(found: Rehearsed) -> str:
    if found.several:
        return "the true front" if found.whole_space else "the front of all that was tried"
    return "the best" if found.whole_space else "the best that was tried"


def _share(found: Interval) -> tuple[str, str]:
    return f"{found.mean:.1%}", f"{found.low:.1%} to {found.high:.1%}"


def _recommended(found: Rehearsed) -> list[str]:
    groups: dict[str, list[str]] = {}
    for night in found.nights:
        for name, worth in _worth(night):
            groups.setdefault(name, []).append(worth)
    often = sorted(groups.items(), key=lambda group: -len(group[1]))[:MOST_SHOWN]
    return [f"{_nights(len(worth))} {name}: {worth[0]}" for name, worth in often]


def _nights(count: int) -> str:
    return "1 night recommends" if count == 1 else f"{count} nights recommend"


def _worth(night: Told) -> Iterator[tuple[str, str]]:
    """What a night recommends, and what each is in truth."""
    for one in night.front:
        known = ((name, "unknown" if value is None else f"{value:.4g}") for name, value in one.goals.items())
        goals = "".join(f", {name} {value}" for name, value in known)
        yield configuration(one.params), _truly(one.tps, goals, feasible=one.feasible or None in one.goals.values())
    if night.params and not night.front:
        best = f"; the best has {figure(night.best_tps)}" if night.tps else ""
        yield configuration(night.params), _truly(night.tps, feasible=night.feasible) + best


def _truly(tps: float, goals: str = "", *, feasible: bool) -> str:
    if not tps:
        return "it does not run"
    return f"{figure(tps)} tokens/s{goals} in truth" + ("" if feasible else ", and misses a limit")
