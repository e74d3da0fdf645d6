"""A study file becomes a frozen `StudySpec`; what is wrong with it becomes one clear line.

Units: seconds, GiB where the name ends in `_gib`, tokens. With `cluster.time_scale` other than 1 every second in the
`workload`, and every figure in the results, is a second of the played host.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from autotune.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic_core import ErrorDetails

TUNABLE_PREFIXES = ("OLLAMA_", "LLAMA_ARG_")
OWN_VARIABLES = {
    "OLLAMA_HOST": "cluster.first_port",
    "OLLAMA_MODELS": "cluster.models_dir",
    "OLLAMA_NUM_PARALLEL": "search.num_parallel",
    "OLLAMA_CONTEXT_LENGTH": "workload.num_ctx",
    "OLLAMA_FLASH_ATTENTION": "search.flash_attention",
    "OLLAMA_KV_CACHE_TYPE": "search.kv_cache_type",
    "LLAMA_ARG_THREADS": "search.threads",
}
"""Variables that have a key of their own."""


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("the same value twice")
    return values


def _tunable(name: str) -> str:
    if name in OWN_VARIABLES:
        raise ValueError(f"{name} is set by {OWN_VARIABLES[name]}")
    if not name.startswith(TUNABLE_PREFIXES):
        raise ValueError(f"only variables that begin with {' or '.join(TUNABLE_PREFIXES)} reach Ollama")
    return name


def _kind(value: object) -> str:
    """Text or a list: so that an error speaks of the one that was meant."""
    return "text" if isinstance(value, str) else "list"


def _short(key: str, kinds: type | tuple[type, ...]) -> BeforeValidator:
    """Let a bare value stand for a table with the one key."""

    def expand(value: object) -> object:
        return {key: value} if isinstance(value, kinds) and not isinstance(value, bool) else value

    return BeforeValidator(expand)


Port = Annotated[int, Field(ge=1, le=65535)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Choices = Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(_unique)]
Variable = Annotated[str, AfterValidator(_tunable)]
FlashAttention = Literal["auto", "on", "off"]
CacheType = Literal["f16", "q8_0", "q4_0"]
Policy = Literal["round_robin", "least_conn", "random_two"]
Statistic = Literal["mean", "p50", "p90", "p95", "p99"]


class Section(BaseModel):
    """Base of every table of the file: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Study(Section):
    """What the study is called."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Results land in a folder of this name beside the study file."""
    seed: Annotated[int, Field(ge=0)] = 0


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
    Annotated[str, AfterValidator(_devices), Tag("text")]
    | Annotated[tuple[Annotated[DeviceEntry, _short("id", str)], ...], Field(min_length=1), Tag("list")],
    Discriminator(_kind),
]
Layouts = Annotated[
    Annotated[Literal["auto"], Tag("text")] | Annotated[tuple[str, ...], Field(min_length=1), Tag("list")],
    Discriminator(_kind),
]


class Cluster(Section):
    """The host's part: which Ollama, which model, which devices, which ports."""

    driver: Literal["process", "simulated"] = "process"
    binary: str = "ollama"
    models_dir: Path | None = None
    """The model store; without it the first of $OLLAMA_MODELS, the service's and the user's that has the model."""
    home: Path | None = None
    """HOME of the instances; without it a private folder of the study."""
    model: Annotated[str, Field(min_length=1)]
    first_port: Port = 9000
    """Instance i listens on 127.0.0.1, first_port + i."""
    balancer: Literal["nginx", "direct"] = "nginx"
    """`direct`: the client spreads the requests itself, nothing listens in front."""
    balancer_port: Port = 9999
    devices: Devices = "auto"
    vram_free_gib: Annotated[float, Field(ge=0)] | None = None
    """Memory to leave free on each device; without it what llama.cpp leaves by itself (1 GiB)."""
    env: dict[Variable, str] = {}
    """Further variables of every instance, the same in each trial."""
    start_timeout_s: Positive = 60
    load_timeout_s: Positive = 600
    stop_timeout_s: Positive = 15
    profile: str = "4x-rtx2080ti"
    """`simulated` only: the hardware that is played, a name or a path."""
    time_scale: Positive = 1
    """How much faster than the played host the wall clock runs. Only for played hosts: every output says so."""

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
    policy: Annotated[tuple[Policy, ...], Field(min_length=1), AfterValidator(_unique)] = ("round_robin", "least_conn")
    flash_attention: Annotated[tuple[FlashAttention, ...], Field(min_length=1), AfterValidator(_unique)] = ("auto",)
    kv_cache_type: Annotated[tuple[CacheType, ...], Field(min_length=1), AfterValidator(_unique)] = ("f16",)
    threads: Choices | None = None
    """Threads of an instance; without it, on a CPU, the physical cores that it is pinned to."""
    num_batch: Choices | None = None
    """Prompt tokens read in one step (a derived model); without it Ollama chooses, depending on num_parallel."""
    env: dict[Variable, Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_unique)]] = {}


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
    env: dict[Variable, str] = {}


class Lengths(Section):
    """Lengths in tokens: all `mean`, or spread around it."""

    kind: Literal["fixed", "uniform", "normal", "lognormal"] = "fixed"
    mean: Count
    spread: Annotated[float, Field(ge=0, lt=1)] = 0.3
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


Tokens = Annotated[Lengths, _short("mean", int)]


class Workload(Section):
    """What is asked, and how hard."""

    endpoint: Literal["generate", "chat"] = "generate"
    num_ctx: Annotated[int, Field(ge=4)]
    num_predict: Tokens
    input_tokens: Tokens | None = None
    prompts: Path | None = None
    """JSON lines with a `prompt`, in place of the seeded generator; relative to the study file."""
    raw: bool = False
    temperature: Annotated[float, Field(ge=0)] = 0.8
    think: bool | None = None
    levels: Annotated[tuple[Annotated[Level, _short("users", int)], ...], Field(min_length=1)]
    warmup_s: Annotated[float, Field(ge=0)] = 10
    warmup_max_s: Positive = 180
    window_s: Positive = 60
    window_max_s: Positive = 300
    drain_s: Annotated[float, Field(ge=0)] = 120
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
    at: int | float | str | None = None


class Objective(Section):
    """What is made as large as possible, and what must hold."""

    metric: Literal["output_tps"] = "output_tps"
    at: int | float | str | None = None
    """The level: its users, its rate, or its label; without it the last one."""
    limits: tuple[Limit, ...] = ()
    min_success_rate: Annotated[float, Field(ge=0, le=1)] = 0.99


class Budget(Section):
    """When the night ends: whichever comes first."""

    trials: Count | None = None
    hours: Positive | None = None
    until: Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")] | None = None
    """A time of day, "07:00": its next occurrence after the start."""
    proof_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
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
        for at in (self.objective.at, *(limit.at for limit in self.objective.limits)):
            self.level(at)
        return self

    def level(self, at: float | str | None) -> Level:
        """The level that `at` names; `ValueError` when there is none. None is the objective's."""
        levels = self.workload.levels
        if at is None:
            return self.level(self.objective.at) if self.objective.at is not None else levels[-1]
        for level in levels:
            if at in (level.users, level.rate, level.label):
                return level
        raise ValueError(f"at = {at!r}: no such level; there are {', '.join(repr(level.label) for level in levels)}")

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


def load(path: Path) -> StudySpec:
    """Read a study file. Raises `SpecError`."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}: not TOML: {error}") from error
    try:
        spec = StudySpec.model_validate(data)
    except ValidationError as error:
        raise SpecError("\n".join(_line(path, detail) for detail in error.errors())) from error
    return _resolved(spec, path.parent)


def _resolved(spec: StudySpec, folder: Path) -> StudySpec:
    """Paths in a study file are relative to it."""
    cluster: dict[str, Any] = {
        key: (folder / value.expanduser()).resolve()
        for key in ("models_dir", "home")
        if (value := getattr(spec.cluster, key)) is not None
    }
    if spec.cluster.profile.endswith(".toml"):
        cluster["profile"] = str((folder / spec.cluster.profile).resolve())
    if "/" in spec.cluster.binary:
        cluster["binary"] = str((folder / Path(spec.cluster.binary).expanduser()).absolute())
    changed: dict[str, Any] = {"cluster": spec.cluster.model_copy(update=cluster)}
    if spec.workload.prompts is not None:
        prompts = (folder / spec.workload.prompts.expanduser()).resolve()
        changed["workload"] = spec.workload.model_copy(update={"prompts": prompts})
    return spec.model_copy(update=changed)


def _line(path: Path, detail: ErrorDetails) -> str:
    """One validation error as one line: file, key, value, what is allowed."""
    keys = [str(part) for part in detail["loc"] if part not in {"text", "list", "[key]"}]
    where = f"{path}: {_dotted(keys)}: " if keys else f"{path}: "
    if detail["type"] == "extra_forbidden":
        return where + _unknown(keys)
    if detail["type"] == "missing":
        return f"{where}missing; it has no default"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should", "should")
    for python, toml in (("tuple", "list"), ("dictionary or instance of ", "table, "), ("dictionary", "table")):
        message = message.replace(python, toml)
    if isinstance(detail["input"], dict | BaseModel):
        return where + message
    return f"{where}{detail['input']!r}: {message}"


def _dotted(keys: list[str]) -> str:
    return re.sub(r"\.(\d+)", r"[\1]", ".".join(keys))


def _unknown(keys: list[str]) -> str:
    allowed = sorted(_fields(keys[:-1]))
    close = difflib.get_close_matches(keys[-1], allowed, n=1, cutoff=0.5)
    hint = f'; did you mean "{close[0]}"?' if close else "."
    return f"unknown key{hint} Allowed here: {', '.join(allowed)}"


_NESTED: dict[str, type[BaseModel]] = {
    "study": Study,
    "cluster": Cluster,
    "search": Search,
    "baseline": Baseline,
    "workload": Workload,
    "objective": Objective,
    "budget": Budget,
    "cluster.devices": DeviceEntry,
    "workload.levels": Level,
    "workload.num_predict": Lengths,
    "workload.input_tokens": Lengths,
    "objective.limits": Limit,
}


def _fields(keys: list[str]) -> list[str]:
    model = _NESTED.get(".".join(key for key in keys if not key.isdigit()), StudySpec)
    return list(model.model_fields)
