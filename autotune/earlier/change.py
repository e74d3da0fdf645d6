"""What has changed between two studies: whether one still tells anything of the other, and how much."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from autotune.plan import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autotune.plan import Provenance, ProvenDevice
    from autotune.spec import StudySpec

ALIKE = 0.02
"""Devices are the same whose memory differs by no more than this part: drivers and kernels keep some for themselves."""
DRIVER, OLLAMA, OTHERS, SETTING = 1.0, 1.5, 1.5, 0.5
OCTAVE = 0.5
"""Of lengths and users."""
AGED_DAYS, OLDEST = 90.0, 2.0
TOLD_DAYS = 30.0
"""An age that is worth a word."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is not as it was; where one of size 1 is all, parameters may have drifted √2 times as far."""

    words: str
    size: float


def weight(changes: Sequence[Change]) -> float:
    """What an earlier study counts, in parts of what it would if nothing had changed."""
    return 1 / (1 + sum(one.size**2 for one in changes))


def strange(before: Sequence[ProvenDevice], now: Sequence[ProvenDevice]) -> str:
    """Why these are not the same devices; empty where they are."""
    same = len(before) == len(now) and all(
        one.name == other.name and abs(one.memory_bytes - other.memory_bytes) <= ALIKE * other.memory_bytes
        for one, other in zip(before, now, strict=True)
    )
    return "" if same else f"of another host: {_devices(before)}; here there are {_devices(now)}"


def _devices(every: Sequence[ProvenDevice]) -> str:
    counts = Counter(f"{one.name} ({one.memory_bytes / GIB:.1f} GiB)" for one in every)
    return ", ".join(f"{count} × {name}" for name, count in counts.items()) or "none"


def of_host(before: Provenance, now: Provenance) -> Iterator[Change]:
    """What is not the same of hosts with the same devices."""
    if [one.id for one in before.devices] != [one.id for one in now.devices]:
        yield Change("other devices of the same kind", OTHERS)
    elif before.host != now.host and not before.driver:  # cards have names that no other has, processors have not
        yield Change(f"host {before.host} → {now.host}", OTHERS)
    if before.driver != now.driver:
        yield Change(f"driver {before.driver or 'none'} → {now.driver or 'none'}", DRIVER)
    if before.ollama != now.ollama:
        yield Change(f"Ollama {before.ollama} → {now.ollama}", OLLAMA)


def of_load(before: StudySpec, now: StudySpec, *, other_prompts: bool = False) -> Iterator[Change]:
    """What is not asked as it was; `other_prompts`: a file of prompts says something else."""
    then, here = before.level(None), now.level(None)
    if then.label != here.label:
        octaves = abs(math.log2(here.users / then.users)) if here.users and then.users else 1.0
        yield Change(f"{then.label} → {here.label}", OCTAVE * octaves)
    lengths = _lengths(before), _lengths(now)
    for name, was in lengths[0].items():
        if (value := lengths[1][name]) != was:
            octaves = abs(math.log2(value / was)) if value and was else 1.0
            yield Change(f"{name} {was or 'unknown'} → {value or 'unknown'}", OCTAVE * octaves)
    kinds = ("endpoint", "think", "shared_prefix", "conversation")
    others = [name for name in kinds if getattr(before.workload, name) != getattr(now.workload, name)]
    for name in [*others, *(["prompts"] if other_prompts else [])]:
        yield Change(f"another workload.{name}", SETTING)


def _lengths(spec: StudySpec) -> dict[str, int]:
    """Tokens; 0 where the study does not say."""
    prompt = spec.workload.input_tokens
    return {
        "num_ctx": spec.workload.num_ctx,
        "tokens of an answer": spec.workload.num_predict.mean,
        "tokens of a prompt": prompt.mean if prompt is not None else 0,
    }


def of_settings(before: StudySpec, now: StudySpec) -> Iterator[Change]:
    """What all instances have in common."""
    for name in sorted({*before.cluster.env, *now.cluster.env}):
        was, here = (spec.cluster.env.get(name) for spec in (before, now))
        if was != here:
            yield Change(f"{name} {was} → {here}", SETTING)


def of_space(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    """What other parameters stand at while nobody turns them: the law's own parameters hold for these."""
    for name in sorted({*before, *now}):
        was, here = before.get(name), now.get(name)
        if was != here:
            yield Change(f"{name} {was} → {here}", SETTING)


def of_age(began_at: str, now: datetime) -> Iterator[Change]:
    """Hosts change in ways that nobody writes down."""
    try:
        began = datetime.fromisoformat(began_at)
    except ValueError:
        return
    days = (now - (began if began.tzinfo else began.replace(tzinfo=UTC))).total_seconds() / 86400
    if days > TOLD_DAYS:
        yield Change(f"{days:.0f} days old", min(days / AGED_DAYS, OLDEST))
