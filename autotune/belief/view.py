"""One hypothesis after the evidence: what the law left over of what was measured, and what follows for others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autotune.belief.design import Array
from autotune.belief.forecast import Said
from autotune.belief.slopes import linear

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autotune.belief.design import Design
    from autotune.belief.fit import Fit, Problem, Rows
    from autotune.belief.kernel import Hypothesis, Places
    from autotune.belief.law import Law

OUTLIERS = 5.0
"""Degrees of freedom of the noise between trials."""
ROUGH_SD = 0.10, 0.35
"""What the parameters leave open of the output, and of a limit, where nobody asks more exactly."""


@dataclass(frozen=True)
class View:
    """One hypothesis, with the R residuals that are as alike as their configurations."""

    hypothesis: Hypothesis
    law: Law
    fit: Fit
    weights: Array
    """[1 + limits] how likely it is, as to the output and to each limit."""
    tried: Places
    rows: Rows
    inner: Array
    """[3, R] how the residuals change with steps, reading and the way to an instance."""
    slopes: Array
    """[P, R] how they change with the parameters."""
    inverse: Array
    """[R, R] of their covariance, with what each has for itself."""
    alone: tuple[Array, ...]
    """Of each head the same of its own residuals, whatever else was measured."""
    answer: Array
    """[R] the same times the residuals."""

    @classmethod
    def of(cls, problem: Problem, fitted: Fit, weights: Array) -> View:
        """Outliers count for less."""
        residuals, inner, slopes = problem.left(fitted.theta)
        one, rows, tried = problem.hypothesis, problem.rows, problem.where
        covariance = rows.covariance(one, tried, inner)
        diagonal = np.einsum("rr->r", covariance)
        kernel = diagonal.copy()
        diagonal += rows.own**2
        for _ in range(2):
            diagonal[:] = kernel + rows.own**2 * _doubts(covariance, residuals)
        inverse = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
        heads = (rows.heads == head for head in range(len(weights)))
        alone = tuple(np.asarray(np.linalg.inv(covariance[np.ix_(own, own)]), dtype=np.float64) for own in heads)
        answer = inverse @ residuals
        return cls(one, problem.law, fitted, weights, tried, rows, inner, slopes, inverse, alone, answer)

    def rough(self, design: Design, where: Places) -> Said:
        """Of many configurations: the spread of each head is by what its own trials say of it."""
        if self.hypothesis.of_times:
            at = linear(self.law, self.fit.theta, design, inner=True)
            mean, inner = at.values.copy(), at.inner
        else:
            mean = self.law.heads(self.fit.theta[None], design)[:, 0]
            inner = np.zeros((len(mean), 3, 0))
        spread = np.empty_like(mean)
        for head, changes in enumerate(inner):
            own = self.rows.heads == head
            between = self._between(head, changes, where, np.flatnonzero(own))
            mean[head] += between @ self.answer[own] + self._moved(changes, where, ~own)
            known = ((between @ self.alone[head]) * between).sum(axis=1)
            spread[head] = ROUGH_SD[min(head, 1)] ** 2 + np.maximum(self._own(head, changes) - known, 0.0)
        return Said(mean, spread)

    def full(self, design: Design, where: Places, *, joint: int = 0) -> Said:
        """Universal kriging: what the parameters leave open and what the law leaves over, together.

        With the whole covariances of output and limits, the first `joint` of them.
        """
        at, every = linear(self.law, self.fit.theta, design), np.arange(len(self.answer))
        mean, spread, joints = at.values.copy(), np.empty_like(at.values), list[Array]()
        for head, changes in enumerate(at.inner):
            between = self._between(head, changes, where, every)
            mean[head] += between @ self.answer
            weights = between @ self.inverse
            open_ = at.slopes[head] - self.slopes @ weights.T
            doubt = self.fit.covariance @ open_
            own = self._own(head, changes) - (weights * between).sum(axis=1)
            spread[head] = np.maximum(own, 0.0) + (open_ * doubt).sum(axis=0)
            if head < joint:
                joints.append(self._among(head, changes, where) - weights @ between.T + open_.T @ doubt)
        return Said(mean, spread, tuple(joints))

    def _between(self, head: int, changes: Array, where: Places, chosen: NDArray[np.intp]) -> Array:
        """[C, R] how alike what is left over of a head is to some residuals; it changes so with the times, [3, C]."""
        one, trials = self.hypothesis, self.rows.trials[chosen]
        shares = one.share(head) * self.rows.shares[chosen] * (self.rows.heads[chosen] == head)
        beside: Array = shares * where.alike(self.tried, one.covariance)[:, trials]
        if not one.of_times:
            return beside
        times = one.between(changes, self.inner[:, chosen], lambda kernel: where.alike(self.tried, kernel)[:, trials])
        return beside + times

    def _moved(self, changes: Array, where: Places, chosen: NDArray[np.bool_]) -> Array | float:
        """[C] how far some residuals move the mean of what changes so with the times, [3, C]; none is of its head."""
        one, trials = self.hypothesis, self.rows.trials[chosen]
        if not one.of_times:
            return 0.0
        told = self.inner[:, chosen] * self.answer[chosen]
        by_trial = np.zeros((3, len(self.tried.whole)))
        np.add.at(by_trial.T, trials, told.T)
        found: Array = (changes * one.told(by_trial, lambda kernel: where.alike(self.tried, kernel))).sum(axis=0)
        return found

    def _own(self, head: int, changes: Array) -> Array | float:
        """[C] the variance of what is left over, before anything was measured."""
        one = self.hypothesis
        own = (one.share(head) * one.spread) ** 2
        return own + one.variances(changes) if one.of_times else own

    def _among(self, head: int, changes: Array, where: Places) -> Array:
        """[C, C] its covariance."""
        one = self.hypothesis
        own = one.share(head) ** 2 * where.among(one.covariance)
        return own + one.between(changes, changes, where.among) if one.of_times else own


def _doubts(covariance: Array, residuals: Array) -> Array:
    """[R] how much larger than usual the variance of each is, by how far it is from what all others say."""
    inverse = np.linalg.inv(covariance)
    z = (inverse @ residuals) / np.sqrt(np.diag(inverse))
    return np.maximum(1.0, (OUTLIERS + z * z) / (OUTLIERS + 1))
