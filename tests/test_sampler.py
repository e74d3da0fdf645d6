"""Optuna by ask and tell, in real SQLite files: what it learns, what it proposes, and that it follows our store."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from optuna.trial import TrialState

from autotune.errors import StorageError
from autotune.sampler import Sampler, Way
from autotune.sampler import trials as sampling
from autotune.sampler.rivals import STARTUP_TRIALS
from autotune.score import FAILED
from autotune.space import key
from tests.factories import BASELINE, params, result, space

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from optuna.trial import FrozenTrial

    from autotune.result import TrialResult
    from autotune.space import Space

    Law = Callable[[int, Mapping[str, Any]], TrialResult]

SPACE = space()
LARGE = space(
    (1, 2, 3, 4, 6, 8, 12, 16),
    ("0", "0 | 1", "0x2", "0x2 | 1x2"),
    policies=("round_robin", "least_conn", "random_two"),
    flash_attention=("auto", "on"),
    num_batch=(256, 512),
)
"""320 configurations."""


def sampler(path: Path | None, where: Space = SPACE, seed: int = 1, baseline: Mapping[str, Any] = BASELINE) -> Sampler:
    return Sampler(path, "test", seed, where, baseline)


def opened(path: Path | None, results: Sequence[TrialResult] = (), **more: Any) -> Sampler:
    asking = sampler(path, **more)
    asking.open(results)
    return asking


def by_slots(number: int, chosen: Mapping[str, Any]) -> TrialResult:
    """The more slots the faster, and the later the first text."""
    slots = chosen["num_parallel"] * (1 + chosen["layout"].count("|"))
    return result(number, chosen, tps=30.0 * slots, ttft_s=0.3 * slots)


def told(
    asking: Sampler,
    count: int,
    law: Law = by_slots,
    before: Sequence[TrialResult] = (),
) -> list[TrialResult]:
    """So many trials more, the baseline first."""
    results = list(before)
    for number in range(len(results), len(results) + count):
        chosen = asking.propose() if number else BASELINE
        assert chosen is not None
        trial = asking.begin(chosen)
        results.append(law(number, chosen))
        asking.tell(trial, results[-1])
    return results


def stored(path: Path, name: str = "test") -> list[FrozenTrial]:
    """What Optuna itself reads from the file."""
    return optuna.load_study(study_name=name, storage=f"sqlite:///{path}").trials


def content(trials: Sequence[FrozenTrial]) -> list[tuple[Any, ...]]:
    return [(trial.number, trial.state, trial.values, trial.params, trial.constraints) for trial in trials]


def wanted(results: Sequence[TrialResult]) -> list[tuple[Any, ...]]:
    """What Optuna's study must hold for these."""
    return [
        (
            one.number,
            TrialState.COMPLETE if one.measured else TrialState.PRUNED,
            None if one.score.objective is None else [one.score.objective],
            {name: value for name, value in one.params.items() if name in SPACE.choices},
            one.score.constraints,
        )
        for one in results
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "optuna.db"


# what Optuna is told


def test_optuna_reads_parameters_values_and_constraints_back(path: Path) -> None:
    results = told(opened(path), 4)
    assert content(stored(path)) == wanted(results)
    fast = stored(path)[-1]
    assert set(fast.constraints) == {"ttft_s mean at 2 users", "success rate at 2 users"}
    assert fast.user_attrs["output_tps at 2 users"] == results[-1].score.objective
    assert fast.user_attrs["simulated"] is True


def test_a_failure_is_pruned_with_a_violated_constraint_and_has_no_value(path: Path) -> None:
    asking = opened(path)
    asking.tell(asking.begin(BASELINE), result(0, reason="load_failed"))
    (trial,) = stored(path)
    assert (trial.state, trial.values, trial.constraints) == (TrialState.PRUNED, None, {"load_failed": FAILED})
    assert trial.user_attrs["reason"] == "load_failed"


def test_a_baseline_outside_the_space_is_told_with_its_own_values(path: Path) -> None:
    odd = params(5, "0x2", policy="random_two") | {"flash_attention": "off", "env:OLLAMA_X": "1", "threads": 3}
    asking = opened(path, baseline=odd)
    asking.tell(asking.begin(odd), result(0, odd))
    (trial,) = stored(path)
    assert trial.params == {name: value for name, value in odd.items() if name in SPACE.choices}
    again = opened(path, [result(0, odd)], baseline=odd)
    results = told(again, 4, before=[result(0, odd)])
    assert all(SPACE.allows(one.params) for one in results[1:])


def test_a_layout_of_one_instance_has_no_policy(path: Path) -> None:
    results = told(opened(path, where=LARGE), 12)
    for one in results:
        assert ("policy" in one.params) == ("|" in one.params["layout"] or "x" in one.params["layout"])
        assert one.number == 0 or LARGE.allows(one.params)
    assert {"policy" in trial.params for trial in stored(path)} == {True, False}


# what it proposes


def test_nothing_is_proposed_twice_and_nothing_at_all_when_all_was_tried(path: Path) -> None:
    asking = opened(path)
    assert asking.untried == SPACE.after_memory == 9
    results = told(asking, 10)
    assert {key(one.params) for one in results[1:]} == {key(chosen) for chosen in SPACE.configurations()}
    assert asking.untried == 0
    assert asking.propose() is None
    assert opened(path, results).propose() is None


def test_a_baseline_of_the_space_counts_as_tried(path: Path) -> None:
    inside = params(4)
    asking = opened(path, baseline=inside)
    asking.tell(asking.begin(inside), result(0, inside))
    assert asking.untried == 8


@pytest.mark.parametrize("history", [0, 1, STARTUP_TRIALS + 4])
def test_the_same_history_and_seed_give_the_same_proposal(tmp_path: Path, history: int) -> None:
    first = opened(tmp_path / "one.db", where=LARGE)
    results = told(first, history)
    proposal = first.propose()
    assert proposal == first.propose()
    assert proposal == opened(tmp_path / "one.db", results, where=LARGE).propose()
    assert proposal == opened(tmp_path / "rebuilt.db", results, where=LARGE).propose()
    others = [opened(tmp_path / "one.db", results, where=LARGE, seed=seed).propose() for seed in range(2, 8)]
    assert any(other != proposal for other in others)


def test_any_seed_of_a_study_file_will_do(path: Path) -> None:
    """Optuna's own end at 32 bits."""
    assert opened(path, seed=2**32).propose() is not None
    assert opened(None, seed=2**64 + 1).propose() is not None


def test_a_night_that_was_interrupted_goes_on_as_it_would_have(tmp_path: Path) -> None:
    through = told(opened(tmp_path / "through.db", where=LARGE), 10)
    before = told(opened(tmp_path / "resumed.db", where=LARGE), 7)
    resumed = told(opened(tmp_path / "resumed.db", before, where=LARGE), 3, before=before)
    assert [one.params for one in resumed] == [one.params for one in through]


def test_what_experience_says_comes_before_all_else(path: Path) -> None:
    favourite = params(8, "0 | 1", policy="least_conn")
    asking = Sampler(path, "test", 1, SPACE, BASELINE, Way(first=favourite))
    asking.open([])
    assert [one.params for one in told(asking, 2)] == [BASELINE, favourite]
    assert asking.propose() not in (None, favourite)
    asking.limit(space((2, 4)))  # which has it no longer
    assert asking.propose() is not None


def test_a_narrowed_space_is_all_that_is_proposed_from_then_on(path: Path) -> None:
    asking = opened(path)
    before = told(asking, 3)
    alone = space((1,))
    asking.limit(alone)
    after = told(asking, alone.after_memory - 1, before=before)[3:]  # the baseline is one of them
    assert all(alone.allows(one.params) for one in after)
    assert asking.propose() is None
    reopened = opened(path, [*before, *after])
    assert content(stored(path)) == wanted([*before, *after])
    reopened.limit(alone)
    assert reopened.propose() is None


def share_of_the_bad_half(path: Path, seed: int, law: Law) -> float:
    """Of twelve proposals after 25 random trials: those with the flash attention that is no good."""
    tried = random.Random(seed).sample(list(LARGE.configurations()), 24)
    history = [law(number, chosen) for number, chosen in enumerate([BASELINE, *tried])]
    results = told(opened(path, history, where=LARGE, seed=seed), 12, law, history)
    bad = [one for one in results[25:] if one.params["flash_attention"] == "on"]
    return len(bad) / 12


def half_fails(number: int, chosen: Mapping[str, Any]) -> TrialResult:
    failing = chosen["flash_attention"] == "on"
    return result(number, chosen, reason="load_failed") if failing else by_slots(number, chosen)


def half_is_late(number: int, chosen: Mapping[str, Any]) -> TrialResult:
    """Twice as fast, and far beyond the limit."""
    late = chosen["flash_attention"] == "on"
    return result(number, chosen, tps=(1 + late) * 30.0 * chosen["num_parallel"], ttft_s=6.0 if late else 0.5)


def test_a_region_that_fails_is_left_which_it_would_not_be_if_it_were_told_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned = [share_of_the_bad_half(tmp_path / f"pruned-{seed}.db", seed, half_fails) for seed in range(3)]

    def blind(one: TrialResult) -> TrialState:
        return TrialState.COMPLETE if one.measured else TrialState.FAIL

    monkeypatch.setattr(sampling, "_state", blind)
    failed = [share_of_the_bad_half(tmp_path / f"failed-{seed}.db", seed, half_fails) for seed in range(2)]
    print("share of failures: told as pruned", pruned, "told as failed", failed)
    assert sum(pruned) / len(pruned) < 0.35
    assert sum(failed) / len(failed) > 0.5


def test_a_region_beyond_the_limits_is_left_however_fast_it_is(tmp_path: Path) -> None:
    shares = [share_of_the_bad_half(tmp_path / f"{seed}.db", seed, half_is_late) for seed in (1, 2)]
    assert sum(shares) / len(shares) < 0.35


# our store is the truth


def test_an_equal_study_is_left_as_it_is(path: Path) -> None:
    results = told(opened(path), 5)
    began = [trial.datetime_start for trial in stored(path)]
    opened(path, results)
    assert [trial.datetime_start for trial in stored(path)] == began


def test_what_was_never_told_is_added(path: Path) -> None:
    results = told(opened(path), 3)
    results += [result(3, params(4)), result(4, params(8), reason="on_cpu")]
    opened(path, results)
    assert content(stored(path)) == wanted(results)


def test_what_was_left_running_is_forgotten(path: Path) -> None:
    asking = opened(path)
    results = told(asking, 3)
    asking.begin(params(8))
    assert stored(path)[-1].state is TrialState.RUNNING
    again = opened(path, results)
    assert content(stored(path)) == wanted(results)
    results = told(again, 1, before=results)
    assert content(stored(path)) == wanted(results)


def test_a_database_that_was_deleted_is_made_again(path: Path) -> None:
    results = told(opened(path), 6)
    before = content(stored(path))
    path.unlink()
    opened(path, results)
    assert content(stored(path)) == before


def test_a_database_of_another_history_is_made_again(tmp_path: Path, path: Path) -> None:
    told(opened(path, seed=7), 4)
    results = told(opened(tmp_path / "other.db", seed=8), 4)  # as many, all complete, but not the same
    opened(path, results)
    assert content(stored(path)) == wanted(results)
    slower = [result(one.number, one.params, tps=1.0) for one in results]
    opened(path, slower)
    assert content(stored(path)) == wanted(slower)


def test_a_study_may_be_renamed(path: Path) -> None:
    results = told(opened(path), 3)
    Sampler(path, "renamed", 1, SPACE, BASELINE).open(results)
    assert content(stored(path, "renamed")) == wanted(results)


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b", "a b", "ä"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    told(opened(folder / "optuna.db"), 2)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (folder / "optuna.db").stat().st_size > 0


@pytest.mark.parametrize("damage", [b"nonsense " * 1000, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_damaged_database_says_that_it_can_be_removed(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    with pytest.raises(StorageError, match=r"optuna\.db: .*remove this file") as raised:
        opened(path)
    assert "\n" not in raised.value.message
    path.unlink()
    opened(path)


def test_a_database_that_breaks_in_the_night_is_a_storage_error(path: Path) -> None:
    asking = opened(path)
    results = told(asking, 2)
    trial = asking.begin(params(8))
    path.write_bytes(b"nonsense " * 10_000)
    with pytest.raises(StorageError):
        asking.tell(trial, result(6, params(8)))
    with pytest.raises(StorageError):
        asking.propose()
    path.unlink()
    opened(path, results)
    assert content(stored(path)) == wanted(results)


def test_a_database_that_is_a_folder_is_a_storage_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StorageError):
        opened(path)


def test_what_was_found_can_be_taken_up_without_a_file() -> None:
    results = [by_slots(0, BASELINE), by_slots(1, params(4))]
    asking = opened(None, results)
    assert asking.untried == SPACE.size - 1  # the baseline is outside
    results = told(asking, 1, before=results)
    assert results[2].params not in (BASELINE, params(4))
