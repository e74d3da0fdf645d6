"""What an instance will take: against recordings and published logs, and against hosts that are not as foreseen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import floor
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.inventory import Device, Inventory
from autotune.space import Layout, ModelFacts, Part, instances, layouts, needed_bytes, parse_layout, shortage
from autotune.space.forecast import FIT_MARGIN_BYTES, LEAST_CHANCE, Memory, Taken, asked_of, calibrated, predict, prior
from autotune.space.sizes import FACTORS, Load, pooled
from tests.simulator.exchange import RECORDINGS, recorded
from tests.test_space import host

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

MIB, GIB = 2**20, 2**30
KINDS = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
LLAMA = ModelFacts(
    name="8b",
    digest="0",
    weights_bytes=4900 * MIB,
    layers=32,
    kv_heads=8,
    k_size=128,
    v_size=128,
    context_length=131072,
    sliding_window=None,
    family="llama",
    host_weights_bytes=280 * MIB,
    whole_elements=32 * 2048,
    sliding_elements=0,
    embedding_length=4096,
    feed_forward_length=14336,
    heads=32,
    vocabulary=128256,
)
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


def test_one_recorded_trial_tells_the_others_within_a_fiftieth() -> None:
    size, vram = sizes("ps-all-on-gpu")
    seen = Taken(Load(8192, 12, num_batch=2048), CARD, fitted=True, size_bytes=size, size_vram_bytes=vram)
    memory = calibrated(PLAYED, [seen])
    for slots, mib in [(12, 19140), (16, 22980)]:  # the buffer lines in the logs, and what was projected
        forecast = memory.predict(Load(8192, slots, num_batch=2048))
        assert forecast.bytes - forecast.context_bytes == pytest.approx(mib * MIB, rel=0.02)
        assert forecast.sd_bytes < 0.03 * mib * MIB


def test_a_recorded_offload_tells_nearly_as_much_as_a_load_that_fits() -> None:
    size, vram = sizes("ps-partial-offload")
    load = Load(8192, 16, num_batch=2048)
    memory = calibrated(PLAYED, [Taken(load, CARD, fitted=False, size_bytes=size, size_vram_bytes=vram)])
    forecast = memory.predict(load)
    assert forecast.bytes - forecast.context_bytes == pytest.approx(22980 * MIB, rel=0.02)
    assert forecast.sd_bytes < 0.7 * predict(PLAYED, 8192, 16, "f16", num_batch=2048).sd_bytes
    one = Inventory("host", (Device(0, "GPU-0", "nvidia", "Card", CARD[0], "A"),))
    assert chance(memory, one, ALONE, load) < 0.05
    assert chance(memory, one, ALONE, replace(load, num_parallel=8)) > 0.95


def test_what_was_recorded_as_fitting_was_likely_and_what_was_not_was_unlikely() -> None:
    one = Inventory("host", (Device(0, "GPU-0", "nvidia", "Card", CARD[0], "A"),))
    chances = grid(prior(PLAYED), one, [ALONE], [Load(8192, slots) for slots in (12, 16, 32)])[0]
    assert chances[0] > LEAST_CHANCE > chances[1] > chances[2] == 0


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


@dataclass(frozen=True)
class World:
    """A host and a model, as they are and not as they are believed to be."""

    facts: ModelFacts
    inventory: Inventory
    weights: float
    cache: float
    outputs: float
    inner: float
    context: float
    held: float
    rough: float = 0.0
    """What no factor explains, by the standard deviation of a cache's part."""

    def parts(self, load: Load) -> tuple[float, float, float]:
        """Weights, cache, and a device's compute buffer."""
        facts, batch = self.facts, load.num_batch or 512
        elements = facts.layers * facts.kv_heads * (facts.k_size + facts.v_size)
        outputs = facts.vocabulary + facts.embedding_length
        inner = load.num_ctx + 2 * facts.feed_forward_length + 4 * facts.embedding_length
        chance = Random(f"{facts.weights_bytes} {load}") if self.rough else None
        off = [chance.gauss(1, self.rough * times) if chance else 1.0 for times in (0.5, 1, 10)]
        return (
            off[0] * self.weights * (facts.weights_bytes - facts.host_weights_bytes),
            off[1] * self.cache * elements * load.num_ctx * load.num_parallel * KINDS[load.kv_cache_type],
            off[2] * 4 * batch * (self.outputs * outputs + self.inner * inner),
        )

    def fits(self, part: Part, load: Load) -> bool:
        weights, cache, compute = self.parts(load)
        room = [self.inventory.devices[index].memory_bytes - self.held - FIT_MARGIN_BYTES for index in part.devices]
        fixed = compute + self.context
        if len(part.devices) == 1:
            return part.copies * (weights + cache + fixed) <= room[0]
        layers = self.facts.layers + 1
        return sum(floor((one - fixed) / ((weights + cache) / layers)) for one in room) >= layers

    def taken(self, layout: Layout, load: Load) -> Iterator[Taken]:
        """What a trial says: about each part, until one does not fit."""
        weights, cache, compute = self.parts(load)
        for part in layout.parts:
            memory = tuple(self.inventory.devices[index].memory_bytes for index in part.devices)
            if not self.fits(part, load):
                yield Taken(load, memory, fitted=False, copies=part.copies)
                return
            size = int(weights + cache + len(memory) * compute)
            used = part.copies * ((weights + cache) / len(memory) + compute + self.context) + self.held
            yield Taken(
                load,
                memory,
                fitted=True,
                copies=part.copies,
                size_bytes=size,
                size_vram_bytes=size,
                device_used_bytes=(int(used),) * len(memory),
            )


def world(rng: Random, *, logits: Sequence[float] = ()) -> World:
    """Everything is off by up to 15 % of what is believed; `logits`: the part of them that is really kept."""
    layers, wide = rng.choice([(28, 3072), (32, 4096), (40, 5120), (64, 5120)])
    facts = replace(
        LLAMA,
        layers=layers,
        kv_heads=rng.choice([4, 8]),
        weights_bytes=int(rng.uniform(2, 20) * GIB),
        embedding_length=wide,
        feed_forward_length=int(3.5 * wide),
        vocabulary=rng.choice([32000, 128256, 262144]),
        whole_elements=None,
    )
    memory = int(rng.choice([8, 12, 16, 24, 48]) * GIB)
    devices = [Device(index, f"GPU-{index}", "nvidia", "Card", memory, "A") for index in range(rng.choice([1, 2, 4]))]
    off = [rng.uniform(0.85, 1.15) for _ in range(4)]
    outputs = rng.choice(list(logits)) if logits else 0.5 * off[2]
    return World(
        facts,
        Inventory("host", tuple(devices)),
        weights=off[0],
        cache=off[1],
        outputs=outputs,
        inner=0.8 * off[3],
        context=rng.uniform(0.2, 0.6) * GIB,
        held=rng.uniform(0.05, 0.4) * GIB,
    )


@dataclass
class Tally:
    """How a search fared."""

    hosts: int = 0
    tried: int = 0
    lost: int = 0
    fitting: int = 0
    refused: int = 0


def search(true: World, rng: Random, trials: int, tally: Tally, *, threshold: float, greedy: bool) -> None:
    """Try what is likely enough to fit: anything, or (`greedy`) whatever has the most slots.

    Counted are the trials after the first five, and in the end what would have fitted and is refused.
    """
    found = layouts(true.inventory, [1, 2, 3], [2, 4])
    loads = [Load(8192, slots, kind, 512) for slots, kind in product((1, 2, 3, 4, 6, 8, 12, 16, 24, 32), KINDS)]
    fits = np.array([[all(true.fits(part, load) for part in layout.parts) for load in loads] for layout in found])
    asked = [[(part, load) for part in layout.parts] for layout, load in product(found, loads)]
    pool = pooled(true.facts, asked, true.inventory, FIT_MARGIN_BYTES, 0)
    seen: list[Taken] = []
    left = np.ones(fits.shape, dtype=bool)
    memory = prior(true.facts)
    for trial in range(trials):
        likely = memory.chances(pool).reshape(fits.shape) >= threshold
        choices = list(zip(*np.nonzero(likely & left), strict=True))
        if not choices:
            break
        weight = [len(found[row].instances) * loads[column].num_parallel if greedy else 1 for row, column in choices]
        most = [choice for choice, value in zip(choices, weight, strict=True) if value >= 0.8 * max(weight)]
        row, column = rng.choice(most)
        left[row, column] = False
        seen += true.taken(found[row], loads[column])
        memory = calibrated(true.facts, seen)
        if trial >= 5:
            tally.tried += 1
            tally.lost += not fits[row, column]
    likely = memory.chances(pool).reshape(fits.shape) >= threshold
    tally.hosts += 1
    tally.fitting += int(fits.sum())
    tally.refused += int((fits & ~likely & left).sum())


@pytest.mark.parametrize("greedy", [False, True])
def test_hardly_a_trial_is_lost_to_a_misfit_and_hardly_a_fit_is_refused(greedy: bool) -> None:
    """Of 200 hosts whose weights, caches and buffers are off by up to 15 %, half of them keeping all logits or none."""
    tally = Tally()
    for seed in range(200):
        rng = Random(seed)
        true = world(rng, logits=() if seed % 2 else (0.02, 1.0))
        search(true, rng, 12, tally, threshold=LEAST_CHANCE, greedy=greedy)
    print(f"\nlost {tally.lost} of {tally.tried} trials; refused {tally.refused} of {tally.fitting} that had fitted")
    assert tally.hosts == 200
    assert tally.tried > 500
    assert tally.lost <= tally.tried / 20
    assert tally.refused <= tally.fitting / 20


def believed(seed: int, gib: int) -> World:
    """A host that is as the module believes hosts to be, with one card; NVML speaks on every second one."""
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


def learnt(true: World, loads: Sequence[Load], *, nvml: bool) -> Memory:
    seen = [taken for load in loads for taken in true.taken(ALONE, load)]
    return calibrated(true.facts, seen if nvml else [replace(one, device_used_bytes=()) for one in seen])


@pytest.mark.parametrize("trials", [0, 1, 3, 6])
def test_nine_intervals_in_ten_of_nine_tenths_cover(trials: int) -> None:
    hits = []
    for seed in range(300):
        true, loads = believed(seed, 400), LOADS.copy()
        Random(seed).shuffle(loads)
        memory = learnt(true, loads[:trials], nvml=seed % 2 == 0)
        for load in loads[trials : trials + 2]:
            forecast = memory.predict(load)
            hits.append(abs(forecast.bytes - sum(true.parts(load)) - true.context) < 1.6449 * forecast.sd_bytes)
    print(f"\ncovered after {trials} trials: {np.mean(hits):.3f}")
    assert 0.85 <= np.mean(hits) <= 0.95


@pytest.mark.parametrize("trials", [0, 2])
def test_a_chance_is_as_often_true_as_it_says(trials: int) -> None:
    said, true_of = [], []
    for seed in range(400):
        true, loads = believed(seed, 24), LOADS.copy()
        Random(seed).shuffle(loads)
        memory = learnt(true, loads[:trials], nvml=seed % 2 == 0)
        chances = grid(memory, true.inventory, [ALONE], loads)[0]
        for one, load in list(zip(chances, loads, strict=True))[trials:]:
            if 0.02 < one < 0.98:
                said.append(one)
                true_of.append(true.fits(ALONE.parts[0], load))
    print(f"\nsaid {np.mean(said):.3f}, true {np.mean(true_of):.3f} of {len(said)}")
    assert len(said) > 100
    assert np.mean(true_of) == pytest.approx(np.mean(said), abs=0.08)
    assert np.mean((np.array(true_of) - said) ** 2) < 0.25 - 0.05


# what trials teach


SEEN = Load(8192, 4, num_batch=512)
TWO_CARDS = host("AA", 24)


def trial(load: Load, gib: float, *, fitted: bool | None = True, used: float = 0.0) -> Taken:
    size = int(gib * GIB)
    return Taken(load, (24 * GIB,), fitted, 1, size, size, (int(used * GIB),) if used else ())


def test_nothing_tried_is_what_was_believed() -> None:
    before, after = prior(LLAMA), calibrated(LLAMA, [])
    assert (before.mean == after.mean).all()
    assert (before.covariance == after.covariance).all()
    assert len(before.mean) == len(FACTORS)


def test_a_trial_that_failed_for_another_reason_teaches_nothing() -> None:
    after = calibrated(LLAMA, [Taken(SEEN, (24 * GIB,), None)])
    assert (after.mean == prior(LLAMA).mean).all()


def test_nvml_tells_what_the_driver_takes() -> None:
    dear = calibrated(LLAMA, [trial(SEEN, 9.2, used=10.2)]).predict(SEEN)
    cheap = calibrated(LLAMA, [trial(SEEN, 9.2, used=9.5)]).predict(SEEN)
    assert dear.context_bytes > cheap.context_bytes + 0.25 * GIB
    assert dear.sd_bytes < predict(LLAMA, 8192, 4, "f16", 512).sd_bytes


def test_one_figure_that_goes_with_no_other_is_not_believed() -> None:
    loads = [Load(8192, slots, num_batch=512) for slots in (1, 2, 4, 8, 12)]
    sizes = [4.9 + slots for slots in (1, 2, 4, 8, 12)]
    right = [trial(load, size) for load, size in zip(loads, sizes, strict=True)]
    wrong = [*right[:2], trial(loads[2], 16.0), *right[3:]]
    straight, bent = (calibrated(LLAMA, seen).predict(Load(8192, 6, num_batch=512)) for seen in (right, wrong))
    assert bent.bytes == pytest.approx(straight.bytes, rel=0.03)
    assert straight.bytes - straight.context_bytes == pytest.approx(10.9 * GIB, rel=0.02)


def test_a_belief_that_goes_with_no_figure_yields() -> None:
    loads = [Load(8192, slots, num_batch=512) for slots in (1, 2, 4, 8)]
    memory = calibrated(LLAMA, [trial(load, 4.9 + 1.3 * load.num_parallel) for load in loads])
    forecast = memory.predict(Load(8192, 12, num_batch=512))
    assert forecast.bytes - forecast.context_bytes == pytest.approx((4.9 + 1.3 * 12) * GIB, rel=0.02)


def test_the_file_s_size_is_not_taken_for_the_load_s() -> None:
    load = Load(8192, 16, num_batch=512)
    after = calibrated(LLAMA, [replace(trial(load, 4.8), fitted=True)]).predict(load)
    assert after.bytes == pytest.approx(predict(LLAMA, 8192, 16, "f16", 512).bytes, rel=0.01)


def test_the_same_trial_again_tells_nothing_new_and_another_does() -> None:
    large = Load(8192, 64, num_batch=512)
    first, fifth = (calibrated(LLAMA, [trial(large, 69.0)] * times).predict(large).sd_bytes for times in (1, 5))
    assert fifth == pytest.approx(first, rel=0.02)
    other = Load(8192, 12, num_batch=512)
    once, again = (calibrated(LLAMA, [trial(SEEN, 9.2)] * times).predict(other).sd_bytes for times in (1, 5))
    both = calibrated(LLAMA, [trial(SEEN, 9.2), trial(Load(8192, 16, num_batch=512), 21.0)]).predict(other).sd_bytes
    assert again == pytest.approx(once, rel=0.02)
    assert both < 0.8 * once


@given(st.permutations(range(4)))
def test_the_order_of_what_fitted_hardly_matters(order: list[int]) -> None:
    seen = [trial(Load(8192, slots, num_batch=512), 5 + slots) for slots in (1, 4, 8, 12)]
    memory = calibrated(LLAMA, [seen[index] for index in order])
    assert memory.mean == pytest.approx(calibrated(LLAMA, seen).mean, abs=1e-3)


def test_what_did_not_fit_needs_more_and_what_fitted_needs_less() -> None:
    load = Load(8192, 17, num_batch=512)
    before = chance(prior(LLAMA), TWO_CARDS, ALONE, load)
    failed = calibrated(LLAMA, [Taken(load, (24 * GIB,), fitted=False)])
    fitted = calibrated(LLAMA, [Taken(load, (24 * GIB,), fitted=True)])
    assert chance(failed, TWO_CARDS, ALONE, load) < before < chance(fitted, TWO_CARDS, ALONE, load)
    assert failed.predict(load).bytes > prior(LLAMA).predict(load).bytes > fitted.predict(load).bytes
    assert chance(failed, TWO_CARDS, ALONE, load) < LEAST_CHANCE


def test_a_window_that_nothing_tells_about_is_uncertain_until_a_trial_tells() -> None:
    known = replace(LLAMA, sliding_window=1024, whole_elements=32 * 2048 // 4, sliding_elements=32 * 2048 * 3 // 4)
    unknown = replace(LLAMA, sliding_window=1024, whole_elements=None, sliding_elements=None)
    load = Load(8192, 8, num_batch=512)
    assert prior(unknown).predict(load).sd_bytes > 3 * prior(known).predict(load).sd_bytes
    true = prior(known).predict(load)
    seen = [trial(one, prior(known).predict(one).bytes / GIB - 0.35) for one in (Load(8192, 2, num_batch=512), load)]
    learnt = calibrated(unknown, seen).predict(replace(load, num_parallel=16))
    assert learnt.bytes == pytest.approx(prior(known).predict(replace(load, num_parallel=16)).bytes, rel=0.03)
    assert learnt.bytes > true.bytes


def test_an_offload_shows_the_weights_of_the_host_too() -> None:
    facts = replace(LLAMA, weights_bytes=7 * GIB, host_weights_bytes=3 * GIB)
    load = Load(8192, 20, num_batch=512)
    before = prior(facts).predict(load)
    size = int(before.bytes - before.context_bytes) + 3 * GIB
    seen = Taken(load, (24 * GIB,), fitted=False, size_bytes=size, size_vram_bytes=size // 2)
    assert calibrated(facts, [seen]).predict(load).bytes == pytest.approx(before.bytes, rel=0.01)


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
    sure = calibrated(LLAMA, [Taken(load, (4 * GIB,), fitted=True) for load in loads])
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
    assert chance(memory, four, "0+1", wide) > LEAST_CHANCE
    assert chance(memory, four, "0 | 1+2", wide) == 0


def test_a_device_holds_whole_layers() -> None:
    there, load = host("AA", 16), Load(512, 1, num_batch=512)
    fine, coarse = (
        replace(LLAMA, weights_bytes=24 * GIB, layers=layers, whole_elements=None, host_weights_bytes=0)
        for layers in (63, 2)
    )
    assert chance(prior(fine), there, "0+1", load) > 0.95
    assert chance(prior(coarse), there, "0+1", load) < LEAST_CHANCE


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
