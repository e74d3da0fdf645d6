"""The search brought back from a study's folder: it believes what it believed in the night, and can be asked."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest

from autotune import report
from autotune.errors import UsageError
from autotune.events import read
from autotune.hindsight import foretold
from autotune.recall import Recalled, recall, silent
from autotune.rehearsal.host import host
from autotune.rehearsal.nights import night
from autotune.simulator.clock import run_virtual
from autotune.space import key
from autotune.store import Store
from tests.rehearsal.studies import profile, small

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.belief import Odds
    from autotune.spec import StudySpec
    from tests.commands import Run

NAME = "ttft_s mean at 6 users"


def slept(folder: Path, **changes: Any) -> Store:
    """A night of a few trials on a played host, kept as a real one is."""
    noisy = str(profile(folder / "noisy.toml", host__life_jitter=0.02, host__step_jitter=0.1))
    spec: StudySpec = small(
        cluster={"profile": noisy}, **{"budget": {"trials": 6}, "proof": {"finalists": 0}, **changes}
    )
    store = Store(folder / spec.study.name)
    store.open(spec, "# the study file\n")

    async def whole() -> None:
        playing = await host(spec)
        store.write_host(playing.ground.inventory, playing.ground.facts)
        await night(playing, spec.study.seed, store)

    run_virtual(whole())
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return slept(tmp_path_factory.mktemp("night"))


@pytest.fixture(scope="module")
def known(store: Store) -> Recalled:
    found = recall(store)
    assert found is not None
    return found


def test_it_believes_what_it_believed_in_the_night(store: Store, known: Recalled) -> None:
    """Of the last trial it says again, to the last bit, what the night's own search has foretold."""
    told = [event for event in read(store.events) if event["what"] == "foretold"][-1]
    last = store.trials.results()[-1].params
    before = replace(known, trials=known.trials[:-1])
    (again,) = before.search.believed(before.trials, [last])
    assert (again.tps.value, again.tps.low, again.tps.high) == (told["tps"], told["low"], told["high"])
    assert {name: asdict(one) for name, one in again.limits.items()} == told["limits"]
    assert (again.holds, again.starts) == (told["holds"], told["starts"])


def test_what_was_foretold_in_the_night_is_held_against_its_trials(store: Store) -> None:
    results = store.trials.results()
    every = foretold(store.spec(), read(store.events), results)
    assert [one.number for one in every] == list(range(1, 6))
    assert [held.name for held in every[0].figures] == ["tokens/s", NAME]
    cut = {result.number for result in results if result.dropped}
    assert len(cut) < 3
    for one in every:
        assert [held.measured is None for held in one.figures] == [one.number in cut] * 2


def test_nothing_is_written(store: Store) -> None:
    before = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    found = recall(store)
    assert found is not None
    found.odds()
    assert {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()} == before


def test_its_odds_are_of_the_whole_space(known: Recalled) -> None:
    found = known.odds()
    assert {key(one.believed.params) for one in found.contenders} >= {key(one) for one in known.space.configurations()}
    assert sum(one.chance for one in found.contenders) + found.nothing == pytest.approx(1)


# any configuration


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("layout=0", {"layout": "0", "num_parallel": 1}),
        ("layout = 1 , num_parallel=4", {"layout": "0", "num_parallel": 4}),
        ("layout=0 | 1,num_parallel=3", {"layout": "0 | 1", "num_parallel": 3, "policy": "round_robin"}),
        ("layout=0x2,policy=least_conn", {"layout": "0x2", "num_parallel": 1, "policy": "least_conn"}),
    ],
)
def test_any_configuration_can_be_asked_for(known: Recalled, text: str, params: dict[str, Any]) -> None:
    found = known.believed(text)
    assert found.params == {**params, "flash_attention": "auto", "kv_cache_type": "f16"}
    assert found.tps.low < found.tps.value < found.tps.high
    assert found.limits[NAME].low < found.limits[NAME].value < found.limits[NAME].high


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("num_parallel=8", "says no layout; a configuration is written as in 'layout=0 | 1,num_parallel=8'"),
        ("layout=7", 'layout "7": there is no device 7'),
        ("layout=0,8", "'8' is no parameter with its value"),
        (
            "layout=0,num_parallel=2,num_parallel=8",
            "num_parallel is there twice: as '2' and as '8'; allowed is one value",
        ),
        ("layout=0, layout = 0", "layout is there twice"),
        ("layout=0,num_parallel=many", "num_parallel = 'many': allowed is a whole number above 0"),
        (f"layout=0,num_parallel={'9' * 400}", "allowed is a whole number above 0"),
        ("layout=0,num_parallel=0", "num_parallel = '0': allowed is a whole number above 0"),
        ("layout=0 | 1,policy=random_two", "policy = 'random_two': allowed is round_robin or least_conn"),
        ("layout=0,policy=least_conn", "policy is no parameter of layout 0; there are layout, num_parallel, flash"),
        ("layout=0,num_batch=512", "num_batch is no parameter of layout 0"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(known: Recalled, text: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        known.believed(text)
    assert words in refused.value.message


# where nothing is believed


def test_other_searches_and_older_folders_believe_nothing(store: Store, tmp_path: Path, run: Run) -> None:
    other = slept(tmp_path, search={"sampler": "random"})
    assert recall(other) is None
    found = report.read(other)
    assert (found.foretold, found.odds) == ((), None)
    assert "believed" not in report.markdown(found, "")
    header = other.header() or {}
    other.write_header({name: value for name, value in header.items() if name != "host"})
    assert other.host() is None
    assert recall(other) is None
    assert 'nothing is believed: search.sampler = "random"' in run.refused(2, "forecast", other.folder)
    header = store.header() or {}
    store.write_header({name: value for name, value in header.items() if name != "host"})
    assert silent(store) == "it is of a version that did not keep its host"
    assert recall(store) is None
    store.write_header(header)
    assert not silent(store)


def test_before_anything_was_measured_nothing_is_believed(store: Store, tmp_path: Path) -> None:
    empty = Store(tmp_path / "empty")
    empty.open(store.spec(), "")
    assert recall(empty) is None
    assert silent(empty) == "nothing was measured yet"


# what people see


def test_the_report_says_what_was_believed_and_what_could_still_win(store: Store, run: Run) -> None:
    code, said, _ = run("report", store.folder)
    assert code == 0
    assert "## What could still win" in said
    assert "## What the search believed" in said
    assert "tokens/s: " in said
    assert "Its trust in the law of queues: the law" in said


def test_status_says_the_five_likeliest(store: Store, run: Run) -> None:
    code, said, _ = run("status", store.folder)
    assert code == 0
    assert "What could still win" in said
    assert "belief: tokens/s: " in said
    after = said.split("What could still win")[1].split("To install")[0]
    assert after.count("NUM_PARALLEL") >= 5


def test_status_says_what_was_found_before_it_asks_what_could_win(
    store: Store, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole, _ = run("status", store.folder)
    said: list[str] = []
    asked = Recalled.odds

    def odds(known: Recalled) -> Odds:
        said.append(capsys.readouterr().out)
        return asked(known)

    monkeypatch.setattr(Recalled, "odds", odds)
    _, rest, _ = run("status", store.folder)
    (before,) = said
    assert before + rest == whole
    assert before.rstrip().splitlines()[-1].startswith("belief: ")
    assert rest.lstrip().startswith("What could still win")


def test_a_forecast_is_of_what_could_win_or_of_what_is_asked(store: Store, run: Run) -> None:
    code, said, _ = run("forecast", store.folder)
    assert code == 0
    assert "What could still win" in said
    assert "All others together are the best with a chance of" in said
    code, said, _ = run("forecast", store.folder, "layout=0 | 1,num_parallel=4", "layout=0")
    assert code == 0
    first, second = said.splitlines()
    assert first.startswith("0 | 1  NUM_PARALLEL 4, round_robin: ")
    assert f"; {NAME} " in second
    code, said, _ = run("forecast", store.folder, "layout=0,num_parallel=99")
    assert code == 0
    assert said.splitlines()[1] == "  it is no configuration of this study's space"
