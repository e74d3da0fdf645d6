"""From the values of a study file to the space: layouts up to symmetry, what cannot fit left out."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Literal

from autotune.errors import SpecError
from autotune.space.choices import Space, Value
from autotune.space.counting import Uncounted
from autotune.space.family import CELLS, LISTED, Every, Listed
from autotune.space.layout import Layout, Part, canonical, kinds, parse_layout
from autotune.space.layout import shapes as all_shapes
from autotune.space.limits import Limits, Needs
from autotune.space.memory import fits, needed_bytes
from autotune.space.shape import SLOTS, own

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.inventory import Device, Inventory
    from autotune.space.memory import ModelFacts

Kinds = tuple[tuple["Device", ...], ...]

_TOO_MANY = (
    "search: an instance could be of {shapes} shapes on {kinds} kinds of devices, which makes more layouts than can be "
    "counted: name fewer in search.devices_per_instance, or the layouts in search.layouts"
)


def build(  # noqa: PLR0913 – the search table of a study file, key by key
    inventory: Inventory,
    facts: ModelFacts | None,
    *,
    num_ctx: int,
    num_parallel: Sequence[int],
    per_class: Literal["auto"] | bool = "auto",
    vram_free_bytes: int = 0,
    layouts: Literal["auto"] | Sequence[str] = "auto",
    copies: Sequence[int] | None = None,
    spans: Sequence[int] | None = None,
    policies: Sequence[str] = ("round_robin",),
    weights: Sequence[str] = ("equal",),
    flash_attention: Sequence[str] = ("auto",),
    cache_brings_flash: bool = False,
    kv_cache_type: Sequence[str] = ("f16",),
    threads: Sequence[int] | None = None,
    num_batch: Sequence[int] | None = None,
    env: Mapping[str, Sequence[str]] | None = None,
) -> Space:
    """Build the space. Without `facts` about the model nothing is left out for want of memory.

    `layouts` are all there are (`auto`) or those written out, which are then spelled canonically. `copies` are the
    numbers of instances that may share a device (None: one). `spans` are the numbers of devices that an instance may
    span; None means any on a CPU, where one instance over all cores is usual, and on GPUs one, or any where the model
    fits on no single GPU. `per_class` gives each class of instances a `num_parallel` of its own; `auto`: where devices
    differ in kind. `threads` and `num_batch` are parameters only if given. `vram_free_bytes` stay free on each GPU, and
    of the host's RAM where instances run on the CPU.

    Raises SpecError for a layout that cannot be read, for a space without a configuration, saying what emptied it, and
    for one with more layouts than can be counted.
    """
    every: Kinds = tuple(map(tuple, kinds(inventory)))
    needs = _needs(facts, num_ctx, num_parallel, kv_cache_type)
    if layouts == "auto":
        most = len(inventory.devices)
        if spans and min(spans) > most:
            allowed = f"there are {most} devices; allowed is 1 to {most}"
            raise SpecError(f"search.devices_per_instance: {min(spans)}: {allowed}")
        spans = spans or _automatic_spans(inventory, needs, vram_free_bytes)
        family: Every | Listed = Every(every, tuple(all_shapes(inventory, copies or (1,), spans)))
    else:
        family = Listed.of([canonical(parse_layout(text, inventory), inventory) for text in layouts], inventory, every)
    alone = not per_class or (per_class == "auto" and len(every) == 1)
    choices: dict[str, Sequence[Value] | None] = {
        "layout": _named(family),
        SLOTS: num_parallel,
        **({} if alone else dict.fromkeys(_others(family), num_parallel)),
        "policy": policies if _several(family) else None,
        "weights": weights if not alone and _others(family) and len(set(num_parallel)) > 1 else None,
        "flash_attention": flash_attention,
        "kv_cache_type": kv_cache_type,
        "threads": threads,
        "num_batch": num_batch,
        **{f"env:{name}": values for name, values in (env or {}).items()},
    }
    given = {name: tuple(dict.fromkeys(values)) for name, values in choices.items() if values is not None}
    limits = Limits(inventory, every, needs, vram_free_bytes)
    try:
        return _refuse_empty(Space(given, family, limits, not alone, cache_brings_flash))
    except Uncounted:
        raise SpecError(_TOO_MANY.format(shapes=len(family.shapes), kinds=len(every))) from None


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


def _named(family: Every | Listed) -> tuple[str, ...]:
    """All layouts, where they are few enough to be listed."""
    too_many = SpecError(_TOO_MANY.format(shapes=len(family.shapes), kinds=len(family.kinds)))
    if isinstance(family, Every) and family.cells > CELLS:
        raise too_many
    try:
        few = isinstance(family, Listed) or family.count <= LISTED
    except Uncounted:
        raise too_many from None
    return tuple(str(layout) for layout, _ in family.items()) if few else ()


def _several(family: Every | Listed) -> bool:
    """Whether any layout has more than one instance."""
    if isinstance(family, Listed):
        return any(len(layout.instances) > 1 for layout in family.times)
    return any(shape.copies > 1 for shape in family.shapes) or any(len(shapes) > 1 for shapes in family.small())


def _others(family: Every | Listed) -> list[str]:
    """The parameters with the slots of classes that come after another in some layout."""
    every = (sorted({shape.kinds for shape in shapes}) for shapes in family.small())
    return [own(of) for of in sorted({of for classes in every for of in classes[1:]})]


def _refuse_empty(space: Space) -> Space:
    """Return the space, if there is anything in it."""
    for name, values in space.choices.items():
        if not values and not (name == "layout" and space.family.count):
            raise SpecError(f"search: no value is left for {name}")
    if not space.after_symmetry:
        raise SpecError(f"search: no configuration is left: {space.conflicts[0]}", details="\n".join(space.conflicts))
    if not space.after_memory:
        raise SpecError(f"search: nothing fits the memory: {space.reasons[-1]}", details="\n".join(space.reasons))
    return space
