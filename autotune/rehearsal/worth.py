"""What a night recommends, and what that is worth in truth: pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.confirm import BASELINE, Kind
from autotune.rehearsal.summary import NOTHING, SEARCH, Point, Told
from autotune.space import key
from autotune.standing import on_front, standings
from autotune.stats import corner, front, volume

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.night import Ending
    from autotune.rehearsal.truth import Truth


@dataclass(frozen=True, slots=True)
class Slept:
    """What one night said, before the truth is known."""

    seed: int
    recommended: tuple[dict[str, Any], ...]
    """One configuration, or none; where several goals count all that are on the front, the most tokens/s first."""
    kind: str
    trials: int
    seconds: float
    blocks: int
    why: str
    tried: tuple[dict[str, Any], ...]


def slept(seed: int, ending: Ending, seconds: float) -> Slept:
    """A night that ended so, after so many seconds."""
    proof, recommended = ending.proof, _recommended(ending)
    why = ending.why if not ending.unproved else f"{ending.why}; {ending.unproved}"
    return Slept(
        seed=seed,
        recommended=recommended,
        kind=str(proof.kind) if proof is not None else SEARCH if recommended else NOTHING,
        trials=len(ending.results),
        seconds=seconds,
        blocks=0 if proof is None else proof.blocks,
        why=why,
        tried=tuple({key(result.params): result.params for result in ending.results}.values()),
    )


def _recommended(ending: Ending) -> tuple[dict[str, Any], ...]:
    proof = ending.proof
    if proof is None or proof.kind is Kind.UNPROVED:
        every = standings(ending.results)
        return tuple(one.params for one in on_front(every) or every[:1] if one.feasible)
    points = {Kind.WINNER: (proof.recommended,), Kind.FRONT: proof.front.points}.get(proof.kind, (BASELINE,))
    return tuple(proof.contenders[at].params for at in points)


def told(night: Slept, known: Mapping[str, Truth], baseline: Mapping[str, Any], *, whole_space: bool) -> Told:
    """What a night found, held against what is known of the space, by `autotune.space.key`, or of what it tried."""
    mine, today = [known[key(params)] for params in night.recommended], known[key(baseline)]
    among = [*known.values()] if whole_space else [known[key(params)] for params in (baseline, *night.tried)]
    new = [known[key(params)] for params in night.recommended if key(params) != key(baseline)]
    several = bool(today.goals)
    return Told(
        seed=night.seed,
        params=next(iter(night.recommended), {}),
        front=tuple(map(_point, night.recommended, mine)) if several else (),
        kind=night.kind,
        tps=mine[0].tps if mine else 0.0,
        best_tps=max([one.tps for one in among if one.feasible], default=0.0),
        covered=_covered(mine, among, today) if several else None,
        feasible=all(one.feasible for one in mine),
        false_winner=night.kind in {Kind.WINNER, Kind.FRONT} and not all(_better(one, today) for one in new),
        trials=night.trials,
        hours=night.seconds / 3600,
        blocks=night.blocks,
        why=night.why,
    )


def _point(params: dict[str, Any], found: Truth) -> Point:
    goals = {name: value if math.isfinite(value) else None for name, value in found.goals.items()}
    return Point(params, found.tps, goals, found.feasible)


def _better(one: Truth, today: Truth) -> bool:
    """Whether something meets the limits, and is better than the baseline in some goal."""
    return one.feasible and (not today.feasible or any(a > b for a, b in zip(one.point, today.point, strict=True)))


def _covered(mine: Sequence[Truth], among: Sequence[Truth], today: Truth) -> float | None:
    """Which part of the volume under the true front lies under what is recommended; None where nothing is feasible.

    In logarithms, above the low corner of the front and the baseline.
    """
    points = [one.point for one in among if one.feasible]
    if not points:
        return None
    best = [points[place] for place in front(points)]
    low = corner([*best, *([today.point] if today.feasible else [])])
    return volume([one.point for one in mine if one.feasible], low) / volume(best, low)
