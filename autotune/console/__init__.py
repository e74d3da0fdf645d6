"""What a person sees. All formatting is here."""

from autotune.console.live import Bench, Night
from autotune.console.pages import conclusion, morning, outlook
from autotune.console.tables import before_after, comparison, ranking
from autotune.console.words import SIMULATED, configuration, figures, span, verdict

__all__ = [
    "SIMULATED",
    "Bench",
    "Night",
    "before_after",
    "comparison",
    "conclusion",
    "configuration",
    "figures",
    "morning",
    "outlook",
    "ranking",
    "span",
    "verdict",
]
