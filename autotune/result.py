"""What is kept of a trial."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from autotune.benchmark.phases import Look  # noqa: TC001 - the store reads the fields of TrialResult
from autotune.cluster.verify import Placement  # noqa: TC001
from autotune.health import Health  # noqa: TC001
from autotune.metrics import Attainment, Metrics  # noqa: TC001
from autotune.score import Score  # noqa: TC001
from autotune.stats import Decision  # noqa: TC001
from autotune.telemetry import DeviceSample  # noqa: TC001

TOKENS_PER_S = "tokens/s"
"""The unit of an objective that is no capacity."""
USERS, REQUESTS_PER_S = "users", "requests/s"
"""The units of a capacity."""


def amount(value: float, unit: str, places: int = 1) -> str:
    """An objective in digits, of which so many `places` are behind the point; of a rate, which may be far below 1, the
    first three count."""
    rate = unit == REQUESTS_PER_S and abs(value) < 99.95
    return f"{value:.3g}" if rate else f"{value:.{places}f}"


@dataclass(frozen=True, slots=True)
class Samples:
    """The GPUs around one load; empty where there are none."""

    before: tuple[DeviceSample, ...]
    after: tuple[DeviceSample, ...]

    @property
    def joules(self) -> float | None:
        """What all of them took meanwhile; None where one does not say."""
        before = {one.device: one.energy_j for one in self.before}
        spent = [_spent(before.get(one.device), one.energy_j) for one in self.after]
        known = [joules for joules in spent if joules is not None]
        return math.fsum(known) if known and len(known) == len(spent) else None


def _spent(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


@dataclass(frozen=True, slots=True)
class TrialResult:
    """All that is kept of a trial besides its records."""

    number: int
    params: dict[str, Any]
    fingerprint: str
    layout: str
    instances: int
    score: Score
    levels: dict[str, Metrics]
    """By level label, in the order of the study file."""
    health: dict[str, Health] = field(default_factory=dict)
    """How the client itself was in each level's window, by level label."""
    attainments: dict[str, Attainment] = field(default_factory=dict)
    """How many requests met all limits of a level at once, by level label; of those that have limits."""
    looks: dict[str, Look] = field(default_factory=dict)
    """What was certain when each level's window ended, by level label."""
    unit: str = TOKENS_PER_S
    """Of the score's objective."""
    at: str = ""
    """Label of the level at which the objective was taken; empty: that of the study file."""
    tried: tuple[tuple[float, Decision], ...] = ()
    """The loads of a search for the capacity and what each said, in the order of `levels`; else empty."""
    windows: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Start and end of each level's window on the clock of its records: with them the metrics can be computed again."""
    placements: tuple[Placement, ...] = ()
    samples: dict[str, Samples] = field(default_factory=dict)
    """How the GPUs were before and after each load, by level label."""
    cautions: tuple[str, ...] = ()
    reason: str = ""
    """Why the configuration could not be measured: a `TrialFailure.reason`; empty when it was."""
    message: str = ""
    """The same for people."""
    details: str = ""
    """The instance's last words."""
    began_at: str = ""
    seconds: float = 0.0
    """Wall clock from the first stage to the last."""
    simulated: bool = False
    dropped: str = ""
    """Why its loads ended before their time, as "cannot beat 512 tokens/s: at most 310 after 22 s"; empty for others.
    Its figures are those of what was measured by then, and of the levels that were loaded."""
    curve: dict[str, Metrics] = field(default_factory=dict)
    """Short loads of other numbers of users besides the study's levels, by label; `windows` has theirs, too, and their
    records come after those of the levels."""
    slots: tuple[int, ...] = ()
    """Of each instance, in the order of the plan; results of older versions do not say."""
    upstreams: tuple[str, ...] = ()
    """By which metrics name the instances, in the same order; results of older versions do not say."""

    @property
    def slots_in_all(self) -> int:
        """Of all instances together."""
        return sum(self.slots) or self.instances * int(self.params["num_parallel"])

    @property
    def measured(self) -> bool:
        """Whether there are figures."""
        return not self.reason
