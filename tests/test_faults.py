"""Faults of the machine in nights of virtual time: tried again, a device left out, and when a night gives up."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autotune import report
from autotune.belief import Question
from autotune.confirm import Kind
from autotune.errors import (
    AutotuneError,
    BalancerError,
    ClusterError,
    DeviceLost,
    DiskFull,
    Killed,
    PortTaken,
    Slept,
    SpecError,
    StorageError,
    TooManyFaults,
    UsageError,
)
from autotune.events import read
from autotune.export.bundle import bundle
from autotune.faults import Losses, quarantined, spoilt
from autotune.files import storage
from autotune.ground import Ground, space
from autotune.inventory import Inventory
from autotune.ollama.api import ServerFacts
from autotune.sampler import Way
from autotune.space import moved, parse_layout
from autotune.study import MOST_TROUBLED
from tests.conftest import TINY, gpus, study
from tests.factories import BASELINE, SPEC, params, result
from tests.virtual import TRIAL_S, Played, Studies

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.result import TrialResult
    from autotune.spec import StudySpec

FACTS = ServerFacts("0.32.15", TINY)


def ground(cards: int = 3, spec: StudySpec = SPEC, inventory: Inventory | None = None) -> Ground:
    found = inventory or gpus(cards)
    return Ground(spec, found, FACTS, Path("/m"), Path("/h"), space(spec, found, FACTS), BASELINE)


def gone(index: int) -> DeviceLost:
    return DeviceLost(f"device {index} is gone", device=gpus(3).devices[index].id)


def nights(folder: Path, standing: Ground | None = None, way: Way | None = None) -> Studies:
    on = standing or ground()
    return Studies(folder / "night", on.space, without=on.without, plan=on.plan, way=way)


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    return nights(tmp_path)


def devices(ended: Any, since: int) -> set[str]:
    """Of all plans from a trial on."""
    results = ended.results[since:]
    plans = (ended.store.trials.plan(one.number) for one in results)
    return {card for plan in plans for instance in plan.instances for card in instance.devices}


# a device that fails


def test_a_device_that_fails_three_times_is_left_out_and_the_night_goes_on(studies: Studies) -> None:
    bench = Played(faults=[None, gone(2), gone(2), gone(2)])
    ended = studies.night(bench, trials=6, early=False)
    assert ended.why == "6 trials are done"
    assert ended.numbers == [0, 1, 1, 1, 1, 2, 3, 4, 5]
    assert [one.number for one in ended.results] == list(range(6))
    assert devices(ended, 1) <= {card.id for card in gpus(2).devices}
    assert bench.inventory is not None
    assert [device.index for device in bench.inventory.devices] == [0, 1]
    assert quarantined(ended.store) == {gpus(3).devices[2].id: "device 2 is gone"}
    (note,) = [event for event in read(ended.store.events) if event["what"] == "quarantine"]
    assert (note["device"], note["said"]) == (gpus(3).devices[2].id, "device 2 is gone")
    assert len(ended.seen("quarantine")) == 1


def test_a_device_that_fails_twice_is_used_again(studies: Studies) -> None:
    ended = studies.night(Played(faults=[None, gone(2), gone(2)]), trials=3)
    assert ended.numbers == [0, 1, 1, 1, 2]
    assert quarantined(ended.store) == {}


def test_no_result_is_kept_of_a_trial_that_met_the_end_of_a_device(studies: Studies) -> None:
    bench = Played(faults=[None, gone(2), gone(2), gone(2)])
    ended = studies.night(bench, trials=2)
    first, second = ended.seen("trial begins")[1:]
    assert first["number"] == second["number"] == 1
    assert [one.params for one in ended.store.trials.results()] == [BASELINE, second["params"]]
    assert len(ended.seen("result")) == 2


def test_a_later_night_leaves_the_device_out_from_its_start(studies: Studies) -> None:
    studies.night(Played(faults=[None, gone(2), gone(2), gone(2)]), trials=2)
    ended = studies.night(trials=7, early=False)
    assert len(ended.results) == 7
    assert devices(ended, 1) <= {card.id for card in gpus(2).devices}
    assert ended.bench.inventory is not None


def test_a_second_device_is_left_out_beside_the_first(studies: Studies) -> None:
    faults: list[Exception | None] = [None, *[gone(2)] * 3, None, *[gone(1)] * 3]
    ended = studies.night(Played(faults=faults), trials=5, early=False)
    assert list(quarantined(ended.store).values()) == ["device 2 is gone", "device 1 is gone"]
    assert devices(ended, 2) == {gpus(1).devices[0].id}


def test_the_baseline_moves_to_another_device_of_its_kind(studies: Studies) -> None:
    ended = studies.night(Played(faults=[None, *[gone(0)] * 3]), trials=6, early=False)
    assert len(ended.results) == 6
    assert devices(ended, 1) <= {card.id for card in gpus(3).devices[1:]}
    (baseline,) = ended.night.plan(BASELINE).instances
    assert baseline.devices == (gpus(3).devices[1].id,)


def test_without_the_baselines_device_or_its_like_the_night_is_over(tmp_path: Path) -> None:
    first, *others = gpus(3).devices
    mixed = replace(gpus(3), devices=(first, *(replace(one, kind="large") for one in others)))
    standing = nights(tmp_path, ground(inventory=mixed))
    ended, error = standing.broken(DeviceLost, Played(faults=[None, *[gone(0)] * 3]), trials=5)
    assert error.exit_code == 3
    assert "device 0 is gone; the baseline needs it" in error.message
    assert len(ended.store.trials.results()) == 1
    assert quarantined(ended.store) == {}


def test_with_nothing_left_to_try_the_night_is_over(tmp_path: Path) -> None:
    spec = study(search={"layouts": ["0 | 1 | 2"]})
    ended, error = nights(tmp_path, ground(3, spec)).broken(DeviceLost, Played(faults=[None, *[gone(2)] * 3]), trials=5)
    assert error.exit_code == 3
    assert "device 2 is gone; without it the study cannot go on: search: no " in error.message
    assert len(ended.store.trials.results()) == 1


def test_where_nobody_can_say_what_is_left_a_device_ends_the_night(tmp_path: Path) -> None:
    _, error = Studies(tmp_path / "night").broken(DeviceLost, Played(faults=[None, *[gone(1)] * 3]), trials=5)
    assert error.message == "device 1 is gone"


def by_instances(number: int, chosen: Mapping[str, Any]) -> TrialResult:
    """Each instance adds as much."""
    return result(number, chosen, tps=50.0 * (chosen["layout"].count("|") + 1))


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_the_search_goes_on_for_the_best_of_what_is_left(tmp_path: Path, lost: int) -> None:
    standing = ground(4)
    way = Way("informed", Question.of(SPEC, standing.inventory, FACTS.model), standing.rule_of_thumb())
    studies = nights(tmp_path, standing, way)
    fault = DeviceLost("gone", device=standing.inventory.devices[lost].id)
    bench = Played(by_instances, faults=[None, None, None, *[fault] * 3])
    ended = studies.night(bench, trials=9, early=False)
    assert ended.results[1].layout.count("|") == 3, "the rule of thumb uses all four"
    assert len(ended.results) == 9
    assert not any(str(lost) in one.layout for one in ended.results[3:])
    for sampler in (ended.night.sampler, studies.night(trials=9).night.sampler):  # then, and as a later night reads it
        best = sampler.ranked()
        assert best
        assert best[0]["layout"].count("|") == 2
        incumbent = sampler.incumbent()
        assert incumbent is not None
        assert incumbent[0] == pytest.approx(150, rel=0.1)
        odds = sampler.odds()
        assert odds is not None
        assert all(one.believed.params["layout"].count("|") < 3 for one in odds.contenders)


@pytest.mark.parametrize("by", ["informed", "tpe"])
def test_what_was_tried_on_a_lost_device_is_not_tried_again_by_another_name(tmp_path: Path, by: str) -> None:
    standing = ground(3, study(search={"layouts": ["0", "0 | 1", "0 | 2", "1 | 2"], "num_parallel": [1, 2]}))
    way = Way(by, Question.of(SPEC, standing.inventory, FACTS.model))
    lost = standing.inventory.devices[1].id
    bench = Played(by_instances, faults=[*[None] * 4, *[DeviceLost("gone", device=lost)] * 3])
    ended = nights(tmp_path, standing, way).night(bench, trials=30, early=False)
    plans = [ended.night.plan(one.params).fingerprint for one in ended.results]
    assert len(set(plans)) == standing.without({lost}).space.after_memory
    ranked = [ended.night.plan(one).fingerprint for one in ended.night.sampler.ranked() or []]
    assert len(ranked) == len(set(ranked))
    if by == "tpe":  # which measures nothing twice
        assert len(plans) == len(set(plans))


def test_a_device_that_fails_in_the_proof_leaves_a_proof_of_what_is_left(tmp_path: Path) -> None:
    fault = [DeviceLost("gone", device=gpus(4).devices[3].id)] * 3
    bench = Played(by_instances, faults=[*[None] * 9, *fault])
    ended = nights(tmp_path, ground(4)).night(bench, trials=8, early=False, proof=True)
    assert "the proof: decided" in ended.why
    assert ended.store.proofs() == 2
    first, second = map(ended.store.candidates, range(2))
    assert any(one["layout"] == "0 | 1 | 2 | 3" for one in first), "the fastest, before the loss"
    assert not any("3" in one["layout"] for one in second)
    assert ended.proof is not None
    assert ended.proof.number == 1
    assert ended.proof.kind is Kind.WINNER


def test_a_proof_whose_candidates_move_to_other_devices_begins_anew(tmp_path: Path) -> None:
    standing = ground(3, study(search={"layouts": ["0", "0 | 1"], "num_parallel": [1, 2]}))
    lost = standing.inventory.devices[1].id
    bench = Played(by_instances, faults=[*[None] * 8, *[DeviceLost("gone", device=lost)] * 3])
    ended = nights(tmp_path, standing).night(bench, trials=5, early=False, proof=True)
    assert ended.proof is not None
    assert ended.proof.number == 1
    shelf = ended.store.proof(1)
    assert not spoilt(shelf, {lost})
    assert len(shelf.results()) >= 2 * ended.proof.blocks
    again = nights(tmp_path, standing).night(trials=5, early=False, proof=True)
    assert again.proof is not None
    assert again.proof.number == 1


def test_after_a_loss_in_the_proof_the_search_goes_on_for_what_is_left(tmp_path: Path) -> None:
    studies = nights(tmp_path, ground(4))
    studies.promises = [0.01] * 20
    fault = [DeviceLost("gone", device=gpus(4).devices[3].id)] * 3
    first = studies.night(Played(by_instances), trials=40, proof=True)
    searched = len(first.results)
    studies = nights(tmp_path / "other", ground(4))
    studies.promises = [0.01] * 20
    ended = studies.night(Played(by_instances, faults=[*[None] * (searched + 2), *fault]), trials=40, proof=True)
    assert len(ended.results) > searched
    assert "the proof: " in ended.why


def test_what_cannot_run_any_more_is_neither_recommended_nor_exported(tmp_path: Path) -> None:
    standing = ground(4)
    lost = standing.inventory.devices[3].id
    way = Way("informed", Question.of(SPEC, standing.inventory, FACTS.model), standing.rule_of_thumb())
    bench = Played(by_instances, faults=[*[None] * 4, *[DeviceLost("gone", device=lost)] * 3])
    ended = nights(tmp_path, standing, way).night(bench, trials=6, early=False)
    store = ended.store
    store.write_host(standing.inventory, FACTS)
    (whole,) = {one.number for one in ended.results if one.layout == "0 | 1 | 2 | 3"} & {1}
    found = report.read(store)
    assert whole in Losses.of(store, ended.results).trials
    assert not any("0 | 1 | 2 | 3" in place.configuration for place in found.ranking)
    assert found.answer.startswith("Best: 0 | 1 | 2 ")
    assert "left out since it failed: gone" in found.cautions
    assert any("used more devices of a kind than are left" in line for line in found.infeasible)
    with pytest.raises(UsageError, match="has failed since, and is not exported: gone"):
        bundle(store, trial=whole)


# what is left of the ground


def test_what_is_left_keeps_its_indices(tmp_path: Path) -> None:
    left = ground(4).without({gpus(4).devices[1].id})
    assert [device.index for device in left.inventory.devices] == [0, 2, 3]
    assert left.space.allows(params(4, "0 | 2 | 3", policy="round_robin"))
    assert not any("1" in str(one["layout"]).split(" | ") for one in left.space.configurations())
    plan = left.plan(params(4, "0 | 2", policy="round_robin"))
    assert [one.devices for one in plan.instances] == [(gpus(4).devices[0].id,), (gpus(4).devices[2].id,)]


def test_where_the_first_device_is_lost_the_last_is_left() -> None:
    left = ground(2).without({gpus(2).devices[0].id})
    assert {one["layout"] for one in left.space.configurations()} == {"1"}
    assert str(left.rule_of_thumb()["layout"]) == "1"


def test_an_earlier_configuration_moves_to_devices_of_the_same_kind_or_cannot_run() -> None:
    left = ground(3).without({gpus(3).devices[1].id})
    plan = left.plan(params(4, "0 | 1", policy="round_robin"))
    assert [one.devices[0] for one in plan.instances] == [gpus(3).devices[0].id, gpus(3).devices[2].id]
    with pytest.raises(DeviceLost, match=r'layout "0 \| 1 \| 2": too few of its devices are left'):
        left.plan(params(4, "0 | 1 | 2", policy="round_robin"))


def test_another_kind_takes_no_ones_place() -> None:
    first, second, third = gpus(3).devices
    mixed = Inventory("host", (first, second, replace(third, kind="large")))
    left = replace(mixed, devices=(first, mixed.devices[2]))
    assert moved(parse_layout("1", mixed), mixed, left) == parse_layout("0", mixed)
    assert moved(parse_layout("0 | 1", mixed), mixed, left) is None
    assert str(moved(parse_layout("1x2 | 2", mixed), mixed, left)) == "0x2 | 2"


def test_written_layouts_are_those_that_can_still_be() -> None:
    spec = study(search={"layouts": ["0", "0 | 2", "0 | 1 | 2"]})
    left = ground(3, spec).without({gpus(3).devices[1].id})
    assert left.layouts == ("0", "0 | 2")
    assert left.narrowed().allows({**params(1, "0 | 2"), "policy": "round_robin"})


def test_kinds_that_would_go_by_other_letters_are_no_ground() -> None:
    cards = [replace(card, kind=kind) for card, kind in zip(gpus(4).devices, "xyzz", strict=True)]
    standing = ground(spec=study(search={"per_class": True}), inventory=replace(gpus(4), devices=tuple(cards)))
    for there in ({cards[2].id}, {cards[2].id, cards[3].id}, {cards[0].id, cards[1].id}):
        assert standing.without(there).space.after_memory
    with pytest.raises(SpecError, match="would get other letters"):
        standing.without({cards[0].id})


def test_without_any_device_there_is_no_ground() -> None:
    with pytest.raises(SpecError, match="no device is left"):
        ground(2).without({card.id for card in gpus(2).devices})


def test_results_of_what_cannot_run_any_more_are_told_apart(studies: Studies) -> None:
    bench = Played(faults=[*[None] * 9, *[gone(2)] * 3])
    ended = studies.night(bench, trials=12, early=False)
    whole = [one for one in ended.results if one.layout == "0 | 1 | 2"]
    runnable = ended.night.runnable(ended.results)
    assert whole
    assert [one.number for one in runnable] == [one.number for one in ended.results if one not in whole]


# faults that are nobody's device's


def test_faults_in_half_of_the_last_trials_end_the_night(studies: Studies) -> None:
    assert MOST_TROUBLED == 5
    again = [PortTaken("again"), None]
    _, error = studies.broken(TooManyFaults, Played(faults=[None, *again * 9]), trials=20, early=False)
    assert error.exit_code == 3
    assert "failed in 5 of the last 6 trials" in error.message
    assert studies.last is not None
    assert len(studies.last.store.trials.results()) == 6


def test_faults_that_come_now_and_then_do_not(studies: Studies) -> None:
    rarely = [Killed("by hand"), None, None, None]
    ended = studies.night(Played(faults=[None, *rarely * 9]), trials=12, early=False)
    assert len(ended.results) == 12


def test_faults_of_a_device_do_not_count_among_them(studies: Studies) -> None:
    once = [gone(2), None]
    assert len(studies.night(Played(faults=[None, *once * 9]), trials=9, early=False).results) == 9


@pytest.mark.parametrize(
    "error", [Killed("by hand"), BalancerError("nginx has died"), DiskFull("no room"), PortTaken("taken")]
)
def test_every_fault_is_noted_with_its_kind(studies: Studies, error: AutotuneError) -> None:
    ended = studies.night(Played(faults=[None, error]), trials=2)
    (note,) = [event for event in read(ended.store.events) if event["what"] == "trouble"]
    assert (note["kind"], note["said"], note["device"], note["left"]) == (type(error).__name__, str(error), "", 2)
    assert all(one.measured for one in ended.results)


def test_a_disk_that_is_full_is_told_from_one_that_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="No space left"), storage(tmp_path):
        raise OSError(28, "No space left on device")
    with pytest.raises(StorageError) as caught, storage(tmp_path):
        raise OSError(13, "Permission denied")
    assert type(caught.value) is StorageError


def test_a_trial_through_which_the_host_slept_is_measured_again(tmp_path: Path) -> None:
    studies = nights(tmp_path)

    def asleep() -> float:
        """From 15 min after the start of the night on it has slept for an hour: in trial 1."""
        return 3600.0 if asyncio.get_running_loop().time() > 1.5 * TRIAL_S else 0.0

    studies.asleep = asleep
    ended = studies.night(trials=3)
    assert ended.numbers == [0, 1, 1, 2]
    (fault,) = ended.seen("fault")
    assert isinstance(fault["error"], Slept)
    assert str(fault["error"]) == "this host was asleep for 3600 s while it measured"


def test_only_faults_of_the_machine_are_tried_again() -> None:
    assert issubclass(Killed, ClusterError)
    assert issubclass(DiskFull, StorageError)
    assert ClusterError("x").device == ""
