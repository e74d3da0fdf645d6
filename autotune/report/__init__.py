"""What is said of a study: a value that holds it all, its sentences, and its pages."""

from autotune.report.beliefs import checked, expected
from autotune.report.findings import Change, Figures, Findings, Place, findings, read
from autotune.report.front import Point, Reached
from autotune.report.markdown import markdown

__all__ = [
    "Change",
    "Figures",
    "Findings",
    "Place",
    "Point",
    "Reached",
    "checked",
    "expected",
    "findings",
    "markdown",
    "read",
]
