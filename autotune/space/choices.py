"""The search space as a value: what may be chosen, what goes together, and why the rest was left out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from autotune.space.layout import Layout

Value = str | int

USUAL = {"flash_attention": "auto", "kv_cache_type": "f16"}
"""Values that go without saying, because they are Ollama's own."""
PLAIN_CACHE = frozenset({"f32", "f16", "bf16"})
"""Types of the KV cache that are not quantised."""


@dataclass(frozen=True, slots=True)
class LayoutChoice:
    """One layout of the space, and what the rules need to know of it."""

    layout: Layout
    orbit: int
    """How many layouts it stands for, itself included."""
    cores: int
    """Physical cores of its smallest instance on a CPU; 0 without one."""


@dataclass(frozen=True, slots=True)
class Space:
    """All configurations that a study may try.

    A configuration is a dict from parameter to value. It has every parameter of `choices`, also those with one value,
    but `policy` only where its layout has more than one instance. Three more things bound it: a quantised
    `kv_cache_type` needs flash attention, or the load fails; no instance on a CPU has more `threads` than cores, or it
    crawls; and what is certain not to fit the memory is left out.
    """

    choices: dict[str, tuple[Value, ...]]
    """Parameter → allowed values: `layout`, `num_parallel`, …; an environment variable is named `env:` and its name."""
    layouts: dict[str, LayoutChoice]
    """What each value of `layout` means."""
    misfits: dict[tuple[Value, Value, Value], str] = field(default_factory=dict)
    """(layout, num_parallel, kv_cache_type) that cannot fit the memory → why."""

    def configurations(self) -> Iterator[dict[str, Value]]:
        """Every configuration, layout by layout."""
        return (params for params in self._sound() if self._corner(params) not in self.misfits)

    def allows(self, params: Mapping[str, Value]) -> bool:
        """Whether these parameters, no more and no fewer, are a configuration of the space."""
        if params.get("layout") not in self.layouts or set(params) != set(self._names(params["layout"])):
            return False
        chosen = all(value in self.choices[name] for name, value in params.items())
        return chosen and not self._conflict(params) and self._corner(params) not in self.misfits

    @property
    def before_symmetry(self) -> int:
        """Configurations if each device had to be told from each other, memory not counted."""
        return sum(self.layouts[str(params["layout"])].orbit for params in self._sound())

    @property
    def after_symmetry(self) -> int:
        """Configurations up to symmetry, memory not counted."""
        return sum(1 for _ in self._sound())

    @property
    def after_memory(self) -> int:
        """Configurations that are left: as many as `configurations` gives."""
        return sum(1 for _ in self.configurations())

    @property
    def conflicts(self) -> tuple[str, ...]:
        """What does not go together in this space, one line for each rule and value."""
        return tuple(dict.fromkeys(filter(None, map(self._conflict, self._combinations()))))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why something was left out: one line for all layouts that fail for the same cause."""
        causes: dict[tuple[Value, Value, str], list[Value]] = {}
        for layout, cache in dict.fromkeys((layout, cache) for layout, _, cache in self.misfits):
            slots = min(slots for slots in self.choices["num_parallel"] if (layout, slots, cache) in self.misfits)
            causes.setdefault((slots, cache, self.misfits[layout, slots, cache]), []).append(layout)
        return (*self.conflicts, *(self._reason(*cause, layouts) for cause, layouts in causes.items()))

    def _reason(self, slots: Value, cache: Value, why: str, layouts: list[Value]) -> str:
        others = f" and {len(layouts) - 1} more" if len(layouts) > 1 else ""
        more = "" if slots == max(self.choices["num_parallel"]) else " or more"
        kind = f" and kv_cache_type {cache}" if len(self.choices["kv_cache_type"]) > 1 else ""
        return f"layout {layouts[0]}{others} with num_parallel {slots}{more}{kind}: {why}"

    def _names(self, layout: Value) -> list[str]:
        alone = len(self.layouts[str(layout)].layout.instances) == 1
        return [name for name in self.choices if not (alone and name == "policy")]

    def _combinations(self) -> Iterator[dict[str, Value]]:
        for layout in self.layouts:
            names = [name for name in self._names(layout) if name != "layout"]
            for values in product(*(self.choices[name] for name in names)):
                yield {"layout": layout, **dict(zip(names, values, strict=True))}

    def _sound(self) -> Iterator[dict[str, Value]]:
        return (params for params in self._combinations() if not self._conflict(params))

    def _conflict(self, params: Mapping[str, Value]) -> str:
        cache, threads = params["kv_cache_type"], int(params.get("threads", 0))
        if params["flash_attention"] == "off" and cache not in PLAIN_CACHE:
            return f"kv_cache_type {cache} with flash_attention off: a quantised cache needs flash attention"
        cores = self.layouts[str(params["layout"])].cores
        if 0 < cores < threads:
            return f"threads {threads} with {cores} as the cores of an instance: more threads than cores make it crawl"
        return ""

    @staticmethod
    def _corner(params: Mapping[str, Value]) -> tuple[Value, Value, Value]:
        return params["layout"], params["num_parallel"], params["kv_cache_type"]


def key(params: Mapping[str, Value]) -> str:
    """The one text for these parameters, whatever their order: JSON with sorted names."""
    return json.dumps(dict(params), sort_keys=True, ensure_ascii=False)
