"""What has changed between two studies: which tells nothing of the other, and how much another one counts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from autotune.earlier import change
from autotune.plan import ProvenDevice
from tests.conftest import study
from tests.factories import PROVENANCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.earlier.change import Change

NOW = datetime(2026, 6, 1, tzinfo=UTC)
CARD = ProvenDevice(0, "GPU-1", "Small GPU", 4 << 30)


def words(found: Iterator[Change]) -> list[str]:
    return [one.words for one in found]


def test_nothing_has_changed_of_what_is_the_same() -> None:
    spec = study()
    assert not words(change.of_host(PROVENANCE, PROVENANCE))
    assert not words(change.of_load(spec, spec))
    assert not words(change.of_settings(spec, spec))
    assert change.weight([]) == 1


@pytest.mark.parametrize(
    "other",
    [
        (CARD, CARD),
        (),
        (replace(CARD, name="Large GPU"),),
        (replace(CARD, memory_bytes=8 << 30),),
    ],
    ids=["more", "none", "kind", "memory"],
)
def test_other_devices_are_told_with_both(other: tuple[ProvenDevice, ...]) -> None:
    said = change.strange(other, (CARD,))
    assert said.startswith("of another host: ")
    assert said.endswith("; here there are 1 × Small GPU (4.0 GiB)")
    assert "×" in said.partition(";")[0] or "none" in said


def test_a_driver_that_keeps_a_little_for_itself_makes_no_other_device() -> None:
    assert change.strange((replace(CARD, memory_bytes=int(0.99 * CARD.memory_bytes)),), (CARD,)) == ""


def test_what_has_changed_of_a_host_counts() -> None:
    later = replace(PROVENANCE, driver="570", ollama="0.33")
    assert words(change.of_host(PROVENANCE, later)) == ["driver 560.1 → 570", "Ollama 0.32.15 → 0.33"]
    every = list(change.of_host(PROVENANCE, later))
    assert change.weight(every) < change.weight(every[:1]) < 1


def test_cards_are_known_by_their_names_and_processors_by_their_host() -> None:
    moved = replace(PROVENANCE, host="elsewhere")
    assert not words(change.of_host(PROVENANCE, moved))
    others = replace(PROVENANCE, devices=(replace(CARD, id="GPU-2"),))
    assert words(change.of_host(PROVENANCE, others)) == ["other devices of the same kind"]
    core = replace(PROVENANCE, driver="", devices=(ProvenDevice(0, "cpu:0-3", "Processor", 4 << 30),))
    assert words(change.of_host(core, replace(core, host="elsewhere"))) == ["host server → elsewhere"]


def test_what_is_asked_counts_by_octaves() -> None:
    two, four, eight = (study(workload={"levels": [users]}) for users in (2, 4, 8))
    near, far = list(change.of_load(two, four)), list(change.of_load(two, eight))
    assert near[0].words == "2 users → 4 users"
    assert far[0].size == pytest.approx(2 * near[0].size)
    rate = study(workload={"levels": [{"rate": 2.0}]})
    assert len(words(change.of_load(two, rate))) == 1
    longer = study(workload={"levels": [2], "num_ctx": 2048, "input_tokens": None, "prompts": "prompts.jsonl"})
    assert words(change.of_load(two, longer, other_prompts=True)) == [
        "num_ctx 1024 → 2048",
        "tokens of a prompt 8 → unknown",
        "another workload.prompts",
    ]


@pytest.mark.parametrize(
    "more",
    [
        {"endpoint": "chat"},
        {"think": True},
        {"shared_prefix": {"prefixes": 1, "tokens": 4}},
        {"endpoint": "chat", "conversation": {"turns": 3}},
    ],
    ids=lambda more: [*more][-1],
)
def test_what_is_asked_in_another_way_counts(more: dict[str, Any]) -> None:
    before, now = study(), study(workload=more)
    assert words(change.of_load(before, now)) == [f"another workload.{name}" for name in more]


def test_what_all_instances_are_told_counts() -> None:
    one, other = (study(cluster={"env": {"LLAMA_ARG_X": value}}) for value in ("0", "1"))
    assert words(change.of_settings(one, other)) == ["LLAMA_ARG_X 0 → 1"]
    assert words(change.of_space({"kv_cache_type": "f16", "threads": 2}, {"kv_cache_type": "q8_0"})) == [
        "kv_cache_type f16 → q8_0",
        "threads 2 → None",
    ]


def test_what_is_old_counts_less_up_to_a_point() -> None:
    def aged(days: float) -> list[Change]:
        return list(change.of_age((NOW - timedelta(days=days)).isoformat(), NOW))

    assert aged(5) == aged(-5) == []
    assert aged(60)[0].words == "60 days old"
    assert aged(60)[0].size < aged(120)[0].size < aged(1000)[0].size == aged(2000)[0].size
    assert list(change.of_age("no time", NOW)) == []
    assert words(change.of_age("2026-04-01T00:00:00", NOW)) == ["61 days old"]
