"""The values of a load: how long its phases last, how it goes on, what came of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from autotune.benchmark.pacer import OpenLoop
from autotune.records import scaled

if TYPE_CHECKING:
    from autotune.benchmark.pacer import Level
    from autotune.records import RequestRecord

Stage = Literal["warm-up", "window", "drain"]


@dataclass(frozen=True, slots=True)
class Phases:
    """How long each phase of a load lasts, in seconds."""

    warmup_s: float
    warmup_max_s: float
    """The warm-up goes on until every user and instance has answered, but not longer than this."""
    window_s: float
    window_max_s: float
    """The window grows until it has `min_requests`, but not longer than this."""
    drain_s: float
    """Bound on what comes after the window."""
    min_requests: int = 0
    """As many as the statistics of the limits need, see `stats.enough`."""

    def scaled(self, factor: float) -> Phases:
        """The same on a clock that runs `factor` times as long."""
        times = ("warmup_s", "warmup_max_s", "window_s", "window_max_s", "drain_s")
        return replace(self, **{name: getattr(self, name) * factor for name in times})


@dataclass(frozen=True, slots=True)
class Progress:
    """What a load has seen so far: rough figures, to be looked at and forgotten."""

    stage: Stage
    elapsed_s: float
    """Since the stage began."""
    planned_s: float
    """How long it is meant to last; it may last longer."""
    requests_done: int
    output_tps: float
    """Pieces of text per second since the stage began."""
    ttft_s: float | None
    """Mean over the requests of this stage that have their first text."""

    def scaled(self, factor: float) -> Progress:
        """The same on a clock that runs `factor` times as long."""
        return replace(
            self,
            elapsed_s=self.elapsed_s * factor,
            planned_s=self.planned_s * factor,
            output_tps=self.output_tps / factor,
            ttft_s=None if self.ttft_s is None else self.ttft_s * factor,
        )


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The raw material of one load. Times are the event loop's; the window is [start, end)."""

    level: Level
    window_start: float
    window_end: float
    records: tuple[RequestRecord, ...]
    """One for each request that was ever sent, in the order of their index."""
    cautions: tuple[str, ...] = ()
    gave_up: bool = False
    """Nothing but failures came back, so that it ended early; the window may be shorter, or empty."""

    @property
    def open_loop(self) -> bool:
        """Whether waiting counts from the intended times."""
        return isinstance(self.level, OpenLoop)

    def scaled(self, factor: float) -> LoadResult:
        """The same on a clock that runs `factor` times as long."""
        return replace(
            self,
            window_start=self.window_start * factor,
            window_end=self.window_end * factor,
            records=tuple(scaled(record, factor) for record in self.records),
        )
