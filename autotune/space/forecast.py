"""How much memory an instance will take, with its uncertainty, and how likely a layout fits.

What an instance takes is a sum of parts, each known from the model's metadata up to a factor:

    weights · w + cache · k + sliding cache · s + logits · o + activations · a + constants of each device

The factors are believed to be normal. Trials correct them: by the bytes that `/api/ps` and NVML show, and by whether
the load fitted at all, which is evidence on one side only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from math import pi, sqrt
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_ndtr, ndtr

from autotune.space.layout import Part
from autotune.space.memory import needed_bytes
from autotune.space.sizes import GIB, Load, Room, design, pooled, room_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

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
LEAST_CHANCE = 0.5
"""Below this chance to fit a configuration is better not tried: see `tests/test_forecast.py` for what that costs."""

PLENTY_BYTES = 2**50
WEIGHTS_AT, INNER_AT, CONTEXT_AT, COMPUTE_AT = 0, 4, 6, slice(3, 6)
"""Places in `sizes.FACTORS`."""

# what is believed about the factors before any trial: (mean, standard deviation); constants in GiB
CACHE = (1.0, 0.03)
SLIDING = (1.0, 0.15)
OUTPUTS = (0.5, 0.4)  # logits of a whole batch (older) or of one token for each slot (newer)
INNER = (0.8, 0.4)
SPANNING = (0.3, 0.3)  # a pipeline over several devices holds its inputs several times
CONTEXT = (0.35, 0.15)  # the driver's, for each process and device; in no figure of Ollama's
OTHER = (0.05, 0.15)
BASELINE = (0.2, 0.1)  # held of each device with nothing loaded

NVML_GIB = 0.03
"""How far a device's used memory strays by itself."""
FAR_BELOW = 0.8
FREEDOM = 4.0
"""Degrees of freedom of Student's t, as which errors are weighed: what is far off counts for little."""
ROUNDS = 12
CHANCE_OF_ACCIDENT = 0.02
"""A load that fitted or not for a reason that has nothing to do with what it needs."""


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


@dataclass(frozen=True, slots=True)
class Taken:
    """What a trial really took on one part of its layout; None and 0 where nothing said so."""

    load: Load
    memory_bytes: tuple[int, ...]
    """All memory of each device of the part."""
    fitted: bool | None
    """All was on the devices; False: offloaded, or out of memory; None: it failed for another reason."""
    copies: int = 1
    size_bytes: int = 0
    size_vram_bytes: int = 0
    """Of one instance, as `/api/ps` shows it."""
    device_used_bytes: tuple[int, ...] = ()
    """Of each device, with all instances loaded, as NVML shows it."""
    margin_bytes: int = FIT_MARGIN_BYTES
    """What was to stay free on each device."""


@dataclass(frozen=True, eq=False)
class Memory:
    """What is believed about a model's need: a normal distribution over the factors."""

    facts: ModelFacts
    mean: Vector
    covariance: NDArray[np.float64]

    def predict(self, load: Load, devices: int = 1) -> Forecast:
        """What one instance takes on `devices` devices together."""
        row, rough = _one(self.facts, _whole((PLENTY_BYTES,) * devices), load)
        part = row * self.mean * GIB
        sd = sqrt(row @ self.covariance @ row + rough)
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


def calibrated(facts: ModelFacts, taken: Iterable[Taken]) -> Memory:
    """What is believed after these trials, whatever their order: first the figures, then what fitted and what not."""
    trials = list(taken)
    memory = _after_figures(prior(facts), [figure for trial in trials for figure in _figures(facts, trial)])
    for trial in dict.fromkeys(trials):
        if trial.fitted is not None:
            memory = _after_outcome(memory, trial)
    return memory


# what trials taught


@dataclass(frozen=True, slots=True)
class _Figure:
    """A size that was seen, in GiB."""

    about: tuple[Load, int, int, str]
    """The same thing seen again is no more than one witness: its error is the same."""
    row: Vector
    size: float
    variance: float


def _figures(facts: ModelFacts, trial: Taken) -> Iterator[_Figure]:
    """What a trial showed. A size far below the need is none: Ollama shows the file's when it knows no other."""
    load, count = trial.load, len(trial.memory_bytes)
    least = FAR_BELOW * needed_bytes(facts, load.num_ctx, load.num_parallel, load.kv_cache_type)
    row, rough = _one(facts, _whole(trial.memory_bytes), load)
    row = row.copy()
    row[CONTEXT_AT] = 0.0
    if trial.fitted and trial.size_vram_bytes >= least:
        yield _Figure((load, count, 1, "vram"), row, trial.size_vram_bytes / GIB, rough)
    if trial.fitted is False and trial.size_bytes > trial.size_vram_bytes > 0 and trial.size_bytes >= least:
        row[WEIGHTS_AT] += (facts.host_weights_bytes - facts.tied_bytes) / GIB
        rough += (0.01 * row[WEIGHTS_AT]) ** 2 + (0.3 * row[COMPUTE_AT]).sum() ** 2
        row[INNER_AT] *= 1.125  # the host's own buffer
        yield _Figure((load, count, 1, "all"), row, trial.size_bytes / GIB, rough)
    if trial.fitted and len(trial.device_used_bytes) == count and sum(trial.device_used_bytes) >= trial.copies * least:
        row, rough = _one(facts, _whole(trial.memory_bytes, trial.copies, count), load)
        about = (load, count, trial.copies, "used")
        yield _Figure(about, row, sum(trial.device_used_bytes) / GIB, rough + NVML_GIB**2 * count)


def _whole(memory: tuple[int, ...], copies: int = 1, held: int = 0) -> Room:
    """All devices of a part together, as nothing that has to be fitted."""
    count = len(memory)
    return Room(float(copies), copies * count, held, np.inf, float(sum(memory)), spans=count > 1)


@lru_cache(maxsize=1 << 12)  # the same few are asked for again after every trial
def _one(facts: ModelFacts, room: Room, load: Load) -> tuple[Vector, float]:
    """What one load takes of one room, as weights of the factors, and its rough edges."""
    found, rough = design(facts, [room], [load])
    found.flags.writeable = False
    return found[0, 0], float(rough[0, 0])


def _after_figures(memory: Memory, figures: Sequence[_Figure]) -> Memory:
    """Bayes' rule, with beliefs and figures weighed by how far off each is, over and over until that is settled: one
    figure that does not go with the others yields, and so does a belief that does not go with the figures."""
    if not figures:
        return memory
    rows = np.array([figure.row for figure in figures])
    sizes = np.array([figure.size for figure in figures])
    same = Counter(figure.about for figure in figures)
    variances = np.array([figure.variance for figure in figures])
    alike = np.array([same[figure.about] for figure in figures])
    believed = np.diag(memory.covariance)
    trust, weights = np.ones(len(believed)), np.ones(len(figures))
    for _ in range(ROUNDS):
        scaled = rows.T * (weights / variances / alike)
        covariance = np.linalg.inv(np.diag(trust / believed) + scaled @ rows)
        mean = covariance @ (trust / believed * memory.mean + scaled @ sizes)
        spread = np.einsum("fk,km,fm->f", rows, covariance, rows)
        weights = (FREEDOM + 1) / (FREEDOM + ((sizes - rows @ mean) ** 2 + spread) / variances)
        trust = (FREEDOM + 1) / (FREEDOM + ((mean - memory.mean) ** 2 + np.diag(covariance)) / believed)
    return Memory(memory.facts, mean, covariance)


def _after_outcome(memory: Memory, trial: Taken) -> Memory:
    """The normal distribution next to what is left when one side of a line is cut off (its mean and covariance)."""
    room = room_of(memory.facts.layers, trial.memory_bytes, trial.copies, trial.margin_bytes)
    row, rough = _one(memory.facts, room, trial.load)
    along = memory.covariance @ row
    spread = sqrt(row @ along + rough)
    side = 1.0 if trial.fitted else -1.0
    z = side * (room.memory_bytes / GIB - row @ memory.mean) / spread
    density = np.exp(-z * z / 2) / sqrt(2 * pi) * (1 - CHANCE_OF_ACCIDENT)
    slope = density / (CHANCE_OF_ACCIDENT + (1 - CHANCE_OF_ACCIDENT) * np.exp(log_ndtr(z)))
    shrink = float(np.clip(slope * (slope + z), 0.0, 0.99))
    mean = memory.mean - side * along * slope / spread
    return Memory(memory.facts, mean, memory.covariance - np.outer(along, along) * shrink / spread**2)
