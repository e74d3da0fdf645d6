"""The cluster of a played night: the stand-in's own scheduler and memory, without processes, ports and HTTP."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, replace
from io import StringIO
from typing import TYPE_CHECKING

from autotune import errors
from autotune.cluster import verify
from autotune.ollama.log import last_words
from autotune.simulator import environment
from autotune.simulator.board import MemoryBoard
from autotune.simulator.bodies import LOAD_OPTIONS
from autotune.simulator.events import Balancer, Instance
from autotune.simulator.journal import Journal
from autotune.simulator.model import CPU, contention, log_normal, slowdown
from autotune.simulator.scheduler import ONE_SLOT_FAMILIES, LoadFailed, Scheduler

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.plan import InstancePlan, Plan
    from autotune.simulator.board import Taken
    from autotune.simulator.library import Entry, Library
    from autotune.simulator.profiles import Profile
    from autotune.simulator.scheduler import Loaded

START_S = 1.0
"""From the start of an Ollama to its first answer: it looks for GPUs meanwhile. All instances start at once."""
STOP_S = 0.5
BALANCER_S = 0.1
"""nginx, started anew for another plan."""


@dataclass(eq=False)
class Actor:
    """One running instance."""

    plan: InstancePlan
    scheduler: Scheduler
    board: MemoryBoard
    log: StringIO
    life: float
    """The factor on all its times, drawn once for its process."""

    @property
    def loaded(self) -> Loaded:
        """Its model."""
        return self.scheduler.loaded()[0]


class Stage:
    """What `Cluster` is to the bench of a night."""

    def __init__(
        self, profile: Profile, library: Library, extra: Mapping[str, str], seed: str, *, load_timeout_s: float
    ) -> None:
        """`extra` is what the environment of every instance has besides its plan, `seed` that of all process lives."""
        self._profile = profile
        self._library = library
        self._extra = dict(extra)
        self._seed = seed
        self._load_timeout_s = load_timeout_s
        self._host: dict[str, Taken] = {}
        self._actors: dict[InstancePlan, Actor] = {}
        self._lives = 0
        self.stop_s = 0.0
        """Ending takes no time here."""
        self._front: object = None

    async def become(self, plan: Plan) -> None:
        """Run exactly `plan`: what is equal goes on, all else is ended, then the missing is started."""
        gone = [one for one in self._actors if one not in plan.instances]
        await self._stop(gone)
        missing = [one for one in plan.instances if one not in self._actors]
        if missing:
            await asyncio.sleep(START_S)
        for one in missing:
            self._actors[one] = self._start(one)
        if plan.balancer.kind == "nginx" and plan != self._front:
            await asyncio.sleep(BALANCER_S)
            self._front = plan

    async def load(self, plan: Plan) -> None:
        """Have every instance load the model, all at once. Raises `TrialFailure`."""
        ends = await asyncio.gather(
            *(self._preload(self._actors[one], plan) for one in plan.instances), return_exceptions=True
        )
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def placements(self, plan: Plan) -> tuple[verify.Placement, ...]:
        """Where every instance has the model."""
        return tuple(_placement(self._actors[one]) for one in plan.instances)

    def check(self) -> None:
        """Nothing dies here."""

    def logs(self) -> dict[str, str]:
        """What every instance has written, by its name."""
        return {one.name: actor.log.getvalue() for one, actor in self._actors.items()}

    async def clear(self) -> None:
        """End everything that runs."""
        await self._stop(list(self._actors))
        self._front = None

    def instances(self, plan: Plan, chance: str) -> list[Instance]:
        """What a load on this plan meets; `chance` is the seed of its step jitter."""
        actors = [self._actors[one] for one in plan.instances]
        shares = [actor.loaded.placement.shares for actor in actors]
        residents = Counter(place for parts in shares for place in parts)
        host = self._profile.host
        return [
            Instance(
                actor.plan.address,
                actor.loaded.entry.model,
                actor.loaded.slots,
                actor.life * contention(host, len(actors)) * slowdown(self._profile, parts, residents),
                overhead_s=host.overhead_s,
                time_scale=actor.scheduler.time_scale,
                step_jitter=host.step_jitter,
                rng=random.Random(f"{chance}/{number}"),
            )
            for number, (actor, parts) in enumerate(zip(actors, shares, strict=True))
        ]

    async def _stop(self, plans: list[InstancePlan]) -> None:
        for one in plans:
            actor = self._actors.pop(one)
            actor.board.announce({})
        if plans:
            await asyncio.sleep(STOP_S)

    def _start(self, plan: InstancePlan) -> Actor:
        self._lives += 1
        seed = f"{self._seed}/life {self._lives}"
        settings = environment.read({**dict(plan.env), **self._extra})
        board, log = MemoryBoard(self._host), StringIO()
        scheduler = Scheduler(self._profile, settings, board, Journal(log), random.Random(seed))
        # the scheduler's own: what it draws first from its chance
        life = log_normal(random.Random(seed), self._profile.host.life_jitter)
        return Actor(plan, scheduler, board, log, life)

    async def _preload(self, actor: Actor, plan: Plan) -> None:
        entry = self._entry(plan)
        asked = {key: int(entry.parameters[key]) for key in LOAD_OPTIONS if key in entry.parameters}
        options = actor.scheduler.resolve(entry, asked)
        try:
            async with (
                asyncio.timeout(self._load_timeout_s),
                actor.scheduler.lease(entry, options, None),
            ):
                pass
        except TimeoutError as error:
            said = f"{actor.plan.url} had not loaded {plan.model} after {self._load_timeout_s:g} s"
            raise errors.NeverReady(said, details=last_words(actor.log.getvalue())) from error
        except LoadFailed as error:
            said = f"{actor.plan.url} did not load {plan.model}: {error}"
            raise errors.LoadFailed(said, details=last_words(actor.log.getvalue())) from error

    def _entry(self, plan: Plan) -> Entry:
        name = plan.derived.parent if plan.derived else plan.model
        found = self._library.find(name)
        assert found is not None  # the ground has asked for it
        if plan.derived is None:
            return found
        return replace(found, name=plan.derived.name, parameters=found.parameters | dict(plan.derived.parameters))


def front(plan: Plan, chance: str) -> Balancer:
    """What shares the requests of a plan out."""
    weights = plan.balancer.weights or (1,) * len(plan.instances)
    return Balancer(plan.balancer.policy, weights, random.Random(f"{chance}/balancer"))


def _placement(actor: Actor) -> verify.Placement:
    found = actor.loaded
    placement, devices = found.placement, actor.scheduler.devices
    return verify.Placement(
        instance=actor.plan.name,
        on_gpu=actor.plan.on_gpu,
        compute=tuple(device.uuid for device in devices) if devices else (CPU,),
        layers_on_device=placement.on_devices if devices else None,
        layers=placement.ask.model.all_layers if devices else None,
        size_bytes=placement.size_bytes,
        size_vram_bytes=placement.vram_bytes,
        num_parallel=found.slots,
        parallel_unsupported=found.entry.model.family in ONE_SLOT_FAMILIES,
        context_length=found.options.num_ctx,
    )
