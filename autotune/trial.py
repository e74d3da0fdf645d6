"""One trial from plan to result: the one place where a fault of the configuration becomes an outcome."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from autotune import telemetry
from autotune.benchmark.calibration import calibrated
from autotune.benchmark.load import run
from autotune.benchmark.pacer import ClosedLoop, OpenLoop
from autotune.benchmark.phases import Phases
from autotune.benchmark.workload import SeededWorkload
from autotune.cluster import verify
from autotune.cluster.verify import Placement  # noqa: TC001 - the store reads the fields of TrialResult
from autotune.errors import NoAnswer, TrialFailure
from autotune.metrics import COLD_S, Metrics, measure
from autotune.score import Score, failed, judge
from autotune.stats import enough
from autotune.telemetry import DeviceSample  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from autotune.benchmark.flight import Client
    from autotune.benchmark.phases import LoadResult, Progress
    from autotune.benchmark.workload import Workload
    from autotune.cluster.cluster import Cluster
    from autotune.events import Events
    from autotune.inventory import Inventory
    from autotune.plan import InstancePlan, Plan, Provenance
    from autotune.records import RequestRecord
    from autotune.spec import Level, StudySpec

MOST_STOPPED_EARLY = 0.2
"""Share of answers that may end by themselves before a caution: their lengths are then no longer the study's."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The GPUs around one load; empty where there are none."""

    before: tuple[DeviceSample, ...]
    after: tuple[DeviceSample, ...]


@dataclass(frozen=True, slots=True)
class TrialResult:
    """All that is kept of a trial besides its records."""

    number: int
    params: dict[str, Any]
    fingerprint: str
    layout: str
    instances: int
    score: Score
    levels: dict[str, Metrics]
    """By level label, in the order of the study file."""
    windows: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Start and end of each level's window on the clock of its records: with them the metrics can be computed again."""
    placements: tuple[Placement, ...] = ()
    samples: dict[str, Samples] = field(default_factory=dict)
    """How the GPUs were before and after each load, by level label."""
    cautions: tuple[str, ...] = ()
    reason: str = ""
    """Why the configuration could not be measured: a `TrialFailure.reason`; empty when it was."""
    message: str = ""
    """The same for people."""
    details: str = ""
    """The instance's last words."""
    began_at: str = ""
    seconds: float = 0.0
    """Wall clock from the first stage to the last."""
    simulated: bool = False

    @property
    def measured(self) -> bool:
        """Whether there are figures."""
        return not self.reason


@dataclass
class Bench:
    """What all trials of a study share."""

    spec: StudySpec
    inventory: Inventory
    cluster: Cluster
    events: Events
    workload: Workload
    client: Callable[[Plan], AbstractAsyncContextManager[Client]]
    keep: Callable[[int, dict[str, str]], None]
    """Keeps the logs of a trial that failed, by instance."""
    remember: Callable[[float], None] | None = None
    """Called with the characters a token that the server's own counts gave; None when the workload is calibrated."""
    alone: dict[tuple[str, ...], Placement] = field(default_factory=dict)
    """Placements of the model alone, by the kinds of its devices; filled where a placement is in doubt."""
    fresh: bool = False
    """Whether every instance is started anew for each trial, also one that could go on."""
    mark: dict[str, Any] = field(default_factory=dict)
    """Fields of every event."""

    provenance: Provenance | None = None
    """What the trials run on, to be kept beside their plans."""

    @contextmanager
    def proving(self, proof: int, keep: Callable[[int, dict[str, str]], None]) -> Iterator[None]:
        """Inside, trials are the runs of that proof: on fresh starts, and with logs in a place of their own."""
        before = self.keep, self.fresh, self.mark
        self.keep, self.fresh, self.mark = keep, True, {"proof": proof}
        try:
            yield
        finally:
            self.keep, self.fresh, self.mark = before

    async def trial(
        self, number: int, params: dict[str, Any], plan: Plan
    ) -> tuple[TrialResult, list[Sequence[RequestRecord]]]:
        """Measure one plan. Raises `ClusterError` and `StorageError`, which are never the configuration's fault."""
        now = asyncio.get_running_loop().time
        began = now()
        blank = TrialResult(
            number=number,
            params=params,
            fingerprint=plan.fingerprint,
            layout=plan.layout,
            instances=len(plan.instances),
            score=failed("failed"),
            levels={},
            began_at=datetime.now(UTC).isoformat(),
            simulated=self.spec.cluster.simulated,
        )
        records: list[Sequence[RequestRecord]] = []
        try:
            result = await self._measure(blank, plan, records)
        except TrialFailure as failure:
            result = replace(
                blank,
                score=failed(failure.reason),
                reason=failure.reason,
                message=failure.message,
                details=failure.details,
            )
            self.keep(blank.number, self.cluster.logs())
            await self.cluster.clear()
            telemetry.snapshot(self.inventory)  # a GPU that is gone is the fault behind the fault
        return replace(result, seconds=now() - began), records

    async def _measure(self, blank: TrialResult, plan: Plan, records: list[Sequence[RequestRecord]]) -> TrialResult:
        number = blank.number
        with self._span("start", number):
            if self.fresh:
                await self.cluster.clear()
            await self.cluster.become(plan)
        with self._span("preload", number):
            await self.cluster.load(plan)
        with self._span("verify", number):
            placements = await self._verify(plan)
        levels: dict[str, Metrics] = {}
        windows: dict[str, tuple[float, float]] = {}
        samples: dict[str, Samples] = {}
        cautions: list[str] = []
        async with self.client(plan) as client:
            await self._calibrate(client)
            for level in self.spec.workload.levels:
                before = telemetry.snapshot(self.inventory)
                loaded = await self._load(client, plan, level, number)
                self.cluster.check()
                if loaded.gave_up:
                    raise NoAnswer(f"{level.label}: nothing but failures came back: {_last_error(loaded)}")
                samples[level.label] = Samples(before, telemetry.snapshot(self.inventory))
                records.append(loaded.records)
                windows[level.label] = loaded.window_start, loaded.window_end
                levels[level.label] = metrics = self._figures(loaded)
                doubts = _doubts(self.spec, loaded, metrics, samples[level.label])
                cautions += [f"{level.label}: {doubt}" for doubt in doubts]
                self.events.show({"what": "level", "label": level.label, "metrics": metrics})
                self.events.show({"what": "devices", "samples": samples[level.label].after})
        self.events.note("loaded", number=number, **self.mark)
        score = judge(self.spec, levels)
        return replace(
            blank,
            score=score,
            levels=levels,
            windows=windows,
            placements=placements,
            samples=samples,
            cautions=(*verify.unproved(placements), *cautions, *score.cautions),
        )

    def _span(self, what: str, number: int, **fields: Any) -> AbstractContextManager[None]:
        return self.events.span(what, number=number, **self.mark, **fields)

    async def _verify(self, plan: Plan) -> tuple[Placement, ...]:
        """Hold what runs against the plan; where layers are missing, against the model alone on such devices."""
        found = await self.cluster.placements(plan)
        pairs = list(zip(plan.instances, found, strict=True))
        doubtful = {self._kinds(instance): instance for instance, one in pairs if verify.short(one)}
        unknown = {kinds: instance for kinds, instance in doubtful.items() if kinds not in self.alone}
        for kinds, instance in unknown.items():
            only = verify.alone(plan, instance)
            await self.cluster.become(only)
            await self.cluster.load(only)
            self.alone[kinds] = (await self.cluster.placements(only))[0]
        for instance, one in pairs:
            verify.check(plan, one, self.alone.get(self._kinds(instance)))
        if unknown:  # nothing is missing after all: bring the plan back
            await self.cluster.become(plan)
            await self.cluster.load(plan)
        return found

    def _kinds(self, instance: InstancePlan) -> tuple[str, ...]:
        """What its devices are, whichever of their kind they are."""
        kinds = {device.id: device.kind for device in self.inventory.devices}
        return tuple(sorted(kinds[device] for device in instance.devices))

    async def _calibrate(self, client: Client) -> None:
        """Once a study: all its trials get the same prompts."""
        if self.remember is None or not isinstance(self.workload, SeededWorkload):
            return
        better = await calibrated(client, self.workload)
        if better is not self.workload:
            self.workload = better
            self.remember(better.chars_per_token)
            self.remember = None

    async def _load(self, client: Client, plan: Plan, level: Level, number: int) -> LoadResult:
        """One load, in seconds of the played host where there is one."""
        scale = self.spec.cluster.time_scale

        def progress(seen: Progress) -> None:
            self.events.show({"what": "progress", "label": level.label, "progress": seen.scaled(scale)})

        with self._span("load", number, label=level.label):
            loaded = await run(
                client,
                self.workload,
                self._pacer(level, scale),
                phases(self.spec, level).scaled(1 / scale),
                f"{number}-{level.label}-{secrets.token_hex(8)}",
                progress,
                len(plan.instances),
            )
        seconds = max(loaded.window_end - loaded.window_start, 0.0)
        self.events.note("window", number=number, **self.mark, label=level.label, seconds=seconds)
        return loaded.scaled(scale)

    def _pacer(self, level: Level, scale: float) -> ClosedLoop | OpenLoop:
        seed = self.spec.study.seed
        if level.users is not None:
            return ClosedLoop(level.users, seed)
        assert level.rate is not None
        return OpenLoop(level.rate * scale, level.arrivals, seed)

    def _figures(self, loaded: LoadResult) -> Metrics:
        return measure(
            loaded.records,
            window_start=loaded.window_start,
            window_end=loaded.window_end,
            open_loop=isinstance(loaded.level, OpenLoop),
            cold_s=COLD_S * self.spec.cluster.time_scale,
        )


def phases(spec: StudySpec, level: Level) -> Phases:
    """How long a load takes, and how many requests its limits need."""
    limits = [limit for limit in spec.objective.limits if spec.level(limit.at) == level]
    return Phases(
        warmup_s=spec.workload.warmup_s,
        warmup_max_s=spec.workload.warmup_max_s,
        window_s=spec.workload.window_s,
        window_max_s=spec.workload.window_max_s,
        drain_s=spec.workload.drain_s,
        min_requests=max((enough(limit.statistic) for limit in limits), default=0),
    )


def _doubts(spec: StudySpec, loaded: LoadResult, metrics: Metrics, samples: Samples) -> list[str]:
    """Cautions that one load calls for, each with advice."""
    found = [*loaded.cautions, *_heat(samples.after)]
    if metrics.cold:
        found.append(f"{metrics.cold} requests met a model that was not loaded; they are left out")
    if metrics.connected:
        found.append(f"{metrics.connected} requests of the window had to open a connection first")
    if metrics.stopped_early is not None and metrics.stopped_early > MOST_STOPPED_EARLY:
        found.append(f"{metrics.stopped_early:.0%} of the answers ended before num_predict: choose one that they reach")
    asked = spec.workload.input_tokens
    if asked is not None and metrics.input_tokens is not None and abs(metrics.input_tokens / asked.mean - 1) > 0.3:
        found.append(f"prompts have {metrics.input_tokens:.0f} tokens in the mean, not {asked.mean}")
    return found


def _last_error(loaded: LoadResult) -> str:
    return next((record.error for record in reversed(loaded.records) if record.error), "no reason was given")


def _heat(samples: Sequence[DeviceSample]) -> list[str]:
    return [
        f"GPU {sample.device} was throttled ({', '.join(sample.throttle_reasons)}) at {sample.temperature_c} °C:"
        " better cooling, or a lower power limit, makes figures that repeat"
        for sample in samples
        if sample.throttled
    ]
