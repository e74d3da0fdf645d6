"""What many nights say together: pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from autotune.stats import Interval, proportion_interval, quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE = 0.95
SEARCH, NOTHING = "search", "nothing"
"""How a night ends without a proof: with what its search found best, or without anything that met the limits."""
NEAR = (0.02, 0.05)
"""How near the best of the space is near."""


@dataclass(frozen=True, slots=True)
class Point:
    """A configuration on the front that a night recommends, as it is in truth."""

    params: dict[str, Any]
    tps: float
    goals: dict[str, float | None]
    """What counts beside the output, by the names of the study file; None of which nothing is known."""
    feasible: bool


@dataclass(frozen=True, slots=True)
class Told:
    """What one night found, and what that is worth in truth."""

    seed: int
    params: dict[str, Any]
    """What it recommends; of several goals the one with the most tokens/s; empty where that is nothing."""
    kind: str
    """How its proof ended; where there was none `search`, or `nothing`."""
    tps: float
    """True tokens/s of what it recommends; 0 where that does not run."""
    best_tps: float
    """Of the best that meets the limits; 0 where nothing does."""
    feasible: bool
    """Whether it meets the limits in truth; of several goals everything that it recommends."""
    false_winner: bool
    """A winner that in truth is no better than the baseline, or misses a limit; of several goals a proved point of the
    front that is better in none."""
    trials: int
    hours: float
    """Of the night, on the clock on which its budget counts."""
    blocks: int
    """Of the proof."""
    why: str
    """The search, and the proof, ended."""
    front: tuple[Point, ...] = ()
    """Where several goals count: all that it recommends, `params` first; empty where there is one answer."""
    covered: float | None = None
    """Where several goals count: which part of the volume under the true front lies under that of `front`."""

    @property
    def share(self) -> float | None:
        """True tokens/s of what it recommends in parts of the best, or of several goals what it covers; None where
        nothing can be recommended."""
        if self.front:
            return self.covered
        return self.tps / self.best_tps if self.best_tps else None

    @property
    def regret(self) -> float | None:
        """What is lost against the best, or the true front, in parts of it."""
        return None if self.share is None else 1 - self.share

    def near(self, within: float) -> bool:
        """Whether it recommends something that meets the limits and is so near the best, or the true front."""
        good = self.feasible or bool(self.front)  # of several, what misses a limit covers nothing
        return good and self.regret is not None and self.regret <= within


@dataclass(frozen=True)
class Rehearsed:
    """All nights of a rehearsal."""

    study: str
    profile: str
    asked: int
    """Nights that were wanted; fewer were played where it was broken off."""
    configurations: int
    """Of the space."""
    whole_space: bool
    """Whether the best is that of the space, and not only of what each night has tried."""
    nights: tuple[Told, ...]
    took_s: float = 0.0
    """Of this machine's time."""
    cautions: tuple[str, ...] = ()

    def share(self, fits: Sequence[bool]) -> Interval:
        """The part of the nights for which something holds, and its exact 95 % interval."""
        return proportion_interval(sum(fits), len(fits), CONFIDENCE)

    def within(self, part: float) -> Interval:
        """Nights that recommend something so near the best."""
        return self.share([night.near(part) for night in self.nights])

    @property
    def kinds(self) -> dict[str, Interval]:
        """Nights by how they ended, the most frequent first."""
        found = Counter(night.kind for night in self.nights)
        return {kind: self.share([night.kind == kind for night in self.nights]) for kind, _ in found.most_common()}

    @property
    def infeasible(self) -> Interval:
        """Nights that recommend something that in truth misses a limit, or does not run."""
        return self.share([not night.feasible for night in self.nights])

    @property
    def false_winners(self) -> Interval:
        """Nights whose winner is none."""
        return self.share([night.false_winner for night in self.nights])

    @property
    def several(self) -> bool:
        """Whether several goals count."""
        return any(night.front for night in self.nights)

    @property
    def shares(self) -> tuple[float, float] | None:
        """`Told.share` of the nights: the median, and what nine of ten reach."""
        known = [share for night in self.nights if (share := night.share) is not None]
        return (median(known), quantile(known, 0.1)) if known else None

    @property
    def hours(self) -> tuple[float, float]:
        """How long a night takes: the median, and what nine of ten do not exceed."""
        known = [night.hours for night in self.nights]
        return median(known), quantile(known, 0.9)

    def content(self) -> dict[str, Any]:
        """As plain JSON values."""

        def part(found: Interval) -> dict[str, float]:
            return {"share": found.mean, "low": found.low, "high": found.high}

        shares = None if self.shares is None else dict(zip(("median", "p10"), self.shares, strict=True))
        named = {f"within_{within:g}": part(self.within(within)) for within in NEAR}
        return {
            "simulated": True,
            "study": self.study,
            "profile": self.profile,
            "asked": self.asked,
            "configurations": self.configurations,
            "best_of": "space" if self.whole_space else "tried",
            "took_s": self.took_s,
            "cautions": list(self.cautions),
            "summary": {
                **named,
                "kinds": {kind: part(found) for kind, found in self.kinds.items()},
                "misses_a_limit": part(self.infeasible),
                "false_winners": part(self.false_winners),
                "volume_of_front" if self.several else "tps_of_best": shares,
                "hours": dict(zip(("median", "p90"), self.hours, strict=True)),
            },
            "nights": [{**asdict(night), "regret": night.regret} for night in self.nights],
        }
