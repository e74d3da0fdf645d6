"""A workload from plain values: nobody else has to know the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from autotune.benchmark.workload.conversations import ConversationWorkload
from autotune.benchmark.workload.prefixes import PrefixWorkload
from autotune.benchmark.workload.seeded import SeededWorkload
from autotune.benchmark.workload.texts import JsonlWorkload, ShareGptWorkload
from autotune.benchmark.workload.trace import TraceWorkload
from autotune.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.benchmark.workload.lengths import Lengths
    from autotune.benchmark.workload.prefixes import Prefixes
    from autotune.benchmark.workload.prompt import Workload


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A file of prompts, and how it is to be read."""

    path: Path
    format: Literal["jsonl", "sharegpt", "mooncake", "burstgpt", "azure"] = "jsonl"
    context: int | None = None
    """Tokens into which prompt and answer have to fit; what does not is left out (but of a `jsonl`)."""


def make(
    seed: int,
    num_predict: Lengths | None,
    input_tokens: Lengths | None = None,
    file: PromptFile | None = None,
    *,
    correlation: float = 0.0,
    prefixes: Prefixes | None = None,
    turns: int = 1,
) -> Workload:
    """Prompts of `input_tokens` by the seeded generator, or those of a `file`: one of the two.

    `num_predict` are the lengths of answers; of a file that tells them, its mean is the longest, and None is no bound.
    Only the generator has a `correlation` of its two lengths (−1 to 1), and either `prefixes` that prompts share or
    conversations of several `turns`. Raises `SpecError` for what does not go together, and for what is wrong in the
    file.
    """
    if (file is None) == (input_tokens is None):
        raise SpecError("a workload has input tokens or a file of prompts, one of the two")
    if file is not None:
        if correlation or prefixes is not None or turns > 1:
            raise SpecError("a correlation, shared prefixes and conversations are the generator's: not with a file")
        return _of_file(seed, num_predict, file)
    if num_predict is None:
        raise SpecError("num_predict is missing: nothing else tells how long answers are")
    if prefixes is not None and turns > 1:
        raise SpecError("shared prefixes or conversations, one of the two")
    assert input_tokens is not None
    if turns > 1:
        return ConversationWorkload(seed, input_tokens, num_predict, turns, correlation=correlation)
    plain = SeededWorkload(seed, input_tokens, num_predict, correlation=correlation)
    return plain if prefixes is None else PrefixWorkload(plain, prefixes)


def _of_file(seed: int, num_predict: Lengths | None, file: PromptFile) -> Workload:
    longest = None if num_predict is None else round(num_predict.mean)
    match file.format:
        case "jsonl":
            if num_predict is None:
                raise SpecError(f"{file.path}: num_predict is missing: lines need not tell how long answers are")
            return JsonlWorkload(file.path, num_predict, seed)
        case "sharegpt":
            return ShareGptWorkload.read(file.path, file.context, longest)
        case timed:
            return TraceWorkload.read(seed, file.path, timed, file.context, longest)
