"""Profiles, memory, environment: the pure rest."""

from __future__ import annotations

import random
from itertools import islice, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import SpecError
from autotune.simulator import environment, words
from autotune.simulator.environment import address, boolean, duration_s, go_duration, read, visible
from autotune.simulator.memory import Ask, OutOfMemory, choose, place
from autotune.simulator.profiles import MIB, SHIPPED, load_profile, shipped_profiles

DEPLOYMENT = load_profile("4x-rtx2080ti")
FREE = {device.uuid: device.usable_bytes for device in DEPLOYMENT.devices}
FIRST, *_ = FREE


def test_the_shipped_profiles_load() -> None:
    assert shipped_profiles() == ["2x-small", "4x-rtx2080ti"]
    for name in shipped_profiles():
        assert load_profile(name).name == name
    assert [device.uuid for device in DEPLOYMENT.devices] == [
        f"GPU-2080000{i}-0000-4000-8000-00000000000{i}" for i in range(4)
    ]
    assert sum(device.memory_bytes for device in DEPLOYMENT.devices) == 88 << 30


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name = ", "cannot be read"),
        ("name = 'x'", "models: Field required"),
        ("name = 'x'\ntime_scale = 0", "time_scale = 0: Input should be greater than 0"),
        ("name = 'x'\ntime_scale = inf", "time_scale = inf: Input should be a finite number"),
        ("name = 'x'\nspeed = 3", "speed = 3: Extra inputs are not permitted"),
    ],
)
def test_a_bad_profile_is_one_clear_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text + "\n")
    with pytest.raises(SpecError) as caught:
        load_profile(path)
    assert str(path) in caught.value.message
    assert complaint in caught.value.message or "models" in caught.value.message
    assert "\n" not in caught.value.message


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((SHIPPED / "2x-small.toml").read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert load_profile(path) == load_profile("2x-small")


@pytest.mark.parametrize(
    ("figure", "complaint"),
    [
        ("load_s = 1e12", "models.0.load_s = 1000000000000.0: Input should be less than or equal to 3600"),
        ("step_base_s = -0.01", "models.0.step_base_s = -0.01: Input should be greater than or equal to 0"),
        ("prefill_tps = 1e-9", "models.0.prefill_tps = 1e-09: Input should be greater than or equal to 0.001"),
        ("memory_mib = 4000000000000", "devices.0.memory_mib = 4000000000000: Input should be less than or equal to"),
        ("reserved_mib = 30000", "devices.0: reserved_mib = 30000 leaves nothing of memory_mib = 22528"),
        ("speed = 1e-9", "devices.0.speed = 1e-09: Input should be greater than or equal to 0.001"),
        ("life_jitter = 40.0", "host.life_jitter = 40.0: Input should be less than or equal to 2"),
    ],
)
def test_no_host_has_such_a_figure(tmp_path: Path, figure: str, complaint: str) -> None:
    text = (SHIPPED / "4x-rtx2080ti.toml").read_text()
    name, _, _ = figure.partition(" = ")
    tables = {"devices": "[[devices]]", "models": "[[models]]", "host": "[host]"}
    table = tables[complaint.partition(".")[0].partition(":")[0]]
    head, first, rest = text.partition(table)
    body, mark, others = rest.partition("\n[")
    kept = "".join(line for line in body.splitlines(keepends=True) if not line.startswith(f"{name} "))
    path = tmp_path / "mine.toml"
    path.write_text(f"{head}{first}\n{figure}\n{kept}{mark}{others}")
    with pytest.raises(SpecError) as caught:
        load_profile(path)
    assert caught.value.message.startswith(f"{path}: {complaint}")
    assert "\n" not in caught.value.message


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"'8x-h100'.*2x-small, 4x-rtx2080ti"):
        load_profile("8x-h100")


@given(
    slots=st.integers(1, 64),
    num_ctx=st.sampled_from([1024, 4096, 8192, 32768]),
    kv_type=st.sampled_from(["", "q8_0", "q4_0"]),
)
def test_what_is_placed_fits_and_nothing_is_lost(slots: int, num_ctx: int, kv_type: str) -> None:
    ask = Ask(DEPLOYMENT.model(), num_ctx * slots, kv_type)
    placed = place(ask, choose(ask, FREE, spread=False), FREE, DEPLOYMENT.host, fit=True, margin_bytes=1024 * MIB)
    assert all(placed.taken[uuid] <= FREE[uuid] for uuid in placed.layers)
    assert sum(placed.shares.values()) == pytest.approx(1)
    assert 0 < placed.vram_bytes <= placed.size_bytes
    whole = placed.on_devices == ask.model.all_layers
    assert whole == (placed.vram_bytes == placed.size_bytes)


def test_a_load_that_fits_one_device_takes_one_and_a_larger_one_is_spread() -> None:
    small = Ask(DEPLOYMENT.model(), 4096)
    large = Ask(DEPLOYMENT.model(), 32768 * 16)
    assert choose(small, FREE, spread=False) == (FIRST,)
    assert choose(small, FREE, spread=True) == tuple(FREE)
    assert choose(large, FREE, spread=False) == tuple(FREE)
    spread = place(large, tuple(FREE), FREE, DEPLOYMENT.host, fit=True, margin_bytes=0)
    assert sorted(spread.layers.values()) == [9, 9, 9, 9]


def test_the_fuller_device_is_passed_over() -> None:
    second = list(FREE)[1]
    assert choose(Ask(DEPLOYMENT.model(), 4096), FREE | {second: 2**50}, spread=False) == (second,)


def test_a_smaller_cache_type_keeps_more_layers() -> None:
    layers = [
        place(Ask(DEPLOYMENT.model(), 2**19, kv), (FIRST,), FREE, DEPLOYMENT.host, fit=True, margin_bytes=0).on_devices
        for kv in ("f16", "q8_0", "q4_0")
    ]
    assert layers == sorted(layers)
    assert layers[0] < 36
    assert layers[2] == 36


def test_without_fit_what_does_not_fit_fails() -> None:
    with pytest.raises(OutOfMemory):
        place(Ask(DEPLOYMENT.model(), 2**20), (FIRST,), FREE, DEPLOYMENT.host, fit=False, margin_bytes=0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ("127.0.0.1", 11434)), ("127.0.0.1:9000", ("127.0.0.1", 9000)), ("0.0.0.0", ("0.0.0.0", 11434)),
        ("http://10.0.0.1", ("10.0.0.1", 80)), ("https://host/path", ("host", 443)), (":11435", ("", 11435)),
        ("[::1]:9", ("::1", 9)), ("::1", ("::1", 11434)), ("host:99999", ("host", 11434)),
    ],
)  # fmt: skip
def test_addresses(value: str, expected: tuple[str, int]) -> None:
    assert address(value) == expected


def test_values_are_read_as_go_reads_them() -> None:
    assert [boolean(word) for word in ("", "1", "0", "false", "yes", "off")] == [None, True, False, False, True, True]
    assert [duration_s(word) for word in ("5m", "1h2m3.5s", "-1", "90", "250ms", "soon")] == [
        300,
        3723.5,
        -1,
        90,
        0.25,
        None,
    ]
    assert [go_duration(s) for s in (300, 3723.5, 0.25, 0.000157, 0)] == ["5m0s", "1h2m3.5s", "250ms", "157µs", "0s"]
    assert go_duration(environment.FOREVER_S) == "2562047h47m16.854775807s"


def test_the_environment() -> None:
    settings = read({
        "HOME": "/h", "OLLAMA_NUM_PARALLEL": ' "8" ', "OLLAMA_MAX_QUEUE": "-3", "OLLAMA_KEEP_ALIVE": "-1",
        "LLAMA_ARG_FIT": "off", "AUTOTUNE_SIM_FAULT": "load_fails, die_under_load:3",
    })  # fmt: skip
    assert (settings.num_parallel, settings.max_queue, settings.fit) == (8, 512, False)
    assert settings.keep_alive_s == environment.FOREVER_S
    assert settings.models == Path("/h/.ollama/models")
    assert (settings.faults.load_fails, settings.faults.die_under_load) == (True, 3)
    assert read({"OLLAMA_NUM_PARALLEL": "0"}).num_parallel == 1


@pytest.mark.parametrize("variables", [{"AUTOTUNE_SIM_TIME_SCALE": "fast"}, {"AUTOTUNE_SIM_FAULT": "explode"}])
def test_our_own_variables_do_not_forgive(variables: dict[str, str]) -> None:
    with pytest.raises(SpecError, match=next(iter(variables))):
        read(variables)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        ("1,-1,2", [1]),
        (FIRST, [0]),
        ("GPU-20800003", [3]),
        ("7", []),
    ],
)
def test_visible_devices(selection: str | None, expected: list[int]) -> None:
    shown = [device for _, device in visible(DEPLOYMENT.devices, selection)]
    assert shown == [DEPLOYMENT.devices[i] for i in expected]


@given(st.integers())
def test_no_word_comes_twice_in_a_row(seed: int) -> None:
    said = list(islice(words.choices(random.Random(seed)), 200))
    assert all(one != other for one, other in pairwise(said))


def test_prompts_are_counted_and_cut() -> None:
    assert words.count_tokens("x" * 40, 1024) == 11
    assert words.count_tokens("x" * 40000, 1024) == 514
