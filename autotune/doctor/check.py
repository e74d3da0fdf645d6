"""One thing that a night needs, as a value."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT = 1
State = Literal["ok", "warning", "missing"]
NOT_NEEDED = 'not needed: the host is played (cluster.driver = "simulated")'


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, and how it stands."""

    name: str
    state: State
    """`warning`: a night can run, or some study could; `missing`: it cannot."""
    found: str
    mend: str = ""
    """The command, or the step, that mends it; empty where nothing has to be done."""


def content(checks: Iterable[Check]) -> dict[str, Any]:
    """What `autotune doctor --json` prints."""
    listed = [asdict(check) for check in checks]
    return {"format": FORMAT, "ok": not any(check["state"] == "missing" for check in listed), "checks": listed}


def count(checks: Iterable[Check]) -> Counter[State]:
    """How many there are in each state."""
    return Counter(check.state for check in checks)
