"""The front of a study with several goals, as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.analysis.results import configuration
from autotune.analysis.style import BLUE, GREEN, GREY, INK, figure, scale
from autotune.confirm import BASELINE
from autotune.errors import UsageError
from autotune.spec import GOALS, OUTPUT
from autotune.standing import on_front, standings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    import plotly.graph_objects as go

    from autotune.analysis.reading import Study
    from autotune.standing import Standing


def front(study: Study, goal: str = "") -> go.Figure:
    """Every configuration of the search as a point: a goal, the first beside the output if none is named, against TPS.

    Each is at the mean of its trials that know all goals; where none does, at its last trial. A line goes through those
    on the front. What was in the proof has its 95 % intervals. Raises `UsageError` where the study has no such goal.
    """
    there = [one.name for one in study.spec.objective.goals]
    name = goal or next(iter(there), "")
    if name not in there:
        said = f"{name!r} is no goal beside the output; there are" if name else "there is no goal beside the output"
        raise UsageError(" ".join([f"{study.name}: {said}", *there]))
    side = "right" if GOALS[name].larger else "left"
    drawn = figure(study, f"{OUTPUT} against {name}, {study.level}", f"Up and to the {side} is better.")
    every = standings(study.results)
    on = on_front(every)[::-1]
    groups = {
        "on the front of the search": (on, {"color": BLUE, "size": 12}, "lines+markers"),
        "beaten, or misses a limit": (
            [one for one in every if one not in on],
            {"color": GREY, "size": 8, "symbol": "x"},
            "markers",
        ),
    }
    for words, (standing, marker, mode) in groups.items():
        known = [(one, *ends) for one in standing if all(ends := _figures(one, name))]
        if known:
            drawn.add_scatter(
                x=[wanted for _, wanted, _ in known],
                y=[output for _, _, output in known],
                mode=mode,
                name=words,
                marker=marker,
                customdata=[f"<b>{configuration(study, one.params)}</b><br>{_trials(one)}" for one, _, _ in known],
                hovertemplate="%{customdata}<br>%{y:.1f} tokens/s<br>%{x:.4g}<extra></extra>",
            )
    proved = _proved(drawn, study, name)
    shown = [one.score.goals.get(name) for one in study.results]
    drawn.update_xaxes(title_text=name, **scale([value for value in [*shown, *proved] if value]))
    drawn.update_yaxes(title_text=f"{OUTPUT}, tokens/s", rangemode="tozero")
    return drawn


def _figures(one: Standing, name: str) -> tuple[float | None, float | None]:
    """What it makes of a goal, and its output."""
    last, goals = one.results[-1].score, one.goals
    return (goals[name], goals[OUTPUT]) if goals else (last.goals.get(name), last.objective)


def _trials(one: Standing) -> str:
    numbers = [str(result.number) for result in one.results]
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"


def _proved(drawn: go.Figure, study: Study, name: str) -> Sequence[float]:
    """The candidates of the proof, those on its front apart from the others."""
    verdict = study.verdict
    if verdict is None or name not in verdict.goals:
        return []
    found = list[float]()
    for on, colour, words in ((True, GREEN, "proved: on the front"), (False, INK, "in the proof")):
        rows = [
            (at, wanted, output)
            for at in range(len(verdict.contenders))
            if (at in verdict.front.points) == on
            and (wanted := verdict.front.mean(name, at)) is not None
            and (output := verdict.front.mean(OUTPUT, at)) is not None
        ]
        if not rows:
            continue
        found += [wanted.mean for _, wanted, _ in rows]
        ends: Mapping[str, Any] = {
            f"error_{axis}": {"array": [one.high - one.mean for one in values], "thickness": 1.5}
            for axis, values in (("x", [row[1] for row in rows]), ("y", [row[2] for row in rows]))
        }
        own = {BASELINE: " (baseline)"}
        names = [configuration(study, verdict.contenders[at].params) + own.get(at, "") for at, _, _ in rows]
        drawn.add_scatter(
            x=[wanted.mean for _, wanted, _ in rows],
            y=[output.mean for _, _, output in rows],
            mode="markers+text",
            name=words,
            text=names,
            textposition="top center",
            marker={"color": colour, "size": 9, "symbol": "diamond"},
            hovertemplate="%{text}<br>%{y:.1f} tokens/s<br>%{x:.4g}<extra></extra>",
            **ends,
        )
    return found
