"""The commands: each takes what was written behind it and returns its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.errors import ClusterError, Interrupted, NothingFeasible, StorageError, UsageError

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

    from autotune.belief import Odds
    from autotune.bench import Capacity, Found
    from autotune.bench.asked import Job
    from autotune.recall import Recalled
    from autotune.spec import StudySpec
    from autotune.store import Store

_LOG_COLUMNS = 140


def _load(chosen: argparse.Namespace) -> StudySpec:
    from autotune.spec import load

    spec = load(chosen.study)
    if chosen.balancer is None:
        return spec
    return spec.model_copy(update={"cluster": spec.cluster.model_copy(update={"balancer": chosen.balancer})})


def _folder(chosen: argparse.Namespace, spec: StudySpec) -> Path:
    """Where the results of a study file land."""
    whole: Path = (chosen.study.parent / spec.study.name).resolve()
    return whole


def run(chosen: argparse.Namespace) -> int:
    """Run a study; 0, or 1 when nothing is feasible."""
    from autotune import console, night, report
    from autotune.earlier import kept
    from autotune.faults import Losses
    from autotune.store import Store

    spec, source = _load(chosen), chosen.study.read_text(encoding="utf-8-sig")
    folder = _folder(chosen, spec)
    screen = _screen(plain=chosen.plain)
    store = Store(folder)
    with console.Night(spec, screen, store.earlier()) as view:
        ending = asyncio.run(night.run(spec, source, folder, view))
    with contextlib.suppress(OSError, SystemExit):  # the terminal, or the pipe, may be gone by now
        losses = Losses.of(store, ending.results)
        found = report.findings(
            spec, ending.results, ending.proof, ending.unproved, store.selftest(), losses, kept(folder)
        )
        console.morning(screen, found, night.spent(folder / "events.jsonl"), ending, chosen.study, source)
    if ending.error is not None:
        raise ending.error
    return 0 if any(result.score.feasible for result in ending.results) else NothingFeasible.exit_code


def _store(chosen: argparse.Namespace) -> Store:
    """The study folder that is meant. Raises `StorageError` when nothing is in it."""
    from autotune.spec import load
    from autotune.store import Store

    is_folder = chosen.study.is_dir()
    store = Store((chosen.study if is_folder else chosen.study.parent / load(chosen.study).study.name).resolve())
    store.spec()
    return store


def _known(store: Store) -> Recalled | None:
    """Who knows what could still win; nobody while a night is measuring: to ask may take a minute of this host."""
    from autotune import night

    if store.spec().objective.goals or night.running(store):  # of several goals no single one wins
        return None
    from autotune.recall import recall

    return recall(store)


def _odds(known: Recalled) -> Odds:
    """What could still win, with a word meanwhile to who waits at a terminal, wherever the output goes."""
    from autotune.console import Screen

    with Screen(stderr=True).status("recalling what the search believed"):
        return known.odds()


def status(chosen: argparse.Namespace) -> int:
    """How a study stands."""
    from autotune import console, night, report

    store = _store(chosen)
    known, found = _known(store), report.read(store)
    odds = None if known is None else partial(_odds, known)
    console.status(_screen(), found, store.folder, night.now(store), odds)
    return 0


def report(chosen: argparse.Namespace) -> int:
    """All that a study has found."""
    from autotune import report

    store = _store(chosen)
    known, found = _known(store), report.read(store)
    if known is not None:
        found = replace(found, odds=_odds(known))
    source = str((store.header() or {}).get("file", ""))
    print(report.markdown(found, source, store.trials.provenance(0) if found.results else None), end="")
    return 0


def forecast(chosen: argparse.Namespace) -> int:
    """What the search of a study believes: of what could still win, or of what is asked for."""
    from autotune import console
    from autotune.recall import recall, silent
    from autotune.report import expected

    store = _store(chosen)
    known = recall(store)
    if known is None:
        raise UsageError(f"{store.folder}: nothing is believed: {silent(store)}")
    if not chosen.configuration:
        console.forecast(_screen(), _odds(known))
    for text in chosen.configuration:
        found = known.believed(text)
        print(expected(found))
        if not known.space.allows(found.params):
            print("  it is no configuration of this study's space")
    return 0


def export(chosen: argparse.Namespace) -> int:
    """The winner as files to install."""
    from autotune import export

    written = export.write(_store(chosen), chosen.to, trial=chosen.trial, listen=chosen.listen, user=chosen.user)
    print("\n".join(written))
    return 0


def _screen(*, plain: bool = False) -> Console:
    """The terminal; where there is none, lines that are long enough for a table."""
    from autotune.console import Screen

    screen = Screen(force_terminal=False if plain else None)
    return screen if screen.is_terminal else Screen(force_terminal=False, width=_LOG_COLUMNS)


def plan(chosen: argparse.Namespace) -> int:
    """What a study would run."""
    from autotune import console, night

    spec = _load(chosen)
    ground, warmth = asyncio.run(night.look(spec, _folder(chosen, spec)))
    console.outlook(_screen(), ground, warmth)
    return 0


def doctor(chosen: argparse.Namespace) -> int:
    """What a night needs on this host; 0, or 3 when something is missing."""
    from autotune import doctor

    spec = _load(chosen) if chosen.study else None
    folder = chosen.study.parent / spec.study.name if spec else Path()
    checks = doctor.examine(spec, folder.resolve())
    found = doctor.content(checks)
    if chosen.json:
        print(json.dumps(found, indent=1))
    else:
        from autotune import console

        console.checkup(_screen(), checks)
    return 0 if found["ok"] else ClusterError.exit_code


def bench(chosen: argparse.Namespace) -> int:
    """Load an endpoint; what was measured is kept whatever happens then."""
    from autotune import bench, console
    from autotune.benchmark.worker import run

    job = bench.job(chosen)
    found: list[bench.Found] = []
    complete = False
    try:
        with console.Bench(_screen(), job.bounds) as view:

            def done(one: bench.Found) -> None:
                found.append(one)
                if one.valid:
                    view.level(one)

            run(bench.load(job, view.progress, done))
        complete = True
    finally:
        if found:
            _kept(chosen, job, found, complete=complete)
    return 0


def _kept(chosen: argparse.Namespace, job: Job, found: list[Found], *, complete: bool) -> None:
    """Write every file that was asked for, also when another cannot be."""
    from autotune import bench

    with contextlib.ExitStack() as each:
        if chosen.parquet is not None:
            each.callback(bench.save_parquet, chosen.parquet, found)
        if chosen.csv is not None:
            each.callback(bench.save_csv, chosen.csv, found)
        if chosen.json is not None:
            each.callback(bench.save, chosen.json, job, found, complete=complete)


def capacity(chosen: argparse.Namespace) -> int:
    """The largest load at which the limits hold; 1 when they hold at none."""
    from autotune import bench, console
    from autotune.benchmark.worker import run

    job, search = bench.job(chosen), bench.search(chosen)
    steps: list[bench.Step] = []
    answer: bench.Capacity | None = None
    try:
        with console.Steps(_screen()) as view:

            def done(step: bench.Step) -> None:
                steps.append(step)
                view.step(step)

            try:
                answer = run(bench.capacity(job, search, view.progress, done))
            finally:
                found = answer or bench.Capacity.of(search, steps, "it was broken off")
                if steps:
                    view.answer(found)
    finally:
        with contextlib.ExitStack() as each:
            if chosen.plot is not None and steps:
                each.callback(_draw, chosen.plot, found)
            if chosen.json is not None and steps:
                each.callback(bench.save_capacity, chosen.json, job, found)
    return 0 if answer.low else NothingFeasible.exit_code


def _draw(path: Path, found: Capacity) -> None:
    from autotune.analysis import capacity_curve
    from autotune.files import write

    high = found.high if math.isfinite(found.high) else None
    write(path, capacity_curve(found.rows(), found.unit, found.low, high).to_html())


def selftest(chosen: argparse.Namespace) -> int:
    """How exact the client is here; 3 when it is too slow even for this."""
    from autotune import console
    from autotune.bench.asked import LIST, check_target, numbers
    from autotune.selftest import keep, selftest

    check_target("json", chosen.json)
    found = []
    screen = _screen()
    for streams in numbers("--concurrency", chosen.concurrency, int, LIST):
        with screen.status(f"{streams} streams"):
            found.append(asyncio.run(selftest(streams)))
    screen.print(console.selftests(found))
    try:
        keep(found)
    except StorageError as error:
        screen.print(f"caution: not kept for later: {error.message}", markup=False, highlight=False, soft_wrap=True)
    if chosen.json is not None:
        keep(found, chosen.json)
    return ClusterError.exit_code if any(one.faults for one in found) else 0


def compare(chosen: argparse.Namespace) -> int:
    """Two results of `bench`."""
    from autotune import bench, console
    from autotune.bench.files import unlike

    kept = bench.read(chosen.before), bench.read(chosen.after)
    before, after = (one.levels for one in kept)
    if not before.keys() & after.keys():
        has = f"{', '.join(before) or 'none'}; {chosen.after}: {', '.join(after) or 'none'}"
        raise UsageError(f"no load is in both files: {chosen.before}: {has}")
    screen = _screen()

    def say(line: str) -> None:
        screen.print(line, markup=False, highlight=False, soft_wrap=True)

    screen.print(console.comparison(before, after))
    for label in before.keys() ^ after.keys():
        say(f"{label}: only in {chosen.before if label in before else chosen.after}")
    console.contrasted(screen, before, after)
    for path, one in dict(zip((chosen.before, chosen.after), kept, strict=True)).items():
        for doubt in one.doubts:
            say(f"caution: {path}: {doubt}")
    if apart := unlike(*kept):
        say(f"caution: these are not the same loads: {'; '.join(apart)}")
    return 0


def simulate(chosen: argparse.Namespace) -> int:
    """Many nights of a study on a played host; 130 when it was broken off, with the nights until then."""
    from autotune import console, rehearsal
    from autotune.bench.asked import check_target
    from autotune.files import write
    from autotune.spec import load

    check_target("json", chosen.json)
    spec, screen = rehearsal.played(load(chosen.study), chosen.profile), _screen()
    with console.Nights(screen) as view:
        found = rehearsal.simulate(spec, chosen.nights, chosen.seed, chosen.processes, view.progress)
    try:
        console.rehearsed(screen, found)
    finally:
        if chosen.json is not None:
            write(chosen.json, json.dumps(found.content(), indent=1))
    return 0 if len(found.nights) == chosen.nights else Interrupted.exit_code


def profile(chosen: argparse.Namespace) -> int:
    """The host of a finished study as a hardware profile."""
    from autotune import console, rehearsal
    from autotune.bench.asked import check_target

    check_target("to", chosen.to)
    errors = rehearsal.profile(_store(chosen), chosen.to)
    print(f"wrote {chosen.to}: played again on it, {errors.trials} trials differ in the median by")
    print(f"{errors.tps:.1%} in TPS and {errors.ttft:.1%} in mean TTFT; what comes of it is {console.SIMULATED}")
    if errors.caution:
        print(f"caution: {errors.caution}")
    return 0


def studies(chosen: argparse.Namespace) -> int:
    """The study files that ship."""
    from autotune.files import create

    shipped = _shipped()
    if chosen.name is None:
        print("Study files that come with autotune; `autotune studies NAME` copies one into this folder:")
        for path in shipped.values():
            print(f"  {path.stem:20}  {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")
        return 0
    if chosen.name.removesuffix(".toml") not in shipped:
        raise UsageError(f"no study {chosen.name!r}; there are {', '.join(shipped)}")
    source = shipped[chosen.name.removesuffix(".toml")]
    target = Path(source.name)
    if not create(target, _portable(source)):
        raise UsageError(f"{target} is there already; nothing was written")
    print(f"wrote {target}; next: autotune plan {target}")
    return 0


def _portable(source: Path) -> bytes:
    """A study file whose schema an editor finds wherever the file lies; without it, it is a file like any other."""
    schema = source.resolve().with_name("study.schema.json")
    return source.read_bytes().replace(b"#:schema ./study.schema.json", f"#:schema {schema.as_uri()}".encode())


def reference(chosen: argparse.Namespace) -> int:
    """What a study file may hold."""
    from autotune.spec import reference

    print(json.dumps(reference.schema(), indent=1) if chosen.schema else reference.page().rstrip())
    return 0


def _shipped() -> dict[str, Path]:
    """The study files, in the installed package or in a checkout."""
    package = Path(str(resources.files("autotune")))
    folders = [package / "studies", package.parent / "studies"]
    folder = next(folder for folder in folders if folder.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}
