"""Files of prompts in the formats that others write: what is taken from them, and what is said of a bad one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune import night
from autotune.benchmark.workload import (
    ConversationWorkload,
    Lengths,
    PrefixWorkload,
    PromptFile,
    SeededWorkload,
    ShareGptWorkload,
    TraceWorkload,
    Workload,
    make,
    reading,
)
from autotune.benchmark.workload.reading import members
from autotune.errors import SpecError
from tests.conftest import study

if TYPE_CHECKING:
    from pathlib import Path

AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,879,55
"""
BURSTGPT = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,API log
"""
MOONCAKE = """\
{"timestamp": 1000, "input_length": 1200, "output_length": 52, "hash_ids": [46, 47, 48]}
{"timestamp": 4500, "input_length": 1100, "output_length": 26, "hash_ids": [46, 47, 49]}
{"timestamp": 2000, "input_length": 40, "output_length": 5, "hash_ids": [7]}
"""
TALKS: list[dict[str, Any]] = [
    {
        "id": "a",
        "conversations": [{"from": "human", "value": "Why is the sky blue?"}, {"from": "gpt", "value": "It is. " * 40}],
    },
    {"id": "b", "conversations": [{"from": "gpt", "value": "Hello!"}]},
    {"id": "c", "conversations": []},
    {
        "id": "d",
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "Und Grüße\u2028?"},
            {"from": "gpt", "value": "Ja."},
            {"from": "human", "value": "Why?"},
        ],
    },
]
FILES = {"azure": AZURE, "burstgpt": BURSTGPT, "mooncake": MOONCAKE, "sharegpt": json.dumps(TALKS, indent=1)}


def written(folder: Path, text: str) -> Path:
    path = folder / "prompts"
    path.write_text(text, encoding="utf-8")
    return path


def made(folder: Path, kind: Any, text: str = "", context: int | None = None, longest: int | None = None) -> Workload:
    path = written(folder, text or FILES[kind])
    return make(1, Lengths("fixed", longest) if longest else None, file=PromptFile(path, kind, context))


def complaint(folder: Path, kind: Any, text: str) -> str:
    with pytest.raises(SpecError) as caught:
        made(folder, kind, text)
    assert "\n" not in caught.value.message
    assert caught.value.message.startswith(str(folder / "prompts"))
    return caught.value.message.removeprefix(str(folder / "prompts"))


# what is taken


@pytest.mark.parametrize(
    ("kind", "lengths", "stamps"),
    [
        ("azure", [(374, 44), (396, 109), (879, 55)], [0, 4.314579, 4.541877]),
        ("burstgpt", [(472, 18), (417, 276)], [0, 113]),  # the one that failed is not there
        ("mooncake", [(1200, 52), (40, 5), (1100, 26)], [0, 1, 3.5]),  # in the order of its times
    ],
)
def test_a_trace_has_its_lengths_and_times(
    tmp_path: Path, kind: str, lengths: list[tuple[int, int]], stamps: list[float]
) -> None:
    workload = made(tmp_path, kind)
    assert workload.chars_per_token is not None
    prompts = [workload.prompt(index, "n") for index in range(len(lengths))]
    assert [(round(len(one.text) / workload.chars_per_token), one.num_predict) for one in prompts] == lengths
    assert workload.stamps == pytest.approx(stamps, abs=1e-5)
    assert isinstance(workload, TraceWorkload)
    assert workload.left_out == (kind == "burstgpt")


def test_a_zone_in_a_time_is_heard(tmp_path: Path) -> None:
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00+00:00,1,1\n2024-05-10 02:00:05+02:00,1,1\n"
    assert made(tmp_path, "azure", text).stamps == (0, 5)


def test_columns_may_stand_in_any_order_among_others(tmp_path: Path) -> None:
    text = "Session ID, Response tokens,Request tokens,Timestamp\nx,3,2,1.5\n"
    workload = made(tmp_path, "burstgpt", text)
    assert workload.prompt(0, "n").num_predict == 3


def test_the_first_question_is_asked_and_its_answers_length_kept(tmp_path: Path) -> None:
    workload = made(tmp_path, "sharegpt")
    assert isinstance(workload, ShareGptWorkload)
    assert (len(workload.entries), workload.left_out) == (2, 2)
    first, second, third = (workload.prompt(index, "n") for index in range(3))
    assert (first.text[17:], first.num_predict) == ("Why is the sky blue?", 70)
    assert (second.text[17:], second.num_predict) == ("Und Grüße\u2028?", 1)
    assert third.text[17:] == first.text[17:]
    assert third.text[:16] != first.text[:16]
    assert workload.recalibrated(2.0).prompt(0, "n").num_predict == 140


@pytest.mark.parametrize(("kind", "context", "kept"), [("azure", 450, 2), ("mooncake", 100, 1), ("sharegpt", 20, 1)])
def test_what_does_not_fit_is_left_out_and_counted(tmp_path: Path, kind: str, context: int, kept: int) -> None:
    workload = made(tmp_path, kind, context=context, longest=50)
    assert isinstance(workload, TraceWorkload | ShareGptWorkload)
    entries = workload.rows if isinstance(workload, TraceWorkload) else workload.entries
    assert len(entries) == kept
    assert workload.left_out > 0
    assert max(workload.prompt(index, "n").num_predict for index in range(9)) <= 50


@pytest.mark.parametrize("kind", list(FILES))
def test_nothing_fits(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(SpecError, match=r"none of its \d .* that together fit into 3 tokens"):
        made(tmp_path, kind, context=3, longest=50)


@pytest.mark.parametrize("kind", [*FILES, "jsonl"])
def test_equal_bodies_in_every_trial_and_a_fresh_nonce(tmp_path: Path, kind: str) -> None:
    text = FILES.get(kind, '{"prompt": "a", "num_predict": 2}\n{"prompt": "b", "num_predict": 4}')
    one, other = (made(tmp_path, kind, text, longest=1000) for _ in range(2))
    for index in range(8):
        first, second = one.prompt(index, "trial 1"), other.prompt(index, "trial 2")
        assert first.text[16:] == second.text[16:]
        assert first.text[:16] != second.text[:16]
        assert first.num_predict == second.num_predict
    if kind != "mooncake":
        assert one.cached == ""
        assert len({one.prompt(index, "trial 1").text[:16] for index in range(8)}) == 8


def test_no_more_is_read_than_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("texts", "trace"):
        monkeypatch.setattr(f"autotune.benchmark.workload.{module}.MOST", 2)
    monkeypatch.setattr(reading, "PIECE", 64)
    assert len(made(tmp_path, "azure", AZURE + "no row at all").stamps) == 2
    workload = made(tmp_path, "sharegpt", json.dumps(TALKS[:1] * 3) + "no JSON")
    assert isinstance(workload, ShareGptWorkload)
    assert len(workload.entries) == 2


values = st.recursive(
    st.none() | st.text('a[]{},"\\ \nü'), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner)
)


@settings(max_examples=40)
@given(st.lists(values.filter(lambda value: value is not None), max_size=6), st.sampled_from([None, 1]))
def test_members_of_a_list_come_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, expected: list[Any], indent: int | None
) -> None:
    path = written(tmp_path_factory.getbasetemp(), f"\n {json.dumps(expected, indent=indent)}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PIECE", 3)
        assert [value for _, value in members(path, "")] == expected


# what is said of a bad one


@pytest.mark.parametrize(
    ("kind", "old", "new", "words"),
    [
        ("azure", "ContextTokens", "Context", ":1: no column 'ContextTokens'; needed are TIMESTAMP, ContextTokens,"),
        ("azure", "ContextTokens", "Context", "; it has TIMESTAMP, Context, GeneratedTokens"),
        ("azure", "2023-11-16 18:15:50.9951690", "18:15", ":3: TIMESTAMP is '18:15'; allowed is a date and a time"),
        ("azure", ",396,", ",many,", ":3: ContextTokens is 'many'; allowed is a whole number from 0"),
        ("azure", ",396,109", ",396", ":3: GeneratedTokens is missing; needed are"),
        ("azure", ",396,", ',"396,', "not CSV"),
        ("burstgpt", "45,", "-45,", ":3: Timestamp is '-45'; allowed is a number from 0"),
        ("burstgpt", "45,", "nan,", ":3: Timestamp is 'nan'; allowed is a number from 0"),
        ("burstgpt", "1087,0", "1087.5,0", ":3: Request tokens is '1087.5'; allowed is a whole number from 0"),
        ("mooncake", '"timestamp": 4500', '"timestamp": true', ":2: timestamp is True; allowed is a number from 0"),
        ("mooncake", "1100", "-1", ":2: input_length is -1; allowed is a whole number from 0"),
        ("mooncake", '"output_length": 26, ', "", ":2: no key 'output_length'; needed are timestamp, input_length,"),
        ("mooncake", '"output_length": 26, ', "", "; it has timestamp, input_length, hash_ids"),
        ("mooncake", "[46, 47, 49]", '["a"]', ":2: hash_ids is ['a']; allowed is a list of whole numbers"),
        ("mooncake", "[46, 47, 49]}", "", ":2: not JSON"),
        ("mooncake", '{"timestamp": 4500', '[3]\n{"timestamp": 4500', ":2: not an object; allowed is {"),
        ("sharegpt", '"id": "b"', '"id": b', ":15: not JSON"),
        ("sharegpt", '"Hello!"', "3", "conversations: value is 3; allowed is a text"),
        ("sharegpt", '"from": "system"', '"role": "system"', ": no key 'from'; needed are from, value; it has role,"),
        (
            "sharegpt",
            '"conversations": []',
            '"items": []',
            "; needed are conversations; it has id, items",
        ),
        ("sharegpt", '"conversations": []', '"conversations": 1', ": conversations is no list; allowed is [{"),
        ("sharegpt", '"conversations": []', '"conversations": [1]', ": conversations: '1' is no object; allowed is [{"),
    ],
)
def test_errors_name_file_line_and_key(tmp_path: Path, kind: str, old: str, new: str, words: str) -> None:
    assert FILES[kind].count(old) == 1
    assert words in complaint(tmp_path, kind, FILES[kind].replace(old, new))


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("azure", "", ":1: no column 'TIMESTAMP'; needed are TIMESTAMP, ContextTokens, GeneratedTokens; it has none"),
        ("azure", AZURE.splitlines()[0], ": none of its 0 requests has a prompt and an answer"),
        ("mooncake", "\n", ": none of its 0 requests has a prompt and an answer"),
        ("sharegpt", "{}", ":1: not a JSON list; allowed is [{"),
        ("sharegpt", "[3]", ":1: not an object; allowed is [{"),
        ("sharegpt", "[]", ": none of its 0 conversations has a human's text with an answer"),
        ("sharegpt", "[{}", ":1: no key 'conversations'"),
        ("sharegpt", "[\n[", ":2: not JSON"),
    ],
)
def test_files_with_nothing_in_them(tmp_path: Path, kind: str, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        make(1, None, file=PromptFile(path, kind))  # type: ignore[arg-type]
    assert words in caught.value.message


@pytest.mark.parametrize("kind", [*FILES, "jsonl"])
def test_a_file_that_cannot_be_read(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(SpecError, match="nosuch: the file of prompts cannot be read"):
        make(1, Lengths("fixed", 9), file=PromptFile(tmp_path / "nosuch", kind))
    (tmp_path / "latin").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SpecError, match="latin: the file of prompts cannot be read"):
        make(1, Lengths("fixed", 9), file=PromptFile(tmp_path / "latin", kind))


# what goes together


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "input tokens or a file of prompts"),
        ({"input_tokens": Lengths("fixed", 9), "num_predict": None}, "num_predict is missing"),
        ({"input_tokens": Lengths("fixed", 9), "file": "jsonl"}, "input tokens or a file of prompts"),
        ({"file": "azure", "turns": 2}, "not with a file"),
        ({"file": "azure", "correlation": 0.5}, "not with a file"),
        ({"file": "jsonl", "num_predict": None}, "num_predict is missing"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, asked: dict[str, Any], words: str) -> None:
    asked = {"num_predict": Lengths("fixed", 9)} | asked
    if "file" in asked:
        asked["file"] = PromptFile(written(tmp_path, AZURE), asked["file"])
    with pytest.raises(SpecError, match=words):
        make(1, **asked)


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({}, SeededWorkload),
        ({"shared_prefix": {"prefixes": 2, "tokens": 4}}, PrefixWorkload),
        ({"conversation": {"turns": 2}, "endpoint": "chat"}, ConversationWorkload),
        ({"input_tokens": None, "format": "azure"}, TraceWorkload),
        ({"input_tokens": None, "format": "sharegpt", "num_ctx": 110, "num_predict": 100}, ShareGptWorkload),
    ],
)
def test_a_study_file_says_which_workload(tmp_path: Path, asked: dict[str, Any], kind: type) -> None:
    if "format" in asked:
        asked = asked | {"prompts": written(tmp_path, FILES[asked["format"]])}
    workload = night.workload(study(workload=asked))
    assert type(workload) is kind
    if isinstance(workload, TraceWorkload):
        assert (workload.prompt(0, "n").num_predict, workload.left_out) == (8, 0)
    if isinstance(workload, ShareGptWorkload):
        assert (workload.prompt(0, "n").num_predict, workload.left_out) == (70, 2)


def test_a_trace_that_cannot_be_replayed_is_seen_before_anything_starts(tmp_path: Path) -> None:
    rows = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "2023-11-16 18:15:46.6805900,10,20\n" * 2
    asked = {"prompts": written(tmp_path, rows), "format": "azure", "input_tokens": None, "levels": [{"trace": 1}]}
    with pytest.raises(SpecError, match="trace 1: the prompts have 2 time stamps"):
        night.workload(study(workload=asked))
