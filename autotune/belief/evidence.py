"""What a trial says, reduced to the numbers that a belief is fitted to."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Self, cast

from autotune.belief.question import JOULES
from autotune.metrics import CONFIDENCE, Summary
from autotune.spec import PER_JOULE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.belief.question import Bound, Question
    from autotune.metrics import Metrics
    from autotune.result import TrialResult
    from autotune.stats import Statistic

MISFITS = frozenset({"out_of_memory", "out_of_host_memory", "offloaded", "load_failed"})
"""Reasons of a trial that may mean that its configuration wants more memory than there is."""

REFUSED = "parallel_ignored"
USUAL_DOUBT = 0.01
"""About as far as windows know their output; it is part of the noise between trials."""
WIDE = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""Half of an interval, in standard deviations."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """One load. Durations in seconds; None where nothing was measured."""

    users: int
    tps: float
    tpot_s: float | None = None
    ttft_s: float | None = None
    tails: tuple[tuple[str, float], ...] = ()
    """Percentiles of the TTFT by name."""
    prefill_s: float | None = None
    busy: float | None = None
    """Slots in use, in all instances together."""
    parts: tuple[tuple[int, float], ...] = ()
    """TPOT by instance, in the order of the plan."""
    doubt: float | None = None
    """Standard deviation of the output's logarithm, by what the window itself says; None where it says nothing."""

    @property
    def vague(self) -> float:
        """By how much more than usual it is in doubt, in squares."""
        return math.sqrt(max(0.0, (self.doubt or 0.0) ** 2 - USUAL_DOUBT**2))

    def statistic(self, metric: str, statistic: str) -> float | None:
        """One figure that a limit may be about."""
        if metric == "tpot_s":
            return self.tpot_s
        if metric == "ttft_s":
            return self.ttft_s if statistic == "mean" else dict(self.tails).get(statistic)
        return None


@dataclass(frozen=True, slots=True)
class Evidence:
    """One trial."""

    params: Mapping[str, Any]
    loads: tuple[Loaded, ...] = ()
    """None where the trial could not be measured."""
    bounds: tuple[tuple[str, float], ...] = ()
    """What was measured of each limit, by its name, s."""
    misfit: bool = False
    """It could not be measured, for want of memory as far as one can tell."""
    failed: bool = False
    """It could not be measured."""
    refused: bool = False
    """So many slots were asked for as no instance is given."""
    slots: int | None = None
    """Of an instance, as it really ran; None where nobody said."""
    full_bytes: float | None = None
    """What an instance took of its devices, all of it together; None where nothing says."""
    used_bytes: float | None = None
    """What is in use of the fullest device, whoever uses it, as its driver says; None where nobody asked."""
    spilled: bool = False
    """Part of an instance was not on its devices."""
    seconds: float = 0.0
    rough: bool = False
    """Its loads ended before their time, as it could not be the best: its figures are no more than roughly right."""

    @property
    def measured(self) -> bool:
        """Whether there are figures."""
        return bool(self.loads)

    def to_json(self) -> str:
        """All but the parameters."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "params"})

    @classmethod
    def from_json(cls, params: Mapping[str, Any], said: Mapping[str, Any]) -> Self:
        """As `to_json` wrote it, parsed."""
        loads = tuple(
            Loaded(
                **{
                    **one,
                    "tails": tuple((name, value) for name, value in one["tails"]),
                    "parts": tuple((place, value) for place, value in one["parts"]),
                }
            )
            for one in said["loads"]
        )
        bounds = tuple((name, value) for name, value in said["bounds"])
        return cls(params, **{**said, "loads": loads, "bounds": bounds})

    def at(self, users: int) -> Loaded | None:
        """The load with so many users; None where there was none."""
        return next((load for load in self.loads if load.users == users), None)


def evidence(result: TrialResult, question: Question) -> Evidence:
    """What a result says: of all its loads of users without think time."""
    if not result.measured:
        return Evidence(
            result.params,
            failed=True,
            misfit=result.reason in MISFITS,
            refused=result.reason == REFUSED,
            seconds=result.seconds,
        )
    ports = _instances(result)
    every = {**result.levels, **result.curve}
    of = {users: metrics for label, metrics in every.items() if (users := _users(label)) and metrics.output_tps}
    known = [one.num_parallel for one in result.placements if one.num_parallel]
    sizes = [one.size_bytes for one in result.placements if one.size_bytes]
    values = {b.name: _value(b, result, of[b.users]) for b in question.bounds if b.users in of}
    rough = bool(result.dropped)
    return Evidence(
        params=result.params,
        loads=tuple(_loaded(users, metrics, ports, rough=rough) for users, metrics in of.items()),
        bounds=tuple((name, value) for name, value in values.items() if value),
        slots=min(known) if known else None,
        full_bytes=float(max(sizes)) if sizes else None,
        used_bytes=_used(result),
        spilled=any(one.size_vram_bytes < one.size_bytes for one in result.placements),
        seconds=result.seconds,
        rough=rough,
    )


def _value(bound: Bound, result: TrialResult, metrics: Metrics) -> float | None:
    if bound.metric != JOULES:
        return _time(bound, result, metrics)
    per_joule = result.score.goals.get(PER_JOULE)
    return 1 / per_joule if per_joule else None


def _time(bound: Bound, result: TrialResult, metrics: Metrics) -> float | None:
    """What a trial shows of a time. One that ended early has the requests that waited least, and says nothing of it but
    that it misses its limit, by no less than its verdict says."""
    value = metrics.statistic(bound.metric, cast("Statistic", bound.statistic))
    if not result.dropped:
        return value
    missed = result.score.constraints.get(bound.name, 0.0)
    least = (1 + missed) * bound.most if missed > 0 and bound.limit else None
    if bound.metric == "ttft_s" and metrics.ttft_waiting_s:
        return least
    return max(value or 0.0, least) if least else value


def _used(result: TrialResult) -> float | None:
    devices = [device.memory_used_bytes for samples in result.samples.values() for device in samples.after]
    return float(max(devices)) if devices else None


def _users(label: str) -> int | None:
    """Of a level, by its label."""
    match = re.fullmatch(r"(\d+) users", label)
    return int(match[1]) if match else None


def _loaded(users: int, metrics: Metrics, instances: Sequence[str], *, rough: bool) -> Loaded:
    """Of a load that ended early the TTFT is not taken where some were still waiting: those are the longest."""
    ttft = Summary() if rough and metrics.ttft_waiting_s else metrics.ttft_s
    tails = {"p50": ttft.p50, "p90": ttft.p90, "p95": ttft.p95, "p99": ttft.p99}
    parts = {
        place: metrics.instances[name].tpot_p50_s for place, name in enumerate(instances) if name in metrics.instances
    }
    return Loaded(
        users=users,
        tps=metrics.output_tps,
        tpot_s=metrics.tpot_s.mean,
        ttft_s=ttft.mean,
        tails=tuple((name, value) for name, value in tails.items() if value),
        prefill_s=metrics.prefill_s.mean,
        busy=metrics.generating,
        parts=tuple((place, value) for place, value in parts.items() if value),
        doubt=_doubt(metrics),
    )


def _doubt(metrics: Metrics) -> float | None:
    if metrics.output_tps_range is None or not metrics.output_tps:
        return None
    low, high = metrics.output_tps_range
    return (high - low) / (2 * WIDE * metrics.output_tps)


def _instances(result: TrialResult) -> list[str]:
    """Upstreams in the order of the plan.

    Results of older versions do not say it. There they are in the order of their ports, which are given in that order;
    where one answered nothing, nobody knows which.
    """
    if result.upstreams:
        return list(result.upstreams)
    names = {name for metrics in (*result.levels.values(), *result.curve.values()) for name in metrics.instances}
    return sorted(names, key=_port) if len(names) >= result.instances else []


def _port(name: str) -> int:
    port = name.rpartition(":")[2]
    return int(port) if port.isdigit() else 0
