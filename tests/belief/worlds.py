"""Clusters that keep to the law with parameters of our own, and what trials of them show."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.belief import Bound, Designer, Evidence, Loaded, Mind, Question
from autotune.belief.law import Law
from autotune.space import Space, build, key
from tests.test_space import host

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from autotune.belief.design import Array

USERS = 20
LAYOUTS = ("0", "0 | 1", "0 | 1 | 2 | 3", "0x2 | 1x2 | 2x2 | 3x2", "0+1 | 2+3")


def asked(devices: int = 4, *, most_s: float | None = 5.0, **more: Any) -> Question:
    """What 20 users ask; with a limit on the p95 of TTFT unless it is None."""
    bounds = () if most_s is None else (Bound("ttft_s", "p95", USERS, most_s),)
    kinds, memory = ("A",) * devices, (0.0,) * devices
    values: dict[str, Any] = {"bounds": bounds, "kinds": kinds, "memory_bytes": memory, **more}
    return Question(users=USERS, output_tokens=200.0, input_tokens=300.0, **values)


def space(devices: str = "AAAA", **more: Any) -> Space:
    """Of four equal devices; 162 configurations unless something else is said."""
    values: dict[str, Any] = {
        "num_parallel": (1, 2, 4, 8, 16, 32), "layouts": LAYOUTS, "policies": ("round_robin", "least_conn"),
        "num_batch": (256, 512, 1024), **more,
    }  # fmt: skip
    return build(host(devices), None, num_ctx=4096, **values)


SPACE = space()
EVERY = list(SPACE.configurations())


@dataclass
class World:
    """A cluster. Its parameters lie around the prior's means, `wide` standard deviations of the prior away."""

    seed: int = 0
    wide: float = 0.5
    noise: float = 0.0
    """Standard deviation of logarithms of output between trials; of TTFT twice as much."""
    twist: Callable[[Mapping[str, Any]], float] = lambda _: 0.0
    """What the law knows nothing of: a logarithm on the output."""
    space: Space = SPACE
    question: Question = field(default_factory=asked)

    def __post_init__(self) -> None:
        self.designer = Designer.of(self.space, len(self.question.kinds))
        self.law = Law(self.question, self.designer)
        drawn = np.random.default_rng((self.seed, 1)).standard_normal(len(self.law.mean))
        self.theta = self.law.mean + self.wide * self.law.sd * drawn

    def mind(self, **more: Any) -> Mind:
        """One that knows nothing of it yet."""
        return Mind(self.question, self.designer, **more)

    def truth(self, every: Sequence[Mapping[str, Any]]) -> Array:
        """[1 + limits, C] logarithms of output, and of values over limits."""
        found = self.law.heads(self.theta[None], self.designer.design(every))[:, 0]
        found[0] += [self.twist(one) for one in every]
        return found

    def trial(self, params: Mapping[str, Any], number: int = 0, times: float = 1.0) -> Evidence:
        """What one trial shows; with so many times the output that it should."""
        design, parts = self.designer.design([params]), self.designer.parts(params)[1]
        answer = self.law.answer(self.theta[None], design, np.array([float(USERS)]))
        chance = np.random.default_rng((self.seed, number, 2)).standard_normal(5) * self.noise
        speed = times * math.exp(self.twist(params) + chance[0])
        tail = float(answer.ttft("p95")[0, 0]) / times * math.exp(2 * chance[1])
        load = Loaded(
            users=USERS,
            tps=float(answer.tps[0, 0]) * speed,
            tpot_s=float(answer.tpot_s[0, 0]) / speed * math.exp(0.3 * chance[2]),
            ttft_s=float(answer.ttft_s[0, 0]) / times * math.exp(2 * chance[3]),
            tails=(("p95", tail),),
            prefill_s=float(answer.prefill_s[0, 0]) / times * math.exp(0.5 * chance[4]),
            busy=float(answer.busy[0, 0]),
            parts=tuple((at, float(answer.part_tpot_s[0, 0, part]) / speed) for at, part in enumerate(parts)),
        )
        return Evidence(params, (load,), tuple((bound.name, tail) for bound in self.question.bounds))

    def trials(self, count: int, first: int = 0) -> list[Evidence]:
        """Of configurations drawn at random, no two the same."""
        return [self.trial(one, number) for number, one in enumerate(self.drawn(count + first))][first:]

    def drawn(self, count: int) -> list[Mapping[str, Any]]:
        """So many configurations at random, the same each time."""
        every = list(self.space.configurations())
        return [every[at] for at in np.random.default_rng((self.seed, 3)).permutation(len(every))[:count]]

    def others(self, trials: Sequence[Evidence]) -> list[Mapping[str, Any]]:
        """All configurations that none of these is of."""
        tried = {key(trial.params) for trial in trials}
        return [one for one in self.space.configurations() if key(one) not in tried]


def params(num_parallel: int = 4, layout: str = "0", **more: Any) -> dict[str, Any]:
    """A configuration of the space."""
    several = "|" in layout or "x" in layout
    plain = {"flash_attention": "auto", "kv_cache_type": "f16", "num_batch": 256}
    policy = {"policy": "round_robin"} if several else {}
    return {"layout": layout, "num_parallel": num_parallel, **policy, **plain, **more}


def known(mind: Mind, *every: Mapping[str, Any]) -> tuple[Array, Array]:
    """Mean and standard deviation of the believed logarithm of the output of each."""
    found = mind.forecast(mind.design(every))
    return found.tps, found.tps_sd
