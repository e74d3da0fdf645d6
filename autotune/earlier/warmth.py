"""What a study begins with: found, told, and kept in its folder."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.belief import Prior
from autotune.earlier import study as studies
from autotune.earlier.change import weight
from autotune.errors import SpecError, StorageError
from autotune.files import storage, write

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autotune.belief import Lesson
    from autotune.earlier.study import Study
    from autotune.ground import Ground
    from autotune.plan import Provenance
    from autotune.result import TrialResult

AUTO, OFF = "auto", "off"
MOST, MOST_FIRST = 3, 2
"""So many studies are used, and so many configurations of theirs are tried first."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """One that is used."""

    folder: str
    trials: int
    """Measured."""
    weight: float
    """What it counts, in parts of what it would if nothing had changed."""
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Warmth:
    """What a study begins with."""

    used: tuple[Earlier, ...] = ()
    left: tuple[str, ...] = ()
    """Folders that are not used, and why."""
    prior: Prior = field(default_factory=Prior)


@dataclass(frozen=True)
class _Told:
    """What one study says."""

    earlier: Earlier
    lesson: Lesson | None
    best: dict[str, Any] | None
    cap: float | None
    noise: float | None


def begin(folder: Path, ground: Ground, now: Provenance, results: Sequence[TrialResult]) -> Warmth:
    """What the study in a folder begins with, or with these results has begun with; it is kept.

    Raises `SpecError` for a folder that the study file names and that cannot be used, `StorageError`.
    """
    if results:
        return kept(folder)
    found, path = look(folder, ground, now), _path(folder)
    if found.used or found.left:
        write(path, json.dumps(asdict(found)))
    else:
        with storage(path):
            path.unlink(missing_ok=True)
    return found


def kept(folder: Path) -> Warmth:
    """What the study in a folder has begun with: nothing, where it does not say. Raises `StorageError`."""
    path = _path(folder)
    with storage(path):
        if not path.exists():
            return Warmth()
        content = path.read_bytes()
    try:
        said = json.loads(content)
        used = tuple(
            Earlier(str(one["folder"]), int(one["trials"]), float(one["weight"]), tuple(map(str, one["changes"])))
            for one in said["used"]
        )
        return Warmth(used, tuple(map(str, said["left"])), Prior.from_json(said["prior"]))
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path}: damaged ({type(error).__name__}: {error})") from error


def _path(folder: Path) -> Path:
    return folder / "warm.json"


def look(own: Path, ground: Ground, now: Provenance) -> Warmth:
    """Which earlier studies there are for the one in a folder, and what they say. Nothing is written.

    Raises `SpecError` for a folder that the study file names and that cannot be used.
    """
    written = ground.spec.search.warm_start
    if written == OFF:
        return Warmth()
    every: list[Study] = []
    told: list[_Told] = []
    left: list[str] = []
    for folder in _beside(own) if written == AUTO else _named(written):
        with _excused(folder, left, named=written != AUTO):
            every.append(studies.read(folder, ground, now))
    every = _once(every, left)
    every.sort(key=lambda one: one.results[-1].began_at, reverse=True)
    every.sort(key=lambda one: -weight(one.changes))
    left += [f"{one.folder.name}: {MOST} others count more" for one in every[MOST:]]
    for study in every[:MOST]:
        with _excused(study.folder, left, named=written != AUTO):
            told.append(_told(study, ground))
    return Warmth(tuple(one.earlier for one in told), tuple(left), _prior(told, ground))


def _once(every: Sequence[Study], left: list[str]) -> list[Study]:
    """Each study once, however often its folder was copied: what was measured once counts once."""
    found: dict[str, Study] = {}
    for one in sorted(every, key=lambda one: -len(one.results)):  # of a study and its copy the one that went on
        whole = found.setdefault(one.results[0].began_at, one)
        if whole is not one:
            left.append(f"{one.folder.name}: a copy of {whole.folder.name}")
    return list(found.values())


@contextmanager
def _excused(folder: Path, left: list[str], *, named: bool) -> Iterator[None]:
    """A folder that cannot be used is left out, unless it was asked for."""
    try:
        with storage(folder):
            yield
    except (SpecError, StorageError, LookupError, TypeError, ValueError) as error:
        # whatever stands in files of another version, or of another hand: it must not end a night
        known = error.message if isinstance(error, SpecError | StorageError) else f"damaged ({error})"
        said = known.removeprefix(f"{folder}: ")
        if named:
            raise SpecError(f'search.warm_start = "{folder}": {said}') from error
        left.append(f"{folder.name}: {said}")


def _beside(own: Path) -> list[Path]:
    """The other study folders beside one."""
    with storage(own.parent):
        there = [path.parent for path in own.parent.glob("*/study.json")]
    return sorted(folder for folder in there if folder.resolve() != own.resolve())


def _named(written: str | Sequence[str]) -> list[Path]:
    return list(map(Path, [written] if isinstance(written, str) else written))


def _told(study: Study, ground: Ground) -> _Told:
    known = studies.mind(study, ground)
    changes = [*study.changes, *([studies.unlawful(known)] if known is not None else [])]
    counts = weight(changes)
    return _Told(
        Earlier(str(study.folder), study.measured, counts, tuple(one.words for one in changes)),
        lesson=None if known is None else studies.lesson(study, ground, known, counts),
        best=studies.best(study, known),
        cap=known.cap if known is not None and study.same_slots and math.isfinite(known.cap) else None,
        noise=None if known is None else known.noise,
    )


def _prior(told: Sequence[_Told], ground: Ground) -> Prior:
    """What they say together; the one that counts most has the first word."""
    best = [one.best for one in told if one.best is not None and ground.space.allows(one.best)]
    first = [params for at, params in enumerate(best) if params not in best[:at] and params != ground.baseline]
    return Prior(
        lessons=tuple(one.lesson for one in told if one.lesson is not None),
        first=tuple(first[:MOST_FIRST]),
        cap=next((one.cap for one in told if one.cap is not None), None),
        noise=next((one.noise for one in told if one.noise is not None), None),
    )
