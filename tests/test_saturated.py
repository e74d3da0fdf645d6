"""A client that was too slow, and a server that is gone, in the middle of a search for a capacity."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from autotune.bench import capacity
from autotune.bench.measuring import Found
from autotune.benchmark.pacer import ClosedLoop
from autotune.benchmark.phases import LoadResult, Look
from autotune.errors import ClientSaturated, ClusterError
from autotune.events import Events
from autotune.health import examine
from autotune.ladder import Search
from autotune.ollama.api import ServerFacts
from autotune.plan import make
from autotune.trial import Bench
from tests.conftest import TINY, gpus, study
from tests.factories import BASELINE, metrics, result

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autotune.bench import Step
    from autotune.health import Health
    from autotune.spec import Level
    from tests.commands import Run

LIMIT = "ttft_s p95"
FAULT = "its event loop was up to 90.0 ms late (p99); allowed is 15.0 ms"


def loaded(users: int, *, gave_up: bool = False) -> LoadResult:
    """A load that holds, or at which everything fails."""
    look = Look() if gave_up else Look(limits={LIMIT: "holds"})
    return LoadResult(ClosedLoop(users), 0.0, 60.0, (), gave_up=gave_up, look=look)


def health(of: LoadResult, *, saturated: bool) -> Health:
    return replace(examine(of, metrics()), processes=2, faults=(FAULT,) if saturated else ())


# `autotune capacity`


class Endpoint:
    """In place of an endpoint and its client: what each load finds, and whether one request is answered."""

    def __init__(self, *, saturated: float = 1e9, dies: float = 1e9, fails: float = 1e9) -> None:
        self.saturated, self.dies, self.fails = saturated, dies, fails
        self.dead = False

    async def healthy(self, _: object, __: object, ___: object, level: ClosedLoop, *____: object) -> tuple[Found, int]:
        users = level.users
        self.dead = users >= self.dies
        load = loaded(users, gave_up=users >= min(self.dies, self.fails))
        return Found(level.label, load, metrics(), health(load, saturated=users >= self.saturated), None, ()), 2

    async def ready(self, _: object) -> None:
        if self.dead:
            raise ClusterError("http://127.0.0.1:9 does not answer")


def searched(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint, steps: list[Step]) -> Any:
    room = import_module("autotune.bench.capacity")  # the package has a function of that name
    monkeypatch.setattr(room, "healthy", endpoint.healthy)
    monkeypatch.setattr(room, "ready", endpoint.ready)
    job: Any = SimpleNamespace(routes=("one",), workload=None, processes=1, seed=0)
    return capacity(job, Search(1, 64, 0.05, whole=True), lambda *_: None, steps.append)


async def test_more_than_the_client_can_do_ends_the_search_with_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Step] = []
    found = await searched(monkeypatch, Endpoint(saturated=16), steps)
    assert (found.low, found.high) == (8, float("inf"))
    assert found.ended.startswith("16 users: the client of autotune is the bottleneck")
    assert FAULT in found.ended
    assert [step.load for step in found.steps] == [step.load for step in steps] == [1, 2, 4, 8]


async def test_a_client_that_can_do_nothing_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClientSaturated, match="1 users: the client"):
        await searched(monkeypatch, Endpoint(saturated=1), [])


async def test_a_server_that_dies_has_no_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its refusals are not the loads' fault, and what held before is not where the limits end."""
    steps: list[Step] = []
    with pytest.raises(ClusterError, match="does not answer"):
        await searched(monkeypatch, Endpoint(dies=16), steps)
    assert [step.load for step in steps] == [1, 2, 4, 8]


async def test_a_load_at_which_all_fails_is_too_much_where_one_request_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = await searched(monkeypatch, Endpoint(fails=12), [])
    assert (found.low, found.high, found.ended) == (11, 12, "")


def test_a_search_that_is_broken_off_keeps_its_steps(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: object, search: Search, __: object, done: Callable[[Step], None]) -> None:
        for users in (1, 2):
            search.tell(users, "holds")
            load = loaded(users)
            done(
                SimpleNamespace(  # type: ignore[arg-type]
                    load=users,
                    decision="holds",
                    found=Found(f"{users} users", load, metrics(), health(load, saturated=False), None, ()),
                )
            )
        raise KeyboardInterrupt

    monkeypatch.setattr("autotune.bench.capacity", broken)
    asked = ("--limit", "ttft_s:p95:2", "--json", "found.json", "--plot", "curve.html")
    code, _, err = run("capacity", "http://127.0.0.1:9", "--model", "m", *asked)
    assert (code, "interrupted" in err) == (130, True)
    kept = json.loads(Path("found.json").read_text())
    assert kept["complete"] is False
    assert [step["load"] for step in kept["steps"]] == [1, 2]
    assert kept["capacity"] == {"unit": "users", "holds": 2, "misses": None}
    assert "plotly" in Path("curve.html").read_text()


# a study


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench on real instances, of which nothing runs; `load` and `health` are each test's own."""
    monkeypatch.setattr("autotune.trial.telemetry.snapshot", lambda _: ())
    monkeypatch.setattr("autotune.trial.cores", lambda: 2)
    limits = [{"metric": "ttft_s", "statistic": "p95", "max": 2.0}]
    spec = study(
        workload={"levels": [1]}, objective={"metric": "capacity", "limits": limits, "capacity_max": 64}, cluster=REAL
    )
    assert not spec.cluster.simulated
    nothing: Any = None
    cluster: Any = SimpleNamespace(check=lambda: None)
    events = Events(tmp_path / "events", lambda _: None)
    return Bench(spec, gpus(), cluster, events, nothing, lambda *_: nullcontext(nothing), nothing)


PLAN = make(study(), gpus(), ServerFacts("0.32.15", TINY), BASELINE, (Path("/m"), Path("/h")))
REAL = {"driver": "process", "model": "tiny", "devices": "groups:1"}


def played(bench: Bench, monkeypatch: pytest.MonkeyPatch, enough: Sequence[int]) -> list[tuple[int, int]]:
    """Users and processes of each load that is made; with n processes a client can do with so many users."""
    loads: list[tuple[int, int]] = []

    async def load(_: object, __: object, level: Level, ___: object) -> LoadResult:
        assert level.users is not None
        loads.append((level.users, bench.processes))
        return loaded(level.users)

    monkeypatch.setattr(bench, "_load", load)
    monkeypatch.setattr(
        "autotune.trial.examine",
        lambda of, *_: health(of, saturated=of.level.users > enough[bench.processes - 1]),
    )
    return loads


async def test_a_load_is_made_again_with_more_processes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = played(bench, monkeypatch, (4, 64))
    found, score = await bench._capacity(PLAN, 0, result(0, BASELINE))
    assert loads == [(1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (16, 2), (32, 2), (64, 2)]
    assert [one.label for one in found] == [f"{users} users" for users in (1, 2, 4, 8, 16, 32, 64)]
    assert (score.score.objective, score.cautions) == (64, ())


async def test_a_configuration_that_the_client_cannot_fill_is_not_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be the best of all, and would end the night."""
    played(bench, monkeypatch, (4, 8))
    found, score = await bench._capacity(PLAN, 0, result(0, BASELINE))
    assert [one.label for one in found] == [f"{users} users" for users in (1, 2, 4, 8)]
    assert score.score.feasible
    assert (score.score.objective, score.at, dict(score.tried)) == (8, "8 users", dict.fromkeys((1, 2, 4, 8), "holds"))
    (caution,) = score.cautions
    assert caution.startswith("the search for the capacity could not go on: 16 users: the client of autotune")


async def test_a_client_that_can_do_nothing_is_a_fault_of_the_machine(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    played(bench, monkeypatch, (0, 0))
    with pytest.raises(ClientSaturated, match="It has 2 processes, and this host 2 cores"):
        await bench._capacity(PLAN, 0, result(0, BASELINE))
