"""Trials, their constraints, and the candidates of a proof as tables.

Seconds and tokens/s are those of the host that is measured, also where it is played and its clock runs faster; only the
`seconds` of a trial are seconds of this wall clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import pandas as pd

from autotune.analysis.columns import MOMENT, REAL, TEXT, WHICH, WHOLE, YES, frame, of, which
from autotune.space import USUAL
from autotune.stats import Statistic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from autotune.analysis.columns import Row
    from autotune.analysis.reading import Run, Study
    from autotune.metrics import Metrics
    from autotune.spec import Level
    from autotune.stats import Interval

STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
_PARTS = ("mean", "low", "high")


def parameters(study: Study) -> list[str]:
    """The names of all parameters: layout, num_parallel, …"""
    return list(dict.fromkeys(name for run in study.runs for name in run.result.params))


def configuration(study: Study, params: Mapping[str, Any]) -> str:
    """A configuration in a few words, "0 | 1 · 8 slots each · least_conn"; of the rest only what the study varies."""
    rest = [name for name in parameters(study) if name not in {"layout", "num_parallel", "policy"}]
    varied = [name for name in rest if len({run.result.params.get(name, USUAL.get(name)) for run in study.runs}) > 1]
    told = [f"{name.removeprefix('env:')} {params[name]}" for name in varied if name in params]
    policy = [params["policy"]] if "policy" in params else []
    return " · ".join([params["layout"], _slots(params), *policy, *told])


def _slots(params: Mapping[str, Any]) -> str:
    slots, several = params["num_parallel"], not params["layout"].replace("+", "").isdigit()
    return f"{slots} slot{'s' if slots > 1 else ''}{' each' if several else ''}"


_RATES = {
    **of(REAL, "output_tps", "success_rate"),
    **of(WHOLE, "requests"),
    **of(REAL, "in_flight", "generating", "input_tokens", "output_tokens"),
}
_TIMES = ("ttft", "tpot", "e2e", "queue")


def trials(study: Study) -> pd.DataFrame:
    """A row for each trial and level, also for those that could not be measured: `reason` says why.

    Of a trial that was `dropped`, which says why, figures are those of what was measured by then.
    `phase` is "search" or "proof"; in a proof `block` and `candidate` say which run it is. The parameters are columns
    of their own names, `slots` are those of all instances together. `output_tps` in tokens/s, of times the mean, p50,
    p90, p95 and p99 in s. `violation` and `feasible` are those of the whole trial; `seconds` are on this wall clock.
    """
    names = parameters(study)
    kinds = {name: _kind(run.result.params.get(name) for run in study.runs) for name in names}
    columns = {
        **WHICH,
        "configuration": TEXT,
        "baseline": YES,
        **kinds,
        **of(WHOLE, "instances", "slots"),
        "level": TEXT,
        "objective": REAL,
        "unit": TEXT,
        "users": WHOLE,
        "rate_per_s": REAL,
        **_RATES,
        **{f"{name}_{statistic}_s": REAL for name in _TIMES for statistic in STATISTICS},
        "feasible": YES,
        "violation": REAL,
        **of(TEXT, "reason", "dropped"),
        "cautions": WHOLE,
        "began_at": MOMENT,
        "seconds": REAL,
        "simulated": YES,
        "fingerprint": TEXT,
    }
    every = ((run, level) for run in study.runs for level in study.levels(run.result) if not _left_out(run, level))
    return frame((_trial(study, run, level) for run, level in every), columns)


def _left_out(run: Run, level: Level) -> bool:
    """Whether a run was without this level, as those of a proof are without what decides nothing."""
    result = run.result
    return run.phase == "proof" and result.measured and level.label not in result.levels


def _kind(values: Iterable[object]) -> str:
    return WHOLE if all(value is None or isinstance(value, int) for value in values) else TEXT


def _trial(study: Study, run: Run, level: Level) -> Row:
    result = run.result
    return {
        **which(run),
        **result.params,
        "configuration": configuration(study, result.params),
        "baseline": result.fingerprint == study.baseline.fingerprint,
        "instances": result.instances,
        "slots": result.slots_in_all,
        "level": level.label,
        "objective": result.score.objective,
        "unit": study.unit,
        "users": level.users,
        "rate_per_s": level.rate,
        **_figures(result.levels.get(level.label)),
        "feasible": result.score.feasible,
        "violation": result.score.violation,
        "reason": result.reason,
        "dropped": result.dropped,
        "cautions": len(result.cautions),
        "began_at": pd.Timestamp(result.began_at),
        "seconds": result.seconds,
        "simulated": result.simulated,
        "fingerprint": result.fingerprint,
    }


def _figures(metrics: Metrics | None) -> Row:
    if metrics is None:
        return {}
    times = [(name, statistic) for name in _TIMES for statistic in STATISTICS]
    return {
        **{name: getattr(metrics, name) for name in _RATES},
        **{f"{name}_{statistic}_s": metrics.statistic(f"{name}_s", statistic) for name, statistic in times},
    }


def constraints(study: Study) -> pd.DataFrame:
    """A row for each trial and constraint: `violation` is relative, 0.5 is half too much, feasible is 0 or less."""
    rows = (
        {**which(run), "constraint": name, "violation": violation}
        for run in study.runs
        for name, violation in run.result.score.constraints.items()
    )
    return frame(rows, {**WHICH, "constraint": TEXT, "violation": REAL})


_CANDIDATE = {
    **of(WHOLE, "candidate"),
    **of(TEXT, "configuration"),
    **of(WHOLE, "runs"),
    **of(TEXT, "reason"),
    **of(YES, "feasible", "winner", "recommended"),
    **{f"{name}_{part}": REAL for name in ("tps", "next", "gain") for part in _PARTS},
}


def candidates(study: Study) -> pd.DataFrame:
    """A row for each candidate of the proof, the baseline first; no row without a proof.

    `tps_*` is the mean over fresh starts with its 95 % interval, `next_*` where one more start would land, both in the
    `unit` of `trials`: tokens/s, or of a capacity users or requests/s. `gain_*` in parts of what the baseline has, with
    an interval that holds together with all others of the proof.
    """
    verdict = study.verdict
    if verdict is None:
        return frame([], _CANDIDATE)
    rows = (
        {
            "candidate": at,
            "configuration": configuration(study, one.params),
            "runs": len(one.runs),
            "reason": one.reason,
            "feasible": verdict.feasible(at),
            **_interval("tps", one.mean_tps),
            **_interval("next", one.next_tps),
            **_interval("gain", verdict.gain(at)),
            "winner": at in verdict.winners,
            "recommended": at == verdict.recommended,
        }
        for at, one in enumerate(verdict.contenders)
    )
    return frame(rows, _CANDIDATE)


def _interval(name: str, found: Interval | None) -> Row:
    return {f"{name}_{part}": getattr(found, part, None) for part in _PARTS}
