"""Whether a configuration can be measured: by what it needs of its devices, and by what became of those like it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from autotune.belief.kernel import nearness

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from autotune.belief.design import Array, Design
    from autotune.belief.evidence import Evidence
    from autotune.belief.fit import Fit
    from autotune.belief.kernel import Places
    from autotune.belief.law import Law

SOUND = 0.99
"""Chance that what fits can be measured."""
DOUBT = 0.02
"""Standard deviation of what no parameter says of how full a device will be."""
STEP = 0.01
ALONE = 0.3
"""So many neighbours count as much as what the law says."""
RAN = 0.95
"""Chance, at least, of what has the same layout as something that ran, no more slots and no larger cache."""
NONE = 1e-9
LIKE = 0.9
"""How near what has the same layout and no fewer slots is to what failed."""


def fits(law: Law, fitted: Fit, design: Design) -> Array:
    """[C] chance that its instances fit their devices, by what is known of sizes and of what there is room for."""
    full = law.sizing.full(fitted.theta[None], design)[0]
    if not full.any():
        return np.full(len(design), SOUND)
    places = law.sizing.places
    moved = fitted.theta + STEP * np.eye(len(fitted.theta))[places]
    logs = np.log(np.maximum(np.concatenate([full[None], law.sizing.full(moved, design)]), 1e-9))
    slopes = (logs[1:] - logs[0]) / STEP
    covariance = fitted.covariance[np.ix_(places, places)]
    sd = np.sqrt(np.einsum("pc,pq,qc->c", slopes, covariance, slopes) + DOUBT**2)
    found: Array = SOUND * ndtr(-logs[0] / sd)
    return found


def starts(
    chance: Array, design: Design, where: Places, trials: Sequence[Evidence], ran: Design, tried: Places
) -> Array:
    """[C] the same chance after some trials, whose configurations are `ran` and lie at `tried`.

    Those that worked speak for their neighbours, those that failed against. What was refused for its slots speaks
    against all that ask for as many.
    """
    fitted = [number for number, trial in enumerate(trials) if trial.measured and not trial.spilled]
    if (chance < RAN).any():
        chance = np.where(_needs_less(design, ran.take(fitted)), np.maximum(chance, RAN), chance)
    failed = [number for number, trial in enumerate(trials) if trial.failed]
    if not failed:
        return chance
    worked = [number for number, trial in enumerate(trials) if trial.measured]
    near = where.alike(tried, nearness)
    more = design.shape[:, 3][:, None] >= tried.whole[failed, 3][None] - NONE
    refused = np.array([trials[number].refused for number in failed])
    same = (np.abs(where.layout[:, None] - tried.layout[failed][None]).max(axis=2) < NONE) & more
    against = np.maximum(near[:, failed], LIKE * (same | (more & refused))).sum(axis=1)
    supporting = near[:, worked].sum(axis=1) * chance
    found: Array = (ALONE * chance + supporting) / (ALONE + supporting + against)
    return found


def _needs_less(design: Design, ran: Design) -> NDArray[np.bool_]:
    """[C] whether something that ran has the same layout and, in each part, no fewer slots and no smaller cache."""
    found = np.zeros(len(design), dtype=bool)
    width = min(design.slots.shape[1], ran.slots.shape[1])
    for layout, slots, cache in zip(ran.layouts.tolist(), ran.slots, ran.cache, strict=True):
        no_more = (design.slots[:, :width] <= slots[:width]).all(axis=1) & (design.cache <= cache)
        found |= (design.layouts == layout) & no_more
    return found
