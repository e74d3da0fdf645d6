"""Lets the server count the tokens of a few prompts, so that lengths mean its tokens and no tokenizer is needed."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from autotune.benchmark.flight import Flight, clock
from autotune.benchmark.workload import Workload, calibrate

if TYPE_CHECKING:
    from autotune.benchmark.flight import Client

PROMPTS = 4

Asked = TypeVar("Asked", bound=Workload)


async def calibrated(client: Client, workload: Asked) -> Asked:
    """The workload with the server's length of a token; the very same one where nothing depends on it or is counted."""
    length, now = workload.chars_per_token, clock()
    if length is None:
        return workload
    # a nonce for each: a server that counts only what its cache did not have would make tokens too long
    prompts = [replace(workload.prompt(index, secrets.token_hex(8)), num_predict=1) for index in range(PROMPTS)]
    records = [await client.send(Flight(prompt, now())) for prompt in prompts]
    pairs = [
        (round(prompt.chars / length), record.prompt_eval_count)
        for prompt, record in zip(prompts, records, strict=True)
        if record.prompt_eval_count
    ]
    if not pairs:
        return workload
    asked, counted = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return workload.recalibrated(calibrate(length, asked, counted))
