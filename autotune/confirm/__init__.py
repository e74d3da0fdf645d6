"""The proof of a winner: the best of the search and the baseline run again, and what that says.

A block is one run of every candidate, each with everything started anew; blocks turn the order around (ABBA), so that
what drifts through the night falls on all alike. The arrivals of a block are the same for all in it, and others in the
next one. The block is the unit of every statement: nothing of the search is used, and no request is taken for a
measurement of its own.

A difference in tokens/s is the logarithm of a ratio within a block. Its scatter is that of all candidates in the
blocks, with what is common to a block taken out, or that of the pair itself, whichever is larger (`stats.contrast`). A
limit is the relative violation of each run. All statements of a proof hold together with `proof.confidence`: `shares`
says how its error is shared out over them and over the looks, at each of which the proof could end. What is being
compared with what may be chosen after the fact.

Where several goals count there is no winner but a front: who meets the limits, is surely beaten by nobody, and surely
better than the baseline in some goal. Each goal has the statements that tokens/s have alone, so that all hold together.

What is taken for equal has been shown to be equal, up to the smallest difference that counts: `proof.least_gain`, or
what a proof of full length finds nine times of ten in the noise of this host, if that is more. Noise, drift and heat
are measured (`conditions`), not assumed.
"""

from autotune.confirm.cautions import cautions
from autotune.confirm.conditions import Drift, Heat, noise
from autotune.confirm.contender import Contender, contenders
from autotune.confirm.contest import USUAL_GAIN, Kind, Verdict
from autotune.confirm.front import Front
from autotune.confirm.order import BASELINE, looks, place
from autotune.confirm.proof import Proof, begin, begun, chosen, expected_s, finalists, nothing_else, verdict

__all__ = [
    "BASELINE",
    "USUAL_GAIN",
    "Contender",
    "Drift",
    "Front",
    "Heat",
    "Kind",
    "Proof",
    "Verdict",
    "begin",
    "begun",
    "cautions",
    "chosen",
    "contenders",
    "expected_s",
    "finalists",
    "looks",
    "noise",
    "nothing_else",
    "place",
    "verdict",
]
