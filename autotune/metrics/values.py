"""The figures of a load, as values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from autotune.metrics.summary import Range, Summary

if TYPE_CHECKING:
    from autotune.stats import Statistic


@dataclass(frozen=True, slots=True)
class InstanceMetrics:
    """What one instance of the cluster did."""

    requests: int
    """Requests of the window that it answered."""
    share: float
    """The same, as a part of those that any instance is known to have answered."""
    output_tps: float
    ttft_mean_s: float | None
    ttft_p95_s: float | None
    slots_used: int = 0
    """The most requests whose prompt was read or whose answer came at one moment of the window."""
    tokens_share: float = 0.0
    """Its part of the tokens that came from instances that are known."""
    ttft_p50_s: float | None = None
    tpot_p50_s: float | None = None
    answers: int = 0
    """From which `tpot_p50_s` is taken."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """The figures of one load. Durations in seconds, rates per second; None where there is nothing to say."""

    window_s: float
    output_tps: float
    """Tokens that arrived inside the window, by its length: a request's `eval_count` is spread over its chunk times."""
    requests: int
    """Requests of the window, whatever became of them."""
    outcomes: dict[str, int]
    """The same, by outcome; every outcome is there."""
    success_rate: float
    """Complete answers, by all requests of the window that came to an end, 0 where none did. An empty answer is one."""
    ttft_s: Summary
    """With those that still waited, at what they had waited by then: it is never less than this."""
    ttft_waiting_s: tuple[float, ...]
    """How long those without a first text had waited when they were cut off or timed out, shortest first."""
    tpot_s: Summary
    chunk_gap_s: Summary
    e2e_s: Summary
    send_lag_s: Summary
    queue_s: Summary
    """What Ollama's total duration leaves when load, prompt and answer are taken away: waiting for a slot."""
    input_tokens: float | None
    """Mean `prompt_eval_count`."""
    output_tokens: float | None
    """Mean `eval_count`."""
    tokens_per_chunk: float | None
    stopped_early: float | None
    """The part of the complete answers that ended on their own, before `num_predict`."""
    cold: int
    connected: int
    """Requests of the window that had to open a connection first."""
    in_flight: float
    """Mean number of requests on their way during the window."""
    generating: float
    """Mean number of requests between their first and their last text: slots in use."""
    instances: dict[str, InstanceMetrics]
    """By upstream, host:port; empty where nothing says who answered."""
    output_tps_range: Range | None = None
    """The 95 % interval of `output_tps`, by batch means over the window; None for a window without length."""
    drift: float | None = None
    """By how much the output rate changed from one end of the window to the other, in parts of its mean (a line of
    least squares)."""
    drift_range: Range | None = None
    """Its 95 % interval: a window is not steady where this leaves out 0."""
    first_answer_s: Summary = field(default_factory=Summary)
    """As TTFT, to the first text of the answer itself: of a model that thinks, what its user waits for."""
    load_s: Summary = field(default_factory=Summary)
    """The part of the TTFT in which the model was loaded, as Ollama tells it."""
    prefill_s: Summary = field(default_factory=Summary)
    """The part of the TTFT in which the prompt was read, as Ollama tells it."""
    rest_s: Summary = field(default_factory=Summary)
    """What TTFT leaves when queue, load and prefill are taken away: network, proxies, Ollama itself."""
    receive_lag_s: Summary = field(default_factory=Summary)
    """How long first texts lay ready before the client read them; in no stamp, where the kernel gave it."""
    late: int = 0
    """Requests of the window that left more than `LATE_S` after their intended time."""
    unsent: int = 0
    """Requests that were due in the window and never left."""
    pace: float | None = None
    """The client's TPOT by the server's own, median: near 1 unless something between them delays text."""
    little: float | None = None
    """(in flight − answers a second × their mean time) / in flight. Little's law: 0 for a steady load."""

    def statistic(self, metric: str, statistic: Statistic) -> float | None:
        """One figure, by the name of a sample ("ttft_s") and that of a statistic ("p95")."""
        summary: Summary = getattr(self, metric)
        return summary.value(statistic)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)
