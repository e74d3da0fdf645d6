"""Lets the server count the tokens of a few prompts, so that lengths mean its tokens and no tokenizer is needed."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from autotune.benchmark.flight import Flight, clock
from autotune.benchmark.workload import Workload, calibrate

if TYPE_CHECKING:
    from autotune.benchmark.flight import Client
    from autotune.benchmark.workload import Prompt

PROMPTS = 4

SHORT = 200
"""Characters of the first prompts: long ones, of a model that has a token for each letter, may not fit its context."""

CLOSE, MOST_ROUNDS = 0.05, 4
"""How near is near enough, and how often it is tried: a template adds tokens that are not in proportion to the text."""

Asked = TypeVar("Asked", bound=Workload)


def short(prompt: Prompt) -> Prompt:
    """The beginning of a prompt, that fits wherever anything fits, for an answer of one token."""
    return replace(prompt, text=f"{secrets.token_hex(8)} {prompt.text}"[:SHORT], history=(), num_predict=1)


async def calibrated(client: Client, workload: Asked) -> Asked:
    """The workload with the server's length of a token; the very same one where nothing depends on it or is counted."""
    if workload.chars_per_token is None:
        return workload
    for number in range(MOST_ROUNDS):
        found = await _counted(client, workload, cut=not number)
        if found is None:
            break
        asked, counted = found
        assert workload.chars_per_token is not None
        workload = workload.recalibrated(calibrate(workload.chars_per_token, asked, counted))
        if number and abs(sum(counted) / sum(asked) - 1) < CLOSE:
            break
    return workload


async def _counted(client: Client, workload: Workload, *, cut: bool) -> tuple[list[int], list[int]] | None:
    """Of a few prompts, perhaps cut short, how many tokens they should have and how many the server counts."""
    length, now = workload.chars_per_token, clock()
    assert length is not None
    # a nonce for each: a server that counts only what its cache did not have would make tokens too long
    prompts = [workload.prompt(index, secrets.token_hex(8)) for index in range(PROMPTS)]
    prompts = [short(prompt) if cut else replace(prompt, num_predict=1) for prompt in prompts]
    records = [await client.send(Flight(prompt, now())) for prompt in prompts]
    pairs = [
        (round(prompt.chars / length), record.prompt_eval_count)
        for prompt, record in zip(prompts, records, strict=True)
        if record.prompt_eval_count
    ]
    return ([pair[0] for pair in pairs], [pair[1] for pair in pairs]) if pairs else None
