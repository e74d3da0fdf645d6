"""Figures of the configurations of a study; each is a plotly `Figure`, to show in a notebook or to write as a page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from autotune.analysis.reading import PROOF, SEARCH
from autotune.analysis.results import configuration, trials
from autotune.analysis.style import BLUE, BLUES, GREEN, GREY, GREYS, INK, ORANGE, PINK, RED, SKY, axes, figure, scale
from autotune.result import amount
from autotune.standing import standings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    import plotly.graph_objects as go

    from autotune.analysis.reading import Study
    from autotune.result import TrialResult
    from autotune.spec import Limit
    from autotune.standing import Standing

Row = dict[str, Any]
_KINDS = ((True, BLUE, "circle", "feasible"), (False, ORANGE, "x", "misses a limit"))


def tps_against_ttft(study: Study) -> go.Figure:
    """Every trial as a point: TTFT, with the statistic of its first limit, in s, against TPS in tokens/s.

    Of a capacity each is at the largest load that held, and one that misses the limits at that of the study file.
    The runs of the proof are small points. Marked are the limit, the baseline, and the winner; without a proof the best
    of the search.
    """
    limit = _ttft_limit(study)
    statistic, points = limit.statistic if limit else "mean", _points(study, limit)
    words = f"Up and to the left is better.{_unmeasured(study)}"
    where = "each at its own load" if study.capacity else study.level
    drawn = figure(study, f"tokens/s against the time to first token, {where}", words)
    axis = scale([*points["x"], *([limit.max] if limit else [])])
    _limit(drawn, limit, axis)
    for feasible, colour, symbol, name in _KINDS:
        own = points[(points["feasible"] == feasible) & (points["phase"] == SEARCH)]
        _scatter(drawn, own, name, {"color": colour, "symbol": symbol, "size": 13})
    _scatter(drawn, points[points["phase"] == PROOF], "a run of the proof", {"color": INK, "size": 5})
    for text, params in _marks(study):
        _mark(drawn, points[points["configuration"] == configuration(study, params)], text, axis)
    drawn.update_xaxes(title_text=f"TTFT, {statistic}, s", **axis)
    drawn.update_yaxes(title_text="output, tokens/s", range=[0, 1.3 * points["y"].max()])
    return drawn


def _ttft_limit(study: Study) -> Limit | None:
    return next((one for one in study.spec.objective.limits if one.metric == "ttft_s"), None)


def _points(study: Study, limit: Limit | None) -> pd.DataFrame:
    """The trials that could be measured, with `x` from the level of the limit, and `y` from that of the objective.

    One that was dropped before the limit's level has no point.
    """
    every = trials(study).set_index(["phase", "number"], drop=False)
    every = every[every["output_tps"].notna()]
    taken = {(run.phase, run.result.number): study.at(run.result) for run in study.runs}
    points = every[every["level"] == every.index.map(taken)]
    waits = points if limit is None or limit.at is None else every[every["level"] == study.spec.level(limit.at).label]
    points = points.assign(x=waits[f"ttft_{limit.statistic if limit else 'mean'}_s"], y=points["output_tps"])
    return points.assign(hover=[_hover(row) for row in points.to_dict("records")]).dropna(subset=["x"])


def _hover(row: Mapping[Any, Any]) -> str:
    run = f"trial {row['number']}" if row["phase"] == SEARCH else f"run {row['number']} of the proof"
    return (
        f"<b>{row['configuration']}</b><br>{run}: {'feasible' if row['feasible'] else 'misses a limit'}<br>"
        f"{row['output_tps']:.1f} tokens/s at {row['level']}<br>"
        f"TTFT mean {row['ttft_mean_s']:.2f} s, p50 {row['ttft_p50_s']:.2f} s, p95 {row['ttft_p95_s']:.2f} s"
    )


def _unmeasured(study: Study) -> str:
    missing = sum(not result.measured for result in study.results)
    return f" {missing} of {len(study.results)} trials could not be measured." if missing else ""


def _scatter(drawn: go.Figure, points: pd.DataFrame, name: str, marker: Mapping[str, Any]) -> None:
    if len(points):
        drawn.add_scatter(
            x=points["x"].tolist(),
            y=points["y"].tolist(),
            mode="markers",
            name=name,
            marker=marker,
            customdata=points["hover"].tolist(),
            hovertemplate="%{customdata}<extra></extra>",
        )


def _limit(drawn: go.Figure, limit: Limit | None, axis: Mapping[str, Any]) -> None:
    """A line with its name."""
    if limit is None:
        return
    drawn.add_vline(x=limit.max, line={"color": RED, "dash": "dash", "width": 2})
    drawn.add_annotation(
        text=f"limit: TTFT {limit.statistic} {limit.max:g} s",
        x=_place(limit.max, axis),
        xanchor="left",
        xshift=5,
        y=0,
        yanchor="bottom",
        showarrow=False,
        font={"color": RED},
    )


def _place(value: float, axis: Mapping[str, Any]) -> float:
    """Where an annotation goes: on a logarithmic axis by its logarithm."""
    return math.log10(value) if axis.get("type") == "log" else value


def _marks(study: Study) -> list[tuple[str, Mapping[str, Any]]]:
    """What is marked: words and configuration."""
    found = "best of the search, not proved" if standings(study.results)[0].feasible else "nearest to the limits"
    proved = "on the front" if study.spec.objective.goals else "winner"
    best = [(proved if study.proved else found, study.best)] if study.best != study.baseline.params else []
    return [("baseline", study.baseline.params), *best]


def _mark(drawn: go.Figure, points: pd.DataFrame, text: str, axis: Mapping[str, Any]) -> None:
    """At the mean of its runs in the proof, where it was in one."""
    proved = points[points["phase"] == PROOF]
    own = proved if len(proved) else points
    if not len(own):
        return
    drawn.add_annotation(
        x=_place(own["x"].mean(), axis),
        y=own["y"].mean(),
        text=f"<b>{text}</b><br>{own['configuration'].iloc[0]}",
        bgcolor="rgba(255, 255, 255, 0.8)",
        ax=0,
        ay=-45,
        arrowhead=2,
        arrowcolor=GREY,
        standoff=9,
    )


# the levels

_MOST_LINES = 6
_LINES = (
    (BLUE, "circle"),
    (ORANGE, "square"),
    (GREEN, "diamond"),
    (PINK, "cross"),
    (SKY, "triangle-up"),
    (INK, "star"),
)


def by_level(study: Study) -> go.Figure:
    """TTFT, in s with the statistic of the first limit, and TPS in tokens/s at every level: a line for each of the best
    configurations of the search, and for the baseline.

    Of a capacity the levels are all loads that these have tried, by their size.
    """
    limit = _ttft_limit(study)
    statistic = limit.statistic if limit else "mean"
    every = trials(study)
    every = every[(every["phase"] == SEARCH) & every["output_tps"].notna()]
    lines = _lines(study)
    labels = _labels(study, lines)
    drawn = figure(study, "every load", "The best of the search, and the baseline (dashed). Dotted: the limit.")
    axes(drawn.set_subplots(rows=1, cols=2, horizontal_spacing=0.1))
    drawn.update_layout(legend={"yref": "paper", "y": -0.2})  # the names are long: the margin makes room for them
    for one, (colour, symbol) in zip(lines, _LINES, strict=False):
        own = every[every["number"] == one.number].set_index("level").reindex(labels)
        look: Row = {"marker": {"color": colour, "symbol": symbol, "size": 9}, "name": configuration(study, one.params)}
        look["connectgaps"] = study.capacity  # each has tried loads of its own
        line = {"color": colour, "dash": "dash" if one.number == 0 else "solid"}
        for column, name in enumerate((f"ttft_{statistic}_s", "output_tps"), 1):
            values, first = own[name].tolist(), column == 1
            drawn.add_scatter(x=labels, y=values, line=line, showlegend=first, row=1, col=column, **look)
    waits = every[f"ttft_{statistic}_s"].dropna()
    if limit:
        drawn.add_hline(y=limit.max, line={"color": RED, "dash": "dot"}, row=1, col=1)
    drawn.update_yaxes(title_text=f"TTFT, {statistic}, s", row=1, col=1, **scale(waits))
    drawn.update_yaxes(title_text="output, tokens/s", rangemode="tozero", row=1, col=2)
    return drawn


def _lines(study: Study) -> list[TrialResult]:
    """The baseline, then the best of the others."""
    best = [one.results[0] for one in standings(study.results) if one.objective is not None]
    others = [one for one in best if one.fingerprint != study.baseline.fingerprint]
    return [study.baseline, *others[: _MOST_LINES - 1]]


def _labels(study: Study, lines: Sequence[TrialResult]) -> list[str]:
    """Of the loads, as they stand beside each other."""
    tried = {level.label: load for one in lines for level, (load, _) in zip(study.levels(one), one.tried, strict=False)}
    return sorted(tried, key=tried.__getitem__) or [level.label for level in study.spec.workload.levels]


# the space


def slots_by_layout(study: Study) -> go.Figure:
    """TPS in tokens/s, or the capacity, by layout and NUM_PARALLEL: in each cell the best configuration of the search.

    Cells that miss a limit are grey and crossed, those that could not be measured say why; what was not tried is empty.
    """
    cells = _cells(study)
    columns = [str(slots) for slots in sorted({slots for _, slots in cells})]
    rows = list(dict.fromkeys(layout for layout, _ in cells))
    words = "The best of each cell. Grey and crossed: misses a limit. Empty: not tried."
    by = "by layout and slots"
    title = f"capacity in {study.unit} {by}" if study.capacity else f"{study.unit} {by}, {study.level}"
    drawn = figure(study, title, words, height=220 + 60 * len(rows))
    drawn.update_layout(margin_b=60)
    most = max((one.objective or 0.0 for one in cells.values()), default=1.0)
    for feasible, colours in ((True, BLUES), (False, GREYS)):
        told = {at: one.objective for at, one in cells.items() if one.feasible == feasible}
        drawn.add_heatmap(
            x=columns,
            y=rows,
            z=[[told.get((layout, int(slots))) for slots in columns] for layout in rows],
            colorscale=colours,
            zmin=0,
            zmax=most,
            xgap=4,
            ygap=4,
            showscale=False,
            hoverinfo="skip",
        )
    _numbers(drawn, study, cells, most)
    drawn.update_xaxes(title_text="NUM_PARALLEL: slots of an instance", type="category", showgrid=False)
    drawn.update_yaxes(title_text="layout", type="category", autorange="reversed", showgrid=False)
    return drawn


def _cells(study: Study) -> dict[tuple[str, int], Standing]:
    """The best of each cell, in the order of layouts by their size."""
    found: dict[tuple[str, int], Standing] = {}
    for one in standings(study.results):
        found.setdefault((one.params["layout"], one.params["num_parallel"]), one)
    return dict(sorted(found.items(), key=lambda cell: (cell[1].results[0].instances, cell[0])))


def _numbers(drawn: go.Figure, study: Study, cells: Mapping[tuple[str, int], Standing], most: float) -> None:
    """What is written in each cell."""
    dark = [one.feasible and one.objective is not None and one.objective > most / 2 for one in cells.values()]
    drawn.add_scatter(
        x=[str(slots) for _, slots in cells],
        y=[layout for layout, _ in cells],
        mode="text",
        text=[_cell(one, study.unit) for one in cells.values()],
        textfont={"color": ["white" if one else INK for one in dark]},
        customdata=[configuration(study, one.params) for one in cells.values()],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )


def _cell(one: Standing, unit: str) -> str:
    if one.objective is None:
        return one.results[0].reason
    policy = f"<br>{one.params['policy']}" if "policy" in one.params else ""
    return f"<b>{'' if one.feasible else '✕ '}{amount(one.objective, unit, 0)}</b>{policy}"
