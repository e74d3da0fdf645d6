"""A cluster of the benchmark: what a study knows of it, what it really does, and what a trial of it shows."""

from __future__ import annotations

import gzip
import os
import pickle
import tempfile
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from autotune.space import key
from tests.benchmarks.clusters import truth as engine
from tests.benchmarks.clusters.trial import Noise, failed_trial, observed_trial

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from autotune.inventory import Inventory
    from autotune.result import TrialResult
    from autotune.space import ModelFacts, Space, Value
    from autotune.spec import StudySpec
    from tests.benchmarks.clusters.machine import Built, Law
    from tests.benchmarks.clusters.truth import Load, Setup, Truth

SLACK = 1.05
"""A true p95 of this part of the limit still counts as within it: no measurement tells them apart."""
TOLERANCE = 0.02

Truths = dict["Setup", "Truth"]


@dataclass
class Cluster:
    """One night's host, model and load. Equal families and seeds are equal clusters, on every machine."""

    family: str
    seed: int
    adverse: bool
    inventory: Inventory
    facts: ModelFacts
    space: Space
    spec: StudySpec
    baseline: dict[str, Value]
    """Trial 0."""
    law: Law = field(repr=False)
    load: Load
    noises: Noise
    truths: Truths = field(default_factory=dict, repr=False)
    """By tables: what is known already at the study's load."""
    built: dict[str, Built | None] = field(default_factory=dict, repr=False)
    """By `key` of the parameters: tables that are made already."""

    @property
    def noise(self) -> float:
        """Standard deviation of log tokens/s between trials of one configuration, drift and outliers aside."""
        return self.noises.sd

    @property
    def users(self) -> int:
        """Of the study's level."""
        return self.load.users

    @property
    def limit_s(self) -> float:
        """Of the p95 of TTFT."""
        return self.spec.objective.limits[0].max

    def truth(self, params: Mapping[str, Value], users: int | None = None) -> Truth | None:
        """What the configuration really does; None where it does not start."""
        built = self._built(params)
        if built is None:
            return None
        if users is None or users == self.users:
            return truth_of(built.setup, self.load, self.truths)
        return truth_of(built.setup, replace(self.load, users=users), self._other_loads.setdefault(users, {}))

    @cached_property
    def configurations(self) -> list[dict[str, Value]]:
        """Those of the space."""
        return list(self.space.configurations())

    def all(self) -> dict[str, Truth | None]:
        """What every configuration of the space really does, by `autotune.space.key`."""
        return dict(self._all)

    @cached_property
    def best(self) -> float:
        """The most true tokens/s of configurations whose true p95 meets the limit."""
        return max(truth.tps for truth in self._all.values() if truth and truth.ttft.p95 <= self.limit_s)

    @cached_property
    def hit_share(self) -> float:
        """The part of the space that is a hit."""
        return sum(map(self.hit, self.configurations)) / len(self.configurations)

    def hit(self, params: Mapping[str, Value], tolerance: float = TOLERANCE) -> bool:
        """Whether the configuration is as good as the best, and within the limit."""
        return self.regret(params) <= tolerance

    def regret(self, params: Mapping[str, Value]) -> float:
        """By how much less than the best it really gives, in parts; 1 where it misses the limit or does not start."""
        truth = self.truth(params)
        if truth is None or truth.ttft.p95 > SLACK * self.limit_s:
            return 1.0
        return max(0.0, 1 - truth.tps / self.best)

    @cached_property
    def rule_of_thumb(self) -> dict[str, Value]:
        """What one would try first: an instance on each device, least_conn, a slot for each user; the rest as it is."""
        devices = len(self.inventory.devices)
        layout = " | ".join(map(str, range(devices)))
        wanted = self.users / devices
        params = {**self.baseline, "layout": layout, "policy": "least_conn"}
        levels = sorted(self.space.choices["num_parallel"], key=lambda slots: (abs(int(slots) - wanted), -int(slots)))
        tried = ({**params, "num_parallel": slots} for slots in levels)
        return next((one for one in tried if self.space.allows(one)), self.baseline)

    def observe(self, params: Mapping[str, Value], number: int, users: Sequence[int] = ()) -> TrialResult:
        """One noisy trial, as a night would keep it. What chance does to it depends on the seed and the number only.

        For each further number of users there is one more level, measured in a shorter window.
        """
        built = self._built(params)
        if built is None:
            return failed_trial(self.spec, params, number)
        loads = {count: self.truth(params, count) for count in dict.fromkeys((self.users, *users))}
        known = {count: found for count, found in loads.items() if found is not None}
        chance = self.noises.trial(self.seed, number)
        return observed_trial(self.spec, self.facts, params, number, built, known, chance)

    @cached_property
    def _other_loads(self) -> dict[int, Truths]:
        return {}

    @cached_property
    def _all(self) -> dict[str, Truth | None]:
        return {key(params): self.truth(params) for params in self.configurations}

    def _built(self, params: Mapping[str, Value]) -> Built | None:
        name = key(params)
        if name not in self.built:
            self.built[name] = self.law.build(params)
        return self.built[name]


def truth_of(setup: Setup, load: Load, known: Truths) -> Truth:
    """From what is known, or simulated and kept there."""
    if setup not in known:
        known[setup] = engine.simulate(setup, load)
    return known[setup]


def limit_between(truths: Sequence[Truth], quantile: float) -> float:
    """A limit that this part of the configurations meets, seconds with three digits."""
    return float(f"{np.quantile([truth.ttft.p95 for truth in truths], quantile):.3g}")


def recall(name: str) -> Truths:
    """What was simulated by an earlier process of the same version."""
    path = _kept(name)
    try:
        with gzip.open(path) as file:
            found: Truths = pickle.load(file)
    except (OSError, EOFError, pickle.PickleError):
        return {}
    return found


def keep(name: str, truths: Truths) -> None:
    """For later processes."""
    path = _kept(name)
    path.parent.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(gzip.compress(pickle.dumps(truths), compresslevel=1))
    os.replace(file.name, path)  # noqa: PTH105 – half a file would be read as none


def _kept(name: str) -> Path:
    return engine.cache() / engine.source_hash() / f"{name}.pickle.gz"
