"""What the requests of a trial say of the machine beneath them: pure, from records to steps and waits.

Ollama tells how long each prompt took; with the times of the pieces this says when each slot was busy. A pause between
two pieces in which nobody came or went is one decode step of so many busy slots.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autotune.plan import Plan
    from autotune.records import RequestRecord

FEWEST = 20
"""Pauses of which a median is worth something."""

CLOSE = 0.3
"""Pieces of one step come a little apart: what is nearer to an end of a pause than this part of it is not inside."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """One instance under one load."""

    trial: str
    """Its number; of a run of a proof with the proof's."""
    candidate: str
    """What ran: equal for repeats."""
    instance: str
    devices: tuple[str, ...]
    residents: int
    """Instances on its device, itself included."""
    instances: int
    """Of the cluster."""
    steps: Mapping[int, tuple[float, int]]
    """By busy slots: the median step, s, and of how many."""
    prompts: tuple[tuple[int, float], ...]
    """Of those whose prompt was read alone: its tokens, and how long that took with the first step, s."""
    prompts_busy: tuple[int, ...]
    """Slots that were busy in that first step."""
    aways: tuple[float, ...]
    """Of those that found a free slot: from the question to the start of their prompt, s."""


@dataclass(frozen=True, slots=True)
class _Stay:
    """One request in its slot."""

    record: RequestRecord
    begin: float
    end: float


def sightings(trial: str, plan: Plan, records: Sequence[RequestRecord]) -> Iterator[Sighting]:
    """What one load says of each instance of a plan. Instances that nobody heard of are left out."""
    alone = len(plan.instances) == 1
    for one in plan.instances:
        own = [record for record in records if record.upstream == one.address or (alone and not record.upstream)]
        stays = _stays(own)
        if not stays:
            continue
        begins, ends = sorted(stay.begin for stay in stays), sorted(stay.end for stay in stays)
        steps = _steps(stays, begins, ends)
        first = list(_prompts(stays, begins, ends))
        yield Sighting(
            trial=trial,
            candidate=plan.fingerprint,
            instance=one.name,
            devices=one.devices,
            residents=max(sum(device in other.devices for other in plan.instances) for device in one.devices),
            instances=len(plan.instances),
            steps=steps,
            prompts=tuple(prompt for prompt, _ in first),
            prompts_busy=tuple(busy for _, busy in first),
            aways=tuple(_aways(stays, begins, ends, one.slots)),
        )


def _stays(records: Sequence[RequestRecord]) -> list[_Stay]:
    told = [record.prompt_eval_duration_s for record in records if record.prompt_eval_duration_s is not None]
    if not told:
        return []
    usual = median(told)  # of one that was cut off the server tells nothing
    spoke = [record for record in records if record.chunk_times]
    return [
        _Stay(
            record,
            record.chunk_times[0] - (usual if record.prompt_eval_duration_s is None else record.prompt_eval_duration_s),
            record.chunk_times[-1],
        )
        for record in spoke
    ]


def _busy(begins: Sequence[float], ends: Sequence[float], at: float) -> int:
    return bisect_right(begins, at) - bisect_left(ends, at)


def _between(times: Sequence[float], low: float, high: float) -> bool:
    return bisect_left(times, low) < bisect_right(times, high)


def _steps(stays: Sequence[_Stay], begins: Sequence[float], ends: Sequence[float]) -> dict[int, tuple[float, int]]:
    found: defaultdict[int, list[float]] = defaultdict(list)
    for stay in stays:
        times = stay.record.chunk_times
        for before, after in pairwise(times):
            edge = CLOSE * (after - before)
            # a prompt that began with the step made it longer
            if _between(begins, before - edge, after - edge) or _between(ends, before + edge, after - edge):
                continue
            found[_busy(begins, ends, (before + after) / 2)].append(after - before)
    known = {busy: (median(pauses), len(pauses)) for busy, pauses in found.items() if len(pauses) >= FEWEST}
    # where most texts came two at a time, nothing says how long a step took
    return {busy: (step_s, count) for busy, (step_s, count) in known.items() if step_s > 0}


def _prompts(
    stays: Sequence[_Stay], begins: Sequence[float], ends: Sequence[float]
) -> Iterator[tuple[tuple[int, float], int]]:
    for stay in stays:
        record = stay.record
        tokens, took_s = record.prompt_eval_count, record.prompt_eval_duration_s
        if not tokens or not took_s:
            continue
        edge = CLOSE * took_s
        if bisect_right(begins, stay.begin + took_s - edge) - bisect_left(begins, stay.begin - edge) == 1:
            yield (tokens, took_s), _busy(begins, ends, stay.begin + took_s / 2)


def _aways(stays: Sequence[_Stay], begins: Sequence[float], ends: Sequence[float], slots: int) -> Iterator[float]:
    for stay in stays:
        written = stay.record.written_at
        if written is None or stay.record.prompt_eval_duration_s is None:
            continue
        came = begins[bisect_right(begins, written) : bisect_left(begins, stay.begin)]
        if all(_busy(begins, ends, at) < slots for at in (written, *came)):
            yield max(0.0, stay.begin - written)
