"""The conditions of a proof in the report: noise and what it hides, the worst block, drift, heat."""

from __future__ import annotations

import re
from dataclasses import replace

from autotune.report.conditions import conditions
from autotune.result import Samples
from autotune.telemetry import DeviceSample
from tests.proofs import proof, steady
from tests.test_report import answer, found, page


def test_the_page_says_under_which_conditions_the_proof_ran() -> None:
    said = page(proof(steady(100, blocks=8, spread=0.03), steady(150, blocks=8, spread=0.03)))
    assert "Noise: fresh starts scatter by " in said
    assert "the smallest difference that counts here is " in said
    assert "A true gain of 5% takes about " in said
    assert "Drift over the proof: " in said
    assert "Heat: not tested, there are no samples of GPUs." in said
    assert "| worst block |" in said


def test_what_is_left_to_find_out_among_the_finalists_is_told() -> None:
    near = [(150 * factor, 0.5) for factor in (0.99, 1.01, 1.02, 0.98)]
    open_ = page(proof(steady(100), near, steady(149)))
    assert re.search(r"more blocks could gain at most 0\.\d% on the mean by finding out", open_)
    assert "by finding out" not in page(proof(steady(100), steady(150)))
    assert "by finding out" not in page(proof(steady(100), steady(90), steady(95)))


def test_the_worst_block_is_told_with_the_gain() -> None:
    said = answer(proof([(100.0, 0.5)] * 4, [(150.0, 0.5), (150.1, 0.5), (149.5, 0.5), (150.0, 0.5)]))
    assert "% in the worst block) than the baseline." in said
    assert "+49.5% in the worst block" in said


def test_an_open_proof_says_how_long_it_has_to_be() -> None:
    said = answer(proof(steady(100, blocks=12, spread=0.1), steady(103, blocks=12, spread=0.1)))
    assert re.search(r"A true gain of [\d.]+% takes about \d+ blocks, .*, to be found nine times of ten", said)
    missed = answer(proof(steady(100, 9.0), steady(150, 9.0)))
    assert "nine times of ten" not in missed  # more blocks would not help


def test_what_is_simpler_and_not_settled_is_told() -> None:
    said = answer(proof(steady(100), steady(200), [(200 * factor, 0.5) for factor in (0.95, 1.05, 0.96, 1.03)]))
    assert "Simpler would be 0 | 1  NUM_PARALLEL 4, least_conn: against the fastest it makes " in said
    assert "which these blocks do not settle." in said
    assert "cannot be told apart" not in said


def test_what_drifted_is_a_caution() -> None:
    slower = [[(tps * 0.99**block, 0.5 * 1.001**block) for block in range(8)] for tps in (100, 149)]
    assert any(text.startswith("this host changed by -7") for text in found(proof(*slower)).cautions)


def test_conditions_are_told_of_gpus_that_were_watched() -> None:
    quiet = proof(steady(100), steady(150))
    one = DeviceSample(0, 84, 1800, 0, 200.0, 1.0, ("sw_thermal",), throttled=True)
    runs = tuple(replace(run, samples={"2 users": Samples((), (one,))}) for run in quiet.contenders[1].runs)
    hot = replace(quiet, contenders=(quiet.contenders[0], replace(quiet.contenders[1], runs=runs)))
    assert conditions(hot)[-1] == "Heat: throttled in 4 runs (sw_thermal), in 4 samples, 84 °C at most."
    assert any("finalist 1 in 4 of 4" in text for text in found(hot).cautions)
    assert conditions(proof(steady(100, blocks=1), steady(150, blocks=1))) == []
    alone = proof(steady(100), steady(150), reasons={1: "load_failed"})
    assert conditions(alone)[0].startswith("Noise: not known")
