"""A store that touches no disk: what is decided is decided by the same code, on the same values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.store import Shelf, Store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.plan import Plan, Provenance
    from autotune.records import RequestRecord
    from autotune.result import TrialResult

NOWHERE = Path("/dev/null")


class LightShelf(Shelf):
    """Results in a list. Requests are forgotten: nobody reads them in the night."""

    def __init__(self) -> None:
        super().__init__(NOWHERE)
        self._results: list[TrialResult] = []

    def write_plan(self, number: int, params: dict[str, Any], plan: Plan, provenance: Provenance | None = None) -> None:
        """A plan follows from its parameters."""

    def save(self, result: TrialResult, records: Sequence[Sequence[RequestRecord]]) -> None:  # noqa: ARG002
        """Keep a result."""
        self._results.append(result)

    def results(self) -> list[TrialResult]:
        """All of them, in order."""
        return list(self._results)


class LightStore(Store):
    """The study folder of a night that nobody will go on with."""

    def __init__(self) -> None:
        super().__init__(NOWHERE)
        self._trials = LightShelf()
        self._proofs: list[tuple[list[dict[str, Any]], LightShelf]] = []

    @property
    def trials(self) -> LightShelf:
        """The trials of the search."""
        return self._trials

    @property
    def events(self) -> Path:
        """Nobody reads the log either."""
        return NOWHERE

    def proof(self, number: int) -> LightShelf:
        """The runs of a proof."""
        return self._proofs[number][1]

    def begin_proof(self, candidates: Sequence[Mapping[str, Any]], asked: int | None = None) -> int:  # noqa: ARG002
        """The number of the proof of these candidates."""
        wanted = [dict(one) for one in candidates]
        if not self._proofs or self._proofs[-1][0] != wanted:
            self._proofs.append((wanted, LightShelf()))
        return len(self._proofs) - 1

    def proofs(self) -> int:
        """How many were begun."""
        return len(self._proofs)

    def candidates(self, number: int) -> list[dict[str, Any]]:
        """Of a proof, the baseline first."""
        return self._proofs[number][0]

    def asked(self, number: int) -> None:
        """Nobody changes the study file in the middle of a night."""
