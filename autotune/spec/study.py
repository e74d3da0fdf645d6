"""A whole study file."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import model_validator

from autotune.spec.goals import Several
from autotune.spec.sections import (
    Baseline,
    Budget,
    Cluster,
    Objective,
    Proof,
    Search,
    Section,
    Study,
)
from autotune.spec.values import short
from autotune.spec.workload import Level, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class StudySpec(Section):
    """A whole study file."""

    study: Study
    cluster: Cluster
    search: Search
    baseline: Baseline = Baseline()
    workload: Workload
    objective: Annotated[Objective, short("metric", list, "a list of goals", Several | Objective)] = Objective()
    """Before the first table, `objective = ["tps", "ttft_p95_s"]` stands for its `metric` alone."""
    budget: Budget
    proof: Proof = Proof()

    @model_validator(mode="after")
    def _levels_exist(self) -> Self:
        limits = {f"objective.limits[{number}].at": limit.at for number, limit in enumerate(self.objective.limits)}
        for key, at in {"objective.at": self.objective.at, **limits}.items():
            try:
                self.level(at)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
        return self

    @model_validator(mode="after")
    def _limits_go_together(self) -> Self:
        every = [(self.level(limit.at).label, limit) for limit in self.objective.limits]
        for (first, (at, one)), (second, (other_at, other)) in combinations(enumerate(every), 2):
            if at != other_at:
                continue
            if (one.metric, one.statistic) == (other.metric, other.statistic):
                raise ValueError(
                    f"objective.limits[{second}]: {other.metric} {other.statistic} at {at!r} is limited twice, to"
                    f" {one.max:g} s and to {other.max:g} s; allowed is one limit"
                )
            for number, idle, tight in ((first, one, other), (second, other, one)):
                if idle.bounded_by(tight):
                    more = (
                        f"{idle.metric} {idle.statistic} at {at!r} is never more than {tight.metric} {tight.statistic}"
                    )
                    raise ValueError(
                        f"objective.limits[{number}].max: {idle.max:g}: {more}, which is limited to {tight.max:g} s;"
                        " allowed is less than that, or no such limit"
                    )
        return self

    @model_validator(mode="after")
    def _capacity_can_be_searched(self) -> Self:
        asked, levels = self.objective, self.workload.levels
        if asked.metric != "capacity":
            return self
        if not asked.limits:
            raise ValueError("objective.limits: none; a capacity is the largest load at which limits hold")
        if any(limit.at is not None for limit in asked.limits) or asked.at is not None:
            raise ValueError('objective: `at` says nothing with metric "capacity": limits hold at every load')
        if len(levels) != 1 or (levels[0].users is None and levels[0].rate is None):
            raise ValueError('workload.levels: with metric "capacity" one level of users or a rate, to begin with')
        if (first := levels[0].users or levels[0].rate or 0) > asked.capacity_max:
            raise ValueError(f"workload.levels: {first:g} is more than objective.capacity_max, {asked.capacity_max}")
        return self

    def level(self, at: float | str | None) -> Level:
        """The level that `at` names; `ValueError` when there is none. None is the objective's."""
        levels = self.workload.levels
        if at is None:
            return self.level(self.objective.at) if self.objective.at is not None else levels[-1]
        meant = [level for level in levels if at in (level.users, level.rate, level.label)]
        if len(meant) == 1:
            return meant[0]
        found = "means several levels; write one of" if meant else "no such level; there are"
        raise ValueError(f"{at!r}: {found} {', '.join(repr(level.label) for level in levels)}")

    def measured(self) -> dict[str, Any]:
        """All that decides what can be tried and what a trial measures, as flat `section.key` pairs.

        While they stay a study goes on: in another time, with another proof, searched in another way.
        """
        free: dict[str, Any] = {"budget": True, "proof": True, "study": {"name"}, "search": {"sampler"}}
        data = self.model_dump(mode="json", exclude=free)
        timeouts = {"cluster.start_timeout_s", "cluster.load_timeout_s", "cluster.stop_timeout_s"}
        return {key: value for key, value in _flat(data) if key not in timeouts}


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
