"""The proof: the order of its runs, what they may be said to show, and nights in virtual time that end by one."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import permutations
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.confirm import Contender, Kind, Verdict, chosen, contenders, finalists, looks, place, verdict
from autotune.score import Score
from autotune.spec import Proof
from autotune.store import Store
from tests.factories import BASELINE, SPEC, params, result, space
from tests.proofs import CANDIDATES, FAST, LEAN, RULES, proof, proved, steady
from tests.virtual import Noise, Played, Studies

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from autotune.result import TrialResult

A_A = (
    237, 253, 244, 258, 244, 194, 206, 200, 209, 214, 243, 256, 245, 256, 257, 244, 234, 255,
    264, 265, 260, 267, 271, 250, 264, 264, 248, 202, 198, 268, 197, 253, 267, 225, 253, 271,
)  # fmt: skip
"""Tokens/s of 36 runs in a row, all of one configuration: a real Ollama 0.32 on two shared cores, fresh starts.

Twice 4 slots, 8 users, while other work came and went. Their proof ended without a winner, and the candidate that a
single trial each had preferred by 15 % was still 7 % ahead.
"""
MEASURED: list[dict[str, Any]] = [{"sd": 0.01}, {"sd": 0.01, "recorded": A_A}]
"""What a quiet host does to figures, and one that others use too."""


# the order


@pytest.mark.parametrize("candidates", [2, 3, 4, 7])
def test_every_block_has_every_candidate_once_and_a_pair_of_blocks_is_the_same_backwards(candidates: int) -> None:
    order = [[place(block * candidates + turn, candidates)[1] for turn in range(candidates)] for block in range(12)]
    assert all(sorted(block) == list(range(candidates)) for block in order)
    assert all(order[at] == order[at + 1][::-1] for at in range(0, 12, 2))
    assert [place(number, candidates)[0] for number in range(3 * candidates)] == sorted([0, 1, 2] * candidates)
    assert len({tuple(block) for block in order}) > 2 or candidates == 2


@given(drift=st.floats(-0.5, 0.5), blocks=st.sampled_from([4, 6, 8, 12]), candidates=st.integers(2, 5))
def test_a_steady_drift_falls_on_all_candidates_alike(drift: float, blocks: int, candidates: int) -> None:
    seen: list[list[float]] = [[] for _ in range(candidates)]
    for number in range(blocks * candidates):
        seen[place(number, candidates)[1]].append(drift * number)
    assert all(fmean(one) == pytest.approx(fmean(seen[0])) for one in seen)


def test_looks_are_few_and_the_last_is_the_longest_proof() -> None:
    assert looks(Proof()) == (4, 6, 8, 12)
    assert looks(Proof(pairs=4, pairs_max=4)) == (4,)
    assert looks(Proof(pairs=5, pairs_max=20)) == (5, 8, 10, 15, 20)
    assert looks(Proof(pairs=4, pairs_max=7)) == (4, 6, 7)


def test_a_block_that_is_not_complete_does_not_count() -> None:
    runs = [result(number, CANDIDATES[place(number, 3)[1]], 100.0 + number) for number in range(14)]
    found = contenders(CANDIDATES, runs)
    assert [len(one.runs) for one in found] == [4, 4, 4]
    assert {run.number for one in found for run in one.runs} == set(range(12))
    assert all(run.params == one.params for one in found for run in one.runs)


# what may be said


def test_more_tokens_from_a_feasible_candidate_win() -> None:
    found = proof(steady(100), steady(150))
    assert (found.kind, found.recommended, found.decided) == (Kind.WINNER, 1, True)
    gain = found.gain(1)
    assert gain is not None
    assert gain.low < 0.5 < gain.high
    assert gain.high - gain.low < 0.1


def test_three_blocks_prove_nothing() -> None:
    found = proof(steady(100, blocks=3), steady(900, blocks=3))
    assert (found.kind, found.recommended, found.winners) == (Kind.UNPROVED, 0, ())


def test_a_baseline_that_misses_the_limit_loses_to_fewer_tokens() -> None:
    found = proof(steady(400, 9.0), steady(150, 1.0))
    assert (found.kind, found.recommended) == (Kind.WINNER, 1)
    assert found.misses(0)
    assert not found.feasible(0)
    assert found.beats(1, 0)
    assert not found.beats(0, 1)


def test_at_the_limit_feasible_does_not_beat_infeasible_by_chance() -> None:
    at_limit = [(100.0, ttft_s) for ttft_s in (2.1, 1.98, 2.07, 2.02)]
    below = [(100.0, ttft_s) for ttft_s in (1.9, 2.04, 1.97, 1.99)]
    found = proof(at_limit, below)
    assert found.feasible(1)
    assert not found.feasible(0)
    assert not found.beats(1, 0)
    assert (found.kind, found.recommended) == (Kind.UNCLEAR, 0)


def test_a_candidate_that_misses_the_limit_never_wins() -> None:
    found = proof(steady(100), steady(900, 3.0))
    assert (found.kind, found.recommended, found.decided) == (Kind.KEEP, 0, True)


def test_a_candidate_that_cannot_be_measured_is_out() -> None:
    found = proof(steady(100), steady(150), steady(300), reasons={2: "load_failed"})
    assert (found.kind, found.recommended, found.decided) == (Kind.WINNER, 1, True)
    assert (found.contenders[2].reason, found.contenders[2].failures) == ("load_failed", 4)
    assert found.misses(2)


def failing(one: int, *blocks: int, laws: Sequence[Sequence[tuple[float, float]]]) -> Verdict:
    """A proof in which a candidate failed in these blocks."""
    whole = proof(*laws)
    runs = tuple(
        result(run.number, run.params, reason="died_under_load") if block in blocks else run
        for block, run in enumerate(whole.contenders[one].runs)
    )
    every = [replace(other, runs=runs) if at == one else other for at, other in enumerate(whole.contenders)]
    return Verdict(tuple(every), whole.rules)


def test_a_candidate_that_failed_once_is_not_recommended_and_not_ruled_out_for_certain() -> None:
    found = failing(1, 2, laws=[steady(100), steady(150)])
    assert not found.feasible(1)
    assert not found.misses(1)
    assert (found.kind, found.recommended, found.decided) == (Kind.UNCLEAR, 0, False)


def test_a_baseline_that_failed_once_is_no_reason_to_take_a_slower_one() -> None:
    assert failing(0, 2, laws=[steady(100), steady(50)]).kind is Kind.UNCLEAR
    four_pairs = failing(0, 2, laws=[steady(100, blocks=6), steady(150, blocks=6)])
    assert (four_pairs.kind, four_pairs.recommended) == (Kind.WINNER, 1)
    three_pairs = failing(0, 2, laws=[steady(100), steady(150)])
    assert three_pairs.kind is Kind.UNCLEAR  # four pairs are the least


def test_too_few_requests_are_neither_a_miss_nor_a_hit() -> None:
    undecided: list[tuple[float, float | None]] = [(100, None)] * 4
    baseline = proof(undecided, steady(70))
    assert not baseline.misses(0)
    assert not baseline.feasible(0)
    assert (baseline.kind, baseline.recommended) == (Kind.UNCLEAR, 0)
    candidate = proof(steady(100), [(200, None), (200, None), (200, None), (200, 0.5)])
    assert not candidate.feasible(1)
    assert candidate.kind is Kind.UNCLEAR


def test_when_all_certainly_miss_there_is_nothing_more_to_learn() -> None:
    found = proof(steady(100, 5.0), steady(150, 4.0))
    assert (found.kind, found.decided) == (Kind.UNCLEAR, True)


def test_whatever_can_be_measured_beats_a_baseline_that_cannot() -> None:
    found = proof(steady(100), steady(50), reasons={0: "offloaded"})
    assert (found.kind, found.recommended) == (Kind.WINNER, 1)
    assert found.gain(1) is None


def test_none_better_by_what_is_worth_a_change_keeps_the_baseline() -> None:
    found = proof(steady(100, blocks=12), steady(100.5, blocks=12))
    assert (found.kind, found.recommended, found.decided) == (Kind.KEEP, 0, True)
    slower = proof(steady(100), steady(80))
    assert (slower.kind, slower.decided) == (Kind.KEEP, True)


def test_a_gain_that_is_certain_but_small_is_no_winner() -> None:
    found = proof(steady(100, blocks=12, spread=0.0005), steady(101, blocks=12, spread=0.0005))
    gain = found.gain(1)
    assert gain is not None
    assert gain.low > 0
    assert found.kind is Kind.KEEP
    assert replace(found, rules=Proof(least_gain=0.0)).kind is Kind.WINNER


def test_what_cannot_be_told_apart_is_no_winner() -> None:
    found = proof(steady(100, blocks=12, spread=0.1), steady(103, blocks=12, spread=0.1))
    assert (found.kind, found.recommended, found.decided) == (Kind.UNCLEAR, 0, False)


def test_of_two_that_cannot_be_told_apart_the_simpler_is_recommended_and_its_cost_is_said() -> None:
    found = proof(steady(100), steady(151), steady(150))
    assert found.winners == (1, 2)
    assert (found.recommended, found.equals) == (2, (2, 1))  # 2 × 4 slots against 2 × 8
    assert found.cost is not None
    assert found.cost.low < 0 < found.cost.high
    apart = proof(steady(100), steady(190), steady(150))
    assert (apart.recommended, apart.equals, apart.cost) == (1, (1,), None)


def test_a_proof_goes_on_while_two_winners_are_neither_apart_nor_alike() -> None:
    near = proof(steady(100), steady(154), steady(150, spread=0.02))
    assert near.kind is Kind.WINNER
    assert not near.decided
    assert proof(steady(100, blocks=12), steady(151, blocks=12), steady(150, blocks=12)).decided


@given(
    st.lists(st.lists(st.floats(50, 200), min_size=5, max_size=5), min_size=3, max_size=3),
    st.lists(st.floats(0.5, 4), min_size=3, max_size=3),
)
@settings(max_examples=100)
def test_a_verdict_contradicts_itself_nowhere(speeds: list[list[float]], ttfts: list[float]) -> None:
    laws = [[(tps, ttft) for tps in its] for its, ttft in zip(speeds, ttfts, strict=True)]
    found = proof(*laws)
    for one, other in permutations(range(3), 2):
        assert not (found.beats(one, other) and found.beats(other, one))
    assert all(found.beats(one, 0) and found.feasible(one) for one in found.winners)
    assert (found.kind is Kind.WINNER) == (found.recommended != 0) == bool(found.winners)
    assert found.kind is not Kind.KEEP or found.feasible(0)


# who is proved


def test_finalists_are_the_best_feasible_without_the_baseline() -> None:
    every = [
        result(0, BASELINE, 120),
        result(1, FAST, 150),
        result(2, params(16), 400, ttft_s=9.0),
        result(3, LEAN, 130),
        result(4, params(2), reason="load_failed"),
        result(5, params(8), 90),
    ]
    assert finalists(every, 2) == [FAST, LEAN]
    assert finalists(every, 9) == [FAST, LEAN, params(8)]
    assert finalists(every, 0) == []


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "night")
    store.open(SPEC, "")
    return store


SEARCH = [result(0), result(1, FAST, 200), result(2, LEAN, 190)]


def test_as_many_finalists_as_there_is_time_for(store: Store) -> None:
    every = [BASELINE, FAST, LEAN]
    assert chosen(store, SPEC, SEARCH, None) == (every, "")
    assert chosen(store, SPEC, SEARCH, 12 * 60.0) == (every, "")
    assert chosen(store, SPEC, SEARCH, 12 * 60.0 - 1) == (every[:2], "")
    assert chosen(store, SPEC, SEARCH, 8 * 60.0 - 1) == ([], "no time was left for a proof, which needs about 8 min")
    assert chosen(store, SPEC, SEARCH[:1], None) == ([], "nothing else met the limits")
    assert chosen(store, SPEC, [result(0, ttft_s=9.0)], None) == ([], "")
    assert chosen(store, SPEC, [], None) == ([], "")
    none = SPEC.model_copy(update={"proof": Proof(finalists=0)})
    assert chosen(store, none, SEARCH, None) == ([], "no proof was asked for (proof.finalists = 0)")


def test_a_proof_that_was_begun_goes_on_unless_the_search_says_otherwise(store: Store) -> None:
    assert store.begin_proof([BASELINE, FAST]) == 0
    assert chosen(store, SPEC, SEARCH, 60.0) == ([BASELINE, FAST], "")
    assert store.begin_proof([BASELINE, FAST]) == 0
    better = [*SEARCH, result(3, params(8), 900)]
    assert chosen(store, SPEC, better, None)[0] == [BASELINE, params(8), FAST]
    assert store.begin_proof([BASELINE, params(8), FAST]) == 1
    assert store.proofs() == 2


def test_a_study_without_a_proof_has_no_verdict(store: Store) -> None:
    assert verdict(store, RULES) is None
    store.begin_proof([BASELINE, FAST])
    found = verdict(store, RULES)
    assert found is not None
    assert (found.kind, found.blocks) == (Kind.UNPROVED, 0)
    assert found.contenders[1] == Contender(FAST, ())


# nights in virtual time


def test_a_night_ends_with_a_proof_on_fresh_starts(tmp_path: Path) -> None:
    noise = Noise(seed=1, sd=0.002, gains={8: 0.4})
    ended = Studies(tmp_path / "night").night(Played(noise.law), proof=True, trials=9)
    assert ended.proof is not None
    assert ended.why == f"9 trials are done; the proof: decided after {ended.proof.blocks} blocks"
    assert ended.proof.kind is Kind.WINNER
    assert ended.proof.contenders[ended.proof.recommended].params["num_parallel"] == 8
    assert ended.bench.fresh
    assert verdict(ended.store, SPEC.proof) == ended.proof
    assert len(ended.results) == 9  # what was proved is no trial of the search
    assert [event["candidate"] for event in ended.seen("run")][:6] == [0, 1, 2, 2, 1, 0]


def test_the_time_that_was_kept_for_the_proof_bounds_it(tmp_path: Path) -> None:
    ended = Studies(tmp_path / "night").night(Played(Noise(1, sd=0.2).law), proof=True, hours=6)
    assert ended.why.endswith("; the proof: the time that was kept for the proof is up")
    assert 5.5 * 3600 < ended.took_s <= 6 * 3600


def test_a_night_too_short_for_a_proof_says_what_it_needs(tmp_path: Path) -> None:
    ended = Studies(tmp_path / "night").night(Played(Noise(1).law), proof=True, hours=2)
    assert ended.unproved == "no time was left for a proof, which needs about 80 min"
    assert ended.proof is None


def by_number(number: int, tried: Mapping[str, Any]) -> TrialResult:
    chance = random.Random(f"{number} {tried['num_parallel']}")
    return result(number, tried, 100 * tried["num_parallel"] * chance.gauss(1, 0.01))


def test_a_proof_that_was_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = Studies(tmp_path / "whole").night(Played(by_number), proof=True, trials=3)
    studies = Studies(tmp_path / "broken")
    dying = Played(by_number, faults=[*[None] * 8, RuntimeError("the power is gone")])
    studies.broken(RuntimeError, dying, proof=True, trials=3)
    again = studies.night(Played(by_number), proof=True, trials=3)
    assert again.proof == whole.proof
    assert len(again.bench.calls) + len(dying.calls) == len(whole.bench.calls) + 1  # the run in flight
    over = studies.night(Played(by_number), proof=True, trials=3)
    assert (over.bench.calls, over.proof) == ([], again.proof)


def test_a_search_that_goes_on_and_finds_a_better_one_is_proved_anew(tmp_path: Path) -> None:
    studies = Studies(tmp_path / "night")
    first = studies.night(Played(by_number), proof=True, trials=3)
    second = studies.night(Played(by_number), proof=True, trials=9)
    assert second.proof is not None
    assert first.proof is not None
    assert [one.params for one in second.proof.contenders] != [one.params for one in first.proof.contenders]
    assert second.store.proofs() == 2


def interrupted(studies: Studies, runs: int, **budget: Any) -> int:
    """A night that ends by a defect after so many runs of its proof; how many trials it has searched."""
    alike = Studies(studies.folder.with_name("alike"), studies.where)
    searched = len(alike.night(Played(by_number), **budget).results)
    dying = Played(by_number, faults=[*[None] * (searched + runs), RuntimeError("the power is gone")])
    studies.broken(RuntimeError, dying, proof=True, **budget)
    return searched


@pytest.mark.parametrize("budget", [{"hours": 10}, {"until": "09:00"}])
def test_the_time_that_was_kept_for_a_proof_is_not_searched_away_when_a_night_goes_on(
    tmp_path: Path, budget: dict[str, Any]
) -> None:
    studies = Studies(tmp_path / "night", space((2, 4, 8, 16, 32, 64), ("0", "0 | 1")))
    searched = interrupted(studies, 2, **budget)
    again = studies.night(Played(by_number), proof=True, **budget)
    assert again.proof is not None
    assert again.proof.blocks >= 4
    assert again.bench.calls[0][0] == 2  # the proof's third run, no trial of the search
    if "hours" in budget:
        assert len(again.results) == searched


def test_a_night_whose_time_was_spent_before_its_first_trial_says_so(tmp_path: Path) -> None:
    studies = Studies(tmp_path / "night")
    studies.broken(RuntimeError, Played(by_number, faults=[RuntimeError("killed")], trial_s=4000), proof=True, hours=1)
    again = studies.night(Played(by_number), proof=True, hours=1)
    assert (again.results, again.proof, again.why) == ([], None, "no time is left for another trial")


def test_without_finalists_the_search_has_all_the_time(tmp_path: Path) -> None:
    from autotune.night import _budget  # noqa: PLC0415 - what the night does with it

    spec = SPEC.model_copy(update={"proof": Proof(finalists=0)})
    assert _budget(spec).proof_share == 0
    assert _budget(SPEC).proof_share == SPEC.budget.proof_share


@pytest.mark.parametrize("noise", MEASURED, ids="-".join)
def test_identical_candidates_have_no_winner_in_19_of_20_nights(tmp_path: Path, noise: dict[str, Any]) -> None:
    """A/A: whole nights on which every configuration is the same, with the noise that was measured."""
    kinds = []
    for seed in range(20):
        ended = Studies(tmp_path / str(seed)).night(Played(Noise(seed, **noise).law), proof=True, trials=4)
        assert ended.proof is not None
        kinds.append(ended.proof.kind)
    assert kinds.count(Kind.WINNER) <= 1
    assert Kind.UNPROVED not in kinds


@pytest.mark.parametrize("ttft_s", [0.5, 2.0])
@pytest.mark.parametrize(
    "noise",
    [
        {"sd": 0.01},
        {"sd": 0.05},
        {"sd": 0.02, "drift": 0.1},
        {"sd": 0.01, "wander": 0.02},
        {"sd": 0.01, "outliers": 0.1},
    ],
    ids="-".join,
)
def test_a_winner_out_of_noise_is_rarer_than_the_confidence_allows(noise: dict[str, Any], ttft_s: float) -> None:
    """Whole proofs of three identical candidates, also right at the limit, by the rules of a night."""
    nights, winners = 200, 0
    for seed in range(nights):
        winners += proved(Noise(seed, ttft_s=ttft_s, **noise)).kind is Kind.WINNER
    assert winners <= 0.05 * nights


@pytest.mark.parametrize("failure_rate", [0.01, 0.03])
def test_failures_by_chance_make_no_winner_either(failure_rate: float) -> None:
    winners = sum(proved(Noise(seed, failure_rate=failure_rate)).kind is Kind.WINNER for seed in range(200))
    assert winners <= 10


def test_a_real_gain_of_a_few_percent_is_found() -> None:
    found = [
        proof(*(steady(tps, blocks=12, spread=0.015) for tps in (100 + seed / 999, 106 + seed))) for seed in range(20)
    ]
    assert sum(one.kind is Kind.WINNER for one in found) >= 18


def test_limits_of_success_count_too() -> None:
    runs = [
        replace(one, score=Score(200.0, {"success rate at 2 users": 0.2 if one.params == FAST else -0.01}))
        for one in (result(number, CANDIDATES[place(number, 2)[1]], 100) for number in range(8))
    ]
    found = Verdict(contenders(CANDIDATES[:2], runs), RULES)
    assert (found.kind, found.misses(1)) == (Kind.KEEP, True)
