"""A study file becomes a frozen `StudySpec`."""

from autotune.spec.goals import GOALS, OUTPUT, PER_JOULE, Goal
from autotune.spec.reading import load
from autotune.spec.sections import Budget, Cluster, DeviceEntry, Limit, Objective, Proof
from autotune.spec.study import StudySpec
from autotune.spec.workload import Level, Workload

__all__ = [
    "GOALS",
    "OUTPUT",
    "PER_JOULE",
    "Budget",
    "Cluster",
    "DeviceEntry",
    "Goal",
    "Level",
    "Limit",
    "Objective",
    "Proof",
    "StudySpec",
    "Workload",
    "load",
]
