"""What follows from the host and the study file before anything is measured."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autotune.aims import check
from autotune.claims import locks, port_locks
from autotune.cluster.lock import Lock, holder
from autotune.doctor.places import windows
from autotune.errors import DeviceBusy, ModelMissing, SpecError
from autotune.ground import Ground, baseline, space, store_of
from autotune.hosts import inventory
from autotune.inventory import Device, Inventory
from autotune.ollama.api import ServerFacts
from autotune.simulator.profiles import SHIPPED
from tests.conftest import TINY, cores, gpus, study

if TYPE_CHECKING:
    from autotune.spec import StudySpec

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


def test_a_night_claims_every_port_that_it_may_use() -> None:
    spec = study(cluster={"first_port": 12000, "balancer": "nginx", "balancer_port": 12900})
    assert {"port 12000", "port 12900"} <= set(locks(spec, gpus(2), Path("folder")))
    there = ground(gpus(2), 2, instances_per_device=[1, 2])
    first = there.spec.cluster.first_port
    assert set(range(first, first + 4)) <= set(there.ports)
    with Lock(["one"]) as lock:
        lock.extend(port_locks(there.ports))
        with (
            pytest.raises(DeviceBusy, match=f"port {first + 3} is in use by another run of autotune: pid"),
            Lock(["two"]) as other,
        ):
            other.extend(port_locks([first + 3]))
    assert not holder(f"port {first + 3}")


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


# windows in which too few requests come


def limited(level: Any, statistic: str, **more: Any) -> StudySpec:
    limits = [{"metric": "ttft_s", "statistic": statistic, "max": 2.0}]
    return study(objective={"limits": limits, **more}, workload={"levels": [level], "window_max_s": 120})


@pytest.mark.parametrize(
    ("level", "statistic", "said"),
    [
        (
            {"rate": 3.0},
            "p99",
            "at 3 requests/s about 360 come, and the p99 of a time needs 368; allowed is 123 or more",
        ),
        (
            {"ramp": [0.1, 0.25], "over_s": 60.0},
            "p90",
            "at 0.25 requests/s about 30 come, and the p90 of a time needs 36",
        ),
        ({"rate": 0.05}, "mean", "at 0.05 requests/s about 6 come, and the mean of a time needs 10; allowed is 200"),
    ],
)
def test_a_rate_that_never_brings_what_a_limit_needs_is_refused(level: Any, statistic: str, said: str) -> None:
    spec = limited(level, statistic)
    with pytest.raises(SpecError) as refused:
        check(spec)
    assert refused.value.message.startswith("workload.window_max_s = 120: ")
    assert said in refused.value.message
    (found,) = windows(spec)
    assert (found.state, found.found) == ("missing", refused.value.message)


def test_prompts_that_do_not_fit_the_context_are_refused() -> None:
    spec = study(workload={"num_ctx": 60, "input_tokens": 60, "num_predict": 41})
    with pytest.raises(SpecError, match=r"num_ctx = 60: prompts of 60 tokens do not fit in; allowed is 101, which"):
        check(spec)
    check(study(workload={"num_ctx": 100, "input_tokens": 60, "num_predict": 41}))  # a model may stop earlier


@pytest.mark.parametrize(
    "spec",
    [
        limited({"rate": 3.1}, "p99"),
        limited({"ramp": [0.1, 0.3], "over_s": 60.0}, "p90"),
        limited(1, "p99"),  # how fast users are answered, nobody knows before
        limited({"rate": 0.1}, "p99", metric="capacity"),  # a search for what can be borne goes to larger rates
        study(workload={"levels": [{"rate": 0.01}]}),
    ],
)
def test_what_may_bring_enough_is_not_refused(spec: StudySpec) -> None:
    check(spec)
    assert not list(windows(spec))


# a played host


def test_a_played_host_has_the_devices_that_the_study_names() -> None:
    there = played_devices("auto")
    assert len(there) == 4
    uuid = there[2].id
    assert [(one.index, one.id) for one in played_devices([{"id": uuid}, {"id": "1"}])] == [(0, uuid), (1, there[1].id)]
    with pytest.raises(SpecError, match=r"cluster\.devices: the same device twice"):
        played_devices([{"id": uuid}, {"id": "2"}])
    with pytest.raises(SpecError, match=r"cluster.devices: '7': no such device in profile .*; it has 0 to 3, or GPU-"):
        played_devices([{"id": "7"}])


@pytest.mark.parametrize(
    ("key", "value"), [("memory_gib", 48.0), ("name", "A bigger card"), ("make", "amd"), ("make", "cpu")]
)
def test_what_a_played_device_is_nobody_but_its_profile_says(key: str, value: Any) -> None:
    plain = played_devices([{"id": "1"}])
    assert played_devices([{"id": "1", "make": "nvidia"}]) == plain
    with pytest.raises(SpecError, match=rf"cluster\.devices: 1: {key} = {value!r}: .* profile '4x-rtx2080ti' says"):
        played_devices([{"id": "1", key: value}])


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ([{"cores": "0"}], r"cores = '0': .* '4x-rtx2080ti'; allowed are 0 to 3, or GPU-"),
        ([{"id": "1"}, {"cores": "0-3"}], "cores = '0-3': a played host has no cores to share out"),
        ("cpu", "'cpu': .* '4x-rtx2080ti'; allowed are \"auto\", \"gpu\" or a list of 0 to 3, or"),
        ("groups:2", "'groups:2': a played host has no cores to share out"),
    ],
)
def test_groups_of_cores_are_of_a_real_host(devices: Any, words: str) -> None:
    assert played_devices("gpu") == played_devices("auto")
    with pytest.raises(SpecError, match=rf"^cluster\.devices: {words}"):
        played_devices(devices)


def played_devices(devices: Any) -> tuple[Device, ...]:
    return inventory(study(cluster={"profile": "4x-rtx2080ti", "devices": devices})).devices


def test_a_profile_without_devices_is_told(tmp_path: Path) -> None:
    empty = tmp_path / "none.toml"
    text = Path(str(SHIPPED / "4x-rtx2080ti.toml")).read_text(encoding="utf-8")
    empty.write_text(re.sub(r"\[\[devices\]\].*?(?=\n\[(?!\[devices))", "", text, flags=re.DOTALL), encoding="utf-8")
    with pytest.raises(SpecError, match="it has no devices to share out"):
        inventory(study(cluster={"profile": str(empty)}))
