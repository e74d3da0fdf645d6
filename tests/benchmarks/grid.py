"""One night beside its whole space: python -m tests.benchmarks.grid STUDY.toml --to FOLDER [--repeats 2]

The study runs as it is: search and proof. Then every configuration of its space is measured, `--repeats` times, by the
same rules but to the end: nothing is dropped, and no window ends early for a limit that is missed. Each repeat has an
order and questions of its own. All of them are ordinary study folders in FOLDER: what is finished there is read and not
run again, what was broken off goes on.

What is printed: every configuration, best first, with what the night believed of it in the end; where the night's
choices stand among them; what each trial was foretold and what came; trials and minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from autotune import night
from autotune.console import Night, Screen
from autotune.errors import AutotuneError
from autotune.events import by_night, read
from autotune.report.words import configuration
from autotune.space import key
from autotune.spec import Budget, StudySpec, load
from autotune.store import Store
from tests.benchmarks.compared import compared

if TYPE_CHECKING:
    from tests.benchmarks.compared import Agreement, Compared

COLUMNS = 140


# what is printed


def page(found: Compared) -> str:
    """All of it, for people."""
    parts = (_table(found), _standing(found), _beliefs(found), _trials(found), _cost(found))
    return "\n\n".join("\n".join(lines) for lines in parts)


def _table(found: Compared) -> list[str]:
    times = "once" if found.repeats == 1 else f"{found.repeats} times"
    lines = [
        f"{found.study}: {len(found.rows)} configurations, each measured {times}",
        f"{'':48} {'tokens/s':>9} {'repeats':>17} {'TTFT, s':>8}  {'believed':>9} {'95 % interval':>18} {'holds':>6}",
    ]
    for rank, row in enumerate(found.rows, 1):
        repeats = " ".join(f"{tps:.0f}" for tps in row.every)
        said = row.belief
        belief = "" if said is None else f"{said.tps:9.1f} {said.low:8.1f} to {said.high:6.1f} {said.holds:6.0%}"
        marks = ("tried" if row.tried else "") + ("" if row.holds else "  misses a limit")
        name = configuration(row.params)
        lines.append(f"{rank:3} {name:44} {row.tps:9.1f} {repeats:>17} {row.ttft_s or 0:8.2f}  {belief}  {marks}")
    return lines


def _standing(found: Compared) -> list[str]:
    noise = "not known" if found.noise is None else f"{found.noise:.1%}"
    alike = f"{found.alike()} of {len(found.rows)} cannot be told from the best"
    lines = [f"noise between repeats of one configuration: {noise} (sd); {alike}"]
    for name, params in found.choices.items():
        rank, below = found.place(params)
        held = "" if found.rows[rank - 1].holds else ", misses a limit"
        lines.append(f"{name:18} {configuration(params):44} rank {rank:2}, {below:5.1%} below the best{held}")
    return lines


def _beliefs(found: Compared) -> list[str]:
    lines = [
        "the last belief against the grid; inside: its 95 % interval, and one that is wider by the grid's own noise"
    ]
    for name, (agreed, right) in found.last().items():
        lines.append(f"{name:8} {_agreed(agreed)}; whether the limits hold is right of {right}")
    return lines


def _agreed(one: Agreement) -> str:
    return f"{one.count:3}: error median {one.median:.1%}, p90 {one.p90:.1%}; inside {one.inside}, {one.noisy}"


def _trials(found: Compared) -> list[str]:
    grid = {key(row.params): row.tps for row in found.rows}
    lines = ["each trial of the night: foretold, measured, the difference, and what the grid has"]
    for one in found.foretold:
        told = f"{one.belief.tps:8.1f} ({one.belief.low:.1f} to {one.belief.high:.1f})"
        came = f"{one.tps:8.1f}  {one.belief.off(one.tps):+6.1%}" if one.tps else "nothing"
        mark = "  dropped" if one.dropped else ""
        true = grid.get(key(one.params), 0.0)
        lines.append(f"{one.number:3} {configuration(one.params):44} {told:28} {came:18} {true:8.1f}{mark}")
    if (agreed := found.before()) is not None:
        lines.append(f"in full  {_agreed(agreed)}")
    return lines


def _cost(found: Compared) -> list[str]:
    lines = [f"the whole night took {found.night_minutes:.1f} min"]
    for one in found.spent:
        dropped = f", {one.dropped} of them dropped after {one.dropped_s:.1f} s each" if one.dropped else ""
        lines.append(
            f"{one.name:8} {one.trials:3} trials, {one.minutes:5.1f} min, {one.full_s:.1f} s for one in full{dropped}"
        )
    return lines


# running


def whole(spec: StudySpec, repeat: int, size: int) -> StudySpec:
    """The study that measures all of a space of so many configurations, each of them to the end."""
    study = spec.study.model_copy(update={"name": f"{spec.study.name}-grid-{repeat}", "seed": spec.study.seed + repeat})
    return spec.model_copy(
        update={
            "study": study,
            "search": spec.search.model_copy(update={"sampler": "random", "warm_start": "off"}),
            "objective": spec.objective.model_copy(update={"end_early": False}),
            "budget": Budget(trials=size + 1, early=False),  # the baseline may lie outside
            "proof": spec.proof.model_copy(update={"finalists": 0}),
        }
    )


def finished(store: Store, spec: StudySpec) -> bool:
    """Whether a study has come to its end, as it is asked for now."""
    if store.header() is None or store.spec().model_dump() != spec.model_dump():
        return False
    nights = by_night(read(store.events))
    last = nights[-1][-1] if nights else {"what": ""}
    return last["what"] == "night" and "error" not in last


def finish(store: Store, spec: StudySpec, source: str) -> None:
    """Run a study to its end, where it is not there yet. Raises `AutotuneError`."""
    if finished(store, spec):
        return
    with Night(spec, Screen(force_terminal=False, width=COLUMNS), store.earlier()) as view:
        ending = asyncio.run(night.run(spec, source, store.folder, view))
    if ending.error is not None:
        raise ending.error


def main() -> None:
    """Run what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, metavar="STUDY.toml")
    parser.add_argument("--repeats", type=int, default=2, help="of the grid")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where the study folders lie")
    parser.add_argument("--json", type=Path, metavar="FILE")
    chosen = parser.parse_args()
    if chosen.repeats < 1:
        parser.error("--repeats: at least 1")
    spec, source = load(chosen.study), chosen.study.read_text(encoding="utf-8-sig")
    ground, _ = asyncio.run(night.look(spec, (chosen.to / spec.study.name).resolve()))
    studies = [spec, *(whole(spec, number, ground.space.size) for number in range(1, chosen.repeats + 1))]
    stores = [Store((chosen.to / one.study.name).resolve()) for one in studies]
    for store, one in zip(stores, studies, strict=True):
        finish(store, one, source)
    found = compared(spec, ground, stores[0], stores[1:])
    if chosen.json:
        chosen.json.write_text(json.dumps(found.content(), indent=1))
    print(page(found))


if __name__ == "__main__":
    try:
        main()
    except AutotuneError as error:
        sys.exit(f"grid: {error.message}")
