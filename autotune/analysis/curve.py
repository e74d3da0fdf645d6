"""The curve of a capacity: what an endpoint gives, and how long it makes people wait, at each load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autotune.analysis.style import BLUE, GREEN, GREY, ORANGE, RED, dress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLOURS = {"holds": GREEN, "violated": RED, "open": ORANGE}
SYMBOLS = {"holds": "circle", "violated": "x", "open": "diamond"}


def capacity_curve(
    steps: Sequence[Mapping[str, float | str | None]], unit: str, low: float, high: float | None
) -> go.Figure:
    """Output TPS and TTFT against the load.

    Each step has `load`, `decision`, `output_tps`, `ttft_p50_s` and `ttft_p95_s`, which are None where they are not
    known; the answer lies between `low` and `high`, which is None where no limit was missed.
    """
    drawn = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    ordered = sorted(steps, key=lambda step: float(step["load"] or 0))
    loads = [float(step["load"] or 0) for step in ordered]
    marks = {
        "size": 11,
        "color": [COLOURS[str(step["decision"])] for step in ordered],
        "symbol": [SYMBOLS[str(step["decision"])] for step in ordered],
    }
    for row, key, name, dash in (
        (1, "output_tps", "output", "solid"),
        (2, "ttft_p50_s", "TTFT p50", "dot"),
        (2, "ttft_p95_s", "TTFT p95", "solid"),
    ):
        drawn.add_trace(
            go.Scatter(
                x=loads,
                y=[step[key] for step in ordered],
                name=name,
                mode="lines+markers",
                line={"color": BLUE, "dash": dash},
                marker=marks,
            ),
            row=row,
            col=1,
        )
    drawn.add_vrect(x0=low, x1=high or loads[-1], fillcolor=GREY, opacity=0.15, line_width=0)
    words = "Circles hold all limits, crosses miss one, diamonds are too close to say; the answer is in the grey band."
    dress(drawn, f"Capacity: {low:g} {unit}", words, height=620)
    drawn.update_yaxes(title_text="output, tokens/s", rangemode="tozero", row=1, col=1)
    drawn.update_yaxes(title_text="TTFT, s", type="log", row=2, col=1)
    drawn.update_xaxes(title_text=unit, row=2, col=1)
    return drawn
