"""What the loads of a study are for, and how long they take: from its spec. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.benchmark.phases import Phases
from autotune.goal import Bound, Precise
from autotune.ladder import Search
from autotune.metrics import COLD_S, Attainment, Window, attain
from autotune.stats import enough

if TYPE_CHECKING:
    from autotune.benchmark.phases import LoadResult
    from autotune.spec import Level, Limit, StudySpec


def limits(spec: StudySpec, level: Level) -> list[Limit]:
    """Those that hold at a level; of a capacity all of them, at every one."""
    if spec.objective.metric == "capacity":
        return list(spec.objective.limits)
    return [limit for limit in spec.objective.limits if spec.level(limit.at) == level]


def ttft_limit_s(spec: StudySpec, level: Level) -> float | None:
    """The strictest limit of a TTFT at a level, s; None where there is none."""
    return min((limit.max for limit in limits(spec, level) if limit.metric == "ttft_s"), default=None)


def cold_s(spec: StudySpec) -> float:
    """What `load_duration` of a request says that the model was not there, in seconds of the study."""
    return COLD_S * spec.cluster.time_scale


def phases(spec: StudySpec, level: Level) -> Phases:
    """How long a load takes, and how many requests its limits need."""
    return Phases(
        warmup_s=spec.workload.warmup_s,
        warmup_max_s=spec.workload.warmup_max_s,
        window_s=spec.workload.window_s,
        window_max_s=spec.workload.window_max_s,
        drain_s=spec.workload.drain_s,
        min_requests=max((enough(limit.statistic) for limit in limits(spec, level)), default=0),
    )


def precision(spec: StudySpec, level: Level) -> float | None:
    """How exactly the output rate is to be known: at the objective's level, where it is the objective."""
    if spec.objective.metric == "capacity":
        return None
    return spec.objective.precision if level == spec.level(None) else None


def goal(spec: StudySpec, level: Level, planned: Phases) -> Precise:
    """What the window of a level is for, on the clock of its phases: this host's."""
    scale = spec.cluster.time_scale
    return Precise(
        bounds=tuple(Bound(limit.metric, limit.statistic, limit.max / scale) for limit in limits(spec, level)),
        precision=precision(spec, level),
        looks=planned.looks,
        min_success=spec.objective.min_success_rate,
        early=spec.objective.end_early,
    )


def search(spec: StudySpec) -> Search:
    """Of a capacity: begins with the level of the workload."""
    first, objective = spec.level(None), spec.objective
    begin = float(first.users) if first.users is not None else float(first.rate or 1.0)
    return Search(begin, float(objective.capacity_max), objective.precision, first.users is not None)


def at_load(spec: StudySpec, load: float) -> Level:
    """The level of a step of that search: as that of the workload, with another load."""
    first = spec.level(None)
    return first.model_copy(update={"users": round(load)} if first.users is not None else {"rate": load})


def attainment(spec: StudySpec, level: Level, loaded: LoadResult) -> Attainment | None:
    """How many requests met all limits of a level at once; None where it has none. Times in seconds of the study."""
    window = Window(loaded.window_start, loaded.window_end, loaded.open_loop, cold_s(spec))
    return attain(loaded.records, window, ((limit.metric, limit.max) for limit in limits(spec, level)))
