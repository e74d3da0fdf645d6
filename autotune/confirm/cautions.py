"""What calls for doubt in a proof as a whole: each caution with its figures. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.confirm.contest import Kind
from autotune.confirm.order import BASELINE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.confirm.conditions import Heat
    from autotune.confirm.contest import Verdict


def cautions(verdict: Verdict) -> tuple[str, ...]:
    """Of drift and heat, where they are certain."""
    return (*_drift(verdict), *_heat(verdict, verdict.heat))


def _drift(verdict: Verdict) -> Iterator[str]:
    if verdict.drift is not None and verdict.drift.certain:
        yield (
            f"this host changed by {verdict.drift} over the proof: blocks take that out of the comparison, not out of"
            " the tokens/s"
        )
    one = verdict.recommended if verdict.kind is Kind.WINNER else verdict.nearest
    moved = verdict.shift(one)
    if moved is not None and moved.certain:
        yield f"what {_name(one)} makes against the baseline changed by {moved} over the proof: it may not last"


def _heat(verdict: Verdict, found: Heat | None) -> Iterator[str]:
    if found is None:
        return
    if found.throttled:
        each = ", ".join(
            f"{_name(at)} in {found.throttled.get(at, 0)} of {len(one.runs)}"
            for at, one in enumerate(verdict.contenders)
        )
        yield (
            f"GPUs were throttled in the proof ({', '.join(found.reasons)}; {_hottest(found)}): {each}. Better"
            " cooling, or a lower power limit, makes figures that repeat"
        )
    for gpu, one in found.slower.items():
        yield f"the clock of GPU {gpu} changed by {one} over the proof, {_hottest(found)}: was it warm at first?"


def _name(at: int) -> str:
    return "the baseline" if at == BASELINE else f"finalist {at}"


def _hottest(found: Heat) -> str:
    return "of its heat nothing is known" if found.hottest_c is None else f"{found.hottest_c} °C at most"
