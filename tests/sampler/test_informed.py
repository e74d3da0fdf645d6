"""The informed search as an Optuna sampler, and as a night's; on clusters whose truth is known."""

from __future__ import annotations

import math
import shutil
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from autotune.belief import Evidence, Loaded, Question, evidence
from autotune.belief.choice import REPEATS
from autotune.sampler import InformedSampler, Sampler, Way
from autotune.sampler.informed import POOL, of_trial
from autotune.space import build, key
from tests.belief.worlds import SPACE as FOUR
from tests.belief.worlds import World, asked
from tests.belief.worlds import params as of_four
from tests.benchmarks.clusters import ALL
from tests.conftest import gpus
from tests.factories import BASELINE, SPEC, params, result
from tests.test_counting import CHOICES, MIXED
from tests.test_sampler import LARGE, SPACE, by_slots, told
from tests.test_space import FACTS, GIB, host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from autotune.result import TrialResult
    from autotune.space import Space
    from tests.benchmarks.clusters import Cluster

simulated = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler for the simulation"
)
QUESTION = Question.of(SPEC, gpus(), None)
FAVOURITE = params(8, "0 | 1", policy="least_conn")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read that an earlier run left, and nothing is left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "optuna.db"


# in an ordinary study of Optuna


def suggested(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """As anybody would suggest a configuration: what depends on others only where it is there."""
    found: dict[str, Any] = {}
    for name, values in space.choices.items():
        if name not in trial.relative_params:
            continue
        if name in {"num_parallel", "num_batch"}:
            numbers = [int(value) for value in values]
            found[name] = trial.suggest_int(name, min(numbers), max(numbers), log=True)
        else:
            found[name] = trial.suggest_categorical(name, values)
    return found


def optimized(cluster: Cluster, trials: int, tell: Callable[[optuna.Trial, TrialResult], None]) -> optuna.Study:
    """A study of so many trials; of each of them its value and its constraints are told, and what `tell` tells."""
    question = Question.of(cluster.spec, cluster.inventory, cluster.facts)
    assert question is not None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = InformedSampler(cluster.space, question, first=[cluster.baseline, cluster.rule_of_thumb])
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        chosen = suggested(trial, cluster.space)
        assert cluster.space.allows(chosen)
        came = cluster.observe(chosen, trial.number)
        for name, value in came.score.constraints.items():
            trial.set_constraint(name, value)
        tell(trial, came)
        if came.score.objective is None:
            raise optuna.TrialPruned
        return came.score.objective

    study.optimize(objective, n_trials=trials)
    return study


@simulated
@pytest.mark.parametrize(("family", "seed"), [("match", 105), ("oom", 105)])
def test_any_study_can_have_it(family: str, seed: int) -> None:
    """Also where only values and constraints are told."""
    cluster = ALL[family](seed)
    study = optimized(cluster, 8, lambda trial, came: None)
    assert [trial.params for trial in study.trials[:2]] == [cluster.baseline, cluster.rule_of_thumb]
    assert len(study.trials) == 8
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert any(cluster.regret(trial.params) < 0.1 for trial in study.trials)


@simulated
def test_evidence_that_is_told_is_what_it_learns_from() -> None:
    cluster = ALL["match"](105)
    question = Question.of(cluster.spec, cluster.inventory, cluster.facts)
    assert question is not None
    came: list[TrialResult] = []

    def tell(trial: optuna.Trial, one: TrialResult) -> None:
        came.append(one)
        trial.set_user_attr("evidence", evidence(one, question).to_json())

    study = optimized(cluster, 5, tell)
    read = [of_trial(trial, question) for trial in study.trials]
    assert read == [evidence(one, question) for one in came]
    alone = InformedSampler(cluster.space, question)
    assert [alone.next(read[:count]) for count in (2, 3, 4)] == [trial.params for trial in study.trials[2:]]


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ("{}", r"'\{\}': no key 'loads'"),
        ("[]", r"'\[\]': "),
        ("half of it", "'half of it': Expecting value"),
        (7, "7: the JSON object must be str"),
        ('{"loads": [{"users": 5, "tails": [], "parts": []}], "bounds": []}', "required positional argument: 'tps'"),
    ],
)
def test_evidence_that_is_damaged_is_named(told: Any, problem: str) -> None:
    study = optuna.create_study(direction="maximize")
    study.add_trial(optuna.trial.create_trial(value=5.0, user_attrs={"evidence": told}))
    with pytest.raises(ValueError, match=f"^trial 0: user attribute evidence = .*{problem}.* Evidence.to_json writes$"):
        of_trial(study.trials[0], asked())


def test_without_evidence_a_trial_says_its_value_and_its_limits() -> None:
    question = asked()
    (bound,) = question.bounds
    study = optuna.create_study(direction="maximize")
    for value, over in ((100.0, 0.25), (None, 0.0)):
        trial = study.ask({"num_parallel": optuna.distributions.IntDistribution(1, 4)})
        trial.set_constraint(bound.name, over)
        trial.set_constraint("success rate at 20 users", 0.0)
        study.tell(trial, value, state=None if value else TrialState.PRUNED)
    good, bad = (of_trial(trial, question) for trial in study.trials)
    assert good.loads == (Loaded(20, 100.0),)
    assert dict(good.bounds) == {bound.name: pytest.approx(1.25 * bound.most)}
    assert (bad.failed, bad.loads, bad.misfit) == (True, (), False)


@pytest.mark.parametrize(
    ("value", "over"),
    [(math.inf, 0.0), (100.0, math.inf), (100.0, -1.0), (100.0, -1.5), (0.0, 0.0), (1e308, 0.0)],
)
def test_one_strange_trial_ends_no_study(value: float, over: float) -> None:
    question = asked()
    study = optuna.create_study(direction="maximize", sampler=InformedSampler(SPACE, question))
    for number in range(6):
        trial = study.ask()
        suggested(trial, SPACE)
        trial.set_constraint(question.bounds[0].name, over if number == 2 else 0.1)
        study.tell(trial, value if number == 2 else 100.0 + number)
    assert len(study.trials) == 6


def test_what_failed_is_not_tried_again_and_what_is_no_configuration_teaches_nothing() -> None:
    study = optuna.create_study(direction="maximize", sampler=InformedSampler(SPACE, asked()))
    study.add_trial(optuna.trial.create_trial(value=3.0))
    tried = []
    for number in range(8):
        trial = study.ask()
        tried.append(key(suggested(trial, SPACE)))
        study.tell(trial, *((100.0 + number,) if number < 2 else (None, TrialState.FAIL)))
    assert len(set(tried[2:])) == 6


def test_a_trial_that_failed_before_it_had_all_its_parameters_teaches_nothing() -> None:
    study = optuna.create_study(direction="maximize", sampler=InformedSampler(SPACE, asked()))
    for number in range(3):
        trial = study.ask()
        trial.suggest_categorical("layout", SPACE.choices["layout"])
        study.tell(trial, state=TrialState.FAIL)
        trial = study.ask()
        suggested(trial, SPACE)
        study.tell(trial, 100.0 + number)
    assert len(study.trials) == 6


def test_what_another_worker_runs_is_not_proposed_a_second_time() -> None:
    first = [of_four(4, "0 | 1"), of_four(16)]
    world = World(0, noise=0.01)
    study = optuna.create_study(direction="maximize", sampler=InformedSampler(FOUR, world.question, first=first))
    running = [key(suggested(study.ask(), FOUR)) for _ in range(2)]
    assert running == [key(one) for one in first]
    searching, trials = InformedSampler(FOUR, world.question), world.trials(5)
    best = searching.next(trials)
    assert key(searching.next(trials, running=[best])) != key(best)


def test_a_study_that_makes_output_small_is_refused() -> None:
    assert QUESTION is not None
    study = optuna.create_study(direction="minimize", sampler=InformedSampler(SPACE, QUESTION))
    with pytest.raises(ValueError, match=r"direction: minimize; allowed is maximize"):
        study.optimize(lambda trial: float(trial.suggest_int("num_parallel", 1, 8, log=True)), n_trials=1)


def test_it_may_begin_with_nothing_and_go_on_beyond_the_end() -> None:
    """Of a space of three: more trials than it would ever ask for, the first without anything known."""
    space = build(gpus(), None, num_ctx=1024, num_parallel=(2, 4, 8), layouts=("0",))
    assert QUESTION is not None
    study = optuna.create_study(direction="maximize", sampler=InformedSampler(space, QUESTION))

    def objective(trial: optuna.Trial) -> float:
        chosen = suggested(trial, space)
        assert space.allows(chosen)
        if chosen["num_parallel"] == 2:
            raise optuna.TrialPruned
        return 10.0 * float(chosen["num_parallel"])

    study.optimize(objective, n_trials=9)
    assert {trial.params["num_parallel"] for trial in study.trials} == {2, 4, 8}
    assert sum(trial.state is TrialState.PRUNED for trial in study.trials) == 1


def test_a_parameter_that_no_configuration_has_is_no_obstacle() -> None:
    """Two groups of cores whose RAM holds one instance: nothing to spread, and one class of them at a time."""
    space = build(
        host("ab", 10), FACTS, num_ctx=4096, num_parallel=[1, 2], policies=["round_robin", "least_conn"],
        weights=["equal", "slots"],
    )  # fmt: skip
    found = [one for one in space.configurations() if "policy" in one]
    assert found == []
    question = asked(2, kinds=("a", "b"))
    assert space.allows(InformedSampler(space, question).next([]))


def test_what_is_told_of_first_comes_first_as_far_as_the_space_has_it() -> None:
    world = World(0, noise=0.01)
    first = [of_four(4, "0 | 1"), of_four(5), of_four(16)]
    searching = InformedSampler(FOUR, world.question, first=first)
    trials: list[Evidence] = []
    for expected in (first[0], first[2]):
        chosen = searching.next(trials)
        assert chosen == expected
        trials.append(world.trial(chosen, len(trials)))
    assert key(searching.next(trials)) not in {key(one) for one in first}


def test_what_it_believes_can_be_asked() -> None:
    world = World(0, noise=0.01)
    searching = InformedSampler(FOUR, world.question)
    assert searching.trust == ""
    assert searching.forecast([], [of_four()]) is None
    trials = world.trials(5)
    forecast = searching.forecast(trials, [of_four(), of_four(8, "0 | 1")])
    assert forecast is not None
    assert forecast.tps.shape == (2,)
    assert searching.trust
    assert {key(one) for one in searching.ranked(trials)} <= {key(trial.params) for trial in trials}


# in a night


def informed(path: Path | None, space: Space = LARGE, first: Mapping[str, Any] | None = FAVOURITE) -> Sampler:
    return Sampler(path, "test", 1, space, BASELINE, Way("informed", QUESTION, first))


def opened(path: Path, results: list[TrialResult]) -> Sampler:
    asking = informed(path)
    asking.open(results)
    return asking


def test_the_first_after_the_baseline_is_what_experience_says(path: Path) -> None:
    asking = informed(path, SPACE)
    asking.open([])
    assert [one.params for one in told(asking, 2)] == [BASELINE, FAVOURITE]
    assert asking.by == "informed"


def test_a_night_that_was_interrupted_asks_as_it_would_have(tmp_path: Path) -> None:
    kept, rebuilt = tmp_path / "one.db", tmp_path / "two.db"
    through = opened(kept, [])
    results = told(through, 5)
    proposal = through.propose()
    assert proposal is not None
    assert LARGE.allows(proposal)
    assert proposal == through.propose() == opened(kept, results).propose() == opened(rebuilt, results).propose()
    after = told(opened(rebuilt, results[:3]), 2, before=results[:3])
    assert [one.params for one in after] == [one.params for one in results]


def test_optuna_s_study_of_a_night_is_enough_for_another_to_go_on(path: Path) -> None:
    """Through the user attribute that everybody can read in the database."""
    assert QUESTION is not None
    asking = opened(path, [])
    results = told(asking, 4)
    stored = optuna.load_study(study_name="test", storage=f"sqlite:///{path}").trials
    assert [of_trial(trial, QUESTION) for trial in stored[1:]] == [evidence(one, QUESTION) for one in results[1:]]


def test_a_night_goes_on_after_a_baseline_that_failed(path: Path) -> None:
    failed = result(0, BASELINE, reason="load_failed")
    asking = Sampler(path, "test", 1, SPACE, BASELINE, Way("informed", QUESTION))
    asking.open([failed])
    proposal = asking.propose()
    assert proposal is not None
    assert SPACE.allows(proposal)
    assert asking.ranked() == []
    assert asking.promise(0.02) is None
    assert asking.forecast([BASELINE]) is None
    results = told(asking, 3, before=[failed])
    assert key(BASELINE) not in {key(one.params) for one in results[1:]}
    assert asking.ranked()


def test_it_says_what_it_believes(path: Path) -> None:
    asking = opened(path, [])
    assert asking.ranked() is None
    results = told(asking, 4)
    ranked, promised, forecast = (
        asking.ranked(),
        asking.promise(0.02),
        asking.forecast([{**FAVOURITE, "num_batch": 256}]),
    )
    assert ranked
    assert promised is not None
    assert 0 <= promised <= 1
    assert forecast is not None
    assert asking.trust
    assert {key(one) for one in ranked} <= {key(one.params) for one in results}


def test_what_it_foretells_of_a_configuration_is_what_it_believes(path: Path) -> None:
    asking = opened(path, [])
    chosen = {**FAVOURITE, "num_batch": 256}
    assert asking.foretold(chosen) is None
    told(asking, 4)
    found, forecast = asking.foretold(chosen), asking.forecast([chosen])
    assert found is not None
    assert forecast is not None
    assert found["tps"] == pytest.approx(float(np.exp(forecast.tps[0])))
    assert 0 < found["low"] < found["tps"] < found["high"]
    assert found["high"] / found["tps"] == pytest.approx(found["tps"] / found["low"])
    assert QUESTION is not None
    (bound,) = QUESTION.bounds
    limit = found["limits"][bound.name]
    assert limit["value"] == pytest.approx(bound.most * float(np.exp(forecast.bounds[0, 0])))
    assert 0 < limit["low"] < limit["value"] < limit["high"]
    assert 0 <= found["holds"] <= 1
    assert 0 <= found["starts"] <= 1
    assert found["trust"] == asking.trust


def test_a_narrowed_space_is_all_that_it_proposes_from_then_on(path: Path) -> None:
    asking = informed(path, SPACE)
    asking.open([])
    before = told(asking, 3)
    alone = build(gpus(), None, num_ctx=1024, num_parallel=(2, 4), layouts=("0",))
    asking.limit(alone)
    proposal = asking.propose()
    assert proposal is not None
    assert alone.allows(proposal)
    results = before
    while asking.propose() is not None:
        results = told(asking, 1, before=results)
        assert alone.allows(results[-1].params)
    assert len(results) <= len(before) + 2 * REPEATS
    assert asking.untried == 0


def test_nothing_is_proposed_when_all_was_tried(path: Path) -> None:
    asking = informed(path, SPACE)
    results = [by_slots(number, one) for number, one in enumerate(SPACE.configurations())]
    asking.open(results)
    assert asking.untried == 0
    assert asking.propose() is None


def test_where_there_is_no_law_another_search_takes_its_place(tmp_path: Path) -> None:
    ways = {"informed": Way("informed", None), "tpe": Way("tpe")}
    found = {}
    for name, way in ways.items():
        asking = Sampler(tmp_path / f"{name}.db", "test", 1, LARGE, BASELINE, way)
        asking.open([])
        found[name] = [one.params for one in told(asking, 8)]
        assert asking.by == "tpe"
        assert (asking.odds(), asking.believed([BASELINE]), asking.foretold(BASELINE)) == (None, [], None)
        assert (asking.ranked(), asking.promise(0.02), asking.forecast([BASELINE]), asking.trust) == (
            None,
            None,
            None,
            "",
        )
    assert found["informed"] == found["tpe"]


# a space that is too large to be listed


def test_sixteen_devices_of_three_kinds_are_searched_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    space = build(host(MIXED), FACTS, num_ctx=4096, **CHOICES)
    monkeypatch.setattr("autotune.sampler.informed.POOL", POOL // 5)
    monkeypatch.setattr(type(space), "configurations", lambda _: pytest.fail("it was listed"))
    kinds = tuple(MIXED)
    question = asked(16, kinds=kinds, memory_bytes=(22.0 * GIB,) * 16, weights_bytes=8.0 * GIB, slot_bytes=0.5 * GIB)
    tracemalloc.start()
    try:
        searching = InformedSampler(space, question)
        load = Loaded(20, 100.0, 0.05, 1.0, prefill_s=0.2)
        trials = [Evidence(searching.next([]), (load,))]
        chosen = searching.next(trials)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(searching.pool) == POOL // 5
    assert space.allows(chosen)
    assert space.allows(trials[0].params)
    print(f"{most / 2**20:.0f} MiB at most")
    assert most < 100 * 2**20


# how good it is
