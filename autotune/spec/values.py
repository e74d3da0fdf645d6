"""The values that a study file may hold: types, and the words for what is allowed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, PlainValidator
from pydantic_core import core_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

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
    "OLLAMA_SCHED_SPREAD": "search.layouts",
    "OLLAMA_KEEP_ALIVE": "autotune (-1: the model stays loaded)",
    "OLLAMA_MAX_LOADED_MODELS": "autotune (1)",
    "OLLAMA_NOPRUNE": "autotune (1: instances share a store)",
    "OLLAMA_NO_CLOUD": "autotune (1)",
    "OLLAMA_GPU_OVERHEAD": "cluster.vram_free_gib",
    "LLAMA_ARG_FIT_TARGET": "cluster.vram_free_gib",
    "LLAMA_ARG_CTX_SIZE": "workload.num_ctx",
    "LLAMA_ARG_N_PARALLEL": "search.num_parallel",
    "LLAMA_ARG_FLASH_ATTN": "search.flash_attention",
    "LLAMA_ARG_CACHE_TYPE_K": "search.kv_cache_type",
    "LLAMA_ARG_CACHE_TYPE_V": "search.kv_cache_type",
}
"""Variables that have a key of their own."""
_NAME = f"(?:{'|'.join(TUNABLE_PREFIXES)})[A-Z0-9_]*"


@dataclass(frozen=True, eq=False)
class Rule:
    """A check of a value that has the right type already; and the same, as far as it goes, in words of JSON schema."""

    check: Callable[[Any], Any]
    schema: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, core: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(core), **self.schema}


def some(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("an empty list; at least one value is needed")
    return values


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("the same value twice")
    return values


def two_rates(rates: tuple[float, ...]) -> tuple[float, ...]:
    if len(rates) != 2 or rates[1] <= 0:
        raise ValueError("allowed are two rates, the second above 0, as in [1, 5]")
    return rates


def tunable(name: str) -> str:
    if name in OWN_VARIABLES:
        raise ValueError(f"{name} is set by {OWN_VARIABLES[name]}")
    if not re.fullmatch(_NAME, name):
        raise ValueError(f"only variables that begin with {' or '.join(TUNABLE_PREFIXES)} reach Ollama")
    return name


def printable(value: str) -> str:
    """Neither a process nor a systemd unit can be given the others."""
    if not value.isprintable():
        raise ValueError("allowed is text without control characters")
    return value


def like(pattern: str, allowed: str) -> Rule:
    """Text of this form; the pattern itself tells a person nothing."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"allowed is {allowed}")
        return value

    return Rule(check, {"pattern": f"^(?:{pattern})$", "$comment": allowed})


def level_name(value: object) -> int | float | str:
    """One check: a union would complain once for each of its types."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("should be users, a rate, or a level's label")  # noqa: TRY004 - pydantic reports ValueErrors
    return value


TEXT, LIST = "<text>", "<list>"
"""Tags of unions, which show up among the keys of an error: no key of a file can be called so."""


def kind(value: object) -> str:
    """Text or a list: so that an error speaks of the one that was meant."""
    return TEXT if isinstance(value, str) else LIST


def short(key: str, kind: type, words: str, either: Any) -> BeforeValidator:
    """Let a bare value stand for a table with the one key; `either` is the type of both."""

    def expand(value: object) -> object:
        if isinstance(value, dict | BaseModel):
            return value
        if isinstance(value, bool) or not isinstance(value, kind):
            raise ValueError(f"should be {words}, or a table")  # noqa: TRY004 - pydantic reports ValueErrors
        return {key: value}

    return BeforeValidator(expand, json_schema_input_type=either)


def one_of(*keys: str) -> dict[str, Any]:
    """Of these keys a table has exactly one, in words of JSON schema."""
    return {"oneOf": [{"required": [key]} for key in keys]}


MOST_GIB = 1 << 20
"""A PiB. No host has more memory: what is more is a slip."""
MOST_RATE = 10_000.0
"""Requests a second: more than one client can send."""
MOST_USERS = 65535
"""Each has a connection of its own, and from one address there are no more to one port."""

Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True)]
Rate = Annotated[float, Field(gt=0, le=MOST_RATE, strict=True)]
NotNegative = Annotated[float, Field(ge=0, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Users = Annotated[int, Field(ge=1, le=MOST_USERS, strict=True)]
Memory = Annotated[float, Field(gt=0, le=MOST_GIB, strict=True)]
"""GiB."""
Yes = Annotated[bool, Field(strict=True)]
Some = Rule(some, {"minItems": 1})
Unique = Rule(unique, {"uniqueItems": True})
Ramp = Annotated[
    tuple[Annotated[NotNegative, Field(le=MOST_RATE)], ...], Rule(two_rates, {"minItems": 2, "maxItems": 2})
]
Choices = Annotated[tuple[Count, ...], Some, Unique]
Copies = Annotated[tuple[Port, ...], Some, Unique]
"""Of an instance: each of them listens on a port of its own."""
Variable = Annotated[str, Rule(tunable, {"pattern": f"^{_NAME}$", "not": {"enum": sorted(OWN_VARIABLES)}})]
Letters = Annotated[str, like(r"[A-Z]+(\+[A-Z]+)*", 'the letters of kinds of devices, as in "B" or "A+B"')]
Value = Annotated[str, Rule(printable, {"pattern": r"^[^\x00-\x1f\x7f]*$"})]
At = Annotated[int | float | str, PlainValidator(level_name, json_schema_input_type=float | str)]
FlashAttention = Literal["auto", "on", "off"]
CacheType = Literal["f16", "q8_0", "q4_0"]
Policy = Literal["round_robin", "least_conn", "random_two"]
Weights = Literal["equal", "slots"]
Format = Literal["jsonl", "sharegpt", "mooncake", "burstgpt", "azure"]
TIMED = ("mooncake", "burstgpt", "azure")
"""Formats of prompts that tell when each was asked."""
Statistic = Literal["mean", "p50", "p90", "p95", "p99"]
