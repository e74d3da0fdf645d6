"""Figures over time: what the night did, and what the requests of a trial did; each is a plotly `Figure`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.analysis.loads import requests
from autotune.analysis.reading import PROOF, SEARCH
from autotune.analysis.results import configuration
from autotune.analysis.spans import STAGES, stages
from autotune.analysis.style import BLUE, GREEN, GREY, INK, ORANGE, PALE, PINK, figure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd
    import plotly.graph_objects as go

    from autotune.analysis.reading import Study

_COLOURS = dict(zip(STAGES, (ORANGE, PINK, GREY, BLUE, GREEN), strict=True))


def timeline(study: Study) -> go.Figure:
    """The night in minutes of this wall clock: a row for each trial of the search, and for each candidate of the proof.

    Nights of a study that was gone on with are laid end to end. What was broken off by a crash is not there.
    """
    spans = stages(study)
    starts = _starts(spans)
    spans = spans.assign(
        at_min=(spans["begin_s"] + spans["night"].map(starts)) / 60,
        minutes=spans["seconds"] / 60,
        row=[_row(study, span) for span in spans.to_dict("records")],
    )
    rows = list(dict.fromkeys(spans["row"]))
    words = f"What each trial did when: {', '.join(STAGES)}, in this order."
    drawn = figure(study, "the night", words, height=220 + 26 * len(rows))
    for stage in STAGES:
        _bars(drawn, spans[spans["stage"] == stage], stage)
    _set_off(drawn, spans[spans["phase"] == PROOF])
    for begin_s in list(starts.values())[1:]:
        drawn.add_vline(x=begin_s / 60, line={"color": GREY, "dash": "dot"})
    drawn.update_layout(barmode="overlay", bargap=0.3)
    drawn.update_xaxes(title_text="this wall clock, min")
    drawn.update_yaxes(autorange="reversed", categoryarray=rows, categoryorder="array", showgrid=False)
    return drawn


def _starts(spans: pd.DataFrame) -> dict[int, float]:
    """Where each night begins when they are laid end to end, s."""
    lengths = spans.groupby("night")["end_s"].max()
    return dict(zip(lengths.index, (lengths.cumsum() - lengths).tolist(), strict=True))


def _row(study: Study, span: Mapping[Any, Any]) -> str:
    """Of the last proof a row is a candidate: each runs many times."""
    number = span["number"]
    if span["phase"] == PROOF:
        if study.verdict is None or span["proof"] != study.verdict.number:
            return "another proof"
        _, at = study.place(number)
        return f"proof: {'baseline, ' if at == 0 else ''}{configuration(study, study.candidates[at])}"
    known = configuration(study, study.results[number].params) if number < len(study.results) else "not finished"
    return f"{'baseline' if number == 0 else f'trial {number}'}: {known}"


def _bars(drawn: go.Figure, spans: pd.DataFrame, stage: str) -> None:
    drawn.add_bar(
        name=stage,
        orientation="h",
        x=spans["minutes"].tolist(),
        base=spans["at_min"].tolist(),
        y=spans["row"].tolist(),
        marker={"color": _COLOURS[stage], "line": {"width": 0}},
        customdata=[[f"{one.number}", one.level, one.seconds] for one in spans.itertuples()],
        hovertemplate=f"{stage} %{{customdata[1]}}, run %{{customdata[0]}}: %{{customdata[2]:.1f}} s<extra></extra>",
    )


def _set_off(drawn: go.Figure, proof: pd.DataFrame) -> None:
    """A shade behind the proof."""
    if not len(proof):
        return
    begin, end = proof["at_min"].min(), (proof["at_min"] + proof["minutes"]).max()
    drawn.add_vrect(x0=begin, x1=end, fillcolor=PALE, layer="below", line_width=0)
    _above(drawn, begin, "proof: everything started anew for each run")


def requests_over_time(study: Study, number: int = 0, phase: str = SEARCH, level: str | None = None) -> go.Figure:
    """The requests of one load, in s from the begin of its window: how long each waited, and how long its answer took.

    With users without think time a row is a user. Without `level` it is that of its objective. ValueError where that
    trial has no such load; raises `StorageError` where its records are missing or damaged.
    """
    run = next((one for one in study.runs if (one.phase, one.result.number) == (phase, number)), None)
    label = level or (study.at(run.result) if run else study.level)
    found = requests(study, number, phase)
    found = found[found["level"] == label].sort_values("asked_s")
    if run is None or not len(found):
        raise ValueError(f"{phase} trial {number} was not measured at {label}")
    text = found["first_text_s"].fillna(found["finished_s"])
    words = f"{configuration(study, run.result.params)}. Each request waits (hatched), then its answer comes."
    which = f"trial {number}" if phase == SEARCH else f"run {number} of the proof"
    drawn = figure(study, f"the requests of {which}, {label}", words)
    lanes = list(_lanes(found))
    _requests(drawn, lanes, (found["asked_s"], text), "waiting for the first text", (ORANGE, "/"))
    _requests(drawn, lanes, (text, found["last_text_s"].fillna(text)), "answer", (BLUE, ""))
    begin, end = run.result.windows[label]
    for at, what in ((0.0, "the window begins"), (end - begin, "it ends")):
        drawn.add_vline(x=at, line={"color": INK, "width": 2, "dash": "dash"})
        _above(drawn, at, what)
    drawn.update_layout(barmode="overlay", bargap=0.25)
    drawn.update_xaxes(title_text="since the begin of the window, s")
    drawn.update_yaxes(title_text="requests at once", showgrid=False)
    return drawn


def _lanes(found: pd.DataFrame) -> Iterator[int]:
    """The lowest row that is free when a request comes."""
    ends: list[float] = []
    for asked, finished in zip(found["asked_s"], found["finished_s"], strict=True):
        lane = next((at for at, end in enumerate(ends) if end <= asked), len(ends))
        ends[lane : lane + 1] = [finished]
        yield lane + 1


def _requests(
    drawn: go.Figure, lanes: list[int], span: tuple[pd.Series, pd.Series], name: str, look: tuple[str, str]
) -> None:
    begins, ends = span
    colour, pattern = look
    drawn.add_bar(
        name=name,
        orientation="h",
        x=(ends - begins).tolist(),
        base=begins.tolist(),
        y=lanes,
        marker={"color": colour, "line": {"width": 0}, "pattern": {"shape": pattern, "fgcolor": "white", "size": 5}},
        hovertemplate=f"{name}: %{{x:.2f}} s<extra></extra>",
    )


def _above(drawn: go.Figure, x: float, text: str) -> None:
    """Words above the plot, from this place on."""
    drawn.add_annotation(
        text=text,
        x=x,
        xanchor="left",
        y=1,
        yref="paper",
        yanchor="bottom",
        showarrow=False,
        font={"color": GREY},
    )
