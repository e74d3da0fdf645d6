"""The server's own counts tell how long a token is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from autotune.benchmark.calibration import calibrated
from autotune.benchmark.workload import Lengths, SeededWorkload
from autotune.records import Outcome, RequestRecord

if TYPE_CHECKING:
    from autotune.benchmark.flight import Flight


class Counting:
    """A server whose tokens have so many characters; None: it does not count."""

    def __init__(self, chars_per_token: float | None) -> None:
        self.chars_per_token = chars_per_token
        self.texts: list[str] = []

    async def open(self, connections: int) -> int:
        return connections

    async def send(self, flight: Flight) -> RequestRecord:
        self.texts.append(flight.prompt.text)
        count = None if self.chars_per_token is None else round(len(flight.prompt.text) / self.chars_per_token)
        return RequestRecord(0, asyncio.get_running_loop().time(), Outcome.OK, prompt_eval_count=count)


SEEDED = SeededWorkload(1, Lengths("fixed", 100), Lengths("fixed", 10))


@pytest.mark.parametrize("chars_per_token", [1.0, 3.5, 8.0])
async def test_prompts_have_the_tokens_that_were_asked_for(chars_per_token: float) -> None:
    workload = await calibrated(Counting(chars_per_token), SEEDED)
    counted = len(workload.prompt(7, "nonce").text) / chars_per_token
    assert counted == pytest.approx(100, rel=0.05)


async def test_the_prompts_that_were_counted_never_come_again() -> None:
    server = Counting(4.0)
    workload = await calibrated(server, SEEDED)
    assert not {text[:16] for text in server.texts} & {workload.prompt(index, "nonce").text[:16] for index in range(9)}


async def test_without_counts_lengths_stay() -> None:
    assert await calibrated(Counting(None), SEEDED) is SEEDED
