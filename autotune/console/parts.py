"""The parts of the live view: what is in each, and how long it stays where the terminal is low."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from statistics import fmean
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.text import Text

from autotune.console import timeline
from autotune.console.scene import LOADED, STAGES, candidate_name, kind
from autotune.console.spark import bars
from autotune.console.timeline import MARKS, STYLES
from autotune.plan import GIB
from autotune.report.words import configuration, seconds, span
from autotune.result import amount

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from autotune.benchmark.phases import Progress
    from autotune.console.scene import Scene
    from autotune.console.spark import Point, Track
    from autotune.inventory import Device
    from autotune.result import TrialResult
    from autotune.standing import Standing
    from autotune.telemetry import DeviceSample

NARROW = 72
MOST_RANKED = 5
MOST_DEVICES = 16
STEPS = dict(zip(STAGES, ("restart", "load", "check", "warm-up", "window", "drain", "save"), strict=True))


@dataclass(frozen=True, slots=True)
class Row:
    """One line, and its worth: where there is no room the lowest goes first."""

    text: Text
    worth: int


@dataclass(frozen=True, slots=True)
class Section:
    """Lines that belong together."""

    title: str
    rows: list[Row]
    short: str = ""
    """The title where it is too long."""
    worth: int = 65
    """Of the line with the title; it never outlives what stands below it."""


# the night


def night(scene: Scene, now_s: float, width: int) -> Section:
    """The time line, and in words how far it is."""
    bar, labels = timeline.rows(scene, now_s, width)
    far = f"{span(now_s - scene.began_s)} so far"
    sentence = f"{scene.progress(now_s)}; {far}"
    rows = [Row(bar, 88), Row(labels, 50)]
    if len(sentence) <= width:
        rows.append(Row(Text(sentence), 86))
    else:
        rows += [Row(Text(scene.progress(now_s)), 86), Row(Text(far), 30)]
    return Section("", [*rows, Row(timeline.legend(width), 20)])


# what goes on


def now(scene: Scene, now_s: float, width: int) -> Section:
    """What runs, which stage it is in, and its figures as they come."""
    rows = [Row(Text(scene.subject or scene.stage.name, style="bold"), 95)]
    if scene.stage.name in STAGES:
        rows.append(Row(_steps(scene.stage.name), 45))
    rows.append(Row(_stage(scene, now_s, width), 94))
    if scene.track is not None and scene.track.figures is not None:
        rows += _figures(scene, scene.track, scene.track.figures, width)
    return Section(_title(scene), rows)


def _title(scene: Scene) -> str:
    title = scene.proof.title if scene.proof is not None else "now"
    labels = [level.label for level in scene.spec.workload.levels]
    if scene.track is None or len(labels) == 1 or scene.track.label not in labels:
        return title
    return f"{title}, load {labels.index(scene.track.label) + 1} of {len(labels)}"


def _steps(current: str) -> Text:
    """All that a trial goes through."""
    at = list(STEPS).index(current)
    marks = [("✓", "green")] * at + [("▶", "bold cyan")] + [(" ", "dim")] * (len(STEPS) - at - 1)
    parts = [(f"{mark}{step} ", style) for (mark, style), step in zip(marks, STEPS.values(), strict=True)]
    return Text.assemble(*parts)


def _stage(scene: Scene, now_s: float, width: int) -> Text:
    """The stage with its progress: how long it lasts, of how long it is meant to."""
    stage, track = scene.stage, scene.track
    words, elapsed_s, planned_s = STAGES.get(stage.name, stage.name), now_s - stage.began_s, stage.planned_s
    if stage.name in LOADED and track is not None and track.now is not None:
        words = f"{track.label}: {words}, {track.now.requests_done} requests"
        elapsed_s, planned_s = track.now.elapsed_s, track.now.planned_s
    if not planned_s:
        return Text.assemble((words, "cyan"), f"  {span(elapsed_s)}")
    clock = f"{elapsed_s:.0f} of {planned_s:.0f} s"
    room = width - len(words) - len(clock) - 4
    return Text.assemble((words, "cyan"), "  ", *_bar(elapsed_s / planned_s, room), clock)


def _bar(share: float, room: int) -> Iterable[tuple[str, str]]:
    if room < 6:
        return []
    done = round(min(max(share, 0.0), 1.0) * room)
    return [("━" * done, "cyan"), ("─" * (room - done) + "  ", "dim")]


def _figures(scene: Scene, track: Track, last: Progress, width: int) -> list[Row]:
    """TPS and TTFT from the beginning of the load, each beside its figure now."""
    limits = _limits(scene, track.label)
    highest = min((limit for _, limit in limits), default=None)
    tps, ttft = Text(f"{last.output_tps:.1f} tokens/s", style="bold"), _wait(last.ttft_s, limits, highest)
    room = max(width - 7 - max(len(tps), len(ttft)), 0)
    columns = track.columns(room)
    speeds = [None if point is None else point.tps for point in columns]
    waits = [None if point is None else point.ttft_s for point in columns]
    fastest = max([_best_tps(scene, track.label), *(speed for speed in speeds if speed is not None)])
    longest = max([highest or 0.0, *(wait for wait in waits if wait is not None)])
    hot = [highest is not None and wait is not None and wait > highest for wait in waits]
    return [
        Row(_line("TPS", columns, bars(speeds, fastest), ["cyan"] * len(columns), room).append_text(tps), 93),
        Row(
            _line("TTFT", columns, bars(waits, longest), ["red" if one else "green" for one in hot], room).append_text(
                ttft
            ),
            92,
        ),
    ]


def _wait(ttft_s: float | None, limits: Sequence[tuple[str, float]], highest: float | None) -> Text:
    """The TTFT, and what it must not exceed."""
    over = highest is not None and ttft_s is not None and ttft_s > highest
    words = ", ".join(
        f"{limit:g} s" if statistic == "mean" else f"{statistic} {limit:g} s" for statistic, limit in limits
    )
    shown = Text.assemble((seconds(ttft_s), "bold red" if over else "bold"))
    return shown.append(f"  {'over' if over else 'limit'} {words}", style="red" if over else "dim") if words else shown


def _limits(scene: Scene, label: str) -> list[tuple[str, float]]:
    spec, everywhere = scene.spec, scene.spec.objective.metric == "capacity"
    return [
        (limit.statistic, limit.max)
        for limit in spec.objective.limits
        if limit.metric == "ttft_s" and (everywhere or spec.level(limit.at).label == label)
    ]


def _best_tps(scene: Scene, label: str) -> float:
    """What the best so far made of this load: the bars are held against it."""
    best = scene.standings[0] if scene.standings else None
    if best is None or not best.feasible or label not in best.results[-1].levels:
        return 0.0
    return best.results[-1].levels[label].output_tps


def _line(name: str, columns: Sequence[Point | None], shown: str, styles: Sequence[str], room: int) -> Text:
    """A row of bars; those outside the window are dim."""
    looks = [
        style if point is not None and point.stage == "window" else f"dim {style}"
        for point, style in zip(columns, styles, strict=True)
    ]
    pieces = groupby(zip(shown, looks, strict=True), key=itemgetter(1))
    parts = [("".join(bar for bar, _ in alike), look) for look, alike in pieces]
    return Text.assemble(f"{name:5}", *parts, " " * (room - len(columns) + 2))


# devices


def devices(scene: Scene, width: int) -> Section:
    """Which instance is where, and how the devices are."""
    every = scene.ground.inventory.devices if scene.ground is not None else ()
    samples = {sample.device: sample for sample in scene.samples}
    alike = len({device.name for device in every}) == 1
    names = {device.index: "" if alike else _short(device.name) for device in every}
    rows = [
        Row(_device(device, names[device.index], scene, samples.get(device.index), width), 60 - place)
        for place, device in enumerate(every[:MOST_DEVICES])
    ]
    if len(every) > MOST_DEVICES:
        rows.append(Row(Text(f"… and {len(every) - MOST_DEVICES} more", style="dim"), 40))
    kinds = Counter(f"{_short(device.name)}, {device.memory_bytes / GIB:.0f} GiB" for device in every)
    title = ", ".join(f"{count} × {name}" for name, count in kinds.items())
    return Section(title, rows, short=f"{len(every)} devices")


def _short(name: str) -> str:
    return name.removeprefix("NVIDIA ").removeprefix("GeForce ")


def _device(device: Device, name: str, scene: Scene, sample: DeviceSample | None, width: int) -> Text:
    plan = scene.plan
    here = [one for one in plan.instances if device.id in one.devices] if plan is not None else []
    who = here[0].name + "".join(f", {more.name.removeprefix('ollama-')}" for more in here[1:]) if here else "–"
    slots = f"  {here[0].slots} slots" if here else ""
    line = Text.assemble(f"{device.index:>2}  ", (f"{name}  " if name else ""), (who, "bold" if here else "dim"))
    room = max(width - cell_len(line.plain) - 2, 0)
    shown = _sample(sample, device, room) if sample is not None else Text(slots, style="dim")
    return line.append(" " * max(room + 2 - len(shown), 2)).append_text(shown)


def _sample(sample: DeviceSample, device: Device, room: int) -> Text:
    """What slows it down, heat, power, memory: as much of it as there is room for."""
    figures = [
        ("throttled" if sample.throttled else "", "bold red"),
        ("" if sample.temperature_c is None else f"{sample.temperature_c} °C", ""),
        ("" if sample.power_w is None else f"{sample.power_w:.0f} W", ""),
        (f"{sample.memory_used_bytes / GIB:.1f}/{device.memory_bytes / GIB:.0f} GiB", ""),
    ]
    shown = Text()
    for figure, style in figures:
        gap = "  " if shown and figure else ""
        if len(shown) + len(gap) + len(figure) <= room:
            shown.append(gap).append(figure, style=style)
    return shown


# the best so far


def ranking(scene: Scene, width: int) -> Section:
    """The best few configurations, and the baseline."""
    headline = scene.headline()
    if not scene.results:
        return Section("best so far", [Row(Text(headline, style="dim"), 84)])
    best, *others = scene.standings
    own = scene.results[0].fingerprint
    base = [one for one in others[MOST_RANKED - 1 :] if one.results[0].fingerprint == own]
    rows = [
        Row(_columns("  ", scene.results[0].unit, "TTFT", "change", "", width), 42),
        Row(_ranked(scene, best, width), 90),
    ]
    for place, one in enumerate([*others[: MOST_RANKED - 1], *base]):
        rows.append(Row(_ranked(scene, one, width), 80 if one.results[0].fingerprint == own else 70 - 5 * place))
    short = headline.replace(" against the baseline", "") if "%" in headline else headline.partition(" (")[0]
    return Section(headline, rows, short, worth=84)


def _ranked(scene: Scene, one: Standing, width: int) -> Text:
    base, last = scene.results[0], one.results[-1]
    own = one.results[0].fingerprint == base.fingerprint
    star = "★" if one is scene.standings[0] and one.feasible else "B" if own else " "
    level = last.at or scene.spec.level(None).label
    wait = last.levels[level].ttft_s.mean if level in last.levels else None
    change = _change(one.objective, base.score.objective) if one.feasible and not own else ""
    line = _columns("", _number(one.objective, last.unit), seconds(wait), change, _named(one.params, width), width)
    return Text.assemble((star, "bold"), (MARKS[kind(last)], STYLES[kind(last)]), line)


def _columns(mark: str, tps: str, wait: str, change: str, rest: str, width: int) -> Text:
    """Figures under each other, with less between them where there is little room."""
    wide = 2 if width >= NARROW else 0
    return Text(f"{mark}{tps:>{8 + wide}}{wait:>{8 + wide}}{change:>{7 + wide}}  {rest}", style="dim" if mark else "")


def _change(tps: float | None, base: float | None) -> str:
    return f"{tps / base - 1:+.0%}" if tps is not None and base else ""


def _number(value: float | None, unit: str) -> str:
    return "–" if value is None else amount(value, unit)


def _named(params: Mapping[str, Any], width: int) -> str:
    """A configuration; in fewer letters where there is little room."""
    named = configuration(params)
    return named if width >= NARROW else named.replace("  NUM_PARALLEL ", "  np ").replace(" | ", "|")


# the proof


def proof(scene: Scene, width: int) -> Section:
    """The candidates with their runs so far: a mark for each, a point for each that must come."""
    now = scene.proof
    if now is None:
        return Section("", [])
    runs = [now.of(candidate) for candidate in range(len(now.candidates))]
    rows = [
        Row(_candidate(runs[place], runs[0], now.pairs, _candidate_named(place, params, width)), 91 - place)
        for place, params in enumerate(now.candidates)
    ]
    said = [Row(Text(line, style="magenta"), 85) for line in wrap(now.sentence, max(width, 1))]
    return Section("proof against the baseline", rows + said)


def _candidate_named(place: int, params: Mapping[str, Any], width: int) -> str:
    name = candidate_name(place) if width >= NARROW else str(place or "B")
    return f"{name}: {_named(params, width)}"


def _candidate(own: Sequence[TrialResult], base: Sequence[TrialResult], pairs: int, name: str) -> Text:
    """One candidate; its change is that of the blocks in which both have run."""
    marks = [(MARKS[kind(result)], STYLES[kind(result)]) for result in own]
    both = min(len(own), len(base))
    fair = own is not base and all(result.score.feasible for result in own)
    change = _change(_mean(own[:both]), _mean(base[:both])) if fair else ""
    figures = f" {_number(_mean(own), own[0].unit if own else ''):>8}{change:>7}  "
    return Text.assemble(*marks, ("·" * (pairs - len(own)), "dim"), figures, name)


def _mean(results: Sequence[TrialResult]) -> float | None:
    known = [result.score.objective for result in results if result.score.objective is not None]
    return fmean(known) if known else None


# doubts


def doubts(scene: Scene) -> Section:
    """The latest cautions and faults, the newest first."""
    styles = {"!": "yellow", "×": "red"}
    rows = [
        Row(Text.assemble((f"{mark} ", f"bold {styles[mark]}"), text), 40 - place if place else 70)
        for place, (mark, text) in enumerate(reversed(scene.doubts))
    ]
    return Section("cautions and faults", rows)
