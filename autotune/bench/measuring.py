"""The loads of `autotune bench`, one after the other, each by a client that was healthy."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from autotune.bench.stop import Stop, signals
from autotune.benchmark.calibration import calibrated, short
from autotune.benchmark.carrier import carrier
from autotune.benchmark.crew import Crew
from autotune.benchmark.flight import Flight, clock
from autotune.benchmark.load import run
from autotune.benchmark.pacer import OpenLoop
from autotune.benchmark.spread import Spread
from autotune.doubts import doubts
from autotune.errors import ClientSaturated, ClusterError
from autotune.goal import Precise
from autotune.health import ADVICE, examine
from autotune.metrics import COLD_S, COMPLETE, Window, attain, measure
from autotune.selftest import cores

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from autotune.bench.asked import Job, Route
    from autotune.benchmark.dialect import Ask
    from autotune.benchmark.flight import Client
    from autotune.benchmark.pacer import Level
    from autotune.benchmark.phases import LoadResult, Progress
    from autotune.benchmark.workload import Workload
    from autotune.health import Health
    from autotune.metrics import Attainment, Metrics
    from autotune.records import RequestRecord

    Show = Callable[[str, Progress], None]


@dataclass(frozen=True)
class Found:
    """What one load gave."""

    label: str
    loaded: LoadResult
    metrics: Metrics
    health: Health
    attainment: Attainment | None
    """Of all limits at once; None without limits."""
    cautions: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """Whether there is a window, in which the client was healthy and something was answered."""
        there = self.loaded.window_end > self.loaded.window_start
        return there and not self.health.faults and not self.loaded.gave_up


async def load(job: Job, show: Show, done: Callable[[Found], None]) -> None:
    """Load each route at each level; `done` gets all figures, one load after the other, also those that are not valid.

    Raises `ClusterError` for an endpoint that does not answer, or only fails, `ClientSaturated` when the client was
    too slow in as many processes as there are cores, and `Interrupted` at a signal: what the load in flight has by then
    is told as well.
    """
    with signals() as stop:
        work, processes = await ready(job), job.processes
        for level, route in product(job.levels, job.routes):
            label = f"{level.label} {route.name}".strip()
            found, processes = await healthy(job, route, work, level, processes, partial(show, label), stop)
            done(replace(found, label=label))
            stop.check()
            if found.loaded.gave_up:
                raise ClusterError(f"{route.shown} answers nothing but failures: {first_error(found.loaded)}")
            if found.health.faults:
                raise ClientSaturated(saturated(label, found.health))


def saturated(label: str, health: Health) -> str:
    """What is said of a client that was too slow."""
    said = "; ".join(health.faults)
    where = f"in {health.processes} processes on {cores()} cores"
    return f"{label}: the client of autotune is the bottleneck, {where}: {said}; {ADVICE}"


async def ready(job: Job) -> Workload:
    """The job's workload in tokens of the server, once each route has answered. Raises `ClusterError`."""
    work = job.workload
    for number, route in enumerate(job.routes):
        async with client(job, route, 1) as one:
            await knock(one, route, work)
            if not number:
                work = await calibrated(one, work)
    return work


async def healthy(
    job: Job,
    route: Route,
    work: Workload,
    level: Level,
    processes: int,
    progress: Callable[[Progress], None],
    stop: Stop,
) -> tuple[Found, int]:
    """The figures of a load by a healthy client, and in how many processes: again with more where it was not.

    When there are no more cores they come as they are, with the faults in their health.
    """
    while True:
        async with client(job, route, processes) as one:
            with stop.here():
                found = await _measured(job, one, work, level, progress, stop)
        if not found.health.faults or processes >= cores() or stop.asked.is_set():
            return found, processes
        processes = min(cores(), 2 * processes)


async def _measured(
    job: Job, one: Client, work: Workload, level: Level, progress: Callable[[Progress], None], stop: Stop
) -> Found:
    goal = None
    if job.bounds or job.precision is not None or isinstance(level, OpenLoop):
        least = job.min_success if job.bounds else None
        goal = Precise(job.bounds, job.precision, job.phases.looks, min_success=least)
    loaded = await run(one, work, level, job.phases, secrets.token_hex(8), progress, goal=goal, stop=stop.asked)
    start, end = loaded.window_start, loaded.window_end
    metrics = measure(loaded.records, window_start=start, window_end=end, open_loop=loaded.open_loop)
    health = examine(loaded, metrics, min((b.most for b in job.bounds if b.metric == "ttft_s"), default=None))
    window = Window(start, end, loaded.open_loop, COLD_S)
    cautions = doubts(loaded, metrics, health, workload=work, input_tokens=job.input_tokens, precision=job.precision)
    attained = attain(loaded.records, window, ((bound.metric, bound.most) for bound in job.bounds))
    return Found(level.label, loaded, metrics, health, attained, (*cautions, *health.faults))


@asynccontextmanager
async def client(job: Job, route: Route, processes: int) -> AsyncIterator[Client]:
    """A client of this process, or of several."""
    target = route.target
    plain = carrier(target) if processes == 1 else Crew(target, processes)
    spread = Spread(plain, target.urls, "round_robin", job.seed) if target.urls else plain
    async with spread as one:
        yield one


async def knock(one: Client, route: Route, work: Workload) -> None:
    """One request of one token: it loads the model, and says at once when there is nothing to load."""
    prompt = short(work.prompt(0, secrets.token_hex(8)))
    addresses = list(route.target.urls) or [""]
    for address in addresses:
        record = await one.send(Flight(prompt, clock()(), address))
        if record.outcome not in COMPLETE:
            raise ClusterError(f"{route.target.urls.get(address, route.shown)} {await _refusal(record, route)}")


async def _refusal(record: RequestRecord, route: Route) -> str:
    if record.status is None:
        return f"does not answer: {record.error}"
    ask = route.target.ask
    said = f"status {record.status}" + (f", {record.error[:200]}" if record.error else "")
    missing = record.status == 404 or "not found" in record.error
    there = await _models(route.target.urls.get(record.upstream, route.target.url), ask) if missing else []
    has = f"; it has {', '.join(there)}" if there and ask.model not in there else ""
    return f"gives no answer from {ask.model!r} at its {ask.endpoint} endpoint: {said}{has}"


async def _models(url: str, ask: Ask) -> list[str]:
    """The models that the server has, as far as it says."""
    import aiohttp  # noqa: PLC0415 - a tenth of a second that only a refusal needs

    openai = ask.endpoint in ("openai", "completions")
    try:
        async with (
            asyncio.timeout(5),
            aiohttp.ClientSession(headers=ask.headers) as session,
            session.get(f"{url.rstrip('/')}{'/v1/models' if openai else '/api/tags'}") as response,
        ):
            said = await response.json(content_type=None)
        return [str(one["id" if openai else "name"]) for one in said["data" if openai else "models"]]
    except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError):
        return []


def first_error(loaded: LoadResult) -> str:
    """The words of the first request that failed."""
    return next((record.error or record.outcome for record in loaded.records if record.error), "no answer")
