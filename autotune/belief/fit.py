"""The parameters of the law that the evidence makes most likely, and how uncertain they are.

Residuals are differences of logarithms. What the law leaves over, a hypothesis has either of what a study decides by,
output and what has a limit: these are as alike as their configurations are, and all others stand for themselves. Or of
the times of an instance, of its steps, of reading, and of the way to it: then it shows in all that is measured under
the study's own load, as far as each changes with these times, and these residuals are as alike as the times are.

They are weighed as Student's t with 6 degrees of freedom. Levenberg and Marquardt's steps find the most likely
parameters; the covariance is Laplace's, the inverse of the curvature there, and so is the evidence for the hypothesis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from autotune.belief.kernel import Places
from autotune.belief.law import PART
from autotune.belief.slopes import SMALL, Slopes, moved
from autotune.space.forecast import BASELINE
from autotune.space.sizes import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from autotune.belief.design import Array, Design
    from autotune.belief.evidence import Evidence
    from autotune.belief.kernel import Hypothesis
    from autotune.belief.law import Answer, Law, Trace
    from autotune.belief.prior import Expected
    from autotune.belief.slopes import Quantity

TAILS = 6.0
DEVICE_TAILS = 4.0
LATER = 1.25
"""By which the spread of a load counts that is not the objective's."""
SD = {"tps": 0.035, "tpot_s": 0.035, "ttft_s": 0.18, "tail": 0.20, "prefill_s": 0.07, "part": 0.06}
LEFT = {"tps": 1.0, "tpot_s": 0.8, "ttft_s": 2.0, "tail": 2.5, "prefill_s": 1.0, "part": 0.8}
"""What the law leaves over of a quantity, in parts of what it leaves of the output. Beside what the times of an
instance explain it stays: these are taken to change everything in proportion, as holds for small changes alone."""
ROUGH = 2.0
"""By which that of a load counts that ended before its time."""
MISFIT_SD = 0.02
SIZE_SD = 0.02
"""Of what an instance says that it takes: buffers are counted or not."""
USED_SD = 0.01
"""Of what is in use of a device, beside what is in use with nothing loaded."""
TTFT_NOISE = 2.0
"""Of the output's."""
LITTLE = 0.01
"""Of the logarithm of the evidence: a step that gains no more is the last."""


@dataclass(frozen=True)
class Head:
    """What a study decides by: the output, or a limit; measured at some trials."""

    number: int
    trials: NDArray[np.intp]
    """[T] which."""
    values: Array
    """[T] logarithms: of output; of a value over its limit."""
    noise: Array
    """[T] standard deviations."""


@dataclass(frozen=True)
class Rows:
    """The residuals that are as alike as their configurations: R of them."""

    trials: NDArray[np.intp]
    heads: NDArray[np.intp]
    """The number of what a study decides by; -1 for all others."""
    shares: Array
    """What is left over of each beside the times of an instance, as its hypothesis has it; 0 for all others."""
    own: Array
    """Standard deviations that each has for itself."""

    def covariance(self, hypothesis: Hypothesis, where: Places, inner: Array) -> Array:
        """[R, R] where they change so with steps, reading and the way, [3, R]; without what each has for itself."""
        pair = np.ix_(self.trials, self.trials)
        left = where.among(hypothesis.covariance)[pair]
        left *= self.shares[:, None] * self.shares
        left *= self.heads[:, None] == self.heads
        if hypothesis.of_times:
            left += hypothesis.between(inner, inner, lambda kernel: where.among(kernel)[pair])
        return left


@dataclass(frozen=True)
class Fit:
    """The most likely parameters under one hypothesis, with their covariance."""

    theta: Array
    covariance: Array
    evidence: float
    """Logarithm, but for what all hypotheses have in common."""


class Problem:
    """The residuals of all evidence, as a function of the law's parameters."""

    def __init__(
        self,
        law: Law,
        trials: Sequence[Evidence],
        design: Design,
        heads: Sequence[Head],
        hypothesis: Hypothesis,
        expected: Expected | None = None,
        around: Array | None = None,
    ) -> None:
        """`expected` is what earlier studies say of the parameters.

        How residuals change with the times is taken at `around`: best near the parameters that are to be found.
        """
        self.law = law
        self._expected = expected
        self.hypothesis = hypothesis
        self.heads = heads
        self.design = design
        sized = [(number, trial.full_bytes) for number, trial in enumerate(trials) if trial.full_bytes]
        self._sized = [number for number, _ in sized] if law.question.weights_bytes else []
        self._sizes = np.log([size for _, size in sized]) if self._sized else np.zeros(0)
        used = [(n, one.used_bytes) for n, one in enumerate(trials) if one.used_bytes and not one.spilled]
        self._used = [number for number, _ in used] if law.question.context_bytes else []
        self._uses = np.array([size for _, size in used]) if self._used else np.ones(0)
        self._memory = law.sizing.places
        on_cpu = law.question.on_cpu
        self._misfits = [number for number, one in enumerate(trials) if one.misfit or (one.spilled and not on_cpu)]
        self._fitting = [number for number, one in enumerate(trials) if one.measured and number not in self._misfits]
        self._collect(trials)
        self.rows = self._alike()
        self.where = Places.of(design)
        self._around = law.mean if around is None else around

    @cached_property
    def whiten(self) -> Array:
        """[R, R] what makes `rows` independent of each other, each with the standard deviation 1."""
        inner = np.zeros((3, len(self.rows.own)))
        if self.hypothesis.of_times:
            inner = self._changes(self._around)[1]
        covariance = self.rows.covariance(self.hypothesis, self.where, inner)
        np.einsum("rr->r", covariance)[:] += self.rows.own**2
        return np.asarray(np.linalg.inv(np.linalg.cholesky(covariance)), dtype=np.float64)

    def forget(self) -> None:
        """Let go what a fit alone needs, and is large; it would be made anew for another."""
        vars(self).pop("whiten", None)

    @property
    def width(self) -> float:
        """What the hypothesis pays for its width, in the logarithm of the evidence."""
        return self._width - float(np.log(np.diag(self.whiten)).sum())

    def _alike(self) -> Rows:
        """What a study decides by, and, where the times are odd, all that was measured under its own load."""
        single = np.zeros(len(self._values), dtype=bool)
        for (metric, _), (chosen, rows) in self._noted.items():
            other = (metric == PART) | (self._users[rows] != self.law.question.users)
            single[chosen] = other | (not self.hypothesis.of_times)
        self._single, self._together = np.flatnonzero(single), np.flatnonzero(~single)
        count, many = len(self._together), [len(head.trials) for head in self.heads]
        self._width = float(np.log(self._spreads[self._single]).sum())
        return Rows(
            np.concatenate([self._of_trial[self._together], *(head.trials for head in self.heads)]),
            np.concatenate([np.full(count, -1), np.repeat([head.number for head in self.heads], many)]),
            np.concatenate(
                [np.zeros(count), np.repeat([self.hypothesis.share(head.number) for head in self.heads], many)]
            ),
            np.concatenate([self._spreads[self._together], *(head.noise for head in self.heads)]),
        )

    def _collect(self, trials: Sequence[Evidence]) -> None:
        """Where each quantity is that stands for itself, what it was, and how exactly it is to be met."""
        names: list[Quantity] = []
        rows, values, spreads = [], [], []
        main = self.law.question.users
        loads = [(number, load) for number, trial in enumerate(trials) for load in trial.loads]
        decided = {(b.metric, b.statistic, b.users) for b in self.law.question.bounds}
        left = self.hypothesis.spread

        def note(name: Quantity, kind: str, row: int, value: float | None, wide: float) -> None:
            if value is not None and value > 0:
                names.append(name)
                rows.append(row)
                values.append(math.log(value))
                spreads.append(math.hypot(SD[kind] * wide, LEFT[kind] * left, loads[row][1].vague))

        for row, (number, load) in enumerate(loads):
            wide = (1.0 if load.users == main else LATER) * (ROUGH if trials[number].rough else 1.0)
            if load.users != main:
                note(("tps", ""), "tps", row, load.tps, wide)
            known, bounds = dict(trials[number].bounds), self.law.question.bounds
            if not any(b.metric == "tpot_s" and b.users == load.users and b.name in known for b in bounds):
                note(("tpot_s", ""), "tpot_s", row, load.tpot_s, wide)
            if ("ttft_s", "mean", load.users) not in decided:
                note(("ttft_s", "mean"), "ttft_s", row, load.ttft_s, wide)
            note(("prefill_s", ""), "prefill_s", row, load.prefill_s, wide)
            if load.users != main or ("ttft_s", "p95", main) not in decided:
                note(("ttft_s", "p95"), "tail", row, dict(load.tails).get("p95"), wide)
            parts = self.law.designer.parts(trials[number].params)[1]
            for instance, value in load.parts:
                if instance < len(parts):
                    note((PART, parts[instance]), "part", row, value, 1.25 * wide)
        self._design = self.design.take([number for number, _ in loads])
        self._users = np.array([float(load.users) for _, load in loads])
        places = {name: [at for at, one in enumerate(names) if one == name] for name in dict.fromkeys(names)}
        self._noted = {name: (np.array(at), np.array(rows)[at]) for name, at in places.items()}
        self._values, self._spreads = np.array(values), np.array(spreads)
        self._of_trial = np.array([loads[row][0] for row in rows], dtype=np.intp)
        place = {(number, load.users): row for row, (number, load) in enumerate(loads)}
        users = [main, *(bound.users for bound in self.law.question.bounds)]
        self._head_rows = [
            np.array([place[number, users[head.number]] for number in head.trials.tolist()], dtype=np.intp)
            for head in self.heads
        ]

    def residuals(self, theta: Array) -> Array:
        """[B, parameters] → [B, R], each over its standard deviation."""
        single, together = self._off(self.law.answer(theta, self._design, self._users))
        expected = [] if self._expected is None else [self._expected.off(theta)]
        return np.concatenate([single, together @ self.whiten.T, *self._sizing(theta), *expected], axis=1)

    def _off(self, answer: Answer) -> tuple[Array, Array]:
        """[B, R] by how much the law is off: where residuals stand for themselves in standard deviations; `rows`."""
        said = np.empty((len(answer.tps), len(self._values)))
        for name, (chosen, rows) in self._noted.items():
            said[:, chosen] = np.log(np.maximum(answer.of(*name)[:, rows], 1e-9))
        noted = said - self._values
        decided = [
            self.law.head(answer, head.number)[:, rows] - head.values
            for head, rows in zip(self.heads, self._head_rows, strict=True)
        ]
        single = noted[:, self._single] / self._spreads[self._single]
        return single, np.concatenate([noted[:, self._together], *decided], axis=1)

    def _changes(self, theta: Array) -> tuple[Trace, Array, Array, Array]:
        """An answer; how `rows` change with the times, [3, R]; and with parameters, after those for themselves."""
        trace = self.law.trace(theta[None], self._design, self._users)
        heads = [self.law.quantity(head.number) for head in self.heads]
        slopes, inner = Slopes(self.law, theta, self._design, trace).both([*self._noted, *heads])
        by, within = np.empty((len(self._values), len(theta))), np.empty((len(self._values), 3))
        for number, (chosen, rows) in enumerate(self._noted.values()):
            by[chosen], within[chosen] = slopes[rows, number], inner[rows, number]
        places = list(enumerate(self._head_rows, len(self._noted)))
        together = np.concatenate([by[self._together], *(slopes[rows, number] for number, rows in places)])
        times = np.concatenate([within[self._together], *(inner[rows, number] for number, rows in places)])
        return trace, times.T, by[self._single] / self._spreads[self._single, None], together

    def left(self, theta: Array) -> tuple[Array, Array, Array]:
        """Of `rows`: what the law leaves over, [R], how it changes with times, [3, R], and with parameters, [P, R]."""
        trace, times, _, together = self._changes(theta)
        return -self._off(trace.answer)[1][0], times, together.T

    def _sizing(self, theta: Array) -> Iterator[Array]:
        """[B, R] what is said of memory."""
        if self._sized:
            yield (np.log(self.law.sizing.sizes(theta, self.design)[:, self._sized]) - self._sizes) / SIZE_SD
        if self._used:
            said = np.log(self.law.sizing.used(theta, self.design)[:, self._used] + BASELINE[0] * GIB)
            yield (said - np.log(self._uses)) / np.hypot(BASELINE[1] * GIB / self._uses, USED_SD)
        full = self.law.sizing.full(theta, self.design)
        if full.any():
            yield np.maximum(0.0, 0.01 - np.log(np.maximum(full[:, self._misfits], 1e-9))) / MISFIT_SD
            yield np.maximum(0.0, np.log(np.maximum(full[:, self._fitting], 1e-9)) + 0.01) / MISFIT_SD

    def cost(self, theta: Array) -> Array:
        """[B, parameters] → [B], the negative logarithm of the posterior, but for a constant."""
        z = self.residuals(theta)
        data = 0.5 * (TAILS + 1) * np.log1p(z * z / TAILS).sum(axis=1)
        p = (theta - self.law.mean) / self.law.sd
        heavy = 0.5 * (DEVICE_TAILS + 1) * np.log1p(p * p / DEVICE_TAILS)
        found: Array = data + np.where(self.law.heavy, heavy, 0.5 * p * p).sum(axis=1)
        return found

    def linear(self, theta: Array) -> tuple[Array, Array]:
        """Residuals [R] and their derivatives [R, parameters] at one vector."""
        trace, _, single, together = self._changes(theta)
        off = self._off(trace.answer)
        values, changes = [off[0][0], self.whiten @ off[1][0]], [single, self.whiten @ together]
        for both in self._sizing(moved(theta, self._memory)):
            values.append(both[0])
            changes.append(np.zeros((both.shape[1], len(theta))))
            changes[-1][:, self._memory] = (both[1:] - both[0]).T / SMALL
        if self._expected is not None:
            values.append(self._expected.off(theta[None])[0])
            changes.append(self._expected.weights.T)
        return np.concatenate(values), np.concatenate(changes)


def fit(problem: Problem, start: Array, steps: int) -> Fit:
    """Levenberg and Marquardt's steps from a start, at most so many; the last one is the first that hardly gains."""
    law = problem.law
    theta, damping = start.copy(), 1e-2
    cost = float(problem.cost(theta[None])[0])
    curvature = np.diag(1 / law.sd**2)
    for _ in range(steps):
        z, slope = problem.linear(theta)
        weights = (TAILS + 1) / (TAILS + z * z)
        p = (theta - law.mean) / law.sd
        prior = np.where(law.heavy, (DEVICE_TAILS + 1) / (DEVICE_TAILS + p * p), 1.0) / law.sd**2
        gradient = slope.T @ (weights * z) + prior * (theta - law.mean)
        curvature = slope.T @ (weights[:, None] * slope) + np.diag(prior)
        dampings = damping * 10.0 ** np.arange(-1, 4)
        damped = curvature + dampings[:, None, None] * np.diag(np.diag(curvature))
        moves = np.linalg.solve(damped, -gradient[:, None])[:, :, 0]
        costs = problem.cost(theta + moves)
        best = int(np.nanargmin(costs))
        gained = cost - float(costs[best])
        if not gained > 0:
            break
        theta, cost, damping = theta + moves[best], float(costs[best]), max(float(dampings[best]), 1e-6)
        if gained < LITTLE:
            break
    covariance = np.linalg.inv(curvature)
    evidence = -cost - problem.width - 0.5 * float(np.linalg.slogdet(curvature)[1])
    return Fit(theta, 0.5 * (covariance + covariance.T), evidence)
