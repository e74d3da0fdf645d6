"""Workloads that are meant to find the prompt cache: what prompts of one trial share, and that trials share nothing."""

from __future__ import annotations

import json
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.benchmark.workload import (
    ConversationWorkload,
    Lengths,
    Prefixes,
    PrefixWorkload,
    Prompt,
    PromptFile,
    SeededWorkload,
    Workload,
    make,
)
from autotune.benchmark.workload.trace import BLOCK_TOKENS
from autotune.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

ASKED, ANSWERED = Lengths("lognormal", 300), Lengths("normal", 100)
indices = st.integers(0, 10_000)


def shared(one: Prompt, other: Prompt) -> int:
    """How many characters both begin with."""
    pairs = zip(one.text, other.text, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def test_others_find_nothing_in_the_cache() -> None:
    workload = make(1, ANSWERED, ASKED, correlation=0.5)
    assert isinstance(workload, SeededWorkload)
    assert (workload.cached, workload.stamps) == ("", ())


# shared prefixes


def prefixed(count: int = 4, tokens: int = 100) -> PrefixWorkload:
    workload = make(1, ANSWERED, ASKED, prefixes=Prefixes(count, tokens))
    assert isinstance(workload, PrefixWorkload)
    return workload


def test_prompts_begin_with_one_of_a_few_texts_and_share_nothing_more() -> None:
    workload = prefixed()
    prompts = [workload.prompt(index, "n") for index in range(80)]
    size = round(100 * workload.chars_per_token)
    beginnings = {prompt.text[:size] for prompt in prompts}
    assert len(beginnings) == len({beginning[:16] for beginning in beginnings}) == 4
    assert len({prompt.text[: size + 16] for prompt in prompts}) == 80
    assert all(beginning.endswith(" ") for beginning in beginnings)
    assert workload.cached == "4 shared prefixes of 100 tokens"
    assert prefixed(1).cached == "1 shared prefix of 100 tokens"


@given(indices)
def test_trials_share_no_prefix_and_differ_in_nonces_alone(index: int) -> None:
    one, other = prefixed().prompt(index, "trial 1"), prefixed().prompt(index, "trial 2")
    size = round(100 * prefixed().chars_per_token)
    assert one.text[:16] != other.text[:16]
    assert one.text[16:size] == other.text[16:size]
    assert one.text[size : size + 16] != other.text[size : size + 16]
    assert one.text[size + 16 :] == other.text[size + 16 :]
    assert one.num_predict == other.num_predict


@given(indices, st.floats(2, 8))
def test_a_prefix_is_a_part_of_the_prompts_length(index: int, chars_per_token: float) -> None:
    workload = prefixed().recalibrated(chars_per_token)
    whole = len(workload.plain.prompt(index, "n").text)
    assert len(workload.prompt(index, "n").text) == max(whole, round(100 * chars_per_token) + 17)


# the blocks of a trace


def blocks(folder: Path, *rows: tuple[int, list[int]]) -> Workload:
    path = folder / "trace.jsonl"
    lines = [
        {"timestamp": at, "input_length": length, "output_length": 5, "hash_ids": ids}
        for at, (length, ids) in enumerate(rows)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return make(1, None, file=PromptFile(path, "mooncake"))


def test_prompts_share_the_text_of_the_blocks_with_which_they_begin(tmp_path: Path) -> None:
    workload = blocks(
        tmp_path, (1500, [1, 2, 3]), (1300, [1, 2, 4]), (900, [5, 2]), (1500, [1, 2, 3]), (1100, [1, 2, 3])
    )
    assert workload.chars_per_token is not None
    first, second, third, again, shorter = (workload.prompt(index, "n") for index in range(5))
    size = BLOCK_TOKENS * workload.chars_per_token
    assert 2 * size - 1 <= shared(first, second) < 2 * size + 20
    assert shared(first, third) == 0
    assert first.text == again.text
    assert first.text.startswith(shorter.text)
    assert len(first.text) == round(1500 * workload.chars_per_token)
    assert workload.cached == "shared blocks of 512 tokens"


def test_trials_and_rounds_of_a_trace_share_no_block(tmp_path: Path) -> None:
    workload = blocks(tmp_path, (1200, [1, 2, 3]), (1300, [1, 2, 4]))
    starts = {workload.prompt(index, nonce).text[:16] for index in (0, 2) for nonce in ("trial 1", "trial 2")}
    assert len(starts) == 4
    assert workload.prompt(0, "trial 1").text[16:] == workload.prompt(2, "trial 2").text[16:]


def test_what_no_block_covers_is_the_requests_own(tmp_path: Path) -> None:
    workload = blocks(tmp_path, (1200, [1]), (1200, [1]), (300, []), (2, [9]), (2, []))
    prompts = [workload.prompt(index, "n") for index in range(5)]
    assert workload.chars_per_token is not None
    assert 0 <= shared(prompts[0], prompts[1]) - round(BLOCK_TOKENS * workload.chars_per_token) < 5
    assert [len(prompt.text) for prompt in prompts[:3]] == [
        round(tokens * workload.chars_per_token) for tokens in (1200, 1200, 300)
    ]
    assert [len(prompt.text) for prompt in prompts[3:]] == [17, 17]


# conversations


def talking(turns: int = 3, **changes: Any) -> ConversationWorkload:
    workload = make(1, ANSWERED, ASKED, turns=turns, **changes)
    assert isinstance(workload, ConversationWorkload)
    return workload


def says(prompt: Prompt) -> list[tuple[str, str]]:
    return [*prompt.history, ("user", prompt.text)]


@given(st.integers(0, 500), st.integers(0, 40))
def test_a_turn_goes_on_from_the_one_before_or_begins_anew(user: int, number: int) -> None:
    workload = talking()
    now, then = (workload.prompt(workload.index(user, at), "n") for at in (number, number + 1))
    assert now.index != then.index
    if then.history:
        assert then.history[:-1] == tuple(says(now))
        assert then.history[-1][0] == "assistant"
        assert len(then.history[-1][1]) == round(now.num_predict * workload.chars_per_token)
    else:
        assert len(now.history) == 2 * 2
        assert now.history[0][1][:16] != then.text[:16]


@given(st.integers(0, 500), st.integers(0, 40))
def test_conversations_of_two_trials_differ_in_the_nonce_alone(user: int, number: int) -> None:
    workload = talking()
    one, other = (says(workload.prompt(workload.index(user, number), nonce)) for nonce in ("trial 1", "trial 2"))
    assert one[0][1][:16] != other[0][1][:16]
    assert one[0][1][16:] == other[0][1][16:]
    assert one[1:] == other[1:]


def test_users_are_found_in_the_middle_of_conversations_of_their_own() -> None:
    workload = talking(4)
    first = [workload.prompt(workload.index(user, 0), "n") for user in range(60)]
    assert {len(prompt.history) for prompt in first} == {0, 2, 4, 6}
    assert len({says(prompt)[0][1][:16] for prompt in first}) == 60
    assert workload.cached == "conversations of 4 turns"
    assert workload.stamps == ()


def test_a_message_has_its_length() -> None:
    workload = make(1, ANSWERED, Lengths("fixed", 50), turns=2)
    prompts = [workload.recalibrated(4.0).prompt(index, "n") for index in range(20)]
    assert {len(text) for prompt in prompts for role, text in says(prompt) if role == "user"} == {200}
    assert all(prompt.chars == sum(len(text) for _, text in says(prompt)) for prompt in prompts)


def test_prefixes_or_conversations() -> None:
    with pytest.raises(SpecError, match="one of the two"):
        make(1, ANSWERED, ASKED, turns=2, prefixes=Prefixes(1, 10))
