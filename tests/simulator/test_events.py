"""The law without a clock: against the engine that has one, request by request."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from dataclasses import dataclass
from math import inf
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.benchmark import traffic
from autotune.benchmark.pacer import ClosedLoop, OpenLoop
from autotune.benchmark.spread import Spread
from autotune.records import Outcome, RequestRecord
from autotune.simulator import play as plays
from autotune.simulator.clock import run_virtual
from autotune.simulator.events import Balancer, Instance, Question
from autotune.simulator.model import Engine
from autotune.simulator.play import Play, Pulse
from autotune.simulator.profiles import ModelProfile

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.benchmark.pacer import Level

END_S = 40.0


def model(**figures: float) -> ModelProfile:
    plain = {"name": "m", "layers": 9, "weights_mib": 1, "kv_mib_per_1024_tokens": 1, "load_s": 0, "warm_load_s": 0}
    return ModelProfile.model_validate({"step_base_s": 0.02, "step_slot_s": 0.002} | plain | figures)


@dataclass(frozen=True)
class Case:
    """A load: what is asked of which instances."""

    level: Level
    slots: int
    paces: tuple[float, ...]
    overhead_s: float = 0.3
    seed: int = 0

    def questions(self) -> Callable[[int, int], Question]:
        def ask(index: int, _: int) -> Question:
            rng = random.Random(f"{self.seed}/{index}")
            ends = rng.random() < 0.3
            return Question(index, rng.randint(0, 500), rng.randint(0 if ends else 1, 90), ends=ends)

        return ask

    def played(self, **pulse: float) -> Play:
        """Without a clock."""
        return Play(
            [
                Instance(f"i{number}", model(), self.slots, pace, overhead_s=self.overhead_s)
                for number, pace in enumerate(self.paces)
            ],
            Balancer("round_robin", [1] * len(self.paces), random.Random(0)),
            self.level,
            self.questions(),
            Pulse(spread_s=5.0, **pulse),
        )

    async def engines(self) -> list[RequestRecord]:
        """With the engine's own clock: those that end before `END_S`."""
        engines = [
            Engine(model(), self.slots, pace=lambda pace=pace: pace, overhead_s=self.overhead_s)  # type: ignore[misc]
            for pace in self.paces
        ]
        turn, ask, numbers, found = itertools.cycle(engines), self.questions(), itertools.count(), []
        now = asyncio.get_running_loop().time

        async def one(intended: float | None = None) -> None:
            question = ask(next(numbers), 0)
            began = now()
            async with next(turn).request(question.prompt_tokens, question.tokens, ends=question.ends) as job:
                times = [now() async for _ in job]
            found.append(
                RequestRecord(
                    question.index,
                    intended or began,
                    Outcome.OK if times else Outcome.EMPTY,
                    written_at=began,
                    finished_at=job.finished_at,
                    chunk_times=tuple(times),
                    eval_count=job.steps,
                    prompt_eval_duration_s=job.prompt_s,
                    eval_duration_s=job.decode_s,
                )
            )

        async def user(start: float) -> None:
            await asyncio.sleep(start)
            while now() < END_S:
                await one()

        async def arrivals(level: OpenLoop) -> None:
            async with asyncio.TaskGroup() as tasks:
                for at in itertools.takewhile(lambda at: at < END_S, level.times()):
                    await asyncio.sleep(at - now())
                    tasks.create_task(one(at))

        if isinstance(self.level, ClosedLoop):
            await asyncio.gather(*map(user, self.level.starts(5.0)))
        else:
            await arrivals(self.level)
        return [record for record in found if record.finished_at is not None and record.finished_at < END_S]


LEVELS = st.one_of(
    st.builds(ClosedLoop, users=st.integers(1, 14), seed=st.integers(0, 99)),
    st.builds(OpenLoop, rate=st.floats(0.2, 3.0), seed=st.integers(0, 99)),
)
CASES = st.builds(
    Case,
    level=LEVELS,
    slots=st.integers(1, 6),
    paces=st.lists(st.floats(0.5, 2.0), min_size=1, max_size=3).map(tuple),
    overhead_s=st.floats(0.01, 0.5),
    seed=st.integers(0, 99),
)


@settings(max_examples=25)
@given(case=CASES)
def test_every_token_comes_when_the_engine_gives_it(case: Case) -> None:
    play = case.played()
    play.advance(END_S)
    mine = {record.index: record for record in play.records}
    theirs = {record.index: record for record in run_virtual(case.engines())}
    assert mine.keys() == theirs.keys()
    for index, record in theirs.items():
        found = mine[index]
        assert found.outcome is record.outcome
        assert found.eval_count == record.eval_count
        assert found.chunk_times == pytest.approx(record.chunk_times, abs=1e-6)
        for name in ("written_at", "finished_at", "prompt_eval_duration_s", "eval_duration_s"):
            assert getattr(found, name) == pytest.approx(getattr(record, name), abs=1e-6), name


def test_without_overhead_who_asks_again_waits_for_the_step_that_has_begun() -> None:
    case = Case(ClosedLoop(3, 1), 2, (1.0,), overhead_s=0.0)
    play = case.played()
    play.advance(END_S)
    theirs = {record.index: record for record in run_virtual(case.engines())}
    mine = {record.index: record.finished_at for record in play.records}
    assert mine == pytest.approx({index: record.finished_at for index, record in theirs.items()}, abs=1e-6)


@given(case=CASES)
@settings(max_examples=10)
def test_samples_count_the_pieces_that_have_come(case: Case) -> None:
    play = case.played()
    play.advance(END_S)
    play.end_sending()
    play.advance(100 * END_S, lambda: not play.flights)
    assert not play.flights
    for sample in play.samples[::7]:
        there = sum(sum(at <= sample.at for at in record.chunk_times) for record in play.records)
        assert sample.pieces == there
        way = [r for r in play.records if (r.written_at or 0.0) <= sample.at < (r.finished_at or 0.0)]
        assert sample.in_flight == len(way)


def test_who_is_cut_off_keeps_what_came_and_frees_its_slot() -> None:
    play = Case(ClosedLoop(6, 1), 2, (1.0,)).played()
    play.advance(20.0)
    play.end_sending()
    running = sorted(play.flights, key=lambda one: (one.begin < 0, one.begin))
    in_slot, waiting = running[0], running[-1]
    play.cut([waiting, in_slot])
    spoken, silent = sorted(play.records[-2:], key=lambda record: -len(record.chunk_times))
    assert [spoken.outcome, silent.outcome] == [Outcome.CUT_OFF] * 2
    assert spoken.chunk_times
    assert spoken.chunk_times[-1] <= 20.0 == spoken.finished_at
    assert (silent.chunk_times, silent.first_content_at, silent.eval_count) == ((), None, None)
    before = len(play.records)
    play.advance(END_S, lambda: not play.flights)
    assert len(play.records) == before + 4
    assert all(record.outcome in {Outcome.OK, Outcome.EMPTY} for record in play.records[before:])


def test_a_request_that_takes_too_long_fails_and_its_user_backs_off() -> None:
    play = Play(
        [Instance("i0", model(), 1, 1.0)],
        Balancer("round_robin", [1], random.Random(0)),
        ClosedLoop(1, 0),
        lambda index, _: Question(index, 0, 1000, ends=False),
        Pulse(timeout_s=2.0),
    )
    play.advance(300.0, lambda: play.gave_up)
    assert {record.outcome for record in play.records} == {Outcome.TIMEOUT}
    assert len(play.records) == 3 * 1 + 10
    gaps = [b.intended_at - (a.finished_at or 0.0) for a, b in itertools.pairwise(play.records)]
    assert gaps[:3] == pytest.approx([traffic.BACK_OFF_S, 2 * traffic.BACK_OFF_S, 4 * traffic.BACK_OFF_S])
    assert max(gaps) == pytest.approx(traffic.MOST_BACK_OFF_S)


def test_an_open_loop_has_only_so_many_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plays, "MOST_IN_FLIGHT", 5)
    play = Case(OpenLoop(8.0, seed=1), 1, (1.0,)).played()
    play.window = (0.0, 20.0)
    play.advance(20.0)
    assert max(sample.in_flight for sample in play.samples) == 5
    assert play.due < 20.0
    play.end_sending()
    unsent = [record for record in play.records if record.written_at is None]
    times = itertools.takewhile(lambda at: at < 20.0, (play.began + at for at in OpenLoop(8.0, seed=1).times()))
    assert [record.intended_at for record in unsent] == [at for at in times if at >= play.due]
    assert {record.outcome for record in unsent} == {Outcome.CUT_OFF}
    assert len(unsent) > 1
    assert play.full


def moves(seed: int) -> list[int | None]:
    """Requests that come (None) and end (of whom, in parts of all that are there)."""
    rng = random.Random(seed)
    return [None if rng.random() < 0.6 else rng.randrange(1000) for _ in range(300)]


@pytest.mark.parametrize("policy", ["round_robin", "least_conn"])
@pytest.mark.parametrize("weights", [[1], [1, 1], [1, 1, 1, 1], [3, 1], [16, 4, 4], [5, 1, 1, 2]])
def test_the_balancer_goes_by_nginx_rules(policy: str, weights: list[int]) -> None:
    """Those of `Spread`, which a test holds against nginx itself."""
    mine = Balancer(policy, weights, random.Random(0))
    spread = Spread(None, [str(one) for one in range(len(weights))], policy, weights=weights)  # type: ignore[arg-type]
    there: list[int] = []
    for move in moves(len(weights)):
        if move is None:
            chosen = mine.choose()
            other = spread._choose()
            assert str(chosen) == other
            spread._busy[other] += 1
            there.append(chosen)
        elif there:
            gone = there.pop(move % len(there))
            mine.release(gone)
            spread._busy[str(gone)] -= 1


def test_the_better_of_two_drawn_at_random() -> None:
    balancer = Balancer("random_two", [1, 1, 1], random.Random(1))
    chosen = [balancer.choose() for _ in range(3000)]
    # the busiest of three is drawn, but never chosen: so all stay alike, and no order is kept
    assert [chosen.count(one) for one in range(3)] == pytest.approx([1000] * 3, abs=2)
    assert len({tuple(chosen[at : at + 3]) for at in range(0, 3000, 3)}) > 3
    for _ in range(50):
        balancer.release(0)
    assert [balancer.choose() for _ in range(60)].count(0) > 30


def test_jitter_of_a_leap_is_that_of_the_mean_of_its_steps() -> None:
    sigma, steps = 0.2, 100

    def took(seed: int) -> float:
        instance = Instance("i", model(), 1, 1.0, step_jitter=sigma, rng=random.Random(seed))
        play = Play(
            [instance],
            Balancer("round_robin", [1], random.Random(0)),
            ClosedLoop(1, 0),
            lambda index, _: Question(index, 0, steps, ends=False),
            Pulse(),
        )
        play.advance(inf, lambda: bool(play.records))
        return (play.records[0].finished_at or 0.0) / (0.022 * steps)

    factors = [took(seed) for seed in range(2000)]
    assert fmean(factors) == pytest.approx(1.0, abs=0.002)
    assert stdev(factors) == pytest.approx(math.sqrt(math.expm1(sigma**2) / steps), rel=0.06)


def test_smooth_round_robin_gives_shares_without_bursts() -> None:
    balancer = Balancer("round_robin", [5, 1, 1], random.Random(0))
    assert [balancer.choose() for _ in range(7)] == [0, 0, 1, 0, 2, 0, 0]  # as in nginx's own comment
