"""The performance model: how long things take, as pure laws, and `Engine`, which obeys them.

One loaded model in one instance works in steps. At the start of a step free slots are filled from the queue, first
come, first served. The step first reads the prompts of the slots it has just filled, one after the other (nobody
decodes meanwhile: llama-server puts prompt and decoding tokens into the same batch), then gives one token to every
busy slot:

    step = (Σ prefill of the fresh prompts + a + c·b) · pace        b busy slots

`pace` is what the surroundings cost: devices shared, layers on the CPU, other instances on the host. The clock is the
event loop's own, so that the same engine runs in real time, compressed time and virtual time.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Mapping

    from autotune.simulator.profiles import HostProfile, ModelProfile, Profile

CPU = "cpu"
"""Where the layers are that no device holds."""

CATCH_UP_S = 0.1
"""A loop that is late runs its steps closer together, so that timers' granularity does not add up; what it is later
than this is lost, as it would be for a real server that was not given the processor."""


def step_s(model: ModelProfile, busy: float) -> float:
    """One decode step with `busy` slots at pace 1, s."""
    return model.step_base_s + model.step_slot_s * busy


def prefill_s(model: ModelProfile, tokens: int) -> float:
    """Reading a prompt at pace 1, s."""
    return model.prefill_base_s + tokens / model.prefill_tps


def contention(host: HostProfile, instances: int) -> float:
    """What `instances` instances with a loaded model cost each other, as a factor on all times."""
    return 1.0 + host.contention * max(0, instances - 1)


def slowdown(profile: Profile, shares: Mapping[str, float], residents: Mapping[str, int]) -> float:
    """The factor by which the places of its layers stretch a step.

    `shares`: part of the layers by device, and by CPU. A step passes through them one after the other, so that several
    devices hold more but are not faster. `residents`: instances on each of them, this one included.
    """
    speeds = {device.uuid: device.speed for device in profile.devices}
    speeds[CPU] = 1.0 / profile.host.cpu_slowdown

    def part(place: str) -> float:
        crowd = residents.get(place, 1)
        return shares[place] * max(1.0, crowd * profile.host.occupancy) / speeds[place]

    return sum(part(place) for place in shares)


def log_normal(rng: random.Random, sigma: float) -> float:
    """A factor with mean 1; without sigma exactly 1, and nothing is drawn."""
    return rng.lognormvariate(-sigma * sigma / 2, sigma) if sigma else 1.0


def answer_length(model: ModelProfile, num_predict: int, limit: int, rng: random.Random) -> tuple[int, bool]:
    """How many tokens of text an answer has, and whether it ends by itself (with an end token, which has no text).

    A `num_predict` below 0 means the request set none: the answer then ends where the profile says, at the latest after
    `limit` tokens (Ollama's 10 · num_ctx).
    """
    bound = min(num_predict, limit) if num_predict >= 0 else min(model.answer_tokens, limit)
    bound = max(1, bound)
    if model.end_chance >= 1:
        return 0, True
    if model.end_chance > 0:
        drawn = int(math.log(1.0 - rng.random()) / math.log(1.0 - model.end_chance))
        if drawn < bound:
            return drawn, True
    return bound, num_predict < 0


@dataclass(frozen=True, slots=True)
class Steady:
    """One instance under a closed loop without think time, in the steady state."""

    busy: float
    """Slots, on average."""
    step_s: float
    """One decode step."""
    service_s: float
    """How long a request holds its slot."""
    wait_s: float
    """In the queue."""
    ttft_s: float
    output_tps: float


def closed_form(
    model: ModelProfile, users: int, slots: int, tokens: int, *, prompt_tokens: int = 0, overhead_s: float = 0.0,
    pace: float = 1.0,
) -> Steady:  # fmt: skip
    """What the engine settles to, by Little's law; all requests have `tokens` tokens of output.

    Every busy slot turns over once in a service time S, so that S contains one prefill p of each of the b busy slots:

        S(b) = pace · (b·p + L·(a + c·b)) = α + β·b

    With Z = pace · overhead_s spent outside the queue, N users keep b = N · S / (S + Z) slots busy, a quadratic in b,
    and at most P. Then TPS = b·L / S, and whoever is neither in a slot nor in Z waits: N·S/b − S − Z, which for Z = 0
    is (N−P)/P · S. The first token comes after Z, the wait, the prefill and one step.
    """
    own_s = pace * prefill_s(model, prompt_tokens)
    away_s = pace * overhead_s
    alpha = pace * tokens * model.step_base_s
    beta = pace * tokens * model.step_slot_s + own_s
    busy = min(float(slots), _busy(users, alpha, beta, away_s))
    service_s = alpha + beta * busy
    wait_s = max(0.0, users * service_s / busy - service_s - away_s)
    decode_s = pace * step_s(model, busy)
    ttft_s = away_s + wait_s + own_s + decode_s
    return Steady(busy, decode_s, service_s, wait_s, ttft_s, busy * tokens / service_s)


def _busy(users: int, alpha: float, beta: float, away_s: float) -> float:
    """The positive root b of b·(α + βb + Z) = N·(α + βb), in the form that does not cancel."""
    linear = alpha + away_s - users * beta
    root = math.sqrt(linear * linear + 4 * beta * users * alpha)
    return 2 * users * alpha / (linear + root) if linear > 0 else (root - linear) / (2 * beta)


class EngineDied(Exception):
    """The engine is no more; its words are what the child process said last."""


class Job:
    """One request inside an engine. Iterate it for its tokens of text, numbered from 0, each when its step ends."""

    def __init__(self, prompt_tokens: int, tokens: int, *, ends: bool = False) -> None:
        self.prompt_tokens = prompt_tokens
        self.tokens = tokens
        """Of text."""
        self.steps = tokens + (1 if ends else 0)
        """Ollama's eval_count: the end token counts."""
        self.done_reason = "stop" if ends else "length"
        self.started_at = 0.0
        self.finished_at = 0.0
        self.prefill_s = 0.0
        self.first_at = 0.0
        self._made = 0
        self._taken = 0
        self._error: EngineDied | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        """Every token is made."""
        return self._made >= self.steps

    @property
    def prompt_s(self) -> float:
        """From the start to the first token, s: it comes out of the prompt, and Ollama counts its step there."""
        return max(0.0, self.first_at - self.started_at)

    @property
    def decode_s(self) -> float:
        """From the first token to the last, s."""
        return max(0.0, self.finished_at - self.first_at)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        while self._taken >= min(self._made, self.tokens):
            if self._error:
                raise self._error
            if self.done:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._taken += 1
        return self._taken - 1

    def advance(self, now: float) -> None:
        """One more token is there."""
        self._made += 1
        if self._made == 1:
            self.first_at = now
        if self.done:
            self.finished_at = now
        self._wake()

    def fail(self, error: EngineDied) -> None:
        """No further token will come."""
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


class Engine:
    """One loaded model in one instance: `slots` slots and an unbounded queue in front of them.

    `pace` is asked at every step. `time_scale` divides every time. It needs no closing: its task ends with its work.
    """

    def __init__(
        self,
        model: ModelProfile,
        slots: int,
        *,
        pace: Callable[[], float] = lambda: 1.0,
        overhead_s: float = 0.0,
        time_scale: float = 1.0,
        jitter: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.model = model
        self.slots = slots
        self._pace = pace
        self._overhead_s = overhead_s
        self._time_scale = time_scale
        self._jitter = jitter
        self._queue: deque[Job] = deque()
        self._busy: list[Job] = []
        self._died: EngineDied | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> int:
        """Slots in use now."""
        return len(self._busy)

    @property
    def queued(self) -> int:
        """Requests that wait for a slot now."""
        return len(self._queue)

    @asynccontextmanager
    async def request(self, prompt_tokens: int, tokens: int, *, ends: bool = False) -> AsyncIterator[Job]:
        """A request, in the queue or in a slot until the block is left: to leave early is to hang up."""
        await asyncio.sleep(self._overhead_s * self._pace() / self._time_scale)
        job = Job(prompt_tokens, tokens, ends=ends)
        self._submit(job)
        try:
            yield job
        finally:
            self._drop(job)

    def die(self, words: str) -> None:
        """End now, with everything that runs or waits."""
        self._died = EngineDied(words)
        for job in (*self._busy, *self._queue):
            job.fail(self._died)
        self._busy.clear()
        self._queue.clear()

    def _submit(self, job: Job) -> None:
        if self._died:
            raise self._died
        self._queue.append(job)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def _drop(self, job: Job) -> None:
        for place in (self._busy, self._queue):
            if job in place:
                place.remove(job)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            fresh = self._fill()
            if not self._busy:
                return
            start = max(due, loop.time() - CATCH_UP_S)
            due = start + self._step(fresh, start)
            await asyncio.sleep(max(0.0, due - loop.time()))
            self._deliver(due)

    def _fill(self) -> list[Job]:
        fresh = [self._queue.popleft() for _ in range(min(self.slots - len(self._busy), len(self._queue)))]
        self._busy += fresh
        return fresh

    def _step(self, fresh: list[Job], now: float) -> float:
        factor = self._pace() * self._jitter() / self._time_scale
        total_s = step_s(self.model, len(self._busy)) * factor
        for job in fresh:
            job.started_at = now
            job.prefill_s = prefill_s(self.model, job.prompt_tokens) * factor
            total_s += job.prefill_s
        return total_s

    def _deliver(self, now: float) -> None:
        for job in self._busy:
            job.advance(now)
        self._busy = [job for job in self._busy if not job.done]
