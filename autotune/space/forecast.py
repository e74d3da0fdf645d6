"""How much memory an instance will take, with its uncertainty, and how likely a layout fits.

What an instance takes is a sum of parts, each known from the model's metadata up to a factor:

    weights · w + cache · k + sliding cache · s + logits · o + activations · a + constants of each device

The factors are believed to be normal. This is what is known before any trial; what trials show is weighed by
`belief.sizing`, which begins with these sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from autotune.space.layout import Part
from autotune.space.sizes import GIB, Load, Room, design, pooled

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from autotune.inventory import Inventory
    from autotune.space.choices import Params, Space
    from autotune.space.memory import ModelFacts
    from autotune.space.shape import Member
    from autotune.space.sizes import Asked, Pool

    Vector = NDArray[np.float64]

FIT_MARGIN_BYTES = 1024 * 2**20
"""What llama.cpp leaves free on each device where it is told nothing (0.30 and later)."""
OLD_MARGIN_BYTES = 457 * 2**20
"""What Ollama itself left free before 0.30, besides OLLAMA_GPU_OVERHEAD."""
PLENTY_BYTES = 2**50
# what is believed about the factors: (mean, standard deviation); constants in GiB
CACHE = (1.0, 0.03)
SLIDING = (1.0, 0.15)
OUTPUTS = (0.5, 0.4)  # logits of a whole batch (older) or of one token for each slot (newer)
INNER = (0.8, 0.4)
SPANNING = (0.3, 0.3)  # a pipeline over several devices holds its inputs several times
CONTEXT = (0.35, 0.15)  # the driver's, for each process and device; in no figure of Ollama's
OTHER = (0.05, 0.15)
BASELINE = (0.2, 0.1)  # held of each device with nothing loaded


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one instance is expected to take on all its devices together."""

    weights_bytes: float
    kv_bytes: float
    compute_bytes: float
    context_bytes: float
    """The driver's own, which `/api/ps` does not show."""
    sd_bytes: float
    """Standard deviation of the sum."""

    @property
    def bytes(self) -> float:
        """The sum."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.context_bytes


@dataclass(frozen=True, eq=False)
class Memory:
    """What is believed about a model's need: a normal distribution over the factors."""

    facts: ModelFacts
    mean: Vector
    covariance: NDArray[np.float64]

    def predict(self, load: Load, devices: int = 1) -> Forecast:
        """What one instance takes on `devices` devices together."""
        whole = Room(1.0, devices, 0, np.inf, float(PLENTY_BYTES * devices), spans=devices > 1)
        rows, rough = design(self.facts, [whole], [load])
        row = rows[0, 0]
        part = row * self.mean * GIB
        sd = sqrt(row @ self.covariance @ row + float(rough[0, 0]))
        return Forecast(part[0], part[1:3].sum(), part[3:6].sum() + part[7], part[6], sd * GIB)

    def fit_probability(
        self,
        asked: Asked,
        inventory: Inventory,
        *,
        margin_bytes: int = FIT_MARGIN_BYTES,
        free_bytes: int = 0,
    ) -> float:
        """The chance that every instance of a configuration is wholly on its devices; see `fit_probabilities`."""
        return float(self.fit_probabilities([asked], inventory, margin_bytes=margin_bytes, free_bytes=free_bytes)[0])

    def fit_probabilities(
        self,
        configurations: Sequence[Asked],
        inventory: Inventory,
        *,
        margin_bytes: int = FIT_MARGIN_BYTES,
        free_bytes: int = 0,
    ) -> Vector:
        """The chances of many configurations, each the parts of its layout with what their instances hold.

        `margin_bytes` is what Ollama is told, or decides, to leave free of each GPU: what exceeds that goes to the CPU
        silently. `free_bytes` is what the study keeps free in any case: where `needed_bytes` is certain not to fit that
        way, the chance is 0. What is uncertain is so for all instances alike, so that a configuration is as likely as
        its tightest part.
        """
        if not configurations:
            return np.zeros(0)
        return self.chances(pooled(self.facts, configurations, inventory, margin_bytes, free_bytes))

    def chances(self, pool: Pool) -> Vector:
        """The same for a pool that was made before (`sizes.pooled`): in a millisecond."""
        spread = np.sqrt(np.einsum("ck,km,cm->c", pool.rows, self.covariance, pool.rows, optimize=True) + pool.rough)
        each = np.where(pool.certain, 0.0, ndtr((pool.memory - pool.rows @ self.mean) / spread))
        found: Vector = np.minimum.reduceat(each[pool.places], pool.starts)
        return found


def asked_of(
    members: Iterable[Member],
    num_ctx: int,
    kv_cache_type: str = "f16",
    num_batch: int | None = None,
    flash_attention: str = "auto",
) -> Asked:
    """What the instances of a configuration (`space.instances`) are asked to hold, part by part."""
    return tuple(
        {
            member.devices: (
                Part(member.devices, member.crowd),
                Load(num_ctx, member.slots, kv_cache_type, num_batch, flash_attention),
            )
            for member in members
        }.values()
    )


def predict(
    facts: ModelFacts,
    num_ctx: int,
    num_parallel: int,
    kv_cache_type: str,
    num_batch: int | None = None,
    flash_attention: str = "auto",
    devices: int = 1,
) -> Forecast:
    """What one instance will take, before anything was tried."""
    return prior(facts).predict(Load(num_ctx, num_parallel, kv_cache_type, num_batch, flash_attention), devices)


def chances(
    space: Space, facts: ModelFacts, num_ctx: int, every: Sequence[Params], margin_bytes: int = FIT_MARGIN_BYTES
) -> Vector:
    """How likely each of some configurations of a space is to fit, before anything was tried."""
    asked = [
        asked_of(
            space.members(one),
            num_ctx,
            str(one["kv_cache_type"]),
            int(one["num_batch"]) if "num_batch" in one else None,
            str(one["flash_attention"]),
        )
        for one in every
    ]
    limits = space.limits
    return prior(facts).fit_probabilities(
        asked, limits.inventory, margin_bytes=margin_bytes, free_bytes=limits.free_bytes
    )


def prior(facts: ModelFacts) -> Memory:
    """What is believed before any trial."""
    weights = (1.0, 0.08 if "vision" in facts.capabilities else 0.03)  # a projector counts, and may stay on the CPU
    known = facts.whole_elements is not None or facts.sliding_window is None
    cache, sliding = (CACHE, SLIDING) if known else ((0.7, 0.35), (0.3, 0.35))
    beliefs = np.array([weights, cache, sliding, OUTPUTS, INNER, SPANNING, CONTEXT, OTHER, BASELINE])
    return Memory(facts, beliefs[:, 0], np.diag(beliefs[:, 1] ** 2))
