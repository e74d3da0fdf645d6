"""The server's own counts tell how long a token is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from autotune.benchmark.calibration import calibrated
from autotune.benchmark.workload import JsonlWorkload, Lengths, Prefixes, SeededWorkload, ShareGptWorkload, make
from autotune.records import Outcome, RequestRecord

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.benchmark.flight import Flight
    from autotune.benchmark.watch import Pulse
    from autotune.benchmark.workload import Workload


class Counting:
    """A server whose tokens have so many characters; None: it does not count."""

    lead_s = 0.0

    def __init__(self, chars_per_token: float | None, template: int = 0, context: int = 1 << 20) -> None:
        self.chars_per_token = chars_per_token
        self.template = template
        """Tokens that each prompt has besides its text."""
        self.context = context
        """Tokens at which it cuts a prompt off."""
        self.texts: list[str] = []

    async def pulse(self) -> tuple[Pulse, ...]:
        return ()

    async def open(self, connections: int) -> int:
        return connections

    async def send(self, flight: Flight) -> RequestRecord:
        said = [text for _, text in flight.prompt.history]
        self.texts.append("".join([*said, flight.prompt.text]))
        at, count = asyncio.get_running_loop().time(), None
        if self.chars_per_token is not None:
            count = min(self.context, self.template + round(len(self.texts[-1]) / self.chars_per_token))
        return RequestRecord(0, at, Outcome.OK, prompt_eval_count=count)


ANSWERED = Lengths("fixed", 10)
SEEDED = SeededWorkload(1, Lengths("fixed", 100), ANSWERED)


@pytest.mark.parametrize("chars_per_token", [1.0, 3.5, 8.0])
async def test_prompts_have_the_tokens_that_were_asked_for(chars_per_token: float) -> None:
    workload = await calibrated(Counting(chars_per_token), SEEDED)
    counted = len(workload.prompt(7, "nonce").text) / chars_per_token
    assert counted == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize(("template", "tokens"), [(30, 100), (45, 100), (500, 4000)])
async def test_a_template_is_a_part_of_the_prompt(template: int, tokens: int) -> None:
    workload = await calibrated(Counting(1.0, template), SeededWorkload(1, Lengths("fixed", tokens), ANSWERED))
    assert template + len(workload.prompt(7, "nonce").text) == pytest.approx(tokens, rel=0.1)


async def test_a_context_that_is_short_for_the_first_guess() -> None:
    """A token for each letter: what should have 200 tokens has 1,200, and the server cuts it to its 512."""
    workload = await calibrated(Counting(1.0, 20, 512), SeededWorkload(1, Lengths("fixed", 200), ANSWERED))
    assert 20 + len(workload.prompt(7, "nonce").text) == pytest.approx(200, rel=0.1)


async def test_the_prompts_that_were_counted_never_come_again() -> None:
    server = Counting(4.0)
    workload = await calibrated(server, SEEDED)
    assert not {text[:16] for text in server.texts} & {workload.prompt(index, "nonce").text[:16] for index in range(9)}


async def test_without_counts_lengths_stay() -> None:
    assert await calibrated(Counting(None), SEEDED) is SEEDED


ASKED = Lengths("lognormal", 100)


@pytest.mark.parametrize(
    "workload",
    [
        make(1, ANSWERED, ASKED, prefixes=Prefixes(2, 40)),
        make(1, ANSWERED, ASKED, turns=4),
        ShareGptWorkload((("Why is the sky blue? " * 20, 90),)),
    ],
)
async def test_the_length_of_a_token_is_found_whatever_is_asked(workload: Workload) -> None:
    server = Counting(2.5)
    assert (await calibrated(server, workload)).chars_per_token == pytest.approx(2.5, rel=0.01)
    assert len({text[:16] for text in server.texts}) == len(server.texts)  # nothing of them was in a cache


async def test_where_no_length_depends_on_it_nothing_is_counted(tmp_path: Path) -> None:
    (tmp_path / "prompts").write_text('{"prompt": "Why?"}')
    workload, server = JsonlWorkload(tmp_path / "prompts", ANSWERED), Counting(2.5)
    assert await calibrated(server, workload) is workload
    assert workload.recalibrated(2.0) is workload
    assert server.texts == []
