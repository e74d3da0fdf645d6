"""Prompts with the lengths of a recorded trace, in the order in which they came; their text is the generator's."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Self

from autotune.benchmark.workload.prompt import Prompt, Workload, mark
from autotune.benchmark.workload.reading import MOST
from autotune.benchmark.workload.rows import READERS
from autotune.benchmark.workload.words import CHARS_PER_TOKEN, asking, words
from autotune.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.benchmark.workload.rows import Row, Timed

BLOCK_TOKENS = 512
"""Tokens of a block of Mooncake's traces."""


@dataclass(frozen=True)
class TraceWorkload(Workload):
    """A trace's requests, from the start again when it is at its end.

    Prompts of a trace with blocks share the blocks with which they begin, and only those: a block is the same text
    wherever it stands, and the first has the trial's nonce in front. When the trace comes again the nonce is another:
    otherwise all of it would be in the cache.
    """

    seed: int
    rows: tuple[Row, ...]
    """In the order of their times."""
    longest: int | None = None
    """The most tokens of an answer."""
    chars_per_token: float = CHARS_PER_TOKEN
    left_out: int = 0
    """Requests of the file that had no prompt or no answer, or were too long."""

    @classmethod
    def read(cls, seed: int, path: Path, kind: Timed, context: int | None = None, longest: int | None = None) -> Self:
        """The file's requests, but for those that would not fit into a context of so many tokens.

        Those of failed requests, which have no tokens, are left out too. Raises `SpecError`.
        """
        found = list(islice(READERS[kind](path), MOST))
        rows = [row for row in found if _fits(row, context, longest)]
        if not rows:
            within = "" if context is None else f" that together fit into {context} tokens"
            raise SpecError(f"{path}: none of its {len(found)} requests has a prompt and an answer{within}")
        rows.sort(key=lambda row: row.at)
        return cls(seed, tuple(rows), longest, left_out=len(found) - len(rows))

    @property
    def cached(self) -> str:
        """The blocks, if it has any."""
        return f"shared blocks of {BLOCK_TOKENS} tokens" if any(row.blocks for row in self.rows) else ""

    @cached_property
    def stamps(self) -> tuple[float, ...]:
        """When each request came, seconds from the first."""
        return tuple(row.at - self.rows[0].at for row in self.rows)

    def prompt(self, index: int, nonce: str) -> Prompt:
        """A text of the trace's length, the nonce counted in; it has never fewer characters than the nonce."""
        turn, at = divmod(index, len(self.rows))
        row = self.rows[at]
        chars = self._chars(row.input_tokens)
        text = self._shared(row, f"{nonce}/{turn}", chars)
        if BLOCK_TOKENS * len(row.blocks) < row.input_tokens:
            start, where = f"{mark(nonce, index)} ", random.Random(f"{self.seed}/{index}").random()
            text += start + asking(self.seed, chars - len(text) - len(start), where)
        return Prompt(index, text, _answer(row, self.longest))

    def _shared(self, row: Row, nonce: str, chars: int) -> str:
        """The text of its blocks; the last may be cut."""
        texts: list[str] = []
        begin = 0
        for place, block in enumerate(row.blocks):
            end = min(chars, self._chars(BLOCK_TOKENS * (place + 1)))
            if begin >= end:
                break
            start = "" if place else f"{mark(nonce, f'block {block}')} "
            text = words if place else asking
            texts.append(start + text(self.seed, end - begin - len(start), self._place(block)))
            begin = end
        return "".join(texts)

    def _chars(self, tokens: int) -> int:
        return round(tokens * self.chars_per_token)

    def _place(self, block: int) -> float:
        """Where in the corpus its text begins: in [0, 1), and much cheaper than a generator of random numbers."""
        digest = hashlib.blake2b(f"{self.seed}/block {block}".encode(), digest_size=4).digest()
        return int.from_bytes(digest) / 2**32

    def recalibrated(self, chars_per_token: float) -> Self:
        """The same with another length of a token."""
        return replace(self, chars_per_token=chars_per_token)


def _answer(row: Row, longest: int | None) -> int:
    return row.output_tokens if longest is None else min(row.output_tokens, longest)


def _fits(row: Row, context: int | None, longest: int | None) -> bool:
    if not row.input_tokens or not row.output_tokens:
        return False
    return context is None or row.input_tokens + _answer(row, longest) <= context
