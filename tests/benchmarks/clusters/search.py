"""What a study asks of a made-up cluster: the load, the limit and the space; and whether that can be searched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autotune.errors import SpecError
from autotune.space import ModelFacts, Space, build, key
from autotune.spec import StudySpec
from tests.benchmarks.clusters.cluster import Cluster, keep, limit_between, recall, truth_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from autotune.inventory import Inventory
    from autotune.space import Value
    from tests.benchmarks.clusters.machine import Built, Law
    from tests.benchmarks.clusters.trial import Noise
    from tests.benchmarks.clusters.truth import Load

FEWEST, MOST = 100, 5000
"""Configurations of a space."""
MOST_HITS = 0.15
"""Where more of a space is a hit there is nothing to search."""
FLAG = "LLAMA_ARG_CACHE_RAM"
FLAGS = ("0", "8192")
"""A variable that changes nothing here: all prompts are new."""
LEVELS = {6: (1, 2, 4, 8, 16, 32), 12: (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)}
POLICIES = ("round_robin", "least_conn", "random_two")


@dataclass(frozen=True, slots=True)
class Named:
    """Which cluster it is."""

    family: str
    seed: int
    adverse: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a cluster."""

    load: Load
    noise: Noise
    facts: ModelFacts
    num_ctx: int
    choices: Mapping[str, Sequence[Value]] = field(hash=False)
    """Of `autotune.space.build`, and of the neutral variable: `flag`."""
    limit_quantile: float
    """So many of the configurations that start meet the limit."""
    free_gib: float = 0.0
    """What each device keeps free."""
    most_hits: float = MOST_HITS

    @property
    def flags(self) -> tuple[Value, ...]:
        """Values of the neutral variable, where it is in the space."""
        return tuple(self.choices.get("flag", ()))


def choices_of(rng: np.random.Generator) -> dict[str, Sequence[Value]]:
    """Which knobs there are, and how many values they have."""
    choices: dict[str, Sequence[Value]] = {
        "num_parallel": LEVELS[int(rng.choice((6, 12)))],
        "policies": POLICIES[: rng.integers(2, 4)],
        "flash_attention": ("auto", "off")[: rng.integers(1, 3)],
        "kv_cache_type": ("f16", "q8_0")[: rng.integers(1, 3)],
    }
    if rng.random() < 0.5:
        choices["num_batch"] = (256, 512, 1024)
    if rng.random() < 0.5:
        choices["flag"] = FLAGS
    return choices


def layouts_of(devices: int) -> list[str]:
    """One instance on 1, 2, … devices, two and three on each, and instances over 2, 4 and 8 devices."""
    single = [" | ".join(map(str, range(count))) for count in range(1, devices + 1)]
    shared = [" | ".join(f"{index}x{copies}" for index in range(devices)) for copies in (2, 3)]
    spans = [
        " | ".join("+".join(map(str, range(first, first + span))) for first in range(0, devices, span))
        for span in (2, 4, 8)
        if span <= devices
    ]
    return [*single, *shared, *spans]


def space_of(inventory: Inventory, asked: Asked) -> Space:
    """The space that a study of these values has."""
    given: dict[str, Any] = {name: values for name, values in asked.choices.items() if name != "flag"}
    flags = [str(value) for value in asked.flags]
    return build(
        inventory, asked.facts, num_ctx=asked.num_ctx, vram_free_bytes=int(asked.free_gib * 2**30),
        layouts=layouts_of(len(inventory.devices)), env={FLAG: flags} if flags else None, **given,
    )  # fmt: skip


def spec_of(asked: Asked, space: Space, limit_s: float) -> StudySpec:
    """The study of it."""
    tables = {"policies": "policy"}
    search = {tables.get(name, name): list(values) for name, values in asked.choices.items() if name != "flag"}
    load = asked.load
    return StudySpec.model_validate({
        "study": {"name": "benchmark", "seed": load.seed},
        "cluster": {"driver": "simulated", "model": asked.facts.name, "vram_free_gib": asked.free_gib},
        "search": {
            **search,
            "layouts": list(map(str, space.choices["layout"])),
            "env": {FLAG: list(asked.flags)} if asked.flags else {},
        },
        "workload": {
            "num_ctx": asked.num_ctx,
            "input_tokens": {"kind": "lognormal", "mean": round(load.input_tokens), "spread": load.input_spread},
            "num_predict": {"kind": "lognormal", "mean": round(load.output_tokens), "spread": load.output_spread},
            "levels": [load.users],
            "window_s": 90,
            "window_max_s": 300,
        },
        "objective": {"limits": [{"metric": "ttft_s", "statistic": "p95", "max": limit_s}]},
        "budget": {"trials": 40},
    })  # fmt: skip


def searchable(name: str, who: Named, asked: Asked, law: Law, inventory: Inventory) -> Cluster | None:
    """The cluster, if there is something to search: a space of a fair size, a baseline that starts, and few hits.

    Truths are kept under `name` for later processes.
    """
    try:
        space = space_of(inventory, asked)
    except SpecError:
        return None
    configurations = list(space.configurations())
    built = {key(params): law.build(params) for params in configurations}
    baseline = _baseline(configurations, built)
    if not FEWEST <= len(configurations) <= MOST or baseline is None:
        return None
    truths = recall(name)
    known = len(truths)
    found = [truth_of(made.setup, asked.load, truths) for made in built.values() if made is not None]
    if len(truths) > known:
        keep(name, truths)
    limit_s = limit_between(found, asked.limit_quantile)
    cluster = Cluster(
        who.family, who.seed, who.adverse, inventory, asked.facts, space, spec_of(asked, space, limit_s), baseline, law,
        asked.load, asked.noise, truths, built,
    )  # fmt: skip
    feasible = any(truth.ttft.p95 <= limit_s for truth in found)
    return cluster if feasible and cluster.hit_share < asked.most_hits else None


def _baseline(configurations: Sequence[dict[str, Value]], built: Mapping[str, Built | None]) -> dict[str, Value] | None:
    """One instance on the first GPU with 4 slots, or as many as there is room for."""
    usual = [params for params in configurations if params["layout"] == "0" and _usual(params)]
    fitting = [params for params in usual if int(params["num_parallel"]) <= 4 and built[key(params)]]
    return max(fitting, key=lambda params: int(params["num_parallel"]), default=None)


def _usual(params: Mapping[str, Value]) -> bool:
    plain = {"flash_attention": "auto", "kv_cache_type": "f16", "num_batch": 512, f"env:{FLAG}": FLAGS[0]}
    return all(params.get(name, value) == value for name, value in plain.items())
