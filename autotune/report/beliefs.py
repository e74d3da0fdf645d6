"""What the search believed, in rows and sentences: what it foretold, what could still win, and whether it was right."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from autotune.hindsight import EXPECTED, UNLIKELY, checks, trusted
from autotune.report.words import configuration, figure
from autotune.result import TOKENS_PER_S
from autotune.spec import PER_JOULE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.belief import Believed, Contender, Odds, Range
    from autotune.hindsight import Check, Foretold, Held

Rows = list[tuple[str, ...]]


# what was foretold


def foretold_rows(every: Sequence[Foretold]) -> tuple[tuple[str, ...], Rows]:
    """Head and rows: of each trial the figures as they were foretold, and as they came."""
    names = [one.name for one in every[0].figures]
    head = ("trial", *(word for name in names for word in (f"{_unit(name)}, foretold", "measured")), "configuration")
    return head, [
        (
            str(one.number),
            *(cell for held in one.figures for cell in (between(held.foretold), _came(held))),
            configuration(one.params),
        )
        for one in every
    ]


def _came(held: Held) -> str:
    return figure(held.measured) + ("  (outside)" if held.inside is False else "")


def _unit(name: str) -> str:
    return name if name in {TOKENS_PER_S, PER_JOULE} else f"{name}, s"


def between(found: Range) -> str:
    """A figure with its interval."""
    return f"{figure(found.value)} ({figure(found.low)} to {figure(found.high)})"


def checked(every: Sequence[Foretold]) -> list[str]:
    """How good all of that was, in sentences; none where nothing was foretold that came."""
    found = checks(every)
    if not found:
        return []
    wrong = [one for one in found if one.contradicted]
    return [*(_fared(one) for one in found), *(_contradicted(one) for one in wrong), _trust(every)]


def _fared(one: Check) -> str:
    inside = f"{one.inside} of {one.n} ({one.inside / one.n:.0%}) came within the {EXPECTED:.0%} interval"
    return f"{one.name}: {inside}; off by {math.expm1(one.error):.1%} in the mean."


def _contradicted(one: Check) -> str:
    return (
        f"{one.name}: the model contradicts the data. If its intervals were right, so few would come within them with a"
        f" chance of {one.chance:.2g}, and below {UNLIKELY:g} that is no chance: doubt what it says of configurations"
        " that were not measured. What was measured and proved does not rest on it."
    )


def _trust(every: Sequence[Foretold]) -> str:
    told = ", ".join(f"{trust} (for {count} of {len(every)} trials)" for trust, count in trusted(every))
    return f"Its trust in the law of queues: {told}; at the end {every[-1].trust}."


# what could still win


def odds_rows(contenders: Sequence[Contender]) -> tuple[tuple[str, ...], Rows]:
    """Head and rows: how likely each is the best, and what is believed of it."""
    first = contenders[0].believed if contenders else None
    names = [*first.limits, *first.goals] if first else []
    best = "most tokens/s" if first and first.goals else "the best"
    head = (best, TOKENS_PER_S, *map(_unit, names), "holds the limits", "tried", "configuration")
    return head, [
        (
            _chance(one.chance),
            between(one.believed.tps),
            *map(between, one.believed.limits.values()),
            *map(between, one.believed.goals.values()),
            f"{one.believed.holds:.0%}",
            "yes" if one.tried else "no",
            configuration(one.believed.params),
        )
        for one in contenders
    ]


def remaining(odds: Odds, shown: int) -> str:
    """What the rows do not say."""
    rest = sum(one.chance for one in odds.contenders[shown:])
    untried = sum(one.chance for one in odds.contenders if not one.tried)
    nothing = f" With a chance of {_chance(odds.nothing)} nothing holds the limits." if odds.nothing else ""
    several = any(one.believed.goals for one in odds.contenders)
    best = "make the most tokens/s, one goal of several," if several else "are the best"
    return (
        f"All others together {best} with a chance of {_chance(rest)}, anything untried with {_chance(untried)}."
        f"{nothing} This is by the trials of the search alone; intervals are those of one more trial."
    )


def expected(one: Believed) -> str:
    """What one configuration would do, in a sentence."""
    rest = "".join(
        f"; {name} {between(found)}{'' if name == PER_JOULE else ' s'}"
        for name, found in (one.limits | one.goals).items()
    )
    return (
        f"{configuration(one.params)}: {between(one.tps)} {TOKENS_PER_S}{rest}; holds the limits with a chance of"
        f" {one.holds:.0%}, can be measured with {one.starts:.0%}"
    )


def _chance(value: float) -> str:
    return f"{value:.1%}"
