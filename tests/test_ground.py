"""What follows from the host and the study file before anything is measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.claims import locks
from autotune.errors import ModelMissing, SpecError
from autotune.ground import Ground, baseline, space, store_of
from autotune.inventory import Inventory
from autotune.ollama.api import ServerFacts
from tests.conftest import TINY, cores, gpus, study

FACTS = ServerFacts("0.32.15", TINY)


def ground(inventory: Inventory, users: int, **search: Any) -> Ground:
    spec = study(search=search, workload={"levels": [users]})
    room = space(spec, inventory, FACTS)
    return Ground(spec, inventory, FACTS, Path("models"), Path("home"), room, baseline(spec, inventory))


def test_the_rule_of_thumb_is_an_instance_on_each_device_and_a_slot_for_each_of_its_users() -> None:
    there = ground(gpus(4), 20, num_parallel=[2, 4, 8, 16], instances_per_device=[1, 2])
    thumb = there.rule_of_thumb()
    assert (thumb["layout"], thumb["num_parallel"], thumb["policy"]) == ("0 | 1 | 2 | 3", 8, "least_conn")
    assert there.space.allows(thumb)


def test_where_slots_are_few_the_rule_of_thumb_takes_the_most() -> None:
    assert ground(gpus(2), 100, num_parallel=[1, 2, 4]).rule_of_thumb()["num_parallel"] == 4


@pytest.mark.parametrize(("free_gib", "slots"), [(0, 64), (2.6, 2)])
def test_the_rule_of_thumb_likely_fits_the_memory(free_gib: float, slots: int) -> None:
    there = ground(gpus(2), 9000, num_parallel=[2, 64, 4096], kv_cache_type=["f16", "q8_0"])
    kept = study(cluster={"vram_free_gib": free_gib}).cluster
    tight = replace(there, spec=there.spec.model_copy(update={"cluster": kept}))
    thumb = tight.rule_of_thumb()
    assert (thumb["layout"], thumb["num_parallel"]) == ("0 | 1", slots)
    fits, more = tight.chances([thumb, {**thumb, "num_parallel": 4096 if slots == 64 else 64}])
    assert fits > 0.5 > more


def test_the_rule_of_thumb_keeps_to_the_layouts_of_the_study() -> None:
    assert ground(gpus(4), 8, num_parallel=[4], layouts=["0x2", "0+1"]).rule_of_thumb()["layout"] in {"0x2", "0+1"}


def test_without_a_word_the_baseline_is_the_first_gpu_or_the_whole_cpu() -> None:
    assert baseline(study(), gpus(4))["layout"] == "0"
    assert baseline(study(), cores((0,), (1,)))["layout"] == "0+1"


def test_the_baseline_speaks_of_a_policy_only_where_there_is_one() -> None:
    assert "policy" not in baseline(study(baseline={"layout": "0"}), gpus())
    assert baseline(study(baseline={"layout": "0 | 1"}), gpus())["policy"] == "round_robin"


def test_a_baseline_that_cannot_be_names_its_key() -> None:
    with pytest.raises(SpecError, match=r"^baseline\.layout: "):
        baseline(study(baseline={"layout": "0 | 9"}), gpus())


def test_on_a_large_host_the_rule_of_thumb_needs_no_list_of_all_layouts() -> None:
    there = ground(kinds("AAAAAABBBBBCCCCC"), 100, num_parallel=[2, 4, 8], instances_per_device=[1, 2])
    assert not there.space.small
    thumb = there.rule_of_thumb()
    assert thumb["layout"] == " | ".join(map(str, range(16)))
    assert (thumb["num_parallel"], thumb["num_parallel@B"], thumb["num_parallel@C"]) == (8, 8, 8)
    assert thumb["policy"] == "least_conn"
    assert there.space.allows(thumb)


def kinds(letters: str) -> Inventory:
    """Cards of these kinds."""
    cards = gpus(len(letters)).devices
    return Inventory("host", tuple(replace(card, kind=kind) for card, kind in zip(cards, letters, strict=True)))


def test_a_baseline_on_several_kinds_of_devices_has_slots_for_each() -> None:
    layout = "0 | 1 | 2"
    told = study(baseline={"layout": layout, "num_parallel": 16, "num_parallel_at": {"B": 8}, "weights": "slots"})
    first = baseline(told, kinds("AAB"))
    assert (first["num_parallel"], first["num_parallel@B"], first["weights"]) == (16, 8, "slots")
    alike = baseline(study(baseline={"layout": layout, "num_parallel": 16}), kinds("AAB"))
    assert (alike["num_parallel"], alike["num_parallel@B"]) == (16, 16)
    assert "weights" not in alike
    off = baseline(study(baseline={"layout": layout}, search={"per_class": False}), kinds("AAB"))
    assert not any("@" in name for name in off)
    assert not any("@" in name for name in baseline(study(baseline={"layout": layout}), gpus(3)))
    for chosen in (first, alike):
        assert space(study(search={"num_parallel": [8, 16]}), kinds("AAB"), FACTS).allows(chosen)


def test_a_baseline_speaks_of_no_class_that_its_layout_has_not() -> None:
    with pytest.raises(SpecError, match=r"baseline\.num_parallel_at: its layout has no instances on C; there are B"):
        baseline(study(baseline={"layout": "0 | 2", "num_parallel_at": {"C": 8}}), kinds("AAB"))
    with pytest.raises(SpecError, match=r"no instances on A; there are none beside A"):
        baseline(study(baseline={"layout": "0", "num_parallel_at": {"A": 8}}), kinds("AAB"))


def test_the_space_collapses_for_a_model_with_one_slot() -> None:
    there = ground(gpus(), 4, num_parallel=[1, 2, 4])
    assert {params["num_parallel"] for params in there.narrowed().configurations()} == {1}


def test_cores_are_locked_one_by_one_and_cards_by_their_id() -> None:
    spec = study()
    assert {"CPU 0", "CPU 1", "CPU 5"} <= set(locks(spec, cores((0, 1), (5,)), Path("folder")))
    cards = replace(gpus(2), simulated=False)
    assert {f"device {card.id}" for card in cards.devices} <= set(locks(spec, cards, Path("folder")))
    assert not any("device" in name for name in locks(spec, gpus(2), Path("folder")))


def test_the_store_is_the_one_that_has_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, own = tmp_path / "told", tmp_path / "home/.ollama/models"
    (told / "manifests").mkdir(parents=True)
    manifest = own / "manifests/registry.ollama.ai/library/tiny/latest"
    manifest.parent.mkdir(parents=True)
    manifest.touch()
    monkeypatch.setenv("OLLAMA_MODELS", str(told))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    spec = study(cluster={"driver": "process"})
    assert store_of(spec, tmp_path) == own
    assert store_of(study(cluster={"driver": "process", "model": "other"}), tmp_path) == told


def test_without_any_store_it_is_said_where_one_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ModelMissing, match=r"set cluster\.models_dir"):
        store_of(study(cluster={"driver": "process"}), tmp_path)
