"""Whole nights on a played host, and what many of them say."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import pytest

from autotune import report
from autotune.confirm import verdict
from autotune.errors import AutotuneError, BaselineFailed, Interrupted, ModelMissing, SpecError, UsageError
from autotune.export.bundle import bundle
from autotune.hosts import inventory
from autotune.rehearsal import nights as nights_module
from autotune.rehearsal import played, simulate
from autotune.rehearsal import truth as truth_module
from autotune.rehearsal.host import host
from autotune.rehearsal.nights import night
from autotune.rehearsal.profile import FAR_OFF, UNLIKE
from autotune.rehearsal.truth import truth
from autotune.simulator.clock import run_virtual
from autotune.simulator.model import closed_form, contention, slowdown
from autotune.simulator.profiles import load_profile
from autotune.space import key
from autotune.stats import corner, front, volume
from autotune.store import Store
from tests.rehearsal.studies import LIMIT, profile, small

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.rehearsal.worth import Slept
    from autotune.spec import StudySpec
    from autotune.store import Shelf


def slept(spec: StudySpec, seed: int = 1, store: Store | None = None) -> Slept:
    async def whole() -> Slept:
        return await night(await host(spec), seed, store)

    return run_virtual(whole())


def noisy(path: Path, life: float = 0.03) -> str:
    return str(profile(path / "noisy.toml", host__life_jitter=life, host__step_jitter=0.1))


def test_a_night_kept_in_memory_is_the_one_that_is_kept_in_a_folder(tmp_path: Path) -> None:
    spec = small(cluster={"profile": noisy(tmp_path)}, budget={"trials": 8})
    store = Store(tmp_path / "study")
    store.open(spec, "")
    kept, light = slept(spec, store=store), slept(spec)
    assert kept == light
    assert light.kind == "winner"
    results = store.trials.results()
    assert len(results) == light.trials == 8
    # the informed search measures some again
    assert [*dict.fromkeys(key(result.params) for result in results)] == [key(params) for params in light.tried]
    proof = verdict(store, spec.proof)
    assert proof is not None
    assert (proof.contenders[proof.recommended].params,) == light.recommended
    assert all(result.simulated for result in results)
    assert results[0].seconds > 5
    assert store.trials.records(0, 0)


def test_a_proof_loads_what_decides_nothing_once(tmp_path: Path) -> None:
    spec = small(workload={"levels": [2, 8]}, budget={"trials": 5}, objective={"at": 8})
    store = Store(tmp_path / "study")
    store.open(spec, "")
    assert slept(spec, store=store).kind == "winner"
    runs, block = store.proof(0).results(), len(store.candidates(0))
    first, others = runs[:block], runs[block:]
    assert all(list(run.levels) == ["2 users", "8 users"] for run in first)
    assert all(list(run.levels) == ["8 users"] for run in others)
    assert len(others) >= 3 * block
    assert max(run.seconds for run in others) < 0.8 * min(run.seconds for run in first)
    found = report.read(store)
    assert "(2 users: 1)" in found.title
    assert [change.label for change in found.changes] == ["2 users", "8 users"]


def test_each_block_of_a_proof_has_arrivals_of_its_own(tmp_path: Path) -> None:
    """All in a block have the same; and if all blocks had, the luck of one draw would seem certain."""
    rate: dict[str, Any] = {
        "workload": {"levels": [{"rate": 0.5}]},
        "objective": {"at": 0.5},
        "proof": {"finalists": 1, "pairs_max": 4},
    }
    store = Store(tmp_path / "study")
    spec = small(**rate, budget={"trials": 4})
    store.open(spec, "")
    slept(spec, store=store)

    def came(shelf: Shelf, number: int) -> list[float]:
        first, *others = sorted(record.intended_at for record in shelf.records(number, 0))
        return [round(one - first, 6) for one in others[:5]]

    searched, proved = (
        [came(shelf, number) for number in numbers]
        for shelf, numbers in ((store.trials, range(2)), (store.proof(0), range(8)))
    )
    assert searched[0] == searched[1]
    assert proved[0::4] == proved[1::4]
    assert proved[2::4] == proved[3::4]
    assert len({tuple(one) for one in [*searched, *proved]}) == 5


def test_a_night_with_two_goals_finds_and_proves_their_front(tmp_path: Path) -> None:
    """The fewer slots the quicker each token, the more the more of them: by how the played host decodes."""
    spec = small(
        cluster={"profile": noisy(tmp_path, 0.01)},
        baseline={"num_parallel": 2},
        objective={"metric": ["tps", "tpot_mean_s"], "limits": []},
        budget={"trials": 7},
        proof={"finalists": 3, "pairs_max": 4},
    )
    store = Store(tmp_path / "study")
    store.open(spec, "")
    assert slept(spec, store=store).kind == "front"
    found = report.read(store)
    assert found.proof is not None
    tried = {int(one.params["num_parallel"]): one.params for one in found.proof.contenders[1:]}
    whole = run_virtual(host(spec))
    every = {key(params): truth(whole, params).tps for params in whole.ground.space.configurations()}
    assert sorted(tried) == [1, 2, 4]
    assert every[key(tried[4])] > 0.97 * max(every.values())
    assert {1, 2, 3} <= set(found.proof.front.points)
    point = next(one for one in found.front if one.on and "NUM_PARALLEL 1" in one.configuration)
    assert point.trial is not None
    exported = bundle(store, trial=point.trial, user="ollama")
    assert exported.proved
    assert exported.plan.num_parallel == 1


def test_equal_seeds_are_equal_nights_and_others_are_not(tmp_path: Path) -> None:
    spec = small(cluster={"profile": noisy(tmp_path)})
    assert slept(spec, 1) == slept(spec, 1)
    assert slept(spec, 1).seconds != slept(spec, 2).seconds


def test_a_night_without_a_proof_recommends_the_best_of_its_search() -> None:
    found = slept(small(proof={"finalists": 0}))
    assert (found.kind, found.blocks, found.trials) == ("search", 0, 4)
    assert "no proof was asked for" in found.why


def test_a_time_of_day_ends_the_night() -> None:
    found = slept(small(budget={"trials": None, "until": "22:01"}, proof={"finalists": 0}))
    assert 40 < found.seconds < 60
    assert found.why.startswith("no time is left")


def test_a_baseline_that_does_not_run_ends_all() -> None:
    huge = small(cluster={"env": {"LLAMA_ARG_FIT": "off"}}, baseline={"num_parallel": 512}, workload={"num_ctx": 8192})
    with pytest.raises(BaselineFailed, match="out of memory"):
        slept(huge)


def test_a_model_with_one_slot_narrows_the_space() -> None:
    found = slept(small(cluster={"model": "qwen35"}, budget={"trials": 9}))
    assert {params["num_parallel"] for params in found.tried[1:]} == {1}


def test_the_truth_is_the_closed_form() -> None:
    spec, figures = small(workload={"num_predict": 60}), load_profile("2x-small")
    there = run_virtual(host(spec))
    for layout, count in (("0", 1), ("0 | 1", 2)):
        params = {**there.ground.baseline, "layout": layout, "num_parallel": 2}
        params |= {"policy": "least_conn"} if count > 1 else {}
        law = closed_form(
            figures.model(), 6 // count, 2, 60, prompt_tokens=42, overhead_s=figures.host.overhead_s,
            pace=contention(figures.host, count) * slowdown(figures, {figures.devices[0].uuid: 1.0}, {}),
        )  # fmt: skip
        found = truth(there, params)
        assert found.tps == pytest.approx(count * law.output_tps, rel=0.02)
        assert found.violation == pytest.approx(law.ttft_s / LIMIT["max"] - 1, abs=0.05)  # type: ignore[operator]


def test_the_truth_is_of_all_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast a host is: the last of them begins after hundreds of requests."""
    there = run_virtual(host(small(workload={"num_predict": 20, "levels": [32]})))
    params = {**there.ground.baseline, "layout": "0 | 1", "num_parallel": 16, "policy": "least_conn"}
    found = truth(there, params)
    monkeypatch.setattr(truth_module, "WARM_REQUESTS", 10_000)
    assert found.tps == pytest.approx(truth(there, params).tps, rel=0.01)


def test_the_truth_about_what_does_not_run() -> None:
    there = run_virtual(host(small(cluster={"env": {"LLAMA_ARG_FIT": "off"}}, workload={"num_ctx": 8192})))
    found = truth(there, {**there.ground.baseline, "num_parallel": 64})
    assert (found.tps, found.feasible) == (0.0, False)


def test_the_truth_counts_requests_that_fail() -> None:
    """One slot for six users: half a second is over for most of them before anything comes."""
    there = run_virtual(host(small(workload={"request_timeout_s": 0.5}, objective={"limits": []})))
    slow = truth(there, {**there.ground.baseline, "num_parallel": 1})
    assert slow.tps > 0
    assert not slow.succeeds
    assert not slow.feasible
    patient = run_virtual(host(small(objective={"limits": []})))
    assert truth(patient, {**patient.ground.baseline, "num_parallel": 1}).feasible


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Any:
    spec = small(cluster={"profile": noisy(tmp_path_factory.mktemp("profile"))})
    seen: list[tuple[str, int, int]] = []
    return spec, simulate(spec, 3, 5, progress=lambda *step: seen.append(step)), seen


def test_many_nights_are_held_against_the_truth(three: Any) -> None:
    spec, found, seen = three
    assert [told.seed for told in found.nights] == [5, 6, 7]
    assert (found.asked, found.configurations, found.whole_space) == (3, 9, True)
    there = run_virtual(host(spec))
    every = [truth(there, params) for params in there.ground.space.configurations()]
    best = max(one.tps for one in every if one.feasible)
    for told in found.nights:
        assert told.best_tps == best
        assert told.tps == truth(there, told.params).tps
        assert told.hours > 0
        assert (told.regret or 0) >= 0
    assert seen[-1] == ("nights", 3, 3)
    assert ("truth", 9, 9) in seen or ("truth", 10, 10) in seen
    assert found.content()["nights"][0]["regret"] == found.nights[0].regret


def test_nights_with_two_goals_are_held_against_the_true_front(tmp_path: Path) -> None:
    """Of a front of few points, two of which are proved, most is covered; by hand from the truths."""
    spec = small(
        cluster={"profile": noisy(tmp_path, 0.01)},
        objective={"metric": ["tps", "tpot_mean_s"]},
        budget={"trials": 7},
        proof={"finalists": 2},
    )
    found = simulate(spec, 2, 1)
    there = run_virtual(host(spec))
    every = {key(params): truth(there, params) for params in there.ground.space.configurations()}
    good = [one for one in every.values() if one.feasible]
    points = [(math.log(one.tps), -math.log(one.goals["tpot_mean_s"])) for one in good]
    best = [points[place] for place in front(points)]
    today = truth(there, there.ground.baseline)
    low = corner([*best, *([today.point] if today.feasible else [])])
    assert len(best) > 2
    for told in found.nights:
        assert told.kind == "front"
        assert told.front[0].params == told.params
        assert [one.tps for one in told.front] == [every[key(one.params)].tps for one in told.front]
        mine = [every[key(one.params)].point for one in told.front if one.feasible]
        assert told.covered == told.share == volume(mine, low) / volume(best, low)
        assert told.covered > 0.75
        assert not told.false_winner
    content = found.content()
    assert content["summary"]["volume_of_front"]["median"] == pytest.approx(
        sum(n.covered or 0 for n in found.nights) / 2
    )
    assert content["nights"][0]["front"][0]["goals"].keys() == {"tpot_mean_s"}


def test_two_processes_say_the_same(three: Any) -> None:
    spec, found, _ = three
    other = simulate(spec, 3, 5, processes=2)
    assert other.nights == found.nights


def test_processes_that_play_nights_have_one_thread_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with nights_module._workers(small(), 2) as work:
        assert list(work(os.getenv, ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"])) == ["1", "3"]
    assert "OPENBLAS_NUM_THREADS" not in os.environ
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_of_a_large_space_the_best_is_that_of_what_was_tried(three: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, _, _ = three
    monkeypatch.setattr(nights_module, "MOST_KNOWN", 2)
    found = simulate(spec, 1, 5)
    assert not found.whole_space
    there = run_virtual(host(spec))
    tried = slept(spec, 5).tried
    assert found.nights[0].best_tps == max(one.tps for params in tried if (one := truth(there, params)).feasible)


def test_ctrl_c_gives_the_nights_so_far(three: Any) -> None:
    spec, found, _ = three

    def stop(what: str, done: int, _: int) -> None:
        if (what, done) == ("nights", 2):
            raise KeyboardInterrupt

    broken = simulate(spec, 9, 5, progress=stop)
    assert broken.nights == found.nights[:2]
    assert "broken off after 2 of 9 nights" in broken.cautions

    def at_once(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        simulate(spec, 9, 5, progress=at_once)


def broken(tmp_path: Path, **figures: Any) -> StudySpec:
    return small(cluster={"profile": str(profile(tmp_path / "broken.toml", **figures))})


def test_what_cannot_be_rehearsed_is_said_in_one_line(tmp_path: Path) -> None:
    real = small(cluster={"driver": "process"})
    joules = small(objective={"metric": ["tps", "tokens_per_joule"]})
    cases: list[tuple[type[AutotuneError], str, Any]] = [
        (UsageError, "nights = 0", lambda: simulate(small(), 0)),
        (UsageError, "processes = 0", lambda: simulate(small(), 1, processes=0)),
        (SpecError, "--profile", lambda: played(real)),
        (UsageError, 'driver = "process"', lambda: simulate(real, 1)),
        (UsageError, "--profile 3x-none: no such file, and none of", lambda: simulate(played(real, "3x-none"), 1)),
        (SpecError, "models.0.prefill_tps = 0.0", lambda: simulate(broken(tmp_path, model__prefill_tps=0.0), 1)),
        (SpecError, "step_base_s = inf", lambda: simulate(broken(tmp_path, model__step_base_s=float("inf")), 1)),
        (ModelMissing, "no model 'absent'", lambda: simulate(small(cluster={"model": "absent"}), 1)),
        (SpecError, "num_ctx = 9000", lambda: simulate(small(workload={"num_ctx": 9000}), 1)),
        (SpecError, "num_ctx = 40: prompts of ", lambda: simulate(small(workload={"num_ctx": 40}), 1)),
        (UsageError, "capacity", lambda: simulate(small(objective={"metric": "capacity"}), 1)),
        (UsageError, 'metric = ["output_tps", "tokens_per_joule"]: no "tokens_per_joule"', lambda: simulate(joules, 1)),
    ]
    for kind, words, doing in cases:
        with pytest.raises(kind) as raised:
            doing()
        assert words in raised.value.message
        assert "\n" not in raised.value.message


def test_a_real_study_is_played_on_a_profile() -> None:
    real = small(cluster={"driver": "process", "devices": "gpu"})
    found = simulate(played(real, "2x-small"), 1)
    assert found.nights[0].trials == 4
    named = small(cluster={"driver": "process", "devices": [{"id": "GPU-aaaa"}]})
    assert [device.id for device in played(named, "2x-small").cluster.devices] == ["0"]  # type: ignore[union-attr]
    known = small(cluster={"driver": "process", "devices": [{"id": "1"}]})
    assert [device.id for device in played(known, "2x-small").cluster.devices] == ["1"]  # type: ignore[union-attr]
    for devices in ("groups:3", [{"cores": "0"}], [{"id": "0", "make": "amd", "memory_gib": 32.0}]):
        other = played(small(cluster={"driver": "process", "devices": devices}), "2x-small")
        assert 1 <= len(inventory(other).devices) <= 2
    assert any("life_jitter" in caution for caution in found.cautions)
    assert not any("prompt cache" in caution for caution in found.cautions)


def test_what_no_played_host_has_is_said() -> None:
    found = simulate(small(workload={"shared_prefix": {"prefixes": 2, "tokens": 20}}), 1)
    assert any("no prompt cache" in caution for caution in found.cautions)


@pytest.mark.parametrize(("error", "told"), [(FAR_OFF + 0.3, True), (FAR_OFF, False)])
def test_nights_on_a_profile_of_another_host_say_so(tmp_path: Path, error: float, told: bool) -> None:
    fitted = profile(tmp_path / "fitted.toml")
    fitted.write_text(fitted.read_text().replace("tps_error = 0.0", f"tps_error = {error}"))
    cautions = simulate(small(cluster={"profile": str(fitted)}), 1).cautions
    assert any(line.endswith(f"is 50% off in TPS: {UNLIKE}") for line in cautions) is told
    assert any(UNLIKE in line for line in cautions) is told


def test_what_is_recommended_is_what_the_night_says() -> None:
    """A winner is the proof's, and else what runs today; without a proof it is the best of the search."""
    spec = small(proof={"finalists": 1, "least_gain": 50.0}, objective={"limits": []})
    kept = slept(spec)
    assert kept.kind in {"keep", "unclear"}
    assert [*map(key, kept.recommended)] == [key(run_virtual(host(spec)).ground.baseline)]
