"""The measurement window, and which moment of a request puts it inside."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.records import RequestRecord

COLD_S = 0.25
"""Loading a model takes longer than this: of a tiny one on a CPU 0.26 s was the least that was recorded.

Of a warm one `load_duration` is a few milliseconds, but it has the scheduler's queue in it, too: on a busy CPU Ollama
0.32 was seen to take up to 0.23 s for it, of one request in thirty. These have waited, and belong to the times.
"""


@dataclass(frozen=True, slots=True)
class Window:
    """[start, end), s on the clock of the records."""

    start: float
    end: float
    open_loop: bool
    cold_s: float

    @property
    def length_s(self) -> float:
        """Of the window, s."""
        return self.end - self.start

    def has(self, at: float | None) -> bool:
        """Whether a moment is inside: [start, end)."""
        return at is not None and self.start <= at < self.end

    def cold(self, record: RequestRecord) -> bool:
        """Whether the request had to wait for the model to be loaded."""
        return record.load_duration_s is not None and record.load_duration_s > self.cold_s

    def asked_at(self, record: RequestRecord) -> float:
        """The stamp from which the TTFT counts. One that could not even be written waits from when it should have."""
        return record.intended_at if self.open_loop or record.written_at is None else record.written_at

    def inside(self, times: Sequence[float]) -> range:
        """Positions of the times, which never decrease, that are inside."""
        return range(bisect_left(times, self.start), bisect_left(times, self.end))

    def overlap_s(self, begin: float | None, end: float | None) -> float:
        """How much of a span is inside, s."""
        if begin is None or end is None:
            return 0.0
        return max(0.0, min(end, self.end) - max(begin, self.start))

    def per_second(self, amount: float) -> float:
        """An amount of the whole window as a rate."""
        return amount / self.length_s if self.length_s > 0 else 0.0
