"""Plans: what each instance is told, what equals what, which model the requests name, which ports are used."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune import plan as plans
from autotune.cluster.nginx import upstream
from autotune.errors import SpecError
from autotune.inventory import Device, Inventory
from autotune.ollama.api import ServerFacts
from autotune.space import build, key
from tests.conftest import GIB, TINY, cores, gpus, study

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.plan import Plan
    from autotune.space import ModelFacts
    from autotune.spec import StudySpec

OLD, NEW = "0.24.0", "0.32.15"
PATHS = (Path("/models"), Path("/home/of-the-study"))
TOLD = {
    "HOME": "/home/of-the-study",
    "OLLAMA_CONTEXT_LENGTH": "1024",
    "OLLAMA_KEEP_ALIVE": "-1",
    "OLLAMA_MAX_LOADED_MODELS": "1",
    "OLLAMA_MODELS": "/models",
    "OLLAMA_NOPRUNE": "1",
    "OLLAMA_NO_CLOUD": "1",
    "OLLAMA_NUM_PARALLEL": "4",
    "OLLAMA_VULKAN": "0",
}


def make(
    layout: str = "0",
    inventory: Inventory | None = None,
    *,
    spec: StudySpec | None = None,
    version: str = NEW,
    model: ModelFacts = TINY,
    **params: Any,
) -> Plan:
    chosen: Mapping[str, Any] = {"layout": layout, "num_parallel": 4, **params}
    return plans.make(spec or study(), inventory or gpus(), ServerFacts(version, model), chosen, PATHS)


def env(plan: Plan, number: int = 0) -> dict[str, str]:
    return dict(plan.instances[number].env)


def added(plan: Plan, number: int = 0) -> dict[str, str]:
    """What an instance is told beyond what each on these devices is."""
    return {name: value for name, value in env(plan, number).items() if env(make()).get(name) != value}


# which instances should be equally fast


def test_instances_are_of_one_sort_by_slots_kinds_of_devices_and_how_many_share_these() -> None:
    cards = tuple(replace(card, kind="AABB"[number]) for number, card in enumerate(gpus(4).devices))
    plan = make("0 | 1 | 2 | 3x2", Inventory("mixed", cards), num_parallel=4)
    sorts = plan.sorts(Inventory("mixed", cards))
    assert list(sorts) == [one.address for one in plan.instances]
    assert sorted(sorts.values()) == [(4, ("A",), 1), (4, ("A",), 1), (4, ("B",), 1), (4, ("B",), 2), (4, ("B",), 2)]


# what an instance is told


def test_the_whole_of_what_an_instance_on_a_gpu_is_told() -> None:
    plan = make("0 | 1")
    first, second = (device.id for device in gpus().devices)
    assert env(plan, 0) == TOLD | {
        "OLLAMA_HOST": "127.0.0.1:9000", "CUDA_VISIBLE_DEVICES": first, "ROCR_VISIBLE_DEVICES": "-1"
    }  # fmt: skip
    assert env(plan, 1) == TOLD | {
        "OLLAMA_HOST": "127.0.0.1:9001", "CUDA_VISIBLE_DEVICES": second, "ROCR_VISIBLE_DEVICES": "-1"
    }  # fmt: skip
    assert [one.on_gpu for one in plan.instances] == [True, True]
    assert [one.cpus for one in plan.instances] == [(), ()]
    assert list(plan.instances[0].env) == sorted(plan.instances[0].env)


def test_the_whole_of_what_an_instance_on_a_cpu_is_told() -> None:
    plan = make("0+1 | 2", cores((0, 1), (2, 3), (4,)))
    hidden = {"CUDA_VISIBLE_DEVICES": "-1", "ROCR_VISIBLE_DEVICES": "-1"}
    assert env(plan, 0) == TOLD | hidden | {"OLLAMA_HOST": "127.0.0.1:9000", "LLAMA_ARG_THREADS": "4"}
    assert env(plan, 1) == TOLD | hidden | {"OLLAMA_HOST": "127.0.0.1:9001", "LLAMA_ARG_THREADS": "1"}
    assert [one.cpus for one in plan.instances] == [(0, 1, 2, 3), (4,)]
    assert not any(one.on_gpu for one in plan.instances)


def test_an_amd_gpu_is_shown_to_rocm_only() -> None:
    card = Device(0, "GPU-amd", "amd", "Card", 8 * GIB, "card")
    told = env(make("0", Inventory("host", (card,))))
    assert (told["ROCR_VISIBLE_DEVICES"], told["CUDA_VISIBLE_DEVICES"]) == ("GPU-amd", "-1")


def test_several_instances_on_one_device_differ_in_their_port_only() -> None:
    one, other = make("0x2").instances
    assert (one.devices, one.port + 1) == (other.devices, other.port)
    assert dict(one.env) | {"OLLAMA_HOST": ""} == dict(other.env) | {"OLLAMA_HOST": ""}


def test_an_instance_over_several_gpus_is_told_to_spread_and_no_other() -> None:
    plan = make("0+1 | 2", gpus(3))
    assert env(plan, 0)["OLLAMA_SCHED_SPREAD"] == "1"
    assert env(plan, 0)["CUDA_VISIBLE_DEVICES"].count("GPU-") == 2
    assert "OLLAMA_SCHED_SPREAD" not in env(plan, 1)
    assert "OLLAMA_SCHED_SPREAD" not in env(make("0+1", cores((0,), (1,))))


def test_cache_flash_attention_and_memory_are_told() -> None:
    spec = study(cluster={"vram_free_gib": 2})
    plan = make(spec=spec, flash_attention="on", kv_cache_type="q8_0")
    assert added(plan) == {
        "OLLAMA_FLASH_ATTENTION": "1", "OLLAMA_KV_CACHE_TYPE": "q8_0", "LLAMA_ARG_FIT_TARGET": "2048"
    }  # fmt: skip
    assert "LLAMA_ARG_FIT_TARGET" not in env(make("0", cores((0,)), spec=spec))
    assert added(make(flash_attention="auto", kv_cache_type="f16")) == {}


def test_threads_that_are_asked_for_replace_the_cores() -> None:
    assert env(make("0", cores((0, 1, 2, 3)), threads=2))["LLAMA_ARG_THREADS"] == "2"
    assert added(make(threads=3)) == {"LLAMA_ARG_THREADS": "3"}


def test_variables_of_the_study_and_of_the_trial_reach_every_instance() -> None:
    spec = study(cluster={"env": {"OLLAMA_DEBUG": "1", "LLAMA_ARG_CACHE_RAM": "0", "OLLAMA_MAX_QUEUE": "9"}})
    chosen: dict[str, Any] = {"env:LLAMA_ARG_CACHE_RAM": "8192"}
    plan = make("0 | 1", spec=spec, **chosen)
    for number in (0, 1):
        told = env(plan, number)
        assert (told["OLLAMA_DEBUG"], told["LLAMA_ARG_CACHE_RAM"], told["OLLAMA_MAX_QUEUE"]) == ("1", "8192", "9")


def test_requests_and_probes_go_to_an_address_not_to_a_name() -> None:
    plan = make("0 | 1")
    assert plan.url == "http://127.0.0.1:9999"
    assert plan.instances[1].url == "http://127.0.0.1:9001"
    assert plan.balancer.upstreams == ("127.0.0.1:9000", "127.0.0.1:9001")


# fingerprints


def test_equal_parameters_make_equal_plans() -> None:
    assert make("0 | 1") == make("1|0")
    assert make("0 | 1").fingerprint == make("1|0").fingerprint
    assert make("1").fingerprint == make("0").fingerprint
    assert len(make().fingerprint) == 16


def test_what_is_written_out_equals_what_is_left_to_ollama() -> None:
    assert make(flash_attention="auto", kv_cache_type="f16").fingerprint == make().fingerprint


def test_the_policy_means_nothing_with_one_instance() -> None:
    assert make(policy="least_conn").fingerprint == make(policy="round_robin").fingerprint
    assert make("0 | 1", policy="least_conn").fingerprint != make("0 | 1", policy="round_robin").fingerprint


@st.composite
def spaces(draw: st.DrawFn) -> tuple[Inventory, dict[str, Any]]:
    inventory = draw(st.sampled_from([gpus(1), gpus(3), cores((0,), (1,)), cores((0, 1), (2,)), mixed("AAB")]))
    several = {
        "num_parallel": st.sets(st.sampled_from([1, 2, 8]), min_size=1),
        "copies": st.sets(st.sampled_from([1, 2]), min_size=1),
        "spans": st.none() | st.just({1, 2}),
        "weights": st.sets(st.sampled_from(["equal", "slots"]), min_size=1),
        "policies": st.sets(st.sampled_from(["round_robin", "least_conn", "random_two"]), min_size=1),
        "flash_attention": st.sets(st.sampled_from(["auto", "on", "off"]), min_size=1),
        "kv_cache_type": st.just({"f16"}) | st.just({"f16", "q8_0"}),
        "threads": st.none() | st.just({1}) | st.just({1, 2}),
        "num_batch": st.none() | st.sets(st.sampled_from([256, 512]), min_size=1),
        "env": st.none() | st.just({"LLAMA_ARG_CACHE_RAM": ["0", "8192"], "OLLAMA_MAX_QUEUE": ["8", "512"]}),
    }
    chosen = {name: draw(values) for name, values in several.items()}
    return inventory, {name: sorted(value) if isinstance(value, set) else value for name, value in chosen.items()}


@settings(max_examples=40)
@given(spaces(), st.sampled_from([OLD, NEW]))
def test_different_configurations_have_different_fingerprints(
    space: tuple[Inventory, dict[str, Any]], version: str
) -> None:
    inventory, choices = space
    try:
        built = build(inventory, TINY, num_ctx=1024, cache_brings_flash=version == OLD, **choices)
    except SpecError:  # flash attention off with nothing but a quantised cache, or so
        return
    marks: dict[str, str] = {}
    for params in built.sample(random.Random(1), 2000):
        rest: dict[str, Any] = {name: value for name, value in params.items() if name != "layout"}
        plan = make(str(params["layout"]), inventory, version=version, **rest)
        assert marks.setdefault(plan.fingerprint, key(params)) == key(params)
    assert len(set(marks.values())) == len(marks)


def test_on_a_host_that_is_too_large_to_be_listed_they_differ_too() -> None:
    inventory = mixed("AAAAAABBBBBCCCCC")
    choices: dict[str, Any] = {
        "num_parallel": [1, 2, 4, 8],
        "copies": [1, 2, 3],
        "spans": [1, 2, 4],
        "policies": ["round_robin", "least_conn"],
        "weights": ["equal", "slots"],
    }
    built = build(inventory, TINY, num_ctx=1024, **choices)
    assert not built.small
    lines: dict[tuple[str, str], str] = {}
    for params in built.pool(1, 400):
        plan = make(str(params["layout"]), inventory, **{name: params[name] for name in params if name != "layout"})  # type: ignore[arg-type]
        told = str([(one.devices, one.env) for one in plan.instances]) + upstream(plan.balancer)
        assert lines.setdefault((plan.fingerprint, told), key(params)) == key(params)
        assert [one.slots for one in plan.instances] == [member.slots for member in built.members(params)]
        assert [one.devices for one in plan.instances] == [
            tuple(f"GPU-{index}" for index in member.devices) for member in built.members(params)
        ]
    assert len({mark for mark, _ in lines}) == len({told for _, told in lines}) == 400


def mixed(kinds: str, gib: int = 8) -> Inventory:
    """Cards of these kinds, a letter each."""
    cards = [Device(n, f"GPU-{n}", "nvidia", f"Card {kind}", gib * GIB, kind) for n, kind in enumerate(kinds)]
    return Inventory("host", tuple(cards))


def test_plans_that_were_made_before_there_were_weights_keep_their_fingerprints() -> None:
    assert make("0 | 1").fingerprint == "21077d4d785302b6"
    assert make("0x2 | 1", policy="least_conn", num_batch=512).fingerprint == "50d15b9fa79ee085"
    assert make("0+1 | 2", cores((0, 1), (2, 3), (4,))).fingerprint == "c339cafa765d680e"


# instances that differ


def test_each_class_of_instances_is_told_its_own_slots() -> None:
    chosen: dict[str, Any] = {"num_parallel": 16, "num_parallel@B": 4}
    plan = make("0 | 1 | 2x2", mixed("AAB"), **chosen)
    assert [one.slots for one in plan.instances] == [16, 16, 4, 4]
    assert [env(plan, number)["OLLAMA_NUM_PARALLEL"] for number in range(4)] == ["16", "16", "4", "4"]
    assert plan.slots == "16 and 4"
    assert plan.num_parallel == 16
    same: dict[str, Any] = {"num_parallel": 4, "num_parallel@B": 4}
    assert make("0 | 2", mixed("AAB"), **same) == make("0 | 2", mixed("AAB"))


def test_weights_follow_the_slots_where_they_are_to() -> None:
    chosen: dict[str, Any] = {"num_parallel": 16, "num_parallel@B": 6}
    weighed = make("0 | 2", mixed("AAB"), weights="slots", **chosen)
    assert weighed.balancer.weights == (8, 3)
    equal = make("0 | 2", mixed("AAB"), weights="equal", **chosen)
    assert equal.balancer.weights == ()
    assert equal.fingerprint != weighed.fingerprint
    assert make("0 | 2", mixed("AAB"), weights="slots").balancer.weights == ()


# the model that requests name


def test_without_parameters_of_its_own_the_model_is_the_users() -> None:
    plan = make()
    assert plan.model == "tiny"
    assert plan.derived is None


def test_a_batch_needs_a_derived_model() -> None:
    plan = make(num_batch=512)
    assert plan.derived is not None
    assert (plan.model, plan.derived.plain, plan.derived.parent) == (plan.derived.name, "tiny-batch512", "tiny")
    assert plan.model.startswith("autotune-tiny-batch512-")
    assert plan.derived.parameters == (("num_batch", 512),)


def test_no_other_night_that_uses_the_store_takes_a_derived_model_away() -> None:
    elsewhere, here = (study(cluster={"first_port": port}) for port in (12000, 11500))
    mine, theirs = make(spec=here, num_batch=512), make(spec=elsewhere, num_batch=512)
    far = make(inventory=replace(gpus(), host="another"), spec=here, num_batch=512)
    assert len({mine.model, theirs.model, far.model}) == 3
    assert {one.derived.plain for one in (mine, theirs, far) if one.derived} == {"tiny-batch512"}
    assert mine.fingerprint == far.fingerprint, "the same configuration, whatever the night calls its model"


def test_before_0_30_threads_need_a_derived_model_too() -> None:
    plan = make("0", cores((0, 1)), version=OLD, num_batch=256)
    assert plan.derived is not None
    assert plan.derived.plain == "tiny-batch256-thread2"
    assert "LLAMA_ARG_THREADS" not in env(plan)
    assert make("0", version=OLD).derived is None


def test_one_derived_model_serves_all_instances_so_the_smallest_sets_its_threads() -> None:
    for layout in ("0 | 1", "1 | 0"):
        plan = make(layout, cores((0, 1, 2, 3), (4,)), version=OLD)
        assert plan.derived is not None
        assert plan.derived.parameters == (("num_thread", 1),)


def test_a_models_own_context_would_win_over_the_environment() -> None:
    model = replace(TINY, parameters=(("num_ctx", "8192"), ("temperature", "1")))
    plan = make(model=model)
    assert plan.derived is not None
    assert plan.derived.parameters == (("num_ctx", 1024),)
    assert make(model=replace(TINY, parameters=(("num_ctx", "1024"),))).derived is None


@pytest.mark.parametrize("name", ["gemma3n:e4b", "hf.co/Some/Model-GGUF:Q4_K_M", "me/own"])
def test_a_derived_name_is_a_plain_one(name: str) -> None:
    plan = make(spec=study(cluster={"model": name}), num_batch=512)
    assert set(plan.model) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-_")


# ports


def test_instances_have_a_port_each_and_nginx_one_more() -> None:
    with_nginx = study(cluster={"balancer": "nginx", "first_port": 9000, "balancer_port": 9999})
    assert plans.ports(with_nginx, 3) == [9000, 9001, 9002, 9999]
    assert plans.ports(study(), 2) == [9000, 9001]
    assert [one.port for one in make("0x2 | 1x2").instances] == [9000, 9001, 9002, 9003]


def test_ports_that_are_not_there_are_refused() -> None:
    last = study(cluster={"first_port": 65535})
    assert plans.ports(last, 1) == [65535]
    with pytest.raises(SpecError, match="first_port = 65535: 2 instances need ports up to 65536"):
        plans.ports(last, 2)


def test_the_balancer_does_not_listen_where_an_instance_does() -> None:
    between = study(cluster={"balancer": "nginx", "first_port": 9000, "balancer_port": 9002})
    assert plans.ports(between, 2) == [9000, 9001, 9002]
    with pytest.raises(SpecError, match="balancer_port = 9002: the instances listen on 9000 to 9002"):
        plans.ports(between, 3)
