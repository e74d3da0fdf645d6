"""Prompts that begin alike, as behind a few system prompts or documents: what the prompt cache is for."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from autotune.benchmark.workload.prompt import Prompt, Workload, mark
from autotune.benchmark.workload.words import asking

if TYPE_CHECKING:
    from autotune.benchmark.workload.seeded import SeededWorkload


@dataclass(frozen=True, slots=True)
class Prefixes:
    """So many beginnings of so many tokens each."""

    count: int
    tokens: int


@dataclass(frozen=True)
class PrefixWorkload(Workload):
    """The prompts of `plain`, each behind one of a few beginnings, and cut so that prompts are as long as before.

    A beginning has the trial's nonce in front: what the server keeps from an earlier trial is of no use. Behind it
    comes the request's own nonce: from there on nothing is shared. A prompt is never shorter than its beginning and
    its nonce.
    """

    plain: SeededWorkload
    prefixes: Prefixes

    @property
    def cached(self) -> str:
        """The beginnings."""
        few = "1 shared prefix" if self.prefixes.count == 1 else f"{self.prefixes.count} shared prefixes"
        return f"{few} of {self.prefixes.tokens} tokens"

    @property
    def chars_per_token(self) -> float:
        """Of the generator."""
        return self.plain.chars_per_token

    def prompt(self, index: int, nonce: str) -> Prompt:
        """A beginning, a nonce, and words that no other prompt has there."""
        own = self.plain.prompt(index, nonce)
        which = random.Random(f"{self.plain.seed}/{index}/prefix").randrange(self.prefixes.count)
        prefix = self._prefix(which, nonce)
        least = len(prefix) + len(mark(nonce, index)) + 1
        return replace(own, text=(prefix + own.text)[: max(len(own.text), least)])

    def _prefix(self, which: int, nonce: str) -> str:
        name, seed = f"prefix {which}", self.plain.seed
        start = f"{mark(nonce, name)} "
        chars = round(self.prefixes.tokens * self.chars_per_token) - len(start) - 1
        return f"{start}{asking(seed, chars, random.Random(f'{seed}/{name}').random())} "

    def recalibrated(self, chars_per_token: float) -> Self:
        """The same with another length of a token."""
        return replace(self, plain=self.plain.recalibrated(chars_per_token))
