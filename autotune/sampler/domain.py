"""A space in Optuna's words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ORDERED = ("num_parallel", "threads", "num_batch")
"""Parameters that are numbers; the others are categories."""


def ordered(name: str) -> bool:
    """Whether the values of a parameter are numbers; `num_parallel@B` is one as `num_parallel` is."""
    return name.partition("@")[0] in ORDERED


def widened(known: Mapping[str, Sequence[Any]], every: Iterable[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """The values of each parameter, with those of some configurations: what lies outside must be representable, too."""
    values = {name: dict.fromkeys(them) for name, them in known.items()}
    for params in every:
        for name in params.keys() & values.keys():
            values[name][params[name]] = None
    return {name: tuple(them) for name, them in values.items()}


def distributions(known: Mapping[str, Sequence[Any]]) -> dict[str, BaseDistribution]:
    """Numbers are ordered, by their ratio: 8 and 16 are as far apart as 16 and 32. All else is a category."""
    return {
        name: IntDistribution(min(values), max(values), log=True)
        if ordered(name)
        else CategoricalDistribution(list(values))
        for name, values in known.items()
    }


def nearest(drawn: Any, values: Sequence[Any]) -> Any:
    """The value that a drawn number means."""
    if drawn in values or isinstance(drawn, str):
        return drawn
    return min(values, key=lambda value: abs(math.log(value / drawn)))
