"""Lengths in tokens, drawn one by one or in pairs that go together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import random


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of lengths in tokens, drawn by `draw` and then held between `least` and `most`."""

    kind: Literal["fixed", "uniform", "normal", "lognormal"]
    mean: float
    spread: float = 0.3
    """Relative: half the range of `uniform`, the standard deviation of the others, in parts of the mean."""
    least: int = 1
    most: int | None = None

    def draw(self, rng: random.Random) -> int:
        """One length."""
        return self._held(self._value(rng))

    def at(self, score: float) -> int:
        """The length that is as rare as this value of a standard normal distribution."""
        return self._held(self._quantile(score))

    def _held(self, value: float) -> int:
        length = max(self.least, round(value))
        return length if self.most is None else min(length, self.most)

    def _value(self, rng: random.Random) -> float:
        match self.kind:
            case "fixed":
                return self.mean
            case "uniform":
                return rng.uniform(self.mean * (1 - self.spread), self.mean * (1 + self.spread))
            case "normal":
                return rng.gauss(self.mean, self.mean * self.spread)
            case "lognormal":
                return rng.lognormvariate(*self._logarithms())

    def _quantile(self, score: float) -> float:
        match self.kind:
            case "fixed":
                return self.mean
            case "uniform":
                return self.mean * (1 + self.spread * (2 * NormalDist().cdf(score) - 1))
            case "normal":
                return self.mean * (1 + self.spread * score)
            case "lognormal":
                mean, deviation = self._logarithms()
                return math.exp(mean + deviation * score)

    def _logarithms(self) -> tuple[float, float]:
        """Mean and standard deviation of the logarithm with which those of the lengths are `mean`, `mean × spread`."""
        variance = math.log1p(self.spread**2)
        return math.log(self.mean) - variance / 2, math.sqrt(variance)


def pair(rng: random.Random, asked: Lengths, answered: Lengths, correlation: float) -> tuple[int, int]:
    """The lengths of a prompt and of its answer.

    `correlation`, −1 to 1, is that of two standard normal values of which each decides one length (a Gaussian copula):
    both lengths keep their distribution, and their ranks have the correlation 6/π · asin(correlation / 2).
    """
    if not correlation:
        return asked.draw(rng), answered.draw(rng)
    first = rng.gauss(0, 1)
    second = correlation * first + math.sqrt(1 - correlation**2) * rng.gauss(0, 1)
    return asked.at(first), answered.at(second)
