"""What calls for doubt in the figures of one load: each caution with advice. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from autotune.metrics import slow

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from autotune.benchmark.phases import LoadResult, Look
    from autotune.benchmark.workload import Workload
    from autotune.health import Health
    from autotune.metrics import Metrics
    from autotune.rival import Rival
    from autotune.telemetry import DeviceSample

AGING = "llama.cpp, for one, becomes slower as its cache of prompts fills: LLAMA_ARG_CACHE_RAM=0 turns that off"
"""What may be the matter with a server that did not stay as it was."""

MOST_STOPPED_EARLY = 0.2
"""Share of answers that may end by themselves before a caution: their lengths are then no longer the study's."""

FEWEST_CHUNKS = 0.8
"""Pieces of text for each token. With fewer, pieces come bundled, and gaps between them say little of tokens."""

MOST_APART = 0.1
"""By how much the client's time per token may differ from the server's own."""

MOST_DRIFT = 0.05
"""By how much the output rate may change over a window, where it surely does."""

LEAST_IN_FLIGHT = 0.9
"""Of the users that were asked for, on their way in the mean."""

MOST_UNEXPLAINED = 0.2
"""What Little's law may leave, in windows in which many requests find room."""


def doubts(
    loaded: LoadResult,
    metrics: Metrics,
    health: Health,
    *,
    workload: Workload | None = None,
    input_tokens: float | None = None,
    precision: float | None = None,
    alike: Mapping[str, Hashable] | None = None,
) -> list[str]:
    """Cautions of one load. `input_tokens` and `precision` are what was asked for, where something was.

    `alike` is what each instance is, by name: one is held only against others that are the same. Without it all are.

    One that was dropped ended in the midst of everything, and nobody goes by its figures: what counts is what failed.
    """
    if loaded.look.dropped:
        return [*loaded.cautions, *_failures(loaded)]
    found = [*loaded.cautions, *_failures(loaded), *_of_requests(metrics, input_tokens), *_of_time(metrics, health)]
    if workload is not None and workload.cached:
        found.append(f"the prompt cache is part of what was measured: {workload.cached}")
    if workload is not None and workload.left_out:
        found.append(f"{workload.left_out} entries of the file are not used: no answer, or too long for the context")
    found += [
        f"instance {name} takes {ratio:.2f} times as long for a token as the others: look at its device"
        for name, ratio in slow(metrics.instances, alike).items()
    ]
    look = loaded.look
    if look.overload is not None:
        over = f"{look.overload.offered:.3g} requests/s came and {look.overload.served:.3g} were answered"
        found.append(f"overloaded: {over}, and the queue only grew; the window ended early")
        return found
    if open_ := [name for name, decision in look.limits.items() if decision == "open"]:
        found.append(f"not decided: {', '.join(open_)}: too few requests, or too close; a longer window tells more")
    if precision is not None and not look.sunk and (look.precision is None or look.precision > precision):
        known = "is not known" if look.precision is None else f"is known to ±{look.precision:.1%}"
        found.append(f"the output rate {known}, not to ±{precision:.1%}: a longer window tells more")
    return found


def why_dropped(look: Look, rival: Rival | None) -> str:
    """Why the load that ended with this look was a candidate's last."""
    when = f"after {look.after_s:.0f} s" if look.after_s is not None else "early"
    if look.beaten and rival is not None:
        return f"cannot beat {rival.tps:.0f} tokens/s: at most {look.most_tps or 0.0:.0f} {when}"
    if look.overload is not None:
        came, answered = look.overload.offered, look.overload.served
        return f"overloaded {when}: {came:.3g} requests/s came and {answered:.3g} were answered"
    missed = ", ".join(name for name, decision in look.limits.items() if decision == "violated")
    return f"surely misses {missed}{' more than twofold' if look.stage == 'warm-up' else ''} {when}"


def _failures(loaded: LoadResult) -> Iterator[str]:
    """How many requests of the whole load failed, and most often of what."""
    failed = [record for record in loaded.records if record.outcome.failure]
    if failed and not loaded.gave_up:
        (words, times), *_ = Counter(record.error or record.outcome.value for record in failed).most_common(1)
        most = f", {times} of them" if times < len(failed) else ""
        yield f"{len(failed)} requests failed{most}: {words}"


def _of_requests(metrics: Metrics, input_tokens: float | None) -> Iterator[str]:
    if metrics.cold:
        yield f"{metrics.cold} requests met a model that was not loaded; they are left out"
    if metrics.unsent:
        yield f"{metrics.unsent} requests were due in the window and never left: too many were on their way"
    if metrics.connected:
        yield f"{metrics.connected} requests of the window had to open a connection first"
    if metrics.stopped_early is not None and metrics.stopped_early > MOST_STOPPED_EARLY:
        yield f"{metrics.stopped_early:.0%} of the answers ended before num_predict: choose one that they reach"
    if input_tokens and metrics.input_tokens is not None and abs(metrics.input_tokens / input_tokens - 1) > 0.3:
        yield f"prompts have {metrics.input_tokens:.0f} tokens in the mean, not {input_tokens:g}"
    if metrics.tokens_per_chunk is None and metrics.outcomes.get("ok"):
        yield "the server told no numbers of tokens: each piece of text counts as one, whatever is in it"
    if metrics.tokens_per_chunk is not None and 1 / metrics.tokens_per_chunk < FEWEST_CHUNKS:
        yield f"{1 / metrics.tokens_per_chunk:.2f} pieces of text for each token: chunk gaps are not those of tokens"


def _of_time(metrics: Metrics, health: Health) -> Iterator[str]:
    if metrics.pace is not None and abs(metrics.pace - 1) > MOST_APART:
        yield f"a token takes {metrics.pace:.2f} times as long here as the server says: text is held up on its way"
    if metrics.drift is not None and metrics.drift_range is not None and abs(metrics.drift) > MOST_DRIFT:
        low, high = metrics.drift_range
        if low > 0 or high < 0:
            yield f"the output rate changed by {metrics.drift:+.0%} of its mean from one end of the window to the other"
    users = health.intended_in_flight
    if users and metrics.success_rate >= 0.99 and metrics.in_flight < LEAST_IN_FLIGHT * users:
        yield f"only {metrics.in_flight:.1f} of {users} users were on their way in the mean: the client lost time"
    many = metrics.e2e_s.mean is not None and metrics.window_s > 5 * metrics.e2e_s.mean
    if many and metrics.little is not None and abs(metrics.little) > MOST_UNEXPLAINED:
        yield f"{metrics.little:+.0%} of the requests in flight are not explained by their rate and length: not steady"


def heat(samples: Sequence[DeviceSample]) -> list[str]:
    """Cautions of GPUs that were slowed down."""
    return [
        f"GPU {sample.device} was throttled ({', '.join(sample.throttle_reasons)}) at {sample.temperature_c} °C:"
        " better cooling, or a lower power limit, makes figures that repeat"
        for sample in samples
        if sample.throttled
    ]
