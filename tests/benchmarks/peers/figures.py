"""What a run comes to, and the table of them all: pure."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, fields
from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks.peers.clients import ANSWER_S, TOKENS, percentile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.benchmarks.peers.runs import Run
    from tests.benchmarks.peers.truth import Answer

HEAD = (
    "streams",
    "client",
    "TTFT error p50, ms",
    "p99, ms",
    "true TTFT p50 / p99, ms",
    "CPU s per 1,000 tokens",
    "with start and end",
    "streams, peak / mean",
    "connections / requests",
    "tokens/s (of a perfect client)",
    "to the first request, s",
)

NOTES = """\
The server sends the first of {tokens} tokens {ttft:.0f} ms after the last byte of a request and then one every
{gap:.0f} ms, and logs when it really did. Closed loop, {each} requests a stream and at least {least}. The server has
one processor, the client has one other. Medians of {repeats} runs, taken in turns.

- *TTFT error*: what the client reports less what the server did; in brackets the least and the most of the runs.
- *CPU s per 1,000 tokens*: of the client and its children, from the first request to the last token; beside it of its
  whole life.
- *Streams*: requests that the server had at one time; the mean, and tokens/s, are of the middle four fifths of a run.
- autotune spreads the starts of its users over its warm-up. All others start together, and so their requests come in
  waves: harder for a client, and what they do to a server too.
- A perfect client would have its next request at the server in the moment in which the last token leaves.
- autotune, guidellm, aiperf and inference-perf run as their users run them, aiohttp in a few lines (`asking.py`).
  vLLM's benchmark runs without the rest of vLLM (`alone.py`), so its start looks better than it is.
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """What the table shows of a run."""

    error_p50_ms: float
    error_p99_ms: float
    true_p50_ms: float
    true_p99_ms: float
    cpu_load_s: float
    """Per 1,000 tokens, under load."""
    cpu_whole_s: float
    peak: float
    mean: float
    connections: float
    requests: float
    tokens_per_s: float
    first_request_s: float


def figures(run: Run) -> Figures:
    """Of one run. The requests of the load are those that ask for as many tokens as it does, and got some."""
    load = [answer for answer in run.answers if answer.asked == TOKENS and answer.tokens]
    asked = [answer for answer in run.answers if answer.dialect != "other"]
    waits = [answer.first_at - answer.received_at for answer in load]
    p50, p99 = percentile(waits, 0.5), percentile(waits, 0.99)
    began, ended = min(answer.received_at for answer in load), max(answer.last_at for answer in load)
    tokens = sum(answer.tokens for answer in load)
    low, high = began + 0.1 * (ended - began), began + 0.9 * (ended - began)
    return Figures(
        error_p50_ms=1e3 * (run.reported.p50 - p50),
        error_p99_ms=1e3 * (run.reported.p99 - p99),
        true_p50_ms=1e3 * p50,
        true_p99_ms=1e3 * p99,
        cpu_load_s=1e3 * (_at(run.cpu_until, ended) - _at(run.cpu_until, began)) / tokens,
        cpu_whole_s=1e3 * run.cpu_s / tokens,
        peak=_peak(load),
        mean=sum(max(0.0, min(high, a.last_at) - max(low, a.received_at)) for a in load) / (high - low),
        connections=len({answer.connection for answer in run.answers}),
        requests=len(load),
        tokens_per_s=sum(low <= at < high for answer in load for at in _token_times(answer)) / (high - low),
        first_request_s=min(answer.received_at for answer in asked) - run.started_at,
    )


def _at(samples: Sequence[tuple[float, float]], moment: float) -> float:
    """The value at a moment, on a straight line between samples."""
    after = bisect_left(samples, (moment, 0.0))
    if after in (0, len(samples)):
        return samples[min(after, len(samples) - 1)][1]
    (low, least), (high, most) = samples[after - 1], samples[after]
    return least + (most - least) * (moment - low) / (high - low)


def _peak(load: Iterable[Answer]) -> int:
    steps = sorted([(a.received_at, 1) for a in load] + [(a.last_at, -1) for a in load])
    there = most = 0
    for _, step in steps:
        there += step
        most = max(most, there)
    return most


def _token_times(answer: Answer) -> Iterable[float]:
    """Evenly spread: the server sends them by its timer."""
    gap = (answer.last_at - answer.first_at) / max(1, answer.tokens - 1)
    return (answer.first_at + gap * token for token in range(answer.tokens))


def middle(runs: Sequence[Figures]) -> Figures:
    """The median of each figure."""
    return Figures(**{each.name: median(getattr(one, each.name) for one in runs) for each in fields(Figures)})


def table(found: Mapping[tuple[int, str], Sequence[Figures]], missing: Mapping[str, str]) -> str:
    """Markdown: a row for each number of streams and client."""
    rows = [_row(streams, name, runs) for (streams, name), runs in found.items()]
    rows += [["–", name, f"not installed: {why}", *[""] * (len(HEAD) - 3)] for name, why in missing.items()]
    lines = [HEAD, ["---:", "---", *["---:"] * (len(HEAD) - 2)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _row(streams: int, name: str, runs: Sequence[Figures]) -> list[str]:
    if not runs:
        return [str(streams), name, "failed", *[""] * (len(HEAD) - 3)]
    one, errors = middle(runs), [each.error_p50_ms for each in runs]
    spread = f" [{_ms(min(errors))}..{_ms(max(errors))}]" if len(runs) > 1 else ""
    perfect = streams * TOKENS / ANSWER_S
    return [
        str(streams),
        name,
        _ms(one.error_p50_ms) + spread,
        _ms(one.error_p99_ms),
        f"{one.true_p50_ms:.2f} / {one.true_p99_ms:.2f}",
        f"{one.cpu_load_s:.3f}",
        f"{one.cpu_whole_s:.3f}",
        f"{one.peak:.0f} / {one.mean:.1f}",
        f"{one.connections:.0f} / {one.requests:.0f}",
        f"{one.tokens_per_s:,.0f} ({one.tokens_per_s / perfect:.0%})",
        f"{one.first_request_s:.1f}",
    ]


def _ms(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.0f}"
