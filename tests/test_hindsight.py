"""What was foretold against what came: what is held against what, and when the model contradicts the data."""

from __future__ import annotations

import math
from typing import Any

import pytest

from autotune.hindsight import checks, foretold, trusted
from autotune.result import TOKENS_PER_S
from tests.factories import BASELINE, SPEC, params, result

NAME = "ttft_s mean at 2 users"


def event(number: int, tps: float = 100.0, wide: float = 1.2, **more: Any) -> dict[str, Any]:
    """That a trial was foretold, with an interval of so many times either way."""
    told = {"tps": tps, "low": tps / wide, "high": tps * wide}
    limits = {NAME: {"value": 0.5, "low": 0.4, "high": 0.7}}
    values = {"limits": limits, "holds": 0.9, "starts": 0.99, "trust": "the law holds", **more}
    return {"what": "foretold", "number": number, **told, **values}


def test_figures_are_held_against_those_of_their_trial() -> None:
    results = [result(0, BASELINE), result(1, params(4), 110, 0.8)]
    (one,) = foretold(SPEC, [{"what": "night begins"}, event(1), event(7)], results)
    output, wait = one.figures
    assert (one.number, one.params, one.holds, one.trust) == (1, params(4), 0.9, "the law holds")
    assert (output.name, output.measured, output.inside) == (TOKENS_PER_S, 110, True)
    assert (wait.name, wait.measured, wait.inside) == (NAME, 0.8, False)
    assert output.error == pytest.approx(math.log(1.1))


def test_what_was_foretold_twice_counts_as_the_last_time() -> None:
    (one,) = foretold(SPEC, [event(0, 50.0), event(0, 90.0)], [result(0)])
    assert one.figures[0].foretold.value == 90.0


@pytest.mark.parametrize("more", [{"reason": "load_failed"}, {"dropped": "cannot beat 512 tokens/s"}])
def test_what_was_not_measured_in_full_is_told_and_counts_for_nothing(more: dict[str, str]) -> None:
    (one,) = every = foretold(SPEC, [event(0)], [result(0, **more)])  # type: ignore[arg-type]
    assert {(held.measured, held.inside, held.error) for held in one.figures} == {(None, None, None)}
    assert checks(every) == []


def test_events_of_older_versions_are_left_out() -> None:
    old = {name: value for name, value in event(0).items() if name != "limits"}
    assert foretold(SPEC, [old], [result(0)]) == ()


@pytest.mark.parametrize(
    "damage", [{"tps": "x"}, {"limits": []}, {"limits": {NAME: 3}}, {"holds": None}, {"low": {}}, {"starts": "?"}]
)
def test_events_that_are_damaged_are_left_out(damage: dict[str, Any]) -> None:
    (one,) = foretold(SPEC, [{**event(0), **damage}, event(1)], [result(0), result(1)])
    assert one.number == 1


def test_what_was_foretold_of_no_trial_is_left_out() -> None:
    nameless = {name: value for name, value in event(0).items() if name != "number"}
    assert foretold(SPEC, [nameless], [result(0)]) == ()


def many(inside: int, outside: int) -> list[Any]:
    """Trials of which so many came as they were foretold, and so many with twice as much output."""
    values = [100.0] * inside + [200.0] * outside
    results = [result(number, tps=tps) for number, tps in enumerate(values)]
    return list(foretold(SPEC, [event(number) for number in range(len(values))], results))


@pytest.mark.parametrize(
    ("inside", "outside", "contradicted"), [(20, 0, False), (17, 3, False), (16, 4, False), (15, 5, True)]
)
def test_too_few_inside_their_intervals_contradict_the_model(inside: int, outside: int, contradicted: bool) -> None:
    """Of 20, by the binomial distribution: 4 or more outside with a chance of 0.016, 5 or more with 0.0026."""
    output, wait = checks(many(inside, outside))
    assert (output.name, output.n, output.inside, output.contradicted) == (TOKENS_PER_S, 20, inside, contradicted)
    assert output.error == pytest.approx(outside / 20 * math.log(2))
    assert (wait.name, wait.inside, wait.contradicted) == (NAME, 20, False)


def test_trust_is_counted_over_the_night() -> None:
    words = ["the law holds", "the law holds roughly", "the law holds"]
    told = [event(number, trust=trust) for number, trust in enumerate(words)]
    assert trusted(foretold(SPEC, told, [result(number) for number in range(3)])) == [
        ("the law holds", 2),
        ("the law holds roughly", 1),
    ]
