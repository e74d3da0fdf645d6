"""One earlier study, as another on the same devices sees it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune import confirm
from autotune import ground as grounds
from autotune.belief import Chooser, Designer, Law, Mind, Question, evidence, learned, named
from autotune.belief.design import STRUCTURAL
from autotune.earlier import change
from autotune.earlier.change import Change
from autotune.errors import SpecError, StorageError
from autotune.standing import standings
from autotune.store import CONTENT, Store

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.belief import Lesson
    from autotune.ground import Ground
    from autotune.plan import Provenance
    from autotune.result import TrialResult
    from autotune.space import Space
    from autotune.spec import StudySpec

UNLAWFUL = 0.1
"""What the law leaves over of the output where the parameters of a study are worth half."""


@dataclass(frozen=True)
class Study:
    """One on the same devices, with the same model."""

    folder: Path
    spec: StudySpec
    version: str
    """Of its Ollama."""
    results: tuple[TrialResult, ...]
    winner: dict[str, Any] | None
    """Of its proof."""
    space: Space
    changes: tuple[Change, ...]
    """What is not as it was then."""
    same_slots: bool
    """Whether a server gives an instance the slots that it gave then."""
    others: frozenset[int]
    """Devices that are of the same kind, but others."""

    @property
    def measured(self) -> int:
        """Its trials with figures."""
        return sum(result.measured for result in self.results)


def _is_configuration(result: TrialResult) -> bool:
    slots = [value for name, value in result.params.items() if name.partition("@")[0] == "num_parallel"]
    return "layout" in result.params and bool(slots) and all(isinstance(one, int) and one > 0 for one in slots)


def read(folder: Path, ground: Ground, now: Provenance) -> Study:
    """The study in a folder, for one on this ground. Raises `StorageError`, and `SpecError` where it tells nothing."""
    store = Store(folder)
    spec, results = store.spec(), store.trials.results()
    first = next((result for result in results if result.measured), None)
    if first is None:
        raise SpecError("nothing was measured")
    if not all(map(_is_configuration, results)):
        raise StorageError(f"{folder}: damaged (a trial of no configuration)")
    then = store.trials.provenance(first.number)
    if why := _strange(store, spec, then, ground, now):
        raise SpecError(why)
    space, proof = grounds.space(spec, ground.inventory, ground.facts), confirm.verdict(store, spec.proof)
    proved = proof is not None and proof.kind is confirm.Kind.WINNER
    return Study(
        folder=folder,
        spec=spec,
        version=then.ollama,
        results=tuple(results),
        winner=proof.contenders[proof.recommended].params if proof is not None and proved else None,
        space=space,
        changes=(
            *change.of_host(then, now),
            *change.of_settings(spec, ground.spec),
            *change.of_space(_usual(space), _usual(ground.space)),
            *change.of_load(spec, ground.spec, other_prompts=_other("workload.prompts", store, spec, ground)),
            *change.of_age(results[-1].began_at, datetime.now(UTC)),
        ),
        same_slots=then.ollama == now.ollama and spec.workload.num_ctx == ground.spec.workload.num_ctx,
        others=frozenset(at for at, one in enumerate(then.devices) if one.id != now.devices[at].id),
    )


def _strange(store: Store, spec: StudySpec, then: Provenance, ground: Ground, now: Provenance) -> str:
    """Why it tells nothing; empty where it does."""
    played, here = spec.cluster.profile, ground.spec.cluster.profile
    if spec.cluster.simulated != ground.spec.cluster.simulated:
        return f"of a {'played' if spec.cluster.simulated else 'real'} host"
    if spec.cluster.simulated and _other("cluster.profile", store, spec, ground):
        return f"of another host: profile {played}; here it is {here if played != here else 'of other figures'}"
    if why := change.strange(then.devices, now.devices):
        return why
    if then.model_digest != now.model_digest:
        was, here = (f"{one.model}, digest {one.model_digest[:12]}" for one in (then, now))
        return f"of another model: {was}; here it is {here}"
    return ""


def _other(key: str, store: Store, spec: StudySpec, ground: Ground) -> bool:
    """Whether a file that both studies name says something else: by its path where nobody kept its content."""
    then = (store.header() or {}).get("ground", {}).get(CONTENT + key)
    if then is not None:
        return bool(then != ground.contents.get(CONTENT + key))
    was, here = (attrgetter(key)(one) for one in (spec, ground.spec))
    return bool(was != here)


def _usual(space: Space) -> dict[str, Any]:
    """Where each parameter stands that the law does not know by name: what it says is said of these values."""
    return {name: values[0] for name, values in space.choices.items() if name.partition("@")[0] not in STRUCTURAL}


def mind(study: Study, ground: Ground) -> Mind | None:
    """What is believed after its trials; None where the law says nothing of them.

    Raises `SpecError` and `StorageError` for trials that are none of these devices.
    """
    question = Question.of(study.spec, ground.inventory, ground.facts.model, study.version)
    if question is None:
        return None
    found = Mind(question, Designer.of(study.space, len(question.kinds)))
    try:
        found.learn([evidence(result, question) for result in study.results])
    except np.linalg.LinAlgError as error:  # figures that no host has
        raise StorageError(f"{study.folder}: damaged (no law fits its figures: {error})") from error
    return found if found.views else None


def unlawful(known: Mind) -> Change:
    """Where the law leaves much over its parameters are worth less."""
    hypothesis = known.likeliest.hypothesis
    return Change(f"there {hypothesis.name}", hypothesis.spread / UNLAWFUL)


def lesson(study: Study, ground: Ground, known: Mind, weight: float) -> Lesson | None:
    """What it teaches the new study's law; None where that has none, or there is nothing to tell."""
    question = Question.of(ground.spec, ground.inventory, ground.facts.model, ground.facts.version)
    if question is None:
        return None
    there = set(named(Law(question, Designer.of(ground.space, len(question.kinds)))))
    usual = _usual(ground.space)
    turned = {name for name, value in _usual(study.space).items() if usual.get(name) != value}
    names = named(known.law, turned, study.others)
    same = change.weight(study.changes)  # that the law does not hold there is no change of the host
    return learned(known, [name if name in there else "" for name in names], weight**-0.5, same / (1 + same))


def best(study: Study, known: Mind | None) -> dict[str, Any] | None:
    """What was best there: proved to be, or else believed, or else measured."""
    if study.winner is not None:
        return study.winner
    if known is not None:
        found = Chooser(known, [study.results[0].params]).recommended()
        return None if found is None else dict(found)
    first = standings(study.results)[0]
    return first.params if first.feasible else None
