"""A study to look at in a notebook: frames and figures. pandas and plotly live here and nowhere else.

from autotune.analysis import load, tps_against_ttft, trials

study = load("four-gpus.toml")
trials(study)
tps_against_ttft(study)
"""

from autotune.analysis.beliefs import beliefs, believed_against_measured
from autotune.analysis.curve import capacity_curve
from autotune.analysis.figures import by_level, slots_by_layout, tps_against_ttft
from autotune.analysis.files import parquet
from autotune.analysis.front import front
from autotune.analysis.loads import instances, requests
from autotune.analysis.reading import Run, Study, load, recomputed, stored
from autotune.analysis.results import candidates, configuration, constraints, parameters, trials
from autotune.analysis.spans import stages
from autotune.analysis.times import requests_over_time, timeline

__all__ = [
    "Run",
    "Study",
    "beliefs",
    "believed_against_measured",
    "by_level",
    "candidates",
    "capacity_curve",
    "configuration",
    "constraints",
    "front",
    "instances",
    "load",
    "parameters",
    "parquet",
    "recomputed",
    "requests",
    "requests_over_time",
    "slots_by_layout",
    "stages",
    "stored",
    "timeline",
    "tps_against_ttft",
    "trials",
]
