"""What is believed of every configuration, from what was measured of some."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.belief import room
from autotune.belief.fit import TTFT_NOISE, Fit, Head, Problem, fit
from autotune.belief.forecast import Forecast, Said
from autotune.belief.kernel import HYPOTHESES, Places
from autotune.belief.law import Law
from autotune.belief.prior import Prior, doubled
from autotune.belief.question import JOULES
from autotune.belief.view import OUTLIERS, View
from autotune.space import key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.belief.design import Array, Design, Designer
    from autotune.belief.evidence import Evidence, Loaded
    from autotune.belief.kernel import Hypothesis
    from autotune.belief.question import Question

STEPS = 14
FRESH = frozenset({2, 3, 5, 8, 12, 18, 27, 40, 60, 90})
"""Numbers of trials after which the likeliest hypothesis is fitted anew, too."""
BETTER = 0.1
"""By so much in the logarithm of the evidence another optimum is better, and the other hypotheses look there, too."""
LEAST_SD = 0.008
NOISE, NOISE_WORTH = 0.025, 3.0
"""Usual standard deviation between trials of one configuration, and how many repeats outweigh it."""
ROUGH = 4.0
"""So many times as much for trials that ended before their time."""
HEARD = 0.005
"""A hypothesis that is less likely than that, as to the output and to each limit, counts for nothing meanwhile: it
foretells trials by what was known when it fell silent, until it foretells better than the others."""
RELATED = 0.3
"""How much it counts for the trust in one head how the others were foretold."""
FAINT = 1e-8
"""Of the largest variance: what is alike in all but the last digits is taken as not quite so."""


class Mind:
    """The belief of one study; `learn` again whenever there is more evidence."""

    def __init__(
        self,
        question: Question,
        designer: Designer,
        hypotheses: Sequence[Hypothesis] = HYPOTHESES,
        prior: Prior | None = None,
    ) -> None:
        self.question = question
        self.designer = designer
        self.prior = prior or Prior()
        self.law = Law(question, designer)
        self.hypotheses, self._expected = doubled(hypotheses, self.law, self.prior.lessons)
        self._forget()

    def _forget(self) -> None:
        self.trials: list[Evidence] = []
        self.cap = math.inf
        """No instance has more slots, whatever it is asked for."""
        self.noise = NOISE
        self.views: list[View] = []
        self._foresight = np.zeros((len(self.hypotheses), 1 + len(self.question.bounds)))
        """Logarithm of how likely each hypothesis held what it foretold of all trials, by head."""

    def learn(self, trials: Sequence[Evidence]) -> None:
        """Fit everything anew to all evidence, each trial foretold by what was known before it."""
        if self.trials != list(trials[: len(self.trials)]):  # another story
            self._forget()
        for count in range(len(self.trials) + 1, len(trials) + 1):
            self._foretell(trials[count - 1])
            self._learn(trials[:count])

    def _foretell(self, trial: Evidence) -> None:
        """How likely each hypothesis held what came."""
        if not self.views or not trial.measured:
            return
        values = self._measured(trial)
        design = self.design([trial.params])
        where = Places.of(design)
        noise = np.array([self._noise_of(trial, head) for head in range(len(values))])
        for at, view in enumerate(self.views):
            said = view.full(design, where)
            sd = np.sqrt(said.spread[:, 0] + noise**2)
            z = (values - said.mean[:, 0]) / sd
            known = ~np.isnan(z)
            density = -np.log(sd) - 0.5 * (OUTLIERS + 1) * np.log1p(z * z / OUTLIERS)
            self._foresight[at, known] += density[known]

    def _noise_of(self, trial: Evidence, head: int) -> float:
        """Standard deviation of what a trial shows of the output, which is head 0, or of a limit."""
        usual = self.noise * (TTFT_NOISE if head else 1.0)
        if trial.rough:
            return usual * ROUGH
        load = trial.at(self.question.users)
        return usual if head or load is None else math.hypot(usual, load.vague)

    def _measured(self, trial: Evidence) -> Array:
        """[1 + limits] logarithms; NaN where nothing was measured."""
        main, bounds = trial.at(self.question.users), dict(trial.bounds)
        values = [math.log(main.tps) if main else math.nan]
        values += [math.log(bounds[b.name] / b.most) if b.name in bounds else math.nan for b in self.question.bounds]
        return np.array(values)

    def _learn(self, trials: Sequence[Evidence]) -> None:
        self.trials = list(trials)
        ignored = [t.slots for t in trials if t.slots is not None and t.slots < _fewest(t.params)]
        self.cap = float(min(ignored, default=self._cap_before(trials)))
        self._tried = self.design([trial.params for trial in trials])
        self._where = Places.of(self._tried)
        first = next((load for trial in trials if (load := trial.at(self.question.users))), None)
        if first is None:
            self.views = []
            return
        self._centre(first)
        heads, weights = self._heads(), self._weights()
        starts = [view.fit.theta for view in self.views]
        starts = starts or [self.law.mean if one is None else one.centre(self.law) for one in self._expected]
        problems = {
            at: Problem(self.law, trials, self._tried, heads, self.hypotheses[at], self._expected[at], starts[at])
            for at, weighed in enumerate(weights)
            if weighed.any() or not self.views
        }
        fits = self._fitted(problems, starts, int(weights[:, 0].argmax()))
        self.views = [
            View.of(problems[at], fits[at], weighed) if at in problems else replace(self.views[at], weights=weighed)
            for at, weighed in enumerate(weights)
        ]

    def _fitted(self, problems: Mapping[int, Problem], starts: Sequence[Array], likeliest: int) -> dict[int, Fit]:
        """By hypothesis that counts, from the last optimum; now and then it is seen whether that is still the best.

        Of the likeliest hypothesis alone: another one has seldom another optimum, and counts for less meanwhile.
        """
        found = {at: fit(problem, starts[at], STEPS) for at, problem in problems.items()}
        if self.views and len(self.trials) in FRESH:
            anew = fit(problems[likeliest], self.law.mean, STEPS)
            if anew.evidence > found[likeliest].evidence + BETTER:
                others = {at: fit(problem, anew.theta, STEPS) for at, problem in problems.items()}
                found = {at: max(found[at], others[at], key=lambda one: one.evidence) for at in problems}
        for problem in problems.values():
            problem.forget()
        return found

    def _cap_before(self, trials: Sequence[Evidence]) -> float:
        """What earlier studies say of the slots that there are; a single instance with more refutes them."""
        cap = self.prior.cap
        return math.inf if cap is None or any((trial.slots or 0) > cap for trial in trials) else cap

    def _weights(self) -> Array:
        """[hypotheses, 1 + limits]: the law may hold for the output and not for how long requests wait."""
        whole = self._foresight.sum(axis=1, keepdims=True)
        logs = np.log([[one.chance] for one in self.hypotheses]) + (1 - RELATED) * self._foresight + RELATED * whole
        found = np.exp(logs - logs.max(axis=0))
        found /= found.sum(axis=0)
        found[found.max(axis=1) < HEARD] = 0.0
        return np.asarray(found / found.sum(axis=0))

    @property
    def heard(self) -> list[View]:
        """The hypotheses that count."""
        return [view for view in self.views if view.weights.any()]

    @property
    def likeliest(self) -> View:
        """The likeliest hypothesis as to the output."""
        return max(self.views, key=lambda view: float(view.weights[0]))

    @property
    def trust(self) -> str:
        """The likeliest hypothesis as to the output, in words; empty before anything was measured."""
        return self.likeliest.hypothesis.name if self.views else ""

    def design(self, params: Sequence[Mapping[str, Any]]) -> Design:
        """Their arrays, as the instances would run."""
        return self.designer.design(params).capped(self.cap)

    def _centre(self, main: Loaded) -> None:
        if main.tpot_s:
            self.law.centre("step", math.log(main.tpot_s) - 0.4)
            self.law.centre("slot", math.log(main.tpot_s) - 3.0)
        if main.prefill_s:
            self.law.centre("prompt", math.log(self.question.input_tokens / main.prefill_s))
        self.law.power = self._power()

    def _power(self) -> float:
        """Logarithm of the mean power of what was tried, W; 0 where nobody asks."""
        names = [bound.name for bound in self.question.bounds if bound.metric == JOULES]
        pairs = [(dict(trial.bounds), trial.at(self.question.users)) for trial in self.trials]
        known = [(bounds.get(name), load) for bounds, load in pairs for name in names]
        power = [math.log(joules * load.tps) for joules, load in known if joules and load is not None]
        return math.fsum(power) / len(power) if power else 0.0

    def _heads(self) -> list[Head]:
        """What was measured of output and limits."""
        asked, heads = self.question, list[Head]()
        tps = {
            at: math.log(load.tps)
            for at, trial in enumerate(self.trials)
            if (load := trial.at(asked.users)) is not None
        }
        self.noise = self._noise(tps)
        values = [tps]
        for bound in asked.bounds:
            known = {
                at: dict(trial.bounds).get(bound.name)
                for at, trial in enumerate(self.trials)
                if trial.at(bound.users) is not None
            }
            values.append({at: math.log(value / bound.most) for at, value in known.items() if value})
        for number, one in enumerate(values):
            if one:
                heads.append(
                    Head(
                        number,
                        np.array(list(one), dtype=np.intp),
                        np.array(list(one.values())),
                        np.array([self._noise_of(self.trials[at], number) for at in one]),
                    )
                )
        return heads

    def _noise(self, tps: Mapping[int, float]) -> float:
        """Between trials of one configuration: as usual, or as its repeats say."""
        groups: dict[str, list[float]] = {}
        for at, value in tps.items():
            if not self.trials[at].rough:
                groups.setdefault(key(self.trials[at].params), []).append(value)
        # one outlier is no noise
        squares = sum(min((len(g) - 1) * float(np.var(g, ddof=1)), 9 * NOISE**2) for g in groups.values() if len(g) > 1)
        freedom = sum(len(group) - 1 for group in groups.values())
        usual = self.prior.noise or NOISE
        return math.sqrt((NOISE_WORTH * usual**2 + squares) / (NOISE_WORTH + freedom))

    def rough(self, design: Design, where: Places) -> Forecast:
        """What is believed of these configurations, with a spread that is roughly right: for many at once."""
        return self.mixed([view.rough(design, where) for view in self.heard], self.starts(design, where))

    def forecast(self, design: Design, *, together: bool = False) -> Forecast:
        """What is believed of these configurations; of all pairs of them, too, if it is to be `together`."""
        where = Places.of(design)
        return self.mixed(self.said(design, where, joint=int(together)), self.starts(design, where))

    def said(self, design: Design, where: Places, *, joint: int = 0) -> list[Said]:
        """By hypothesis, with the whole covariances of output and limits, the first `joint` of them."""
        return [view.full(design, where, joint=joint) for view in self.heard]

    def mixed(self, said: Sequence[Said], starts: Array) -> Forecast:
        """One forecast of what all hypotheses say, and of the chances that the configurations can be measured."""
        every = np.stack([one.mean for one in said])
        weights = np.stack([view.weights for view in self.heard])[:, :, None]
        mean = (weights * every).sum(axis=0)
        spread = (weights * (np.stack([one.spread for one in said]) + (every - mean) ** 2)).sum(axis=0)
        sd = np.sqrt(np.maximum(spread, LEAST_SD**2))
        together = None
        if said[0].joint:
            off = every[:, 0] - mean[0]
            whole = np.stack([one.joint[0] for one in said]) + off[:, :, None] * off[:, None, :]
            together = np.einsum("v,vab->ab", weights[:, 0, 0], whole)
        goals = len(self.question.bounds) - self.question.limits
        return Forecast(mean[0], sd[0], mean[1:], sd[1:], starts, together, goals)

    def draws(self, design: Design, count: int) -> Array:
        """[1 + bounds, count, C] joint draws of what is believed: logarithms of output, and of values over limits."""
        return self.drawn(self.said(design, Places.of(design), joint=1 + len(self.question.bounds)), count)

    def drawn(self, said: Sequence[Said], count: int) -> Array:
        """The same of what the hypotheses say, with all their covariances."""
        rng, size = np.random.default_rng(count), said[0].mean.shape[1]
        found = np.empty((1 + len(self.question.bounds), count, size))
        for head, drawn in enumerate(found):
            shares = rng.multinomial(count, [float(view.weights[head]) for view in self.heard])
            drawn[:] = np.concatenate(
                [
                    one.mean[head] + rng.standard_normal((share, size)) @ _root(one.joint[head]).T
                    for one, share in zip(said, shares.tolist(), strict=True)
                ]
            )
        return found

    def starts(self, design: Design, where: Places) -> Array:
        """[C] chance that it fits: by the law of memory, and by what became of its neighbours."""
        if not self.views:
            return np.ones(len(design))
        chance = room.fits(self.law, self.likeliest.fit, design)
        return room.starts(chance, design, where, self.trials, self._tried, self._where)


def _root(covariance: Array) -> Array:
    """[C, C] the lower triangle whose square it is."""
    least = FAINT * float(np.diag(covariance).max())
    return np.asarray(np.linalg.cholesky(covariance + least * np.eye(len(covariance))), dtype=np.float64)


def _fewest(params: Mapping[str, Any]) -> int:
    """The least slots that any class of instances is asked for."""
    return min(int(value) for name, value in params.items() if name.partition("@")[0] == "num_parallel")
