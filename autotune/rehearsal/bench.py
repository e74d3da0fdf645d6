"""The bench of a played night: `trial.Bench`, whose loads take no time but on the loop's clock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from autotune import aims, hosts
from autotune.night import workload
from autotune.rehearsal.load import run
from autotune.rehearsal.questions import Counter, Questions
from autotune.rehearsal.stage import Stage, front
from autotune.trial import Bench

if TYPE_CHECKING:
    from autotune.benchmark.flight import Client
    from autotune.benchmark.phases import LoadResult
    from autotune.benchmark.workload import Workload
    from autotune.cluster.cluster import Cluster
    from autotune.events import Events
    from autotune.plan import Plan
    from autotune.rehearsal.host import Host
    from autotune.rehearsal.questions import Lengths
    from autotune.simulator.profiles import ModelProfile, Profile
    from autotune.spec import Level, StudySpec


@dataclass
class Rehearsal(Bench):
    """Every figure of it is judged as that of a real trial: only the load itself is another."""

    stage: Stage = field(kw_only=True)
    model: ModelProfile = field(kw_only=True)
    seed: str = field(kw_only=True)
    """Of all that is noise in this night."""
    loads: int = 0
    lengths: dict[float | None, Lengths] = field(default_factory=dict)
    """Of the workload's prompts, by how long a token is taken to be."""
    _asked: tuple[Workload, Questions] | None = None

    async def _load(self, client: Client, plan: Plan, level: Level, number: int) -> LoadResult:  # noqa: ARG002
        scale, loop = self.spec.cluster.time_scale, asyncio.get_running_loop()
        self.loads += 1
        chance = f"{self.seed}/load {self.loads}"
        with self._span("load", number, label=level.label):
            planned = aims.phases(self.spec, level).scaled(1 / scale)
            loaded, over = run(
                self.stage.instances(plan, chance),
                front(plan, chance),
                self.paced(level),
                self.questions().of(chance),
                planned,
                self.goal(plan, level, planned),
                began=loop.time(),
                timeout_s=self.spec.workload.request_timeout_s / scale,
            )
            await asyncio.sleep(over - loop.time())
        self.ended(loaded, level, number)
        return loaded

    async def ready(self, plan: Plan) -> None:
        """Run a plan, and hold it against what it should be. Raises `TrialFailure`."""
        await self.stage.become(plan)
        await self.stage.load(plan)
        await self._verify(plan)

    def questions(self) -> Questions:
        """Those of the workload as it is calibrated now."""
        if self._asked is None or self._asked[0] is not self.workload:
            spec = self.spec.workload
            known = self.lengths.setdefault(self.workload.chars_per_token, {})
            self._asked = self.workload, Questions(self.workload, self.model, spec.num_ctx, known, think=spec.think)
        return self._asked[1]


def bench(host: Host, spec: StudySpec, events: Events, seed: str, profile: Profile | None = None) -> Rehearsal:
    """The bench of one night on a played host; with another `profile` than the host's for its times."""
    playing = profile or host.profile
    _, extra = hosts.command(spec)
    stage = Stage(playing, host.library, extra, seed, load_timeout_s=spec.cluster.load_timeout_s)
    counter = Counter(host.model, spec.workload.num_ctx, playing.host.overhead_s, spec.cluster.time_scale)
    return Rehearsal(
        spec,
        host.ground.inventory,
        cast("Cluster", stage),
        events,
        workload(spec),
        lambda _, __: counter.opened(),
        lambda _, __: None,
        remember=lambda _: None,
        stage=stage,
        model=host.model,
        seed=seed,
    )
