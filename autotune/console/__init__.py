"""What a person sees. All formatting is here."""

from autotune.console.checks import checkup
from autotune.console.live import Bench, Night
from autotune.console.pages import morning, outlook, status
from autotune.console.tables import before_after, comparison, ranking
from autotune.report.words import configuration, figures, span, verdict
from autotune.simulator import SIMULATED

__all__ = [
    "SIMULATED",
    "Bench",
    "Night",
    "before_after",
    "checkup",
    "comparison",
    "configuration",
    "figures",
    "morning",
    "outlook",
    "ranking",
    "span",
    "status",
    "verdict",
]
