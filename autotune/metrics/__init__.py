"""Records to figures: pure.

- `window`, `requests`, `tokens`: what belongs to a window; the times of one request; where tokens arrived
- `values`, `summary`: the figures as values
- `measure`, `instances`: all figures of a load, and those of each instance
- `attainment`: who met all limits at once
- `compare`: two loads held against each other
"""

from __future__ import annotations

from autotune.metrics.attainment import Attainment, attain
from autotune.metrics.compare import compare, difference, figures, verdict
from autotune.metrics.instances import slow
from autotune.metrics.measure import COMPLETE, measure, success_rate
from autotune.metrics.requests import pace, queue_s, rest_s, tpot_s, ttft_s
from autotune.metrics.summary import CONFIDENCE, Range, Summary
from autotune.metrics.tokens import tokens, tokens_per_chunk
from autotune.metrics.values import InstanceMetrics, Metrics
from autotune.metrics.window import COLD_S, Window

__all__ = [
    "COLD_S",
    "COMPLETE",
    "CONFIDENCE",
    "Attainment",
    "InstanceMetrics",
    "Metrics",
    "Range",
    "Summary",
    "Window",
    "attain",
    "compare",
    "difference",
    "figures",
    "measure",
    "pace",
    "queue_s",
    "rest_s",
    "slow",
    "success_rate",
    "tokens",
    "tokens_per_chunk",
    "tpot_s",
    "ttft_s",
    "verdict",
]
