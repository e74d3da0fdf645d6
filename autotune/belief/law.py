"""What a cluster should do, by its physics: queues in front of slots in front of batched decoding.

All parameters are logarithms, or exponents, with normal priors; every law takes a whole batch of parameter vectors and
of configurations at once. The shapes: B parameter vectors, C configurations, J parts of each, D devices.

The steady state of one instance, with m users of its own, P slots, prompts of T and answers of L tokens:

    on its way      a request is for w seconds, by its policy: m is N/n over 1 + w·X/(N·L)
    busy slots      b = m - E[(q - P)+], where the queue's population q is normal around m
    decode step     s = (a + k·b) · exp(δ(b)) · F · speeds of its devices · host
    a token         e = s + κ·b·p/L, since every busy slot reads its prompt, p seconds, once in L tokens
    output          b / e tokens a second; a request holds its slot for S = L·e
    TTFT            w + ov/P · S + p · (1 + ρ), where ov = E[(q - P)+] wait, and prompts are read the part ρ of the time
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri

from autotune.belief.design import octaves
from autotune.belief.question import JOULES
from autotune.belief.sizing import KNOBS, Sizing
from autotune.belief.steady import State, Terms
from autotune.space.forecast import CONTEXT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autotune.belief.design import Array, Design, Designer
    from autotune.belief.question import Question

KNOTS = np.log2([1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 128.0])
"""log2 of the busy slots between which δ is a straight line."""
CURVE_SD, CURVE_LENGTH = 0.12, 1.0
"""Of δ before anything is measured: a Gaussian process over log2 of the busy slots."""
PULL = np.array([0.7, 0.0, 0.15])
"""How strictly a policy gives every instance its share, whatever becomes of it: round_robin, least_conn, random_two."""
TURNS = 6
PART = "part"
TAILS = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
NARROW = 1e-3
SPARE_DOUBT = 0.6
"""Of the logarithm of what no instance gets of a device."""
BATCHES = 3.0
"""Octaves of busy slots over which a knob's effect on batches counts once."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter, or several of one meaning."""

    name: str
    mean: float
    sd: float
    size: int = 1
    heavy: bool = False
    """Tails as Student's t with 4 degrees of freedom: most are near the mean, and one may be far off."""


@dataclass(frozen=True)
class Answer:
    """What the law says, [B, C] each, but for the parts, [B, C, J]."""

    tps: Array
    ttft_s: Array
    tpot_s: Array
    prefill_s: Array
    busy: Array
    part_tpot_s: Array
    part_share: Array
    """Of the tokens, of all copies of a part."""
    memory: Array
    """Bytes on the fullest device over what it has; 0 where nothing is known."""
    _tails: tuple[Array, ...]

    def ttft(self, statistic: str) -> Array:
        """A statistic of the time to the first token, s."""
        if statistic == "mean":
            return self.ttft_s
        beyond, spread, per_slot, prefill, own, share, way = self._tails
        z = float(ndtri(TAILS[statistic]))
        over = beyond + z * spread
        waits = 0.15 * np.logaddexp(0.0, over / 0.15) * per_slot + prefill * (own if z > 0 else 1.0) + way
        found: Array = ((share * waits**6).sum(axis=2)) ** (1 / 6)
        return found

    def of(self, metric: str, statistic: str | int) -> Array:
        """[B, C] a metric; the statistic of a part's time per token is its number."""
        if metric == PART:
            return self.part_tpot_s[:, :, int(statistic)]
        found: Array = self.ttft(str(statistic)) if metric == "ttft_s" else getattr(self, metric)
        return found

    def statistic(self, metric: str, statistic: str, output_tokens: float) -> Array:
        """A statistic that a limit can be about."""
        if metric == "ttft_s":
            return self.ttft(statistic)
        return self.tpot_s if metric == "tpot_s" else self.ttft(statistic) + output_tokens * self.tpot_s


@dataclass(frozen=True)
class Trace:
    """An answer, and the way to it."""

    answer: Answer
    terms: Terms
    state: State
    near: State
    """With all users at their instances, none on the way."""
    uneven: NDArray[np.intp]
    """The configurations for which the balancer took several turns."""
    turns: tuple[State, ...]
    """Of these, the states before the last of them."""


class Law:
    """The law of one question, with its parameters and what is thought of them beforehand."""

    def __init__(self, question: Question, designer: Designer) -> None:
        self.question = question
        self.designer = designer
        knobs, devices = len(designer.knobs), len(question.kinds)
        self.kinds = tuple(dict.fromkeys(question.kinds))
        self.power = 0.0
        """Logarithm of W: no law says it, so that it is the mean of what was seen."""
        cpu = question.on_cpu
        self.parameters = (
            Parameter("step", math.log(0.018), 0.9),
            Parameter("slot", math.log(0.0013), 1.0),
            Parameter("prompt", math.log(2000.0), 1.2),
            Parameter("host", math.log(0.03), 1.5 if cpu else 1.0),
            Parameter("host2", math.log(0.01), 1.5),
            Parameter("saturation", math.log(8.0), 1.2),
            Parameter("share", -0.15, 0.28),
            Parameter("span", -0.5 if cpu else 0.06, 0.4 if cpu else 0.15),
            Parameter("span_prompt", -0.7 if cpu else -0.2, 0.3),
            Parameter("round_robin", math.log(0.5), 0.6),
            Parameter("least_conn", math.log(0.12), 0.7),
            Parameter("random_two", math.log(0.3), 0.6),
            Parameter("tail", 0.0, 0.4),
            Parameter("tail_prompt", math.log(1.3), 0.4),
            Parameter("overhead", math.log(0.02), 1.5),
            Parameter("way", math.log(0.01), 1.5, 3),
            Parameter("offload", math.log(12.0), 0.7),
            Parameter("memory", 0.0, 0.06),
            Parameter("buffer", 0.0, 0.5),
            Parameter("context", 0.0, CONTEXT[1] / CONTEXT[0]),
            Parameter("spare", math.log(question.spare_bytes), SPARE_DOUBT),
            Parameter("cache", 0.0, question.slot_doubt),
            Parameter(KNOBS, 0.0, 0.04, knobs),
            Parameter("kappa", math.log(0.8), 0.25),
            Parameter("curve", 0.0, 1.0, len(KNOTS)),
            Parameter("shape", 0.0, 0.05, 5, heavy=True),
            Parameter("shape_prompt", 0.0, 0.10, 3, heavy=True),
            Parameter("policy", 0.0, 0.05, 2, heavy=True),
            Parameter("knob", 0.0, 0.06, knobs, heavy=True),
            Parameter("knob_batch", 0.0, 0.04, knobs),
            Parameter("knob_prompt", 0.0, 0.10, knobs, heavy=True),
            Parameter("device", 0.0, 0.04, devices, heavy=True),
            Parameter("kind", 0.0, 0.5, len(self.kinds) - 1),
        )
        self.mean = np.concatenate([np.full(one.size, one.mean) for one in self.parameters])
        self.sd = np.concatenate([np.full(one.size, one.sd) for one in self.parameters])
        self.heavy = np.concatenate([np.full(one.size, one.heavy) for one in self.parameters])
        ends = np.cumsum([one.size for one in self.parameters])
        self.at = {
            one.name: slice(int(end) - one.size, int(end)) for one, end in zip(self.parameters, ends, strict=True)
        }
        self.sizing = Sizing(question, self.at)

    def centre(self, name: str, value: float) -> None:
        """Expect a scalar parameter around another logarithm: what the first trial says of this host."""
        self.mean[self.at[name]] = value

    @cached_property
    def curve(self) -> Array:
        """[K, K] from independent normal numbers to δ at the knots."""
        gaps = np.abs(KNOTS[:, None] - KNOTS[None, :]) / CURVE_LENGTH * math.sqrt(3)
        covariance = CURVE_SD**2 * (1 + gaps) * np.exp(-gaps)
        found: Array = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(KNOTS)))
        return found

    @cached_property
    def kind(self) -> Array:
        """[kinds - 1, D] which device is of which kind."""
        rows = [[float(kind == one) for one in self.question.kinds] for kind in self.kinds[1:]]
        return np.array(rows).reshape(len(rows), len(self.question.kinds))

    def heads(self, theta: Array, design: Design) -> Array:
        """[1 + limits, B, C] logarithms of what a study decides by: output, and each limited value over its limit."""
        asked = self.question
        levels = {users: self.answer(theta, design, np.full(len(design), float(users))) for users in asked.levels}
        of = [asked.users, *(bound.users for bound in asked.bounds)]
        return np.stack([self.head(levels[users], number) for number, users in enumerate(of)])

    def head(self, answer: Answer, number: int) -> Array:
        """[B, C] one of these, from an answer for its users: 0 is the output, then come the limits."""
        if not number:
            return np.asarray(np.log(answer.tps))
        bound = self.question.bounds[number - 1]
        if bound.metric == JOULES:
            return np.asarray(self.power - np.log(answer.tps))
        value = answer.statistic(bound.metric, bound.statistic, self.question.output_tokens)
        return np.asarray(np.log(np.maximum(value, 1e-6) / bound.most))

    def quantity(self, number: int) -> tuple[str, str]:
        """What one of these is about: a metric with its statistic."""
        if not number:
            return "tps", ""
        bound = self.question.bounds[number - 1]
        return bound.metric, bound.statistic

    def answer(self, theta: Array, design: Design, users: Array) -> Answer:
        """[B, parameters] and C configurations under `users` [C] → what they do."""
        return self.trace(theta, design, users).answer

    def trace(self, theta: Array, design: Design, users: Array) -> Trace:
        """The same, and how it came about."""
        of = {name: theta[:, where] for name, where in self.at.items()}
        scalar = {one.name: of[one.name][:, :, None] for one in self.parameters if one.size == 1 and not one.heavy}
        memory, off = self.sizing.both(theta, design)
        terms = self._terms(of, scalar, design, users, off)
        population = np.broadcast_to(users[:, None] * terms.share, terms.factor.shape).copy()
        state = self._state(of, scalar, terms, population)
        uneven, turns = terms.uneven(), list[State]()
        if len(uneven):
            *turns, better = self._turns(of, scalar, terms.take(uneven), state.take(uneven))
            for name, values in vars(better).items():
                getattr(state, name)[:, uneven] = values
        near, state = state, self._state(of, scalar, terms, self._arrived(terms, state))
        return Trace(self._answer(scalar, terms, state, memory), terms, state, near, uneven, tuple(turns))

    def _arrived(self, terms: Terms, near: State) -> Array:
        """[B, C, J] the users at each instance without those on the way, for which so much of everyone's time goes."""
        rate = (terms.copies * near.rate).sum(axis=2, keepdims=True)
        turn = self.question.output_tokens * terms.users[:, None]
        found: Array = near.population / (1 + terms.way * rate / turn)
        return found

    def _terms(self, of: dict[str, Array], scalar: dict[str, Array], design: Design, users: Array, off: Array) -> Terms:
        """What does not depend on how the users spread. `off` is by what a part is slower that does not fit."""
        copies, span = design.copies[None], np.log2(design.span)[None]
        instances = design.instances[None, :, None]
        crowd = 1 + np.exp(scalar["host"]) * (instances - 1)
        crowd = crowd + np.exp(scalar["host2"]) * (instances - 1) ** 2 / len(self.question.kinds)
        speed = np.exp(np.einsum("bd,cjd->bcj", of["device"] + of["kind"] @ self.kind, design.devices))
        shared = np.where(copies > 1, copies * np.exp(scalar["share"]), 1.0)
        effects = np.exp(self._effects(of, design))[:, :, None]
        prompt = (
            self.question.input_tokens
            * np.exp(scalar["span_prompt"] * span - scalar["prompt"] + self._prompt_effects(of, design)[:, :, None])
            * (np.maximum(copies, 1) * off * (1 + (crowd - 1) / 2) * speed)
        )
        policies = np.concatenate([of["round_robin"], of["least_conn"], of["random_two"]], axis=1)
        return Terms(
            copies=design.copies,
            slots=design.slots,
            share=design.weight / (design.copies * design.weight).sum(axis=1, keepdims=True),
            pull=PULL[design.policy],
            users=users,
            factor=effects * off * crowd * shared * np.exp(scalar["span"] * span) * speed,
            prompt=prompt,
            slope=(of["knob_batch"] @ design.knobs.T)[:, :, None] / BATCHES,
            spread=np.exp(policies[:, design.policy])[:, :, None] * (instances > 1) + NARROW,
            way=np.exp(scalar["overhead"]) + np.exp(of["way"][:, design.policy])[:, :, None] * (instances > 1),
        )

    @staticmethod
    def _prompt_effects(of: dict[str, Array], design: Design) -> Array:
        """[B, C] what slots, instances and knobs add to the logarithm of reading a prompt."""
        found: Array = of["shape_prompt"] @ prompt_shape(design).T + of["knob_prompt"] @ design.knobs.T
        return found

    def _turns(self, of: dict[str, Array], scalar: dict[str, Array], terms: Terms, first: State) -> list[State]:
        """The steady state after each turn of the balancer."""
        found = [first]
        for _ in range(TURNS - 1):
            population = terms.shifted(found[-1].population, found[-1].rate)
            found.append(self._state(of, scalar, terms, population))
        return found

    def _state(self, of: dict[str, Array], scalar: dict[str, Array], terms: Terms, population: Array) -> State:
        """With so many users of its own at each instance."""
        beyond = population - terms.slots
        sigma = np.sqrt(np.maximum(population, 0.2)) * terms.spread
        d = beyond / sigma
        over = sigma * np.exp(-0.5 * d * d) / math.sqrt(2 * math.pi) + beyond * ndtr(d)
        busy = np.maximum(population - over, 0.05) * (terms.copies > 0)
        total = (terms.copies * busy).sum(axis=2, keepdims=True)
        host = 1 + (total / (self.question.users * np.exp(scalar["saturation"]))) ** 2
        step, read = self._step(of, scalar, busy, terms.slope) * terms.factor * host, terms.prompt * host
        token = step + np.exp(scalar["kappa"]) * busy * read / self.question.output_tokens
        return State(population, beyond, sigma, over, busy, step, token, read, busy / token)

    def _effects(self, of: dict[str, Array], design: Design) -> Array:
        """[B, C] what shape, policy and knobs add to the logarithm of a step."""
        shape = step_shape(design).T
        found: Array = of["shape"] @ shape + of["policy"] @ design.policies.T + of["knob"] @ design.knobs.T
        return found

    def _step(self, of: dict[str, Array], scalar: dict[str, Array], busy: Array, slope: Array) -> Array:
        curve = of["curve"] @ self.curve.T
        at = octaves(busy)
        found = np.empty_like(busy)
        for one in range(len(curve)):
            found[one] = np.interp(at[one], KNOTS, curve[one])
        plain = np.exp(scalar["step"]) + np.exp(scalar["slot"]) * np.maximum(busy, 1)
        bent: Array = plain * np.exp(found + slope * at)
        return bent

    def _answer(self, scalar: dict[str, Array], terms: Terms, state: State, memory: Array) -> Answer:
        tokens, copies, slots = self.question.output_tokens, terms.copies, terms.slots
        total = (copies * state.rate).sum(axis=2)
        share = copies * state.rate / total[:, :, None]
        held, read, way = tokens * state.token, state.read, terms.way
        reading = np.minimum(1.0, state.busy * read / held)
        wait = state.over / slots * held + read * (1 + reading) + way
        decode = state.step + np.exp(scalar["kappa"]) * np.maximum(state.busy - 1, 0) * read / tokens
        own = np.exp(scalar["tail_prompt"]) + 2 * reading
        return Answer(
            tps=total,
            ttft_s=(share * wait).sum(axis=2),
            tpot_s=(share * decode).sum(axis=2),
            prefill_s=(share * (read * (1 + reading) + state.step)).sum(axis=2),
            busy=(copies * state.busy).sum(axis=2),
            part_tpot_s=decode,
            part_share=share,
            memory=memory,
            _tails=(state.beyond, np.exp(scalar["tail"]) * state.sigma, held / slots, read, own, share, way),
        )


def step_shape(design: Design) -> Array:
    """[C, 5] what of a configuration's shape counts for a step."""
    slots, instances = (design.shape[:, 3] - 3) / 3, design.shape[:, 0] / 3
    return np.stack([slots, slots**2, instances, design.shape[:, 1] / 1.5, design.shape[:, 2] / 2], axis=1)


def prompt_shape(design: Design) -> Array:
    """[C, 3] what of it counts for reading a prompt."""
    slots = (design.shape[:, 3] - 3) / 3
    return np.stack([slots, design.shape[:, 0] / 3, slots**2], axis=1)
