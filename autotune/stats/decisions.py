"""Whether a limit is met, as far as the data say: three answers, each with a bounded chance of being wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from autotune.stats.batches import FEWEST_BATCHES, effective_size
from autotune.stats.binomial import chance_of_at_least, chance_of_at_most

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.stats.intervals import Interval

Decision = Literal["holds", "violated", "open"]


def decide_share(
    violations: int, n: int, allowed_share: float, level: float, *, worth: float | None = None
) -> Decision:
    """Whether at most `allowed_share` of all requests violate a limit: 0.05 for a limit on p95.

    Two exact one-sided binomial tests, each with half of `level`: where more violate, "holds" is said with a chance of
    level/2 at most; where no more do, "violated" is. With a level of 0.05 and no violation, 72 requests settle p95, as
    `enough` says. "open" without requests. For more than one look take the level from `Looks`.

    It takes requests as independent, unless it is told how many independent ones they are `worth`. See `decide_series`.
    ValueError unless 0 ≤ violations ≤ n, 0 ≤ allowed_share < 1 and 0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"a level is between 0 and 1, not {level}")
    weight = 1.0 if worth is None or not n else min(1.0, worth / n)
    if chance_of_at_most(weight * violations, weight * n, allowed_share) <= level / 2:
        return "holds"
    return "violated" if chance_of_at_least(weight * violations, weight * n, allowed_share) <= level / 2 else "open"


def decide_series(violations: Sequence[bool], waits: Sequence[float], allowed_share: float, level: float) -> Decision:
    """The same for requests in the order they were asked in, of which neighbours may be alike.

    Who comes after a long wait in a queue waits long, too: the violations of such requests come in bursts, and
    `decide_share` errs in 10 … 20 of 100 cases where 2.5 are allowed. This one asks how many independent requests they
    are worth (`effective_size`): to "violated" by the violations, to "holds" also by the waits, s, as few violations do
    not say whether they come in bursts. In a queue 400 requests may be worth 40, and say little.
    "open" for fewer than 10 requests. ValueError where there are not as many waits, or as for `decide_share`.
    """
    n, count = len(violations), sum(violations)
    if len(waits) != n:
        raise ValueError(f"{len(waits)} waits for {n} requests")
    if n < FEWEST_BATCHES:
        return "open"
    bursts = effective_size([float(one) for one in violations], 1 - level)
    if decide_share(count, n, allowed_share, level, worth=bursts) == "violated":
        return "violated"
    worth = min(bursts, effective_size(waits, 1 - level))
    return "holds" if decide_share(count, n, allowed_share, level, worth=worth) == "holds" else "open"


def decide_mean(interval: Interval, limit: float) -> Decision:
    """Whether a mean is at most `limit`, from its interval at confidence 1 − level; both in the same unit.

    An interval that ends at the limit is within it. That of `mean_interval` for independent values, that of
    `batch_means` for a series.
    """
    if interval.high <= limit:
        return "holds"
    return "violated" if interval.low > limit else "open"
