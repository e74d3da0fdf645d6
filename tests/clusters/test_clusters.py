"""The benchmark's clusters: the simulation against what can be known without it, the families, and what trials show."""

from __future__ import annotations

import shutil
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from autotune.simulator.model import closed_form
from autotune.simulator.profiles import ModelProfile, load_profile
from autotune.space import key
from tests.benchmarks.clusters import ADVERSE, ALL, DEV_SEEDS, FAMILIES, TEST_SEEDS, profiled
from tests.benchmarks.clusters import truth as engine
from tests.benchmarks.clusters.families import inventory_of, plain
from tests.benchmarks.clusters.machine import Machine, Traits
from tests.benchmarks.clusters.trial import Noise
from tests.benchmarks.clusters.truth import Engine, Load, Setup, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.space import Value
    from tests.benchmarks.clusters import Cluster

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler for the simulation"
)

BASE_S, SLOT_S, READ_S, TOKEN_S = 0.02, 0.002, 0.01, 1 / 2000
MODEL = ModelProfile(
    name="made-up", layers=8, weights_mib=1, kv_mib_per_1024_tokens=1, step_base_s=BASE_S, step_slot_s=SLOT_S,
    prefill_base_s=READ_S, prefill_tps=1 / TOKEN_S, load_s=0, warm_load_s=0,
)  # fmt: skip
FIXED = Load(10, 300, 200)
SPREAD = Load(40, 300, 200, 0.2, 0.4, seed=3)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read that an earlier run left, and nothing is left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def one(slots: int, speed: float = 1.0, group: int = 0, weight: float = 1.0) -> Engine:
    """An instance that keeps to the simulator's laws."""
    steps = tuple((BASE_S + SLOT_S * busy) / speed for busy in range(1, slots + 1))
    return Engine(slots, steps, READ_S / speed, TOKEN_S / speed, group, weight)


def several(*engines: Engine, **more: Any) -> Setup:
    """Instances on a device each."""
    return Setup(tuple(replace(engine, group=number) for number, engine in enumerate(engines)), **more)


# the simulation


@pytest.mark.parametrize(("users", "slots"), [(1, 1), (10, 1), (10, 4), (10, 16), (40, 16), (80, 64)])
def test_with_fixed_lengths_it_is_the_closed_form(users: int, slots: int) -> None:
    found = simulate(Setup((one(slots),)), replace(FIXED, users=users))
    expected = closed_form(MODEL, users, slots, 200, prompt_tokens=300)
    assert found.tps == pytest.approx(expected.output_tps, rel=0.01)
    assert found.ttft.mean == pytest.approx(expected.ttft_s, rel=0.02)
    assert found.busy == pytest.approx(expected.busy, rel=0.01)


def test_one_user_alone_needs_no_statistics() -> None:
    found = simulate(Setup((one(4),)), replace(FIXED, users=1))
    assert found.ttft.mean == pytest.approx(READ_S + 300 * TOKEN_S + BASE_S + SLOT_S)
    assert found.tpot.mean == pytest.approx(BASE_S + SLOT_S)
    assert found.e2e.max == pytest.approx(READ_S + 300 * TOKEN_S + 200 * (BASE_S + SLOT_S))


def test_the_way_to_an_instance_is_part_of_the_ttft_and_holds_no_slot() -> None:
    far = simulate(several(one(4), one(4), overhead_s=0.5), FIXED)
    near = simulate(several(one(4), one(4)), FIXED)
    assert far.ttft.mean - far.queue.mean - far.prefill.mean == pytest.approx(0.5)
    assert near.ttft.mean - near.queue.mean - near.prefill.mean == pytest.approx(0, abs=1e-9)
    assert closed_form(MODEL, 5, 4, 200, prompt_tokens=300, overhead_s=0.5).output_tps * 2 == pytest.approx(
        far.tps, rel=0.02
    )


def test_a_balancer_behind_a_lock_bounds_the_rate() -> None:
    found = simulate(several(one(16), one(16), serial_s=1.5), replace(FIXED, users=20))
    assert found.requests_per_s == pytest.approx(1 / 1.5, rel=0.01)


@pytest.mark.parametrize("policy", engine.POLICIES)
def test_nothing_gets_lost(policy: str) -> None:
    found = simulate(several(*(one(4) for _ in range(4)), policy=policy, phi=0.2), SPREAD)
    assert found.answers >= 600
    assert found.in_flight == pytest.approx(40, rel=1e-6)
    assert found.requests_per_s * found.e2e.mean == pytest.approx(40, rel=0.03)  # Little
    assert found.tps == pytest.approx(found.requests_per_s * found.output_tokens, rel=0.02)
    assert sum(share.tokens_per_s for share in found.instances) == pytest.approx(found.tps)
    assert sum(share.busy for share in found.instances) == pytest.approx(found.busy)
    assert sum(share.requests for share in found.instances) == found.answers
    assert found.generating < found.busy <= 16 + 1e-9
    assert found.ttft.mean == pytest.approx(found.queue.mean + found.prefill.mean)
    assert found.output_tokens == pytest.approx(200, rel=0.05)
    assert found.ttft.p50 <= found.ttft.p90 <= found.ttft.p95 <= found.ttft.p99 <= found.ttft.max


def test_the_same_seed_gives_the_same_and_another_does_not() -> None:
    setup = several(one(4), one(4), policy="random_two", phi=0.1)
    assert simulate(setup, SPREAD) == simulate(setup, SPREAD)
    assert simulate(setup, SPREAD) != simulate(setup, replace(SPREAD, seed=4))


def test_least_conn_spares_the_slow_instance_and_round_robin_does_not() -> None:
    unequal = (one(16), one(16, speed=0.4))
    in_turn, least = (simulate(several(*unequal, policy=policy), SPREAD) for policy in ("round_robin", "least_conn"))
    assert in_turn.instances[0].requests == pytest.approx(in_turn.instances[1].requests, rel=0.05)
    assert least.instances[0].requests > 1.3 * least.instances[1].requests
    assert least.ttft.mean < in_turn.ttft.mean
    assert least.tps > 1.05 * in_turn.tps


@pytest.mark.parametrize("policy", engine.POLICIES)
def test_weights_are_kept(policy: str) -> None:
    found = simulate(several(one(16, weight=3.0), one(16), policy=policy), replace(SPREAD, users=10))
    assert found.instances[0].requests > 1.5 * found.instances[1].requests


def test_with_one_instance_there_is_nothing_to_choose() -> None:
    first, *others = (simulate(Setup((one(8),), policy=policy), SPREAD) for policy in engine.POLICIES)
    assert others == [first, first]


def test_more_phi_lets_decoders_go_on() -> None:
    slower, faster = (simulate(Setup((one(16),), phi=phi), SPREAD) for phi in (0.0, 0.5))
    assert faster.tps > 1.05 * slower.tps


def test_a_factor_of_the_host_and_of_neighbours_is_one_on_the_steps() -> None:
    alone = simulate(Setup((one(8),)), FIXED)
    hosted = simulate(Setup((one(8),), host=(2.0,)), FIXED)
    assert hosted.tpot.p50 == pytest.approx(2 * alone.tpot.p50, rel=0.25)
    assert hosted.tps < 0.7 * alone.tps
    crowd = (1.0, 1.6)
    shared = simulate(Setup((one(8), one(8)), crowd=crowd), replace(FIXED, users=16))
    apart = simulate(several(one(8), one(8), crowd=crowd), replace(FIXED, users=16))
    assert shared.tps == pytest.approx(apart.tps / 1.6, rel=0.02)


def test_a_short_table_goes_on_with_its_last_value() -> None:
    assert simulate(Setup((Engine(8, (0.03,), 0.0, 0.0),)), FIXED) == simulate(
        Setup((Engine(8, (0.03,) * 8, 0.0, 0.0),), host=(1.0, 1.0)), FIXED
    )


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(engine.NoCompiler, match="no C compiler"):
        engine.build()


# the laws


def machine(**figures: Any) -> Machine:
    """A plain machine of four GPUs with these figures."""
    plainly: dict[str, Any] = {
        "step_base_s": 0.02, "step_slot_s": 0.002, "prefill_tps": 2000.0, "prefill_base_s": 0.0, "phi": 0.1,
        "vram_bytes": 10_000, "weights_bytes": 5000, "slot_bytes": 500, "compute_bytes": 0, "host_each": 0.0,
        "sharing": 0.9, "span_each": 0.0, "offload_slope": 10.0, "flash_off": 1.1, "cache_step": 1.0,
        "batch_read": 1.2, "batch_phi": 1.0,
    }  # fmt: skip
    return Machine(Traits(**{**plainly, **figures}), inventory_of(4, 10_000), 20)


def steps(law: Machine, slots: int = 4, layout: str = "0") -> list[tuple[float, ...]]:
    """The step times of each instance."""
    params: dict[str, Value] = {
        "layout": layout,
        "num_parallel": slots,
        "flash_attention": "auto",
        "kv_cache_type": "f16",
    }
    built = law.build(params)
    assert built is not None
    return [one.steps for one in built.setup.engines]


def test_each_quirk_is_where_it_is_said_to_be() -> None:
    plainly = np.array(steps(machine(), 10)[0])
    dipped = np.array(steps(machine(dip=0.5, dip_fade=1.0), 10)[0])
    assert dipped[:2] == pytest.approx(plainly[:2] * (1.0, 1.5))
    assert dipped[2] == pytest.approx(plainly[2] * (1 + 0.5 * np.exp(-1)))
    tiled = np.array(steps(machine(tile=0.2, tile_every=8), 10)[0])
    assert tiled - plainly == pytest.approx([0.0] * 8 + [0.004] * 2)
    kinked = np.array(steps(machine(kink_at=8, kink=2.0), 10)[0])
    assert kinked - plainly == pytest.approx([0.0] * 8 + [0.004, 0.008])
    assert len(steps(machine(cap=2), 8)[0]) == 2
    fast, slow = steps(machine(weak_device=1, weak_speed=0.5), layout="0 | 1")
    assert slow == pytest.approx([2 * step for step in fast])


def test_what_has_no_room_is_slow_or_fails() -> None:
    assert steps(machine(), 10)[0][0] == pytest.approx(0.022)
    over = steps(machine(), 12)[0][0]
    assert over == pytest.approx(0.022 * (1 + 10 * 1000 / 11_000))
    params: dict[str, Value] = {"layout": "0", "num_parallel": 12, "flash_attention": "auto", "kv_cache_type": "f16"}
    assert machine(strict=True).build(params) is None
    assert machine(vram_bytes=4000).build(params) is None
    assert machine(strict=True).build({**params, "kv_cache_type": "q8_0"}) is not None


def test_equal_cards_are_equal_and_only_a_weak_one_is_not() -> None:
    def build(law: Machine, layout: str) -> Setup:
        built = law.build({"layout": layout, "num_parallel": 4, "flash_attention": "auto", "kv_cache_type": "f16"})
        assert built is not None
        return built.setup

    for one_way, other in (("0", "3"), ("0 | 1", "2 | 3"), ("0+1", "1+3"), ("0x2", "2x2")):
        assert build(machine(), one_way) == build(machine(), other)
    weak = machine(weak_device=3, weak_speed=0.5)
    assert build(weak, "0") != build(weak, "3")


# the families


@pytest.mark.slow
@pytest.mark.parametrize("family", ALL)
def test_a_family_can_be_searched_whatever_is_drawn(family: str) -> None:
    _can_be_searched(family, DEV_SEEDS[1:5])


@pytest.mark.parametrize("family", ALL)
def test_a_family_can_be_searched(family: str) -> None:
    _can_be_searched(family, DEV_SEEDS[:1])


def _can_be_searched(family: str, seeds: range) -> None:
    for seed in seeds:
        cluster = ALL[family](seed)
        assert cluster.adverse == (family in ADVERSE)
        assert 100 <= len(cluster.configurations) <= 5000
        assert 0 < cluster.hit_share < 0.15
        assert cluster.space.allows(cluster.baseline)
        assert cluster.space.allows(cluster.rule_of_thumb)
        assert cluster.truth(cluster.baseline) is not None
        met = [truth for truth in cluster.all().values() if truth and truth.ttft.p95 <= cluster.limit_s]
        assert 0.1 < len(met) / len([truth for truth in cluster.all().values() if truth]) < 0.55
        assert cluster.best == max(truth.tps for truth in met)


def test_seeds_for_building_and_for_the_test_have_nothing_in_common() -> None:
    assert not set(DEV_SEEDS) & set(TEST_SEEDS)
    assert len(FAMILIES) == 9


@pytest.fixture(scope="module", name="cluster")
def a_cluster() -> Cluster:
    """Without anything odd."""
    return ALL["match"](0)


def test_a_cluster_is_the_same_when_it_is_drawn_again(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    again = ALL["match"](0)
    assert again.all() == cluster.all()
    monkeypatch.setattr(engine, "simulate", None)  # all is known from the first time
    assert ALL["match"](0).best == cluster.best
    monkeypatch.undo()
    assert ALL["match"](1).all() != cluster.all()


def test_what_is_kept_broken_is_simulated_again(cluster: Cluster) -> None:
    for path in (engine.cache() / engine.source_hash()).glob("match-0-*"):
        path.write_bytes(b"half a file")
    assert ALL["match"](0).all() == cluster.all()


def test_a_hit_is_near_the_best_and_within_the_limit(cluster: Cluster) -> None:
    truths = {name: truth for name, truth in cluster.all().items() if truth}
    for params in cluster.configurations:
        truth = truths.get(key(params))
        met = truth is not None and truth.ttft.p95 <= 1.05 * cluster.limit_s
        assert cluster.hit(params) == (met and truth is not None and truth.tps >= 0.98 * cluster.best)
        assert cluster.regret(params) == 1.0 or met
    assert min(map(cluster.regret, cluster.configurations)) == 0.0


def test_other_numbers_of_users_are_other_truths(cluster: Cluster) -> None:
    few, many = (cluster.truth(cluster.rule_of_thumb, users) for users in (1, None))
    assert few is not None
    assert many is not None
    assert (few.users, many.users) == (1, cluster.users)
    assert few.in_flight == pytest.approx(1)


def test_only_memory_makes_starts_fail() -> None:
    cluster = next(one for one in map(ALL["oom"], DEV_SEEDS[:5]) if None in one.all().values())
    failing = next(params for params in cluster.configurations if cluster.truth(params) is None)
    result = cluster.observe(failing, 7, users=(2,))
    assert (result.reason, result.levels, result.score.objective, result.number) == ("load_failed", {}, None, 7)
    assert not result.score.feasible
    assert cluster.regret(failing) == 1.0


def test_a_cap_is_seen_where_a_night_would_see_it() -> None:
    cluster = ALL["cap"](0)
    most = max(cluster.space.choices["num_parallel"], key=int)
    params = next(one for one in cluster.configurations if one["num_parallel"] == most)
    result = cluster.observe(params, 0)
    assert result.measured
    assert {one.num_parallel for one in result.placements} < {2, 4, 8, 16}


# what trials show


def test_a_trial_is_what_a_night_keeps(cluster: Cluster) -> None:
    result = cluster.observe(cluster.rule_of_thumb, 3, users=(2, 5))
    label = f"{cluster.users} users"
    assert list(result.levels) == [label, "2 users", "5 users"]
    assert result.fingerprint == key(cluster.rule_of_thumb)
    assert set(result.score.constraints) == {f"ttft_s p95 at {label}", f"success rate at {label}"}
    assert result.score.objective == result.levels[label].output_tps
    assert len(result.placements) == result.instances == len(result.levels[label].instances)
    metrics = result.levels[label]
    assert sum(one.output_tps for one in metrics.instances.values()) == pytest.approx(metrics.output_tps)
    assert sum(one.share for one in metrics.instances.values()) == pytest.approx(1)
    assert metrics.ttft_s.decided("p95")
    assert list(metrics.instances)[:2] == ["127.0.0.1:9000", "127.0.0.1:9001"]


def test_chance_depends_on_the_number_and_not_on_what_was_asked_before(cluster: Cluster) -> None:
    params, other = cluster.baseline, cluster.rule_of_thumb
    first = cluster.observe(params, 5, users=(2,))
    cluster.observe(other, 6)
    assert cluster.observe(params, 5, users=(2,)) == first
    assert cluster.observe(params, 5).score == first.score
    assert cluster.observe(params, 6).score != first.score


def test_trials_are_right_in_the_mean_and_as_noisy_as_they_say(cluster: Cluster) -> None:
    params, label = cluster.rule_of_thumb, f"{cluster.users} users"
    truth = cluster.truth(params)
    assert truth is not None
    shown = [cluster.observe(params, number, users=(2,)) for number in range(200)]

    def values(pick: Any, level: str = label) -> list[float]:
        return [pick(result.levels[level]) for result in shown]

    for told, real in (
        (values(lambda metrics: metrics.output_tps), truth.tps),
        (values(lambda metrics: metrics.ttft_s.mean), truth.ttft.mean),
        (values(lambda metrics: metrics.ttft_s.p95), truth.ttft.p95),
        (values(lambda metrics: metrics.tpot_s.mean), truth.tpot.mean),
        (values(lambda metrics: metrics.prefill_s.mean), truth.prefill.mean),
    ):
        assert statistics.fmean(told) == pytest.approx(real, abs=3 * statistics.stdev(told) / np.sqrt(len(told)))
    rates, waits = (np.log(values(pick)) for pick in (lambda one: one.output_tps, lambda one: one.ttft_s.mean))
    few = np.log(values(lambda metrics: metrics.output_tps, "2 users"))
    assert np.std(rates) == pytest.approx(cluster.noise, rel=0.2)
    assert np.std(waits) == pytest.approx(2 * cluster.noise, rel=0.2)
    assert np.corrcoef(rates, waits)[0, 1] < -0.5
    assert 0.4 < np.corrcoef(rates, few)[0, 1] < 0.8  # the restart is common to all loads of a trial


def test_drift_and_outliers_are_of_the_trial() -> None:
    speeds = [Noise(0.0, drift=0.05, period=20).trial(1, number).speed for number in range(20)]
    assert (max(speeds), min(speeds)) == pytest.approx((1.05, 0.95))
    hit = [Noise(0.0, outliers=0.06).trial(1, number).speed for number in range(1000)]
    slow = [speed for speed in hit if speed < 1]
    assert 0.04 < len(slow) / len(hit) < 0.08
    assert 0.65 <= min(slow) <= max(slow) <= 0.90


# a profile


def test_a_profile_is_the_simulators_laws() -> None:
    cluster = profiled("4x-rtx2080ti", 3)
    profile = load_profile("4x-rtx2080ti")
    assert cluster.noise == max(0.01, profile.host.life_jitter)
    load, model = cluster.load, profile.model()
    found = cluster.truth(cluster.baseline)
    assert found is not None
    expected = closed_form(
        model, load.users, int(cluster.baseline["num_parallel"]), round(load.output_tokens),
        prompt_tokens=round(load.input_tokens), overhead_s=profile.host.overhead_s,
    )  # fmt: skip
    assert found.tps == pytest.approx(expected.output_tps, rel=0.03)


def test_what_is_drawn_stays_in_the_ranges_of_the_text() -> None:
    for seed in range(200):
        drawn = plain(np.random.default_rng(seed), seed)
        own, asked = drawn.traits, drawn.asked
        assert 0.05e9 * 0.9 <= own.slot_bytes <= 0.6e9 * 1.1
        assert asked.load.input_tokens + asked.load.output_tokens < asked.num_ctx
        assert drawn.devices in {2, 4, 8}
        assert isinstance(own.weights_bytes, int)
        assert own.weights_bytes == asked.facts.weights_bytes
