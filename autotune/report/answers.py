"""What a study and its proof have found, in a sentence or two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.confirm import BASELINE, USUAL_GAIN, Kind, nothing_else
from autotune.report.words import configuration, distance, does, excess, gain, objective, share, span, verdict
from autotune.result import amount
from autotune.standing import on_front, standings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.confirm import Contender, Verdict
    from autotune.result import TrialResult
    from autotune.standing import Standing
    from autotune.stats import Interval

LENGTHEN = "lengthen workload.window_max_s, or drain_s where requests never got a first text"
"""What helps where windows do not tell enough."""


def answer(results: Sequence[TrialResult], proof: Verdict | None, unproved: str = "") -> str:
    """What a study has found, in a sentence or two; `unproved` is why there was no proof."""
    if proof is not None and proof.kind is not Kind.UNPROVED:
        return proved(proof)
    if not results:
        return "Nothing was measured."
    every = standings(results)
    best = every[0]
    if not best.feasible:
        return _none(every)
    if sum(standing.feasible for standing in every) == 1 and results[0] in best.results:
        return _alone(results, every)
    twice = len(best.results)
    times = "one measurement" if twice == 1 else f"the mean of {twice} measurements"
    begun = f": its proof has {proof.blocks} of the {proof.rules.pairs} blocks that it needs" if proof else ""
    why = f": {unproved}" if unproved else ""
    if len(front := on_front(every)) > 1:
        return f"The front of the search has {len(front)} configurations. This is not yet a proof{begun or why}."
    return (
        f"Best: {configuration(best.params)}: {objective(best.objective, best.results[-1])}{gain(best, results)}. "
        f"This is {times}, not yet a proof{begun or why}."
    )


def _none(every: Sequence[Standing]) -> str:
    """Of a search in which nothing was measured to meet the limits."""
    best = min(every, key=lambda one: (one.objective is None, one.violation))
    nearest = f"The nearest: {configuration(best.params)}: {verdict(best.results[-1])}."
    if any(one.undecided for one in every):
        return f"No configuration is known to have met the limits. {nearest} What helps: {LENGTHEN}."
    return f"No configuration met the limits. {nearest}"


def _alone(results: Sequence[TrialResult], every: Sequence[Standing]) -> str:
    """Of a search in which nothing but the baseline was measured to meet the limits."""
    baseline = configuration(every[0].params)
    if len(every) == 1:
        return f"Nothing but the baseline was measured, {baseline}: there is nothing to choose from."
    return f"Keep what you have, {baseline}: {nothing_else(results)}."


def proved(proof: Verdict) -> str:
    """What a proof says."""
    if proof.kind is Kind.WINNER:
        return f"{_winner(proof)}{_alike(proof)}"
    if proof.goals:
        return _front(proof)
    keep, best = configuration(proof.contenders[BASELINE].params), proof.nearest
    if not proof.feasible(best):
        near = f"no candidate met the limits again{_failures(proof)}{_open(proof)}"
    else:
        unit = _unit(proof)
        near = f"{configuration(proof.contenders[best].params)} {does(unit)} {_change(proof.gain(best), unit)}"
    if proof.kind is Kind.KEEP:
        least = f"nothing is better by {share(proof.counts)} or more"
        return f"Keep what you have, {keep}: {least} ({proof.blocks} blocks). In the proof {near}."
    doubt = _doubt(proof)
    said = f"No clear winner after {proof.blocks} blocks: {near}{doubt}."
    return f"{said}{'' if doubt else _length(proof)} {_meanwhile(proof)}"


def _meanwhile(proof: Verdict) -> str:
    """What to do where nothing is settled: a baseline that surely misses the limits is not worth keeping."""
    keep = configuration(proof.contenders[BASELINE].params)
    if not proof.misses(BASELINE):
        return f"Until that is settled keep {keep}."
    if proof.feasible(proof.nearest):
        better = configuration(proof.contenders[proof.nearest].params)
        return f"Until that is settled {better} is the better choice: in the mean it met the limits."
    return f"Nothing here is known to meet the limits, and {keep} surely does not."


def _front(proof: Verdict) -> str:
    """What a proof says of several goals."""
    keep, points = configuration(proof.contenders[BASELINE].params), proof.front.points
    goals = " and ".join([", ".join(proof.goals[:-1]), proof.goals[-1]])
    if proof.kind is Kind.FRONT:
        each = "; ".join(_point(proof, at) for at in points)
        on = "one is" if len(points) == 1 else f"{len(points)} are"
        choice = "; the choice among them is yours" if len(points) > 1 else ""
        return (
            f"Of the {len(proof.contenders)} configurations of the proof {on} on the front of {goals}, beaten by none:"
            f" {each}. Proved in {proof.blocks} blocks{choice}.{_unknown(proof)}"
        )
    if proof.kind is Kind.KEEP:
        return f"Keep what you have, {keep}: nothing is better in any of {goals} ({proof.blocks} blocks)."
    said = f"After {proof.blocks} blocks nothing is certain to be better in any of {goals}{_doubt(proof)}."
    return f"{said}{_unknown(proof)} {_meanwhile(proof)}"


def _unknown(proof: Verdict) -> str:
    """Who is on no front because a goal of it is not known."""
    few = [at for at in range(len(proof.contenders)) if proof.contenders[at].measured and not proof.front.known(at)]
    if not few:
        return ""
    who = " and ".join("the baseline" if at == BASELINE else configuration(proof.contenders[at].params) for at in few)
    return f" Of {who} too few requests came to know all goals: {LENGTHEN}."


def _point(proof: Verdict, at: int) -> str:
    told = [f"{goal} {found.mean:.4g}" for goal in proof.goals if (found := proof.front.mean(goal, at)) is not None]
    own = " (the baseline)" if at == BASELINE else ""
    return f"{configuration(proof.contenders[at].params)}{own}: {', '.join(told)}"


def _length(proof: Verdict) -> str:
    """How long a proof has to be: for what the nearest seems to gain, or else for a usual gain."""
    found = proof.gain(proof.nearest)
    gain = found.mean if found is not None and found.mean >= proof.rules.least_gain else USUAL_GAIN
    blocks = proof.needed(gain)
    if blocks is None or not proof.feasible(proof.nearest):
        return ""
    takes = f"takes about {blocks} blocks, {span(blocks * proof.block_s)}, to be found nine times of ten in this noise"
    return f" A true gain of {share(gain)} {takes}."


def _failures(proof: Verdict) -> str:
    """Who could not be measured, and how often."""
    failed = [one for one in proof.contenders[1:] if one.failures]
    told = [f"{configuration(one.params)} failed {one.failures} times ({one.reason})" for one in failed]
    return f" ({'; '.join(told)})" if told else ""


def _open(proof: Verdict) -> str:
    """Of which limits windows did not tell enough to say whether the candidates meet them."""
    names = sorted({name for one in proof.contenders[1:] for name in one.undecided})
    return f", as far as is known ({', '.join(names)}: {LENGTHEN})" if names else ""


def _doubt(proof: Verdict) -> str:
    """Why that settles nothing."""
    baseline = proof.contenders[BASELINE]
    if baseline.failures:
        return f"; the baseline failed {baseline.failures} of {len(baseline.runs)} times ({baseline.reason})"
    if baseline.undecided:
        return f"; the baseline is not known to meet {', '.join(sorted(baseline.undecided))}"
    if proof.misses(BASELINE):
        return f"; the baseline misses the limits ({_by_how_much(proof)})"
    return "" if proof.feasible(BASELINE) else "; whether the baseline misses the limits is not certain"


def _winner(proof: Verdict) -> str:
    one = proof.contenders[proof.recommended]
    tps, again = one.mean_tps, one.next_tps
    assert tps is not None
    assert again is not None
    baseline, unit = proof.contenders[BASELINE], _unit(proof)
    mean, low, high, least, most = (amount(one, unit) for one in (tps.mean, tps.low, tps.high, again.low, again.high))
    if baseline.fails:
        over = f"and the baseline could not be measured ({baseline.reason})"
    elif proof.outlives(proof.recommended, BASELINE):
        meets = "it meets the limits" if proof.meets(proof.recommended) else "in the mean it met the limits"
        over = f"and {meets}, which the baseline misses ({_by_how_much(proof)})"
    else:
        worst = proof.worst(proof.recommended)
        block = f"{worst[1]:+.1%} in the worst block" if worst else ""
        over = f"{_change(proof.gain(proof.recommended), unit, block)} than the baseline"
    return (
        f"Winner: {configuration(one.params)}: {mean} {unit} ({low} to {high}), {over}."
        f" Proved in {proof.blocks} blocks; a fresh start {does(unit)} {least} to {most} {unit}"
        f" 19 times of 20.{_step(one)}{_unsure(proof)}"
    )


def _unsure(proof: Verdict) -> str:
    """Which limits what is recommended is not certain to meet."""
    close = [distance(name, found) for name, found in proof.violations[proof.recommended].items() if found.high > 0]
    return f" That it meets the limits is not certain ({'; '.join(close)})." if close else ""


def _step(one: Contender) -> str:
    """How far a capacity is known, which no scatter shows: by the next load that was tried and never held."""
    most = max((held for held in one.tps if held is not None), default=0.0)
    missed = [load for run in one.measured for load, said in run.tried if said == "violated" and load > most]
    return f" It is known to a step of its search: {min(missed):g} did not hold." if missed else ""


def _by_how_much(proof: Verdict) -> str:
    """By how much the baseline misses its limits."""
    missed = {name: found.mean for name, found in proof.violations[BASELINE].items() if found.mean > 0}
    return ", ".join(f"{name}: {excess(name, value)}" for name, value in missed.items())


def _alike(proof: Verdict) -> str:
    """What else could have been chosen."""
    others = [configuration(proof.contenders[one].params) for one in proof.equals if one != proof.recommended]
    if not others:
        return _simpler(proof)
    unit = _unit(proof)
    cost = f"; against the fastest it {does(unit)} {_change(proof.cost, unit)}" if proof.cost else ""
    least = f"; less than {share(proof.margin)} is no difference here"
    alike = f" It cannot be told apart from {' or '.join(others)}, and is the simplest of them{cost}{least}."
    return f"{alike}{_simpler(proof)}"


def _simpler(proof: Verdict) -> str:
    """What would be simpler, and has neither been shown to be as fast nor to be slower."""
    unit = _unit(proof)
    return "".join(
        f" Simpler would be {configuration(proof.contenders[one].params)}: against the fastest it {does(unit)}"
        f" {_change(proof.gain(one, proof.winners[0]), unit)}, which these blocks do not settle."
        for one in proof.unsettled
    )


def _change(gain: Interval | None, unit: str, more: str = "") -> str:
    if gain is None:
        return f"an unknown number of {unit}"
    word = "more" if gain.mean >= 0 else "fewer"
    rest = f", {more}" if more else ""
    return f"{abs(gain.mean):.1%} {word} {unit} (between {gain.low:+.1%} and {gain.high:+.1%}{rest})"


def _unit(proof: Verdict) -> str:
    return proof.contenders[BASELINE].runs[0].unit
