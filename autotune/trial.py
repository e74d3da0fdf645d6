"""One trial from plan to result: the one place where a fault of the configuration becomes an outcome."""

from __future__ import annotations

import asyncio
import random
import secrets
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from autotune import aims, telemetry
from autotune.benchmark import pacer
from autotune.benchmark.calibration import calibrated
from autotune.benchmark.load import run
from autotune.cluster import verify
from autotune.doubts import AGING, doubts, heat, why_dropped
from autotune.errors import ClientSaturated, NoAnswer, TrialFailure
from autotune.health import ADVICE, examine
from autotune.ladder import decided
from autotune.metrics import measure, tokens
from autotune.result import Samples, TrialResult
from autotune.score import failed, judge, judge_capacity
from autotune.selftest import cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from autotune.benchmark.flight import Client
    from autotune.benchmark.phases import LoadResult, Look, Phases, Progress
    from autotune.benchmark.workload import Workload
    from autotune.cluster.cluster import Cluster
    from autotune.cluster.verify import Placement
    from autotune.events import Events
    from autotune.goal import Precise
    from autotune.health import Health
    from autotune.inventory import Inventory
    from autotune.metrics import Attainment, Metrics
    from autotune.plan import InstancePlan, Plan, Provenance
    from autotune.records import RequestRecord
    from autotune.rival import Rival
    from autotune.spec import Level, StudySpec


@dataclass
class Bench:
    """What all trials of a study share."""

    spec: StudySpec
    inventory: Inventory
    cluster: Cluster
    events: Events
    workload: Workload
    client: Callable[[Plan, int], AbstractAsyncContextManager[Client]]
    """The client of a load on a plan, in so many processes."""
    keep: Callable[[int, dict[str, str]], None]
    """Keeps the logs of a trial that failed, by instance."""
    remember: Callable[[float], None] | None = None
    """Called with the characters a token that the server's own counts gave; None when the workload is calibrated."""
    alone: dict[tuple[str, ...], Placement] = field(default_factory=dict)
    """Placements of the model alone, by the kinds of its devices; filled where a placement is in doubt."""
    processes: int = 1
    """Of the client; doubled when a load was too much for it."""
    fresh: bool = False
    """Whether every instance is started anew for each trial, also one that could go on."""
    mark: dict[str, Any] = field(default_factory=dict)
    """Fields of every event."""

    provenance: Provenance | None = None
    """What the trials run on, to be kept beside their plans."""
    rival: Rival | None = None
    """What a candidate has to beat: its trial ends as soon as it is clear that it does not. None: it is measured in
    full, as the baseline is, and all that runs in a proof."""
    brief: bool = False
    """Whether levels that decide nothing are left out."""
    extra: tuple[int, ...] = ()
    """So many users each are loaded shortly, too, after the levels of a trial that was not dropped."""
    block: int | None = None
    """Of a proof: the one that runs."""

    @contextmanager
    def proving(self, proof: int, keep: Callable[[int, dict[str, str]], None]) -> Iterator[None]:
        """Inside, trials are the runs of that proof: on fresh starts, and with logs in a place of their own."""
        before = self.keep, self.fresh, self.mark, self.rival, self.extra, self.brief, self.block
        self.keep, self.fresh, self.mark, self.rival, self.extra = keep, True, {"proof": proof}, None, ()
        try:
            yield
        finally:
            self.keep, self.fresh, self.mark, self.rival, self.extra, self.brief, self.block = before

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
            slots=tuple(instance.slots or plan.num_parallel for instance in plan.instances),
            upstreams=plan.balancer.upstreams,
            score=failed("failed"),
            unit=aims.unit(self.spec),
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
        if self.spec.objective.metric == "capacity":
            found, judged = await self._capacity(plan, number, blank)
            records += [one.records for one in found]
        else:
            found, judged = await self._levels(plan, number, blank)
            curve = [] if judged.dropped else await self._beside(plan, number)
            loaded = {one.label: one for one in found}
            levels = [loaded.get(level.label) for level in self.spec.workload.levels]
            records += [() if one is None else one.records for one in [*levels, *curve]]
            windows = {one.label: one.window for one in curve}
            judged = replace(judged, curve={one.label: one.metrics for one in curve}, windows=windows)
        self.events.note("loaded", number=number, **self.mark)
        return replace(
            judged,
            levels={one.label: one.metrics for one in found},
            health={one.label: one.health for one in found},
            attainments={one.label: one.attainment for one in found if one.attainment is not None},
            looks={one.label: one.look for one in found},
            windows={one.label: one.window for one in found} | judged.windows,
            placements=placements,
            samples={one.label: one.samples for one in found},
            cautions=(
                *verify.unproved(placements),
                *(f"{one.label}: {doubt}" for one in found for doubt in one.doubts),
                *judged.score.cautions,
                *judged.cautions,
            ),
        )

    async def _levels(self, plan: Plan, number: int, blank: TrialResult) -> tuple[list[_Measured], TrialResult]:
        """The study's levels in its order, and the result with its score; of one that was dropped those up to there."""
        found, dropped = list[_Measured](), ""
        for level in aims.ordered(self.spec):
            if self.brief and not aims.decides(self.spec, level):
                continue
            found.append(one := await self._level(plan, level, number))
            if one.look.dropped:
                dropped = why_dropped(one.look, self.rival)
                self.events.note("dropped", number=number, **self.mark, label=one.label, said=dropped)
                break
        labels = [level.label for level in self.spec.workload.levels]
        found.sort(key=lambda one: labels.index(one.label))
        looks = {one.label: one.look for one in found}
        per_joule = next((one.per_joule for one in found if one.label == self.spec.level(None).label), None)
        score = judge(self.spec, {one.label: one.metrics for one in found}, looks, per_joule)
        return found, replace(blank, score=score, dropped=dropped)

    async def _beside(self, plan: Plan, number: int) -> list[_Measured]:
        """The short loads of other numbers of users. What a client cannot make is left out: nobody is judged by it."""
        found = list[_Measured]()
        for level in aims.beside(self.spec, self.extra):
            try:
                found.append(await self._level(plan, level, number, alone=False))
            except ClientSaturated:
                break
        return [one for one in found if not one.gave_up]

    async def _capacity(self, plan: Plan, number: int, blank: TrialResult) -> tuple[list[_Measured], TrialResult]:
        """The loads of a search, and the result with its score. A load at which nothing is answered is too much.

        A client that cannot make the next load ends the search with what is known by then.
        """
        search, found, cautions = aims.search(self.spec), list[_Measured](), tuple[str, ...]()
        while (load := search.next()) is not None:
            try:
                one = await self._level(plan, aims.at_load(self.spec, load), number, alone=not found)
            except ClientSaturated as saturated:
                if not found:
                    raise
                cautions = (f"the search for the capacity could not go on: {saturated.message}",)
                break
            found.append(one)
            search.tell(load, decided(one.look, gave_up=one.gave_up))
        cautions += (f"{search.doubt}; {AGING}",) if search.doubt else ()
        tried = tuple(search.told.items())
        labels = [one.label for one in found]
        steps = {one.label: one.metrics for one in found}
        score = judge_capacity(self.spec, search.low, steps)
        holds = [label for label, (load, _) in zip(labels, tried, strict=True) if load == search.low]
        at = next(iter(holds), labels[0])
        return found, replace(blank, score=score, at=at, tried=tried, cautions=cautions)

    async def _level(self, plan: Plan, level: Level, number: int, *, alone: bool = True) -> _Measured:
        """One load and its figures, by a client that was healthy: where it was not, again with more processes.

        Raises ClientSaturated when there are no more cores; what loads a played host may be as it is. Raises NoAnswer
        where nothing but failures came, unless other loads were answered (not `alone`).
        """
        while True:
            async with self.client(plan, self.processes) as client:
                await self._calibrate(client)
                before = telemetry.snapshot(self.inventory)
                here = await self._load(client, plan, level, number)
            self.cluster.check()
            loaded = here.scaled(self.spec.cluster.time_scale)
            if loaded.gave_up and alone:
                raise NoAnswer(f"{level.label}: nothing but failures came back: {_last_error(loaded)}")
            samples = Samples(before, telemetry.snapshot(self.inventory))
            metrics = self._figures(loaded)
            health = examine(here, metrics, aims.ttft_limit_s(self.spec, level), self.spec.cluster.time_scale)
            if not health.faults or self.spec.cluster.simulated:
                break
            self._more_processes(level, health)
        self.events.show({"what": "level", "label": level.label, "metrics": metrics, "health": health})
        self.events.show({"what": "devices", "samples": samples.after})
        return _Measured(
            label=level.label,
            records=loaded.records,
            metrics=metrics,
            health=health,
            attainment=aims.attainment(self.spec, level, loaded),
            look=loaded.look,
            gave_up=loaded.gave_up,
            window=(loaded.window_start, loaded.window_end),
            samples=samples,
            per_joule=tokens(loaded.records) / joules if (joules := samples.joules) else None,
            doubts=(*self._doubts(plan, level, loaded, metrics, health), *heat(samples.after)),
        )

    def _doubts(self, plan: Plan, level: Level, loaded: LoadResult, metrics: Metrics, health: Health) -> list[str]:
        asked = self.spec.workload.input_tokens
        return doubts(
            loaded,
            metrics,
            health,
            workload=self.workload,
            input_tokens=None if asked is None or self.spec.workload.conversation else asked.mean,
            precision=aims.precision(self.spec, level),
            alike=plan.sorts(self.inventory),
        )

    def _more_processes(self, level: Level, health: Health) -> None:
        said = f"{level.label}: the client of autotune is the bottleneck: {'; '.join(health.faults)}"
        if self.processes >= (most := cores()):
            where = f"It has {self.processes} processes, and this host {most} cores for it"
            raise ClientSaturated(f"{said}. {where}; {ADVICE}")
        self.processes = min(most, 2 * self.processes)
        self.events.note("client", said=f"{said}; again with {self.processes} processes", **self.mark)

    def _span(self, what: str, number: int, **fields: Any) -> AbstractContextManager[None]:
        return self.events.span(what, number=number, **self.mark, **fields)

    async def _verify(self, plan: Plan) -> tuple[Placement, ...]:
        """Hold what runs against the plan; where layers are missing, against the model alone on such devices."""
        found = await self.cluster.placements(plan)
        pairs = list(zip(plan.instances, found, strict=True))
        verify.need_devices(pairs)
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
        if self.remember is None:
            return
        better = await calibrated(client, self.workload)
        if better is not self.workload:
            self.workload = better
            assert better.chars_per_token is not None
            self.remember(better.chars_per_token)
            self.remember = None

    def paced(self, level: Level) -> pacer.Level:
        """Who asks when, on this host's clock: alike for all that is compared with each other.

        Each block of a proof has arrivals of its own. If all had the same, the luck of one draw would be in none of the
        differences between blocks, and a limit that it meets would seem certain.
        """
        seed = self.spec.study.seed
        drawn = seed if self.block is None else random.Random(f"{seed}/block {self.block}").getrandbits(32)
        return pacer.make(level, drawn, self.workload.stamps, self.spec.cluster.time_scale)

    async def _load(self, client: Client, plan: Plan, level: Level, number: int) -> LoadResult:
        """One load, on this host's clock; shown in seconds of the played one, where there is one."""
        scale = self.spec.cluster.time_scale

        def progress(seen: Progress) -> None:
            self.events.show({"what": "progress", "label": level.label, "progress": seen.scaled(scale)})

        with self._span("load", number, label=level.label):
            planned = aims.phases(self.spec, level).scaled(1 / scale)
            loaded = await run(
                client,
                self.workload,
                self.paced(level),
                planned,
                f"{number}-{level.label}-{secrets.token_hex(8)}",
                progress,
                len(plan.instances),
                self.goal(plan, level, planned),
            )
        self.ended(loaded, level, number)
        return loaded

    def goal(self, plan: Plan, level: Level, planned: Phases) -> Precise:
        """What one load on a plan is for; `planned` is on this host's clock."""
        return aims.goal(self.spec, level, planned, self.rival, plan)

    def ended(self, loaded: LoadResult, level: Level, number: int) -> None:
        """Note that a load has ended, and by which look where it was not by its time."""
        seconds = max(loaded.window_end - loaded.window_start, 0.0)
        look = loaded.look
        ends = {"beaten": look.beaten, "missed": look.sunk and not look.beaten, "warm-up": look.stage == "warm-up"}
        why = {"ended": " ".join(name for name, so in ends.items() if so)} if look.sunk else {}
        self.events.note("window", number=number, **self.mark, label=level.label, seconds=seconds, **why)

    def _figures(self, loaded: LoadResult) -> Metrics:
        return measure(
            loaded.records,
            window_start=loaded.window_start,
            window_end=loaded.window_end,
            open_loop=loaded.open_loop,
            cold_s=aims.cold_s(self.spec),
        )


@dataclass(frozen=True, slots=True)
class _Measured:
    """What one level gave."""

    label: str
    records: Sequence[RequestRecord]
    metrics: Metrics
    health: Health
    attainment: Attainment | None
    look: Look
    gave_up: bool
    window: tuple[float, float]
    samples: Samples
    per_joule: float | None
    """Tokens of the whole load, over what the GPUs took meanwhile; None where they do not say."""
    doubts: tuple[str, ...]


def _last_error(loaded: LoadResult) -> str:
    return next((record.error for record in reversed(loaded.records) if record.error), "no reason was given")
