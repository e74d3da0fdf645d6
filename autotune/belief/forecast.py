"""What is believed of configurations, as values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autotune.belief.design import Array


@dataclass(frozen=True)
class Forecast:
    """What is believed of C configurations, as normal distributions of logarithms."""

    tps: Array
    tps_sd: Array
    bounds: Array
    """[bounds, C] log of value over limit."""
    bounds_sd: Array
    starts: Array
    """[C] chance that it can be measured."""
    together: Array | None = None
    """[C, C] covariance of their outputs, where that was asked for."""
    goals: int = 0
    """So many of the bounds, the last ones, are no limits."""

    def holds(self, slack: float = 0.0) -> Array:
        """[C] chance that all limits hold."""
        limits = slice(len(self.bounds) - self.goals)
        bounds, sd = self.bounds[limits], self.bounds_sd[limits]
        found: Array = ndtr((math.log1p(slack) - bounds) / sd).prod(axis=0)
        return found

    def take(self, rows: NDArray[np.intp]) -> Forecast:
        """Of some of the configurations."""
        together = None if self.together is None else self.together[np.ix_(rows, rows)]
        bounds, sd = self.bounds[:, rows], self.bounds_sd[:, rows]
        return Forecast(self.tps[rows], self.tps_sd[rows], bounds, sd, self.starts[rows], together, self.goals)


@dataclass(frozen=True)
class Said:
    """What one hypothesis says of C configurations, after the evidence."""

    mean: Array
    """[1 + limits, C] logarithms of output, and of values over limits."""
    spread: Array
    """[1 + limits, C] their variances."""
    joint: tuple[Array, ...] = ()
    """[C, C] covariances: of the output, of the limits, as far as they were asked for."""

    def take(self, rows: NDArray[np.intp]) -> Said:
        """Of some of the configurations."""
        square = np.ix_(rows, rows)
        return Said(self.mean[:, rows], self.spread[:, rows], tuple(one[square] for one in self.joint))
