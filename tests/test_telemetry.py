"""GPU samples through a stand-in for NVML."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from autotune.errors import ClusterError, DeviceLost
from autotune.inventory import Device, Inventory, discover
from autotune.inventory.nvml import session
from autotune.telemetry import DeviceSample, snapshot
from tests.nvml import stub as nvml

if TYPE_CHECKING:
    from tests.nvml.stub import Stub

stub_folder, stub = nvml.stub_folder_fixture, nvml.stub_fixture


def cards(count: int) -> Inventory:
    return Inventory(
        "host", tuple(Device(i, f"card-{i}", "nvidia", f"Card {i}", 22 * 2**30, "Card") for i in range(count))
    )


def while_it_heats_up(inventory: Inventory, state: str) -> list[DeviceSample]:
    """Two samples within one session of NVML, the second after the card got hot."""
    with session():
        cold = snapshot(inventory)
        Path(state).write_text("card uuid=card-0 temp=91 reasons=0x68 pid=1:8000")
        return [*cold, *snapshot(inventory)]


def test_a_sample_has_every_figure(stub: Stub) -> None:
    stub.tell("card uuid=card-0\ncard uuid=card-1 temp=71 reasons=0x4 pid=1:8000")
    idle, busy = stub.call(snapshot, cards(2))
    assert busy == DeviceSample(
        device=1,
        temperature_c=71,
        sm_clock_mhz=1200,
        memory_used_bytes=8000 * 2**20,
        power_w=250.5,
        utilisation=0.97,
        throttle_reasons=("sw_power_cap",),
        throttled=False,
        energy_j=7500.0,
    )
    assert (idle.device, idle.utilisation, idle.throttle_reasons, idle.throttled) == (0, 0.0, ("idle",), False)


@pytest.mark.parametrize(
    ("bits", "throttled"),
    [(0x0, False), (0x1, False), (0x4, False), (0x8, True), (0x20, True), (0x40, True), (0x80, True), (0x44, True)],
)
def test_heat_and_weak_power_supplies_throttle_a_power_limit_does_not(stub: Stub, bits: int, throttled: bool) -> None:
    stub.tell(f"card uuid=card-0 reasons={bits:#x}")
    (sample,) = stub.call(snapshot, cards(1))
    assert sample.throttled is throttled
    assert len(sample.throttle_reasons) == bits.bit_count()


def test_each_sample_is_fresh(stub: Stub) -> None:
    stub.tell("card uuid=card-0 temp=35")
    cold, hot = stub.call(while_it_heats_up, cards(1), str(stub.state))
    assert (cold.temperature_c, cold.throttled) == (35, False)
    assert (hot.temperature_c, hot.throttled) == (91, True)
    assert hot.throttle_reasons == ("hw_slowdown", "sw_thermal", "hw_thermal")


def test_an_old_driver_tells_the_same_under_older_names(stub: Stub) -> None:
    stub.tell("old\ncard uuid=card-0 reasons=0x40 used=1000")
    (sample,) = stub.call(snapshot, cards(1))
    assert sample.throttle_reasons == ("hw_thermal",)
    assert sample.memory_used_bytes >= 1000 * 2**20


@pytest.mark.parametrize("state", ["card uuid=card-0 lost", "card uuid=another"])
def test_a_lost_card_is_an_error_that_names_it(stub: Stub, state: str) -> None:
    stub.tell(state)
    with pytest.raises(DeviceLost, match=r"device 0 \(Card 0, card-0\)") as caught:
        stub.call(snapshot, cards(1))
    assert caught.value.device == "card-0"


@pytest.mark.parametrize("code", [16, 999])
def test_a_card_that_answers_no_more_is_as_good_as_lost(stub: Stub, code: int) -> None:
    stub.tell(f"card uuid=card-0\ncard uuid=card-1 fails={code}")
    with pytest.raises(DeviceLost, match=r"device 1 \(Card 1, card-1\) answers no more: NVML says") as caught:
        stub.call(snapshot, cards(2))
    assert caught.value.device == "card-1"


def test_without_a_driver_or_a_card_there_is_nothing_to_sample(stub: Stub) -> None:
    stub.tell("init 12")
    assert stub.call(snapshot, cards(1)) == ()
    assert snapshot(discover("cpu")) == ()
    assert snapshot(Inventory("rehearsal", cards(1).devices, simulated=True)) == ()


def test_a_broken_driver_is_told(stub: Stub) -> None:
    stub.tell("init 999")
    with pytest.raises(ClusterError, match="Unknown Error"):
        stub.call(snapshot, cards(1))


def test_samples_can_be_written_down(stub: Stub) -> None:
    samples = [asdict(sample) for sample in stub.call(snapshot, stub.call(discover, "gpu"))]
    assert json.loads(json.dumps(samples))[3]["device"] == 3
