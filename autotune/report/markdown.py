"""A study's findings as a page of Markdown."""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING

from autotune.confirm import BASELINE
from autotune.report.beliefs import checked, foretold_rows, odds_rows, remaining
from autotune.report.conditions import conditions
from autotune.report.words import changed, configuration, distance, figure, flags, percent, reached
from autotune.result import amount
from autotune.simulator import SIMULATED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from autotune.confirm import Verdict
    from autotune.plan import Provenance
    from autotune.report.findings import Change, Findings

MOST_CONTENDERS = 15

_REPEAT = """\
Save the study file below under its own name and run it on the same host, with the same Ollama and the same model:

    autotune run {name}.toml{flags}

Its seed fixes lengths, arrivals and bodies of all requests; only the nonce in front of each is new.
"""


def markdown(found: Findings, source: str, provenance: Provenance | None = None) -> str:
    """The report of a study; `source` is the text of its study file."""
    parts = [
        [f"# {found.spec.study.name}: {found.spec.cluster.model}"],
        [f"**{SIMULATED}**"] if found.spec.cluster.simulated else [],
        [found.answer],
        _before_after(found),
        _list("Requests within all limits", found.attained),
        _front(found),
        _proof(found),
        _ranking(found),
        _odds(found),
        _beliefs(found),
        _list("Not feasible", found.infeasible),
        _list("Cautions", found.cautions),
        [f"The client: {found.client}."] if found.client else [],
        [_escaped(f"The search began with what earlier studies say: {found.warm}.")] if found.warm else [],
        _host(provenance),
        [
            "## How to repeat it",
            _REPEAT.format(name=found.spec.study.name, flags=flags(found.spec, source)),
            _fenced(source),
        ],
    ]
    return "\n\n".join(text.strip("\n") for part in parts for text in part) + "\n"


def _before_after(found: Findings) -> list[str]:
    if not found.changes:
        return []
    rows = [row for change in found.changes for row in _rows(change)]
    table = _table(("load", "", "mean TTFT, s", "p50", "p95", "TPS, tokens/s"), rows)
    return ["## Before and after", f"{found.title}.", table]


def _rows(change: Change) -> Iterator[tuple[str, ...]]:
    for name, one in (("baseline", change.before), ("new", change.after)):
        yield change.label, name, *map(figure, astuple(one))
    yield change.label, "change", *map(percent, astuple(change.relative))


def _proof(found: Findings) -> list[str]:
    proof = found.proof
    if proof is None or not proof.blocks:
        return []
    rows, unit = [], found.unit
    for number, one in enumerate(proof.contenders):
        gain = proof.gain(number) if number != BASELINE else None
        tps, worst = one.mean_tps, proof.worst(number) if number != BASELINE else None
        rows.append(
            (
                configuration(one.params) + ("  (baseline)" if number == BASELINE else ""),
                ", ".join("failed" if value is None else amount(value, unit) for value in one.tps),
                f"{amount(tps.mean, unit)} ({amount(tps.low, unit)} to {amount(tps.high, unit)})" if tps else "–",
                f"{gain.mean:+.1%} ({gain.low:+.1%} to {gain.high:+.1%})" if gain else "–",
                f"{worst[1]:+.1%} (block {worst[0] + 1})" if worst else "–",
                _limits(proof, number),
            )
        )
    words = (
        f"{proof.blocks} blocks, in each of which every candidate ran once on fresh starts, in alternating order."
        f" The mean is shown with its 95 % interval. Changes and limits hold all together, at every planned look, with"
        f" {proof.rules.confidence:.0%} confidence."
    )
    head = ("candidate", f"{unit}, run by run", "mean", "against the baseline", "worst block", "limits")
    return ["## Proof", words, _table(head, rows), *_lines(conditions(proof))]


def _front(found: Findings) -> list[str]:
    """Where several goals count: each with its interval, and against the baseline."""
    if not found.front:
        return []
    goals = [one.goal for one in found.front[0].reached]
    head = ("trial", "configuration", *(name for goal in goals for name in (goal, "against the baseline")), "where")
    rows = [
        (
            "–" if one.trial is None else str(one.trial),
            one.configuration,
            *(cell for made in one.reached for cell in (reached(made), changed(made) or "–")),
            one.place,
        )
        for one in found.front
    ]
    words = "Nothing that was measured beats a point of the front. `autotune export STUDY --trial N` takes one of them."
    return ["## The front", words, _table(head, rows)]


def _limits(proof: Verdict, number: int) -> str:
    """How far one candidate is from its limits."""
    one = proof.contenders[number]
    told = [distance(name, value) for name, value in proof.violations[number].items()]
    told += [f"{name}: not known" for name in sorted(one.undecided)]
    told += [f"{one.failures} of {len(one.runs)} runs failed: {one.reason}"] if one.failures else []
    return "; ".join(told) or "–"


def _ranking(found: Findings) -> list[str]:
    if not found.ranking:
        return []
    title = f"## The best {len(found.ranking)} of {found.configurations} configurations in the search"
    head = ("", found.objective, "mean TTFT, s", "configuration", "verdict")
    rows = [
        (str(one.number), figure(one.tps, found.unit), figure(one.ttft_mean), one.configuration, one.verdict)
        for one in found.ranking
    ]
    return [title, _table(head, rows)]


def _odds(found: Findings) -> list[str]:
    if found.odds is None:
        return []
    shown = found.odds.contenders[:MOST_CONTENDERS]
    return ["## What could still win", _table(*odds_rows(shown)), remaining(found.odds, len(shown))]


def _beliefs(found: Findings) -> list[str]:
    if not found.foretold:
        return []
    words = "Before each trial: what it would measure, with the 95 % interval, by all trials until then."
    return [
        "## What the search believed",
        words,
        _table(*foretold_rows(found.foretold)),
        *_lines(checked(found.foretold)),
    ]


def _list(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", *_lines(lines)] if lines else []


def _lines(lines: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {_escaped(line)}" for line in lines)] if lines else []


def _host(provenance: Provenance | None) -> list[str]:
    if provenance is None:
        return []
    driver = f", NVIDIA driver {provenance.driver}" if provenance.driver else ""
    lines = [
        f"autotune {provenance.autotune}, Ollama {provenance.ollama}{driver}",
        f"model {provenance.model}, digest {provenance.model_digest}",
        *(f"{one.name}, {one.id}, {one.memory_bytes / 2**30:.1f} GiB" for one in provenance.devices),
    ]
    return _list("Measured on", lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)


def _escaped(text: str) -> str:
    """Layouts are written with bars, programs say all kinds of things."""
    for mark in ("\\", "|", "*", "_", "`", "<", "["):
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _fenced(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}toml\n{text.rstrip()}\n{fence}"
