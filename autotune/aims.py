"""What the loads of a study are for, and how long they take: from its spec. Pure."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from autotune.benchmark.phases import Phases
from autotune.errors import SpecError
from autotune.goal import Bound, Precise
from autotune.ladder import Search
from autotune.metrics import COLD_S, Attainment, Window, attain
from autotune.result import REQUESTS_PER_S, TOKENS_PER_S, USERS
from autotune.rival import PAUSE_S, Rival, Screen
from autotune.spec import Level
from autotune.stats import enough

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.benchmark.phases import LoadResult
    from autotune.plan import Plan
    from autotune.result import TrialResult
    from autotune.spec import Limit, StudySpec
    from autotune.stats import Statistic

SHORT = 1 / 3
"""The window of a load beside the study's own, in parts of theirs."""
ROUGH = 0.1
"""How exactly the output rate of such a load is to be known."""


def limits(spec: StudySpec, level: Level) -> list[Limit]:
    """Those that hold at a level; of a capacity all of them, at every one."""
    if spec.objective.metric == "capacity":
        return list(spec.objective.limits)
    return [limit for limit in spec.objective.limits if spec.level(limit.at) == level]


def _statistics(spec: StudySpec, level: Level) -> list[Statistic]:
    """Those of a level's requests that a limit, or a goal, is about."""
    goals = spec.objective.goals if level == spec.level(None) else ()
    return [*(one.statistic for one in limits(spec, level)), *(goal.statistic for goal in goals if not goal.larger)]


def ttft_limit_s(spec: StudySpec, level: Level) -> float | None:
    """The strictest limit of a TTFT at a level, s; None where there is none."""
    return min((limit.max for limit in limits(spec, level) if limit.metric == "ttft_s"), default=None)


def cold_s(spec: StudySpec) -> float:
    """What `load_duration` of a request says that the model was not there, in seconds of the study."""
    return COLD_S * spec.cluster.time_scale


def decides(spec: StudySpec, level: Level) -> bool:
    """Whether the objective or a limit is about this level, or it may be more than a configuration can do.

    Of any other nothing is asked but that requests succeed.
    """
    return level == spec.level(None) or level.users is None or bool(limits(spec, level))


def ordered(spec: StudySpec) -> list[Level]:
    """The levels of a trial as they are loaded: the objective's first, for who is out there needs no other, then those
    of limits; last what decides nothing."""
    return sorted(spec.workload.levels, key=lambda level: (level != spec.level(None), not decides(spec, level)))


def run_s(spec: StudySpec, result: TrialResult) -> float:
    """How long a run of the fewest blocks of a proof takes on the mean, by one trial of the search; s of this host.

    It has no loads beside the study's own, and those that decide nothing in the first block only.
    """
    idle = {level.label for level in spec.workload.levels if not decides(spec, level)}
    windows = result.windows.items()
    own = [end for label, (_, end) in windows if label not in result.curve]
    deciding = [end for label, (_, end) in windows if label not in idle | result.curve.keys()]
    if not deciding:
        return result.seconds
    last, levels, every = max(deciding), max(own), max(end for _, (_, end) in windows)
    more = (every - last) - (levels - last) / spec.proof.pairs
    return result.seconds - more / spec.cluster.time_scale


def beside(spec: StudySpec, users: Sequence[int]) -> list[Level]:
    """Loads of so many users each, besides the study's own: only where that is one of users, too."""
    if spec.objective.metric == "capacity" or spec.level(None).users is None:
        return []
    own = {level.users for level in spec.workload.levels}
    return [Level(users=count) for count in dict.fromkeys(users) if count not in own]


def is_beside(spec: StudySpec, level: Level) -> bool:
    """Whether a load is not one of the study's own."""
    return spec.objective.metric != "capacity" and level not in spec.workload.levels


def phases(spec: StudySpec, level: Level) -> Phases:
    """How long a load takes, and how many requests its limits need."""
    if is_beside(spec, level):
        work = spec.workload
        window_s = SHORT * work.window_s
        drain_s = min(work.drain_s, window_s)  # nobody asks for the ends of its answers
        return Phases(work.warmup_s, work.warmup_max_s, window_s, min(2 * window_s, work.window_max_s), drain_s)
    return Phases(
        warmup_s=spec.workload.warmup_s,
        warmup_max_s=spec.workload.warmup_max_s,
        window_s=spec.workload.window_s,
        window_max_s=spec.workload.window_max_s,
        drain_s=spec.workload.drain_s,
        min_requests=max(map(enough, _statistics(spec, level)), default=0),
    )


def check(spec: StudySpec) -> None:
    """Whether a study measures what it says, and can ever find out. Raises `SpecError`.

    Prompts have to fit into the context, or a server cuts them off. And the longest window of a level that has a rate
    has to bring the requests that its limits, or goals, need: no trial would be known to meet them.
    """
    work = spec.workload
    if work.input_tokens is not None and work.input_tokens.mean >= work.num_ctx:
        raise SpecError(
            f"workload.num_ctx = {work.num_ctx}: prompts of {work.input_tokens.mean} tokens do not fit in; allowed is"
            f" {work.input_tokens.mean + work.num_predict.mean}, which has room for the longest answers, too"
        )
    longest_s, capacity = spec.workload.window_max_s, spec.objective.metric == "capacity"
    for level in spec.workload.levels:
        rate = level.rate or max(level.ramp or (0.0,))
        rate = spec.objective.capacity_max if rate and capacity else rate
        needed = phases(spec, level).min_requests
        if 0 < rate * longest_s < needed:
            most = max(_statistics(spec, level), key=enough)
            raise SpecError(
                f"workload.window_max_s = {longest_s:g}: at {rate:g} requests/s about {rate * longest_s:.0f} come, and"
                f" the {most} of a time needs {needed}; allowed is {math.ceil(needed / rate)} or more"
            )


def precision(spec: StudySpec, level: Level) -> float | None:
    """How exactly the output rate is to be known: at the objective's level, where it is the objective."""
    if spec.objective.metric == "capacity":
        return None
    if is_beside(spec, level):
        return ROUGH
    return spec.objective.precision if level == spec.level(None) else None


def rival(spec: StudySpec, best: TrialResult, tps: float | None = None) -> Rival:
    """What a candidate has to beat where this is the best so far; `tps` where more is known than one trial says.

    Of one that misses the limits only the times count: any that meets them would be better. So it is with several
    goals: what makes less may be better in another.
    """
    label = spec.level(None).label
    metrics, look, window = best.levels[label], best.looks.get(label), best.windows.get(label)
    warm_s = None
    if look is not None and look.after_s is not None and window is not None:
        warm_s = look.after_s - (window[1] - window[0])
    known = metrics.output_tps if tps is None else tps
    return Rival(
        known if best.score.feasible and not spec.objective.goals else 0.0,
        tokens_per_piece=metrics.tokens_per_chunk or 1.0,
        answer_tokens=metrics.output_tokens,
        warm_s=warm_s,
    )


def goal(
    spec: StudySpec, level: Level, planned: Phases, rival: Rival | None = None, plan: Plan | None = None
) -> Precise:
    """What the window of a level is for, on the clock of its phases: this host's.

    With a rival it is that of a candidate, and ends when that cannot win: its warm-up too, where it is told the plan.
    """
    scale, short = spec.cluster.time_scale, is_beside(spec, level)
    if rival is not None:
        rival = _rival(spec, level, rival)
    return Precise(
        bounds=tuple(Bound(limit.metric, limit.statistic, limit.max / scale) for limit in limits(spec, level)),
        precision=precision(spec, level),
        looks=planned.looks,
        min_success=None if short else spec.objective.min_success_rate,
        early=spec.objective.end_early and not short,
        rival=rival,
        warmup=_screen(spec, level, planned, rival, plan) if rival is not None and plan is not None else None,
    )


def _rival(spec: StudySpec, level: Level, rival: Rival) -> Rival | None:
    """As it counts at this level, on this host's clock: its output at the objective's only."""
    if not spec.objective.end_early or spec.objective.metric == "capacity" or is_beside(spec, level):
        return None
    own = rival if level == spec.level(None) else replace(rival, tps=0.0, answer_tokens=None)
    return own.scaled(1 / spec.cluster.time_scale)


def _screen(spec: StudySpec, level: Level, planned: Phases, rival: Rival, plan: Plan) -> Screen | None:
    if level.users is None:
        return None
    ttft = [limit for limit in limits(spec, level) if limit.metric == "ttft_s" and limit.statistic != "p50"]
    return Screen(
        rival,
        level.users,
        sum(instance.slots for instance in plan.instances),
        len(plan.instances),
        planned.screens,
        tuple((f"{limit.metric} {limit.statistic}", limit.max / spec.cluster.time_scale) for limit in ttft),
        PAUSE_S / spec.cluster.time_scale,
    )


def search(spec: StudySpec) -> Search:
    """Of a capacity: begins with the level of the workload."""
    first, objective = spec.level(None), spec.objective
    begin = float(first.users) if first.users is not None else float(first.rate or 1.0)
    return Search(begin, float(objective.capacity_max), objective.precision, first.users is not None)


def unit(spec: StudySpec) -> str:
    """Of the objective, also where nothing could be measured."""
    if spec.objective.metric != "capacity":
        return TOKENS_PER_S
    return USERS if spec.level(None).users is not None else REQUESTS_PER_S


def at_load(spec: StudySpec, load: float) -> Level:
    """The level of a step of that search: as that of the workload, with another load."""
    first = spec.level(None)
    return first.model_copy(update={"users": round(load)} if first.users is not None else {"rate": load})


def attainment(spec: StudySpec, level: Level, loaded: LoadResult) -> Attainment | None:
    """How many requests met all limits of a level at once; None where it has none. Times in seconds of the study."""
    window = Window(loaded.window_start, loaded.window_end, loaded.open_loop, cold_s(spec))
    return attain(loaded.records, window, ((limit.metric, limit.max) for limit in limits(spec, level)))
