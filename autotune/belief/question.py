"""What a belief is about: the load, what must hold, and what is known of devices and model. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from autotune.ollama.env import left_free_bytes
from autotune.space.forecast import BASELINE, FIT_MARGIN_BYTES, predict
from autotune.space.sizes import GIB

if TYPE_CHECKING:
    from autotune.inventory import Inventory
    from autotune.space import ModelFacts
    from autotune.spec import StudySpec


MANY = 17
"""Slots at which a model's cache outweighs what does not grow with them."""
LEAST_DOUBT = 0.05
HELD_BYTES = BASELINE[0] * GIB
"""In use of a GPU with nothing loaded."""
SPARE_BYTES = FIT_MARGIN_BYTES + HELD_BYTES
JOULES = "joules_per_token"
"""What a belief has in place of tokens per joule: all but the output is to be small."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit: `statistic` of `metric`, with so many users, is at most `most`. Or a goal, which is to be small."""

    metric: str
    """ttft_s, tpot_s or e2e_s; of a goal also `JOULES`."""
    statistic: str
    """mean, or a percentile as in p95."""
    users: int
    most: float
    """Seconds."""
    limit: bool = True
    """Whether it is one; for what is only a goal `most` is but the unit."""

    @property
    def name(self) -> str:
        """As a score names its constraint."""
        return f"{self.metric} {self.statistic} at {self.users} users"


@dataclass(frozen=True, slots=True)
class Question:
    """A closed loop of users, in front of the configurations of a space."""

    users: int
    """At the objective's level."""
    output_tokens: float
    """Mean of an answer, tokens."""
    input_tokens: float
    """Mean of a prompt, tokens."""
    bounds: tuple[Bound, ...] = ()
    """Limits, then what is only a goal."""
    goals: tuple[int, ...] = ()
    """What is to be small while the output is to be large: places among the bounds. Empty where the output is all."""
    kinds: tuple[str, ...] = ("",)
    """Of each device, by its index."""
    memory_bytes: tuple[float, ...] = (0.0,)
    """Of each device; 0 where nothing is known."""
    on_cpu: bool = False
    """Devices are groups of cores, which share the host's memory."""
    weights_bytes: float = 0.0
    """Of an instance without any slot, as Ollama tells it: weights and buffers; 0 where nothing is known."""
    buffer_bytes: float = 0.0
    """Of its buffers, once more on each further device."""
    context_bytes: float = 0.0
    """What an instance takes beside that: the driver's own, on a GPU."""
    spare_bytes: float = SPARE_BYTES
    """Of each GPU, what no instance gets: what Ollama leaves free, and what is in use with nothing loaded."""
    slot_bytes: float = 0.0
    """Of the key-value cache of one slot at f16."""
    slot_doubt: float = 0.1
    """Standard deviation of its logarithm."""

    @property
    def limits(self) -> int:
        """How many of the bounds are limits."""
        return sum(bound.limit for bound in self.bounds)

    @property
    def levels(self) -> tuple[int, ...]:
        """Users at which something counts, the objective's first."""
        return tuple(dict.fromkeys((self.users, *(bound.users for bound in self.bounds))))

    @classmethod
    def of(cls, spec: StudySpec, inventory: Inventory, facts: ModelFacts | None, version: str = "") -> Self | None:
        """The question of a study, for an Ollama of this version; None for another than these: an open loop, or a
        capacity."""
        level, predicted, asked = spec.level(None), spec.workload.num_predict, spec.workload.input_tokens
        bounds = [(limit, spec.level(limit.at).users) for limit in spec.objective.limits]
        if level.users is None or spec.objective.metric == "capacity" or None in (users for _, users in bounds):
            return None
        limits = [Bound(limit.metric, limit.statistic, users or 0, limit.max) for limit, users in bounds]
        goals = [Bound(g.metric or JOULES, g.statistic, level.users, 1.0, limit=False) for g in spec.objective.goals]
        names = [bound.name for bound in limits]
        every = [*limits, *(goal for goal in goals if goal.name not in names)]
        on_cpu = all(device.make == "cpu" for device in inventory.devices)
        base = slot = doubt = context = buffers = 0.0
        if facts is not None:
            one, many = (predict(facts, spec.workload.num_ctx, slots, "f16") for slots in (1, MANY))
            slot = (many.bytes - one.bytes) / (MANY - 1)
            base, doubt = one.bytes - one.context_bytes - slot, many.sd_bytes / many.bytes
            context, buffers = (0.0, 0.0) if on_cpu else (one.context_bytes, one.compute_bytes)
        return cls(
            users=level.users,
            output_tokens=float(predicted.mean),
            input_tokens=float(asked.mean) if asked is not None else spec.workload.num_ctx / 4,
            bounds=tuple(every),
            goals=tuple([bound.name for bound in every].index(goal.name) for goal in goals),
            kinds=tuple(device.kind for device in inventory.devices),
            memory_bytes=tuple(float(device.memory_bytes) for device in inventory.devices),
            on_cpu=on_cpu,
            weights_bytes=base,
            buffer_bytes=buffers,
            context_bytes=context,
            spare_bytes=left_free_bytes(spec.cluster.free_bytes, version) + HELD_BYTES,
            slot_bytes=slot,
            slot_doubt=max(LEAST_DOUBT, 2 * doubt),
        )
