"""What trials teach of memory: against recordings, and on hosts whose memory is not as it is foreseen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from autotune.belief import Designer, Evidence, Loaded, Mind, Question
from autotune.belief.fit import Fit
from autotune.belief.kernel import HYPOTHESES
from autotune.belief.room import fits
from autotune.errors import SpecError
from autotune.inventory import Device, Inventory
from autotune.space import build, layouts, parse_layout
from autotune.space.sizes import Load
from tests.conftest import study
from tests.memories import GIB, KINDS, LLAMA, MIB, World, world
from tests.simulator.exchange import recorded
from tests.test_forecast import CARD, PLAYED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from autotune.space import ModelFacts, Space

SPEC = study(workload={"num_ctx": 8192, "levels": [20]}, objective={"at": 20})
FIGURES = (Loaded(users=20, tps=100.0),)
SLOTS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32)
TEXTS = ("0", "0 | 1", "0x2 | 1x2", "0+1")


class Searched:
    """One who tries configurations of a space, and what is believed of memory then."""

    def __init__(self, facts: ModelFacts, inventory: Inventory, texts: Sequence[str] = TEXTS) -> None:
        question = Question.of(SPEC, inventory, facts)
        assert question is not None
        choices: dict[str, Any] = {
            "policies": ("least_conn",),
            "kv_cache_type": tuple(KINDS),
            "num_batch": (512, 1024),
            "flash_attention": ("auto", "off"),
        }
        self.space: Space = build(inventory, facts, num_ctx=8192, num_parallel=SLOTS, layouts=texts, **choices)
        self.mind = Mind(question, Designer.of(self.space, len(question.kinds)), HYPOTHESES[1:2])
        self.pool = list(self.space.configurations())
        self.seen: list[Evidence] = []
        self._design = self.mind.design(self.pool)

    @property
    def fit(self) -> Fit:
        """What is believed of the law."""
        law = self.mind.law
        return self.mind.views[0].fit if self.mind.views else Fit(law.mean, np.diag(law.sd**2), 0.0)

    def learn(self, *trials: Evidence) -> None:
        self.seen += trials
        self.mind.learn(self.seen)

    def chances(self) -> Any:
        """[C] that each of the pool fits."""
        return fits(self.mind.law, self.fit, self._design)

    def chance(self, params: Mapping[str, Any]) -> float:
        return float(fits(self.mind.law, self.fit, self.mind.design([params]))[0])

    def starts(self, every: Sequence[Mapping[str, Any]]) -> list[float]:
        """The chances that these can be measured, by what became of all that was tried, too."""
        found: list[float] = self.mind.forecast(self.mind.design(every)).starts.tolist()
        return found

    def size(self, params: Mapping[str, Any]) -> float:
        """Believed of an instance, as Ollama tells it, bytes."""
        return float(self.mind.law.sizing.sizes(self.fit.theta[None], self.mind.design([params]))[0, 0])

    def used(self, params: Mapping[str, Any]) -> float:
        """Believed of the fullest device, with the driver's own, bytes."""
        return float(self.mind.law.sizing.used(self.fit.theta[None], self.mind.design([params]))[0, 0])


def cards(gib: float, count: int = 2) -> Inventory:
    devices = [Device(at, f"GPU-{at}", "nvidia", "Card", int(gib * GIB), "A") for at in range(count)]
    return Inventory("host", tuple(devices))


def params(slots: int, layout: str = "0", cache: str = "f16") -> dict[str, Any]:
    return {
        "layout": layout, "num_parallel": slots, "policy": "least_conn", "flash_attention": "auto",
        "kv_cache_type": cache, "num_batch": 512,
    }  # fmt: skip


def trial(slots: int, gib: float, *, used: float = 0.0) -> Evidence:
    """Of one instance that takes so much."""
    return Evidence(params(slots), FIGURES, full_bytes=gib * GIB, used_bytes=used * GIB or None)


# recordings


def test_one_recorded_trial_tells_another_within_a_fiftieth() -> None:
    searched = Searched(PLAYED, Inventory("host", (Device(0, "GPU-0", "nvidia", "Card", CARD[0], "A"),)), ("0",))
    (model,) = recorded("v0.32.15-gpu", "ps-all-on-gpu").lines[0]["models"]
    searched.learn(Evidence(params(12), FIGURES, full_bytes=float(model["size"])))
    for slots, mib in [(12, 19140), (16, 22980)]:  # the buffer lines in the logs, and what was projected
        assert searched.size(params(slots)) == pytest.approx(mib * MIB, rel=0.02)
    assert searched.chance(params(12)) > 0.5 > searched.chance(params(16))


# one figure, and several


def test_nvml_tells_what_the_driver_takes() -> None:
    dear, cheap = Searched(LLAMA, cards(24)), Searched(LLAMA, cards(24))
    dear.learn(trial(4, 9.2, used=10.2))
    cheap.learn(trial(4, 9.2, used=9.5))
    assert dear.used(params(4)) > cheap.used(params(4)) + 0.25 * GIB
    assert dear.size(params(4)) == pytest.approx(cheap.size(params(4)), rel=0.05)
    assert dear.chance(params(17)) < cheap.chance(params(17))


def test_what_spilled_says_nothing_of_the_device_by_what_is_in_use() -> None:
    known, spilled = Searched(LLAMA, cards(24)), Searched(LLAMA, cards(24))
    known.learn(trial(4, 9.2))
    spilled.learn(trial(4, 9.2), replace(trial(20, 25.0, used=23.9), spilled=True))
    assert spilled.used(params(20)) > 24 * GIB
    assert spilled.chance(params(20)) < 0.1


def test_one_figure_that_goes_with_no_other_is_not_believed() -> None:
    right = [trial(slots, 4.9 + slots) for slots in (1, 2, 4, 8, 12)]
    straight, bent = Searched(LLAMA, cards(24)), Searched(LLAMA, cards(24))
    straight.learn(*right)
    bent.learn(*right[:2], trial(4, 16.0), *right[3:])
    assert bent.size(params(6)) == pytest.approx(straight.size(params(6)), rel=0.03)
    assert straight.size(params(6)) == pytest.approx(10.9 * GIB, rel=0.02)


def test_memory_that_a_knob_takes_is_put_down_to_the_knob() -> None:
    searched, without = Searched(LLAMA, cards(24)), {"flash_attention": "off"}
    for slots in (4, 8, 12):
        more = Evidence({**params(slots), **without}, FIGURES, full_bytes=(5.4 + slots) * GIB)
        searched.learn(trial(slots, 5.0 + slots), more)
    for slots in (4, 16):
        said = searched.size({**params(slots), **without}) - searched.size(params(slots))
        assert 0.2 * GIB < said < 0.5 * GIB
        assert searched.size(params(slots)) == pytest.approx((5.0 + slots) * GIB, rel=0.02)


def test_a_belief_that_goes_with_no_figure_yields() -> None:
    searched = Searched(LLAMA, cards(24))
    told, believed = (4.9 + 1.3 * 12) * GIB, searched.size(params(12))
    searched.learn(*(trial(slots, 4.9 + 1.3 * slots) for slots in (1, 2, 4, 8)))
    assert abs(searched.size(params(12)) - told) < 0.5 * abs(believed - told)


def test_what_did_not_fit_needs_more_and_what_fitted_needs_less() -> None:
    first = trial(1, 5.9)
    before, failed, fitted = (Searched(LLAMA, cards(24)) for _ in range(3))
    before.learn(first)
    failed.learn(first, Evidence(params(16), misfit=True, failed=True))
    fitted.learn(first, Evidence(params(20), FIGURES))
    assert failed.chance(params(17)) < before.chance(params(17)) - 0.3
    assert fitted.chance(params(20)) > 3 * before.chance(params(20))


def test_what_ran_can_be_measured_again_and_so_can_what_needs_less() -> None:
    searched = Searched(LLAMA, cards(24))
    searched.learn(trial(1, 5.9), Evidence(params(20, "0 | 1"), FIGURES))
    less = [params(20, "0 | 1"), params(16, "0 | 1"), params(20, "0 | 1", "q8_0")]
    assert all(one >= 0.95 for one in searched.starts(less))
    assert searched.starts([params(24, "0 | 1"), params(20)]) == pytest.approx(
        [searched.chance(params(24, "0 | 1")), searched.chance(params(20))]
    )


def test_what_ran_on_a_large_card_says_nothing_of_a_small_one() -> None:
    two = (*cards(24, 1).devices, Device(1, "GPU-1", "nvidia", "Small", int(12 * GIB), "B"))
    searched = Searched(LLAMA, Inventory("host", two), ("0", "1"))
    searched.learn(trial(1, 5.9), trial(16, 20.9))
    large, small = searched.starts([params(16), params(16, "1")])
    assert large >= 0.95
    assert small < 0.05


def test_what_was_not_all_on_its_devices_is_no_sign_of_room() -> None:
    searched = Searched(LLAMA, cards(24))
    searched.learn(trial(1, 5.9), Evidence(params(20), FIGURES, spilled=True))
    assert searched.starts([params(20)])[0] < 0.2


# hosts that are not as foreseen


@dataclass
class Tally:
    """How searches fared."""

    hosts: int = 0
    tried: int = 0
    lost: int = 0
    fitting: int = 0
    refused: int = 0


def search(true: World, rng: Random, trials: int, tally: Tally, *, greedy: bool) -> None:
    """Try what is likely enough to fit: anything, or (`greedy`) whatever has the most slots.

    Counted are the trials after the first five, and in the end what would have fitted and is refused.
    """
    every = layouts(true.inventory, [1, 2, 3], [2, 4])
    searched = Searched(true.facts, true.inventory, [str(layout) for layout in every])
    parts = {str(layout): layout.parts for layout in every}
    loads = [
        Load(
            8192,
            int(one["num_parallel"]),
            str(one["kv_cache_type"]),
            int(one["num_batch"]),
            str(one["flash_attention"]),
        )
        for one in searched.pool
    ]
    of = [parts[str(one["layout"])] for one in searched.pool]
    fitting = np.array([all(true.fits(part, load) for part in mine) for mine, load in zip(of, loads, strict=True)])
    slots = np.array([len(searched.space.members(one)) * int(one["num_parallel"]) for one in searched.pool])
    weight = slots if greedy else np.ones(len(slots))
    left = np.ones(len(fitting), dtype=bool)
    for number in range(trials):
        choices = np.flatnonzero((searched.chances() >= 0.5) & left)
        if not len(choices):
            break
        at = rng.choice(choices[weight[choices] >= 0.8 * weight[choices].max()].tolist())
        left[at] = False
        tally.tried += number >= 5
        tally.lost += number >= 5 and not fitting[at]
        if fitting[at]:
            size = max(true.size(part, loads[at]) for part in of[at])
            used = max(true.used(part, loads[at]) for part in of[at]) if true.nvml else None
            searched.learn(Evidence(searched.pool[at], FIGURES, full_bytes=float(size), used_bytes=used))
        else:
            searched.learn(Evidence(searched.pool[at], misfit=True, failed=True))
    refused = searched.chances() < 0.5
    tally.hosts += 1
    tally.fitting += int(fitting.sum())
    tally.refused += int((fitting & refused & left).sum())


@pytest.mark.parametrize("greedy", [False, True])
def test_hardly_a_trial_is_lost_to_a_misfit_and_hardly_a_fit_is_refused(greedy: bool) -> None:
    """Of hosts whose weights, caches and buffers are off by up to 15 %, half of them keeping all logits or none."""
    tally = Tally()
    for seed in range(48):
        rng = Random(seed)
        true = world(rng, logits=() if seed % 2 else (0.02, 1.0))
        try:
            search(replace(true, nvml=seed % 4 < 2), rng, 12, tally, greedy=greedy)
        except SpecError:  # not even one slot fits, certainly
            assert not any(
                true.fits(part, Load(8192, 1, "q4_0", 512)) for part in parse_layout("0", true.inventory).parts
            )
    print(f"\nlost {tally.lost} of {tally.tried} trials; refused {tally.refused} of {tally.fitting} that had fitted")
    assert tally.hosts > 36
    assert tally.tried > 250
    assert tally.lost <= tally.tried / 20
    assert tally.refused <= tally.fitting / 20
