"""Configurations as arrays: what the law and the kernels see of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autotune.space.memory import ELEMENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from autotune.space import Space
    from autotune.space.shape import Member

    Names = tuple[tuple[str, Any], ...]
    """What of a configuration decides its parts."""
    Parts = tuple[list[Member], list[int]]

Array = NDArray[np.float64]

STRUCTURAL = ("layout", "num_parallel", "policy", "weights")
"""Parameters that the law knows by name; each other one is a knob, whose effect is learned."""
POLICIES = ("round_robin", "least_conn", "random_two")
CACHE = {kind: float(size / ELEMENT_BYTES["f16"]) for kind, size in ELEMENT_BYTES.items()}
"""Size of the KV cache against f16."""


@dataclass(frozen=True, eq=False)
class Design:
    """C configurations with at most J parts each: a part is one instance, or the copies that share a device."""

    params: tuple[Mapping[str, Any], ...]
    copies: Array
    """[C, J] instances of a part; 0 where there is no such part."""
    span: Array
    """[C, J] devices of each of its instances."""
    slots: Array
    """[C, J] NUM_PARALLEL."""
    weight: Array
    """[C, J] the balancer's weight of each instance."""
    devices: Array
    """[C, J, D] the part of an instance's layers on each device; sums to 1."""
    policy: NDArray[np.int64]
    """[C] place in POLICIES."""
    knobs: Array
    """[C, Q] 1 where a knob has that value; nothing for the first value of each."""
    cache: Array
    """[C] size of the KV cache against f16."""

    def __len__(self) -> int:
        return len(self.params)

    @cached_property
    def instances(self) -> Array:
        """[C] how many there are."""
        found: Array = self.copies.sum(axis=1)
        return found

    @cached_property
    def layouts(self) -> NDArray[np.str_]:
        """[C] in words."""
        return np.array([str(one["layout"]) for one in self.params], dtype=np.str_)

    def _mean(self, of: Array) -> Array:
        found: Array = (self.copies * of).sum(axis=1) / self.instances
        return found

    @cached_property
    def shape(self) -> Array:
        """[C, 4] log2 of instances, instances sharing a device, devices of an instance, and slots of an instance."""
        crowd = self._mean(np.log2(np.maximum(self.copies, 1.0)))
        span, slots = self._mean(np.log2(self.span)), self._mean(np.log2(self.slots))
        return np.stack([np.log2(self.instances), crowd, span, slots], axis=1)

    @cached_property
    def policies(self) -> Array:
        """[C, 2] 1 for least_conn, for random_two; nothing where there is one instance."""
        several = (self.instances > 1)[:, None]
        found: Array = (several & (self.policy[:, None] == np.array([1, 2]))).astype(float)
        return found

    def capped(self, most: float) -> Design:
        """The same where no instance has more slots than this, whatever it is asked for."""
        return replace(self, slots=np.minimum(self.slots, most)) if math.isfinite(most) else self

    def take(self, rows: Sequence[int] | NDArray[np.intp]) -> Design:
        """Some of the configurations, in this order."""
        at = np.asarray(rows, dtype=np.intp)
        return Design(
            params=tuple(self.params[row] for row in at.tolist()),
            copies=self.copies[at],
            span=self.span[at],
            slots=self.slots[at],
            weight=self.weight[at],
            devices=self.devices[at],
            policy=self.policy[at],
            knobs=self.knobs[at],
            cache=self.cache[at],
        )


@dataclass(frozen=True)
class Designer:
    """Turns parameters into arrays of one width, whatever configurations they are."""

    members: Callable[[Mapping[str, Any]], Sequence[Member]]
    """The instances of a configuration, in the order of its plan."""
    knobs: tuple[tuple[str, Any, float], ...]
    """(parameter, value, height) of each column. Without a value: octaves from the first value of a number."""
    device_count: int
    _known: dict[Names, Parts] = field(default_factory=dict, repr=False, compare=False)
    """Of what was asked for alone: the same trials again and again."""

    @classmethod
    def of(cls, space: Space, device_count: int) -> Designer:
        """For all configurations of a space."""
        free = {name: values for name, values in space.choices.items() if name.partition("@")[0] not in STRUCTURAL}
        columns: list[tuple[str, Any, float]] = []
        for name, values in free.items():
            numbers = len(values) > 1 and all(isinstance(value, int) for value in values)
            if numbers:  # what helps from 512 to 1024 likely hurts from 512 to 256
                columns.append((name, None, float(values[0])))
            columns += [(name, value, 0.5 if numbers else 1.0) for value in values[1:]]
        return cls(space.members, tuple(columns), device_count)

    def parts(self, params: Mapping[str, Any]) -> Parts:
        """The parts of a configuration, each by one of its instances, and of each instance which part it is of."""
        return self._parted(params, self._known)

    def _parted(self, params: Mapping[str, Any], known: dict[Names, Parts]) -> Parts:
        names = tuple((name, value) for name, value in params.items() if name.partition("@")[0] in STRUCTURAL)
        if names not in known:
            parts: dict[Member, int] = {}
            of = [parts.setdefault(member, len(parts)) for member in self.members(params)]
            known[names] = list(parts), of
        return known[names]

    def design(self, params: Sequence[Mapping[str, Any]]) -> Design:
        """Their arrays."""
        known: dict[Names, Parts] = {}
        found = [self._parted(one, known) for one in params]
        width = max((len(parts) for parts, _ in found), default=1)
        count = len(params)
        copies, weight = np.zeros((count, width)), np.ones((count, width))
        span, slots = np.ones((count, width)), np.ones((count, width))
        devices = np.zeros((count, width, self.device_count))
        for row, (parts, of) in enumerate(found):
            for column, member in enumerate(parts):
                copies[row, column], span[row, column] = of.count(column), len(member.devices)
                slots[row, column], weight[row, column] = member.slots, member.weight
                devices[row, column, list(member.devices)] = 1 / len(member.devices)
        return Design(
            params=tuple(params),
            copies=copies,
            span=span,
            slots=slots,
            weight=weight,
            devices=devices,
            policy=np.array([POLICIES.index(str(one.get("policy", "round_robin"))) for one in params], dtype=np.int64),
            knobs=np.array([[_turned(one, *knob) for knob in self.knobs] for one in params]).reshape(
                count, len(self.knobs)
            ),
            cache=np.array([CACHE.get(str(one.get("kv_cache_type", "f16")), 1.0) for one in params]),
        )


def _turned(params: Mapping[str, Any], name: str, value: Any, height: float) -> float:
    if value is None:
        return math.log2(float(params.get(name, height)) / height)
    return height if params.get(name) == value else 0.0


def octaves(values: Array) -> Array:
    """log2, of what is at least 1."""
    found: Array = np.log2(np.maximum(values, 1.0))
    return found
