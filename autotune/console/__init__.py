"""What a person sees. All formatting is here."""

from autotune.console.checks import checkup
from autotune.console.live import Night
from autotune.console.loads import Bench, contrasted
from autotune.console.pages import forecast, morning, outlook, status
from autotune.console.rehearsal import Nights, rehearsed
from autotune.console.screen import Screen
from autotune.console.steps import Steps, selftests
from autotune.console.tables import before_after, comparison, ranking
from autotune.report.words import configuration, figures, span, verdict
from autotune.simulator import SIMULATED

__all__ = [
    "SIMULATED",
    "Bench",
    "Night",
    "Nights",
    "Screen",
    "Steps",
    "before_after",
    "checkup",
    "comparison",
    "configuration",
    "contrasted",
    "figures",
    "forecast",
    "morning",
    "outlook",
    "ranking",
    "rehearsed",
    "selftests",
    "span",
    "status",
    "verdict",
]
