"""What happened when, as a table: in seconds of this wall clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from autotune.analysis.columns import MOMENT, REAL, TEXT, WHOLE, frame, of
from autotune.analysis.reading import PROOF, SEARCH
from autotune.events import by_night

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.analysis.columns import Row
    from autotune.analysis.reading import Study

STAGES = ("start", "preload", "verify", "load", "collect")
"""What a trial goes through, in this order."""
_STAGE = {
    **of(WHOLE, "night"),
    **of(TEXT, "phase"),
    **of(WHOLE, "proof", "number"),
    **of(TEXT, "stage", "level"),
    **of(MOMENT, "begin", "end"),
    **of(REAL, "begin_s", "end_s", "seconds"),
    **of(TEXT, "error"),
}


def stages(study: Study) -> pd.DataFrame:
    """A row for each stage of a trial that came to its end, in seconds of this wall clock.

    `begin` and `end` are moments, UTC; `begin_s` and `end_s` count from the begin of their `night`: a study that was
    gone on with has several. `proof` is the number of the proof; `error` is what a stage was broken off by.
    """
    rows = (
        _stage(night, events[0]["t"], event)
        for night, events in enumerate(by_night(study.events))
        for event in events
        if event["what"] in STAGES and "number" in event
    )
    return frame(rows, _STAGE)


def _stage(night: int, began: float, event: Mapping[str, Any]) -> Row:
    end, seconds = pd.Timestamp(event["at"]), event["seconds"]
    return {
        "night": night,
        "phase": PROOF if "proof" in event else SEARCH,
        "proof": event.get("proof"),
        "number": event["number"],
        "stage": event["what"],
        "level": event.get("label", ""),
        "begin": end - pd.Timedelta(seconds=seconds),
        "end": end,
        "begin_s": event["t"] - seconds - began,
        "end_s": event["t"] - began,
        "seconds": seconds,
        "error": event.get("error", ""),
    }
