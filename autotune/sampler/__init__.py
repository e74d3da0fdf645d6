"""Optuna lives here, and nowhere else: what to try next, learned from what was tried.

`Sampler` is what a night uses: it keeps Optuna's study in line with our store and asks one of these, by their names in
a study file: `informed`, the search of autotune, which knows what it tunes (`autotune.belief`); Optuna's own `tpe` and
`gp`; `random` and `grid`. Each of them is an Optuna sampler, and does in any study over the same space.
"""

from autotune.sampler.domain import ordered
from autotune.sampler.informed import InformedSampler
from autotune.sampler.trials import INFORMED, Sampler, Way

__all__ = ["INFORMED", "InformedSampler", "Sampler", "Way", "ordered"]
