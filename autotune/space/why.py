"""What is in a space, what is not, and why, in words."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from autotune.space.family import Listed
from autotune.space.shape import SLOTS, letter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autotune.inventory import Device
    from autotune.space.choices import Space, Value
    from autotune.space.family import Shapes
    from autotune.space.layout import Shape

PLAIN_CACHE = frozenset({"f32", "f16", "bf16"})
"""Types of the KV cache that are not quantised."""

_WHY = {
    "policy": "who gets the next request; where a layout has several instances",
    "weights": "whose share is larger; where instances differ in slots",
    "flash_attention": "less memory and often more speed, or less, by card and model",
    "kv_cache_type": "smaller keys and values leave room for slots; a quantised cache needs flash attention",
    "threads": "of each instance; on a CPU no more than its cores",
    "num_batch": "prompt tokens in one step: TTFT against the pace of answers",
}


@dataclass(frozen=True, slots=True)
class Dimension:
    """A parameter of a space."""

    name: str
    values: tuple[Value, ...]
    """A few of them only where they are too many to be listed."""
    count: int
    why: str
    """What it is for, and what it depends on."""


# what is there


def dimensions(space: Space) -> Iterator[Dimension]:
    """Each parameter."""
    for name, values in space.choices.items():
        if name == "layout":
            shown = values or tuple(str(space.family.spelled(shapes)) for shapes in _some(space))
            yield Dimension(name, shown, space.family.count, _layouts(space))
        else:
            yield Dimension(name, values, len(values), _slots(space, name) or _WHY.get(name) or "from search.env")


def _some(space: Space) -> Iterator[Shapes]:
    return islice(dict.fromkeys(space.family.alike(space.fitting)), 3)


def _layouts(space: Space) -> str:
    if isinstance(space.family, Listed):
        return "which devices serve which instance, as search.layouts has them"
    groups = [f"{letter(number)} = {_indices(devices)}" for number, devices in enumerate(space.limits.kinds)]
    told = "of which those of one kind can be swapped: " + ", ".join(groups)
    return f"which devices serve which instance, {told if len(groups) > 1 else 'all of which can be swapped'}"


def _indices(devices: Sequence[Device]) -> str:
    return " ".join(str(device.index) for device in devices)


def _slots(space: Space, name: str) -> str:
    of = name.partition("@")[2]
    if of:
        return f"the same of instances on {of}; where a layout has such, and others whose letters come first"
    others = len([other for other in space.choices if other.startswith(f"{SLOTS}@")])
    whose = "of the instances whose devices' letters come first" if others else "of each instance"
    return f"requests at a time, {whose}: more answer at once, fewer wait" if name == SLOTS else ""


# what does not go together


def clash(space: Space, flash: str, cache: str) -> str:
    """Why a cache does not go with this flash attention; empty if it does."""
    if cache in PLAIN_CACHE:
        return ""
    if flash == "off":
        return f"kv_cache_type {cache} with flash_attention off: a quantised cache needs flash attention"
    if flash == "auto" and space.cache_brings_flash and "on" in space.choices["flash_attention"]:
        return f"kv_cache_type {cache} with flash_attention auto: before Ollama 0.30 this is the same as on"
    return ""


def conflicts(space: Space) -> Iterator[str]:
    """One line for each rule and value."""
    for cache in space.choices["kv_cache_type"]:
        said = (clash(space, str(flash), str(cache)) for flash in space.choices["flash_attention"])
        yield from filter(None, said)
    cores = dict.fromkeys(map(space.limits.cores, space.family.shapes))
    for many in cores:
        for threads in space.choices.get("threads", ()):
            if 0 < many < int(threads):
                both = f"threads {threads} with {many} as the cores of an instance"
                yield f"{both}: more threads than cores make it crawl"


# what does not fit


@dataclass(frozen=True, slots=True)
class _Short:
    """A shape that lacks memory from so many slots on."""

    shape: Shape
    slots: int
    cache: str


def shortages(space: Space) -> Iterator[str]:
    """One line for all layouts that fail for the same cause."""
    found = []
    for cache in map(str, space.choices["kv_cache_type"]):
        short = sorted(_short(space, cache), key=lambda one: (one.slots, one.shape.sorting()))
        within = list(space.family.shapes)
        for one in short:
            layout, many = space.family.first(one.shape, within)
            within.remove(one.shape)  # a layout is told once, by the first that it lacks memory for
            if many:
                found.append((one, layout, many))
    for one, layout, many in sorted(found, key=lambda item: (len(item[1].instances), len(item[1].devices), item[1])):
        others = f" and {many - 1} more" if many > 1 else ""
        lack = space.limits.short(one.shape, one.slots, one.cache)
        yield f"layout {layout}{others} with {_from(space, one.slots, one.cache)}: {lack}"
    yield from _together(space)


def _short(space: Space, cache: str) -> Iterator[_Short]:
    for shape in space.family.shapes:
        failing = [slots for slots in space.slots if space.limits.short(shape, slots, cache)]
        if failing:
            yield _Short(shape, min(failing), cache)


def _together(space: Space) -> Iterator[str]:
    """Instances on the CPU that fit the RAM one by one, but not all."""
    crowd = space.family.crowd("cpu")
    for cache in map(str, space.choices["kv_cache_type"]):
        for slots in sorted(space.slots, reverse=True):
            most = space.limits.most_together(slots, cache)
            least = min((one for one in space.slots if space.limits.most_together(one, cache) == most), default=slots)
            if most is not None and 0 < most < crowd and slots == least:
                lack = space.limits.together(most + 1, slots, cache)
                many = f"{most} instance{'s' if most > 1 else ''}"
                yield f"more than {many} on the CPU with {_from(space, slots, cache)}: {lack}"


def _from(space: Space, slots: int, cache: str) -> str:
    more = "" if slots == max(space.slots) else " or more"
    return f"num_parallel {slots}{more}" + (
        f" and kv_cache_type {cache}" if len(space.choices["kv_cache_type"]) > 1 else ""
    )
