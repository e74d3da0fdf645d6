"""A study that was measured on a known host gives that host back."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from autotune.cli import main
from autotune.errors import UsageError
from autotune.events import Events
from autotune.rehearsal.bench import bench
from autotune.rehearsal.fit import Fit, fit
from autotune.rehearsal.host import host
from autotune.rehearsal.light import NOWHERE
from autotune.rehearsal.nights import night
from autotune.rehearsal.profile import FAR_OFF, UNLIKE, Errors, make
from autotune.rehearsal.sightings import Sighting, _Stay, _steps
from autotune.simulator.clock import run_virtual
from autotune.simulator.profiles import Profile, load_profile
from autotune.store import Store
from tests.rehearsal.studies import small

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from autotune.spec import StudySpec

KNOWN = """
name = "known"

[host]
contention = 0.07
occupancy = 0.8
overhead_s = 0.11
life_jitter = {life}

[[devices]]
uuid = "GPU-00000000-0000-4000-8000-000000000000"
name = "One"
memory_mib = 16384

[[devices]]
uuid = "GPU-00000001-0000-4000-8000-000000000001"
name = "Other"
memory_mib = 24576
speed = 1.6

[[models]]
name = "tiny"
layers = 30
weights_mib = 3000
kv_mib_per_1024_tokens = 40
step_base_s = 0.018
step_slot_s = 0.0025
prefill_base_s = 0.02
prefill_tps = 900
load_s = 7.0
warm_load_s = 2.0
"""


def measured(folder: Path, life: float = 0.0, **changes: dict[str, Any]) -> Store:
    """A finished study on the known host."""
    folder.mkdir(exist_ok=True)
    known = folder / "known.toml"
    known.write_text(KNOWN.format(life=life))
    tables: dict[str, dict[str, Any]] = {
        "cluster": {"profile": str(known)},
        "search": {
            "num_parallel": [2, 6, 12],
            "layouts": ["0", "1", "0 | 1", "0x2"],
            "policy": ["least_conn"],
            "sampler": "random",  # which leaves nothing out
        },
        "workload": {
            "input_tokens": {"kind": "uniform", "mean": 160, "spread": 0.8},
            "levels": [4, 12],
            "warmup_s": 20,
            "window_s": 60,
            "window_max_s": 60,
            "drain_s": 30,
        },
        "study": {"seed": 3},
        "objective": {"limits": [], "end_early": False},
        "budget": {"trials": 12},
        "proof": {"finalists": 1},
    }
    spec = small(**{name: tables.get(name, {}) | changes.get(name, {}) for name in {*tables, *changes}})
    return slept(folder, spec)


def slept(folder: Path, spec: StudySpec) -> Store:
    async def whole() -> Store:
        store = Store(folder / spec.study.name)
        store.open(spec, "")
        await night(await host(spec), spec.study.seed, store)
        return store

    return run_virtual(whole())


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Profile, Errors, str]:
    folder = tmp_path_factory.mktemp("calm")
    store, target = measured(folder), folder / "fitted.toml"
    errors = make(store, target)
    return store, load_profile(target), errors, target.read_text()


def test_the_known_host_comes_back(calm: tuple[Store, Profile, Errors, str]) -> None:
    _, found, _, _ = calm
    model, speeds = found.models[0], [device.speed for device in found.devices]
    # times of one device in those of the other: which is 1 is a choice
    unit = speeds[0]
    assert [speed / unit for speed in speeds] == pytest.approx([1.0, 1.6], rel=0.03)
    for busy in (1, 2, 6, 12):
        assert (model.step_base_s + model.step_slot_s * busy) / unit == pytest.approx(0.018 + 0.0025 * busy, rel=0.03)
    assert found.host.contention == pytest.approx(0.07, abs=0.01)
    assert found.host.occupancy == pytest.approx(0.8, rel=0.03)
    assert found.host.overhead_s / unit == pytest.approx(0.11, rel=0.15)
    for tokens in (50, 250):
        assert (model.prefill_base_s + tokens / model.prefill_tps) / unit == pytest.approx(0.02 + tokens / 900, rel=0.1)
    assert model.weights_mib + model.compute_mib == pytest.approx(3000 + 520, rel=0.01)
    assert model.kv_mib_per_1024_tokens == pytest.approx(40, rel=0.02)
    assert model.layers == 30
    assert (model.load_s, model.warm_load_s) == pytest.approx((7.0, 2.0), rel=0.05)
    assert found.host.life_jitter == pytest.approx(0.0, abs=0.003)
    assert [device.memory_mib for device in found.devices] == [16384, 24576]


def test_every_trial_is_reproduced(calm: tuple[Store, Profile, Errors, str], tmp_path: Path) -> None:
    store, found, errors, text = calm
    assert errors.tps < 0.01
    assert errors.ttft < 0.05
    path = tmp_path / "again.toml"
    path.write_text(text)
    spec = small(**store.spec().model_dump(exclude={"cluster": {"profile"}}) | {"cluster": {"profile": str(path)}})
    assert found.name == "test"
    results = store.trials.results()
    for result, again in zip(results, played_again(spec, results), strict=True):
        for label, metrics in result.levels.items():
            assert again[label] == pytest.approx(metrics.output_tps, rel=0.03), (result.params, label)


def played_again(spec: StudySpec, results: list[Any]) -> list[dict[str, float]]:
    async def whole() -> list[dict[str, float]]:
        there = await host(spec)
        judged = bench(there, spec, Events(NOWHERE), "again")
        trials = [await judged.trial(one.number, one.params, there.ground.plan(one.params)) for one in results]
        return [{label: metrics.output_tps for label, metrics in found.levels.items()} for found, _ in trials]

    return run_virtual(whole())


def test_the_file_says_where_its_figures_come_from(calm: tuple[Store, Profile, Errors, str]) -> None:
    _, found, errors, text = calm
    assert f"{errors.tps:.1%} in TPS" in text
    assert found.tps_error == pytest.approx(errors.tps)
    for key in ("step_base_s", "contention", "overhead_s", "prefill_tps", "weights_mib", "warm_load_s"):
        (line,) = (line for line in text.splitlines() if line.startswith(key))
        assert "  # " in line
    assert "trials 0" in text


def test_a_profile_of_another_host_says_so(
    calm: tuple[Store, Profile, Errors, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store, _, errors, text = calm
    assert errors.tps < FAR_OFF
    assert "CAUTION" not in text
    far = Errors(3, 5.0, 1.0)
    monkeypatch.setattr(import_module("autotune.rehearsal.profile"), "_errors", lambda *_: far)
    assert main(["profile", str(store.folder), "--to", str(tmp_path / "far.toml")]) == 0
    assert f"# CAUTION: {UNLIKE}" in (tmp_path / "far.toml").read_text()
    assert f"caution: {UNLIKE}" in capsys.readouterr().out


def test_what_a_search_left_out_does_not_spoil_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes for the best: some loads end early, some are short, and few batch sizes are seen in the others."""
    every: list[Sequence[Sighting]] = []

    def spied(search: Sequence[Sighting], proofs: Sequence[Sighting], kinds: Mapping[str, str]) -> Fit:
        every.append(search)
        return fit(search, proofs, kinds)

    monkeypatch.setattr(import_module("autotune.rehearsal.profile"), "fit", spied)
    store = measured(
        tmp_path, search={"sampler": "informed", "layouts": ["0"]}, objective={"limits": [], "end_early": True},
        baseline={"layout": "0 | 1", "num_parallel": 6, "policy": "least_conn"}, budget={"trials": 5},
    )  # fmt: skip
    errors = make(store, tmp_path / "fitted.toml")
    assert errors.tps < 0.02
    results = store.trials.results()
    assert any(one.dropped for one in results)
    assert any(one.curve for one in results)
    for one in results:
        loads = len(one.levels) + len(one.curve)
        seen = sum(sighting.trial == str(one.number) for sighting in every[0])
        assert seen == one.instances * loads, (one.number, one.dropped)


def test_fresh_starts_of_a_proof_tell_how_lives_differ(tmp_path: Path) -> None:
    store = measured(tmp_path, life=0.05, proof={"finalists": 2, "pairs": 12, "pairs_max": 12})
    make(store, tmp_path / "fitted.toml")
    assert load_profile(tmp_path / "fitted.toml").host.life_jitter == pytest.approx(0.05, rel=0.35)


def test_what_tells_too_little_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "no.toml"
    alike = measured(
        tmp_path / "a", search={"num_parallel": [2], "layouts": ["0"]}, workload={"levels": [6]},
        baseline={"num_parallel": 2}, budget={"trials": 3}, proof={"finalists": 0},
    )  # fmt: skip
    with pytest.raises(UsageError, match="too few measured trials: 1"):
        make(alike, target)
    assert main(["profile", str(alike.folder), "--to", str(target)]) == 2
    said = capsys.readouterr().err
    assert "too few measured trials" in said
    assert len(said.strip().splitlines()) == 1
    assert not target.exists()
    assert main(["profile", str(tmp_path), "--to", str(target)]) == 4


def seen(trial: str, steps: dict[int, float], residents: int = 1, instances: int = 1) -> Sighting:
    known = {busy: (step, 100) for busy, step in steps.items()}
    return Sighting(trial, trial, "one", ("D",), residents, instances, known, (), (), ())


@pytest.mark.parametrize(("together", "step_s"), [(1, 0.1), (3, None)])
def test_texts_that_come_together_say_nothing_of_a_step(together: int, step_s: float | None) -> None:
    times = tuple(0.1 * (at // together) for at in range(600))
    stay = _Stay(cast("Any", SimpleNamespace(chunk_times=times)), -1.0, times[-1])
    found = {busy: seen for busy, (seen, _) in _steps([stay], [stay.begin], [stay.end]).items()}
    assert found == pytest.approx({} if step_s is None else {1: step_s})


def test_one_batch_size_is_no_line() -> None:
    for every in (
        [seen("0", {4: 0.03}), seen("1", {4: 0.03})],
        [seen("0", {4: 0.03, 2: 0.02}, residents=2, instances=2), seen("1", {4: 0.03, 1: 0.02}, 2, 2)],
    ):
        with pytest.raises(UsageError, match="only one batch size was seen"):
            fit(every, [], {"D": "card"})
    found = fit([seen("0", {4: 0.03}), seen("1", {2: 0.02})], [], {"D": "card"})
    assert (found.step_base_s.value, found.step_slot_s.value) == pytest.approx((0.01, 0.005))
    assert (found.contention.value, found.contention.why) == (0.0, "not measured")


def test_steps_too_short_to_be_told_are_no_profile() -> None:
    with pytest.raises(UsageError, match=r"steps are too short to be told .* texts came several at a time"):
        fit([seen("0", {4: 3.2e-6}), seen("1", {2: 1.6e-6})], [], {"D": "card"})
    assert fit([seen("0", {4: 8e-6}), seen("1", {2: 4e-6})], [], {"D": "card"}).step_slot_s.value == pytest.approx(2e-6)


def test_the_command(
    calm: tuple[Store, Profile, Errors, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store, *_ = calm
    target = tmp_path / "mine.toml"
    assert main(["profile", str(store.folder), "--to", str(target)]) == 0
    said = capsys.readouterr().out
    assert f"wrote {target}" in said
    assert "SIMULATED" in said
