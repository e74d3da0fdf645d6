"""How figures look: colours are Okabe and Ito's, which all eyes tell apart, and nothing is told by colour alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from autotune.simulator import SIMULATED

if TYPE_CHECKING:
    from autotune.analysis.reading import Study

BLUE, SKY, GREEN, ORANGE, RED, PINK = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
INK, GREY, PALE = "#262626", "#767676", "#EBEBEB"
BLUES, GREYS = ([0, "#E3EEF6"], [1, BLUE]), ([0, "#F5F5F5"], [1, "#C4C4C4"])
"""More is darker."""
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
_AXIS = {
    "showline": True,
    "linecolor": GREY,
    "ticks": "outside",
    "tickcolor": GREY,
    "gridcolor": PALE,
    "zeroline": False,
    "title": {"font": {"size": 13}, "standoff": 12},
}


def figure(study: Study, title: str, words: str, height: int = 480) -> go.Figure:
    """An empty one in the common style. `words` say how to read it; of a simulated study it says that it is one."""
    told = [f"<b style='color:{RED}'>{SIMULATED}</b>"] if study.simulated else []
    return dress(go.Figure(), f"{study.name}: {title}", "<br>".join([words, *told]), height)


def dress(drawn: go.Figure, title: str, words: str, height: int = 480) -> go.Figure:
    """The common style for a figure, whatever is in it."""
    drawn.update_layout(
        template="plotly_white",
        title={
            "text": title,
            "subtitle": {"text": words, "font": {"size": 13, "color": GREY}},
            "x": 0.01,
            "xanchor": "left",
            "yref": "container",
            "y": 0.96,
            "yanchor": "top",
        },
        font={"family": _FONT, "size": 13, "color": INK},
        margin={"l": 70, "r": 30, "t": 100, "b": 90},
        legend={"orientation": "h", "xanchor": "left", "x": 0, "yanchor": "top", "yref": "container", "y": 0.08},
        height=height,
        hoverlabel={"font": {"family": _FONT}, "align": "left"},
    )
    return axes(drawn)


def axes(drawn: go.Figure) -> go.Figure:
    """The common style for all axes that are there."""
    drawn.update_xaxes(**_AXIS)
    drawn.update_yaxes(**_AXIS)
    return drawn


def scale(values: Any) -> dict[str, Any]:
    """An axis for values above 0: logarithmic, with readable ticks, where they span more than a power of ten."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    if low <= 0 or high / low < 10:
        return {"rangemode": "tozero"}
    steps = [digit * 10.0**power for power in range(-4, 7) for digit in (1, 2, 5)]
    return {"type": "log", "tickvals": [step for step in steps if low / 2 <= step <= high * 2]}
