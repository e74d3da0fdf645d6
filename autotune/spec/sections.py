"""The tables of a study file, as frozen values.

Units: seconds, GiB where the name ends in `_gib`, tokens. With `cluster.time_scale` other than 1 every second in the
`workload`, and every figure in the results, is a second of the played host.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from autotune.spec.goals import GOALS, OUTPUT, Goal, Metric
from autotune.spec.values import (
    LIST,
    MOST_GIB,
    TEXT,
    At,
    CacheType,
    Choices,
    Copies,
    Count,
    FlashAttention,
    Letters,
    Memory,
    NotNegative,
    Policy,
    Port,
    Positive,
    Rule,
    Some,
    Statistic,
    Unique,
    Users,
    Value,
    Variable,
    Weights,
    Yes,
    kind,
    like,
    one_of,
    short,
)
from autotune.stats import QUANTILES


class Section(BaseModel):
    """Base of every table of the file: frozen, and strict about its keys.

    What stands below a key is its description, in the reference (`make reference`) and in editors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Study(Section):
    """What the study is called."""

    name: Annotated[
        str,
        like(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", "a letter or digit, then letters, digits, '.', '_', '-'; up to 200"),
    ]
    """Results land in a folder of this name beside the study file, which is called something else."""
    seed: Annotated[int, Field(ge=0, strict=True)] = 0
    """Of all that is drawn at random: prompts, lengths, arrivals, proposals. The same seed asks the same questions."""


class DeviceEntry(Section, json_schema_extra=one_of("id", "cores")):
    """One device written by hand: a GPU by its `id`, or a group of CPU `cores`. The id alone will do: `["0", "1"]`."""

    id: str | None = None
    """A GPU's UUID or its number in `nvidia-smi -L`; of an AMD GPU what ROCR_VISIBLE_DEVICES calls it."""
    cores: str | None = None
    """CPU numbers as the kernel writes them: "0-3,8"."""
    make: Literal["nvidia", "amd", "cpu"] | None = None
    """Needed only for an AMD GPU. Of those nobody is asked who else uses them: see to it that they are free."""
    name: str | None = None
    """What an AMD GPU is called in the output."""
    memory_gib: Memory | None = None
    """The memory of an AMD GPU, GiB; it has to be told."""

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.id is None) == (self.cores is None):
            raise ValueError("a device has either an id or cores")
        return self


_DEVICES = "auto|gpu|cpu|numa|(?:cores|groups):[1-9][0-9]*"
_SORTS = '"auto", "gpu", "cpu", "numa", "cores:N", "groups:N"'


def _devices(value: str) -> str:
    if not re.fullmatch(_DEVICES, value):
        raise ValueError(f"allowed are {_SORTS}, or a list of devices")
    return value


Devices = Annotated[
    Annotated[str, Rule(_devices, {"pattern": f"^(?:{_DEVICES})$", "$comment": _SORTS}), Tag(TEXT)]
    | Annotated[
        tuple[Annotated[DeviceEntry, short("id", str, "a device's id", str | DeviceEntry)], ...], Some, Tag(LIST)
    ],
    Discriminator(kind),
]
Layouts = Annotated[
    Annotated[str, replace(like("auto", '"auto" or a list of layouts'), schema={"enum": ["auto"]}), Tag(TEXT)]
    | Annotated[tuple[str, ...], Some, Unique, Tag(LIST)],
    Discriminator(kind),
]


_FOLDER = r"[^\x00-\x1f\x7f]+"
WarmStart = Annotated[
    Annotated[str, like(_FOLDER, '"auto", "off", a study folder'), Tag(TEXT)]
    | Annotated[
        tuple[Annotated[str, replace(like(_FOLDER, "a study folder"), schema={"pattern": f"^{_FOLDER}$"})], ...],
        Some,
        Unique,
        Tag(LIST),
    ],
    Discriminator(kind),
]


class Cluster(Section):
    """The host's part: which Ollama, which model, which devices, which ports."""

    driver: Literal["process", "simulated"] = "process"
    """`process` starts real Ollama servers; `simulated` a stand-in that plays the hardware of `profile`."""
    binary: str = "ollama"
    """Ollama: a name that is looked up in PATH, or a path."""
    models_dir: Path | None = None
    """The model store; without it the first of $OLLAMA_MODELS, the service's and the user's that has the model."""
    home: Path | None = None
    """HOME of the instances; without it a private folder of the study."""
    model: Annotated[str, like(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}", "a name as `ollama list` shows it")]
    """The model that is served, by all instances."""
    first_port: Port = 9000
    """Instance i listens on 127.0.0.1, first_port + i."""
    balancer: Literal["nginx", "direct"] = "nginx"
    """`nginx` listens in front of the instances; with `direct` the client spreads the requests itself."""
    balancer_port: Port = 9999
    """nginx listens on 127.0.0.1, here."""
    devices: Devices = "auto"
    """`gpu`: the NVIDIA GPUs; `cpu`: the cores in some groups; `numa`: a group for each NUMA node; `cores:N`: groups of
    N cores; `groups:N`: N groups; `auto`: `gpu`, or `cpu` where there are none; or one by one."""
    vram_free_gib: Annotated[NotNegative, Field(le=MOST_GIB)] | None = None
    """Memory to leave free on each GPU, GiB; without it what Ollama leaves by itself (1 GiB; before 0.30 it leaves
    457 MiB in any case)."""
    env: dict[Variable, Value] = {}
    """Further variables of every instance, the same in each trial: names that begin with OLLAMA_ or LLAMA_ARG_, but for
    those that have a key of their own."""
    start_timeout_s: Positive = 60
    """How long an instance may take to answer after its start, seconds."""
    load_timeout_s: Positive = 600
    """How long it may take to load the model, seconds."""
    stop_timeout_s: Positive = 15
    """How long it may take to end before it is killed, seconds."""
    profile: str = "4x-rtx2080ti"
    """`simulated` only: the hardware that is played, a name or the path of a .toml file."""
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

    @property
    def free_bytes(self) -> int | None:
        """What each GPU is to keep free; None leaves it to Ollama."""
        return None if self.vram_free_gib is None else int(self.vram_free_gib * 2**30)


class Search(Section):
    """The space: of each parameter the values that are tried; and who chooses among them."""

    sampler: Literal["informed", "tpe", "gp", "random", "grid"] = "informed"
    """`informed`: by what physics and the trials so far say of each configuration; needs users without think time, else
    `tpe` takes over. `tpe` and `gp` are Optuna's (`gp` needs torch). A study may go on with another one."""

    warm_start: WarmStart = "auto"
    """Where the search begins: with what earlier studies of the same devices and model say, which counts the less, the
    more has changed since. What is measured overrules it, and nothing is proved by it. `auto`: those beside this study,
    three at most; `off`: none; or the study folders that are written here."""
    num_parallel: Choices
    """Values of OLLAMA_NUM_PARALLEL: slots of an instance, so many requests at a time."""
    per_class: Literal["auto", True, False] = "auto"
    """Whether instances on one kind of devices may have other slots than those on another; `auto`: where kinds differ.
    The letters that `autotune plan` gives the kinds name the parameters: `num_parallel@B`."""
    layouts: Layouts = "auto"
    """`auto`: every layout up to symmetry; or those written here, as "0 | 1", "0x2", "0+1 | 2+3"."""
    instances_per_device: Copies = (1,)
    """With layouts = "auto": how many instances may share a device."""
    devices_per_instance: Choices | None = None
    """With layouts = "auto": how many devices an instance may span, besides one. Without it: one GPU, or as many as the
    model needs; any number of groups of cores."""
    policy: Annotated[tuple[Policy, ...], Some, Unique] = ("round_robin", "least_conn")
    """Who gets the next request: the instances in turn, the one with the fewest in flight, or the better of two drawn
    at random."""
    weights: Annotated[tuple[Weights, ...], Some, Unique] = ("equal", "slots")
    """Where instances differ in slots: whether each gets an equal share, or one in proportion to its slots (nginx's
    `weight`)."""
    flash_attention: Annotated[tuple[FlashAttention, ...], Some, Unique] = ("auto",)
    """Values of OLLAMA_FLASH_ATTENTION; `auto` leaves it to Ollama."""
    kv_cache_type: Annotated[tuple[CacheType, ...], Some, Unique] = ("f16",)
    """Values of OLLAMA_KV_CACHE_TYPE; q8_0 and q4_0 take less memory, and may cost quality."""
    threads: Choices | None = None
    """Threads of an instance; without it, on a CPU, the physical cores that it is pinned to."""
    num_batch: Choices | None = None
    """Prompt tokens read in one step (a derived model); without it Ollama chooses, depending on num_parallel."""
    env: dict[Variable, Annotated[tuple[Value, ...], Some, Unique]] = {}
    """Further variables of Ollama and the values of each, as in { LLAMA_ARG_CACHE_RAM = ["0", "8192"] }: so many MiB
    of earlier prompts llama.cpp keeps on the host, and looks through them for each new one. Where prompts do not
    repeat, 0 may be faster, most of all for a small model, and an instance stays as fast as when it was started."""


class Baseline(Section):
    """What runs today; trial 0. It need not lie in the space."""

    layout: str | None = None
    """Without it: the first GPU; on a CPU one instance over all of it."""
    num_parallel: Count = 1
    """Its OLLAMA_NUM_PARALLEL; Ollama's own default is 1."""
    num_parallel_at: dict[Letters, Count] = {}
    """That of its instances on other kinds of devices, by the letters that `autotune plan` gives them: { B = 8 }."""
    policy: Policy = "round_robin"
    """How requests are spread, where it has several instances."""
    weights: Weights = "equal"
    """In what shares, where these differ in slots."""
    flash_attention: FlashAttention = "auto"
    """Its OLLAMA_FLASH_ATTENTION; `auto`: it is not set."""
    kv_cache_type: CacheType = "f16"
    """Its OLLAMA_KV_CACHE_TYPE."""
    threads: Count | None = None
    """Threads of an instance; without it as in `search.threads`."""
    num_batch: Count | None = None
    """Prompt tokens read in one step; without it Ollama chooses."""
    env: dict[Variable, Value] = {}
    """Its other variables, on top of `cluster.env`."""


class Limit(Section):
    """`statistic` of `metric` must not exceed `max`, at one level or (without `at`) at the objective's."""

    metric: Literal["ttft_s", "tpot_s", "e2e_s"]
    """Time to the first token; time for each further token; time to the end of the answer. Seconds."""
    statistic: Statistic
    """Over the requests of the window: the mean, or a percentile."""
    max: Positive
    """Seconds."""
    at: At | None = None
    """The level: its users, its rate, or its label; without it the objective's."""

    def bounded_by(self, other: Limit) -> bool:
        """Whether it says nothing beside another one, at the same level: a lower percentile of the same, or of the time
        to the first token beside that to the end, is never more."""
        if "mean" in (self.statistic, other.statistic) and self.statistic != other.statistic:
            return False
        smaller = self.metric == other.metric or (self.metric, other.metric) == ("ttft_s", "e2e_s")
        return (
            smaller and QUANTILES.get(self.statistic, 0) <= QUANTILES.get(other.statistic, 0) and self.max >= other.max
        )


class Objective(Section):
    """What is made as large as possible, and what must hold."""

    metric: Metric = OUTPUT
    """`output_tps`: tokens of answers a second, of the whole cluster, at one load. `capacity`: the largest load, users
    or requests/s, at which all limits hold; the one level of the workload is where its search begins. A list of two or
    three goals, `output_tps` (or `tps`) among them, asks for more than one answer: the configurations of which none is
    better than another in every goal. Goals are `ttft_p95_s`, `tpot_mean_s`, `e2e_p99_s` and their like, with `mean`,
    `p50`, `p90`, `p95` or `p99`, to be as small as can be; and `tokens_per_joule`, of a whole load, where the GPUs tell
    their energy. With several goals nothing is dropped for being slow, only for missing a limit."""
    at: At | None = None
    """The level: its users, its rate, or its label; without it the last one."""
    limits: tuple[Limit, ...] = ()
    """What must hold."""
    min_success_rate: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.99
    """The part of the requests that must succeed, at every level; in a proof, of a level that nothing else is about, in
    the first block, and in all of them where it was missed there."""
    precision: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.05
    """A window ends when half the 95 % interval of the output rate is this part of it, and the limits are decided; or
    after `workload.window_max_s`. Of a `capacity` it is the step between what holds and what does not. A goal that is a
    time has to have enough requests, and no more: how exactly it is known is for the proof to say."""
    end_early: Yes = True
    """A window ends as soon as a limit is surely missed, or more requests come than can be answered; and in the search
    the whole trial, from its warm-up on, as soon as it surely cannot beat the best so far. Without it every window
    lasts, as for a table of how bad things are."""
    capacity_max: Users = 1024
    """No load beyond this is tried for a `capacity`."""

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What counts beside the output; nothing where there is one answer."""
        return () if isinstance(self.metric, str) else tuple(GOALS[name] for name in self.metric if name != OUTPUT)


class Budget(Section, json_schema_extra={"anyOf": [{"required": [key]} for key in ("trials", "hours", "until")]}):
    """When the night ends: whichever comes first. One of `trials`, `hours` and `until` has to be there."""

    trials: Count | None = None
    """Configurations, the baseline among them."""
    hours: Positive | None = None
    """Of all runs of the study together."""
    until: Annotated[str, like(r"([01][0-9]|2[0-3]):[0-5][0-9]", 'a time of day, as in "07:00"')] | None = None
    """A time of day, "07:00": its next occurrence after the start."""
    proof_share: Annotated[float, Field(ge=0, lt=1, strict=True)] = 0.4
    """The part of `hours`, or of the time to `until`, that the search leaves to the proof of the winner; more where the
    fewest blocks need more and half the night is enough for them. 0: nothing is kept, and so where the fewest blocks do
    not fit at all, and while the search has found nothing but the baseline that meets the limits."""
    early: Yes = True
    """The search ends when it is unlikely (below 5 %) that anything untried is better by more than `tolerance`; its
    time is the proof's. After ten trials at the earliest, and when that was so twice in a row; only where
    `search.sampler` can say so. With several goals: better in some goal than each that is as good in the others."""
    tolerance: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.02
    """What would be better by less is not worth the time: part of the best objective so far."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.trials is None and self.hours is None and self.until is None:
            raise ValueError("one of trials, hours, until must be set")
        return self


class Proof(Section):
    """How the winner is proved: the best of the search and the baseline run again in alternating blocks."""

    finalists: Annotated[int, Field(ge=0, le=6, strict=True)] = 3
    """The most configurations that run against the baseline; 0: no proof. Of several goals these are points of the
    front, first the one that covers most of it, then what adds most: more show more of it, and take longer. If more are
    asked for after a proof, and there is time for more, it is made again, of more."""
    pairs: Annotated[int, Field(ge=4, strict=True)] = 4
    """Blocks, in each of which every candidate runs once, before anything is decided."""
    pairs_max: Count = 24
    """The most blocks, where it is not decided before and there is time. To be chosen before the night: a proof that
    goes on with more of them than it began with spends a part of its error twice."""
    confidence: Annotated[float, Field(gt=0.5, lt=1, strict=True)] = 0.95
    """How sure all statements of a proof together are to hold."""
    least_gain: NotNegative = 0.02
    """A smaller gain in tokens/s, or in another goal, in parts of the baseline's, is not worth a change."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.pairs > self.pairs_max:
            raise ValueError(f"pairs {self.pairs} is more than pairs_max {self.pairs_max}")
        return self
