"""What `autotune doctor` found."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from autotune.doctor import Check

_STYLES = {"ok": "green", "warning": "yellow", "missing": "bold red"}


def checkup(console: Console, checks: Sequence[Check]) -> None:
    """A row for each check; then what is to be done, each in a line that can be copied."""
    table = Table()
    for column in ("", "needed", "found"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(Text(check.state, style=_STYLES[check.state]), Text(check.name), Text(check.found))
    console.print(table)
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    mends = dict.fromkeys((check.name, check.mend) for check in checks if check.mend)
    if mends:
        say("To mend:")
    for name, mend in mends:
        say(f"  {name}: {mend}")
    say(conclusion(checks))


def conclusion(checks: Sequence[Check]) -> str:
    """How it stands, in a sentence."""
    from autotune.doctor import count  # noqa: PLC0415 - a quarter of a second before the first request of `bench`

    found = count(checks)
    warnings = f"{found['warning']} warning{'s' if found['warning'] != 1 else ''}"
    if found["missing"]:
        return f"{found['missing']} missing, {warnings}."
    return f"Nothing is missing, {warnings}." if found["warning"] else "Nothing is missing."
