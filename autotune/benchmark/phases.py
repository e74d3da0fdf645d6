"""The values of a load: how long its phases last, how it goes on, what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Protocol

from autotune.benchmark.pacer import OpenLoop
from autotune.records import scaled
from autotune.stats import Decision  # noqa: TC001 - the store reads the fields of Look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.benchmark.pacer import Level
    from autotune.benchmark.watch import Pulse
    from autotune.records import RequestRecord

Stage = Literal["warm-up", "window", "drain"]

EARLY = (0.25, 0.5)
"""Parts of the least window at which a load that is sure to miss a limit may already end."""
SCREENS = (0.75, 1.0)
"""Parts of the warm-up at which a load may end that is hopeless; then 1.5 times as late each time, while it lasts."""
LONGER = 1.25
"""From one planned end of the window to the next. They are planned, never an arrival or an answer: that would bias."""


@dataclass(frozen=True, slots=True)
class Phases:
    """How long each phase of a load lasts, in seconds."""

    warmup_s: float
    warmup_max_s: float
    """The warm-up goes on until every user and instance has answered, but not longer than this."""
    window_s: float
    window_max_s: float
    """The window grows until it has `min_requests` and its goal is reached, but not longer than this."""
    drain_s: float
    """Bound on what comes after the window."""
    min_requests: int = 0
    """As many as the statistics of the limits need, see `stats.enough`."""

    @property
    def looks(self) -> tuple[float, ...]:
        """When it is asked whether the window may end, in seconds from its start; the last is its greatest length."""
        found = [part * self.window_s for part in EARLY]
        end = self.window_s
        while end * LONGER**0.5 < self.window_max_s:
            found.append(end)
            end *= LONGER
        return (*found, self.window_max_s)

    @property
    def screens(self) -> tuple[float, ...]:
        """When it is asked whether the load is hopeless, in seconds from its start; none without a warm-up."""
        found = [part * self.warmup_s for part in SCREENS] if self.warmup_s else []
        while found and found[-1] * 1.5 < self.warmup_max_s:
            found.append(found[-1] * 1.5)
        return tuple(found)

    def scaled(self, factor: float) -> Phases:
        """The same on a clock that runs `factor` times as long."""
        times = ("warmup_s", "warmup_max_s", "window_s", "window_max_s", "drain_s")
        return replace(self, **{name: getattr(self, name) * factor for name in times})


@dataclass(frozen=True, slots=True)
class Sample:
    """A load at one moment."""

    at: float
    pieces: int
    """Pieces of text since its start: tokens, nearly."""
    in_flight: int
    held: int = 0
    """Requests that are due and cannot leave, since too many are on their way."""


def rates(samples: Sequence[Sample]) -> list[float]:
    """Pieces of text a second, from each sample to the next."""
    return [(after.pieces - before.pieces) / (after.at - before.at) for before, after in pairwise(samples)]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a load has seen when it is asked whether its window may end. Times on the clock of the records."""

    start: float
    at: float
    look: int
    """The how manieth look, from 1."""
    open_loop: bool
    steady: bool
    """Whether what is asked of the server stays the same all the time."""
    records: Sequence[RequestRecord]
    """Of all requests that have ended, those of the warm-up too."""
    waiting: Sequence[tuple[float, float | None]]
    """Of each request of the window that is on its way, or held: when it was asked, and when its first text came."""
    samples: Sequence[Sample]
    """Since the window's start."""


@dataclass(frozen=True, slots=True)
class Overload:
    """An open loop's queue that grows and grows: more is asked than can be answered."""

    offered: float
    """Requests/s that came, in the window."""
    served: float
    """Requests/s that were answered."""
    in_flight_per_s: tuple[float, float]
    """How fast the number of requests on their way, or held, grows: the ends of its interval, requests/s."""
    ttft_per_s: tuple[float, float] | None
    """How fast the TTFT grows: the ends of its interval, seconds/s; None where hardly a request had one."""

    @property
    def over(self) -> float:
        """By how much it was too much: 0.25 is a quarter more than what was answered."""
        return self.offered / self.served - 1 if self.served else float("inf")


@dataclass(frozen=True, slots=True)
class Look:
    """What is certain at one moment of the window."""

    enough: bool = True
    """Whether nothing more has to be known."""
    sunk: bool = False
    """Whether a limit is surely missed, or the queue grows without end: more time would change nothing."""
    limits: dict[str, Decision] = field(default_factory=dict)
    """Each limit, by "ttft_s p95": held, violated, or still open."""
    precision: float | None = None
    """Half the 95 % interval of the output rate, in parts of its mean; None where nothing can be said yet."""
    overload: Overload | None = None
    beaten: bool = False
    """Whether the output rate is surely below that of the best so far."""
    dropped: bool = False
    """Whether the candidate is out with it: what is still on its way is not waited for."""
    most_tps: float | None = None
    """Of one that is beaten: the most that its output rate may be, tokens/s."""
    part: float | None = None
    """The same, in parts of the rate that was to be beaten."""
    stage: Stage = "window"
    """Where the load ended."""
    after_s: float | None = None
    """Seconds from the load's start to this look; results of older versions do not say."""

    def scaled(self, factor: float) -> Look:
        """The same on a clock that runs `factor` times as long."""
        return replace(
            self,
            most_tps=None if self.most_tps is None else self.most_tps / factor,
            after_s=None if self.after_s is None else self.after_s * factor,
        )


class Goal(Protocol):
    """What a window is for."""

    @property
    def screens(self) -> Sequence[float]:
        """When the warm-up is asked, in seconds from its start; empty where it is not."""

    def look(self, seen: Seen) -> Look:
        """What is certain by now. The load goes on meanwhile: it may take some ms for each thousand requests."""

    def screen(self, seen: Seen) -> tuple[Look, float]:
        """What is certain in the warm-up, of all requests so far, and since when that holds.

        `seen.start` is when the last user began.
        """


class Anything:
    """The goal of a window that has none: it ends after its time."""

    screens: tuple[float, ...] = ()

    def look(self, _: Seen) -> Look:
        """Always enough."""
        return Look()

    def screen(self, seen: Seen) -> tuple[Look, float]:
        """Nobody asks."""
        return Look(enough=False, stage="warm-up"), seen.start


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
    """Mean over the last thousand requests of this stage that have their first text."""

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
    broken_off: bool = False
    """Somebody ended it before it had told enough."""
    pulses: tuple[tuple[Pulse, ...], tuple[Pulse, ...]] | None = None
    """The client's processes at the start and at the end of the window, on this host's own clock."""
    look: Look = Look()
    """The last look at the window, which ended it."""
    full: bool = False
    """Whether requests of the window were held, since as many were on their way as may be."""

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
            look=self.look.scaled(factor),
        )
