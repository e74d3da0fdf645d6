"""The tables of a study file, as frozen values.

Units: seconds, GiB where the name ends in `_gib`, tokens. With `cluster.time_scale` other than 1 every second in the
`workload`, and every figure in the results, is a second of the played host.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from autotune.spec.values import (
    LIST,
    TEXT,
    At,
    CacheType,
    Choices,
    Count,
    FlashAttention,
    NotNegative,
    Policy,
    Port,
    Positive,
    Some,
    Statistic,
    Unique,
    Value,
    Variable,
    Yes,
    kind,
    like,
    short,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Section(BaseModel):
    """Base of every table of the file: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Study(Section):
    """What the study is called."""

    name: Annotated[str, like(r"[A-Za-z0-9][A-Za-z0-9._-]*", "a letter or digit, then letters, digits, '.', '_', '-'")]
    """Results land in a folder of this name beside the study file."""
    seed: Annotated[int, Field(ge=0, strict=True)] = 0


class DeviceEntry(Section):
    """One device written by hand: a GPU by its `id`, or a group of CPU `cores`."""

    id: str | None = None
    cores: str | None = None
    make: Literal["nvidia", "amd", "cpu"] | None = None
    name: str | None = None
    memory_gib: Positive | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.id is None) == (self.cores is None):
            raise ValueError("a device has either an id or cores")
        return self


def _devices(value: str) -> str:
    if value not in {"auto", "gpu", "cpu", "numa"} and not re.fullmatch(r"(cores|groups):[1-9][0-9]*", value):
        raise ValueError('allowed are "auto", "gpu", "cpu", "numa", "cores:N", "groups:N", or a list of devices')
    return value


Devices = Annotated[
    Annotated[str, AfterValidator(_devices), Tag(TEXT)]
    | Annotated[tuple[Annotated[DeviceEntry, short("id", str, "a device's id")], ...], Some, Tag(LIST)],
    Discriminator(kind),
]
Layouts = Annotated[
    Annotated[str, like("auto", '"auto" or a list of layouts'), Tag(TEXT)]
    | Annotated[tuple[str, ...], Some, Unique, Tag(LIST)],
    Discriminator(kind),
]


class Cluster(Section):
    """The host's part: which Ollama, which model, which devices, which ports."""

    driver: Literal["process", "simulated"] = "process"
    binary: str = "ollama"
    models_dir: Path | None = None
    """The model store; without it the first of $OLLAMA_MODELS, the service's and the user's that has the model."""
    home: Path | None = None
    """HOME of the instances; without it a private folder of the study."""
    model: Annotated[str, like(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}", "a name as `ollama list` shows it")]
    first_port: Port = 9000
    """Instance i listens on 127.0.0.1, first_port + i."""
    balancer: Literal["nginx", "direct"] = "nginx"
    """`direct`: the client spreads the requests itself, nothing listens in front."""
    balancer_port: Port = 9999
    devices: Devices = "auto"
    vram_free_gib: NotNegative | None = None
    """Memory to leave free on each device; without it what llama.cpp leaves by itself (1 GiB)."""
    env: dict[Variable, Value] = {}
    """Further variables of every instance, the same in each trial."""
    start_timeout_s: Positive = 60
    load_timeout_s: Positive = 600
    stop_timeout_s: Positive = 15
    profile: str = "4x-rtx2080ti"
    """`simulated` only: the hardware that is played, a name or a path."""
    time_scale: Positive = 1
    """How much faster than the played host the wall clock runs. Only for played hosts: every output says so."""

    @model_validator(mode="after")
    def _two_ports(self) -> Self:
        if self.balancer == "nginx" and self.balancer_port == self.first_port:
            raise ValueError(f"balancer_port {self.balancer_port} is first_port: the first instance listens there")
        return self

    @property
    def simulated(self) -> bool:
        """Whether figures of this study come from a played host."""
        return self.driver == "simulated" or self.time_scale != 1


class Search(Section):
    """The space."""

    num_parallel: Choices
    layouts: Layouts = "auto"
    """`auto`: every layout up to symmetry; or those written here, as "0 | 1", "0x2", "0+1 | 2+3"."""
    instances_per_device: Choices = (1,)
    devices_per_instance: Choices | None = None
    """How many devices an instance may span; without it as the model needs."""
    policy: Annotated[tuple[Policy, ...], Some, Unique] = ("round_robin", "least_conn")
    flash_attention: Annotated[tuple[FlashAttention, ...], Some, Unique] = ("auto",)
    kv_cache_type: Annotated[tuple[CacheType, ...], Some, Unique] = ("f16",)
    threads: Choices | None = None
    """Threads of an instance; without it, on a CPU, the physical cores that it is pinned to."""
    num_batch: Choices | None = None
    """Prompt tokens read in one step (a derived model); without it Ollama chooses, depending on num_parallel."""
    env: dict[Variable, Annotated[tuple[Value, ...], Some, Unique]] = {}


class Baseline(Section):
    """What runs today; trial 0. It need not lie in the space."""

    layout: str | None = None
    """Without it: the first GPU; on a CPU one instance over all of it."""
    num_parallel: Count = 1
    policy: Policy = "round_robin"
    flash_attention: FlashAttention = "auto"
    kv_cache_type: CacheType = "f16"
    threads: Count | None = None
    num_batch: Count | None = None
    env: dict[Variable, Value] = {}


class Lengths(Section):
    """Lengths in tokens: all `mean`, or spread around it."""

    kind: Literal["fixed", "uniform", "normal", "lognormal"] = "fixed"
    mean: Count
    spread: Annotated[float, Field(ge=0, lt=1, strict=True)] = 0.3
    """Relative: half the range of `uniform`, the standard deviation of the others, in parts of the mean."""


class Level(Section):
    """One load: so many users without think time, or so many requests a second."""

    users: Count | None = None
    rate: Positive | None = None
    arrivals: Literal["poisson", "constant"] = "poisson"

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.users is None) == (self.rate is None):
            raise ValueError("a level has either users or a rate")
        return self

    @property
    def label(self) -> str:
        """How people and results name it."""
        return f"{self.users} users" if self.users is not None else f"{self.rate:g} requests/s"


Tokens = Annotated[Lengths, short("mean", int, "a whole number of tokens")]


class Workload(Section):
    """What is asked, and how hard."""

    endpoint: Literal["generate", "chat"] = "generate"
    num_ctx: Annotated[int, Field(ge=4, strict=True)]
    num_predict: Tokens
    input_tokens: Tokens | None = None
    prompts: Path | None = None
    """JSON lines with a `prompt`, in place of the seeded generator; relative to the study file."""
    raw: Yes = False
    temperature: NotNegative = 0.8
    think: Yes | None = None
    levels: Annotated[tuple[Annotated[Level, short("users", int, "a whole number of users")], ...], Some]
    warmup_s: NotNegative = 10
    warmup_max_s: Positive = 180
    window_s: Positive = 60
    window_max_s: Positive = 300
    drain_s: NotNegative = 120
    request_timeout_s: Positive = 900

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.input_tokens is None) == (self.prompts is None):
            raise ValueError("input_tokens (there is no default) or a file of prompts, one of the two")
        for low, high in (("warmup_s", "warmup_max_s"), ("window_s", "window_max_s")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} {getattr(self, low):g} is more than {high} {getattr(self, high):g}")
        if len({level.label for level in self.levels}) < len(self.levels):
            raise ValueError("levels: the same load twice")
        return self


class Limit(Section):
    """`statistic` of `metric` must not exceed `max`, at one level or (without `at`) at the objective's."""

    metric: Literal["ttft_s", "tpot_s", "e2e_s"]
    statistic: Statistic
    max: Positive
    at: At | None = None


class Objective(Section):
    """What is made as large as possible, and what must hold."""

    metric: Literal["output_tps"] = "output_tps"
    at: At | None = None
    """The level: its users, its rate, or its label; without it the last one."""
    limits: tuple[Limit, ...] = ()
    min_success_rate: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.99


class Budget(Section):
    """When the night ends: whichever comes first."""

    trials: Count | None = None
    hours: Positive | None = None
    """Of all runs of the study together."""
    until: Annotated[str, like(r"([01][0-9]|2[0-3]):[0-5][0-9]", 'a time of day, as in "07:00"')] | None = None
    """A time of day, "07:00": its next occurrence after the start."""
    proof_share: Annotated[float, Field(ge=0, lt=1, strict=True)] = 0.2
    """The part of `hours`, or of the time to `until`, that the search leaves to the proof of the winner."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.trials is None and self.hours is None and self.until is None:
            raise ValueError("one of trials, hours, until must be set")
        return self


class StudySpec(Section):
    """A whole study file."""

    study: Study
    cluster: Cluster
    search: Search
    baseline: Baseline = Baseline()
    workload: Workload
    objective: Objective = Objective()
    budget: Budget

    @model_validator(mode="after")
    def _levels_exist(self) -> Self:
        limits = {f"objective.limits[{number}].at": limit.at for number, limit in enumerate(self.objective.limits)}
        for key, at in {"objective.at": self.objective.at, **limits}.items():
            try:
                self.level(at)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
        return self

    def level(self, at: float | str | None) -> Level:
        """The level that `at` names; `ValueError` when there is none. None is the objective's."""
        levels = self.workload.levels
        if at is None:
            return self.level(self.objective.at) if self.objective.at is not None else levels[-1]
        meant = [level for level in levels if at in (level.users, level.rate, level.label)]
        if len(meant) == 1:
            return meant[0]
        found = "means several levels; write one of" if meant else "no such level; there are"
        raise ValueError(f"{at!r}: {found} {', '.join(repr(level.label) for level in levels)}")

    def measured(self) -> dict[str, Any]:
        """All that decides what a trial measures, as flat `section.key` pairs: while they stay a study goes on."""
        data = self.model_dump(mode="json", exclude={"budget": True, "study": {"name"}})
        timeouts = {"cluster.start_timeout_s", "cluster.load_timeout_s", "cluster.stop_timeout_s"}
        return {key: value for key, value in _flat(data) if key not in timeouts}


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
