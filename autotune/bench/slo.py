"""Limits by name: those of MLPerf inference, for LLMs that are served interactively or to a server's clients.

Source: mlperf.conf of MLPerf Inference, 2026-08. All of them are limits on p99, seconds; qwen3-vl-235b has one on the
whole answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.errors import UsageError
from autotune.goal import Bound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.stats import Statistic

PRESETS: Mapping[str, Mapping[str, float]] = {
    "llama3.1-8b-server": {"ttft_s": 2.0, "tpot_s": 0.1},
    "llama3.1-8b-interactive": {"ttft_s": 0.5, "tpot_s": 0.03},
    "llama2-70b-server": {"ttft_s": 2.0, "tpot_s": 0.2},
    "llama2-70b-interactive": {"ttft_s": 0.45, "tpot_s": 0.04},
    "mixtral-8x7b-server": {"ttft_s": 2.0, "tpot_s": 0.2},
    "llama3.1-405b-server": {"ttft_s": 6.0, "tpot_s": 0.175},
    "llama3.1-405b-interactive": {"ttft_s": 4.5, "tpot_s": 0.08},
    "deepseek-r1-server": {"ttft_s": 2.0, "tpot_s": 0.08},
    "deepseek-r1-interactive": {"ttft_s": 1.5, "tpot_s": 0.015},
    "gpt-oss-120b-server": {"ttft_s": 3.0, "tpot_s": 0.08},
    "gpt-oss-120b-interactive": {"ttft_s": 2.0, "tpot_s": 0.015},
    "qwen3-vl-235b-server": {"e2e_s": 12.0},
}

METRICS = ("ttft_s", "tpot_s", "e2e_s")
STATISTICS: Mapping[str, Statistic] = {"mean": "mean", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}


def preset(name: str) -> tuple[Bound, ...]:
    """The limits of that name. Raises `UsageError` with all names."""
    if name not in PRESETS:
        raise UsageError(f"--slo {name}: no such limits; there are {', '.join(PRESETS)}")
    return tuple(Bound(metric, "p99", most) for metric, most in PRESETS[name].items())


def limit(text: str) -> Bound:
    """A limit as it is written, `ttft_s:p95:2`. Raises `UsageError`."""
    metric, _, rest = text.partition(":")
    statistic, _, most = rest.partition(":")
    try:
        value = float(most)
    except ValueError:
        value = 0.0
    if metric not in METRICS or statistic not in STATISTICS or not 0 < value < float("inf"):
        raise UsageError(
            f"--limit {text}: write METRIC:STATISTIC:SECONDS, as in ttft_s:p95:2; metrics are {', '.join(METRICS)},"
            f" statistics {', '.join(STATISTICS)}"
        )
    return Bound(metric, STATISTICS[statistic], value)
