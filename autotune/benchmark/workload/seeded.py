"""Prompts of the seeded generator, no two of which begin alike."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from autotune.benchmark.workload.lengths import pair
from autotune.benchmark.workload.prompt import Prompt, Workload, mark
from autotune.benchmark.workload.words import CHARS_PER_TOKEN, asking

if TYPE_CHECKING:
    from autotune.benchmark.workload.lengths import Lengths


@dataclass(frozen=True)
class SeededWorkload(Workload):
    """Random common words, in lengths that are drawn; everything follows from `seed`."""

    seed: int
    input_tokens: Lengths
    num_predict: Lengths
    chars_per_token: float = CHARS_PER_TOKEN
    """How long a token is taken to be; see `calibrate`."""
    correlation: float = 0.0
    """Between the lengths of a prompt and of its answer; see `lengths.pair`."""

    def prompt(self, index: int, nonce: str) -> Prompt:
        """A text of about `input_tokens`, the nonce counted in; it has never fewer characters than the nonce."""
        rng = random.Random(f"{self.seed}/{index}")
        tokens, num_predict = pair(rng, self.input_tokens, self.num_predict, self.correlation)
        start = f"{mark(nonce, index)} "
        chars = round(tokens * self.chars_per_token) - len(start)
        return Prompt(index, start + asking(self.seed, chars, rng.random()), num_predict)

    def recalibrated(self, chars_per_token: float) -> Self:
        """The same with another length of a token."""
        return replace(self, chars_per_token=chars_per_token)
