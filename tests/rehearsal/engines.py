"""The client of a load on engines, in virtual time: what the events are held against."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.benchmark.load import run as load
from autotune.benchmark.workload import Prompt
from autotune.records import Outcome, RequestRecord
from autotune.simulator.clock import run_virtual
from autotune.simulator.events import Balancer, Instance, Question
from autotune.simulator.model import Engine
from autotune.simulator.profiles import ModelProfile

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.benchmark.flight import Flight
    from autotune.benchmark.pacer import Level
    from autotune.benchmark.phases import Goal, LoadResult, Phases
    from autotune.benchmark.watch import Pulse

MODEL = ModelProfile.model_validate(
    {
        "name": "m",
        "layers": 9,
        "weights_mib": 1,
        "kv_mib_per_1024_tokens": 1,
        "load_s": 0,
        "warm_load_s": 0,
        "step_base_s": 0.02,
        "step_slot_s": 0.002,
        "prefill_base_s": 0.01,
    }
)


@dataclass(frozen=True)
class Setup:
    """Instances, and what is asked of them."""

    slots: int = 4
    paces: tuple[float, ...] = (1.0, 1.0931)
    overhead_s: float = 0.2137
    """No sum of steps: nobody comes in the very moment in which a step ends."""
    policy: str = "least_conn"
    shortest: int = 20
    longest: int = 90

    def question(self, index: int, _: int = 0) -> Question:
        rng = random.Random(index)
        return Question(index, rng.randint(0, 300), rng.randint(self.shortest, self.longest), ends=rng.random() < 0.2)

    def balancer(self) -> Balancer:
        return Balancer(self.policy, [1] * len(self.paces), random.Random(3))

    def address(self, number: int) -> str:
        return f"i{number}"

    def instances(self) -> list[Instance]:
        return [
            Instance(self.address(number), MODEL, self.slots, pace, overhead_s=self.overhead_s)
            for number, pace in enumerate(self.paces)
        ]


class Client:
    """Carries requests to engines, and takes no time for it."""

    lead_s = 0.0

    def __init__(self, setup: Setup, timeout_s: float | None) -> None:
        self._setup = setup
        self._timeout_s = timeout_s
        self._balancer = setup.balancer()
        self._engines = [
            Engine(MODEL, setup.slots, pace=_always(pace), overhead_s=setup.overhead_s) for pace in setup.paces
        ]

    async def open(self, connections: int) -> int:
        return connections

    async def pulse(self) -> tuple[Pulse, ...]:
        return ()

    async def send(self, flight: Flight) -> RequestRecord:
        now = asyncio.get_running_loop().time
        question, times, outcome, began = self._setup.question(flight.prompt.index), list[float](), Outcome.OK, now()
        flight.wrote(began)
        chosen = self._balancer.choose()
        ended = None
        try:
            async with (
                flight.bounded(self._timeout_s),
                self._engines[chosen].request(question.prompt_tokens, question.tokens, ends=question.ends) as job,
            ):
                async for _ in job:
                    times.append(now())
                    flight.pieces += 1
                    if len(times) == 1:
                        flight.speak(times[0])
                ended = job.finished_at
        except TimeoutError:
            outcome = Outcome.CUT_OFF if flight.was_cut else Outcome.TIMEOUT
        finally:
            self._balancer.release(chosen)
        return RequestRecord(
            index=question.index,
            intended_at=flight.intended_at,
            outcome=outcome,
            written_at=began,
            first_content_at=times[0] if times else None,
            finished_at=now() if ended is None else ended,
            chunk_times=tuple(times),
            error=f"no end after {self._timeout_s:g} s" if outcome is Outcome.TIMEOUT else "",
            upstream=self._setup.address(chosen) if times else "",
            done_reason="" if ended is None else job.done_reason,
            prompt_eval_count=None if ended is None else question.prompt_tokens,
            eval_count=None if ended is None else question.tokens + question.ends,
        )


def _always(pace: float) -> Callable[[], float]:
    return lambda: pace


class Plain:
    """A workload of which only the index counts."""

    cached = ""
    left_out = 0
    chars_per_token = None
    stamps = ()

    def prompt(self, index: int, _: str) -> Prompt:
        return Prompt(index, "", 1)

    def recalibrated(self, _: float) -> Plain:
        return self


def by_clock(
    setup: Setup, level: Level, phases: Phases, goal: Goal | None = None, timeout_s: float | None = None
) -> tuple[LoadResult, float]:
    """The real load on engines: what came of it, and when it was over."""

    async def whole() -> tuple[LoadResult, float]:
        client = Client(setup, timeout_s)
        found = await load(client, Plain(), level, phases, "nonce", None, len(setup.paces), goal)
        return found, asyncio.get_running_loop().time()

    return run_virtual(whole())
