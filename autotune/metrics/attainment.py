"""How many requests met all limits at once, and how many tokens they brought."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.metrics.requests import tpot_s
from autotune.metrics.summary import CONFIDENCE, Range
from autotune.metrics.tokens import output_tps, tokens_per_chunk
from autotune.records import Outcome, RequestRecord
from autotune.stats import proportion_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from autotune.metrics.window import Window


@dataclass(frozen=True, slots=True)
class Attainment:
    """The joint fulfilment of all limits, request by request: errors and timeouts are violations."""

    requests: int
    """Those of which it is known."""
    good: int
    share: float
    """Of the requests, 0 to 1; 0 without requests."""
    range: Range
    """Its exact 95 % interval (Clopper and Pearson)."""
    goodput_tps: float
    """Tokens/s in the window from requests that met all limits."""


def attain(records: Sequence[RequestRecord], window: Window, limits: Iterable[tuple[str, float]]) -> Attainment | None:
    """Of the requests of the window; None without limits.

    `limits` are seconds with their names, `ttft_s`, `tpot_s` or `e2e_s`; of several with one name the strictest counts.
    """
    most: dict[str, float] = {}
    for name, limit_s in limits:
        most[name] = min(limit_s, most.get(name, limit_s))
    return _attain(records, window, most) if most else None


def _attain(records: Sequence[RequestRecord], window: Window, limits: Mapping[str, float]) -> Attainment:
    asked = [r for r in records if window.has(window.asked_at(r)) and not window.cold(r)]
    known = [met for record in asked if (met := meets(record, window, limits)) is not None]
    good, n = sum(known), len(known)
    between = proportion_interval(good, n, CONFIDENCE) if n else None
    clean = [record for record in records if meets(record, window, limits)]
    return Attainment(
        requests=n,
        good=good,
        share=good / n if n else 0.0,
        range=(between.low, between.high) if between else (0.0, 1.0),
        goodput_tps=output_tps(clean, window, tokens_per_chunk(records)),
    )


def meets(record: RequestRecord, window: Window, limits: Mapping[str, float]) -> bool | None:
    """Whether a request met all limits; None for one that was cut off before that could be seen."""
    if record.outcome not in (Outcome.OK, Outcome.EMPTY, Outcome.CUT_OFF):
        return False
    asked_at, ended_at = window.asked_at(record), record.finished_at
    waited_s = None if ended_at is None else ended_at - asked_at
    first_s = None if record.first_content_at is None else record.first_content_at - asked_at
    cut = record.outcome is Outcome.CUT_OFF
    # of one that was cut off, what it had waited by then is the least that it would have been
    seen = {"ttft_s": waited_s if first_s is None else first_s, "tpot_s": tpot_s(record), "e2e_s": waited_s}
    if any(at is not None and at > limits[name] for name, at in seen.items() if name in limits):
        return False
    open_ = {"ttft_s"} if first_s is None else set()
    return None if cut and limits.keys() & (open_ | {"tpot_s", "e2e_s"}) else True
