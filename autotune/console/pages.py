"""What is said before a night, and after it."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from autotune.console.tables import before_after, ranking
from autotune.console.words import SIMULATED, configuration, gain, span, verdict
from autotune.plan import GIB
from autotune.study import standings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from autotune.ground import Ground
    from autotune.night import Ending
    from autotune.spec import StudySpec
    from autotune.trial import TrialResult

_MOST_VALUES = 12


def outlook(console: Console, ground: Ground) -> None:
    """What a study would run: `autotune plan`."""
    spec, space = ground.spec, ground.space
    if spec.cluster.simulated:
        console.print(SIMULATED, style="bold magenta")
    table = Table(title=Text(f"Devices of {ground.inventory.host}"), title_justify="left")
    for column in ("", "device", "id", "memory"):
        table.add_column(column, overflow="fold")
    for device in ground.inventory.devices:
        memory = f"{device.memory_bytes / GIB:.1f} GiB"
        table.add_row(str(device.index), Text(device.name), Text(device.id), memory)
    console.print(table)
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    say(f"Ollama {ground.facts.version}, {spec.cluster.model} ({ground.facts.model.weights_bytes / GIB:.1f} GiB)")
    say(f"Baseline: {configuration(ground.baseline)}")
    say(
        f"Space: {space.before_symmetry} configurations, {space.after_symmetry} up to symmetry,"
        f" {space.after_memory} that may fit the memory"
    )
    for name, values in space.choices.items():
        shown = ", ".join(map(str, values[:_MOST_VALUES])) + (", …" if len(values) > _MOST_VALUES else "")
        say(f"  {name} ({len(values)}): {shown}")
    for reason in space.reasons:
        say(f"  left out: {reason}")
    say(_length(spec, space.after_memory))


def _length(spec: StudySpec, configurations: int) -> str:
    """How long it would take: what a trial does for certain, and half a minute to restart and load."""
    work = spec.workload
    trial_s = (30 + len(work.levels) * (work.warmup_s + work.window_s + work.drain_s / 4)) / spec.cluster.time_scale
    trials = min(spec.budget.trials or configurations, configurations + 1)
    bounds = [
        f"{spec.budget.hours:g} hours" if spec.budget.hours else "",
        f"until {spec.budget.until}" if spec.budget.until else "",
        f"at most {spec.budget.trials} trials" if spec.budget.trials else "",
    ]
    return (
        f"Estimated time: {span(trial_s)} a trial, {span(trial_s * trials)} for {trials} trials;"
        f" the budget is {', '.join(filter(None, bounds))}"
    )


def morning(console: Console, spec: StudySpec, ending: Ending, spent: Mapping[str, float], study: Path) -> None:
    """The last lines of a night: why it ended, what was found, how to go on."""
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    results = ending.results
    say("")
    if spec.cluster.simulated:
        say(SIMULATED)
    if results:
        console.print(ranking(results, spec.level(None).label))
        best = standings(results)[0].results[-1]
        if best.levels and results[0].levels and best.fingerprint != results[0].fingerprint:
            console.print(before_after(results[0], best))
        for reason, count in Counter(result.reason for result in results if result.reason).items():
            say(f"{count} configuration{'s' if count > 1 else ''} could not be measured: {reason}")
    if spent["night"]:
        say(
            f"{span(spent['night'])}, of which {spent['measured'] / spent['night']:.0%} was measurement;"
            f" autotune itself took at most {spent['own']:.2f} s between two trials"
        )
    say(f"Ended: {ending.why}.")
    say(conclusion(results))
    say(_onward(spec, ending, study))


def _onward(spec: StudySpec, ending: Ending, study: Path) -> str:
    folder = study.parent / spec.study.name
    if ending.error is not None:
        return f"Everything was put away; results are in {folder}. Go on with: autotune run {study}"
    return f"Results are in {folder}; look at them with: optuna-dashboard sqlite:///{folder}/optuna.db"


def conclusion(results: Sequence[TrialResult]) -> str:
    """The last word of a night, in a sentence."""
    if not results:
        return "Nothing was measured."
    best = standings(results)[0]
    if best.feasible:
        twice = len(best.results)
        times = "one measurement" if twice == 1 else f"the mean of {twice} measurements"
        return (
            f"Best: {configuration(best.params)}: {best.objective:.1f} tokens/s{gain(best, results)}. "
            f"This is {times}, not yet a proof."
        )
    nearest = configuration(best.params)
    return f"No configuration met the limits. The nearest: {nearest}: {verdict(best.results[-1])}."
