"""The table `[workload]` of a study file, as a frozen value: what is asked, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from autotune.spec.sections import Section
from autotune.spec.values import (
    TIMED,
    Count,
    Format,
    NotNegative,
    Positive,
    Ramp,
    Rate,
    Some,
    Users,
    Yes,
    one_of,
    short,
)


class Lengths(Section):
    """Lengths in tokens: all `mean`, or spread around it."""

    kind: Literal["fixed", "uniform", "normal", "lognormal"] = "fixed"
    """How they are spread."""
    mean: Count
    """Tokens. The number alone will do: `236` is `{ mean = 236 }`."""
    spread: Annotated[float, Field(ge=0, lt=1, strict=True)] = 0.3
    """Relative: half the range of `uniform`, the standard deviation of the others, in parts of the mean."""


class Level(Section, json_schema_extra=one_of("users", "rate", "ramp", "trace")):
    """One load: so many users without think time, or requests that come whatever the cluster does."""

    users: Users | None = None
    """Users, each of whom sends the next request when the answer is there. The number alone will do: `[5, 10]`."""
    rate: Rate | None = None
    """Requests a second, whether the earlier ones are answered or not."""
    ramp: Ramp | None = None
    """Requests a second that change in a straight line, `[1, 5]`: from the first rate to the second within `over_s`
    seconds from the start of the load, that of its warm-up; then they stay. They come at random."""
    trace: Positive | None = None
    """The arrivals of `workload.prompts` as they were recorded, so many times as fast: 1 is their own speed."""
    arrivals: Literal["poisson", "constant", "gamma"] = "poisson"
    """Of a `rate`: at random as independent users come; one like the other; or as `burstiness` says."""
    burstiness: Annotated[float, Field(ge=0.01, le=100, strict=True)] | None = None
    """Of `gamma`: the shape of the gaps' distribution. 1 is Poisson, below it requests come in bursts, above it they
    are more even; the gaps' standard deviation is their mean / √burstiness."""
    over_s: Positive | None = None
    """Of a `ramp`: how long it takes, seconds."""

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        kinds = [key for key in ("users", "rate", "ramp", "trace") if getattr(self, key) is not None]
        if len(kinds) != 1:
            found = " and ".join(kinds) or "none"
            raise ValueError(f"a level has one of users, rate, ramp, trace; this one has {found}")
        # `constant` beside users has always meant nothing
        if self.rate is None and (self.arrivals == "gamma" or (self.users is None and self.arrivals != "poisson")):
            raise ValueError(f'arrivals "{self.arrivals}" belongs to a rate; this level has {kinds[0]}')
        self._owned("burstiness", 'arrivals "gamma"', owned=self.arrivals == "gamma")
        self._owned("over_s", "a ramp", owned=self.ramp is not None)
        return self

    def _owned(self, key: str, owner: str, *, owned: bool) -> None:
        value = getattr(self, key)
        if owned and value is None:
            raise ValueError(f"{owner} needs {key}, a number above 0")
        if not owned and value is not None:
            raise ValueError(f"{key} {value:g} belongs to {owner}")

    @property
    def label(self) -> str:
        """How people and results name it."""
        if self.users is not None:
            return f"{self.users} users"
        if self.ramp is not None:
            start, end = self.ramp
            return f"ramp {start:g} to {end:g} requests/s in {self.over_s:g} s"
        if self.trace is not None:
            return "trace" if self.trace == 1 else f"trace at {self.trace:g}x"
        how = {"poisson": "", "constant": " constant", "gamma": f" gamma {self.burstiness or 1:g}"}
        return f"{self.rate:g} requests/s{how[self.arrivals]}"


class SharedPrefix(Section):
    """What prompts have in common, as system prompts or documents: how many there are, and how long each is."""

    prefixes: Count
    """So many beginnings; each prompt has one of them, drawn at random."""
    tokens: Count
    """Tokens of each. They are part of the prompt's `input_tokens`; the rest of it is its own."""


class Conversation(Section):
    """Requests that go on from the ones before."""

    turns: Annotated[int, Field(ge=2, strict=True)]
    """Messages of a user in one conversation; then the user begins another."""


Tokens = Annotated[Lengths, short("mean", int, "a whole number of tokens", Count | Lengths)]


class Workload(Section, json_schema_extra=one_of("input_tokens", "prompts")):
    """What is asked, and how hard: as your users do. Either `input_tokens` or `prompts` has to be there."""

    endpoint: Literal["generate", "chat"] = "generate"
    """`/api/generate` or `/api/chat`."""
    num_ctx: Annotated[int, Field(ge=4, strict=True)]
    """Context of a slot, tokens: OLLAMA_CONTEXT_LENGTH of every instance. Prompt and answer have to fit in."""
    num_predict: Tokens
    """The most tokens of an answer. A model may stop earlier. Where a file of prompts tells how long each answer was,
    that counts, up to this (but in a `jsonl`, whose lengths are taken as they are)."""
    input_tokens: Tokens | None = None
    """Tokens of a prompt of the seeded generator; in a conversation, of each message."""
    correlation: Annotated[float, Field(ge=-1, le=1, strict=True)] = 0
    """Between the lengths of a prompt and of its answer: 1, the longest prompts have the longest answers; -1, the
    shortest. It is that of a Gaussian copula: both keep their own distribution."""
    shared_prefix: SharedPrefix | None = None
    """Prompts begin alike, so that the study measures the prompt cache too. Without it no two begin alike."""
    conversation: Conversation | None = None
    """Each request carries the whole conversation before it (endpoint `chat`, levels of users), so that the study
    measures the prompt cache too. The answers in it are of the generator and the same in every trial: the model reads
    each of them once."""
    prompts: Path | None = None
    """A file of prompts, in place of the seeded generator; relative to the study file."""
    format: Format = "jsonl"
    """Of the file of prompts. `jsonl`: lines with a `prompt`, and perhaps its `num_predict`. `sharegpt`: a JSON list of
    `conversations`; the first message of each is asked, and its answer's length kept. `mooncake` (JSON lines),
    `burstgpt` and `azure` (CSV): recorded times and lengths, to which the generator makes texts; prompts of `mooncake`
    begin alike where they did, so that the study measures the prompt cache too. Of all these but `jsonl`, what does not
    fit into `num_ctx` is left out. The first 100000 requests of a file are used."""
    raw: Yes = False
    """Send prompts without the model's template (endpoint `generate`)."""
    temperature: NotNegative = 0.8
    """With which tokens are drawn."""
    think: Yes | None = None
    """Whether a model that can think does so before it answers; without it as the model does by itself."""
    levels: Annotated[tuple[Annotated[Level, short("users", int, "a whole number of users", Users | Level)], ...], Some]
    """The loads of a trial, one after the other: the objective's first, last those of users that no limit is about,
    which in a proof only the first run of each candidate has, unless requests failed there."""
    warmup_s: NotNegative = 10
    """Seconds of load before the measurement window."""
    warmup_max_s: Positive = 180
    """The warm-up goes on until every user and instance has answered, but not longer than this, seconds."""
    window_s: Positive = 60
    """Length of the measurement window, seconds."""
    window_max_s: Positive = 300
    """It grows until it has the requests that the limits' statistics need, but not beyond this, seconds."""
    drain_s: NotNegative = 120
    """How long requests of the window are followed after its end, seconds."""
    request_timeout_s: Positive = 900
    """A request that takes longer has failed, seconds."""

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

    @model_validator(mode="after")
    def _of_a_file(self) -> Self:
        if self.format != "jsonl":
            if self.prompts is None:
                raise ValueError(f'format "{self.format}" belongs to a file of prompts')
            if self.num_predict.kind != "fixed":
                raise ValueError(
                    f'num_predict.kind "{self.num_predict.kind}": the answers of format "{self.format}" have their own'
                    ' lengths; allowed is "fixed", the longest answer'
                )
        replays = [level.label for level in self.levels if level.trace is not None]
        if replays and self.format not in TIMED:
            raise ValueError(f'levels: "{replays[0]}" needs prompts with times, of format {" or ".join(TIMED)}')
        return self

    @model_validator(mode="after")
    def _of_the_generator(self) -> Self:
        if self.input_tokens is None:
            if given := [key for key in ("correlation", "shared_prefix", "conversation") if getattr(self, key)]:
                raise ValueError(f"{given[0]} belongs to input_tokens, not to a file of prompts")
            return self
        fixed = [key for key in ("input_tokens", "num_predict") if getattr(self, key).kind == "fixed"]
        if self.correlation and fixed:
            raise ValueError(
                f"correlation {self.correlation:g}: all lengths of {fixed[0]} are equal; allowed is one with the kind"
                ' "uniform", "normal" or "lognormal"'
            )
        if self.shared_prefix is not None and self.shared_prefix.tokens >= self.input_tokens.mean:
            raise ValueError(
                f"shared_prefix.tokens {self.shared_prefix.tokens}: allowed is less than"
                f" input_tokens {self.input_tokens.mean}, of which they are a part"
            )
        return self

    @model_validator(mode="after")
    def _of_a_conversation(self) -> Self:
        if self.conversation is None or self.input_tokens is None:
            return self
        if self.shared_prefix is not None:
            raise ValueError("shared_prefix or conversation, one of the two")
        if self.endpoint != "chat":
            raise ValueError(f'conversation: endpoint "{self.endpoint}" takes a single text; allowed is "chat"')
        if rates := [level.label for level in self.levels if level.users is None]:
            raise ValueError(
                f'conversation: "{rates[0]}" would not wait for an answer before the next message; allowed are users'
            )
        longest = self.conversation.turns * (self.input_tokens.mean + self.num_predict.mean)
        if longest > self.num_ctx:
            raise ValueError(
                f"conversation.turns {self.conversation.turns}: messages and answers are {longest} tokens in the mean,"
                f" more than num_ctx {self.num_ctx}"
            )
        return self
