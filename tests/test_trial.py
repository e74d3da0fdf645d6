"""One trial from level to level: who is dropped, what is kept of it, and which short loads come after the others."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from autotune import aims
from autotune.benchmark.workload import Lengths, SeededWorkload
from autotune.errors import ClientSaturated, DeviceLost
from autotune.events import Events
from autotune.metrics import measure
from autotune.report.words import verdict
from autotune.rival import Rival
from autotune.score import BEHIND
from autotune.simulator.clock import run_virtual
from autotune.standing import standings
from autotune.store import Shelf
from autotune.telemetry import DeviceSample
from autotune.trial import Bench
from tests.benchmark.standin import Standin
from tests.conftest import gpus, study
from tests.factories import PLACED, result

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from autotune.cluster.verify import Placement
    from autotune.plan import Plan
    from autotune.records import RequestRecord
    from autotune.result import TrialResult
    from autotune.spec import StudySpec
    from tests.conftest import Plans

SLOTS = 4
TPS = 32.0
"""Four slots, each of which takes 2 s for 16 tokens."""
QUICK = {"warmup_s": 20, "window_s": 60, "window_max_s": 120, "drain_s": 30}


def spec_of(levels: Sequence[Any] = (4, 6), **objective: Any) -> StudySpec:
    return study(workload={"levels": list(levels), **QUICK}, objective=objective)


@dataclass
class Trial:
    """A trial of which only the cluster is played, in virtual time."""

    folder: Path
    plan: Plan
    shown: list[dict[str, Any]] = field(default_factory=list)
    bench: Bench | None = None
    placements: tuple[Placement, ...] = ()

    def __call__(self, spec: StudySpec, number: int = 0, pace: float = 1.0, **more: Any) -> TrialResult:
        async def nothing(*_: object) -> None:
            pass

        @asynccontextmanager
        async def client(*_: object) -> AsyncIterator[Standin]:
            yield Standin(slots=SLOTS, prompt_s=0.5 * pace, token_s=0.1 * pace)

        async def placed(*_: object) -> tuple[Placement, ...]:
            return self.placements

        cluster: Any = SimpleNamespace(
            become=nothing, load=nothing, placements=placed, clear=nothing, check=lambda: None, logs=dict
        )
        asked: Any = SeededWorkload(1, Lengths("fixed", 50), Lengths("fixed", 16))
        events = Events(self.folder / "events.jsonl", self.shown.append)
        inventory = gpus()
        keep: Any = nothing
        self.bench = Bench(spec, inventory, cluster, events, asked, client, keep, **more)
        params = {"layout": "0 | 1", "num_parallel": 2}
        found, records = run_virtual(self.bench.trial(number, params, self.plan))
        Shelf(self.folder).save(found, records)
        return found

    @property
    def loads(self) -> list[str]:
        """Labels, as they were made."""
        return [event["label"] for event in self.events if event["what"] == "load begins"]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "events.jsonl").read_text().splitlines()]

    def records(self, at: int) -> list[RequestRecord]:
        return Shelf(self.folder).records(0, at)


@pytest.fixture
def trial(tmp_path: Path, plan_of: Plans, monkeypatch: pytest.MonkeyPatch) -> Trial:
    monkeypatch.setattr("autotune.trial.telemetry.snapshot", lambda _: ())

    async def checked(*_: object) -> tuple[()]:
        return ()

    monkeypatch.setattr(Bench, "_verify", checked)
    return Trial(tmp_path, plan_of.make("0 | 1", num_parallel=2))


def test_a_gpu_that_only_ollama_misses_is_a_fault_of_the_machine(tmp_path: Path, plan_of: Plans) -> None:
    plan = plan_of.make("0 | 1", num_parallel=2)
    trial = Trial(tmp_path, plan)
    first = replace(PLACED, compute=plan.instances[0].devices, layers_on_device=8, size_vram_bytes=100, num_parallel=2)
    second = replace(first, instance="ollama-1", compute=("cpu",), layers_on_device=0, size_vram_bytes=0)
    trial.placements = (first, second)
    with pytest.raises(DeviceLost, match="ollama-1 found no GPU") as caught:
        trial(spec_of())
    assert caught.value.device == plan.instances[1].devices[0]


def test_the_objectives_level_comes_first_and_is_kept_in_its_place(trial: Trial) -> None:
    found = trial(spec_of((4, 6, 8), at=6))
    assert trial.loads == ["6 users", "4 users", "8 users"]
    assert list(found.levels) == list(found.windows) == list(found.looks) == ["4 users", "6 users", "8 users"]
    assert (found.dropped, found.curve, found.score.feasible) == ("", {}, True)
    for at, (label, figures) in enumerate(found.levels.items()):
        begin, end = found.windows[label]
        assert measure(trial.records(at), window_start=begin, window_end=end) == figures


def test_what_decides_nothing_comes_last_and_is_left_out_of_a_brief_trial(trial: Trial) -> None:
    limit = {"metric": "ttft_s", "statistic": "mean", "max": 30.0, "at": 8}
    spec = spec_of((4, 6, 8, {"rate": 1.0}), at=6, limits=[limit])
    whole, loads = trial(spec), trial.loads
    assert loads == ["6 users", "8 users", "1 requests/s", "4 users"]
    brief, loads = trial(spec, brief=True), trial.loads[len(loads) :]
    assert loads == ["6 users", "8 users", "1 requests/s"]
    assert set(whole.score.constraints) - set(brief.score.constraints) == {"success rate at 4 users"}
    assert whole.score.objective == brief.score.objective
    longer_s = whole.seconds - brief.seconds
    assert aims.run_s(spec, whole) == pytest.approx(whole.seconds - longer_s * 3 / 4, rel=0.02)
    assert aims.run_s(spec, brief) == brief.seconds
    beside = trial(spec, extra=(2,))
    assert aims.run_s(spec, beside) == pytest.approx(aims.run_s(spec, whole), rel=0.02)


def test_every_step_of_a_search_for_the_capacity_decides() -> None:
    limit = {"metric": "ttft_s", "statistic": "p95", "max": 2.0}
    spec = study(workload={"levels": [4]}, objective={"metric": "capacity", "capacity_max": 64, "limits": [limit]})
    steps = {"4 users": (30.0, 90.0), "8 users": (120.0, 180.0)}
    assert aims.run_s(spec, result(windows=steps, seconds=200.0)) == 200.0


def test_tokens_per_joule_are_those_of_the_whole_load_at_the_objectives_level(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = iter(range(0, 10**9, 1000))
    monkeypatch.setattr("autotune.trial.telemetry.snapshot", lambda _: (metered(float(next(meter))),))
    found = trial(spec_of((4, 6), at=6, metric=["tps", "tokens_per_joule"]))
    assert trial.loads == ["6 users", "4 users"]
    every = sum(one.eval_count or len(one.chunk_times) for one in trial.records(1))
    assert found.score.goals == {"tokens_per_joule": pytest.approx(every / 1000, rel=0.02)}
    assert every > found.levels["6 users"].output_tps * found.levels["6 users"].window_s
    assert found.score.values is not None


def metered(energy_j: float) -> DeviceSample:
    return DeviceSample(0, 50, 1500, 0, 300.0, 1.0, (), throttled=False, energy_j=energy_j)


def test_one_that_is_half_as_fast_is_dropped_in_the_warm_up_of_its_first_load(trial: Trial) -> None:
    found = trial(spec_of(limits=[{"metric": "ttft_s", "statistic": "p95", "max": 30.0}]), rival=Rival(64.0))
    assert trial.loads == ["6 users"]
    assert list(found.levels) == ["6 users"]
    assert found.dropped.startswith("cannot beat 64 tokens/s: at most ")
    assert verdict(found) == f"dropped: {found.dropped}"
    assert found.measured
    assert not found.score.feasible
    assert set(found.score.constraints) == {BEHIND, "success rate at 6 users"}  # of the limit nothing is known
    assert [name for name, value in found.score.constraints.items() if value > 0] == [BEHIND]
    assert found.score.constraints[BEHIND] == pytest.approx(0.5, abs=0.15)
    assert found.score.objective == found.levels["6 users"].output_tps == pytest.approx(TPS, rel=0.2)
    low, high = found.levels["6 users"].output_tps_range or (0.0, 0.0)
    assert low < found.score.objective < high
    assert found.cautions == ()
    assert found.seconds == pytest.approx(found.looks["6 users"].after_s, abs=0.5)
    assert found.seconds <= 20.5


def test_of_one_that_is_dropped_the_raw_is_kept_in_its_place(trial: Trial) -> None:
    found = trial(spec_of(), rival=Rival(64.0))
    begin, end = found.windows["6 users"]
    assert trial.records(0) == []
    assert measure(trial.records(1), window_start=begin, window_end=end) == found.levels["6 users"]


def test_how_a_load_ended_is_in_the_event_log(trial: Trial) -> None:
    found = trial(spec_of(), rival=Rival(64.0))
    (window,) = [event for event in trial.events if event["what"] == "window"]
    (dropped,) = [event for event in trial.events if event["what"] == "dropped"]
    assert window["ended"] == "beaten warm-up"
    assert (dropped["number"], dropped["label"], dropped["said"]) == (0, "6 users", found.dropped)


def test_one_that_is_as_fast_goes_through_all_its_levels(trial: Trial) -> None:
    found = trial(spec_of(), rival=Rival(TPS))
    assert trial.loads == ["6 users", "4 users"]
    assert (found.dropped, found.score.feasible) == ("", True)
    assert not any(event["what"] == "dropped" or "ended" in event for event in trial.events)


def test_a_limit_at_another_level_drops_without_the_rest(trial: Trial) -> None:
    limit = {"metric": "ttft_s", "statistic": "p95", "max": 0.1, "at": 12}
    found = trial(spec_of((4, 12, 8), at=4, limits=[limit]), rival=Rival(TPS))
    assert trial.loads == ["4 users", "12 users"]
    assert list(found.levels) == ["4 users", "12 users"]
    assert found.dropped.startswith("surely misses ttft_s p95")
    assert found.score.constraints["ttft_s p95 at 12 users"] > 0
    assert BEHIND not in found.score.constraints


def test_a_limit_that_a_warm_up_has_missed_is_missed_twofold(trial: Trial) -> None:
    """Its few figures are from before the queue was full."""
    limit = {"metric": "ttft_s", "statistic": "p95", "max": 2.0}
    found = trial(spec_of((24,), limits=[limit]), rival=Rival(0.0, answer_tokens=16.0))
    assert found.looks["24 users"].stage == "warm-up"
    assert found.dropped.startswith("surely misses ttft_s p95 more than twofold after ")
    assert found.score.constraints["ttft_s p95 at 24 users"] >= 1
    assert not found.score.feasible


def test_without_a_rival_all_levels_are_measured_in_full(trial: Trial) -> None:
    found = trial(spec_of(limits=[{"metric": "ttft_s", "statistic": "p95", "max": 0.01}]), pace=4.0)
    assert trial.loads == ["6 users", "4 users"]
    assert found.dropped == ""
    assert not any(look.dropped for look in found.looks.values())


def test_who_was_dropped_is_never_the_best(trial: Trial) -> None:
    slow = trial(spec_of(), rival=Rival(64.0))
    other = trial(spec_of(), pace=3.0)
    assert (slow.score.objective or 0) > (other.score.objective or 0)
    best, last = standings([replace(slow, fingerprint="a"), replace(other, fingerprint="b")])
    assert (best.results[0].dropped, last.feasible) == ("", False)


# short loads beside the levels


def test_short_loads_come_after_the_levels(trial: Trial) -> None:
    found = trial(spec_of(), extra=(2, 6, 3, 2))
    assert trial.loads == ["6 users", "4 users", "2 users", "3 users"]
    assert list(found.levels) == ["4 users", "6 users"]
    assert list(found.curve) == ["2 users", "3 users"]
    assert found.curve["3 users"].output_tps == pytest.approx(24.0, rel=0.05)
    assert all(one.window_s <= 40 for one in found.curve.values())
    assert found.score == trial(spec_of()).score
    assert not any(label in " ".join(found.cautions) for label in found.curve)


def test_the_raw_of_short_loads_is_kept_after_that_of_the_levels(trial: Trial) -> None:
    found = trial(spec_of(), extra=(2, 3))
    for at, (label, figures) in enumerate({**found.levels, **found.curve}.items()):
        begin, end = found.windows[label]
        assert measure(trial.records(at), window_start=begin, window_end=end) == figures
    assert Shelf(trial.folder).results() == [found]


def test_what_an_older_version_has_kept_is_read(trial: Trial) -> None:
    found = trial(spec_of())
    path = trial.folder / "0000" / "result.json"
    content = json.loads(path.read_text())
    for name in ("dropped", "curve"):
        del content[name]
    for look in content["looks"].values():
        for name in ("beaten", "dropped", "most_tps", "part", "stage", "after_s"):
            del look[name]
    path.write_text(json.dumps(content))
    (back,) = Shelf(trial.folder).results()
    unknown = {label: replace(look, after_s=None) for label, look in found.looks.items()}
    assert back == replace(found, looks=unknown)


def test_who_is_dropped_is_not_loaded_further(trial: Trial) -> None:
    found = trial(spec_of(), rival=Rival(64.0), extra=(2, 3))
    assert trial.loads == ["6 users"]
    assert found.curve == {}


def test_arrivals_have_no_short_loads(trial: Trial) -> None:
    found = trial(spec_of(({"rate": 1.0},)), extra=(2, 3))
    assert found.curve == {}


def test_a_short_load_that_the_client_cannot_make_costs_nobody_a_trial(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Bench._level

    async def level(self: Bench, plan: Any, level: Any, number: int, *, alone: bool = True) -> Any:
        if level.users == 9:
            raise ClientSaturated("too much")
        return await whole(self, plan, level, number, alone=alone)

    monkeypatch.setattr(Bench, "_level", level)
    found = trial(spec_of(), extra=(2, 9, 3))
    assert list(found.curve) == ["2 users"]
    assert found.score.feasible


def test_in_a_proof_nobody_is_dropped_and_nothing_is_added(trial: Trial) -> None:
    trial(spec_of(), rival=Rival(64.0), extra=(2,))
    bench = trial.bench
    assert bench is not None
    with bench.proving(0, lambda *_: None):
        assert (bench.rival, bench.extra) == (None, ())
        bench.brief = True
    assert (bench.rival, bench.extra, bench.brief) == (Rival(64.0), (2,), False)
