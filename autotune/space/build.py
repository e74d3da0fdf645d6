"""From the values of a study file to the space: layouts up to symmetry, what cannot fit left out."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Literal

from autotune.errors import SpecError
from autotune.space.choices import LayoutChoice, Space, Value
from autotune.space.layout import Layout, Part, canonical, orbit, parse_layout
from autotune.space.layout import layouts as all_layouts
from autotune.space.memory import fits, needed_bytes, shortage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.inventory import Inventory
    from autotune.space.memory import ModelFacts

Needs = dict[tuple[int, str], int]
"""(num_parallel, kv_cache_type) → bytes that an instance needs at least."""


def build(  # noqa: PLR0913 – the search table of a study file, key by key
    inventory: Inventory,
    facts: ModelFacts | None,
    *,
    num_ctx: int,
    num_parallel: Sequence[int],
    vram_free_bytes: int = 0,
    layouts: Literal["auto"] | Sequence[str] = "auto",
    copies: Sequence[int] | None = None,
    spans: Sequence[int] | None = None,
    policies: Sequence[str] = ("round_robin",),
    flash_attention: Sequence[str] = ("auto",),
    kv_cache_type: Sequence[str] = ("f16",),
    threads: Sequence[int] | None = None,
    num_batch: Sequence[int] | None = None,
    env: Mapping[str, Sequence[str]] | None = None,
) -> Space:
    """Build the space. Without `facts` about the model nothing is left out for want of memory.

    `layouts` are all there are (`auto`) or those written out, which are then spelled canonically. `copies` are the
    numbers of instances that may share a device (None: one). `spans` are the numbers of devices that an instance may
    span; None means any on a CPU, where one instance over all cores is usual, and on GPUs one, or any where the model
    fits on no single GPU. `threads` and `num_batch` are parameters only if given. `vram_free_bytes` stay free on each
    GPU, and of the host's RAM where instances run on the CPU.

    Raises SpecError for a layout that cannot be read, and for a space without a configuration, saying what emptied it.
    """
    needs = _needs(facts, num_ctx, num_parallel, kv_cache_type)
    if layouts == "auto":
        cases = _all(inventory, copies or (1,), spans or _automatic_spans(inventory, needs, vram_free_bytes))
    else:
        cases = _listed(inventory, layouts)
    several = any(len(case.layout.instances) > 1 for case in cases.values())
    choices: dict[str, Sequence[Value] | None] = {
        "layout": tuple(cases),
        "num_parallel": num_parallel,
        "policy": policies if several else None,
        "flash_attention": flash_attention,
        "kv_cache_type": kv_cache_type,
        "threads": threads,
        "num_batch": num_batch,
        **{f"env:{name}": values for name, values in (env or {}).items()},
    }
    given = {name: tuple(dict.fromkeys(values)) for name, values in choices.items() if values is not None}
    return _refuse_empty(Space(given, cases, _misfits(cases, inventory, needs, vram_free_bytes)))


def _needs(facts: ModelFacts | None, num_ctx: int, num_parallel: Sequence[int], kv_cache_type: Sequence[str]) -> Needs:
    if facts is None:
        return {}
    return {
        (slots, cache): needed_bytes(facts, num_ctx, slots, cache)
        for slots, cache in product(num_parallel, kv_cache_type)
    }


def _automatic_spans(inventory: Inventory, needs: Needs, free_bytes: int) -> Sequence[int]:
    every = range(1, len(inventory.devices) + 1)
    if all(device.make == "cpu" for device in inventory.devices):
        return every
    least = min(needs.values(), default=0)
    alone = (Layout((Part((device.index,)),)) for device in inventory.devices)
    return (1,) if any(fits(layout, inventory, least, free_bytes) for layout in alone) else every


def _all(inventory: Inventory, copies: Sequence[int], spans: Sequence[int]) -> dict[str, LayoutChoice]:
    found = all_layouts(inventory, copies, spans)
    return {str(layout): LayoutChoice(layout, orbit(layout, inventory), _cores(layout, inventory)) for layout in found}


def _listed(inventory: Inventory, texts: Sequence[str]) -> dict[str, LayoutChoice]:
    """A written layout stands for the written ones only, not for all that symmetry allows."""
    times = Counter(canonical(parse_layout(text, inventory), inventory) for text in texts)
    return {str(layout): LayoutChoice(layout, count, _cores(layout, inventory)) for layout, count in times.items()}


def _cores(layout: Layout, inventory: Inventory) -> int:
    """A GPU has no cores to be pinned to, so it does not bound the threads."""
    cores = (sum(inventory.devices[index].threads for index in instance) for instance in layout.instances)
    return min(filter(None, cores), default=0)


def _misfits(
    cases: Mapping[str, LayoutChoice], inventory: Inventory, needs: Needs, free_bytes: int
) -> dict[tuple[Value, Value, Value], str]:
    found = {
        (text, slots, cache): shortage(case.layout, inventory, need, free_bytes)
        for (text, case), ((slots, cache), need) in product(cases.items(), needs.items())
    }
    return {corner: why for corner, why in found.items() if why}


def _refuse_empty(space: Space) -> Space:
    """Return the space, if there is anything in it."""
    for name, values in space.choices.items():
        if not values:
            raise SpecError(f"search: no value is left for {name}")
    if not space.after_symmetry:
        raise SpecError(f"search: no configuration is left: {space.conflicts[0]}", details="\n".join(space.conflicts))
    if not space.after_memory:
        raise SpecError(f"search: nothing fits the memory: {space.reasons[-1]}", details="\n".join(space.reasons))
    return space
