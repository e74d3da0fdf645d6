"""A study file becomes a frozen `StudySpec`."""

from autotune.spec.reading import load
from autotune.spec.sections import Budget, Cluster, Level, Limit, Objective, Proof, Workload
from autotune.spec.study import StudySpec

__all__ = ["Budget", "Cluster", "Level", "Limit", "Objective", "Proof", "StudySpec", "Workload", "load"]
