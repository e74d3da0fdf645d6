"""What a study begins with: which folders are used, which are not and why, and that it stays what it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autotune import earlier
from autotune.belief import Prior
from autotune.earlier import Warmth
from autotune.errors import SpecError, StorageError
from autotune.night import provenance, way
from autotune.rehearsal.host import host
from autotune.rehearsal.nights import night
from autotune.rehearsal.truth import truth
from autotune.sampler import Sampler
from autotune.simulator.clock import run_virtual
from autotune.store import Store
from tests.rehearsal.studies import profile, small

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from autotune.ground import Ground
    from autotune.rehearsal.host import Host
    from autotune.result import TrialResult

SEARCH = {"num_parallel": [1, 2, 3, 4, 6, 8, 12], "layouts": ["0", "0 | 1", "0x2 | 1x2"]}
TRIALS = 5


@pytest.fixture(scope="module")
def hardware(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A host whose starts are not all as fast, and on which several instances are in each other's way."""
    path = tmp_path_factory.mktemp("host") / "crowded.toml"
    return str(profile(path, host__contention=1.5, host__life_jitter=0.02, host__step_jitter=0.1))


def playing(hardware: str, **changes: Any) -> Host:
    tables: dict[str, Any] = {
        "cluster": {"profile": hardware}, "search": SEARCH, "workload": {"levels": [8], "window_s": 5},
        "objective": {"limits": []}, "proof": {"finalists": 0}, "budget": {"trials": TRIALS, "early": False},
    }  # fmt: skip
    spec = small(**{name: {**tables.get(name, {}), **changes.get(name, {})} for name in {*tables, *changes}})
    return run_virtual(host(spec))


def keep(there: Host, folder: Path, seed: int = 1, prior: Prior | None = None) -> Store:
    """A night in a folder."""
    store = Store(folder)
    store.open(there.ground.spec, "")

    async def whole() -> None:
        await night(there, seed, store, prior)

    run_virtual(whole())
    return store


@pytest.fixture(scope="module")
def first(hardware: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that has ended."""
    return keep(playing(hardware), tmp_path_factory.mktemp("studies") / "first").folder


@pytest.fixture
def beside(first: Path, tmp_path: Path) -> Path:
    """A study of one's own beside a copy of the first; nothing has been measured in it."""
    shutil.copytree(first, tmp_path / "first")
    return tmp_path / "second"


def look(own: Path, ground: Ground) -> Warmth:
    return earlier.look(own, ground, provenance(ground))


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def proven(folder: Path, **changes: Any) -> None:
    """Another provenance of all its trials."""
    for path in folder.glob("trials/*/plan.json"):
        edit(path, lambda content: content["provenance"].update(changes))


def another(folder: Path, day: int) -> None:
    """A study that measured the same on another day."""
    for path in folder.glob("trials/*/result.json"):
        edit(path, lambda content: content.update(began_at=f"2026-01-{day:02}T22:00:00+00:00"))


# which are used


def test_a_study_of_the_same_host_that_lies_beside_is_used(hardware: str, beside: Path) -> None:
    ground = playing(hardware).ground
    found = look(beside, ground)
    assert [(Path(one.folder).name, one.trials) for one in found.used] == [("first", TRIALS)]
    assert found.left == ()
    assert len(found.prior.lessons) == 1
    assert found.prior.first
    assert ground.space.allows(found.prior.first[0])
    assert not look(beside.parent / "first", ground).used
    assert look(beside, playing(hardware, search={"warm_start": "off"}).ground) == Warmth()


def test_one_that_is_named_is_used_wherever_it_lies(hardware: str, first: Path, tmp_path: Path) -> None:
    ground = playing(hardware, search={"warm_start": [str(first)]}).ground
    assert [one.folder for one in look(tmp_path / "own", ground).used] == [str(first)]
    alone = playing(hardware, search={"warm_start": str(first)}).ground
    assert [one.folder for one in look(tmp_path / "own", alone).used] == [str(first)]


def test_what_has_changed_makes_it_count_less(hardware: str, beside: Path) -> None:
    ground = playing(hardware).ground
    same = look(beside, ground).used[0]
    proven(beside.parent / "first", ollama="0.1", driver="1")
    other = look(beside, ground).used[0]
    assert other.weight < same.weight
    assert {*other.changes} - {*same.changes} == {f"Ollama 0.1 → {ground.facts.version}", "driver 1 → none"}


def test_of_many_those_are_used_that_count_most(hardware: str, beside: Path) -> None:
    for number in range(3):
        shutil.copytree(beside.parent / "first", beside.parent / f"more-{number}")
        another(beside.parent / f"more-{number}", 20 - number)
    proven(beside.parent / "more-1", ollama="0.1")
    found = look(beside, playing(hardware).ground)
    assert [Path(one.folder).name for one in found.used] == ["first", "more-0", "more-2"]
    assert found.left == ("more-1: 3 others count more",)
    assert len(found.prior.lessons) == 3
    assert len(found.prior.first) == 1


def test_a_copy_of_a_study_counts_for_nothing(hardware: str, beside: Path) -> None:
    """And of a study and its copy the one counts that went on."""
    shutil.copytree(beside.parent / "first", beside.parent / "backup")
    last = max(path.parent for path in (beside.parent / "backup").glob("trials/*/result.json"))
    shutil.rmtree(last)
    found = look(beside, playing(hardware).ground)
    assert [Path(one.folder).name for one in found.used] == ["first"]
    assert found.left == ("backup: a copy of first",)


def test_where_the_law_says_nothing_the_best_is_tried_first_all_the_same(hardware: str, beside: Path) -> None:
    open_loop = playing(hardware, workload={"levels": [{"rate": 2.0}]}).ground
    found = look(beside, open_loop)
    assert found.used
    assert found.prior.lessons == ()
    assert found.prior.first
    keep(playing(hardware, workload={"levels": [{"rate": 2.0}]}, budget={"trials": 3}), beside.parent / "first-open")
    shutil.rmtree(beside.parent / "first")
    again = look(beside, playing(hardware).ground)
    assert [Path(one.folder).name for one in again.used] == ["first-open"]
    assert again.prior.lessons == ()


# which are not


def broken(folder: Path, name: str) -> None:
    (folder / name).write_text("{")


def unmeasured(folder: Path) -> None:
    shutil.rmtree(folder / "trials")


def newer(folder: Path) -> None:
    edit(folder / "study.json", lambda content: content.update(format=99))


def real(folder: Path) -> None:
    edit(folder / "study.json", lambda content: content["spec"]["cluster"].update(driver="process", time_scale=1))


def elsewhere(folder: Path) -> None:
    edit(folder / "study.json", lambda content: content["spec"]["cluster"].update(profile="2x-small"))


def refitted(folder: Path) -> None:
    edit(folder / "study.json", lambda content: content.update(ground={"content of cluster.profile": "cafe"}))


def unsaid(folder: Path) -> None:
    for path in folder.glob("trials/*/plan.json"):
        edit(path, lambda content: content.pop("provenance"))


def nameless(folder: Path) -> None:
    edit(folder / "trials/0001/result.json", lambda content: content["params"].pop("layout"))


def unplaced(folder: Path) -> None:
    edit(folder / "trials/0001/result.json", lambda content: content["params"].update(layout="7"))


def odd(**params: Any) -> Callable[[Path], None]:
    """What no version of ours would write."""
    return lambda folder: edit(folder / "trials/0001/result.json", lambda content: content["params"].update(params))


UNUSED: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "damaged": (lambda folder: broken(folder, "study.json"), "damaged"),
    "a damaged trial": (lambda folder: broken(folder, "trials/0001/result.json"), "damaged"),
    "a trial of nothing": (nameless, "damaged (a trial of no configuration)"),
    "a trial on no device": (unplaced, "7"),
    "a trial of no number of slots": (odd(num_parallel="x"), "damaged ("),
    "a trial without slots": (odd(num_parallel=0), "damaged ("),
    "a trial of an unknown policy": (odd(policy="zzz"), "damaged ("),
    "of a newer version": (newer, "format 99 is of a newer autotune"),
    "of nothing": (unmeasured, "nothing was measured"),
    "of an older version": (unsaid, "damaged (no provenance)"),
    "without a plan": (lambda folder: (folder / "trials/0000/plan.json").unlink(), "No such file"),
    "of a real host": (real, "of a real host"),
    "of another profile": (elsewhere, "of another host: profile 2x-small; here it is "),
    "of a profile that says something else by now": (refitted, "; here it is of other figures"),
    "of another model": (
        lambda folder: proven(folder, model_digest="cafe"),
        "of another model: tiny, digest cafe; here",
    ),
    "of other devices": (lambda folder: proven(folder, devices=[]), "of another host: none; here there are 2 × "),
}


@pytest.mark.parametrize(("spoil", "why"), UNUSED.values(), ids=UNUSED)
def test_one_that_is_of_no_use_is_left_out_with_the_reason(
    spoil: Callable[[Path], None], why: str, hardware: str, beside: Path
) -> None:
    spoil(beside.parent / "first")
    found = look(beside, playing(hardware).ground)
    assert found.used == ()
    assert found.prior == Prior()
    (line,) = found.left
    assert line.startswith("first: ")
    assert why in line
    named = playing(hardware, search={"warm_start": [str(beside.parent / "first")]}).ground
    with pytest.raises(SpecError) as raised:
        look(beside, named)
    assert raised.value.message.startswith(f'search.warm_start = "{beside.parent / "first"}": ')
    assert why in raised.value.message
    assert "\n" not in raised.value.message


def test_a_named_folder_that_is_none_is_one_clear_line(hardware: str, tmp_path: Path) -> None:
    ground = playing(hardware, search={"warm_start": str(tmp_path / "gone")}).ground
    with pytest.raises(SpecError, match=r"^search\.warm_start = \".*/gone\": no study"):
        look(tmp_path / "own", ground)


# that it stays


def begin(own: Path, ground: Ground, results: list[TrialResult]) -> Warmth:
    return earlier.begin(own, ground, provenance(ground), results)


def test_what_a_study_begins_with_stays_whatever_becomes_of_the_others(hardware: str, beside: Path) -> None:
    there = playing(hardware, budget={"trials": 3})
    began = begin(beside, there.ground, [])
    results = keep(there, beside, 2, began.prior).trials.results()
    shutil.copytree(beside.parent / "first", beside.parent / "another")
    shutil.rmtree(beside.parent / "first")
    again = begin(beside, there.ground, results)
    assert again == began == earlier.kept(beside)
    assert results[1].params == began.prior.first[0]

    def proposed(name: str, prior: Prior) -> dict[str, Any] | None:
        asked = Sampler(beside / name, "test", 2, there.ground.space, there.ground.baseline, way(there.ground, prior))
        asked.open(results[:3])
        return asked.propose()

    assert proposed("one.db", again.prior) == proposed("two.db", began.prior) is not None


def test_until_something_was_measured_it_is_looked_for_anew(hardware: str, beside: Path) -> None:
    ground = playing(hardware).ground
    assert begin(beside, ground, []).used
    shutil.rmtree(beside.parent / "first")
    assert begin(beside, ground, []) == earlier.kept(beside) == Warmth()
    assert not (beside / "warm.json").exists()


def test_what_is_damaged_is_said(hardware: str, beside: Path) -> None:
    begin(beside, playing(hardware).ground, [])
    path = beside / "warm.json"
    for spoilt in ("{", "[]", "{}", path.read_text().replace('"weight": ', '"weight": "x')):
        path.write_text(spoilt)
        with pytest.raises(StorageError, match=r"warm\.json: damaged"):
            earlier.kept(beside)


# what it is worth


def test_a_warm_night_comes_to_the_best_sooner(hardware: str, first: Path, tmp_path: Path) -> None:
    there = playing(hardware, budget={"trials": 3})
    alone = [params for params in there.ground.space.configurations() if params["layout"] == "0"]
    best = max(truth(there, params).tps for params in alone if int(params["num_parallel"]) >= 8)

    def reached(results: list[TrialResult]) -> int:
        good = (one.number for one in results if truth(there, one.params).tps > 0.98 * best)
        return next(good, len(results))

    assert not look(tmp_path / "own", there.ground).used
    named = playing(hardware, search={"warm_start": [str(first)]})
    prior = look(tmp_path / "own", named.ground).prior
    cold = keep(there, tmp_path / "cold", 3).trials.results()
    warm = keep(there, tmp_path / "warm", 3, prior).trials.results()
    assert reached(warm) == 1
    assert reached(cold) > 1
