"""What blocks say in which several candidates ran: how far values scatter, and by how much two candidates differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from autotune.stats.intervals import Interval, student, tail
from autotune.stats.sample import mean

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Spread:
    """A standard deviation, the interval around it, and how much it is based on."""

    sd: float
    low: float
    high: float
    freedom: float
    """Degrees of it; no whole number where values are not used in full."""

    @property
    def variance(self) -> float:
        """Its square."""
        return self.sd * self.sd


def spread(variance: float, freedom: float, confidence: float) -> Spread:
    """The standard deviation of a variance with so many degrees of freedom, by the chi-squared distribution."""
    from scipy.special import gammaincinv  # noqa: PLC0415 - a quarter of a second, which only who asks shall pay

    beyond = tail(confidence)
    least, most = (2 * float(gammaincinv(freedom / 2, part)) for part in (beyond, 1 - beyond))
    total = variance * freedom
    return Spread(math.sqrt(variance), math.sqrt(total / most), math.sqrt(total / least), freedom)


def repeat_spread(values: Sequence[float], confidence: float) -> Spread:
    """How far repeats scatter that came one after the other, without what changed slowly meanwhile.

    From the steps between neighbours, half of whose mean square is the variance: a drift hardly adds to it. The price
    is a third of the degrees of freedom. Source: von Neumann, Kent, Bellinson and Hart, "The Mean Square Successive
    Difference" (Annals of Mathematical Statistics 12, 1941). ValueError for fewer than three values.
    """
    n = len(values)
    if n < 3:
        raise ValueError(f"a spread of repeats needs at least three values, not {n}")
    variance = math.fsum((after - before) ** 2 for before, after in pairwise(values)) / (2 * (n - 1))
    return spread(variance, 2 * (n - 1) ** 2 / (3 * n - 4), confidence)


def block_spread(blocks: Sequence[Sequence[float]], confidence: float) -> Spread:
    """How far the values of one candidate scatter in its blocks, with what is common to a block taken out.

    Each block has a value of every candidate. What remains of the means of blocks and of candidates has
    (candidates − 1)·(blocks − 1) degrees of freedom: many more than the pairs of two of them. It takes all candidates
    to scatter alike; see `contrast`. Source: Fisher, "The Design of Experiments" (1935). ValueError for fewer than two
    blocks or candidates.
    """
    n, candidates = len(blocks), len(blocks[0]) if blocks else 0
    if n < 2 or candidates < 2:
        raise ValueError(f"a spread in blocks needs two of both, not {n} blocks of {candidates}")
    columns = [mean(column) for column in zip(*blocks, strict=True)]
    whole = mean(columns)
    freedom = (n - 1) * (candidates - 1)
    squares = (
        (value - mean(block) - column + whole) ** 2
        for block in blocks
        for value, column in zip(block, columns, strict=True)
    )
    return spread(math.fsum(squares) / freedom, freedom, confidence)


def contrast(differences: Sequence[float], pooled: Spread | None, *, below: float, above: float) -> Interval:
    """Where the mean difference of two candidates lies, from that in each block; `below` and `above` may err each end.

    Where the spread of all candidates in these blocks is known, the larger of both scatters counts, with the degrees of
    freedom of the common one. If all scatter alike, an end errs less often than it may. If this pair scatters far more
    than the others, its own scatter counts, with too many degrees of freedom: where one of three candidates does, an
    end that may err 3 times in 1000 errs 6 times after twelve blocks, and up to 13 times after four.
    Without `pooled` it is Student's interval of the differences alone. ValueError for fewer than two.
    """
    centre, error, freedom = _difference(differences, pooled)
    low, high = (student(freedom, 1 - 2 * one) * error for one in (below, above))
    return Interval(centre, centre - low, centre + high, len(differences))


def expected_gain(differences: Sequence[float], pooled: Spread | None) -> float:
    """By how much the first of two candidates is better on the mean, where it counts as 0 if it is worse.

    E max(μ, 0) of the true difference μ, which lies around the mean of the blocks as Student's t does (no prior), with
    the scatter that `contrast` takes: what one who keeps to the second forgoes. ValueError for fewer than two blocks.
    Source: Chick and Inoue, "New Two-Stage and Sequential Procedures for Selecting the Best Simulated System"
    (Operations Research 49, 2001), their linear loss.
    """
    from scipy.special import gammaln, stdtr  # noqa: PLC0415 - as in `spread`

    centre, error, freedom = _difference(differences, pooled)
    if error == 0:
        return max(centre, 0.0)
    far = centre / error
    height = float(gammaln((freedom + 1) / 2) - gammaln(freedom / 2)) - 0.5 * math.log(freedom * math.pi)
    density = math.exp(height - (freedom + 1) / 2 * math.log1p(far * far / freedom))
    if freedom <= 1:  # of so heavy tails there is no mean
        return math.inf
    return centre * float(stdtr(freedom, far)) + error * (freedom + far * far) / (freedom - 1) * density


def _difference(differences: Sequence[float], pooled: Spread | None) -> tuple[float, float, float]:
    """Their mean, its standard error, and the degrees of freedom of that."""
    n, centre = len(differences), mean(differences)
    if n < 2:
        raise ValueError(f"an interval needs at least two values, not {n}")
    freedom: float = n - 1
    variance = math.fsum((value - centre) ** 2 for value in differences) / freedom
    if pooled is not None:
        freedom, variance = pooled.freedom, max(variance, 2 * pooled.variance)
    return centre, math.sqrt(variance / n), freedom


def blocks_needed(difference: float, sd: float, candidates: int, *, error: float, missed: float) -> int:
    """How many blocks it takes to find a true difference that is missed so often, where restarts scatter by `sd`.

    By the normal approximation to the power of `contrast`, with Student's quantiles. At least two; `difference` and
    `sd` in the same unit. ValueError unless the difference is above 0.
    """
    if difference <= 0:
        raise ValueError(f"only a difference above 0 can be found, not {difference}")
    low, high = 1, 2
    while _found(high, sd, candidates, error, missed) > difference:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if _found(middle, sd, candidates, error, missed) > difference:
            low = middle
        else:
            high = middle
    return high


def difference_found(blocks: int, sd: float, candidates: int, *, error: float, missed: float) -> float:
    """The least true difference that so many blocks find, at least two of them; otherwise as `blocks_needed`."""
    return _found(max(blocks, 2), sd, candidates, error, missed)


def _found(blocks: int, sd: float, candidates: int, error: float, missed: float) -> float:
    if blocks < 2:
        return math.inf
    freedom = (blocks - 1) * (candidates - 1)
    reach = student(freedom, 1 - 2 * error) + student(freedom, 1 - 2 * missed)
    return reach * sd * math.sqrt(2 / blocks)
