"""What is believed of a cluster's configurations: the physics of queues, fitted to what a night's trials measured.

The way of the data: a `Question` (what is asked) and a space make a `Designer`, which turns configurations into arrays
(`design`); trials become `Evidence`; `law` says what a cluster should do, `sizing` what its instances need, `slopes`
how that changes with its parameters; `fit` finds these under each of the hypotheses of `kernel`, which say how much the
law leaves over, and `view` is what follows from one; `mind` holds them all, weighed by how well each foretold the
trials; `room` says what can be measured; `prior` is what earlier studies say before that; `choice` says what to try
next and what to recommend, `odds` what could still win, and `front` what is best where several goals count.
"""

from autotune.belief.choice import Chooser
from autotune.belief.design import Designer
from autotune.belief.evidence import Evidence, Loaded, evidence
from autotune.belief.forecast import Forecast
from autotune.belief.law import Law
from autotune.belief.mind import Mind
from autotune.belief.odds import Believed, Contender, Odds, Range, believed, odds
from autotune.belief.prior import Lesson, Prior, learned, named
from autotune.belief.question import JOULES, Bound, Question

__all__ = [
    "JOULES",
    "Believed",
    "Bound",
    "Chooser",
    "Contender",
    "Designer",
    "Evidence",
    "Forecast",
    "Law",
    "Lesson",
    "Loaded",
    "Mind",
    "Odds",
    "Prior",
    "Question",
    "Range",
    "believed",
    "evidence",
    "learned",
    "named",
    "odds",
]
