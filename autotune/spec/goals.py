"""What a study may be after at once: goals by their names, one of them the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from autotune.spec.values import Statistic, Unique, like

OUTPUT, CAPACITY, PER_JOULE = "output_tps", "capacity", "tokens_per_joule"
OTHERWISE = {"tps": OUTPUT}
"""What else a goal is called."""
FEWEST, MOST = 2, 3
_STATISTICS: tuple[Statistic, ...] = ("mean", "p50", "p90", "p95", "p99")
_TIMES = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure of the objective's load that is to be as large, or as small, as can be."""

    name: str
    """In its unit: `ttft_p95_s`."""
    metric: str = ""
    """`ttft_s`, `tpot_s` or `e2e_s`; empty for what is no time."""
    statistic: Statistic = "mean"
    """Of a time."""

    @property
    def larger(self) -> bool:
        """Whether more of it is better."""
        return not self.metric


GOALS = {
    **{name: Goal(name) for name in (OUTPUT, PER_JOULE)},
    **{f"{time}_{one}_s": Goal(f"{time}_{one}_s", f"{time}_s", one) for time in _TIMES for one in _STATISTICS},
}
"""All there are, by name."""

_ALLOWED = f"{OUTPUT}, {', '.join(f'{time}_<statistic>_s' for time in _TIMES)} ({', '.join(_STATISTICS)}), {PER_JOULE}"
_NAMES = {*GOALS, *OTHERWISE, CAPACITY}
_PATTERN = f"tps|{OUTPUT}|{PER_JOULE}|({'|'.join(_TIMES)})_({'|'.join(_STATISTICS)})_s"


def metric(value: object) -> str | tuple[str, ...]:
    """One answer by its name, or several, the output first."""
    if value in (OUTPUT, CAPACITY):
        return str(value)
    if not isinstance(value, list | tuple):
        raise ValueError(f'allowed are "{OUTPUT}", "{CAPACITY}", or a list of goals: {_ALLOWED}')  # noqa: TRY004 - pydantic reports ValueErrors
    if strange := [one for one in value if not isinstance(one, str) or one not in _NAMES]:
        raise ValueError(f"{strange[0]!r} is no goal; allowed are {_ALLOWED}")
    names = [str(OTHERWISE.get(one, one)) for one in value]
    if CAPACITY in names:
        raise ValueError(f'a capacity is no goal beside others: metric = "{CAPACITY}"; allowed here are {_ALLOWED}')
    if len(set(names)) < len(names):
        raise ValueError(f"the same goal twice; allowed are {FEWEST} or {MOST} of {_ALLOWED}")
    if not FEWEST <= len(names) <= MOST:
        raise ValueError(f'allowed are {FEWEST} or {MOST} goals; for one answer write metric = "{OUTPUT}"')
    if OUTPUT not in names:
        raise ValueError(f"{OUTPUT} has to be among the goals")
    return (OUTPUT, *(one for one in names if one != OUTPUT))


Several = Annotated[
    tuple[Annotated[str, like(_PATTERN, "goals")], ...], Field(min_length=FEWEST, max_length=MOST), Unique
]
"""As an editor is told of it."""
Metric = Annotated[
    str | tuple[str, ...],
    BeforeValidator(metric, json_schema_input_type=Literal["output_tps", "capacity"] | Several),
]
