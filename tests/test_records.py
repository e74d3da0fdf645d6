"""Records survive being stored."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given

from autotune.records import Outcome, RequestRecord, decode, encode
from tests.strategies import records


@given(records())
def test_round_trip_is_exact(record: RequestRecord) -> None:
    assert decode(json.loads(json.dumps(encode(record)))) == record


def test_stamps_keep_every_bit() -> None:
    record = RequestRecord(0, 0.1 + 0.2, Outcome.OK, chunk_times=(1 / 3, 2 / 3, 1e9 + 1e-7))
    assert decode(json.loads(json.dumps(encode(record)))) == record


def test_many_chunks_are_quick() -> None:
    times = tuple(index / 7 for index in range(250_000))
    began = time.perf_counter()
    encoded = encode(RequestRecord(0, 0.0, Outcome.OK, chunk_times=times))
    assert time.perf_counter() - began < 0.1
    assert decode(encoded).chunk_times == times


@pytest.mark.parametrize(
    "change",
    [{"outcome": "splendid"}, {"chunk_times": "no base64!"}, {"chunk_times": "AAAA"}, {"speed": 3}, {"chunk_times": 5}],
)
def test_damage_is_a_value_error(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        decode(encode(RequestRecord(0, 0.0, Outcome.OK)) | change)


def test_missing_parts_are_a_value_error() -> None:
    with pytest.raises(ValueError, match="not the record"):
        decode({"outcome": "ok", "chunk_times": ""})
