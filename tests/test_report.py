"""What is said of a study: the sentences of each kind of end, the tables, the doubts, and the page of Markdown."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from autotune import console, report
from autotune.confirm import Verdict, contenders, place
from autotune.earlier import Earlier, Warmth
from autotune.score import BEHIND, Score
from autotune.simulator import SIMULATED
from autotune.spec import Proof
from autotune.store import Store
from tests.conftest import study
from tests.factories import BASELINE, LIMIT, PROVENANCE, SPEC, metrics, params, result
from tests.proofs import CANDIDATES, FAST, LEAN, RULES, proof, steady
from tests.test_study import ONE_SLOT

if TYPE_CHECKING:
    from autotune.confirm import Contender
    from autotune.metrics import InstanceMetrics
    from autotune.result import TrialResult

SEARCH = [
    result(0, BASELINE, 100),
    result(1, FAST, 151),
    result(2, LEAN, 150),
    result(3, params(16), 400, ttft_s=9.0),
    result(4, params(32), reason="load_failed"),
]


def found(verdict: Verdict | None = None, results: list[TrialResult] = SEARCH, **more: Any) -> report.Findings:
    return report.findings(SPEC, results, verdict, **more)


def answer(verdict: Verdict | None = None, **more: Any) -> str:
    return found(verdict, **more).answer


# the answer


def test_a_winner_is_told_with_its_intervals() -> None:
    said = answer(proof(steady(100), steady(150)))
    assert said.startswith("Winner: 0 | 1  NUM_PARALLEL 8, least_conn: 15")
    assert "more tokens/s (between +4" in said
    assert "than the baseline. Proved in 4 blocks; a fresh start makes 14" in said
    assert said.endswith("tokens/s 19 times of 20.")


def test_a_winner_that_may_miss_the_limits_is_told_so() -> None:
    close = [(150.0, ttft_s) for ttft_s in (1.9, 2.04, 1.97, 1.99)]
    said = answer(proof(steady(100, 9.0), close))
    assert "and in the mean it met the limits, which the baseline misses" in said
    assert " That it meets the limits is not certain (ttft_s mean at 2 users: 1% under the limit (between -2" in said
    assert "it meets the limits is not certain" in answer(proof(steady(100), close))


def test_a_winner_over_a_baseline_that_misses_the_limits_is_not_compared_by_its_tokens() -> None:
    said = answer(proof(steady(400, 9.0), steady(150, 1.0)))
    assert "and it meets the limits, which the baseline misses (ttft_s mean at 2 users: 4.5 times the limit)." in said
    assert "more tokens/s" not in said
    assert "not certain" not in said
    assert "and the baseline could not be measured (offloaded)." in answer(
        proof(steady(100), steady(50), reasons={0: "offloaded"})
    )


def test_a_capacity_is_told_with_the_step_that_it_is_known_to() -> None:
    tried = ((8.0, "holds"), (32.0, "violated"), (16.0, "holds"), (18.0, "violated"), (17.0, "open"))
    users: dict[str, Any] = {"unit": "users", "tried": tried}
    runs = [result(at, (BASELINE, FAST)[at % 2], (8.0, 16.0)[at % 2], **users) for at in (0, 1, 3, 2, 4, 5, 7, 6)]
    said = answer(Verdict(contenders([BASELINE, FAST], runs), RULES))
    assert "16.0 users" in said
    assert said.endswith(" It is known to a step of its search: 18 did not hold.")
    uneven = [replace(one, score=replace(one.score, objective=19.0)) if one.number == 3 else one for one in runs]
    assert "a step of its search: 32 did not hold" in answer(Verdict(contenders([BASELINE, FAST], uneven), RULES))
    assert "a step of its search" not in answer(proof(steady(100), steady(150)))


def test_a_capacity_far_below_1_is_not_rounded_away() -> None:
    spec = study(objective={"metric": "capacity", "limits": [LIMIT]}, workload={"levels": [{"rate": 1.0}]})
    rate: dict[str, Any] = {"unit": "requests/s", "spec": spec}
    runs = [result(at, (BASELINE, FAST)[at % 2], (0.2104, 0.3456)[at % 2], **rate) for at in (0, 1, 3, 2, 4, 5, 7, 6)]
    proof = Verdict(contenders([BASELINE, FAST], runs), RULES)
    search = [result(0, BASELINE, reason="load_failed", spec=spec), result(1, FAST, 0.2478, **rate)]
    said = report.findings(spec, search, proof)
    assert "least_conn: 0.346 requests/s (0.346 to 0.346), " in said.answer
    assert "a fresh start takes 0.346 to 0.346 requests/s" in said.answer
    assert "0.248 requests/s in the search, 0.346 in the proof; only the proof counts" in said.cautions[0]
    page = report.markdown(said, "")
    assert "| 0.21, 0.21, 0.21, 0.21 | 0.21 (0.21 to 0.21) |" in page
    assert "|  | capacity, requests/s | mean TTFT, s |" in page
    assert "| 1 | 0.248 |" in page
    assert "least_conn: 0.248 requests/s (the baseline could not be measured)" in report.findings(spec, search).answer


def test_the_simplest_of_the_best_says_what_it_costs() -> None:
    said = answer(proof(steady(100), steady(151), steady(150)))
    assert said.startswith("Winner: 0 | 1  NUM_PARALLEL 4, least_conn: ")
    assert "It cannot be told apart from 0 | 1  NUM_PARALLEL 8, least_conn, and is the simplest of them" in said
    assert "against the fastest it makes 0." in said


def test_to_keep_what_one_has_is_a_full_answer() -> None:
    said = answer(proof(steady(100), steady(80)))
    assert said.startswith("Keep what you have, 0  NUM_PARALLEL 1: nothing is better by 2% or more (4 blocks). In")
    assert "0 | 1  NUM_PARALLEL 8, least_conn makes 2" in said
    assert "% fewer tokens/s (between -2" in said


def test_no_clear_winner_says_how_near_it_is() -> None:
    said = answer(proof(steady(100, blocks=12, spread=0.1), steady(103, blocks=12, spread=0.1)))
    assert said.startswith("No clear winner after 12 blocks: 0 | 1  NUM_PARALLEL 8, least_conn makes ")
    assert said.endswith("Until that is settled keep 0  NUM_PARALLEL 1.")
    late = answer(
        proof([(100, late) for late in (2.1, 1.98, 2.07, 2.02)], [(101, late) for late in (1.9, 2.04, 1.97, 1.99)])
    )
    assert "; whether the baseline misses the limits is not certain. Until" in late


def test_candidates_that_miss_the_limits_in_the_proof_are_no_winners() -> None:
    said = answer(proof(steady(100, 9.0), steady(150, 9.0)))
    assert said.startswith("No clear winner after 4 blocks: no candidate met the limits again; the baseline misses the")
    assert said.endswith("Nothing here is known to meet the limits, and 0  NUM_PARALLEL 1 surely does not.")


def test_candidates_with_too_few_requests_are_not_said_to_miss_the_limits() -> None:
    few: list[tuple[float, float | None]] = [(150, None)] * 4
    said = answer(proof(steady(100, 9.0), few))
    assert "met the limits again, as far as is known (ttft_s mean at 2 users: lengthen work" in said
    assert said.endswith("Nothing here is known to meet the limits, and 0  NUM_PARALLEL 1 surely does not.")
    assert answer(proof(steady(100), few)).endswith("Until that is settled keep 0  NUM_PARALLEL 1.")
    assert answer(results=[result(0, ttft_s=None)]) == (
        "No configuration is known to have met the limits. The nearest: 0  NUM_PARALLEL 1: not known to meet ttft_s"
        " mean at 2 users. What helps: lengthen workload.window_max_s, or drain_s where requests never got a first"
        " text."
    )


def test_a_baseline_with_too_few_requests_is_not_said_to_miss_the_limits() -> None:
    few, slow = result(0, BASELINE, ttft_s=None), result(0, BASELINE, ttft_s=9.0)
    assert "(the baseline is not known to meet the limits)" in answer(results=[few, result(1, FAST, 151)])
    assert "(the baseline misses the limits)" in answer(results=[slow, result(1, FAST, 151)])


def test_a_candidate_that_failed_is_named_with_its_reason() -> None:
    said = answer(proof(steady(100), steady(150), reasons={1: "load_failed"}))
    assert said.startswith("Keep what you have")
    assert "no candidate met the limits again (0 | 1  NUM_PARALLEL 8, least_conn failed 4 times (load_failed))." in said


def test_a_baseline_with_doubts_says_which() -> None:
    open_ = answer(proof([(100, None)] * 4, steady(101)))
    assert "; the baseline is not known to meet ttft_s mean at 2 users. Until" in open_
    sure = answer(proof(steady(100, 3.0), [(101, late) for late in (1.0, 5.0, 0.5, 1.2)]))
    assert "; the baseline misses the limits (ttft_s mean at 2 users: 50% over)." in sure
    assert sure.endswith(
        " Until that is settled 0 | 1  NUM_PARALLEL 8, least_conn is the better choice: in the mean it met the limits."
    )


def test_a_baseline_that_alone_was_measured_is_not_said_to_be_the_best() -> None:
    assert answer(results=[SEARCH[0]]) == (
        "Nothing but the baseline was measured, 0  NUM_PARALLEL 1: there is nothing to choose from."
    )
    slow = result(1, params(2), score=Score(50.0, {BEHIND: 0.5}), dropped="cannot beat 100 tokens/s")
    assert answer(results=[SEARCH[0], slow]).endswith("nothing else met the limits, or was as good.")
    few = result(2, params(8), ttft_s=None)
    assert answer(results=[SEARCH[0], few]).endswith("nothing else met the limits, or is known to.")


def test_a_baseline_that_alone_meets_the_limits_is_kept() -> None:
    assert (
        answer(results=[SEARCH[0], SEARCH[3]]) == "Keep what you have, 0  NUM_PARALLEL 1: nothing else met the limits."
    )


def test_a_better_one_that_was_found_after_the_proof_is_a_caution() -> None:
    later = [*SEARCH, result(5, params(2), 300)]
    said = found(proof(steady(100), steady(150)), later).cautions
    assert any("300.0 tokens/s in the search, and not in the proof: run the study again" in text for text in said)


def test_without_a_proof_it_says_why() -> None:
    assert answer().endswith("This is one measurement, not yet a proof.")
    assert answer(unproved="no time was left").endswith("not yet a proof: no time was left.")
    begun = answer(proof(steady(100, blocks=2), steady(150, blocks=2)))
    assert begun.endswith("not yet a proof: its proof has 2 of the 4 blocks that it needs.")
    assert answer(results=[]) == "Nothing was measured."
    assert answer(results=SEARCH[3:]).startswith("No configuration met the limits. The nearest: ")
    far, near = result(0, ttft_s=90.0), result(1, params(8), ttft_s=4.0, dropped="surely misses ttft_s mean after 30 s")
    assert "The nearest: 0  NUM_PARALLEL 8: dropped: surely" in answer(results=[far, near])
    assert "The nearest: 0  NUM_PARALLEL 1: misses" in answer(results=[far, result(1, params(8), reason="load_failed")])


# tables


def test_of_a_load_that_only_the_first_runs_had_before_and_after_are_told_too() -> None:
    made = proof(steady(100), steady(150))

    def more(contender: Contender) -> Contender:
        first, *others = contender.runs
        beside = {"1 users": metrics(0.4 * (first.score.objective or 0.0))}
        return replace(contender, runs=(replace(first, levels=first.levels | beside), *others))

    told = found(replace(made, contenders=tuple(map(more, made.contenders))))
    assert "mean of 4 runs each (1 users: 1): " in told.title
    first, second = told.changes
    assert (first.label, second.label) == ("2 users", "1 users")
    assert second.after.tps == pytest.approx(0.4 * 150, rel=0.02)


def test_before_and_after_are_means_over_the_runs_of_the_proof() -> None:
    told = found(proof([(100, 0.5), (102, 0.7), (100, 0.5), (102, 0.7)], [(200, 0.2)] * 4))
    assert told.title == "The winner against the baseline, mean of 4 runs each: 0 | 1  NUM_PARALLEL 8, least_conn"
    (change,) = told.changes
    assert (change.label, change.before.tps, change.after.tps) == ("2 users", 101.0, 200.0)
    assert change.before.ttft_mean == pytest.approx(0.6)
    assert change.relative.tps == pytest.approx(200 / math.sqrt(100 * 102) - 1)
    assert change.relative.ttft_mean == pytest.approx(-2 / 3)
    assert told.chosen is not None
    assert told.chosen.params == FAST


def test_the_change_of_the_tokens_is_what_the_answer_says() -> None:
    """Of runs that are far apart the mean over blocks and the means' ratio are two figures."""
    told = found(proof([(0.5, 0.5), (300, 0.5), (2, 0.5), (280, 0.5)], [(300, 0.5), (290, 0.5), (310, 0.5), (2, 0.5)]))
    (change,) = told.changes
    assert told.proof is not None
    gain = told.proof.gain(1)
    assert gain is not None
    assert f" makes {gain.mean:.1%} more tokens/s" in told.answer
    assert change.relative.tps == gain.mean > 2
    assert (change.after.tps or 0) / (change.before.tps or 1) < 2
    assert "mean of 4 runs each (2 users: the change of TPS is the geometric mean over blocks): " in told.title
    assert f"| 2 users | change | +0% | +0% | +0% | {gain.mean:+.0%} |" in report.markdown(told, "")
    capacity = study(objective={"metric": "capacity", "limits": [LIMIT]}, workload={"levels": [2]})
    assert report.findings(capacity, SEARCH, told.proof).changes[0].gain is None


def test_before_a_proof_the_best_of_the_search_is_shown() -> None:
    told = found()
    assert told.title.startswith("The best of the search against the baseline, one run each: ")
    assert told.changes[0].after.tps == 151
    assert told.chosen is None
    assert found(results=SEARCH[:1]).changes == ()


def test_what_was_infeasible_is_counted_with_an_example() -> None:
    told = found(results=[*SEARCH, result(5, params(64), reason="load_failed")])
    assert told.infeasible == (
        "2 trials could not be measured: load_failed, as 0  NUM_PARALLEL 32: it was told to: load_failed",
        "1 trial missed a limit, or is not known to meet it",
    )
    slow = replace(result(5, params(8), 90), dropped="behind", score=Score(90.0, {BEHIND: 0.1}))
    (line,) = found(results=[*SEARCH[:3], slow]).infeasible
    assert line == "1 trial could not beat the best by then, and ended early"


# doubts


def busy(slots: int) -> dict[str, InstanceMetrics]:
    from autotune.metrics import InstanceMetrics  # noqa: PLC0415 - a value of one test

    return {"127.0.0.1:9000": InstanceMetrics(4, 1.0, 100.0, 0.5, 0.5, slots_used=slots)}


@pytest.mark.parametrize(("used", "told"), [(5, True), (8, False), (0, False)])
def test_slots_that_never_filled_are_a_caution(used: int, told: bool) -> None:
    verdict = proof(steady(100), steady(150))
    runs = tuple(
        replace(run, levels={"2 users": metrics(150, instances=busy(used))}) for run in verdict.contenders[1].runs
    )
    one = replace(verdict.contenders[1], runs=runs)
    said = found(Verdict((verdict.contenders[0], one), verdict.rules)).cautions
    assert any("never more than 5 of the 8 slots of an instance were in use" in text for text in said) == told


def test_a_search_that_the_proof_does_not_repeat_is_a_caution() -> None:
    lucky = [*SEARCH[:1], replace(SEARCH[1], score=replace(SEARCH[1].score, objective=190.0))]
    said = found(proof(steady(100), steady(150)), lucky).cautions
    assert any("190.0 tokens/s in the search, 15" in text and "only the proof counts" in text for text in said)
    assert found(proof(steady(100), steady(151)), SEARCH[:2]).cautions == ()


def test_cautions_are_told_once_with_their_number() -> None:
    doubtful = [replace(one, cautions=("2 users: GPU 0 was throttled",)) for one in SEARCH[:2]]
    assert found(results=doubtful).cautions == ("2 users: GPU 0 was throttled (in 2 runs)",)
    assert found(results=[replace(doubtful[0]), SEARCH[1]]).cautions == ("2 users: GPU 0 was throttled",)


def test_the_simpler_one_has_less_memory_when_all_else_is_equal() -> None:
    runs = []
    for number in range(8):
        one = CANDIDATES[place(number, 2)[1]]
        placed = replace(ONE_SLOT, size_bytes=(9 << 30) if one == FAST else (5 << 30))
        runs.append(result(number, one, 100 + number / 100, placements=(placed,)))
    sizes = [one.size[:2] for one in contenders(CANDIDATES[:2], runs)]
    assert sizes == [(1, 5 << 30), (2, 9 << 30)]


# the page


def page(verdict: Verdict | None = None, **more: Any) -> str:
    return report.markdown(found(verdict, **more), "[study]\n", PROVENANCE)


def test_the_report_has_all_that_people_ask_for() -> None:
    said = page(proof(steady(100), steady(150)))
    for heading in (
        "# test: tiny",
        f"**{SIMULATED}**",
        "## Before and after",
        "## Proof",
        "## The best 5 of 5 configurations in the search",
        "## Not feasible",
        "## Measured on",
        "## How to repeat it",
    ):
        assert heading in said
    assert "| 2 users | baseline | 0.50 | 0.50 | 0.50 |" in said
    assert "autotune 0.1.0, Ollama 0.32.15, NVIDIA driver 560.1" in said
    assert "    autotune run test.toml --balancer direct\n" in said
    assert said.endswith("```toml\n[study]\n```\n")


def test_how_to_repeat_it_names_the_balancer_where_the_file_says_another() -> None:
    nginx = study(cluster={"balancer": "nginx"})
    for spec, source, flag in (
        (nginx, 'cluster = { balancer = "direct" }', " --balancer nginx"),
        (nginx, "[study]", ""),
        (SPEC, 'cluster = { balancer = "direct" }', ""),
        (SPEC, 'cluster = { balancer = "nginx" }', " --balancer direct"),
        (nginx, "no TOML", " --balancer nginx"),
    ):
        assert f"    autotune run test.toml{flag}\n" in report.markdown(report.findings(spec, SEARCH), source)


def test_bars_and_stars_do_not_break_a_table() -> None:
    odd = [replace(SEARCH[0], params={**BASELINE, "env:OLLAMA_X": "a|b*c_`d`"})]
    rows = [row for row in page(results=odd).splitlines() if row.startswith("| 1 |")]
    assert rows
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)
    assert "a\\|b\\*c\\_\\`d\\`" in rows[0]


def test_a_real_study_is_not_called_simulated() -> None:
    real = SPEC.model_copy(update={"cluster": SPEC.cluster.model_copy(update={"driver": "process"})})
    assert SIMULATED not in report.markdown(report.findings(real, SEARCH), "")


def test_what_the_search_began_with_is_told() -> None:
    warmth = Warmth((Earlier("/studies/last_night", 18, 0.5, ("2 users → 4 users",)),))
    said = "The search began with what earlier studies say: last\\_night (18 trials, counts 50%: 2 users → 4 users)."
    assert said in report.markdown(found(warmth=warmth), "")
    assert "earlier studies" not in page()


def test_a_study_file_with_a_fence_in_it_stays_whole() -> None:
    said = report.markdown(found(), "# ```\n[study]")
    assert "````toml\n# ```\n[study]\n````" in said


def test_status_says_how_a_study_stands(tmp_path: Path) -> None:
    store = Store(tmp_path / "night")
    store.open(study(objective={"limits": [LIMIT]}), "")
    for one in SEARCH:
        store.trials.save(one, [])
    shelf = store.proof(store.begin_proof([BASELINE, FAST]))
    for number in range(8):
        which = place(number, 2)[1]
        shelf.save(result(number, CANDIDATES[which], 100 + 50 * which + number / 10), [])
    screen = Console(file=io.StringIO(), width=160)
    console.status(screen, report.read(store), Path("night"), "no night runs on it now")
    assert isinstance(screen.file, io.StringIO)
    said = screen.file.getvalue()
    assert said.startswith("test: tiny; 5 trials; no night runs on it now")
    assert "Winner: 0 | 1  NUM_PARALLEL 8, least_conn: 150." in said
    assert "To install it: autotune export night --to DIRECTORY" in said
    assert "All of it, and how to repeat it: autotune report night" in said


def test_least_gain_is_told_as_it_was_set() -> None:
    said = answer(proof(steady(100), steady(104), rules=Proof(least_gain=0.1)))
    assert said.startswith("Keep what you have, 0  NUM_PARALLEL 1: nothing is better by 10% or more (4")
