"""The search of a study, brought back from its folder alone: to be asked what it believes, on whatever machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune import ground as grounds
from autotune.belief import Question, evidence
from autotune.earlier import kept
from autotune.errors import SpecError, UsageError
from autotune.faults import quarantined
from autotune.ground import Ground
from autotune.sampler import INFORMED, InformedSampler, ordered
from autotune.space import canonical, classes, instances, own, parse_layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.belief import Believed, Evidence, Odds
    from autotune.inventory import Inventory
    from autotune.ollama.api import ServerFacts
    from autotune.result import TrialResult
    from autotune.space import Space
    from autotune.spec import StudySpec
    from autotune.store import Store

EXAMPLE = "'layout=0 | 1,num_parallel=8'"
MOST_DIGITS = 7
"""Of a number of slots: more than this no server has."""


@dataclass(frozen=True)
class Recalled:
    """The search as it was after its last trial."""

    space: Space
    search: InformedSampler
    trials: list[Evidence]

    def odds(self) -> Odds:
        """Which configurations could still win."""
        found = self.search.odds(self.trials)
        assert found is not None  # something was measured
        return found

    def believed(self, text: str) -> Believed:
        """What a configuration would do, as in 'layout=0 | 1,num_parallel=8'; it need not be one of the space.

        What is not said is as the space has it first. Raises `UsageError`.
        """
        (found,) = self.search.believed(self.trials, [_read(text, self.space)])
        return found


def silent(store: Store) -> str:
    """Why nothing is believed of a study; empty where something is. Raises `StorageError`."""
    return _silent(store.spec(), store.trials.results(), store.host())


def _silent(spec: StudySpec, results: Sequence[TrialResult], host: tuple[Inventory, ServerFacts] | None) -> str:
    if spec.search.sampler != INFORMED:
        return f'search.sampler = "{spec.search.sampler}": only "{INFORMED}" believes anything'
    if not any(result.measured for result in results):
        return "nothing was measured yet"
    if host is None:
        return "it is of a version that did not keep its host"
    known = Question.of(spec, host[0], host[1].model, host[1].version) is not None
    return "" if known else "the informed search has no law for what it asks, and another took its place"


def recall(store: Store) -> Recalled | None:
    """What a search believes; None where that is nothing, see `silent`. Raises `StorageError`."""
    spec, results, host = store.spec(), store.trials.results(), store.host()
    if host is None or _silent(spec, results, host):
        return None
    inventory, facts = host
    question = Question.of(spec, inventory, facts.model, facts.version)
    assert question is not None
    room, first = grounds.space(spec, inventory, facts), grounds.baseline(spec, inventory)
    ground = Ground(spec, inventory, facts, Path(), Path(), room, first)
    if lost := quarantined(store):
        ground = ground.without(lost)
    single = any(found.single for result in results for found in result.placements)
    space = ground.narrowed() if single else ground.space
    search = InformedSampler(space, question, seed=spec.study.seed, prior=kept(store.folder).prior)
    return Recalled(space, search, [evidence(result, question) for result in results])


# a configuration that somebody has written


def _read(text: str, space: Space) -> dict[str, Any]:
    told = _told(text)
    inventory = space.before or space.limits.inventory
    if "layout" not in told:
        raise UsageError(f"{text!r}: says no layout; a configuration is written as in {EXAMPLE}")
    try:
        layout = canonical(parse_layout(told.pop("layout"), inventory), inventory)
    except SpecError as error:
        raise UsageError(error.message) from error
    params: dict[str, Any] = {"layout": str(layout), "num_parallel": _value("num_parallel", told, space)}
    for of in classes(instances(params, inventory))[1:] if space.per_class else ():
        params[own(of)] = _value(own(of), told, space) if own(of) in told else params["num_parallel"]
    several = len(layout.instances) > 1
    unlike = len({member.slots for member in instances(params, inventory)}) > 1
    needs = {"policy": several, "weights": several and unlike}
    for name in space.choices:
        if name != "layout" and name.partition("@")[0] != "num_parallel" and needs.get(name, True):
            params[name] = _value(name, told, space)
    if told.keys() - params.keys():
        there = ", ".join(params)
        raise UsageError(
            f"{text!r}: {min(told.keys() - params.keys())} is no parameter of layout {layout}; there are {there}"
        )
    return params


def _told(text: str) -> dict[str, str]:
    told: dict[str, str] = {}
    for piece in text.split(","):
        name, said, value = map(str.strip, piece.partition("="))
        if not said:
            raise UsageError(f"{text!r}: {name!r} is no parameter with its value; write as in {EXAMPLE}")
        if name in told:
            raise UsageError(
                f"{text!r}: {name} is there twice: as {told[name]!r} and as {value!r}; allowed is one value"
            )
        told[name] = value
    return told


def _value(name: str, told: Mapping[str, str], space: Space) -> Any:
    """A number may be any, all else has to be in the space: of another value nothing is known."""
    known = {str(value): value for value in space.choices.get(name, ())}
    if name not in told:
        return next(iter(known.values()))
    text = told[name]
    if ordered(name) and text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS and int(text):
        return int(text)
    if text not in known:
        allowed = "a whole number above 0" if ordered(name) else " or ".join(known)
        raise UsageError(f"{name} = {text!r}: allowed is {allowed}")
    return known[text]
