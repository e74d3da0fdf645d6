"""What a trial shows of the truth: figures with noise, in the shape in which a night keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import exp, pi, sin, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.cluster.verify import Placement
from autotune.metrics import InstanceMetrics, Metrics, Summary
from autotune.records import Outcome
from autotune.result import TrialResult
from autotune.score import failed, judge
from autotune.space import key
from autotune.stats import enough

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from autotune.space import ModelFacts, Value
    from autotune.spec import StudySpec
    from tests.benchmarks.clusters.machine import Built
    from tests.benchmarks.clusters.truth import Share, Times, Truth

COMMON = 0.6
"""The part of the variance of log tokens/s that all loads of a trial have in common: the restart's."""
OPPOSED = 0.7
"""How far the noise of TTFT, which is twice as large, is that of the rate with its sign turned."""
FINE = 0.012
"""Noise of means that are taken over many requests: TPOT, prefill, instances."""
SHORT = 1.5
"""More noise in the short windows of further loads."""
FIRST_TRIAL = datetime(2026, 1, 1, 22, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Chance:
    """What befell one trial."""

    seed: int
    number: int
    sd: float
    speed: float
    """Factor on all speeds, common to its loads."""

    def rng(self, users: int) -> np.random.Generator:
        """Of one load."""
        return np.random.default_rng((self.seed, self.number, users, 2))


@dataclass(frozen=True, slots=True)
class Noise:
    """How trials of one configuration differ."""

    sd: float
    """Of log tokens/s, restart and load together."""
    drift: float = 0.0
    """The host is faster and slower by this part,"""
    period: float = 30.0
    """once in so many trials,"""
    phase: float = 0.0
    """beginning here, in turns."""
    outliers: float = 0.0
    """The part of the trials that something else slows by 10-35 %."""

    def trial(self, seed: int, number: int) -> Chance:
        """What befalls the trial of this number, whatever its configuration."""
        rng = np.random.default_rng((seed, number, 3))
        restart, unlucky, loss = rng.standard_normal(), rng.random(), rng.uniform(0.10, 0.35)
        speed = _unbiased(restart, self.sd * sqrt(COMMON))
        speed *= 1 + self.drift * sin(2 * pi * (number / self.period + self.phase))
        return Chance(seed, number, self.sd, speed * (1 - loss if unlucky < self.outliers else 1.0))


def failed_trial(spec: StudySpec, params: Mapping[str, Value], number: int) -> TrialResult:
    """A start that ran out of memory."""
    return TrialResult(
        **_identity(spec, params, number), score=failed("load_failed"), levels={}, reason="load_failed",
        message="the model could not be loaded: out of memory", seconds=60.0,
    )  # fmt: skip


def observed_trial(
    spec: StudySpec,
    facts: ModelFacts,
    params: Mapping[str, Value],
    number: int,
    built: Built,
    truths: Mapping[int, Truth],
    chance: Chance,
) -> TrialResult:
    """A trial with a level for each number of users; the first is the study's."""
    study, *others = truths
    levels = {f"{study} users": _metrics(spec, truths[study], chance, 1.0)}
    score = judge(spec, levels)
    levels |= {f"{users} users": _metrics(spec, truths[users], chance, SHORT) for users in others}
    started = 20.0 + 10.0 * len(built.held)
    return TrialResult(
        **_identity(spec, params, number), score=score, levels=levels,
        placements=tuple(_placements(spec, facts, built)), cautions=score.cautions,
        seconds=started + sum(30.0 + metrics.window_s for metrics in levels.values()),
    )  # fmt: skip


def _identity(spec: StudySpec, params: Mapping[str, Value], number: int) -> dict[str, Any]:
    layout = str(params["layout"])
    return {
        "number": number,
        "params": dict(params),
        "fingerprint": key(params),
        "layout": layout,
        "instances": sum(int(part.partition("x")[2] or 1) for part in layout.split("|")),
        "began_at": (FIRST_TRIAL + timedelta(minutes=5 * number)).isoformat(),
        "simulated": spec.cluster.simulated,
    }


def _placements(spec: StudySpec, facts: ModelFacts, built: Built) -> Iterator[Placement]:
    layers = facts.layers + 1
    for number, (held, engine) in enumerate(zip(built.held, built.setup.engines, strict=True)):
        on_device = layers if held.off == 0 else min(layers - 1, int(layers * (1 - held.off)))
        yield Placement(
            instance=f"ollama-{number}", on_gpu=True, compute=("CUDA0",), layers_on_device=on_device, layers=layers,
            size_bytes=held.size_bytes, size_vram_bytes=held.vram_bytes, num_parallel=engine.slots,
            parallel_unsupported=False, context_length=spec.workload.num_ctx,
        )  # fmt: skip


def _metrics(spec: StudySpec, truth: Truth, chance: Chance, more: float) -> Metrics:
    rng = chance.rng(truth.users)
    own, waits, *fine = rng.standard_normal(6)
    sd = more * chance.sd * sqrt(1 - COMMON)
    speed = chance.speed * _unbiased(own, sd)
    # TTFT: twice the noise of the rate, and against it
    late = speed ** (-2 * OPPOSED) * _unbiased(waits, 2 * sqrt(1 - OPPOSED**2) * chance.sd * more)
    late *= exp(-OPPOSED * (2 * OPPOSED + 1) * chance.sd**2 * (COMMON + (1 - COMMON) * more**2))
    slow = 1 / chance.speed
    window_s = _window_s(spec, truth)
    requests = round(truth.requests_per_s * speed * window_s)
    level = _summary(truth.ttft, late, requests, rng)
    return Metrics(
        window_s=window_s,
        output_tps=truth.tps * speed,
        requests=requests,
        outcomes={outcome.value: requests if outcome is Outcome.OK else 0 for outcome in Outcome},
        success_rate=1.0,
        ttft_s=level,
        ttft_waiting_s=(),
        tpot_s=_summary(truth.tpot, slow * _unbiased(fine[0], FINE), requests, rng),
        chunk_gap_s=_summary(truth.tpot, slow, requests, rng),
        e2e_s=_summary(truth.e2e, 1 / speed, requests, rng),
        send_lag_s=_flat(0.0005, requests),
        queue_s=_summary(truth.queue, late, requests, rng),
        input_tokens=truth.input_tokens,
        output_tokens=truth.output_tokens,
        tokens_per_chunk=1.0,
        stopped_early=0.0,
        cold=0,
        connected=0,
        in_flight=truth.in_flight,
        generating=truth.generating * _unbiased(fine[1], FINE / 3),
        instances=_instances(spec, truth, (speed, late, slow), rng, window_s),
        prefill_s=_summary(truth.prefill, slow * _unbiased(fine[2], FINE), requests, rng),
        pace=1.0,
        little=0.0,
    )


def _window_s(spec: StudySpec, truth: Truth) -> float:
    """As long as the limit's statistic needs, within the study's bounds."""
    needed = enough("p95") / truth.requests_per_s if truth.requests_per_s else spec.workload.window_max_s
    return min(spec.workload.window_max_s, max(spec.workload.window_s, 1.1 * needed))


def _instances(
    spec: StudySpec, truth: Truth, factors: tuple[float, float, float], rng: np.random.Generator, window_s: float
) -> dict[str, InstanceMetrics]:
    speed, late, slow = factors
    done = sum(share.requests for share in truth.instances) or 1
    scale = truth.requests_per_s * speed * window_s / done
    noisy = [share.tokens_per_s * _unbiased(rng.standard_normal(), FINE) for share in truth.instances]
    whole = sum(noisy) or 1.0
    return {
        f"127.0.0.1:{spec.cluster.first_port + number}": _instance(share, tokens / whole, share.requests / done, {
            "tps": truth.tps * speed, "requests": scale, "late": late * _unbiased(rng.standard_normal(), FINE),
            "slow": slow * _unbiased(rng.standard_normal(), FINE),
        })
        for number, (share, tokens) in enumerate(zip(truth.instances, noisy, strict=True))
    }  # fmt: skip


def _instance(share: Share, tokens_share: float, requests_share: float, by: Mapping[str, float]) -> InstanceMetrics:
    requests = round(share.requests * by["requests"])
    return InstanceMetrics(
        requests=requests,
        share=requests_share,
        output_tps=by["tps"] * tokens_share,
        ttft_mean_s=_known(share.ttft_mean_s, by["late"]),
        ttft_p95_s=_known(share.ttft_p95_s, by["late"]),
        slots_used=share.most,
        tokens_share=tokens_share,
        ttft_p50_s=_known(share.ttft_p50_s, by["late"]),
        tpot_p50_s=_known(share.tpot_p50_s, by["slow"]),
        answers=requests,
    )


def _known(value: float, factor: float) -> float | None:
    return None if np.isnan(value) else value * factor


def _summary(times: Times, factor: float, n: int, rng: np.random.Generator) -> Summary:
    """The same sample, stretched; the further out a percentile, the more it is its own. They stay in order."""
    if not n or not times.n:
        return Summary()
    jitter = [_unbiased(rng.standard_normal(), sd) for sd in (0.004, 0.004, 0.006, 0.015)]
    percentiles = np.maximum.accumulate(
        [factor * value * own for value, own in zip((times.p50, times.p90, times.p95, times.p99), jitter, strict=True)]
    )
    p50, p90, p95, p99 = map(float, percentiles)
    return Summary(n, factor * times.mean, p50, p90, p95, p99, max(p99, factor * times.max))


def _flat(value: float, n: int) -> Summary:
    return Summary(n, value, value, value, value, value, value)


def _unbiased(drawn: float, sd: float) -> float:
    """A log-normal factor with mean 1."""
    return exp(sd * drawn - sd * sd / 2)
