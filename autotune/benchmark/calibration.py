"""Lets the server count the tokens of a few prompts, so that lengths mean its tokens and no tokenizer is needed."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from autotune.benchmark.flight import Flight
from autotune.benchmark.workload import calibrate

if TYPE_CHECKING:
    from autotune.benchmark.flight import Client
    from autotune.benchmark.workload import SeededWorkload

PROMPTS = 4


async def calibrated(client: Client, workload: SeededWorkload) -> SeededWorkload:
    """The workload with the server's length of a token; the very same one where the server does not count."""
    nonce, now = secrets.token_hex(8), asyncio.get_running_loop().time
    prompts = [replace(workload.prompt(index, nonce), num_predict=1) for index in range(PROMPTS)]
    records = [await client.send(Flight(prompt, now())) for prompt in prompts]
    pairs = [
        (round(len(prompt.text) / workload.chars_per_token), record.prompt_eval_count)
        for prompt, record in zip(prompts, records, strict=True)
        if record.prompt_eval_count
    ]
    if not pairs:
        return workload
    asked, counted = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return replace(workload, chars_per_token=calibrate(workload.chars_per_token, asked, counted))
