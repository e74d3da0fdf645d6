"""The conditions of a proof in words: noise, what it hides, drift, heat."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from autotune.confirm import USUAL_GAIN
from autotune.report.words import share, span

if TYPE_CHECKING:
    from autotune.confirm import Verdict
    from autotune.stats import Spread


def conditions(proof: Verdict) -> list[str]:
    """A sentence or two of each, also where nothing is amiss; none before there are two blocks."""
    if proof.blocks < 2:
        return []
    return [*_noise(proof), *_forgone(proof), _drift(proof), _heat(proof)]


def _noise(proof: Verdict) -> list[str]:
    if proof.noise is None:
        return ["Noise: not known, as no two candidates were measured in every block."]
    alone = f"; those of the baseline from one to the next by {_spread(proof.repeats)}" if proof.repeats else ""
    hides = f"the smallest difference that counts here is {share(proof.counts)}"
    said = [
        f"Noise: fresh starts scatter by {_spread(proof.noise)} within a block{alone}.",
        f"So {hides}: a smaller one is taken for none, unless it is certain.",
    ]
    if blocks := proof.needed():
        takes = f"takes about {blocks} blocks, {span(blocks * proof.block_s)}, to be found nine times of ten"
        said.append(f"A true gain of {share(USUAL_GAIN)} {takes}.")
    return [" ".join(said)]


def _forgone(proof: Verdict) -> list[str]:
    """What is left to find out among finalists that are all better than the baseline."""
    if not proof.winners or not 0 < proof.forgone < math.inf:
        return []
    gain = f"at most {proof.forgone:.1%} on the mean"
    return [f"Another finalist may be better than the winner: more blocks could gain {gain} by finding out."]


def _spread(found: Spread) -> str:
    return f"{found.sd:.1%} ({found.low:.1%} to {found.high:.1%})"


def _drift(proof: Verdict) -> str:
    if proof.drift is None:
        return "Drift over the proof: too few runs to test it."
    return f"Drift over the proof: {proof.drift}{'' if proof.drift.certain else ', none that is certain'}."


def _heat(proof: Verdict) -> str:
    found = proof.heat
    if found is None:
        return "Heat: not tested, there are no samples of GPUs."
    runs = sum(found.throttled.values())
    hot = f"throttled in {runs} runs ({', '.join(found.reasons)})" if runs else "no GPU was throttled"
    most = "" if found.hottest_c is None else f", {found.hottest_c} °C at most"
    clocks = "; ".join(f"GPU {gpu} {one}" for gpu, one in found.clocks.items())
    return f"Heat: {hot}, in {found.samples} samples{most}." + (f" Clocks over the proof: {clocks}." if clocks else "")
