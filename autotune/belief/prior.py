"""What earlier studies of a host say of the law's parameters, before anything is measured.

What the trials of an earlier study added to what was thought before them, the information of its fit less that of the
prior, goes on to another study: about those parameters that mean the same there, and as far as they may have stayed
what they were. Each has drifted by a part of what is thought possible beforehand; the more has changed, the further.

It comes as combinations of parameters with a value and a standard deviation each, which are met like measurements, with
tails. And it is a hypothesis: each of those about the law stands twice, once with what earlier studies say and once
without, and how well they foretell the trials says which to believe. So it is noticed when a host is not what it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from autotune.belief.fit import DEVICE_TAILS
from autotune.belief.question import SPARE_BYTES
from autotune.belief.sizing import KNOBS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from autotune.belief.design import Array
    from autotune.belief.kernel import Hypothesis
    from autotune.belief.law import Law
    from autotune.belief.mind import Mind

DRIFT = 0.3
"""Standard deviation of what a parameter changes from one night to the next, in parts of the prior's."""
AS_BEFORE = 0.75
"""Chance that earlier studies are of any use, before anything is measured."""
AGAIN = ", as in earlier studies"
LEAST = 0.05
"""Information of a combination, in parts of the prior's, below which it is not worth telling."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one earlier study says: combinations of parameters, each with the standard deviation 1."""

    names: tuple[str, ...]
    """The parameters, as `named` calls them."""
    weights: tuple[tuple[float, ...], ...]
    """Of every parameter, for each combination."""
    values: tuple[float, ...]
    """Of the combinations."""
    trust: tuple[tuple[str, float], ...] = ()
    """How likely each hypothesis about the law is after it; of those that it does not name it says nothing."""

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """As `asdict` and JSON have it. Raises `KeyError`, `TypeError`, `ValueError`."""
        weights = tuple(tuple(map(float, row)) for row in said["weights"])
        values, names = tuple(map(float, said["values"])), tuple(map(str, said["names"]))
        if len(weights) != len(values) or any(len(row) != len(names) for row in weights):
            raise ValueError("a lesson with other numbers of weights than of names or values")
        trust = tuple((str(name), float(chance)) for name, chance in said.get("trust", ()))
        if not all(0 < chance <= 1 for _, chance in trust):
            raise ValueError("a lesson with chances that are none")
        return cls(names, weights, values, trust)


@dataclass(frozen=True, slots=True)
class Prior:
    """What a study begins with, from all earlier studies."""

    lessons: tuple[Lesson, ...] = ()
    first: tuple[Mapping[str, Any], ...] = ()
    """Their best configurations: tried before all others, where the space has them."""
    cap: float | None = None
    """No instance had more slots, whatever it was asked for."""
    noise: float | None = None
    """Standard deviation between trials of one configuration, in parts of its output."""

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """As `asdict` and JSON have it. Raises `KeyError`, `TypeError`, `ValueError`."""
        return cls(
            tuple(map(Lesson.from_json, said["lessons"])),
            tuple(dict(one) for one in said["first"]),
            None if said["cap"] is None else float(said["cap"]),
            None if said["noise"] is None else float(said["noise"]),
        )


@dataclass(frozen=True)
class Expected:
    """The lessons as one law sees them."""

    weights: Array
    """[parameters, R]"""
    values: Array
    """[R]"""

    @classmethod
    def of(cls, law: Law, lessons: Sequence[Lesson]) -> Self:
        """What they say of its parameters; of others they may say what they like."""
        place = {name: at for at, name in enumerate(named(law))}
        weights, values = [np.zeros((len(law.mean), 0))], [np.zeros(0)]
        for lesson in lessons:
            of = np.zeros((len(law.mean), len(lesson.values)))
            for name, column in zip(
                lesson.names, np.array(lesson.weights).reshape(-1, len(lesson.names)).T, strict=True
            ):
                if name in place:
                    of[place[name]] = column
            weights.append(of)
            values.append(np.array(lesson.values) - _scale(law) @ of)
        return cls(np.concatenate(weights, axis=1), np.concatenate(values))

    def off(self, theta: Array) -> Array:
        """[B, parameters] → [B, R] how far they are from what is expected, each over its standard deviation."""
        found: Array = theta @ self.weights - self.values
        return found

    def centre(self, law: Law) -> Array:
        """[parameters] what is most likely before anything is measured."""
        own = 1 / law.sd**2
        found: Array = np.linalg.solve(
            np.diag(own) + self.weights @ self.weights.T, own * law.mean + self.weights @ self.values
        )
        return found


def doubled(
    hypotheses: Sequence[Hypothesis], law: Law, lessons: Sequence[Lesson]
) -> tuple[tuple[Hypothesis, ...], tuple[Expected | None, ...]]:
    """Each hypothesis without and with the lessons, and what these say; where there are none, each once."""
    alone = tuple(hypotheses)
    if not lessons:
        return alone, (None,) * len(alone)
    fresh = tuple(replace(one, chance=(1 - AS_BEFORE) * one.chance) for one in alone)
    trusts = [dict(lesson.trust) for lesson in lessons]
    chances = [fmean(trust.get(one.name, one.chance) for trust in trusts) for one in alone]
    again = tuple(
        replace(one, name=one.name + AGAIN, chance=AS_BEFORE * chance)
        for one, chance in zip(alone, chances, strict=True)
    )
    return fresh + again, (None,) * len(fresh) + (Expected.of(law, lessons),) * len(again)


def named(law: Law, knobs: Collection[str] = (), devices: Collection[int] = ()) -> tuple[str, ...]:
    """What each parameter is about, in words that mean the same in another study on the same devices.

    Empty for those that would mean something else there: effects of these knobs, and speeds of these devices.
    """
    columns = [
        "" if name in knobs else f" {name}={value}" if value is not None else f" {name}/{height:g}"
        for name, value, height in law.designer.knobs
    ]
    own = {
        "knob": columns,
        "knob_batch": columns,
        "knob_prompt": columns,
        KNOBS: columns,
        "device": ["" if at in devices else f" {at}" for at in range(law.designer.device_count)],
        "kind": [f" {kind}" for kind in law.kinds[1:]],
    }
    if (left_bytes := law.question.spare_bytes) != SPARE_BYTES:
        own["spare"] = [f" {left_bytes / 2**20:.0f} MiB"]
    found = list[str]()
    for one in law.parameters:
        each = own.get(one.name, ["", *(f" {at}" for at in range(1, one.size))][: one.size])
        found += [one.name + more if more or one.name not in own else "" for more in each]
    return tuple(found)


def _scale(law: Law) -> Array:
    """[parameters] what makes them mean the same under another number of users: the host gives way to busy slots."""
    found = np.zeros(len(law.mean))
    found[law.at["saturation"]] = math.log(law.question.users)
    return found


def learned(mind: Mind, names: Sequence[str], times: float = 1.0, trusted: float = 0.5) -> Lesson | None:
    """What a study teaches of the parameters with a name, each of which may have drifted so many times as far as usual.

    Its trust in the law is kept to the part `trusted`; the rest is what was thought of it before.

    None where it has measured nothing.
    """
    if not mind.views:
        return None
    law, fitted = mind.law, mind.likeliest.fit
    rows = [at for at, name in enumerate(names) if name]
    sd = law.sd[rows]
    theta, mean = ((one + _scale(law))[rows] / sd for one in (fitted.theta, law.mean))
    off = theta - mean
    own = np.where(law.heavy[rows], (DEVICE_TAILS + 1) / (DEVICE_TAILS + off * off), 1.0)
    whole = np.linalg.inv(fitted.covariance[np.ix_(rows, rows)] / np.outer(sd, sd))
    sizes, axes = np.linalg.eigh(0.5 * (whole + whole.T) - np.diag(own))
    told = (axes * np.maximum(sizes, 0.0)) @ axes.T  # the information of the trials alone
    kept = np.linalg.inv(np.eye(len(rows)) + (times * DRIFT) ** 2 * told)
    left = kept @ told
    sizes, axes = np.linalg.eigh(0.5 * (left + left.T))
    chosen = sizes > LEAST
    if not chosen.any():
        return None
    roots, axes = np.sqrt(sizes[chosen]), axes[:, chosen]
    values = axes.T @ (kept @ (whole @ theta - own * mean)) / roots
    weights = (axes * roots).T / sd
    return Lesson(
        tuple(name for name in names if name),
        tuple(tuple(row) for row in weights.tolist()),
        tuple(values.tolist()),
        _trust(mind, trusted),
    )


def _trust(mind: Mind, part: float) -> tuple[tuple[str, float], ...]:
    """How likely each hypothesis is: a part as it was found, the rest as it was thought before."""
    found = dict[str, float]()
    for view in mind.views:
        name, chance = view.hypothesis.name.removesuffix(AGAIN), view.hypothesis.chance
        found[name] = found.get(name, 0.0) + chance + part * (float(view.weights[0]) - chance)
    return tuple(found.items())
