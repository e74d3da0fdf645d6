"""What an instance will take: against recordings and published logs, and against hosts that are not as foreseen."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.inventory import Device, Inventory
from autotune.space import Layout, ModelFacts, Part, instances, layouts, needed_bytes, parse_layout, shortage
from autotune.space.forecast import FIT_MARGIN_BYTES, Memory, asked_of, predict, prior
from autotune.space.sizes import Load, pooled
from tests.memories import GIB, KINDS, LLAMA, MIB, World, world
from tests.simulator.exchange import RECORDINGS, recorded
from tests.test_space import host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PLAYED = replace(LLAMA, weights_bytes=7500 * MIB, host_weights_bytes=400 * MIB, layers=30, whole_elements=30 * 2048)
"""What the GPUs of the recordings were told to play: 7,100 MiB on the device, and 120 KiB of cache for each token."""
CARD = (22528 * MIB,)
FOUR, ALONE = host("AAAA"), Layout((Part((0,)),))
LOADS = [Load(8192, slots, kind, 512) for slots, kind in product((1, 2, 4, 8, 16, 32), KINDS)]


def grid(
    memory: Memory,
    there: Inventory,
    found: Sequence[Layout],
    loads: Sequence[Load],
    margin: int = FIT_MARGIN_BYTES,
    free: int = 0,
) -> NDArray[np.float64]:
    """The chances of all layouts with all loads, the same for every part."""
    asked = [[(part, load) for part in layout.parts] for layout, load in product(found, loads)]
    return memory.fit_probabilities(asked, there, margin_bytes=margin, free_bytes=free).reshape(len(found), len(loads))


def chance(
    memory: Memory, there: Inventory, layout: Layout | str, load: Load, margin: int = FIT_MARGIN_BYTES, free: int = 0
) -> float:
    parts = (parse_layout(layout, there) if isinstance(layout, str) else layout).parts
    return memory.fit_probability([(part, load) for part in parts], there, margin_bytes=margin, free_bytes=free)


# recordings


def sizes(name: str) -> tuple[int, int]:
    (model,) = recorded("v0.32.15-gpu", name).lines[0]["models"]
    return model["size"], model["size_vram"]


def test_a_recorded_load_is_foreseen_within_two_deviations() -> None:
    forecast = predict(PLAYED, 8192, 12, "f16", num_batch=2048)
    _, taken = sizes("ps-all-on-gpu")
    assert abs(forecast.bytes - forecast.context_bytes - taken) < 2 * forecast.sd_bytes
    assert forecast.weights_bytes == pytest.approx(7100 * MIB)
    assert forecast.kv_bytes == pytest.approx(11520 * MIB)


def test_what_was_recorded_as_fitting_was_likely_and_what_was_not_was_unlikely() -> None:
    one = Inventory("host", (Device(0, "GPU-0", "nvidia", "Card", CARD[0], "A"),))
    chances = grid(prior(PLAYED), one, [ALONE], [Load(8192, slots) for slots in (12, 16, 32)])[0]
    assert chances[0] > 0.5 > chances[1] > chances[2] == 0


@pytest.mark.parametrize("version", ["v0.24.0", "v0.32.15"])
def test_a_real_cache_has_the_size_that_its_log_says(version: str) -> None:
    log = (RECORDINGS / version / "server-log-debug.txt").read_text()
    assert "KV buffer size =     0.75 MiB" in log  # 1024 cells, 2 layers, 3/3 seqs
    tiny = replace(LLAMA, layers=2, kv_heads=2, k_size=16, v_size=16, context_length=8192, whole_elements=None)
    for facts in (tiny, replace(tiny, whole_elements=2 * 2 * 32)):
        assert predict(facts, 1024, 3, "f16").kv_bytes == 0.75 * MIB


@pytest.mark.parametrize(
    ("tokens", "window", "batch", "cells"), [(8192, 1024, 512, 1536), (8192, 1000, 512, 1536), (1024, 1024, 512, 1024)]
)
def test_a_layer_that_slides_keeps_its_window_and_a_batch(tokens: int, window: int, batch: int, cells: int) -> None:
    gemma = replace(LLAMA, sliding_window=window, whole_elements=1000, sliding_elements=5000)
    assert predict(gemma, tokens, 2, "q8_0", batch).kv_bytes == pytest.approx(
        2 * 34 / 32 * (1000 * tokens + 5000 * cells)
    )


@pytest.mark.parametrize(
    ("facts", "tokens", "mib"),
    [
        (LLAMA, 8192, 258.5),
        (replace(LLAMA, vocabulary=151936, embedding_length=2048, feed_forward_length=11008), 4096, 300.75),
    ],
)
def test_published_compute_buffers_are_within_two_deviations(facts: ModelFacts, tokens: int, mib: float) -> None:
    nothing = replace(facts, weights_bytes=0, host_weights_bytes=0, whole_elements=0)
    forecast = predict(nothing, tokens, 1, "f16", num_batch=512)
    sd = (forecast.sd_bytes**2 - (0.15 * GIB) ** 2) ** 0.5  # less the context's
    assert abs(forecast.compute_bytes - mib * MIB) < 2 * sd


# hosts that are not as foreseen


def believed(seed: int, gib: int) -> World:
    """A host that is as the module believes hosts to be, with one card."""
    rng = Random(seed)
    cards = (Device(0, "GPU-0", "nvidia", "Card", gib * GIB, "A"),)
    return World(
        world(rng).facts,
        Inventory("host", cards),
        weights=rng.gauss(1.0, 0.03),
        cache=rng.gauss(1.0, 0.03),
        outputs=rng.gauss(0.5, 0.4),
        inner=rng.gauss(0.8, 0.4),
        context=rng.gauss(0.35, 0.15) * GIB,
        held=rng.gauss(0.2, 0.1) * GIB,
        rough=0.008,
    )


def test_nine_intervals_in_ten_of_nine_tenths_cover() -> None:
    hits = []
    for seed in range(300):
        true, loads = believed(seed, 400), LOADS.copy()
        Random(seed).shuffle(loads)
        for load in loads[:2]:
            forecast = prior(true.facts).predict(load)
            hits.append(abs(forecast.bytes - sum(true.parts(load)) - true.context) < 1.6449 * forecast.sd_bytes)
    print(f"\ncovered: {np.mean(hits):.3f}")
    assert 0.85 <= np.mean(hits) <= 0.95


def test_a_chance_is_as_often_true_as_it_says() -> None:
    said, true_of = [], []
    for seed in range(400):
        true = believed(seed, 24)
        chances = grid(prior(true.facts), true.inventory, [ALONE], LOADS)[0]
        for one, load in zip(chances, LOADS, strict=True):
            if 0.02 < one < 0.98:
                said.append(one)
                true_of.append(true.fits(ALONE.parts[0], load))
    print(f"\nsaid {np.mean(said):.3f}, true {np.mean(true_of):.3f} of {len(said)}")
    assert len(said) > 100
    assert np.mean(true_of) == pytest.approx(np.mean(said), abs=0.08)
    assert np.mean((np.array(true_of) - said) ** 2) < 0.25 - 0.05


def test_embeddings_that_are_the_output_too_are_on_the_device() -> None:
    assert predict(replace(LLAMA, tied_bytes=280 * MIB), 8192, 1, "f16").weights_bytes == 4900 * MIB
    assert predict(LLAMA, 8192, 1, "f16").weights_bytes == 4620 * MIB


# chances


kinds_of_hosts = st.sampled_from(["A", "AA", "AABB", "AAAA", "a", "aa", "Aaa"])
slots = st.integers(1, 64)


@settings(max_examples=60)
@given(kinds_of_hosts, st.integers(4, 64), slots, st.sampled_from(sorted(KINDS)), st.data())
def test_more_slots_are_never_likelier_and_more_memory_never_less(
    kinds: str, gib: int, count: int, kind: str, data: st.DataObject
) -> None:
    load = Load(4096, count, kind, 512)
    small, large = host(kinds, gib), host(kinds, gib + 2)
    layout = data.draw(st.sampled_from(layouts(small, [1, 2], [2, 4])))
    memory = prior(LLAMA)
    likely = chance(memory, small, layout, load)
    assert 0 <= likely <= 1
    assert chance(memory, small, layout, replace(load, num_parallel=count + 1)) <= likely + 1e-12
    assert chance(memory, large, layout, load) >= likely - 1e-12
    assert chance(memory, small, layout, load, margin=2 * GIB) <= likely + 1e-12


@settings(max_examples=20)
@given(kinds_of_hosts, st.integers(1, 40), st.sampled_from([0, 2 * GIB]))
def test_what_certainly_does_not_fit_has_no_chance(kinds: str, gib: int, free: int) -> None:
    there = host(kinds, gib)
    found = layouts(there, [1, 2, 3], [2, 4])
    loads = [Load(4096, count, kind) for count, kind in product((1, 8, 40), KINDS)]
    sure = Memory(LLAMA, prior(LLAMA).mean / 2, prior(LLAMA).covariance / 1e6)  # of half the need
    chances = grid(sure, there, found, loads, free=free)
    for (row, layout), (column, load) in product(enumerate(found), enumerate(loads)):
        need = needed_bytes(LLAMA, load.num_ctx, load.num_parallel, load.kv_cache_type)
        if shortage(layout, there, need, free):
            assert chances[row, column] == 0
        assert chances[row, column] == pytest.approx(chance(sure, there, layout, load, free=free))


def test_copies_and_spans_count() -> None:
    memory, load = prior(LLAMA), Load(8192, 8, num_batch=512)
    four = host("AAAA", 16)
    likely = {text: chance(memory, four, text, load) for text in ("0", "0x2", "0+1", "0+1+2")}
    assert likely["0x2"] < 0.01 < likely["0"] < likely["0+1"]
    assert likely["0+1+2"] > 0.99
    wide = replace(load, num_parallel=20)
    assert chance(memory, four, "0", wide) == 0
    assert chance(memory, four, "0+1", wide) > 0.5
    assert chance(memory, four, "0 | 1+2", wide) == 0


def test_a_device_holds_whole_layers() -> None:
    there, load = host("AA", 16), Load(512, 1, num_batch=512)
    fine, coarse = (
        replace(LLAMA, weights_bytes=24 * GIB, layers=layers, whole_elements=None, host_weights_bytes=0)
        for layers in (63, 2)
    )
    assert chance(prior(fine), there, "0+1", load) > 0.95
    assert chance(prior(coarse), there, "0+1", load) < 0.5


def test_devices_of_unequal_size_hold_together_what_they_have() -> None:
    there = Inventory("host", (*host("A", 24).devices, replace(host("B", 8).devices[0], index=1)))
    memory = prior(LLAMA)
    assert chance(memory, there, "0+1", Load(8192, 18, num_batch=512)) > 0.9
    assert chance(memory, there, "0+1", Load(8192, 25, num_batch=512)) < 0.1


def test_ollama_s_own_batch_grows_with_the_context_while_there_is_room() -> None:
    big = replace(LLAMA, weights_bytes=GIB, host_weights_bytes=0)

    def compute(num_ctx: int, batch: int | None) -> float:
        return predict(big, num_ctx, 1, "f16", batch).compute_bytes

    for num_ctx, batch in [(4096, 512), (8192, 1024), (65536, 2048)]:
        assert compute(num_ctx, None) == compute(num_ctx, batch)
    tight = host("A", 7)
    asked, told = (chance(prior(LLAMA), tight, "0", Load(4200, 1, num_batch=batch)) for batch in (None, 512))
    assert asked == told


def test_without_flash_attention_the_scores_are_kept() -> None:
    plain, off = (predict(LLAMA, 8192, 1, "f16", 512, flash) for flash in ("auto", "off"))
    assert off.compute_bytes > plain.compute_bytes + 200 * MIB


def test_on_a_cpu_all_instances_share_the_ram() -> None:
    there = host("aa", 14)
    memory, load = prior(LLAMA), Load(4096, 4, num_batch=512)
    assert chance(memory, there, "0", load) > 0.99
    assert chance(memory, there, "0 | 1", load) < 0.5


def test_every_part_may_hold_something_else() -> None:
    there, memory = host("ABaa", 16), prior(LLAMA)
    little, much, lots = (Load(8192, slots, num_batch=512) for slots in (1, 9, 40))
    first, second, third, fourth = (Part((index,)) for index in range(4))
    alone = memory.fit_probability([(first, much)], there)
    assert 0.01 < alone < 0.99
    assert memory.fit_probability([(first, little), (second, much)], there) == pytest.approx(alone)
    assert memory.fit_probability([(first, lots), (second, little)], there) == 0
    on_cpu = memory.fit_probability([(third, little), (fourth, replace(little, num_parallel=2))], there)
    assert on_cpu < memory.fit_probability([(third, little)], there)
    twice = memory.fit_probability([(third, little), (fourth, little)], there)
    assert pooled(LLAMA, [[(third, little), (fourth, little)]], there, 0, 0).rows[0, -1] == 1  # the host's own, once
    assert on_cpu < twice < memory.fit_probability([(third, little)], there)
    assert memory.fit_probability([(first, much), (third, little), (fourth, lots)], there) == 0
    assert memory.fit_probability([(first, much), (third, little)], there) == pytest.approx(alone)


def test_what_is_asked_of_instances_is_told_part_by_part() -> None:
    four = host("AABB")
    members = instances({"layout": "0 | 1x2 | 2+3", "num_parallel": 4, "num_parallel@B": 6}, four)
    load = Load(4096, 4, "q8_0", 256, "on")
    assert asked_of(members, 4096, "q8_0", 256, "on") == (
        (Part((0,), 2), load),
        (Part((1,)), load),
        (Part((2, 3)), replace(load, num_parallel=6)),
    )


def test_nothing_asked_has_no_chances() -> None:
    assert prior(LLAMA).fit_probabilities([], FOUR).shape == (0,)
