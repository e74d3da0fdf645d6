"""What a trial says: from results as a night keeps them, and through JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.belief import Bound, Evidence, Loaded, Question, evidence
from autotune.cluster.verify import Placement
from autotune.metrics import InstanceMetrics
from autotune.result import Samples
from autotune.score import judge
from autotune.space.forecast import predict
from autotune.telemetry import DeviceSample
from tests.conftest import TINY, cores, gpus, study
from tests.factories import SPEC, metrics, params, result, summary

if TYPE_CHECKING:
    from autotune.result import TrialResult

QUESTION = Question(users=8, output_tokens=200, input_tokens=60, bounds=(Bound("ttft_s", "p95", 8, 2.0),))


def of(tps: float = 100.0, ttft_s: float = 0.5, tpots_s: dict[str, float] | None = None) -> TrialResult:
    """Of a trial with 8 users, and with 2."""
    instances = {
        name: InstanceMetrics(100, 0.5, 50.0, 0.5, 0.8, tpot_p50_s=tpot_s) for name, tpot_s in (tpots_s or {}).items()
    }
    levels = {"8 users": metrics(tps, ttft_s, instances=instances), "2 users": metrics(tps / 2, ttft_s / 2)}
    return replace(result(0, params(8)), levels=levels)


def placed(num_parallel: int | None, size_bytes: int) -> Placement:
    return Placement(
        instance="ollama-0", on_gpu=True, compute=("CUDA0",), layers_on_device=8, layers=8, size_bytes=size_bytes,
        size_vram_bytes=size_bytes, num_parallel=num_parallel, parallel_unsupported=False, context_length=1024,
    )  # fmt: skip


def test_every_load_of_users_is_there_with_its_figures() -> None:
    found = evidence(of(), QUESTION)
    assert found.measured
    assert not found.failed
    assert [load.users for load in found.loads] == [8, 2]
    main, other = found.at(8), found.at(2)
    assert main is not None
    assert other is not None
    assert (main.tps, main.ttft_s, main.tpot_s, main.busy) == (100, 0.5, 0.05, 4.0)
    assert dict(main.tails) == {"p50": 0.5, "p90": 0.5, "p95": 0.5, "p99": 0.5}
    assert (other.tps, other.ttft_s) == (50, 0.25)
    assert found.at(5) is None


def test_a_load_that_is_not_of_users_is_none_of_them() -> None:
    both = replace(of(), levels={"8 users": metrics(), "3 requests/s": metrics(90.0)})
    assert [load.users for load in evidence(both, QUESTION).loads] == [8]


def test_a_trial_that_was_dropped_is_rough() -> None:
    assert evidence(replace(of(), dropped="behind the best"), QUESTION).rough
    assert not evidence(of(), QUESTION).rough


def test_a_load_that_ended_early_says_nothing_of_a_ttft_but_that_it_misses_its_limit() -> None:
    """Those that were answered by then waited least."""
    levels = {"8 users": metrics(ttft_s=3.0, waiting=[9.0])}
    (bound,) = QUESTION.bounds
    missed = replace(of().score, constraints={bound.name: 1.0})
    whole = evidence(replace(of(), levels=levels, score=missed), QUESTION)
    assert (whole.loads[0].ttft_s, dict(whole.bounds)) == (3.0, {bound.name: 3.0})
    early = evidence(replace(of(), levels=levels, score=missed, dropped="surely misses it"), QUESTION)
    assert (early.loads[0].ttft_s, early.loads[0].tails) == (None, ())
    assert dict(early.bounds) == {bound.name: 2 * bound.most}
    open_ = evidence(replace(of(), levels=levels, dropped="cannot beat it"), QUESTION)
    assert (open_.loads[0].ttft_s, open_.bounds) == (None, ())
    none_waits = evidence(replace(of(), levels={"8 users": metrics(ttft_s=3.0)}, dropped="cannot beat it"), QUESTION)
    assert (none_waits.loads[0].ttft_s, dict(none_waits.bounds)) == (3.0, {bound.name: 3.0})


def test_loads_beside_the_study_s_own_count_too() -> None:
    one = replace(of(), levels={"8 users": metrics()}, curve={"4 users": metrics(80.0)})
    assert [(load.users, load.tps) for load in evidence(one, QUESTION).loads] == [(8, 100), (4, 80)]


def test_a_load_without_output_is_none() -> None:
    silent = replace(of(), levels={"8 users": metrics(0.0), "2 users": metrics(10.0)})
    assert [load.users for load in evidence(silent, QUESTION).loads] == [2]


def test_a_limit_is_named_as_its_score_names_it() -> None:
    limits = [
        {"metric": "ttft_s", "statistic": "p95", "max": 2.0},
        {"metric": "e2e_s", "statistic": "mean", "max": 9.0},
    ]
    spec = study(workload={"levels": [2, 8]}, objective={"at": 8, "limits": [limits[0], limits[1] | {"at": 2}]})
    question = Question.of(spec, gpus(), TINY)
    assert question is not None
    score = judge(spec, {"8 users": metrics(), "2 users": metrics()})
    assert [bound.name for bound in question.bounds] == [one for one in score.constraints if "success" not in one]
    assert dict(evidence(of(), question).bounds) == {question.bounds[0].name: 0.5, question.bounds[1].name: 3.0}


@pytest.mark.parametrize(
    ("reason", "misfit"),
    [
        ("load_failed", True),
        ("offloaded", True),
        ("out_of_memory", True),
        ("cancelled", False),
        ("nginx_failed", False),
    ],
)
def test_a_failure_says_whether_memory_may_have_been_short(reason: str, *, misfit: bool) -> None:
    found = evidence(result(0, params(8), reason=reason), QUESTION)
    assert (found.failed, found.measured, found.misfit, found.loads) == (True, False, misfit, ())


def test_parts_are_in_the_order_of_ports_as_numbers() -> None:
    found = evidence(of(tpots_s={"127.0.0.1:10001": 0.3, "127.0.0.1:9999": 0.1, "127.0.0.1:10000": 0.2}), QUESTION)
    assert found.loads[0].parts == ((0, 0.1), (1, 0.2), (2, 0.3))


def test_an_instance_that_answered_nothing_shifts_no_other() -> None:
    heard = of(tpots_s={"127.0.0.1:9001": 0.2, "127.0.0.1:9002": 0.3})
    whole = replace(heard, instances=3, upstreams=("127.0.0.1:9000", "127.0.0.1:9001", "127.0.0.1:9002"))
    assert evidence(whole, QUESTION).loads[0].parts == ((1, 0.2), (2, 0.3))
    older = replace(heard, instances=3)  # nobody knows which of the three was silent
    assert evidence(older, QUESTION).loads[0].parts == ()


def test_what_ran_is_said_by_the_placements() -> None:
    one = replace(of(), placements=(placed(4, 3 << 30), placed(2, 5 << 30)))
    assert (evidence(one, QUESTION).slots, evidence(one, QUESTION).full_bytes) == (2, 5 << 30)
    silent = replace(of(), placements=(placed(None, 0),))
    assert (evidence(silent, QUESTION).slots, evidence(silent, QUESTION).full_bytes) == (None, None)


def test_a_window_says_how_far_its_output_is_known() -> None:
    known = replace(metrics(100.0), output_tps_range=(90.2, 109.8))
    load = evidence(replace(of(), levels={"8 users": known}), QUESTION).loads[0]
    assert load.doubt == pytest.approx(0.05, rel=1e-3)
    assert evidence(replace(of(), levels={"8 users": metrics(100.0)}), QUESTION).loads[0].doubt is None


def test_the_fullest_device_says_what_is_in_use() -> None:
    full = Samples((), tuple(sample(device, used) for device, used in enumerate((3 << 30, 5 << 30, 1 << 30))))
    assert evidence(replace(of(), samples={"8 users": full}), QUESTION).used_bytes == 5 << 30
    assert evidence(replace(of(), samples={"8 users": Samples((), ())}), QUESTION).used_bytes is None


def sample(device: int, used: int) -> DeviceSample:
    return DeviceSample(device, 50, 1500, used, 100.0, 0.9, (), throttled=False)


seconds = st.floats(1e-4, 1e4)
loads = st.builds(
    Loaded,
    users=st.integers(1, 500),
    tps=seconds,
    tpot_s=st.none() | seconds,
    ttft_s=st.none() | seconds,
    tails=st.lists(st.tuples(st.sampled_from(["p50", "p95"]), seconds), max_size=2).map(tuple),
    parts=st.lists(st.tuples(st.integers(0, 9), seconds), max_size=3).map(tuple),
    doubt=st.none() | st.floats(0, 1),
)


@given(
    st.builds(
        Evidence,
        params=st.just(params(8)),
        loads=st.lists(loads, max_size=3).map(tuple),
        bounds=st.lists(st.tuples(st.text(), seconds), max_size=2).map(tuple),
        misfit=st.booleans(),
        failed=st.booleans(),
        rough=st.booleans(),
        slots=st.none() | st.integers(1, 64),
        seconds=seconds,
    )
)
def test_evidence_is_the_same_after_json(one: Evidence) -> None:
    said = one.to_json()
    assert Evidence.from_json(one.params, json.loads(said)) == one
    assert "num_parallel" not in said


# the question


def asked(**tables: Any) -> Question | None:
    return Question.of(study(**tables), gpus(), TINY)


def test_a_question_is_what_the_study_asks() -> None:
    tables = {"workload": {"levels": [2, 8], "num_predict": 200, "input_tokens": 60}, "objective": {"at": 8}}
    found = asked(**tables)
    assert found is not None
    assert (found.users, found.output_tokens, found.input_tokens) == (8, 200, 60)
    assert found.kinds == ("small", "small")
    assert found.bounds == ()
    assert found.levels == (8,)
    assert found.weights_bytes > 0
    assert found.slot_bytes > 0
    assert not found.on_cpu


def test_a_limit_may_be_at_another_load() -> None:
    limit = {"metric": "ttft_s", "statistic": "mean", "max": 2.0, "at": 2}
    found = asked(workload={"levels": [2, 8]}, objective={"at": 8, "limits": [limit]})
    assert found is not None
    assert found.bounds == (Bound("ttft_s", "mean", 2, 2.0),)
    assert found.levels == (8, 2)


def test_there_is_no_question_where_there_is_no_law() -> None:
    assert asked(workload={"levels": [{"rate": 3.0}]}) is None
    assert (
        asked(objective={"metric": "capacity", "limits": [{"metric": "ttft_s", "statistic": "p95", "max": 2.0}]})
        is None
    )


def test_only_on_a_gpu_the_driver_takes_memory_of_its_own() -> None:
    on_gpus, on_cores = (Question.of(SPEC, devices, TINY) for devices in (gpus(), cores((0, 1), (2, 3))))
    assert on_gpus is not None
    assert on_cores is not None
    assert on_gpus.context_bytes > 0 == on_cores.context_bytes
    assert on_gpus.weights_bytes == on_cores.weights_bytes < predict(TINY, 1024, 1, "f16").bytes - on_gpus.context_bytes


@pytest.mark.parametrize(
    ("cluster", "version", "left_mib"),
    [
        ({}, "0.32.15", 1024),
        ({}, "0.24.0", 457),
        ({"vram_free_gib": 0}, "0.32.15", 0),
        ({"vram_free_gib": 3}, "0.32.15", 3072),
        ({"vram_free_gib": 3}, "0.24.0", 3072 + 457),
    ],
)
def test_of_each_gpu_no_instance_gets_what_ollama_leaves_free(
    cluster: dict[str, float], version: str, left_mib: int
) -> None:
    found = Question.of(study(cluster=cluster), gpus(), TINY, version)
    assert found is not None
    assert found.spare_bytes == pytest.approx((left_mib + 0.2 * 1024) * 2**20)


def test_without_facts_of_the_model_nothing_is_known_of_memory() -> None:
    found = Question.of(SPEC, cores((0, 1), (2, 3)), None)
    assert found is not None
    assert (found.weights_bytes, found.slot_bytes, found.on_cpu) == (0, 0, True)


def test_a_statistic_is_known_or_not() -> None:
    load = Loaded(8, 100.0, tpot_s=0.05, ttft_s=0.5, tails=(("p95", 0.9),))
    said = [
        load.statistic(*one) for one in (("ttft_s", "mean"), ("ttft_s", "p95"), ("ttft_s", "p50"), ("tpot_s", "p99"))
    ]
    assert said == [0.5, 0.9, None, 0.05]
    assert load.statistic("e2e_s", "mean") is None


def test_a_summary_that_is_empty_says_nothing() -> None:
    bare = replace(of(), levels={"8 users": metrics(ttft_s=None, tpot_s=summary(None))})
    (load,) = evidence(bare, QUESTION).loads
    assert (load.ttft_s, load.tpot_s, load.tails) == (None, None, ())
