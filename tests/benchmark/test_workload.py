"""Prompts: the same bodies in every trial, a fresh start for each request."""

from __future__ import annotations

import hashlib
import math
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from autotune.benchmark.workload import JsonlWorkload, Lengths, SeededWorkload, calibrate, mark
from autotune.benchmark.workload.lengths import pair
from autotune.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

indices = st.integers(0, 100_000)
lengths = st.builds(
    Lengths,
    kind=st.sampled_from(["fixed", "uniform", "normal", "lognormal"]),
    mean=st.integers(1, 4000),
    spread=st.floats(0, 0.99),
)


def seeded(seed: int = 7, tokens: Lengths | None = None) -> SeededWorkload:
    return SeededWorkload(seed, tokens or Lengths("lognormal", 300), Lengths("normal", 128))


@given(indices)
def test_equal_index_equal_body_fresh_nonce(index: int) -> None:
    one, other = seeded().prompt(index, "trial 1"), seeded().prompt(index, "trial 2")
    assert one == seeded().prompt(index, "trial 1")
    assert one.text[16:] == other.text[16:]
    assert one.text[:16] != other.text[:16]
    assert one.num_predict == other.num_predict


def test_no_two_requests_begin_alike() -> None:
    starts = {mark(f"trial {trial}", index) for trial in range(30) for index in range(300)}
    assert len(starts) == 30 * 300


def test_bodies_differ_by_index_and_seed() -> None:
    texts = {seeded(seed).prompt(index, "").text[200:] for seed in (1, 2) for index in range(50)}
    assert len(texts) == 100


@given(lengths, indices)
def test_lengths_are_as_asked(tokens: Lengths, index: int) -> None:
    workload = SeededWorkload(3, tokens, tokens, chars_per_token=4)
    drawn = tokens.draw(random.Random(f"3/{index}"))
    assert len(workload.prompt(index, "n").text) == max(17, 4 * drawn)


def test_a_very_long_prompt() -> None:
    assert len(seeded(tokens=Lengths("fixed", 200_000)).prompt(0, "n").text) == pytest.approx(1.19e6, rel=0.01)


@given(lengths, st.integers(0, 100))
def test_lengths_are_held(tokens: Lengths, seed: int) -> None:
    held = Lengths(tokens.kind, tokens.mean, tokens.spread, least=5, most=50)
    assert 5 <= held.draw(random.Random(seed)) <= 50
    assert tokens.draw(random.Random(seed)) >= 1


@pytest.mark.parametrize(("kind", "deviation"), [("uniform", 0.4 / 3**0.5), ("normal", 0.4), ("lognormal", 0.4)])
def test_lengths_have_their_mean_and_spread(kind: str, deviation: float) -> None:
    rng, tokens = random.Random(1), Lengths(kind, 1000, 0.4)  # type: ignore[arg-type]
    drawn = [tokens.draw(rng) for _ in range(20_000)]
    average = sum(drawn) / len(drawn)
    spread = (sum((value - average) ** 2 for value in drawn) / len(drawn)) ** 0.5
    assert average == pytest.approx(1000, rel=0.02)
    assert spread == pytest.approx(1000 * deviation, rel=0.05)


# lengths that go together


@pytest.mark.parametrize("correlation", [-1.0, -0.6, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["uniform", "normal", "lognormal"])
def test_a_correlation_is_realised_and_both_keep_their_distribution(kind: str, correlation: float) -> None:
    lengths = Lengths(kind, 1000, 0.3), Lengths("lognormal", 500, 0.5)  # type: ignore[arg-type]
    drawn = [pair(random.Random(f"{seed}"), *lengths, correlation) for seed in range(4000)]
    asked, answered = [one for one, _ in drawn], [other for _, other in drawn]
    found = float(stats.spearmanr(asked, answered).statistic)
    assert found == pytest.approx(6 / math.pi * math.asin(correlation / 2), abs=0.03)
    for values, length in zip((asked, answered), lengths, strict=True):
        alone = [length.draw(random.Random(f"alone {seed}")) for seed in range(4000)]
        assert stats.ks_2samp(values, alone).pvalue > 1e-3


def test_without_a_correlation_there_is_none() -> None:
    drawn = [pair(random.Random(seed), Lengths("normal", 1000), Lengths("normal", 500), 0.0) for seed in range(4000)]
    assert abs(float(stats.spearmanr(drawn).statistic)) < 0.05


@given(lengths, st.floats(-1, 1), st.integers(0, 1000))
def test_lengths_that_go_together_are_held(tokens: Lengths, correlation: float, seed: int) -> None:
    held = Lengths(tokens.kind, tokens.mean, tokens.spread, least=5, most=50)
    assert all(5 <= length <= 50 for length in pair(random.Random(seed), held, held, correlation))


def test_bodies_are_those_of_the_first_release() -> None:
    """A study that goes on asks what it asked before."""
    texts = "".join(seeded().prompt(index, "n").text for index in range(20))
    assert hashlib.sha256(texts.encode()).hexdigest()[:16] == "dc371c2ccb52ed8c"
    assert [seeded().prompt(index, "n").num_predict for index in range(6)] == [189, 77, 36, 68, 195, 171]


def test_calibration_meets_the_count() -> None:
    assert calibrate(5.0, [100, 100], [110, 140]) == pytest.approx(4.0)
    assert calibrate(5.0, [], []) == 5.0
    assert calibrate(5.0, [100], [1]) == 5.0
    workload = SeededWorkload(1, Lengths("fixed", 100), Lengths("fixed", 10), chars_per_token=4.0)
    assert len(workload.prompt(0, "n").text) == 400


def test_file_of_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Grüß Gott"}\n\n{"prompt": "two", "num_predict": 5}\n', encoding="utf-8")
    workload = JsonlWorkload(path, Lengths("fixed", 100))
    first, second, third = (workload.prompt(index, "n") for index in range(3))
    assert len(workload) == 2
    assert (first.text[17:], first.num_predict) == ("Grüß Gott", 100)
    assert (second.text[17:], second.num_predict) == ("two", 5)
    assert third.text[17:] == "Grüß Gott"
    assert third.text[:16] != first.text[:16]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "not an object"),
        ('{"prompt": 3}', "allowed is a text"),
        ('{"prompt": ""}', "allowed is a text"),
        ('{"prompt": "a", "num_predict": 0}', "whole number above 0"),
        ('{"prompt": "a", "num_predict": true}', "whole number above 0"),
        ('{"prompt": "a", "max_tokens": 3}', "unknown key 'max_tokens'"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"prompt": "fine"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(SpecError, match=words) as caught:
        JsonlWorkload(path, Lengths("fixed", 100))
    assert f"{path}:2: " in str(caught.value)


def test_no_prompts_at_all(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(SpecError, match="no prompts"):
        JsonlWorkload(empty, Lengths("fixed", 1))
    with pytest.raises(SpecError, match="cannot be read"):
        JsonlWorkload(tmp_path / "missing.jsonl", Lengths("fixed", 1))
