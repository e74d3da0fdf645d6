"""In which order the runs of a proof come, and when it is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.spec import Proof

BASELINE = 0
"""Its place among the candidates."""


def looks(rules: Proof) -> tuple[int, ...]:
    """After how many blocks a proof is looked at, and may end.

    The further it is, the longer until the next. Between the first and the last they are even: a drift cancels over two
    blocks, not over one.
    """
    found = [rules.pairs]
    while found[-1] < rules.pairs_max:
        later = found[-1] + 2 * -(-found[-1] // 8)
        found.append(min(later + later % 2, rules.pairs_max))
    return tuple(found)


def place(number: int, candidates: int) -> tuple[int, int]:
    """Block and candidate of a run, both from 0.

    Odd blocks go backwards, and every second block begins with another candidate: each pair of blocks is the same the
    other way round, so that a drift which is the same in all blocks cancels.
    """
    block, turn = divmod(number, candidates)
    at = turn if block % 2 == 0 else candidates - 1 - turn
    return block, (at + block // 2) % candidates
