"""What the requests of a load ask, in tokens: the workload's own lengths, by the stand-in's count."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Self

from autotune.benchmark.workload import ConversationWorkload
from autotune.records import Outcome, RequestRecord
from autotune.simulator import words
from autotune.simulator.answers import LONGEST_ANSWER
from autotune.simulator.events import Question
from autotune.simulator.model import answer_length, prefill_s, step_s

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from autotune.benchmark.flight import Flight
    from autotune.benchmark.watch import Pulse
    from autotune.benchmark.workload import Prompt, Workload
    from autotune.simulator.profiles import ModelProfile

Lengths = dict[int, tuple[int, int, int]]
"""By index: tokens of the prompt, the most of its answer, and the prompt's characters."""

NONCE = "rehearsal"
"""The nonce decides nothing here: a text is as long with another one."""


class Questions:
    """Lengths by index, drawn once: the prompts of a study are the same in every trial."""

    def __init__(
        self, workload: Workload, model: ModelProfile, num_ctx: int, known: Lengths, *, think: bool | None
    ) -> None:
        """`known` are the lengths of this workload that were drawn already; the others join them."""
        self._workload = workload
        self._model = model
        self._num_ctx = num_ctx
        self._thinks = "thinking" in model.capabilities and think is not False
        self._known = known

    def of(self, chance: str) -> Callable[[int, int], Question]:
        """The questions of one load; `chance` is the seed of answers that end by themselves."""
        rng = random.Random(f"{chance}/answers")
        turns: defaultdict[int, Iterator[int]] = defaultdict(count)
        talk = self._workload if isinstance(self._workload, ConversationWorkload) else None

        def ask(number: int, user: int) -> Question:
            index = number if talk is None else talk.index(user, next(turns[user]))
            prompt_tokens, num_predict, chars = self._lengths(index)
            tokens, ends = answer_length(self._model, num_predict, LONGEST_ANSWER * self._num_ctx, rng)
            thoughts = tokens // 2 if self._thinks else 0
            return Question(index, prompt_tokens, tokens, ends=ends, chars=chars, thoughts=thoughts)

        return ask

    def _lengths(self, index: int) -> tuple[int, int, int]:
        found = self._known.get(index)
        if found is None:
            prompt = self._workload.prompt(index, NONCE)
            found = self._known[index] = (_tokens(prompt, self._num_ctx), prompt.num_predict, prompt.chars)
        return found


class Counter:
    """The client that calibrates the workload: it asks one question after the other, and only counts."""

    lead_s = 0.0

    def __init__(self, model: ModelProfile, num_ctx: int, overhead_s: float, time_scale: float) -> None:
        self._model = model
        self._num_ctx = num_ctx
        self._overhead_s = overhead_s
        self._time_scale = time_scale

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Self]:
        """As a client is opened."""
        yield self

    async def open(self, _: int) -> int:
        """There are no connections."""
        return 0

    async def send(self, flight: Flight) -> RequestRecord:
        """The server's count of a prompt, when it would come."""
        tokens = _tokens(flight.prompt, self._num_ctx)
        took_s = self._overhead_s + prefill_s(self._model, tokens) + step_s(self._model, 1)
        await asyncio.sleep(took_s / self._time_scale)
        return RequestRecord(flight.prompt.index, flight.intended_at, Outcome.OK, prompt_eval_count=tokens)

    async def pulse(self) -> tuple[Pulse, ...]:
        """No process carries them."""
        return ()


def _tokens(prompt: Prompt, num_ctx: int) -> int:
    return words.count_tokens(" " * prompt.chars, num_ctx)
