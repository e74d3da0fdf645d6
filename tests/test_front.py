"""A proof of several goals: who is on the front, how it is told, and what is exported of it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from autotune import console, export, report
from autotune.confirm import Kind, Verdict, chosen, contenders, finalists, place
from autotune.confirm.shares import levels
from autotune.console.scene import Scene
from autotune.errors import NothingFeasible, UsageError
from autotune.export.bundle import bundle
from autotune.ground import Ground
from autotune.ollama.api import ServerFacts
from autotune.store import Store
from tests.conftest import TINY, gpus, study
from tests.export.test_bundle import RAN, REAL
from tests.factories import BASELINE, LIMIT, params, result, space
from tests.proofs import CANDIDATES, RULES, steady

if TYPE_CHECKING:
    from autotune.result import TrialResult
    from autotune.spec import Proof, StudySpec

SPEC = study(objective={"metric": ["tps", "ttft_mean_s"], "limits": [LIMIT]})
Law = Sequence[tuple[float, float | None]]


UNLIMITED = study(objective={"metric": ["tps", "ttft_mean_s"]})


def proof(*laws: Law, rules: Proof = RULES, reasons: dict[int, str] | None = None, spec: StudySpec = SPEC) -> Verdict:
    """The verdict on runs of (tokens/s, mean TTFT in s) by candidate and block; the limit is 2 s."""
    found = []
    for number in range(len(laws[0]) * len(laws)):
        block, one = place(number, len(laws))
        tps, ttft_s = laws[one][block]
        reason = (reasons or {}).get(one, "")
        found.append(result(number, CANDIDATES[one], tps, ttft_s, reason=reason, spec=spec))
    return Verdict(contenders(CANDIDATES[: len(laws)], found), rules)


TODAY = steady(100, 0.5)


# who is on it


def test_two_that_are_each_better_in_a_goal_are_both_on_the_front_and_the_baseline_is_beaten() -> None:
    found = proof(TODAY, steady(200, 0.4), steady(150, 0.2))
    assert found.goals == ("output_tps", "ttft_mean_s")
    assert (found.kind, found.front.points, found.decided) == (Kind.FRONT, (1, 2), True)
    assert found.front.above(0) == [1, 2]
    assert (found.winners, found.recommended) == ((), 0)


def test_the_baseline_stays_on_the_front_where_it_is_best_in_something() -> None:
    found = proof(TODAY, steady(200, 0.9), steady(50, 0.2))
    assert (found.kind, found.front.points) == (Kind.FRONT, (1, 0, 2))


def test_what_another_beats_in_all_is_not_on_it() -> None:
    found = proof(TODAY, steady(200, 0.3), steady(150, 0.4))
    assert found.front.points == (1,)
    assert found.front.above(2) == [1]
    assert found.decided


def test_what_is_as_good_in_one_goal_and_better_in_another_beats() -> None:
    found = proof(TODAY, [(tps * 1.5, ttft) for tps, ttft in TODAY])
    assert (found.front.points, found.front.above(0)) == ((1,), [1])


def test_nothing_better_in_any_goal_is_to_keep_what_there_is() -> None:
    found = proof(TODAY, steady(90, 0.6), steady(80, 0.7))
    assert (found.kind, found.front.points, found.decided) == (Kind.KEEP, (0,), True)


def test_what_misses_a_limit_is_on_no_front_however_much_it_makes() -> None:
    found = proof(TODAY, steady(500, 9.0))
    assert (found.kind, found.front.points) == (Kind.KEEP, (0,))
    over = proof(steady(500, 9.0), TODAY)
    assert (over.kind, over.front.points) == (Kind.FRONT, (1,))


def test_what_cannot_be_measured_is_on_no_front() -> None:
    found = proof(TODAY, steady(500, 0.1), reasons={1: "offloaded"})
    assert (found.kind, found.front.points, found.decided) == (Kind.KEEP, (0,), True)


def test_what_has_too_few_requests_for_a_goal_is_on_no_front_and_ends_no_later() -> None:
    few: Law = [(300, None)] * 4
    found = proof([(100, None)] * 4, steady(200, 0.4), spec=UNLIMITED)
    assert (found.kind, found.front.points, found.decided) == (Kind.FRONT, (1,), True)
    assert (
        "Of the baseline too few requests came to know all goals: lengthen workload.window_max_s, or"
        in told(found).answer
    )
    assert [one.place for one in told(found).front[:2]] == ["on the front", "not all of its goals are known"]
    candidate = proof(TODAY, few, spec=UNLIMITED)
    assert (candidate.kind, candidate.front.points, candidate.decided) == (Kind.UNCLEAR, (0,), True)
    loud: Law = [(100 * factor, None) for factor in (1.06, 0.94, 1.05, 0.95)]
    other: Law = [(104 * factor, 0.4) for factor in (0.95, 1.05, 0.96, 1.06)]
    open_ = proof(loud, other, spec=UNLIMITED)  # what the baseline does not tell of itself ends no proof of the other
    assert (open_.kind, open_.front.points, open_.decided) == (Kind.UNCLEAR, (), False)
    nobody = proof(few, few, spec=UNLIMITED)
    assert (nobody.kind, nobody.front.points, nobody.decided) == (Kind.UNCLEAR, (), True)


def test_noise_hides_who_is_better() -> None:
    wild = [(100.0, 0.3), (220.0, 0.9), (90.0, 0.2), (160.0, 1.1)]
    found = proof(TODAY, wild)
    assert (found.kind, found.decided) == (Kind.UNCLEAR, False)
    assert 1 not in found.front.points


def test_too_few_blocks_say_nothing() -> None:
    found = proof(TODAY[:3], steady(200, 0.1)[:3])
    assert (found.kind, found.front.points, found.decided) == (Kind.UNPROVED, (), False)


def test_a_goal_that_is_not_known_in_a_block_is_known_in_fewer() -> None:
    runs = [result(n, CANDIDATES[place(n, 2)[1]], 100 + n, spec=SPEC) for n in range(8)]
    runs[3] = result(3, runs[3].params, 100, None, spec=SPEC)
    found = Verdict(contenders(CANDIDATES[:2], runs), RULES)
    change = found.front.change("ttft_mean_s", 1)
    assert change is not None
    assert change.n == 3
    assert found.goals


def test_changes_are_of_the_figure_itself() -> None:
    found = proof(TODAY, steady(200, 0.25))
    more, less = (found.front.change(goal, 1) for goal in found.goals)
    assert more is not None
    assert less is not None
    assert more.low < more.mean < more.high
    assert more.mean == pytest.approx(1.0, abs=0.02)
    assert less.low < less.mean < less.high < 0
    assert less.mean == pytest.approx(-0.5, abs=0.02)


def test_each_goal_has_statements_of_its_own() -> None:
    one, two = (levels(RULES, 4, 3, 2, goals) for goals in (1, 2))
    assert two.better == pytest.approx(one.better / 2, rel=0.05)
    assert two.limits == one.limits


# who runs in it


def search() -> list[TrialResult]:
    """What a search has measured."""
    points = [(100, 0.5), (300, 1.5), (250, 0.6), (200, 0.1), (150, 0.3), (900, 9.0)]
    several = [BASELINE, *(params(slots) for slots in (2, 4, 8, 16, 32))]
    return [result(at, several[at], tps, wait, spec=SPEC) for at, (tps, wait) in enumerate(points)]


def test_finalists_show_the_front_first_what_covers_most_of_it() -> None:
    slots = [one["num_parallel"] for one in finalists(search(), 4)]
    assert slots == [4, 8, 2, 16]
    assert [one["num_parallel"] for one in finalists(search(), 2)] == [4, 8]


def test_what_is_believed_goes_before_what_was_measured() -> None:
    ranked = [params(2), params(8), BASELINE, params(4)]
    assert finalists(search(), 2, ranked) == [params(2), params(8)]


def test_a_proof_of_a_front_is_of_its_points(tmp_path: Path) -> None:
    found, why = chosen(Store(tmp_path), SPEC, search(), None)
    assert (found, why) == ([BASELINE, params(4), params(8), params(2)], "")


# how it is told


def told(verdict: Verdict | None, results: Sequence[TrialResult] = ()) -> report.Findings:
    first = [result(at, one, 100.0 * (at + 1), 0.5 - at / 5, spec=SPEC) for at, one in enumerate(CANDIDATES)]
    return report.findings(SPEC, list(results) or first, verdict)


def test_a_front_is_told_with_all_its_points_and_no_winner() -> None:
    found = told(proof(TODAY, steady(200, 0.4), steady(150, 0.2)))
    assert found.answer.startswith(
        "Of the 3 configurations of the proof 2 are on the front of output_tps and ttft_mean_s, beaten by none: 0 | 1"
    )
    assert "output_tps 150" in found.answer
    assert found.answer.endswith("Proved in 4 blocks; the choice among them is yours.")
    assert found.chosen is None
    assert len(found.points) == 2
    assert [(one.trial, one.on, one.place) for one in found.front] == [
        (1, True, "on the front"),
        (2, True, "on the front"),
        (0, False, "beaten by 0 | 1  NUM_PARALLEL 8, least_conn"),
    ]
    output, wait = found.front[1].reached
    assert (output.goal, wait.goal) == ("output_tps", "ttft_mean_s")
    assert wait.between is not None
    assert wait.between[0] < 0.2 < wait.between[1]
    assert wait.change_between is not None
    assert wait.change_between[0] < -0.6 < wait.change_between[1]


def test_what_the_search_has_on_its_front_and_nobody_proved_is_told_as_that() -> None:
    every = [(100, 0.5), (200, 0.4), (150, 0.2), (120, 0.1), (110, 0.45)]
    tried = [*CANDIDATES, params(16), params(32)]
    results = [result(at, tried[at], tps, wait, spec=SPEC) for at, (tps, wait) in enumerate(every)]
    found = told(proof(TODAY, steady(200, 0.4), steady(150, 0.2)), results)
    assert [(one.trial, one.on, one.place) for one in found.front[3:]] == [
        (3, False, "on the front of the search, not proved")
    ]


@pytest.mark.parametrize(
    ("laws", "said"),
    [
        ([TODAY, steady(90, 0.6)], "Keep what you have, 0  NUM_PARALLEL 1: nothing is better in any of output_tps and"),
        ([TODAY, [(100.0, 0.3), (220.0, 0.9), (90.0, 0.2), (160.0, 1.1)]], "After 4 blocks nothing is certain to be"),
    ],
)
def test_what_is_no_front_is_told_too(laws: list[Law], said: str) -> None:
    assert told(proof(*laws)).answer.startswith(said)


def test_before_a_proof_the_front_is_that_of_the_search() -> None:
    found = told(None, search())
    assert [one.trial for one in found.front] == [1, 2, 3]
    assert found.answer == "The front of the search has 3 configurations. This is not yet a proof."
    assert found.front[0].reached[0].change == pytest.approx(2.0)
    assert found.front[0].reached[0].between is None


def test_the_front_is_a_table_on_the_screen_and_on_the_page(tmp_path: Path) -> None:
    found = told(proof(TODAY, steady(200, 0.4), steady(150, 0.2)))
    page = report.markdown(found, "")
    assert "## The front" in page
    assert "| 2 | 0 \\| 1 NUM\\_PARALLEL 4, least\\_conn | 150" in page
    screen = io.StringIO()
    console.status(Console(file=screen, width=200), found, tmp_path, "no night runs")
    assert "The front" in screen.getvalue()
    assert "autotune export" in screen.getvalue()
    assert "--trial N" in screen.getvalue()


def test_the_live_view_counts_who_is_on_the_front() -> None:
    assert Scene(SPEC, search(), 0.0).headline() == (
        "3 on the front so far, the fastest 300.0 tokens/s (+200% against the baseline)"
    )


def test_one_answer_has_no_front() -> None:
    spec = study(objective={"limits": [LIMIT]})
    found = report.findings(spec, [result(0, BASELINE), result(1, params(8), 200)])
    assert found.front == ()
    assert "The front" not in report.markdown(found, "")


# what is exported


def proved(folder: Path, *figures: tuple[float, float]) -> Store:
    """A study whose proof says so of the baseline and others."""
    spec = study(objective={"metric": ["tps", "ttft_mean_s"], "limits": [LIMIT]}, **REAL)
    store = Store(folder / "night")
    store.open(spec, "# a study\n")
    ground = Ground(spec, gpus(), ServerFacts("0.32.15", TINY), Path("/models of all"), Path("/home"), space(), {})
    several = CANDIDATES[: len(figures)]
    for number, (one, made) in enumerate(zip([*several, params(16)], [*figures, (90.0, 0.6)], strict=True)):
        plan = ground.plan(one)
        store.trials.write_plan(number, one, plan, RAN)
        store.trials.save(result(number, one, *made, fingerprint=plan.fingerprint, spec=spec), [])
    shelf = store.proof(store.begin_proof(several))
    for number in range(4 * len(several)):
        which = place(number, len(several))[1]
        plan = ground.plan(several[which])
        shelf.write_plan(number, several[which], plan, RAN)
        made = figures[which][0] + number / 10, figures[which][1] + number / 1000
        shelf.save(result(number, several[which], *made, fingerprint=plan.fingerprint, spec=spec), [])
    return store


def test_without_a_choice_the_points_are_told(tmp_path: Path) -> None:
    store = proved(tmp_path, (100, 0.5), (200, 0.4), (150, 0.2))
    with pytest.raises(UsageError) as raised:
        bundle(store)
    said = raised.value.message
    assert "has a front, and no single winner: choose one of its points" in said
    assert "--trial 1: 0 | 1  NUM_PARALLEL 8, least_conn; --trial 2: 0 | 1  NUM_PARALLEL 4, least_conn" in said
    assert "--trial 0" not in said


def test_a_chosen_point_of_the_front_is_proved_and_any_other_trial_is_not(tmp_path: Path) -> None:
    store = proved(tmp_path, (100, 0.5), (200, 0.4), (150, 0.2))
    export.write(store, tmp_path / "out", trial=2, user="ollama")
    told = json.loads((tmp_path / "out" / "cluster.json").read_text())
    assert told["proved"] is True
    assert told["params"] == CANDIDATES[2]
    assert len(told["trials"]) == 4
    assert told["expected"]["low"] < told["expected"]["output_tps"] < told["expected"]["high"]
    assert [one["goal"] for one in told["goals"]] == ["output_tps", "ttft_mean_s"]
    assert told["goals"][1]["value"] == pytest.approx(0.205, abs=0.005)
    assert any("front that was proved" in line for line in told["about"])
    assert not any("Not proved" in line for line in told["about"])
    other = bundle(store, trial=3, user="ollama")
    assert not other.proved
    assert any("Not proved" in line for line in other.marks)
    assert other.document()["goals"] == []
    assert not bundle(store, trial=0, user="ollama").proved


def test_where_nothing_is_better_there_is_nothing_to_install(tmp_path: Path) -> None:
    with pytest.raises(NothingFeasible, match="there is nothing to install"):
        bundle(proved(tmp_path, (100, 0.5), (90, 0.6)))
