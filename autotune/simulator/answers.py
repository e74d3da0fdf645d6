"""One answer from the request's body to the last byte, whichever API it came by."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from autotune.simulator import words
from autotune.simulator.bodies import LOAD_OPTIONS, Refused, check_options
from autotune.simulator.model import EngineDied, answer_length
from autotune.simulator.scheduler import LoadFailed, ServerBusy
from autotune.simulator.voices import Ending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from autotune.simulator.bodies import Json, Question
    from autotune.simulator.environment import Faults
    from autotune.simulator.library import Entry, Library
    from autotune.simulator.model import Job
    from autotune.simulator.scheduler import Loaded, Scheduler
    from autotune.simulator.voices import Voice

BUSY = "server busy, please try again.  maximum pending requests exceeded"
BROKEN = "CUDA error: an illegal memory access was encountered"
LONGEST_ANSWER = 10
"""Contexts: Ollama's bound where num_predict is not set."""
FAULT_AFTER_TOKENS = 3


@dataclass(frozen=True, slots=True)
class Token:
    """One token of text."""

    index: int
    """Of its piece in `words`."""
    thinking: bool


class Answers:
    """Answers the questions of one instance."""

    def __init__(self, library: Library, scheduler: Scheduler, faults: Faults, seed: str) -> None:
        self._library = library
        self._scheduler = scheduler
        self._faults = faults
        self._seed = seed
        self._count = 0

    async def answer(self, request: web.BaseRequest, question: Question, voice: Voice) -> web.StreamResponse:
        """Load if need be, queue, say."""
        began = asyncio.get_running_loop().time()
        entry = self._find(question)
        options = entry.parameters | question.options
        check_options(options)
        if question.empty and question.keep_alive_s == 0:
            self._scheduler.unload(entry)
            return _loaded_or_not(voice, "unload")
        load = self._scheduler.resolve(entry, {key: int(options[key]) for key in LOAD_OPTIONS if key in options})
        try:
            async with self._scheduler.lease(entry, load, question.keep_alive_s) as loaded:
                if question.empty:
                    return _loaded_or_not(voice, "load")
                exchange = _Exchange(request, question, options, voice, loaded, began)
                return await self._say(exchange)
        except ServerBusy as error:
            raise Refused(503, BUSY) from error
        except LoadFailed as error:
            raise Refused(500, str(error)) from error

    async def embed(self, model: str, texts: list[str]) -> tuple[int, list[list[float]]]:
        """Vectors for texts, and how many tokens were read."""
        entry = self._library.find(model)
        if entry is None:
            raise Refused(404, f'model "{model}" not found, try pulling it first')
        if entry.model.generates:
            raise Refused(501, "This server does not support embeddings. Start it with `--embeddings`")
        load = self._scheduler.resolve(entry, {})
        read = [words.count_tokens(text, load.num_ctx) for text in texts]
        async with self._scheduler.lease(entry, load, None) as loaded:
            for tokens in read:
                async with loaded.engine.request(tokens, 1) as job:
                    [_ async for _ in job]
        return sum(read), [_vector(text, entry.model.embedding_length) for text in texts]

    def _find(self, question: Question) -> Entry:
        entry = self._library.find(question.model) if question.model else None
        if entry is None:
            raise Refused(404, f"model '{question.model}' not found")
        if not question.empty and not entry.model.generates:
            raise Refused(400, f'"{question.model}" does not support generate')
        if question.think and "thinking" not in entry.model.capabilities:
            raise Refused(400, f'"{question.model}" does not support thinking')
        return entry

    async def _say(self, exchange: _Exchange) -> web.StreamResponse:
        rng = self._rng(exchange)
        length, ends = exchange.length(rng)
        self._count += 1
        try:
            async with exchange.loaded.engine.request(exchange.prompt_tokens, length, ends=ends) as job:
                tokens = self._spoil(exchange, exchange.tokens(job, rng), self._count)
                return await (exchange.stream(job, tokens) if exchange.question.stream else exchange.whole(job, tokens))
        except EngineDied as error:
            return await exchange.broken(str(error))

    async def _spoil(self, exchange: _Exchange, tokens: AsyncIterator[Token], count: int) -> AsyncIterator[Token]:
        """The tokens, until a fault that was asked for strikes."""
        said = 0
        async for token in tokens:
            if said == FAULT_AFTER_TOKENS and count == self._faults.die_under_load:
                os.kill(os.getpid(), signal.SIGKILL)
            if said == FAULT_AFTER_TOKENS and count == self._faults.error_mid_stream:
                self._scheduler.crash(exchange.loaded, BROKEN)
                raise EngineDied(BROKEN)
            yield token
            said += 1

    def _rng(self, exchange: _Exchange) -> random.Random:
        seed = exchange.options.get("seed")
        if seed is None and not self._seed:
            return random.Random()
        return random.Random(f"{self._seed} {seed} {exchange.question.text}")


class _Exchange:
    """One request that has its model."""

    def __init__(
        self,
        request: web.BaseRequest,
        question: Question,
        options: Json,
        voice: Voice,
        loaded: Loaded,
        began: float,
    ) -> None:
        self.question = question
        self.options = options
        self.loaded = loaded
        self.prompt_tokens = words.count_tokens(question.text, loaded.options.num_ctx)
        self._request = request
        self._voice = voice
        self._began = began
        self._granted = asyncio.get_running_loop().time()
        self._response: web.StreamResponse | None = None
        self._thinks = "thinking" in loaded.entry.model.capabilities and question.think is not False

    def length(self, rng: random.Random) -> tuple[int, bool]:
        """Tokens of text, and whether the end is the model's own."""
        limit = LONGEST_ANSWER * self.loaded.options.num_ctx
        return answer_length(self.loaded.entry.model, int(self.options.get("num_predict", -1)), limit, rng)

    async def tokens(self, job: Job, rng: random.Random) -> AsyncIterator[Token]:
        """The answer; a model that thinks does so for half of it."""
        pieces = words.choices(rng)
        thoughts = job.tokens // 2 if self._thinks else 0
        async for number in job:
            yield Token(next(pieces), number < thoughts)

    async def stream(self, job: Job, tokens: AsyncIterator[Token]) -> web.StreamResponse:
        """A chunk for every token, when its step ends."""
        response = web.StreamResponse(headers={"Content-Type": self._voice.stream_type})
        response.enable_chunked_encoding()
        async for token in tokens:
            await self._begin(response)
            await response.write(self._voice.piece(words.QUOTED[token.index], thinking=token.thinking))
        await self._begin(response)
        await response.write(self._voice.ending(self._ending(job)))
        await response.write_eof()
        return response

    async def whole(self, job: Job, tokens: AsyncIterator[Token]) -> web.StreamResponse:
        """Everything at once."""
        said = [token async for token in tokens]
        text = "".join(words.PIECES[token.index] for token in said if not token.thinking)
        thoughts = "".join(words.PIECES[token.index] for token in said if token.thinking)
        body = self._voice.whole(text, thoughts, self._ending(job))
        return web.Response(body=body, headers={"Content-Type": self._voice.whole_type})

    async def broken(self, said_last: str) -> web.StreamResponse:
        """The end of an answer whose engine died: a status where there is none yet, else a line in a proper stream."""
        if self._response is None:
            raise Refused(500, f"an error was encountered while running the model: {said_last}")
        await self._response.write(self._voice.broken(said_last))
        await self._response.write_eof()
        return self._response

    async def _begin(self, response: web.StreamResponse) -> None:
        # headers wait for the first token, as Ollama's do
        if self._response is None:
            self._response = response
            await response.prepare(self._request)

    def _ending(self, job: Job) -> Ending:
        now = asyncio.get_running_loop().time()
        return Ending(
            done_reason=job.done_reason,
            prompt_tokens=self.prompt_tokens,
            eval_count=job.steps,
            context=0 if self.question.raw else self.prompt_tokens + job.steps,
            total_s=now - self._began,
            load_s=self._granted - self._began,
            prefill_s=job.prompt_s,
            decode_s=job.decode_s,
        )


def _loaded_or_not(voice: Voice, reason: str) -> web.Response:
    body = voice.whole("", "", Ending(reason, 0, 0, 0, 0.0, 0.0, 0.0, 0.0))
    return web.Response(body=body, headers={"Content-Type": voice.whole_type})


def _vector(text: str, length: int) -> list[float]:
    rng = random.Random(text)
    return [round(rng.uniform(-1, 1), 6) for _ in range(length)]
