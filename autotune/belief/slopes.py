"""How what the law says changes with its parameters: the formulas of `law`, backwards.

Of a few quantities of each configuration and by all parameters at once, which is much less work than to ask the law
again for every parameter. What is carried backwards says how the logarithm of a quantity changes with something on the
way to it. The shapes: C configurations, Q quantities, J parts, P parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, ndtr, ndtri

from autotune.belief.design import octaves
from autotune.belief.law import BATCHES, KNOTS, NARROW, PART, TAILS, prompt_shape, step_shape
from autotune.belief.question import JOULES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from autotune.belief.design import Array, Design
    from autotune.belief.law import Law, Trace
    from autotune.belief.steady import State, Terms

    Rows = NDArray[np.intp] | slice
    Quantity = tuple[str, str | int]
    """A metric with its statistic; of a part, `PART` with its number."""
    Partials = Mapping[str, Array | float]

SMALL = 1e-5
ROOT_TAU = math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Tangent:
    """What the law says of what a study decides by, and how that changes."""

    values: Array
    """[heads, C]"""
    slopes: Array
    """[heads, P, C] with the parameters; of what was asked for without them, P is 0."""
    inner: Array
    """[heads, 3, C] with the logarithms of all steps, of all reading, and of the way to an instance."""


def linear(law: Law, theta: Array, design: Design, *, inner: bool = False) -> Tangent:
    """At one vector of parameters; with the `inner` changes alone for many configurations."""
    asked, count = law.question, len(design)
    of = [asked.users, *(bound.users for bound in asked.bounds)]
    values, changes = np.empty((len(of), count)), np.empty((len(of), 3, count))
    slopes = np.empty((len(of), 0 if inner else len(theta), count))
    for users in asked.levels:
        trace = law.trace(theta[None], design, np.full(count, float(users)))
        numbers = [number for number, level in enumerate(of) if level == users]
        found = Slopes(law, theta, design, trace)
        by, within = found.both([law.quantity(number) for number in numbers], inner=inner)
        for at, number in enumerate(numbers):
            values[number] = law.head(trace.answer, number)[0]
            slopes[number], changes[number] = by[:, at].T, within[:, at].T
    return Tangent(values, slopes, changes)


@dataclass
class _Back:
    """What has been carried back to terms and parameters, of some configurations."""

    step: Array
    """[C, Q, J] the factor of a step."""
    prompt: Array
    """[C, Q, J] the time to read a prompt."""
    theta: Array
    """[C, Q, P] the parameters themselves."""
    way: Array
    """[C, Q] the seconds of the way to an instance."""

    @classmethod
    def nothing(cls, shape: tuple[int, ...], parameters: int) -> _Back:
        """So far; of shape [C, Q, J]."""
        return cls(np.zeros(shape), np.zeros(shape), np.zeros((*shape[:2], parameters)), np.zeros(shape[:2]))


class Slopes:
    """Of an answer to one vector of parameters."""

    def __init__(self, law: Law, theta: Array, design: Design, trace: Trace) -> None:
        self.law = law
        self.theta = theta
        self.design = design
        self.trace = trace
        self.values = {name: theta[where] for name, where in law.at.items()}
        self.scalar = {name: float(values[0]) for name, values in self.values.items() if len(values) == 1}
        self._curve = law.curve @ self.values["curve"]

    def of(self, asked: Sequence[Quantity]) -> Array:
        """[C, Q, P] how the logarithms of these quantities change.

        Of tokens/s, TPOT and the time to read there is but one statistic. What no instance is part of is nonsense.
        """
        return self.both(asked)[0]

    def both(self, asked: Sequence[Quantity], *, inner: bool = False) -> tuple[Array, Array]:
        """The same, and [C, Q, 3] how they change with all steps, all reading and the way; `inner`: that alone."""
        trace = self.trace
        count, parts = trace.terms.copies.shape
        plain = list(dict.fromkeys(one for metric in asked for one in _plain(*metric)))
        back = _Back.nothing((count, len(plain), parts), len(self.theta))
        bars = self._begun(plain, back)
        moved = self._state(trace.terms, trace.state, bars, back, slice(None))
        moved = self._arrived(moved, back)
        if len(trace.uneven):
            self._turned(moved[trace.uneven], back)
        within = np.stack([back.step.sum(axis=2), back.prompt.sum(axis=2), back.way * trace.terms.way[0]], axis=2)
        if inner:
            back.theta = back.theta[:, :, :0]
        else:
            self._terms(back)
        by, found = (
            np.stack([self._combined(metric, plain, of) for metric in asked], axis=1) for of in (back.theta, within)
        )
        return by, found

    def _combined(self, asked: Quantity, plain: Sequence[Quantity], found: Array) -> Array:
        """[C, P] of one that may be made of others."""
        first, *more = (found[:, plain.index(one)] for one in _plain(*asked))
        if not more:
            return -first if asked[0] == JOULES else first
        answer, statistic = self.trace.answer, str(asked[1])
        ttft, rest = answer.ttft(statistic)[0], self.law.question.output_tokens * answer.tpot_s[0]
        part = (ttft / (ttft + rest))[:, None]
        both: Array = part * first + (1 - part) * more[0]
        return both

    # what an answer is made of

    def _begun(self, asked: Sequence[Quantity], back: _Back) -> dict[str, Array]:
        """[C, Q, J] each: how the quantities change with the steady state."""
        state, terms = self.trace.state, self.trace.terms
        names = ("rate", "over", "busy", "step", "token", "read", "beyond", "sigma", "reading")
        bars = {name: np.zeros((len(terms.copies), len(asked), terms.copies.shape[1])) for name in names}
        share = self.trace.answer.part_share[0]
        for at, (metric, statistic) in enumerate(asked):
            if metric == "tps":
                bars["rate"][:, at] = share
                continue
            values, way, parameters = self._made(metric, statistic)
            if metric == PART:
                weights = np.zeros_like(values)
                weights[:, int(statistic)] = 1 / values[:, int(statistic)]
            else:
                power = 6 if metric == "ttft_s" and statistic != "mean" else 1
                powers = values**power
                whole = (share * powers).sum(axis=1, keepdims=True)
                weights = share * powers / values / whole
                bars["rate"][:, at] = share * (powers / whole - 1) / power
            for name, change in way.items():
                bars[name][:, at] += weights * change
            for name, change in parameters.items():
                to = back.way[:, at] if name == "way" else back.theta[:, at, self.law.at[name].start]
                to += (weights * change).sum(axis=1)
        held = self.law.question.output_tokens * state.token[0]
        busy, read = state.busy[0], state.read[0]
        less = (bars.pop("reading").swapaxes(0, 1) * (busy * read < held)).swapaxes(0, 1)
        bars["busy"] += less * (read / held)[:, None]
        bars["read"] += less * (busy / held)[:, None]
        bars["token"] -= less * (busy * read / held / state.token[0])[:, None]
        return bars

    def _made(self, metric: str, statistic: str | int) -> tuple[Array, Partials, Partials]:
        """[C, J] a quantity of each part, and how it changes with the steady state, and with parameters."""
        tokens, slots, state = self.law.question.output_tokens, self.trace.terms.slots, self.trace.state
        busy, step, token, read = state.busy[0], state.step[0], state.token[0], state.read[0]
        kappa, way = math.exp(self.scalar["kappa"]) / tokens, self.trace.terms.way[0]
        if metric in {"tpot_s", PART}:
            others = kappa * np.maximum(busy - 1, 0)
            return (
                step + others * read,
                {"step": 1.0, "read": others, "busy": kappa * read * (busy > 1)},
                {"kappa": others * read},
            )
        reading = np.minimum(1.0, busy * read / (tokens * token))
        if metric == "prefill_s":
            return read * (1 + reading) + step, {"read": 1 + reading, "reading": read, "step": 1.0}, {}
        turn = tokens * token / slots
        if statistic == "mean":
            return (
                state.over[0] * turn + read * (1 + reading) + way,
                {"over": turn, "token": state.over[0] * tokens / slots, "read": 1 + reading, "reading": read},
                {"way": 1.0},
            )
        z = float(ndtri(TAILS[str(statistic)]))
        wide, prompt = z * math.exp(self.scalar["tail"]), math.exp(self.scalar["tail_prompt"])
        over = (state.beyond[0] + wide * state.sigma[0]) / 0.15
        waits, likely = 0.15 * np.logaddexp(0.0, over), expit(over) * turn
        own, more = (prompt + 2 * reading, 1.0) if z > 0 else (np.ones_like(reading), 0.0)
        return (
            waits * turn + read * own + way,
            {
                "beyond": likely, "sigma": wide * likely, "token": waits * tokens / slots, "read": own,
                "reading": 2 * more * read,
            },
            {"tail": wide * state.sigma[0] * likely, "tail_prompt": more * prompt * read, "way": 1.0},
        )  # fmt: skip

    # the steady state

    def _state(self, terms: Terms, state: State, bars: dict[str, Array], back: _Back, rows: Rows) -> Array:
        """[C, Q, J] how the quantities change with the users of each part, through one steady state of these rows."""
        at, scalar = self.law.at, self.scalar
        busy, step, token, read = (one[0][:, None] for one in (state.busy, state.step, state.token, state.read))
        copies, kappa = terms.copies[:, None], math.exp(scalar["kappa"]) / self.law.question.output_tokens
        each = bars["token"] - bars["rate"] / token
        by_step, by_read = bars["step"] + each, bars["read"] + kappa * busy * each
        by_busy = bars["busy"] + bars["rate"] / busy.clip(1e-12) + kappa * read * each
        back.theta[:, :, at["kappa"].start] += (kappa * busy * read * each).sum(axis=2)
        by_step, by_read = by_step * step, by_read * read  # from here on by their logarithms
        back.step += by_step
        back.prompt += by_read
        total = (copies * busy).sum(axis=2, keepdims=True)
        crowd = (total / (self.law.question.users * math.exp(scalar["saturation"]))) ** 2
        by_host = (by_step + by_read).sum(axis=2, keepdims=True) * (2 * crowd / (1 + crowd))
        back.theta[:, :, at["saturation"].start] -= by_host[:, :, 0]
        bent = self._step(terms, state, by_step, back, rows)
        by_busy = (by_busy + copies * by_host / total + by_step * bent) * (copies > 0)
        return self._queue(terms, state, bars, by_busy, back, rows)

    def _step(self, terms: Terms, state: State, by_step: Array, back: _Back, rows: Rows) -> Array:
        """[C, 1, J] how the logarithm of a step changes with the busy slots; what changes it else is carried back."""
        at, busy = self.law.at, state.busy[0]
        step, slot = math.exp(self.scalar["step"]), math.exp(self.scalar["slot"])
        place, plain = octaves(busy), step + slot * np.maximum(busy, 1)
        before = np.clip(np.searchsorted(KNOTS, place, side="right") - 1, 0, len(KNOTS) - 2)
        gaps = np.diff(KNOTS)
        part = np.minimum((place - KNOTS[before]) / gaps[before], 1.0)
        ways = np.zeros((*busy.shape, len(KNOTS) + 3))
        np.put_along_axis(ways, before[:, :, None], (1 - part)[:, :, None], axis=2)
        np.put_along_axis(ways, before[:, :, None] + 1, part[:, :, None], axis=2)
        ways[:, :, -3], ways[:, :, -2], ways[:, :, -1] = place, step / plain, slot * np.maximum(busy, 1) / plain
        found = by_step @ ways
        back.theta[:, :, at["curve"]] += found[:, :, :-3] @ self.law.curve
        back.theta[:, :, at["knob_batch"]] += found[:, :, -3, None] * self.design.knobs[rows][:, None] / BATCHES
        back.theta[:, :, at["step"].start] += found[:, :, -2]
        back.theta[:, :, at["slot"].start] += found[:, :, -1]
        bend = np.diff(self._curve)[before] / gaps[before] * (place < KNOTS[-1])
        bent: Array = (busy > 1) * (slot / plain + (bend + terms.slope[0]) / (np.maximum(busy, 1) * math.log(2)))
        return bent[:, None]

    def _queue(
        self, terms: Terms, state: State, bars: dict[str, Array], by_busy: Array, back: _Back, rows: Rows
    ) -> Array:
        """From what waits and what is busy to the users of each part."""
        population, beyond, sigma, over = (
            one[0][:, None] for one in (state.population, state.beyond, state.sigma, state.over)
        )
        by_busy = by_busy * (population - over > 0.05)
        by_over = bars["over"] - by_busy if "over" in bars else -by_busy
        d = beyond / sigma
        by_sigma, by_beyond = by_over * (np.exp(-0.5 * d * d) / ROOT_TAU), by_over * ndtr(d)
        if "sigma" in bars:
            by_sigma, by_beyond = by_sigma + bars["sigma"], by_beyond + bars["beyond"]
        spread = terms.spread[0]
        by_spread = (by_sigma * sigma).sum(axis=2) * (1 - NARROW / spread)
        for number, name in enumerate(("round_robin", "least_conn", "random_two")):
            back.theta[:, :, self.law.at[name].start] += by_spread * (self.design.policy[rows] == number)[:, None]
        wider = np.where(population > 0.2, 0.5 * sigma / np.maximum(population, 0.2), 0.0)
        found: Array = by_busy + by_beyond + by_sigma * wider
        return found

    def _arrived(self, moved: Array, back: _Back) -> Array:
        """From the users at each part to all of its users, those on the way, too."""
        terms, near = self.trace.terms, self.trace.near
        turn = self.law.question.output_tokens * terms.users[:, None, None]
        rates = (terms.copies * near.rate[0])[:, None]
        way, rate = terms.way[0][:, None], rates.sum(axis=2, keepdims=True)
        more = 1 + way * rate / turn
        by_more = -(moved * near.population[0][:, None]).sum(axis=2, keepdims=True) / more**2
        back.way += (by_more * rate / turn)[:, :, 0]
        nothing = np.zeros_like(moved)
        bars = {"rate": by_more * way / turn * rates, **dict.fromkeys(("busy", "step", "token", "read"), nothing)}
        found: Array = moved / more + self._state(terms, near, bars, back, slice(None))
        return found

    def _turned(self, moved: Array, back: _Back) -> None:
        """Through the turns of the balancer, the last one first."""
        rows = self.trace.uneven
        terms = self.trace.terms.take(rows)
        part = _Back.nothing(moved.shape, len(self.theta))
        after = self.trace.near.population[0][rows]
        nothing = np.zeros_like(moved)
        for state in reversed(self.trace.turns):
            moved, rate = _shifted(terms, state, after, moved)
            bars = {"rate": rate, "busy": nothing, "step": nothing, "token": nothing, "read": nothing}
            moved = moved + self._state(terms, state, bars, part, rows)
            after = state.population[0]
        for name, values in vars(part).items():
            getattr(back, name)[rows] += values

    # what does not depend on how the users spread

    def _terms(self, back: _Back) -> None:
        """From the factors of a step and of reading to the parameters that they are made of."""
        law, design, at = self.law, self.design, self.law.at
        step, prompt = back.step.sum(axis=2), back.prompt.sum(axis=2)
        for name, of, values in (
            ("shape", step, step_shape(design)),
            ("policy", step, design.policies),
            ("knob", step, design.knobs),
            ("shape_prompt", prompt, prompt_shape(design)),
            ("knob_prompt", prompt, design.knobs),
        ):
            back.theta[:, :, at[name]] += of[:, :, None] * values[:, None]
        back.theta[:, :, at["prompt"].start] -= prompt
        both = back.step + back.prompt
        speed = both @ design.devices
        back.theta[:, :, at["device"]] += speed
        back.theta[:, :, at["kind"]] += speed @ law.kind.T
        span = np.log2(design.span)[:, :, None]
        back.theta[:, :, at["span"]] += back.step @ span
        back.theta[:, :, at["span_prompt"]] += back.prompt @ span
        back.theta[:, :, at["share"]] += back.step @ (design.copies > 1)[:, :, None].astype(float)
        back.theta[:, :, at["overhead"].start] += back.way * math.exp(self.scalar["overhead"])
        own = np.exp(self.values["way"])[design.policy] * (design.instances > 1)
        back.theta[np.arange(len(design)), :, at["way"].start + design.policy] += back.way * own[:, None]
        self._crowd(step, prompt, back)
        self._memory(both, back)

    def _crowd(self, step: Array, prompt: Array, back: _Back) -> None:
        """What instances cost each other."""
        more = self.design.instances - 1
        first = math.exp(self.scalar["host"]) * more
        second = math.exp(self.scalar["host2"]) * more**2 / len(self.law.question.kinds)
        crowd = first + second
        both = step / (1 + crowd)[:, None] + prompt / (2 + crowd)[:, None]
        back.theta[:, :, self.law.at["host"].start] += both * first[:, None]
        back.theta[:, :, self.law.at["host2"].start] += both * second[:, None]

    def _memory(self, both: Array, back: _Back) -> None:
        """What does not fit; by differences, as few parameters are about it."""
        places = [*self.law.sizing.places, self.law.at["offload"].start]
        off = np.log(self.law.sizing.slower(moved(self.theta, places), self.design))
        if len(off) > 1:
            back.theta[:, :, places] += np.einsum("cqj,pcj->cqp", both, (off[1:] - off[0]) / SMALL)


def moved(theta: Array, places: Sequence[int]) -> Array:
    """[1 + places, P] a vector of parameters, and the same with each of these a little larger."""
    found = np.tile(theta, (len(places) + 1, 1))
    found[1 + np.arange(len(places)), places] += SMALL
    return found


def _plain(metric: str, statistic: str | int) -> list[Quantity]:
    """What a quantity is made of."""
    if metric == "e2e_s":
        return [("ttft_s", statistic), ("tpot_s", "")]
    if metric == JOULES:
        return [("tps", "")]
    return [(metric, statistic if metric in {"ttft_s", PART} else "")]


def _shifted(terms: Terms, state: State, after: Array, moved: Array) -> tuple[Array, Array]:
    """Through one turn: from the users of each part after it to those before it, and to their rates."""
    copies, rate, population = (one[:, None] for one in (terms.copies, state.rate[0], state.population[0]))
    after = after[:, None]
    by_after = moved * after
    by_moved = by_after - (copies * after / terms.users[:, None, None]) * by_after.sum(axis=2, keepdims=True)
    pulled: Array = by_moved * terms.pull[:, None, None] * (rate > 0)  # these sum to nothing: the total drops out
    return by_moved / population, -pulled
