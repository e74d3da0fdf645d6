"""One request's text, and what every workload offers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request's text, and the most tokens its answer may have."""

    index: int
    text: str
    num_predict: int
    history: tuple[tuple[str, str], ...] = ()
    """What was said before, as (role, text); roles are `user` and `assistant`. Only a chat endpoint can say it."""

    @property
    def chars(self) -> int:
        """Characters of all that the model reads."""
        return len(self.text) + sum(len(text) for _, text in self.history)


class Workload(Protocol):
    """An endless, repeatable sequence of prompts. What most have not is said here."""

    @property
    def cached(self) -> str:
        """What the server's prompt cache can find in it, for people; empty where it finds nothing."""
        return ""

    @property
    def left_out(self) -> int:
        """Requests or conversations of a file that are not used: without an answer, or too long for the context."""
        return 0

    @property
    def chars_per_token(self) -> float | None:
        """How long a token is taken to be, which the server's counts make exact; None where no length depends on it."""
        return None

    @property
    def stamps(self) -> tuple[float, ...]:
        """When the prompts were asked as they were recorded, seconds from the first; empty where nobody knows."""
        return ()

    def prompt(self, index: int, nonce: str) -> Prompt:
        """The prompt at `index`; `nonce` is unique to the trial."""

    def recalibrated(self, chars_per_token: float) -> Self:
        """The same with another length of a token."""


def mark(nonce: str, what: int | str) -> str:
    """Sixteen hexadecimal digits, unique to this request (or shared beginning) of this trial: the start of its text."""
    return hashlib.blake2b(f"{nonce}/{what}".encode(), digest_size=8).hexdigest()


def calibrate(chars_per_token: float, asked: Sequence[int], counted: Sequence[int]) -> float:
    """The length of a token that would have given what was asked.

    `asked` are the tokens that the prompts should have had, `counted` what the server says they had
    (`prompt_eval_count`, which counts the model's template too: so does production). Without counts, or where
    a token would have to be longer than 20 characters or shorter than half of one, the old length stays.
    """
    if not asked or len(asked) != len(counted) or sum(counted) <= 0:
        return chars_per_token
    better = chars_per_token * sum(asked) / sum(counted)
    return better if 0.5 <= better <= 20 else chars_per_token
