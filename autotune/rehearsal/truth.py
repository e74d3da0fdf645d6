"""How fast a configuration really is: a long load, without the noise of a night."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autotune.benchmark import pacer
from autotune.benchmark.pacer import OpenLoop
from autotune.errors import TrialFailure
from autotune.events import Events
from autotune.metrics import COMPLETE, Window, success_rate, tpot_s, ttft_s
from autotune.metrics.tokens import output_tps
from autotune.rehearsal.bench import bench
from autotune.rehearsal.light import NOWHERE
from autotune.rehearsal.stage import front
from autotune.simulator.clock import run_virtual
from autotune.simulator.play import Play, Pulse
from autotune.stats import percentile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from autotune.plan import Plan
    from autotune.records import RequestRecord
    from autotune.rehearsal.bench import Rehearsal
    from autotune.rehearsal.host import Host
    from autotune.simulator.profiles import Profile
    from autotune.spec import Goal, Level, Limit

WARM_REQUESTS, REQUESTS = 300, 2000
"""By then the load is steady; of so many requests the output rate is known to a few parts of a thousand."""
WARM_S, TRUE_S, DRAIN_S = 300.0, 900.0, 300.0
"""Of the played host: no longer than this, however slow it is."""

TOLERANCE = 0.01
"""A limit is missed by more than this part of it: the truth itself is no more exact."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What a configuration really is worth."""

    tps: float
    """At the objective's level, tokens/s; 0 for one that does not run."""
    violation: float
    """Of the limit that it misses by most, in parts of it; below 0 where all are met."""
    succeeds: bool = True
    """Whether enough of its requests do, at each of the levels that decide something."""
    goals: dict[str, float] = field(default_factory=dict)
    """What counts beside the output, by the names of the study file: times, s, infinite where nothing is known."""

    @property
    def feasible(self) -> bool:
        """Whether it runs, enough requests succeed, it meets every limit, and something is known of every goal."""
        met = self.tps > 0 and self.succeeds and self.violation <= TOLERANCE
        return met and all(map(math.isfinite, self.goals.values()))

    @property
    def point(self) -> tuple[float, ...]:
        """Output and goals as logarithms, so turned that more is better; of what is feasible."""
        return (math.log(self.tps), *(-math.log(value) for value in self.goals.values()))


def truth(host: Host, params: Mapping[str, Any]) -> Truth:
    """The truth about one configuration of a study on a played host."""
    return run_virtual(_truth(host, params))


def silent(profile: Profile) -> Profile:
    """The same host, on which nothing happens by chance."""
    calm = profile.host.model_copy(update={"life_jitter": 0.0, "step_jitter": 0.0})
    return profile.model_copy(update={"host": calm})


async def _truth(host: Host, params: Mapping[str, Any]) -> Truth:
    spec, plan = host.ground.spec, host.ground.plan(params)
    judged = bench(host, spec, Events(NOWHERE), "truth", silent(host.profile))
    judged.lengths = host.lengths
    try:
        await judged.ready(plan)
    except TrialFailure:
        return Truth(0.0, math.inf, goals={goal.name: math.inf for goal in spec.objective.goals})
    limits = [(limit, spec.level(limit.at)) for limit in spec.objective.limits]
    objective = spec.level(None)
    loads = {level: _load(judged, plan, level) for level in {objective, *(level for _, level in limits)}}
    missed = [_statistic(limit, loads[level]) / limit.max - 1 for limit, level in limits]
    loaded = loads[objective]
    tps = output_tps(loaded.records, loaded.window, None) / loaded.scale
    goals = {goal.name: _statistic(goal, loaded) for goal in spec.objective.goals}
    succeeds = all(_success(load) >= spec.objective.min_success_rate for load in loads.values())
    return Truth(tps, max(missed, default=-1.0), succeeds, goals)


@dataclass(frozen=True, slots=True)
class _Long:
    """A long load, in seconds of this host's clock."""

    records: Sequence[RequestRecord]
    window: Window
    scale: float


def _load(judged: Rehearsal, plan: Plan, level: Level) -> _Long:
    spec, scale = judged.spec, judged.spec.cluster.time_scale
    paced = pacer.make(level, spec.study.seed, judged.workload.stamps, scale)
    pulse = Pulse(0.0, WARM_S / 10 / scale, TRUE_S / scale, spec.workload.request_timeout_s / scale)
    instances, balancer = judged.stage.instances(plan, "truth"), front(plan, "truth")
    play = Play(instances, balancer, paced, judged.questions().of("truth"), pulse)
    # a fast host has had so many requests before all users are there
    play.advance(WARM_S / scale, lambda: len(play.records) >= WARM_REQUESTS and play.now >= pulse.spread_s)
    start, before = play.now, len(play.records)
    play.advance(start + TRUE_S / scale, lambda: len(play.records) >= before + REQUESTS)
    play.window = (start, play.now)
    play.advance(play.now + DRAIN_S / scale, lambda: not any(play.inside(one) for one in play.flights))
    play.end_sending()
    play.cut(play.flights)
    return _Long(play.records, Window(*play.window, isinstance(paced, OpenLoop), math.inf), scale)


def _statistic(asked: Limit | Goal, loaded: _Long) -> float:
    """Of the times of a load what a limit or a goal is about, s; infinite where nothing is known."""
    window = loaded.window
    if asked.metric == "ttft_s":
        sent = (record for record in loaded.records if window.has(window.asked_at(record)))
        values = [ttft_s(record, window) for record in sent]
    else:
        done = [r for r in loaded.records if r.outcome in COMPLETE and window.has(r.finished_at)]
        values = [tpot_s(r) if asked.metric == "tpot_s" else _lasted_s(r.finished_at, window.asked_at(r)) for r in done]
    known = [value for value in values if value is not None]
    return loaded.scale * percentile(known, asked.statistic) if known else math.inf


def _success(loaded: _Long) -> float:
    asked = (record for record in loaded.records if loaded.window.has(loaded.window.asked_at(record)))
    return success_rate(Counter(record.outcome.value for record in asked))


def _lasted_s(end: float | None, asked_at: float) -> float | None:
    return None if end is None else end - asked_at
