"""All that one load says, in rows and sentences: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from autotune.console.amounts import NONE, PERCENT, SECONDS, Cell, cell, interval, number, of_sample, time_unit
from autotune.metrics import COLD_S, Window, slow
from autotune.report.words import seconds
from autotune.stats import enough

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autotune.bench import Found
    from autotune.benchmark.phases import Progress
    from autotune.console.amounts import Unit
    from autotune.goal import Bound
    from autotune.health import Health
    from autotune.metrics import Attainment, InstanceMetrics, Metrics, Summary
    from autotune.stats import Decision, Statistic

STATISTICS: tuple[Statistic, ...] = ("mean", "p50", "p95", "p99")

TIMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "chunk_gap_s": "chunk gap", "e2e_s": "end to end", "queue_s": "queue"}
"""What samples are called here."""

DECIDED: Mapping[Decision, str] = {"holds": "green", "violated": "red", "open": "yellow"}


@dataclass(frozen=True, slots=True)
class Row:
    """A metric, with a cell for each of the `STATISTICS`."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """A sentence, and what it is about."""

    about: str
    text: Text


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """What one instance did beside the others."""

    cells: tuple[str, ...]
    slow: bool


# times


def rows(found: Found) -> list[Row]:
    """TTFT and what it is made of, TPOT, end to end; of what the server does not tell there is no row."""
    metrics = found.metrics
    parts = {"queue": metrics.queue_s, "load": metrics.load_s, "prefill": metrics.prefill_s, "rest": metrics.rest_s}
    return [
        _row(TIMES["ttft_s"], metrics.ttft_s),
        *(_row(f"  {name}", summary) for name, summary in parts.items() if summary.n),
        *([_row("TTFT to the answer", metrics.first_answer_s)] if thinks(found) else []),
        _row(TIMES["tpot_s"], metrics.tpot_s),
        _row(TIMES["e2e_s"], metrics.e2e_s),
    ]


def thinks(found: Found) -> bool:
    """Whether the first text was not always the answer's."""
    every = found.loaded.records
    return any(r.first_answer_at is not None and r.first_answer_at != r.first_content_at for r in every)


def _row(name: str, summary: Summary) -> Row:
    unit = time_unit(summary.p50)
    return Row(unit.of(name), tuple(of_sample(summary, statistic, unit) for statistic in STATISTICS))


def waits(found: Found) -> list[float]:
    """The TTFT of each request of the window that had a text, s."""
    loaded = found.loaded
    window = Window(loaded.window_start, loaded.window_end, loaded.open_loop, COLD_S)
    asked = [r for r in loaded.records if window.has(window.asked_at(r)) and not window.cold(r)]
    return [r.first_content_at - window.asked_at(r) for r in asked if r.first_content_at is not None]


# sentences


def headline(metrics: Metrics) -> str:
    """The rate, and what became of the requests."""
    others = {outcome: count for outcome, count in metrics.outcomes.items() if count and outcome != "ok"}
    told = "".join(f", {count} {outcome.replace('_', ' ')}" for outcome, count in others.items())
    return (
        f"{cell(metrics.output_tps, metrics.output_tps_range).line} tokens/s in a window of {metrics.window_s:.3g} s,"
        f" {metrics.success_rate:.1%} of {metrics.requests} requests ok{told}"
    )


def facts(found: Found, bounds: Sequence[Bound]) -> Iterator[Fact]:
    """What a table cannot say."""
    metrics = found.metrics
    for bound in bounds:
        decision = found.loaded.look.limits.get(bound.name, "open")
        yield Fact("limit", _limit(bound, decision, getattr(metrics, bound.metric)))
    told = {
        "all limits": _attained(found.attainment) if found.attainment is not None else "",
        "drift": _drift(metrics),
        "tokens": _tokens(metrics),
        "in flight": f"{metrics.in_flight:.1f} requests in the mean, {metrics.generating:.1f} with a slot",
        "client": client(found.health, open_loop=found.loaded.open_loop),
    }
    yield from (Fact(about, Text(said)) for about, said in told.items() if said)


def _limit(bound: Bound, decision: Decision, summary: Summary) -> Text:
    unit = time_unit(bound.most)
    found, few = of_sample(summary, bound.statistic, unit), f"{summary.n} requests are too few for the figure itself"
    known = f"{found.line} {unit.name}" if found.value != NONE else few
    most = f"{bound.most * unit.times:g} {unit.name}"
    return Text.assemble(
        f"{TIMES[bound.metric]} {bound.statistic} at most {most}: ", (decision, DECIDED[decision]), f" ({known})"
    )


def _attained(one: Attainment) -> str:
    if not one.requests:
        return "of no request is it known whether it met them"
    low, high = one.range
    met = f"met by {one.share:.1%} [{low:.1%}, {high:.1%}] of {one.requests} requests"
    return f"{met}; goodput {number(one.goodput_tps)} tokens/s"


def _drift(metrics: Metrics) -> str:
    """Nothing for a window that may be steady."""
    if metrics.drift is None or metrics.drift_range is None or metrics.drift_range[0] <= 0 <= metrics.drift_range[1]:
        return ""
    change = f"{number(metrics.drift, PERCENT, '+')}% {interval(metrics.drift_range, PERCENT, '+')}"
    return f"the output rate changed by {change} of its mean from one end of the window to the other"


def _tokens(metrics: Metrics) -> str:
    told = [
        ("{:.0f} in", metrics.input_tokens),
        ("{:.0f} out", metrics.output_tokens),
        ("{:.2f} a chunk", metrics.tokens_per_chunk),
        ("{:.0%} of the answers stopped early", metrics.stopped_early),
    ]
    return ", ".join(words.format(value) for words, value in told if value is not None)


def client(health: Health, *, open_loop: bool) -> str:
    """How well the client did, as far as it is known."""
    one = health.processes == 1
    most = "" if one else "at most "
    told = [
        (f"{health.processes} process{'' if one else 'es'}", health.processes or None),
        (f"{most}{{:.1%}} of a core", health.cpu),
        ("event loop at most {:.1f} ms late (p99)", _ms(health.loop_lag_s)),
        ("requests left at most {:.1f} ms late (p99)", _ms(health.send_lag_s) if open_loop else None),
        ("first texts read after {:.1f} ms (p99)", _ms(health.receive_lag_s)),
        ("{} connections opened", health.connected),
    ]
    return ", ".join(words.format(value) for words, value in told if value is not None)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


# instances


def instance_units(found: Mapping[str, InstanceMetrics]) -> tuple[Unit, Unit]:
    """In what TTFT and TPOT of all instances are shown."""
    return time_unit(*(one.ttft_p50_s for one in found.values())), time_unit(
        *(one.tpot_p50_s for one in found.values())
    )


def instance_rows(found: Mapping[str, InstanceMetrics]) -> Iterator[InstanceRow]:
    """Name, share of requests, share of tokens, TTFT p50 and p95, TPOT p50, TPS; none for one that is alone."""
    slowly, (wait, pace) = slow(found), instance_units(found)
    for name, one in found.items() if len(found) > 1 else ():
        cells = (
            name,
            f"{one.share:.0%}",
            f"{one.tokens_share:.0%}",
            _of_some(one.ttft_p50_s, one.requests, "p50", wait),
            _of_some(one.ttft_p95_s, one.requests, "p95", wait),
            _of_some(one.tpot_p50_s, one.answers, "p50", pace),
            number(one.output_tps),
        )
        yield InstanceRow(cells, name in slowly)


def _of_some(value: float | None, n: int, statistic: Statistic, unit: Unit = SECONDS) -> str:
    return cell(value if n >= enough(statistic) else None, unit=unit).value


# while it goes on


def going(label: str, now: Progress, width: int) -> str:
    """How a load goes on, in one line: as much of it as there is room for."""
    figures = [f"{now.output_tps:.1f} tokens/s", f"TTFT {seconds(now.ttft_s)}"] if now.stage != "drain" else []
    line = f"{label}: {now.stage} {now.elapsed_s:.0f} of {now.planned_s:.0f} s"
    for more in [*figures, f"{now.requests_done} requests done"]:
        if len(line) + len(more) + 2 <= width:
            line += f", {more}"
    return line[:width]
