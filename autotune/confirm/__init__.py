"""The proof of a winner: the best of the search and the baseline run again, and what that says.

A block is one run of every candidate, each with everything started anew; blocks turn the order around (ABBA), so that
what drifts through the night falls on all alike. The block is the unit of every statement: nothing of the search is
used, and no request is taken for a measurement of its own.

A difference in tokens/s is the logarithm of a ratio within a block, a limit is the relative violation of each run; both
get Student intervals over the blocks. All statements of a proof hold together with `proof.confidence`: its error is
shared out evenly (Bonferroni) over the looks, at each of which the proof could end, and over all pairs of candidates
and all limits of each. Bonferroni's bound needs no independence, and what is being compared with what may be chosen
after the fact.
"""

from autotune.confirm.contest import BASELINE, Contender, Kind, Verdict, contenders
from autotune.confirm.order import looks, place
from autotune.confirm.proof import Proof, begun, chosen, expected_s, finalists, verdict

__all__ = [
    "BASELINE",
    "Contender",
    "Kind",
    "Proof",
    "Verdict",
    "begun",
    "chosen",
    "contenders",
    "expected_s",
    "finalists",
    "looks",
    "place",
    "verdict",
]
