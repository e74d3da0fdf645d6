"""The front of a study with several goals, row by row: of its proof, or of its search where there is none yet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autotune.confirm import BASELINE, Kind
from autotune.report.words import configuration
from autotune.spec import OUTPUT
from autotune.standing import on_front, standings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.confirm import Verdict
    from autotune.result import TrialResult
    from autotune.standing import Standing
    from autotune.stats import Interval


@dataclass(frozen=True, slots=True)
class Reached:
    """What a configuration makes of a goal."""

    goal: str
    value: float | None
    between: tuple[float, float] | None
    """The 95 % interval over fresh starts; None of a single measurement."""
    change: float | None
    """Against the baseline, 0.5 is half more; None for the baseline, and where nobody knows."""
    change_between: tuple[float, float] | None
    """As sure as all statements of a proof together; None without a proof."""


@dataclass(frozen=True, slots=True)
class Point:
    """A configuration among several goals."""

    trial: int | None
    """The number of its last trial in the search, by which it is exported; None where it has none."""
    configuration: str
    reached: tuple[Reached, ...]
    place: str
    """Where it is: "on the front", and else why not."""
    on: bool
    """Whether it is on the front."""


def points(results: Sequence[TrialResult], proof: Verdict | None) -> tuple[Point, ...]:
    """Of a proof all its candidates, those on the front first; else the front of the search. The most TPS first."""
    if proof is not None and proof.kind is not Kind.UNPROVED:
        return _proved(results, proof) if proof.goals else ()
    return tuple(_searched(one, results[0]) for one in on_front(standings(results)))


def _proved(results: Sequence[TrialResult], proof: Verdict) -> tuple[Point, ...]:
    numbers = {result.fingerprint: result.number for result in results}
    places = sorted(
        range(len(proof.contenders)), key=lambda at: (at not in proof.front.points, -proof.contenders[at].speed)
    )
    proved = [
        Point(
            trial=numbers.get(proof.contenders[at].runs[0].fingerprint),
            configuration=_named(proof.contenders[at].params, baseline=at == BASELINE),
            reached=tuple(
                _between(goal, proof.front.mean(goal, at), proof.front.change(goal, at) if at != BASELINE else None)
                for goal in proof.goals
            ),
            place=_place(proof, at),
            on=at in proof.front.points,
        )
        for at in places
    ]
    ran = [contender.params for contender in proof.contenders]
    others = (_searched(one, results[0]) for one in on_front(standings(results)) if one.params not in ran)
    return (*proved, *(replace(one, place="on the front of the search, not proved", on=False) for one in others))


def _between(goal: str, mean: Interval | None, change: Interval | None) -> Reached:
    return Reached(
        goal,
        mean.mean if mean else None,
        (mean.low, mean.high) if mean else None,
        change.mean if change else None,
        (change.low, change.high) if change else None,
    )


def _place(proof: Verdict, at: int) -> str:
    if at in proof.front.points:
        return "on the front"
    if proof.misses(at):
        return "misses a limit" if not proof.contenders[at].fails else f"failed ({proof.contenders[at].reason})"
    if above := proof.front.above(at):
        return f"beaten by {_named(proof.contenders[above[0]].params, baseline=above[0] == BASELINE)}"
    if not proof.feasible(at):
        return "it is not certain that it meets the limits"
    if not proof.front.known(at):
        return "not all of its goals are known"
    return "not shown to be better than the baseline"


def _searched(one: Standing, first: TrialResult) -> Point:
    base = {OUTPUT: first.score.objective, **first.score.goals}
    own = one.results[-1].fingerprint == first.fingerprint
    return Point(
        trial=one.results[-1].number,
        configuration=_named(one.params, baseline=own),
        reached=tuple(
            Reached(goal, value, None, value / before - 1 if (before := base.get(goal)) and not own else None, None)
            for goal, value in one.goals.items()
        ),
        place="on the front",
        on=True,
    )


def _named(params: Mapping[str, Any], *, baseline: bool) -> str:
    return configuration(params) + ("  (baseline)" if baseline else "")
