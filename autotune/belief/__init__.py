"""What is believed of a cluster's configurations: the physics of queues, fitted to what a night's trials measured.

The way of the data: a `Question` (what is asked) and a space make a `Designer`, which turns configurations into arrays
(`design`); trials become `Evidence`; `law` says what a cluster should do; `fit` finds its parameters under each of the
hypotheses of `kernel`, which say how much the law leaves over; `mind` holds them all, weighed by how well each foretold
the trials; `prior` is what earlier studies say before that; `choice` says what to try next and what to recommend.
"""

from autotune.belief.choice import Chooser
from autotune.belief.design import Designer
from autotune.belief.evidence import Evidence, Loaded, evidence
from autotune.belief.law import Law
from autotune.belief.mind import Forecast, Mind
from autotune.belief.prior import Lesson, Prior, learned, named
from autotune.belief.question import Bound, Question

__all__ = [
    "Bound",
    "Chooser",
    "Designer",
    "Evidence",
    "Forecast",
    "Law",
    "Lesson",
    "Loaded",
    "Mind",
    "Prior",
    "Question",
    "evidence",
    "learned",
    "named",
]
