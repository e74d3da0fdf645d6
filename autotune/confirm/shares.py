"""How much each single statement of a proof may err, so that all of them hold together.

`1 - proof.confidence` is shared out over what is said: most of it goes to what a winner rests on. Each part is shared
evenly over its statements (Bonferroni), which are all one-sided, and spent evenly over the blocks (Lan and DeMets).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from autotune.confirm.order import looks
from autotune.stats import Looks, boundaries

if TYPE_CHECKING:
    from autotune.spec import Proof

BETTER, NO_BETTER, APART, LIMITS = 5, 2, 1, 2
"""Parts of the error: that one makes more than the baseline, that it makes no more, how the others differ, limits."""


@dataclass(frozen=True, slots=True)
class Levels:
    """The one-sided error of a single statement of each kind."""

    better: float
    """A candidate makes more than the baseline."""
    no_better: float
    """It does not make so much more."""
    apart: float
    """How two other candidates differ, to one side."""
    limits: float
    """How far a candidate is from a limit, to one side; or how much further the baseline is."""


def levels(rules: Proof, blocks: int, candidates: int, limits: int, goals: int = 1) -> Levels:
    """Of a proof of so many candidates, the baseline among them, with so many limits each, after so many blocks.

    Where several goals count, each of them has its own statements on how candidates differ.

    A proof that ends between two looks, because time is up, has the look that was to come brought forward.
    """
    planned = looks(rules)
    look = next((at for at, size in enumerate(planned) if size >= blocks), len(planned) - 1)
    return _levels(planned, 1 - rules.confidence, candidates, limits, goals)[look]


@lru_cache(maxsize=64)
def _levels(planned: tuple[int, ...], error: float, candidates: int, limits: int, goals: int) -> tuple[Levels, ...]:
    others = candidates - 1
    kinds = (
        (BETTER, goals * others),
        (NO_BETTER, goals * others),
        (APART, goals * others * (others - 1)),
        (LIMITS, limits * (2 * candidates + others)),
    )
    parts = sum(part for part, statements in kinds if statements)
    # what is never said may err as it likes; it gets a level for whoever asks all the same
    singles = (error * part / parts / max(statements, 1) for part, statements in kinds)
    return tuple(
        Levels(*level) for level in zip(*(boundaries(Looks.at(planned, single)) for single in singles), strict=True)
    )
