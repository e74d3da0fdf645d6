"""A study file becomes a frozen `StudySpec`."""

from autotune.spec.reading import load
from autotune.spec.sections import Budget, Cluster, Level, Limit, Objective, StudySpec, Workload

__all__ = ["Budget", "Cluster", "Level", "Limit", "Objective", "StudySpec", "Workload", "load"]
