"""A whole night between its brackets: lock, study folder, processes, cluster."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune import __version__, claims, confirm, earlier, faults, hosts
from autotune import ground as grounds
from autotune import selftest as selftests
from autotune.belief import Prior, Question
from autotune.benchmark import pacer
from autotune.benchmark.carrier import Target
from autotune.benchmark.crew import Crew
from autotune.benchmark.dialect import Ask
from autotune.benchmark.spread import Spread
from autotune.benchmark.workload import Lengths, Prefixes, PromptFile, make
from autotune.cluster.children import Children
from autotune.cluster.lock import Lock, holder
from autotune.errors import AutotuneError, ClusterError, Interrupted, SpecError, StorageError
from autotune.events import Events, by_night, read
from autotune.inventory import remembered
from autotune.ollama.env import LIBRARIES
from autotune.plan import Provenance, ProvenDevice
from autotune.sampler import Sampler, Way
from autotune.signals import handled
from autotune.store import Store
from autotune.study import Clock, Night
from autotune.trial import Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from contextlib import AbstractAsyncContextManager

    from autotune.benchmark.flight import Client
    from autotune.benchmark.workload import Workload
    from autotune.confirm import Verdict
    from autotune.earlier import Warmth
    from autotune.ground import Ground
    from autotune.inventory import Inventory
    from autotune.plan import Plan
    from autotune.result import TrialResult
    from autotune.spec import Budget, StudySpec
    from autotune.spec.workload import Lengths as WrittenLengths


LEAST_STREAMS = 64
"""Of the self-test before a study."""

_SHOW_CURSOR = b"\x1b[?25h\n"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a night ended."""

    why: str
    results: tuple[TrialResult, ...]
    error: AutotuneError | None = None
    """What broke it off, if anything did."""
    proof: Verdict | None = None
    unproved: str = ""
    """Why there is no proof, where there was something to prove."""


async def run(spec: StudySpec, source: str, folder: Path, listener: Callable[[dict[str, Any]], None]) -> Ending:
    """Begin a study, or go on with it, to the end of its budget or to the first signal.

    `source` is the study file's text, `folder` the study's own. Raises `AutotuneError` for all that can be known before
    the first trial; what breaks the night off later is in the ending, beside all that was found until then.
    """
    store = Store(folder)
    devices = _devices(spec, store)
    with Lock(claims.locks(spec, devices[0], folder)) as lock:
        store.open(spec, source)
        events = Events(store.events, listener)
        results = store.trials.results()
        async with Children(folder) as children:
            with _signals(children):
                for process in await children.sweep():
                    events.show({"what": "swept", "process": process})
                return await _night(spec, devices, store, children, results, events, lock)


def _devices(spec: StudySpec, store: Store) -> tuple[Inventory, Collection[str]]:
    """The devices of a study, and of these the ids of those that it has lost, which may still be gone."""
    before = faults.devices_before(store)
    if before is None or not store.earlier():  # a study that has measured nothing begins as new
        return hosts.inventory(spec), ()
    lost = faults.quarantined(store)
    return remembered(before, lost), lost


async def _night(
    spec: StudySpec,
    devices: tuple[Inventory, Collection[str]],
    store: Store,
    children: Children,
    results: list[TrialResult],
    events: Events,
    lock: Lock,
) -> Ending:
    found, lost = devices
    try:
        hosts.command(spec)
        claims.check(spec, found.without(lost))
        asked = workload(spec)
        ground = await grounds.ground(spec, found, children, store.run, lost)
        lock.extend(claims.later_locks(spec, ground.most_instances))
        _same_ground(store, ground)
        store.write_host(found, ground.facts)
        warmth = earlier.begin(store.folder, ground, provenance(ground), results)
        asking = way(ground, warmth.prior)
        sampler = Sampler(store.optuna, spec.study.name, spec.study.seed, ground.space, ground.baseline, asking)
        sampler.open(results)
        events.show({"what": "ground", "ground": ground})
        events.show({"what": "warm start", "warmth": warmth})
        processes = await _selftest(spec, store, events)
        async with grounds.cluster(spec, children, store.run) as cluster:
            bench = Bench(
                spec,
                found,
                cluster,
                events,
                asked,
                lambda plan, processes: client(spec, plan, processes),
                store.trials.keep_logs,
            )
            bench.provenance, bench.processes = provenance(ground), processes
            _calibration(bench, store)
            clock = Clock.start(budget(spec), elapsed(read(store.events)))
            night = Night(
                bench,
                store,
                sampler,
                events,
                clock,
                ground.baseline,
                ground.plan,
                ground.narrowed,
                results,
                without=ground.without,
            )
            with events.span("night"):
                ending = await whole(night)
    except asyncio.CancelledError:
        _uncancel()
        return _cut_short(spec, store, results, "interrupted", Interrupted("interrupted"))
    except AutotuneError as error:
        return _broken(spec, store, results, error)
    except OSError as error:  # a folder that is a file, a right that is missing: whatever the system says
        said = f"{error.filename or store.folder}: {error.strerror or error}"
        return _broken(spec, store, results, StorageError(said))
    return ending


def way(ground: Ground, prior: Prior | None = None) -> Way:
    """How a study is searched; `prior` is what earlier ones say."""
    question = Question.of(ground.spec, ground.inventory, ground.facts.model, ground.facts.version)
    return Way(
        ground.spec.search.sampler, question, ground.rule_of_thumb(), ground.spec.objective.goals, prior or Prior()
    )


def budget(spec: StudySpec) -> Budget:
    """Without a proof the search has all the time."""
    return spec.budget if spec.proof.finalists else spec.budget.model_copy(update={"proof_share": 0.0})


async def whole(night: Night) -> Ending:
    """A proof that was begun goes first: the time that was kept for it is not the search's. Then search and proof."""
    spec = night.bench.spec
    runnable, ranked = night.runnable(night.results), night.sampler.ranked()
    begun = confirm.begun(night.store, spec, runnable, night.clock.left_s(), ranked)
    proof = await _proof(night, begun) if begun else ""
    while True:
        lost = night.lost
        why = await night.run()
        proof = proof if night.lost == lost else ""  # what it has proved ran on a device that is no more
        results = tuple(night.results)
        candidates, unproved = confirm.chosen(
            night.store, spec, night.runnable(results), night.clock.left_s(), night.sampler.ranked()
        )
        if not candidates:
            return Ending(why, results, proof=confirm.verdict(night.store, spec.proof), unproved=unproved)
        if candidates != begun or not proof:
            proof = await _proof(night, candidates)
        if proof:
            return Ending(f"{why}; the proof: {proof}", results, proof=confirm.verdict(night.store, spec.proof))


async def _proof(night: Night, candidates: list[dict[str, Any]]) -> str:
    """The candidates run against each other, for as long as it takes or time is left; says why it ended.

    Nothing where a device has failed in it and is left out from now on: then the search goes on for what is left.
    """
    number = confirm.begin(night.store, candidates, night.bench.spec.proof.finalists)
    proof = confirm.Proof(
        bench=night.bench,
        number=number,
        shelf=night.store.proof(number),
        events=night.events,
        clock=night.clock,
        plan=night.plan,
        candidates=candidates,
        run_s=confirm.expected_s(night.bench.spec, night.results),
    )
    try:
        return await proof.run()
    except ClusterError as error:
        if not error.device:
            raise
        await night.lose(error)
        return ""


def _broken(spec: StudySpec, store: Store, results: list[TrialResult], error: AutotuneError) -> Ending:
    if not results:
        raise error
    return _cut_short(spec, store, results, "broken off", error)


def _cut_short(spec: StudySpec, store: Store, results: list[TrialResult], why: str, error: AutotuneError) -> Ending:
    """With what the proof had said by then."""
    proof = None
    with suppress(StorageError):  # the first error is the one that counts
        proof = confirm.verdict(store, spec.proof)
    return Ending(why, tuple(results), error, proof)


async def look(spec: StudySpec, folder: Path) -> tuple[Ground, Warmth]:
    """What the study of a folder would stand on and begin with, without beginning it.

    Raises `AutotuneError`, also where it could not go on, and `Interrupted` at a signal: then nothing is left of it.
    """
    store = Store(folder)
    store.goes_on(spec)
    results = store.earlier()
    found, lost = _devices(spec, store)
    first = claims.port_locks([spec.cluster.first_port])  # a server is asked there, and a night may be about to
    try:
        with Lock(first), tempfile.TemporaryDirectory(prefix="autotune-") as run:
            async with Children(Path(run)) as children:
                with _signals(children):
                    ground = await grounds.ground(spec, found, children, Path(run), lost)
    except asyncio.CancelledError:
        _uncancel()
        raise Interrupted("interrupted") from None
    ground = ground.without(lost) if lost else ground
    return ground, earlier.kept(folder) if results else earlier.look(folder, ground, provenance(ground))


async def _selftest(spec: StudySpec, store: Store, events: Events) -> int:
    """Measure and keep how exact the client is here; in how many processes it was. Some seconds.

    Where a host is played, a test that this machine has kept will do.
    """
    # with few streams it would be the cost of waiting, not that of tokens, which says how much the client can take
    streams = max([LEAST_STREAMS, *(level.users or 0 for level in spec.workload.levels)])
    found = selftests.kept(streams) if spec.cluster.simulated else None
    if found is None:
        found = await selftests.selftest(streams)
        if spec.cluster.simulated:
            with suppress(StorageError):  # it is kept to save the next one some seconds
                selftests.keep([found])
    store.write_selftest(found)
    events.show({"what": "selftest", "found": found})
    return found.processes


def _calibration(bench: Bench, store: Store) -> None:
    """The length of a token is measured once and kept: all trials of a study get the same prompts."""
    known = (store.header() or {}).get("chars_per_token")
    if known is None:
        bench.remember = lambda ratio: store.write_header({**(store.header() or {}), "chars_per_token": ratio})
    else:
        bench.workload = bench.workload.recalibrated(known)


def client(spec: StudySpec, plan: Plan, processes: int = 1) -> AbstractAsyncContextManager[Client]:
    """The client of a load on a plan: through nginx, or to the instances themselves.

    It runs in processes of its own: what this one does meanwhile, for the screen or for Optuna, delays no request.
    """
    ask = Ask(
        spec.workload.endpoint,
        plan.model,
        options={"temperature": spec.workload.temperature, "seed": spec.study.seed},
        think=spec.workload.think,
        raw=spec.workload.raw,
        timeout_s=spec.workload.request_timeout_s / spec.cluster.time_scale,
    )
    if plan.balancer.kind == "nginx":
        return Crew(Target(plan.url, ask), processes)
    urls = {instance.address: instance.url for instance in plan.instances}
    return Spread(
        Crew(Target("", ask, urls=urls), processes),
        urls,
        plan.balancer.policy,
        spec.study.seed,
        weights=plan.balancer.weights,
    )


def workload(spec: StudySpec) -> Workload:
    """What is asked. Raises `SpecError` for a file of prompts that cannot be used, or that has no times to replay."""
    written = spec.workload
    prefix, talk = written.shared_prefix, written.conversation
    made = make(
        spec.study.seed,
        _lengths(written.num_predict),
        None if written.input_tokens is None else _lengths(written.input_tokens),
        None if written.prompts is None else PromptFile(written.prompts, written.format, written.num_ctx),
        correlation=written.correlation,
        prefixes=None if prefix is None else Prefixes(prefix.prefixes, prefix.tokens),
        turns=1 if talk is None else talk.turns,
    )
    for level in written.levels:
        pacer.make(level, spec.study.seed, made.stamps)
    return made


def _lengths(written: WrittenLengths) -> Lengths:
    return Lengths(written.kind, written.mean, written.spread)


def running(store: Store) -> str:
    """The process of the night that runs on a study at this moment; empty where none does."""
    return holder(claims.lock_of(store.folder))


def now(store: Store) -> str:
    """The same for people."""
    process = running(store)
    if not process:
        return "no night runs on it now"
    nights = by_night(read(store.events))
    what = nights[-1][-1]["what"] if nights else "it begins"
    return f"a night runs on it now ({process}; last: {what})"


def spent(path: Path) -> dict[str, float]:
    """Seconds of the last night in an event log: `night`, `measured` (windows), `own` (the longest pause of our own
    between a load and the next start)."""
    nights = by_night(read(path))
    if not nights:
        return {"night": 0.0, "measured": 0.0, "own": 0.0}
    events = nights[-1]
    measured = sum(event["seconds"] for event in events if event["what"] == "window")
    turns = [event for event in events if event["what"] in {"loaded", "start begins"}]
    pauses = [
        then["t"] - now["t"]
        for now, then in pairwise(turns)
        if (now["what"], then["what"]) == ("loaded", "start begins")
    ]
    return {"night": events[-1]["t"] - events[0]["t"], "measured": measured, "own": max(pauses, default=0.0)}


def elapsed(events: list[dict[str, Any]]) -> float:
    """Seconds that all nights of an event log lasted, each to its last event."""
    return float(sum(night[-1]["t"] - night[0]["t"] for night in by_night(events)))


def _same_ground(store: Store, ground: Ground) -> None:
    """Trials of another host, another Ollama or another model do not compare with those to come."""
    header = store.header() or {}
    now, known = ground.measured_on(), header.get("ground", {})
    if changed := [f"{name}: was {was}, is {now[name]}" for name, was in known.items() if now.get(name, was) != was]:
        raise SpecError(
            f"{store.folder} holds trials of another ground: {'; '.join(changed)}. Give the study another name"
        )
    if known.keys() != now.keys():  # nothing yet, or less was looked at when it began
        store.write_header({**header, "ground": {**now, **known}})


def provenance(ground: Ground) -> Provenance:
    """What runs where."""
    command, extra = hosts.command(ground.spec)
    devices = ground.inventory.devices
    return Provenance(
        autotune=__version__,
        python=platform.python_version(),
        host=platform.node(),
        kernel=platform.release(),
        ollama=ground.facts.version,
        command=tuple(command),
        libraries=os.environ.get(LIBRARIES, ""),
        environment=extra,
        models_dir=str(ground.models),
        model=ground.facts.model.name,
        model_digest=ground.facts.model.digest,
        driver=ground.inventory.driver,
        devices=tuple(ProvenDevice(one.index, one.id, one.name, one.memory_bytes) for one in devices),
    )


@contextmanager
def _signals(children: Children) -> Iterator[None]:
    """The first signal abandons what is in flight and puts everything away; the second ends all at once."""
    task = asyncio.current_task()
    assert task is not None
    seen = False

    def on_signal() -> None:
        nonlocal seen
        if seen:
            children.kill_all()
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), _SHOW_CURSOR)
            os._exit(130)
        seen = True
        task.cancel()

    with handled(on_signal):
        yield


def _uncancel() -> None:
    """The signal has been heard: from here on everything is put away in peace."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
