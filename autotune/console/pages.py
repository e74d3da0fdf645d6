"""What is said before a night, and after it."""

from __future__ import annotations

from functools import partial
from shlex import quote
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from autotune import aims
from autotune.console.scene import estimate_s
from autotune.console.tables import before_after, front, odds, ranking
from autotune.plan import GIB
from autotune.report.beliefs import checked, remaining
from autotune.report.words import configuration, flags, span, warm
from autotune.simulator import SIMULATED
from autotune.space import kinds, letter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from rich.console import Console

    from autotune.belief import Odds
    from autotune.earlier import Warmth
    from autotune.ground import Ground
    from autotune.inventory import Inventory
    from autotune.night import Ending
    from autotune.report import Findings
    from autotune.spec import StudySpec

_MOST_VALUES = 12
_MOST_LAYOUTS = 6
_MOST_REASONS = 12
_MOST_CAUTIONS = 8
_MOST_CONTENDERS, _MOST_FORECAST = 5, 20
_MOST_FORESEEN, _SURE = 500, 0.95


def outlook(console: Console, ground: Ground, warmth: Warmth | None = None) -> None:
    """What a study would run: `autotune plan`."""
    spec, space = ground.spec, ground.space
    if spec.cluster.simulated:
        console.print(SIMULATED, style="bold magenta")
    console.print(_devices(ground.inventory))
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    say(f"Ollama {ground.facts.version}, {spec.cluster.model} ({ground.facts.model.weights_bytes / GIB:.1f} GiB)")
    say(f"Baseline: {configuration(ground.baseline)}")
    say(
        f"Space: {space.before_symmetry:,} configurations, {space.after_symmetry:,} up to symmetry,"
        f" {'' if space.exact else 'at most '}{space.after_memory:,} that may fit the memory"
    )
    say(_memory(ground))
    for one in space.dimensions:
        shown = one.values[: _MOST_VALUES if one.name != "layout" else _MOST_LAYOUTS]
        more = ", …" if one.count > len(shown) else ""
        say(f"  {one.name} ({one.count:,}): {', '.join(map(str, shown))}{more} – {one.why}")
    reasons = (*_wider(ground), *space.reasons)
    for reason in reasons[:_MOST_REASONS]:
        say(f"  left out: {reason}")
    if len(reasons) > _MOST_REASONS:
        say(f"  left out for {len(reasons) - _MOST_REASONS} more reasons of the same kind")
    if warmth is not None:
        _warmth(say, warmth)
    for line in (*_context(spec), *_windows(spec)):
        say(line)
    say(_length(spec, space.after_memory))


def _wider(ground: Ground) -> Iterator[str]:
    """What a study file asks for that is meant for larger hosts."""
    search, most = ground.spec.search, len(ground.inventory.devices)
    for many in (search.devices_per_instance or ()) if search.layouts == "auto" else ():
        if many > most:
            yield f"search.devices_per_instance {many}: more than this host's {most}"


def _context(spec: StudySpec) -> Iterator[str]:
    work = spec.workload
    if work.input_tokens is not None and (most := work.input_tokens.mean + work.num_predict.mean) > work.num_ctx:
        yield f"Prompts with the longest answers have {most} tokens, more than workload.num_ctx, {work.num_ctx}"


def _windows(spec: StudySpec) -> Iterator[str]:
    """The requests that limits need; how fast the users of a level are answered, nobody knows before."""
    longest_s = spec.workload.window_max_s
    for level in spec.workload.levels:
        needed = aims.phases(spec, level).min_requests
        if needed and level.users is not None and spec.objective.metric != "capacity":
            yield (
                f"Limits and goals at {level.label} need {needed} requests: they come within workload.window_max_s,"
                f" {longest_s:g} s, where an answer takes at most {span(longest_s * level.users / needed)} in the mean"
            )


def _memory(ground: Ground) -> str:
    """What the forecast of memory says of the configurations, or of so many that stand for them."""
    chances = ground.chances([ground.baseline, *ground.space.pool(ground.spec.study.seed, _MOST_FORESEEN)])
    today, found = chances[0], chances[1:]
    fit, misfit = (found >= _SURE).mean(), (found <= 1 - _SURE).mean()
    hardly = "" if today > 1 - _SURE else "; the baseline hardly fits"
    if fit == 1:
        return f"  memory as it is foreseen: all of these fit{hardly}"
    return (
        f"  memory as it is foreseen: {fit:.0%} of these fit, {1 - fit - misfit:.0%} may, {misfit:.0%} hardly do;"
        f" none is left out for that: the search learns what fits{hardly}"
    )


def _warmth(say: Callable[[str], None], found: Warmth) -> None:
    """The earlier studies that it begins with, and those that are of no use to it."""
    if found.used:
        say(f"Warm start: {warm(found)}")
    for params in found.prior.first:
        say(f"  tried first: {configuration(params)}")
    for one in found.left[:_MOST_REASONS]:
        say(f"  earlier study not used: {one}")
    if len(found.left) > _MOST_REASONS:
        say(f"  nor are {len(found.left) - _MOST_REASONS} more")


def _devices(inventory: Inventory) -> Table:
    """The devices, with letters where there are several kinds."""
    groups = kinds(inventory)
    letters = {one.index: letter(number) for number, group in enumerate(groups) for one in group}
    table = Table(title=Text(f"Devices of {inventory.host}"), title_justify="left")
    for column in ("", "device", "id", "memory", *(("kind",) if len(groups) > 1 else ())):
        table.add_column(column, overflow="fold")
    for device in inventory.devices:
        cells: list[str | Text] = [
            str(device.index),
            Text(device.name),
            Text(device.id),
            f"{device.memory_bytes / GIB:.1f} GiB",
        ]
        table.add_row(*cells, *([letters[device.index]] if len(groups) > 1 else []))
    return table


def _length(spec: StudySpec, configurations: int) -> str:
    """How long it would take."""
    trial_s = estimate_s(spec)
    trials = min(spec.budget.trials or configurations, configurations + 1)
    bounds = [
        f"{spec.budget.hours:g} hours" if spec.budget.hours else "",
        f"until {spec.budget.until}" if spec.budget.until else "",
        f"at most {spec.budget.trials} trials" if spec.budget.trials else "",
    ]
    window_s, longest_s = spec.workload.window_s, spec.workload.window_max_s
    more = f", with windows of {window_s:g} s, which may need {longest_s:g} s" if longest_s > window_s else ""
    return (
        f"Estimated time: {span(trial_s)} a trial, {span(trial_s * trials)} for {trials} trials{_proof_length(spec)}"
        f"{more}; the budget is {', '.join(filter(None, bounds))}"
    )


def _proof_length(spec: StudySpec) -> str:
    """From the least blocks to the most."""
    if not spec.proof.finalists:
        return ""
    first_s, block_s = ((spec.proof.finalists + 1) * estimate_s(spec, brief=brief) for brief in (False, True))
    least, most = (span(first_s + (blocks - 1) * block_s) for blocks in (spec.proof.pairs, spec.proof.pairs_max))
    return f", {least} to {most} for the proof"


def morning(
    console: Console, found: Findings, spent: Mapping[str, float], ending: Ending, study: Path, source: str
) -> None:
    """The last lines of a night: why it ended, what was found, how to go on. `source` is the text of the study file."""
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    say("")
    _tables(console, found)
    if spent["night"]:
        say(
            f"{span(spent['night'])}, of which {spent['measured'] / spent['night']:.0%} was measurement;"
            f" autotune itself took at most {spent['own']:.2f} s between two trials"
        )
    if found.client:
        say(f"The client: {found.client}")
    say(f"Ended: {ending.why}.")
    say(found.answer)
    folder = study.parent / found.spec.study.name
    if ending.error is not None:
        again = f"autotune run {quote(str(study))}{flags(found.spec, source)}"
        say(f"Everything was put away; results are in {folder}. Go on with: {again}")
    else:
        _onward(say, found, folder)


def status(
    console: Console, found: Findings, folder: Path, night: str, recalled: Callable[[], Odds] | None = None
) -> None:
    """How a study stands: `autotune status`. `night` says whether one runs now.

    `recalled` works out what could still win, which takes long: what is found stands there meanwhile.
    """
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    say(f"{found.spec.study.name}: {found.spec.cluster.model}; {len(found.results)} trials; {night}")
    _tables(console, found)
    _belief(console, found, folder, recalled)
    if found.client:
        say(f"The client: {found.client}")
    say(found.answer)
    _onward(say, found, folder)


def _belief(console: Console, found: Findings, folder: Path, recalled: Callable[[], Odds] | None) -> None:
    """What the search believed, and what could still win."""
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    for line in checked(found.foretold):
        say(f"belief: {line}")
    if recalled is not None:
        console.print(odds(recalled().contenders[:_MOST_CONTENDERS]))
        say(f"What it believes of these and of any other configuration: autotune forecast {quote(str(folder))}")


def forecast(console: Console, found: Odds) -> None:
    """Which configurations could still win: `autotune forecast`."""
    shown = found.contenders[:_MOST_FORECAST]
    console.print(odds(shown))
    console.print(remaining(found, len(shown)), markup=False, highlight=False, soft_wrap=True)


def _tables(console: Console, found: Findings) -> None:
    """What was found, but for the answer: that comes last, where the eye falls."""
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    if found.spec.cluster.simulated:
        say(SIMULATED)
    if found.ranking:
        console.print(ranking(found))
    if found.front:
        console.print(front(found))
    if found.changes:
        console.print(before_after(found))
    for line in found.infeasible:
        say(f"not feasible: {line}")
    for caution in found.cautions[:_MOST_CAUTIONS]:
        say(f"caution: {caution}")
    if len(found.cautions) > _MOST_CAUTIONS:
        say(f"{len(found.cautions) - _MOST_CAUTIONS} more cautions are in the report")


def _onward(say: Callable[[str], None], found: Findings, folder: Path) -> None:
    """What to do with it."""
    quoted, optuna = quote(str(folder)), quote(f"sqlite:///{folder}/optuna.db")
    if found.chosen is not None:
        say(f"To install it: autotune export {quoted} --to DIRECTORY")
    if found.points:
        say(f"To install one of the front: autotune export {quoted} --trial N --to DIRECTORY")
    if found.results:
        say(f"All of it, and how to repeat it: autotune report {quoted}")
    say(f"Results are in {folder}; look at them with: optuna-dashboard {optuna}")
