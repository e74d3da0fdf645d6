"""Every caution of a load, and that a load without a fault has none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from autotune.benchmark.pacer import ClosedLoop, OpenLoop
from autotune.benchmark.phases import LoadResult, Look, Overload
from autotune.benchmark.workload import Lengths, Prefixes, Workload, make
from autotune.benchmark.workload.texts import ShareGptWorkload
from autotune.doubts import doubts, heat
from autotune.health import examine
from autotune.metrics import InstanceMetrics
from autotune.records import Outcome, RequestRecord
from autotune.telemetry import DeviceSample
from tests.factories import metrics, summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PLAIN = make(1, Lengths("fixed", 50), Lengths("fixed", 60))
SHARED = make(1, Lengths("fixed", 50), Lengths("fixed", 60), prefixes=Prefixes(4, 30))


def instance(tpot_s: float, answers: int = 50) -> InstanceMetrics:
    return InstanceMetrics(50, 0.5, 100.0, 0.5, 0.9, tpot_p50_s=tpot_s, answers=answers)


def told(
    *,
    users: int | None = 5,
    look: Look | None = None,
    cautions: tuple[str, ...] = (),
    workload: Workload | None = PLAIN,
    input_tokens: float | None = None,
    precision: float | None = None,
    records: Sequence[RequestRecord] = (),
    alike: Mapping[str, str] | None = None,
    **more: Any,
) -> list[str]:
    level = OpenLoop(2.0) if users is None else ClosedLoop(users)
    loaded = LoadResult(level, 0.0, 60.0, tuple(records), cautions, look=look or Look())
    found = metrics(**more)
    health = examine(loaded, found)
    return doubts(loaded, found, health, workload=workload, input_tokens=input_tokens, precision=precision, alike=alike)


def test_a_load_without_a_fault_calls_for_no_doubt() -> None:
    assert told(input_tokens=60.0, precision=0.05, look=Look(precision=0.04), pace=1.02, little=0.01) == []


def test_an_instance_is_not_held_against_one_on_another_device() -> None:
    figures = {"a:1": instance(0.05), "b:2": instance(0.08)}
    assert told(instances=figures, alike={"a:1": "new", "b:2": "old"}) == []
    assert len(told(instances=figures, alike={"a:1": "new", "b:2": "new"})) == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"cold": 3}, "3 requests met a model that was not loaded; they are left out"),
        ({"connected": 2}, "2 requests of the window had to open a connection first"),
        ({"stopped_early": 0.21}, "21% of the answers ended before num_predict: choose one that they reach"),
        ({"tokens_per_chunk": 1.3}, "0.77 pieces of text for each token: chunk gaps are not those of tokens"),
        (
            {"tokens_per_chunk": None},
            "the server told no numbers of tokens: each piece of text counts as one, whatever is in it",
        ),
        ({"pace": 1.2}, "a token takes 1.20 times as long here as the server says: text is held up on its way"),
        ({"pace": 0.85}, "a token takes 0.85 times as long here as the server says: text is held up on its way"),
        (
            {"drift": -0.12, "drift_range": (-0.2, -0.04)},
            "the output rate changed by -12% of its mean from one end of the window to the other",
        ),
        ({"in_flight": 4.4}, "only 4.4 of 5 users were on their way in the mean: the client lost time"),
        (
            {"little": -0.3},
            "-30% of the requests in flight are not explained by their rate and length: not steady",
        ),
        (
            {"instances": {"a:1": instance(0.05), "b:2": instance(0.08)}},
            "instance b:2 takes 1.60 times as long for a token as the others: look at its device",
        ),
        ({"cautions": ("the warm-up ended early",)}, "the warm-up ended early"),
        ({"input_tokens": 40.0}, "prompts have 60 tokens in the mean, not 40"),
    ],
)
def test_cautions(more: dict[str, Any], words: str) -> None:
    assert told(**more) == [words]


@pytest.mark.parametrize(
    "more",
    [
        {"stopped_early": 0.2},
        {"stopped_early": None},
        {"tokens_per_chunk": 1.2},
        {"tokens_per_chunk": None, "outcomes": {"ok": 0, "rejected": 3}},
        {"pace": 1.09},
        {"pace": None},
        {"drift": 0.3, "drift_range": (-0.1, 0.7)},
        {"drift": 0.04, "drift_range": (0.03, 0.05)},
        {"in_flight": 4.6},
        {"in_flight": 1.0, "users": None},
        {"in_flight": 1.0, "success_rate": 0.9},
        {"little": -0.3, "e2e_s": summary(20.0)},
        {"little": 0.19},
        {"instances": {"a:1": instance(0.05), "b:2": instance(0.06)}},
        {"instances": {"a:1": instance(0.05), "b:2": instance(0.5, answers=9)}},
        {"input_tokens": 50.0},
    ],
)
def test_what_calls_for_no_caution(more: dict[str, Any]) -> None:
    assert told(**more) == []


def test_shared_prefixes_are_told() -> None:
    (caution,) = told(workload=SHARED)
    assert caution.startswith("the prompt cache is part of what was measured: ")
    assert told(workload=None) == []


def test_failures_are_explained_by_what_most_of_them_say() -> None:
    ok, cut = RequestRecord(0, 1.0, Outcome.OK), RequestRecord(1, 1.0, Outcome.CUT_OFF)
    broken = [RequestRecord(2 + number, 1.0, Outcome.FAILED, error="CUDA error") for number in range(3)]
    silent = RequestRecord(9, 1.0, Outcome.TIMEOUT)
    assert told(records=[ok, cut]) == []
    assert told(records=[ok, cut, *broken]) == ["3 requests failed: CUDA error"]
    assert told(records=[*broken, silent]) == ["4 requests failed, 3 of them: CUDA error"]
    assert told(records=[ok, silent]) == ["1 requests failed: timeout"]


def test_what_of_a_file_is_not_used_is_told() -> None:
    (caution,) = told(workload=ShareGptWorkload((("Why?", 100),), left_out=3))
    assert caution == "3 entries of the file are not used: no answer, or too long for the context"


def test_limits_that_stay_open_and_rates_that_are_not_known() -> None:
    look = Look(
        enough=False, limits={"ttft_s p95": "open", "tpot_s p95": "holds", "e2e_s mean": "open"}, precision=0.071
    )
    assert told(look=look) == [
        "not decided: ttft_s p95, e2e_s mean: too few requests, or too close; a longer window tells more"
    ]
    assert told(look=Look(precision=0.071), precision=0.05) == [
        "the output rate is known to ±7.1%, not to ±5.0%: a longer window tells more"
    ]
    (caution,) = told(look=Look(), precision=0.05)
    assert caution == "the output rate is not known, not to ±5.0%: a longer window tells more"
    assert told(look=Look(sunk=True), precision=0.05) == []


def test_an_overload_is_told_and_excuses_what_follows_from_it() -> None:
    over = Overload(12.5, 10.0, (1.0, 2.0), (0.1, 0.2))
    look = Look(enough=False, sunk=True, limits={"ttft_s p95": "open"}, overload=over)
    assert told(users=None, look=look, precision=0.05) == [
        "overloaded: 12.5 requests/s came and 10 were answered, and the queue only grew; the window ended early"
    ]


def test_gpus_that_were_slowed_down() -> None:
    cool = DeviceSample(0, 60, 1500, 1 << 30, 200.0, 0.99, (), throttled=False)
    hot = replace(cool, device=1, temperature_c=91, throttle_reasons=("hw_thermal",), throttled=True)
    (caution,) = heat([cool, hot])
    assert caution.startswith("GPU 1 was throttled (hw_thermal) at 91 °C: ")
