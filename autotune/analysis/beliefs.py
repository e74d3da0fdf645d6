"""What the search believed before each trial against what was measured, as a table and as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.analysis.columns import REAL, TEXT, WHOLE, frame, of
from autotune.analysis.results import configuration
from autotune.analysis.style import BLUE, GREY, ORANGE, figure, scale
from autotune.hindsight import EXPECTED, checks, foretold
from autotune.result import TOKENS_PER_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    import plotly.graph_objects as go

    from autotune.analysis.columns import Row
    from autotune.analysis.reading import Study
    from autotune.hindsight import Foretold, Held

_COLUMNS = {
    **of(WHOLE, "number"),
    **of(TEXT, "configuration", "figure"),
    **of(REAL, "foretold", "low", "high", "measured"),
    **of("boolean", "inside"),
    **of(REAL, "error", "holds", "starts"),
    **of(TEXT, "trust"),
}


def beliefs(study: Study) -> pd.DataFrame:
    """A row for each trial of the search and figure that was foretold; no row where a search believes nothing.

    `figure` is "tokens/s", or the limit that it is about, in s; `low` and `high` are the ends of its 95 % interval.
    `measured`, `inside` and `error`, the logarithm of what came over what was foretold, are missing where a trial was
    not measured in full. `holds` and `starts` are the chances that the limits hold and that it can be measured, as they
    were believed; `trust` is how far the law was trusted.
    """
    every = foretold(study.spec, study.events, study.results)
    return frame((_row(study, one, held) for one in every for held in one.figures), _COLUMNS)


def _row(study: Study, one: Foretold, held: Held) -> Row:
    return {
        "number": one.number,
        "configuration": configuration(study, one.params),
        "figure": held.name,
        "foretold": held.foretold.value,
        "low": held.foretold.low,
        "high": held.foretold.high,
        "measured": held.measured,
        "inside": held.inside,
        "error": held.error,
        "holds": one.holds,
        "starts": one.starts,
        "trust": one.trust,
    }


def believed_against_measured(study: Study, about: str = TOKENS_PER_S) -> go.Figure:
    """Trial by trial what was foretold, with its 95 % interval, and what came; `about` is a `figure` of `beliefs`."""
    told = beliefs(study)
    told = told[told["figure"] == about]
    fared = next((one for one in checks(foretold(study.spec, study.events, study.results)) if one.name == about), None)
    words = "Bars: foretold before each trial, with the 95 % interval."
    if fared is not None:
        words += f" {fared.inside} of {fared.n} came within it; if it is right, {EXPECTED:.0%} do."
    drawn = figure(study, f"believed against measured, {about}", words)
    drawn.add_scatter(
        name="foretold",
        x=told["number"].tolist(),
        y=told["foretold"].tolist(),
        error_y={
            "type": "data",
            "array": (told["high"] - told["foretold"]).tolist(),
            "arrayminus": (told["foretold"] - told["low"]).tolist(),
            "color": GREY,
            "thickness": 3,
            "width": 6,
        },
        mode="markers",
        marker={"color": GREY, "symbol": "line-ew-open", "size": 14},
        hoverinfo="skip",
    )
    for inside, colour, symbol, name in ((True, BLUE, "circle", "within"), (False, ORANGE, "x", "outside")):
        own = told[(told["inside"] == inside).fillna(value=False)]
        drawn.add_scatter(
            name=f"measured, {name}",
            x=own["number"].tolist(),
            y=own["measured"].tolist(),
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 10},
            customdata=[_hover(one) for one in own.to_dict("records")],
            hovertemplate="%{customdata}<extra></extra>",
        )
    drawn.update_xaxes(title_text="trial")
    drawn.update_yaxes(
        title_text="output, tokens/s" if about == TOKENS_PER_S else f"{about}, s",
        **scale([*told["low"], *told["high"], *told["measured"].dropna()]),
    )
    return drawn


def _hover(row: Mapping[Any, Any]) -> str:
    return (
        f"<b>{row['configuration']}</b><br>trial {row['number']}: {row['measured']:.4g},"
        f" foretold {row['foretold']:.4g} ({row['low']:.4g} to {row['high']:.4g})<br>{row['trust']}"
    )
