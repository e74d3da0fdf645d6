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
    PlainValidator,
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
    "OLLAMA_VULKAN": "cluster.devices",
}
"""Variables that have a key of their own."""


def _some(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("an empty list; at least one value is needed")
    return values


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("the same value twice")
    return values


def _tunable(name: str) -> str:
    if name in OWN_VARIABLES:
        raise ValueError(f"{name} is set by {OWN_VARIABLES[name]}")
    if not name.startswith(TUNABLE_PREFIXES) or not re.fullmatch(r"[A-Z0-9_]+", name):
        raise ValueError(f"only variables that begin with {' or '.join(TUNABLE_PREFIXES)} reach Ollama")
    return name


def _printable(value: str) -> str:
    """Neither a process nor a systemd unit can be given the others."""
    if not value.isprintable():
        raise ValueError("allowed is text without control characters")
    return value


def _like(pattern: str, allowed: str) -> AfterValidator:
    """Text of this form; the pattern itself tells a person nothing."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"allowed is {allowed}")
        return value

    return AfterValidator(check)


def _level_name(value: object) -> int | float | str:
    """One check: a union would complain once for each of its types."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("should be users, a rate, or a level's label")  # noqa: TRY004 - pydantic reports ValueErrors
    return value


_TEXT, _LIST = "<text>", "<list>"
"""Tags of unions, which show up among the keys of an error: no key of a file can be called so."""


def _kind(value: object) -> str:
    """Text or a list: so that an error speaks of the one that was meant."""
    return _TEXT if isinstance(value, str) else _LIST


def _short(key: str, kind: type, words: str) -> BeforeValidator:
    """Let a bare value stand for a table with the one key."""

    def expand(value: object) -> object:
        if isinstance(value, dict | BaseModel):
            return value
        if isinstance(value, bool) or not isinstance(value, kind):
            raise ValueError(f"should be {words}, or a table")  # noqa: TRY004 - pydantic reports ValueErrors
        return {key: value}

    return BeforeValidator(expand)


Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True)]
NotNegative = Annotated[float, Field(ge=0, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Yes = Annotated[bool, Field(strict=True)]
Some = AfterValidator(_some)
Unique = AfterValidator(_unique)
Choices = Annotated[tuple[Count, ...], Some, Unique]
Variable = Annotated[str, AfterValidator(_tunable)]
Value = Annotated[str, AfterValidator(_printable)]
At = Annotated[int | float | str, PlainValidator(_level_name)]
FlashAttention = Literal["auto", "on", "off"]
CacheType = Literal["f16", "q8_0", "q4_0"]
Policy = Literal["round_robin", "least_conn", "random_two"]
Statistic = Literal["mean", "p50", "p90", "p95", "p99"]


class Section(BaseModel):
    """Base of every table of the file: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Study(Section):
    """What the study is called."""

    name: Annotated[str, _like(r"[A-Za-z0-9][A-Za-z0-9._-]*", "a letter or digit, then letters, digits, '.', '_', '-'")]
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
    Annotated[str, AfterValidator(_devices), Tag(_TEXT)]
    | Annotated[tuple[Annotated[DeviceEntry, _short("id", str, "a device's id")], ...], Some, Tag(_LIST)],
    Discriminator(_kind),
]
Layouts = Annotated[
    Annotated[str, _like("auto", '"auto" or a list of layouts'), Tag(_TEXT)]
    | Annotated[tuple[str, ...], Some, Unique, Tag(_LIST)],
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


Tokens = Annotated[Lengths, _short("mean", int, "a whole number of tokens")]


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
    levels: Annotated[tuple[Annotated[Level, _short("users", int, "a whole number of users")], ...], Some]
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
    until: Annotated[str, _like(r"([01][0-9]|2[0-3]):[0-5][0-9]", 'a time of day, as in "07:00"')] | None = None
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
        for level in levels:
            if at in (level.users, level.rate, level.label):
                return level
        raise ValueError(f"{at!r}: no such level; there are {', '.join(repr(level.label) for level in levels)}")

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
        raise SpecError("\n".join(_lines(path, error.errors()))) from error
    return _resolved(path, spec)


def _resolved(path: Path, spec: StudySpec) -> StudySpec:
    """Paths in a study file are relative to it."""
    written = spec.cluster
    cluster: dict[str, Any] = {
        key: _absolute(path, f"cluster.{key}", value)
        for key in ("models_dir", "home")
        if (value := getattr(written, key)) is not None
    }
    if written.profile.endswith(".toml"):
        cluster["profile"] = str(_absolute(path, "cluster.profile", Path(written.profile)))
    if "/" in written.binary:
        cluster["binary"] = str(_absolute(path, "cluster.binary", Path(written.binary), links=False))
    changed: dict[str, Any] = {"cluster": written.model_copy(update=cluster)}
    if spec.workload.prompts is not None:
        prompts = _absolute(path, "workload.prompts", spec.workload.prompts)
        changed["workload"] = spec.workload.model_copy(update={"prompts": prompts})
    return spec.model_copy(update=changed)


def _absolute(path: Path, key: str, value: Path, *, links: bool = True) -> Path:
    try:
        whole = path.parent / value.expanduser()
        return whole.resolve() if links else whole.absolute()
    except (OSError, ValueError, RuntimeError) as error:  # a user who is not there, a NUL, a loop of links
        raise SpecError(f"{path}: {key}: {str(value)!r}: no usable path: {error}") from error


def _lines(path: Path, details: list[ErrorDetails]) -> Iterator[str]:
    """A line for each error; the missing key that an unknown one was meant to be is not reported again."""
    meant = {(*detail["loc"][:-1], _close(detail)) for detail in details if detail["type"] == "extra_forbidden"}
    return (_line(path, detail) for detail in details if detail["type"] != "missing" or detail["loc"] not in meant)


def _line(path: Path, detail: ErrorDetails) -> str:
    """One validation error as one line: file, key, value, what is allowed."""
    keys = _keys(detail)
    where = f"{path}: {_dotted(keys)}: " if keys else f"{path}: "
    if detail["type"] == "extra_forbidden":
        close = _close(detail)
        hint = f'; did you mean "{close}"?' if close else "."
        return f"{where}unknown key{hint} Allowed here: {', '.join(sorted(_fields(keys[:-1])))}"
    if detail["type"] == "missing":
        return f"{where}missing; it has no default"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should", "should")
    message = re.sub(r"dictionary( or instance of \w+)?", "table", message).replace("tuple", "list")
    if isinstance(detail["input"], dict | BaseModel) or detail["loc"][-1] == "[key]":
        return where + message
    return f"{where}{detail['input']!r}: {message}"


def _keys(detail: ErrorDetails) -> list[str | int]:
    return [part for part in detail["loc"] if part not in {_TEXT, _LIST, "[key]"}]


def _dotted(keys: list[str | int]) -> str:
    """As TOML writes it: a key that is no plain word in quotes, a place in a list in brackets."""
    words = (f"[{key}]" if isinstance(key, int) else f".{key if _PLAIN.fullmatch(key) else repr(key)}" for key in keys)
    return "".join(words).removeprefix(".")


_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


def _close(detail: ErrorDetails) -> str:
    """The key that an unknown one was probably meant to be; empty if there is none like it."""
    *parents, wrong = _keys(detail)
    return next(iter(difflib.get_close_matches(str(wrong), sorted(_fields(parents)), n=1, cutoff=0.5)), "")


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


def _fields(keys: list[str | int]) -> list[str]:
    model = _NESTED.get(".".join(key for key in keys if isinstance(key, str)), StudySpec)
    return list(model.model_fields)
