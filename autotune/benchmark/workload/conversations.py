"""Conversations that keep their history, a user's one after the other: what the prompt cache is for."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from autotune.benchmark.workload.lengths import pair
from autotune.benchmark.workload.prompt import Prompt, Workload, mark
from autotune.benchmark.workload.words import CHARS_PER_TOKEN, asking, words

if TYPE_CHECKING:
    from autotune.benchmark.workload.lengths import Lengths

USERS = 1 << 20
"""More than any load has."""


@dataclass(frozen=True)
class ConversationWorkload(Workload):
    """`turns` messages of a user, each sent with all that was said before.

    The answers in a history are seeded words, as long as the answer was allowed to be, and not what the model said:
    so the bodies are the same in every trial, and trials differ in nothing but the cluster. For the cache it means
    that a request finds everything up to the message before, but not the answer to that: the model reads each answer
    once, as a part of the next prompt. A server that keeps the answers it gave saves a little more than is measured.

    Only who waits for an answer has a next message: conversations are for closed loops, and `index` numbers the
    requests by user. Users begin in the middle of a conversation, each somewhere else, as they would be found.
    """

    seed: int
    input_tokens: Lengths
    """Of each message."""
    num_predict: Lengths
    turns: int
    chars_per_token: float = CHARS_PER_TOKEN
    correlation: float = 0.0

    @property
    def cached(self) -> str:
        """The history."""
        return f"conversations of {self.turns} turns"

    def index(self, user: int, number: int) -> int:
        """The index of a user's request, where `number` counts those of this user."""
        return number * USERS + user

    def prompt(self, index: int, nonce: str) -> Prompt:
        """A message, behind all earlier ones of its conversation; the first of them begins with a nonce."""
        number, user = divmod(index, USERS)
        first = random.Random(f"{self.seed}/{user}/first").randrange(self.turns)
        talk, turn = divmod(first + number, self.turns)
        name = f"user {user} talk {talk}"
        history: list[tuple[str, str]] = []
        for earlier in range(turn):
            message, _, answer = self._turn(name, earlier, nonce)
            history += [("user", message), ("assistant", answer)]
        message, num_predict, _ = self._turn(name, turn, nonce)
        return Prompt(index, message, num_predict, tuple(history))

    def _turn(self, name: str, turn: int, nonce: str) -> tuple[str, int, str]:
        """The message, the most tokens of its answer, and what stands for the answer later."""
        rng = random.Random(f"{self.seed}/{name}/{turn}")
        tokens, num_predict = pair(rng, self.input_tokens, self.num_predict, self.correlation)
        start = "" if turn else f"{mark(nonce, name)} "
        chars = max(1, round(tokens * self.chars_per_token)) - len(start)
        message = start + asking(self.seed, chars, rng.random())
        answer = words(self.seed, 1 + max(1, round(num_predict * self.chars_per_token)), rng.random())
        return message, num_predict, answer[1:]

    def recalibrated(self, chars_per_token: float) -> Self:
        """The same with another length of a token."""
        return replace(self, chars_per_token=chars_per_token)
