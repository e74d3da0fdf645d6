"""How well the client did its own work in a window: past the limits, what it measured is no figure of the server."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autotune.benchmark.pacer import ClosedLoop
from autotune.stats import enough

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.benchmark.phases import LoadResult
    from autotune.metrics import Metrics

MOST_CPU = 0.5
"""Of a core, of one client process: beyond it bytes wait for the client again and again."""

MOST_LAG_S = 0.015
"""Of the event loop, 99 of 100 times. One that is blocked for 20 ms again and again is beyond it; one that shares its
cores with a model is not (`benchmark.worker.hurried`)."""

ADVICE = "where a model runs on the CPU, run autotune as root, or raise `ulimit -r`: its client then goes first"

MOST_LAG = 0.02
"""The same as a part of the TTFT limit, where that is less."""

LEAST_SPAN_S = 1.0
"""Over less, processor time is that of one moment."""

LEAST_LAG_S = 0.002
"""The timers of a loop are no finer than a millisecond: less lag than this nobody can ask for."""


@dataclass(frozen=True, slots=True)
class Health:
    """The client's own figures of one window. Times in seconds of this host; None where nothing is known."""

    processes: int
    loop_lag_s: float | None
    """99 of 100 times the event loop was at most so late (the worst process)."""
    cpu: float | None
    """Processor time by wall-clock time of the process that took the most: 1 is a whole core."""
    cpu_s_per_1000_tokens: float | None
    """Of all processes together."""
    send_lag_s: float | None
    """99 of 100 requests were handed to the socket at most so long after their intended time."""
    receive_lag_s: float | None
    """99 of 100 first texts lay ready for at most so long before they were read; their stamps do not include it."""
    in_flight: float
    """Requests on their way, in the mean."""
    intended_in_flight: int | None
    """The users of a closed loop."""
    connected: int
    """Requests of the window that had to open a connection first."""
    little: float | None
    """What Little's law leaves, in parts of `in_flight`: near 0 where the load was steady."""
    faults: tuple[str, ...] = ()
    """Why the figures are not to be used; empty for a healthy client."""


def examine(loaded: LoadResult, metrics: Metrics, ttft_limit_s: float | None = None, scale: float = 1.0) -> Health:
    """The health of the client in the window of a load.

    `loaded` is on this host's clock; the seconds of `metrics` and of the TTFT limit are `scale` of it. Without pulses
    (a client that cannot tell) nothing is known of its processes, and nothing is held against it. Nor is it where a
    window is too short to tell a rare pause from one after the other, or where the server only failed. Requests that
    leave late because as many are on their way as may be are the server's: these are more than it has slots.
    """
    before, after = loaded.pulses or ((), ())
    spans = [late.since(early) for early, late in zip(before, after, strict=True)]
    lags = [lag for span in spans if (lag := span.lag_s(0.99)) is not None]
    tokens = metrics.output_tps * metrics.window_s
    health = Health(
        processes=len(spans),
        loop_lag_s=max(lags, default=None),
        cpu=max((span.cpu_s / span.at for span in spans if span.at > 0), default=None),
        cpu_s_per_1000_tokens=math.fsum(span.cpu_s for span in spans) / tokens * 1000 if spans and tokens else None,
        send_lag_s=None if metrics.send_lag_s.p99 is None else metrics.send_lag_s.p99 / scale,
        receive_lag_s=None if metrics.receive_lag_s.p99 is None else metrics.receive_lag_s.p99 / scale,
        in_flight=metrics.in_flight,
        intended_in_flight=loaded.level.users if isinstance(loaded.level, ClosedLoop) else None,
        connected=metrics.connected,
        little=metrics.little,
    )
    most_s = MOST_LAG_S
    if ttft_limit_s is not None:
        most_s = max(LEAST_LAG_S, min(most_s, MOST_LAG * ttft_limit_s / scale))
    if loaded.gave_up:
        return health
    asked = enough("p99")
    judged = replace(
        health,
        loop_lag_s=health.loop_lag_s if all(sum(span.lags) >= asked for span in spans) else None,
        cpu=health.cpu if all(span.at >= LEAST_SPAN_S for span in spans) else None,
        send_lag_s=health.send_lag_s
        if loaded.open_loop and not loaded.full and metrics.send_lag_s.n >= asked
        else None,
    )
    return replace(health, faults=tuple(_faults(judged, most_s)))


def _faults(health: Health, most_s: float) -> Iterator[str]:
    if health.loop_lag_s is not None and health.loop_lag_s > most_s:
        late_ms, most_ms = 1000 * health.loop_lag_s, 1000 * most_s
        yield f"its event loop was up to {late_ms:.1f} ms late (p99); allowed is {most_ms:.1f} ms"
    if health.cpu is not None and health.cpu > MOST_CPU:
        yield f"it took {health.cpu:.0%} of a core in one process; allowed is {MOST_CPU:.0%}"
    if health.processes and health.send_lag_s is not None and health.send_lag_s > most_s:
        yield f"requests left up to {1000 * health.send_lag_s:.1f} ms late (p99); allowed is {1000 * most_s:.1f} ms"
