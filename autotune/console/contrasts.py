"""Two loads held against each other, figure by figure: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.console.amounts import NONE, PERCENT, PLAIN, Cell, cell, interval, number, time_unit
from autotune.console.details import TIMES
from autotune.metrics import compare, difference, figures, verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from autotune.bench import Found
    from autotune.console.amounts import Unit
    from autotune.metrics import Metrics

COUNTS = {
    "output_tps": ("output TPS", PLAIN),
    "success_rate": ("success rate", PERCENT),
    "input_tokens": ("input tokens", PLAIN),
    "output_tokens": ("output tokens", PLAIN),
    "in_flight": ("in flight", PLAIN),
    "generating": ("with a slot", PLAIN),
}
"""How figures are called that are no times, and what they are shown in."""

CONTEXT = ("input_tokens", "output_tokens", "in_flight", "generating", "chunk_gap_s")
"""Neither good nor bad, or said by another figure too: shown where it changed."""
LEAST_CHANGE = 1.0
"""In percent."""

OF_A_PROXY = ("ttft_s.mean", "ttft_s.p50", "ttft_s.p95", "output_tps")

ONE_WINDOW = (
    "Each side is one window: what changes from start to start is in no interval here; and of 20 equal figures one"
    " looks different."
)


@dataclass(frozen=True, slots=True)
class Contrast:
    """One figure on both sides."""

    label: str
    before: str
    after: str
    change: str
    """In percent of what it was."""
    difference: Cell
    verdict: str
    """Better, worse or not distinguishable; a dash where nothing can be said."""


def contrasts(before: Metrics, after: Metrics) -> list[Contrast]:
    """Of all figures that are known on both sides and worth to be seen."""
    change = compare(before, after)
    both = (name for name in change if known(before, name) and known(after, name))
    return list(_contrasts(before, after, (name for name in both if _worth(name, change[name]))))


def of_a_proxy(direct: Metrics, via: Metrics) -> list[Contrast]:
    """What those who come through a proxy pay for it."""
    return list(_contrasts(direct, via, OF_A_PROXY))


def routes(found: Iterable[Found]) -> Iterator[tuple[str, Metrics, Metrics]]:
    """Each load that went both ways: its label, its figures without the proxy, its figures through it."""
    by = {one.label: one.metrics for one in found}
    for label, via in by.items():
        load = label.removesuffix(" via")
        if load != label and (direct := by.get(f"{load} direct")) is not None:
            yield load, direct, via


def known(metrics: Metrics, name: str) -> bool:
    """Whether a figure is there, and is made of enough values to be shown."""
    if figures(metrics)[name] is None:
        return False
    sample, _, statistic = name.partition(".")
    return not statistic or bool(getattr(metrics, sample).decided(statistic))


def _worth(name: str, change: float | None) -> bool:
    return name.partition(".")[0] not in CONTEXT or (change is not None and abs(change) >= LEAST_CHANGE)


def _contrasts(before: Metrics, after: Metrics, names: Iterable[str]) -> Iterator[Contrast]:
    old, new, change = figures(before), figures(after), compare(before, after)
    for name in names:
        label, unit = _named(name, old[name], new[name])
        both = known(before, name) and known(after, name)
        apart = difference(before, after, name) if both else None
        yield Contrast(
            label=label,
            before=cell(old[name], unit=unit).value if known(before, name) else NONE,
            after=cell(new[name], unit=unit).value if known(after, name) else NONE,
            change=_percent(change[name] if both else None),
            difference=Cell(number(apart.value, unit, "+"), interval((apart.low, apart.high), unit, "+"))
            if apart is not None
            else Cell(NONE),
            verdict=(verdict(before, after, name) if both else None) or NONE,
        )


def _named(name: str, *values: float | None) -> tuple[str, Unit]:
    if name in COUNTS:
        label, unit = COUNTS[name]
    else:
        sample, _, statistic = name.partition(".")
        label, unit = f"{TIMES[sample]} {statistic}", time_unit(*values)
    return unit.of(label), unit


def _percent(change: float | None) -> str:
    """What did not change has no sign."""
    if change is None:
        return NONE
    return f"{change:+.1f}%" if abs(change) >= 0.05 else "0%"
