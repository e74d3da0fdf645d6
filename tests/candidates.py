"""Loads of candidates whose truth is known, moment by moment, without a clock: what their warm-ups see."""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from autotune.benchmark.pacer import ClosedLoop
from autotune.benchmark.phases import Phases, Sample, Seen
from autotune.rival import Rival, Screen
from autotune.simulator.events import Balancer, Instance, Question
from autotune.simulator.play import Play, Pulse
from autotune.simulator.profiles import ModelProfile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autotune.benchmark.phases import Look
    from autotune.records import RequestRecord

PHASES = Phases(warmup_s=10, warmup_max_s=180, window_s=60, window_max_s=300, drain_s=120)
EVERY_S = 0.1
FINE_S = 0.02
LONG_S = 1500.0


@dataclass(frozen=True)
class Machine:
    """A cluster of equal instances under users without think time."""

    users: int = 10
    slots: int = 4
    """Of each instance."""
    instances: int = 1
    prompt_tokens: int = 200
    tokens: int = 240
    spread: float = 0.5
    step_s: float = 0.02
    slot_s: float = 0.002
    prefill_tps: float = 4000.0
    policy: str = "least_conn"
    pace: float = 1.0
    """So many times as slow."""
    slow_start_s: float = 0.0
    """It begins at half its speed, and reaches it evenly within this time."""
    stalls: float = 0.0
    """The part of the time in which nothing moves at all, half a second at a time."""

    def play(self, seed: int, every_s: float = FINE_S) -> Play:
        """A load that begins at 0, in its own time."""
        model = ModelProfile.model_validate(
            {
                "name": "m", "layers": 9, "weights_mib": 1, "kv_mib_per_1024_tokens": 1, "load_s": 0, "warm_load_s": 0,
                "step_base_s": self.step_s, "step_slot_s": self.slot_s, "prefill_base_s": 0.01,
                "prefill_tps": self.prefill_tps,
            }
        )  # fmt: skip
        rng = random.Random(f"{seed}/pace")
        made = [
            Instance(f"i{number}", model, self.slots, self.pace, step_jitter=0.05, rng=rng)
            for number in range(self.instances)
        ]
        balancer = Balancer(self.policy, [1] * self.instances, random.Random(seed))
        return Play(made, balancer, ClosedLoop(self.users, seed), self._asks(seed), Pulse(0.0, 5.0, every_s))

    def _asks(self, seed: int) -> Callable[[int, int], Question]:
        def ask(index: int, _: int) -> Question:
            rng = random.Random(f"{seed}/{index}")
            low, high = (round(self.tokens * (1 + side * self.spread)) for side in (-1, 1))
            return Question(
                index, round(self.prompt_tokens * rng.uniform(0.5, 1.5)), rng.randint(low, high), ends=False
            )

        return ask

    def rival(self, margin: float = 0.03) -> Rival:
        """This one, as what a candidate has to beat."""
        return Rival(truth(self), margin, answer_tokens=float(self.tokens), warm_s=warm_s(self))

    def as_fast(self, other: Machine) -> Machine:
        """This one, at a pace at which it does in the long run what another one does."""
        return replace(self, pace=self.pace * truth(self) / truth(other))


@cache
def truth(machine: Machine) -> float:
    """Its output in the long run, tokens/s."""
    play = replace(machine, slow_start_s=0.0).play(-1, every_s=50.0)
    play.advance(LONG_S)
    begin, *_, end = (sample for sample in play.samples if sample.at >= 100)
    return (end.pieces - begin.pieces) / (end.at - begin.at) * (1 - machine.stalls)


@cache
def warm_s(machine: Machine) -> float:
    """When each of its users had been answered."""
    play = machine.play(-1, every_s=50.0)
    play.advance(LONG_S, lambda: len(play.answered) >= machine.users)
    return max(PHASES.warmup_s, play.now)


@dataclass
class Candidate:
    """A load of one machine as it goes on. Its own time passes unevenly where the machine starts slowly, or stalls."""

    machine: Machine
    seed: int

    def __post_init__(self) -> None:
        self._play = self.machine.play(self.seed)
        rng, own, self._own = random.Random(f"{self.seed}/stalls"), 0.0, [0.0]
        left = 0.0
        for number in range(round(400 / EVERY_S)):
            if left <= 0 and rng.random() < self.machine.stalls / (1 - self.machine.stalls) * EVERY_S / 0.5:
                left = 0.5
            at, slow = number * EVERY_S, self.machine.slow_start_s
            own += 0.0 if left > 0 else EVERY_S * (1.0 if at >= slow else 0.5 + 0.5 * at / slow)
            left -= EVERY_S
            self._own.append(own)

    def seen(self, at: float, start: float, look: int) -> Seen:
        """What a load has seen by then, since `start`."""
        play = self._play
        play.advance(self._within(at))
        waiting = [self._waits(one.written_at, play.first_at(one)) for one in play.flights]
        records = [self._told(one) for one in play.records]
        moments = [number * EVERY_S for number in range(round(start / EVERY_S), round(at / EVERY_S))]
        samples = [Sample(moment, self._pieces(self._within(moment)), 0) for moment in moments]
        return Seen(start, at, look, open_loop=False, steady=True, records=records, waiting=waiting, samples=samples)

    def _waits(self, asked: float, first: float | None) -> tuple[float, float | None]:
        spoke = first is not None and first <= self._play.now
        return self._outside(asked), self._outside(first) if spoke else None

    def _told(self, one: RequestRecord) -> RequestRecord:
        names = ("written_at", "first_content_at", "finished_at")
        return replace(one, **{name: self._outside(getattr(one, name)) for name in names})  # type: ignore[arg-type]

    def _pieces(self, own: float) -> int:
        return self._play.samples[min(int(own / FINE_S), len(self._play.samples) - 1)].pieces

    def _within(self, at: float) -> float:
        """The machine's own time at a moment."""
        return self._own[min(round(at / EVERY_S), len(self._own) - 1)]

    def _outside(self, own: float | None) -> float:
        assert own is not None
        return bisect_right(self._own, own) * EVERY_S

    def warm(self) -> bool:
        """Whether every user has had an answer by now."""
        return len(self._play.answered) >= self.machine.users

    def screened(self, rival: Rival, most_s: float = 180.0, waits: tuple[tuple[str, float], ...] = ()) -> Look | None:
        """The look that ends its warm-up, if one does."""
        for look in self.looks(rival, most_s, waits):
            if look.dropped:
                return look
        return None

    def looks(self, rival: Rival, most_s: float, waits: tuple[tuple[str, float], ...] = ()) -> Iterator[Look]:
        machine = self.machine
        asked = Screen(
            rival, machine.users, machine.slots * machine.instances, machine.instances, PHASES.screens, waits
        )
        for number, at in enumerate(PHASES.screens, 1):
            if at > most_s:
                return
            yield replace(asked.look(self.seen(at, PHASES.warmup_s / 2, number))[0], after_s=at)
            if at >= PHASES.warmup_s and self.warm():
                return


MACHINES = {
    "queue": Machine(),
    "slots for all": Machine(users=10, slots=16),
    "one slot": Machine(users=10, slots=1),
    "cluster": Machine(users=24, slots=4, instances=4),
    "cluster with a queue": Machine(users=40, slots=4, instances=4, policy="round_robin"),
    "few users": Machine(users=2, slots=4),
    "long prompts": Machine(users=10, slots=16, prompt_tokens=4000, prefill_tps=2000.0),
    "longer prompts, queue": Machine(users=16, slots=8, prompt_tokens=6000, prefill_tps=2000.0),
    "short answers": Machine(users=16, slots=8, tokens=20, prompt_tokens=400),
    "long answers": Machine(users=10, slots=16, tokens=900),
    "one length": Machine(users=8, slots=8, spread=0.0),
    "slow start": Machine(slow_start_s=8.0),
    "slow start, long prompts": Machine(users=10, slots=16, prompt_tokens=4000, prefill_tps=2000.0, slow_start_s=8.0),
    "stalls": Machine(stalls=0.1),
    "more stalls, cluster": Machine(users=24, slots=4, instances=4, stalls=0.2),
}
"""Loads of which each brings a warm-up into difficulties of its own."""
