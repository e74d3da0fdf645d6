"""One night after the other, each with a seed of its own, and each held against the truth."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from autotune.errors import Interrupted, UsageError
from autotune.events import Events
from autotune.night import budget, provenance, way, whole
from autotune.rehearsal import worth
from autotune.rehearsal.bench import bench
from autotune.rehearsal.host import Host, host
from autotune.rehearsal.light import LightStore
from autotune.rehearsal.profile import unlike
from autotune.rehearsal.summary import Rehearsed
from autotune.rehearsal.truth import Truth, truth
from autotune.sampler import Sampler
from autotune.simulator.clock import run_virtual
from autotune.space import key
from autotune.spec import OUTPUT, PER_JOULE
from autotune.study import Clock, Night

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from autotune.belief import Prior
    from autotune.rehearsal.summary import Told
    from autotune.rehearsal.worth import Slept
    from autotune.spec import StudySpec
    from autotune.store import Store

    Progress = Callable[[str, int, int], None]
    Work = Callable[[Callable[..., Any], Iterable[Any]], Iterator[Any]]

MOST_KNOWN = 2000
"""Of a larger space the truth is only told of what a night has tried."""

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""What numpy's libraries read when they are loaded."""

BEGIN = datetime(2026, 1, 15, 22)  # noqa: DTZ001 - ten in the evening wherever this runs
"""When a night begins whose end is a time of day."""


def simulate(
    spec: StudySpec, nights: int, seed: int = 0, processes: int = 1, progress: Progress | None = None
) -> Rehearsed:
    """So many nights of a study on a played host (see `host.played`), and what they are worth in truth.

    Night n has the seed `seed` + n: of its questions, arrivals, proposals, and of all noise. Ctrl-C ends it with the
    nights so far. Raises `UsageError` for what cannot be rehearsed, and `AutotuneError` for what no night could begin
    with; `Interrupted` where not one night was over.
    """
    _check(spec, nights, processes)
    began, stage = time.monotonic(), run_virtual(host(spec))
    say = progress or (lambda *_: None)
    space = stage.ground.space
    known: dict[str, Truth] = {}
    told: list[Told] = []
    whole_space = space.size <= MOST_KNOWN
    try:
        with _workers(spec, processes) as work:
            if whole_space:
                _learn(known, work, [stage.ground.baseline, *space.configurations()], say)
            for slept in work(_night, range(seed, seed + nights)):
                if not whole_space:
                    _learn(known, work, [stage.ground.baseline, *slept.tried])
                told.append(worth.told(slept, known, stage.ground.baseline, whole_space=whole_space))
                say("nights", len(told), nights)
    except KeyboardInterrupt:
        if not told:
            raise Interrupted("interrupted before the first night was over") from None
    return Rehearsed(
        study=spec.study.name,
        profile=stage.profile.name,
        asked=nights,
        configurations=space.size,
        whole_space=whole_space,
        nights=tuple(told),
        took_s=time.monotonic() - began,
        cautions=tuple(_cautions(stage, told, nights)),
    )


def _cautions(stage: Host, told: Sequence[Told], nights: int) -> Iterator[str]:
    if len(told) < nights:
        yield f"broken off after {len(told)} of {nights} nights"
    rules = stage.ground.spec.proof
    if stage.ground.spec.objective.goals and rules.finalists:
        yield f"a night proves {rules.finalists} points of a front at most: proof.finalists"
    if caution := unlike(stage.profile.tps_error):
        off = f"{stage.profile.tps_error:.0%} off in TPS"
        yield f"the study to which the profile was fitted, played again on it, is {off}: {caution}"
    if not stage.profile.host.life_jitter:
        yield "the profile has no life_jitter: every start is as fast as the last, which no real host is"
    asked = stage.ground.spec.workload
    if asked.shared_prefix or asked.conversation or asked.format == "mooncake":
        yield "a played host has no prompt cache: it reads whole what a real one has read before"


def _check(spec: StudySpec, nights: int, processes: int) -> None:
    for name, value in (("nights", nights), ("processes", processes)):
        if value < 1:
            raise UsageError(f"{name} = {value}: allowed is a whole number above 0")
    if spec.cluster.driver != "simulated":
        raise UsageError('cluster.driver = "process": name the host to play')
    asked = f"objective.metric = {json.dumps(spec.objective.metric)}"
    if spec.objective.metric == "capacity":
        raise UsageError(f'{asked}: only nights for "{OUTPUT}", alone or beside other goals, can be rehearsed')
    if PER_JOULE in spec.objective.metric:
        raise UsageError(f'{asked}: no "{PER_JOULE}" can be rehearsed, for no played host tells its energy')


def _learn(
    known: dict[str, Truth], work: Work, every: Iterable[Mapping[str, Any]], say: Progress | None = None
) -> None:
    new = list({key(params): dict(params) for params in every if key(params) not in known}.items())
    for number, ((name, _), found) in enumerate(zip(new, work(_truth, [params for _, params in new]), strict=True), 1):
        known[name] = found
        if say is not None:
            say("truth", number, len(new))


@contextmanager
def _workers(spec: StudySpec, processes: int) -> Iterator[Work]:
    """What does the work: this process, or so many others. The results come in order."""
    if processes == 1:
        _begin(spec)
        yield map
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin_worker, (spec,))
    with _one_thread():
        try:
            yield pool.map
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Inside, a process that begins has one thread for its matrices. They are small: more threads only wait for each
    other, and for those of the other processes."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update({name: before[name] or "1" for name in THREADS})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_HOSTS: dict[str, Host] = {}
"""Of the study that this process plays: what it stands on is the same in every night."""


def _begin(spec: StudySpec) -> None:
    _HOSTS["played"] = run_virtual(host(spec))


def _begin_worker(spec: StudySpec) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's
    _begin(spec)


def _truth(params: Mapping[str, Any]) -> Truth:
    return truth(_HOSTS["played"], params)


def _night(seed: int) -> Slept:
    return run_virtual(night(_HOSTS["played"], seed))


async def night(playing: Host, seed: int, store: Store | None = None, prior: Prior | None = None) -> Slept:
    """A whole night, search and proof, as `night.run` has it between its brackets; kept in `store`, where one is given.

    It is a warm one with the `prior` of earlier studies; none are looked for.
    Raises `BaselineFailed` where the baseline does not run.
    """
    asked = playing.ground.spec
    spec = asked.model_copy(update={"study": asked.study.model_copy(update={"seed": seed})})
    ground, now = replace(playing.ground, spec=spec), asyncio.get_running_loop().time
    kept = LightStore() if store is None else store
    path = None if store is None else store.optuna
    sampler = Sampler(path, spec.study.name, seed, ground.space, ground.baseline, way(ground, prior))
    sampler.open([])
    begin = BEGIN.astimezone()
    clock = Clock.start(budget(spec), wall=lambda: begin + timedelta(seconds=now()))
    events = Events(kept.events)
    judged = bench(playing, spec, events, f"night {seed}")
    judged.provenance = provenance(ground)
    ending = await whole(Night(judged, kept, sampler, events, clock, ground.baseline, ground.plan, ground.narrowed, []))
    return worth.slept(seed, ending, now())
