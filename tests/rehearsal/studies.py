"""Studies of played hosts that pass in no time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.simulator.profiles import load_profile
from tests.conftest import study

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.spec import StudySpec

LIMIT = {"metric": "ttft_s", "statistic": "mean", "max": 0.5}
SMALL: dict[str, dict[str, Any]] = {
    "cluster": {"profile": "2x-small", "model": "tiny", "balancer": "nginx"},
    "search": {"num_parallel": [1, 2, 4], "layouts": ["0", "0 | 1"], "policy": ["round_robin", "least_conn"]},
    "workload": {
        "num_ctx": 512,
        "num_predict": {"kind": "uniform", "mean": 60, "spread": 0.5},
        "input_tokens": 40,
        "levels": [6],
        "warmup_s": 3,
        "window_s": 10,
        "window_max_s": 20,
        "drain_s": 10,
    },
    "objective": {"limits": [LIMIT]},
    "budget": {"trials": 4},
    "proof": {"finalists": 1},
}


def small(**changes: dict[str, Any]) -> StudySpec:
    """A study of nine configurations on two small devices; each keyword changes one table."""
    tables = {name: {**SMALL.get(name, {}), **changes.get(name, {})} for name in {*SMALL, *changes}}
    return study(**tables)


def profile(path: Path, **changes: Any) -> Path:
    """A profile file: 2x-small with other figures of its host (`host__…`) or of its first model (`model__…`)."""
    data = load_profile("2x-small").model_dump()
    for name, value in changes.items():
        place, _, key = name.partition("__")
        (data["host"] if place == "host" else data["models"][0])[key] = value
    path.write_text(_toml(data))
    return path


def _toml(data: dict[str, Any]) -> str:
    lines = [f"{key} = {_value(value)}" for key, value in data.items() if not isinstance(value, dict | list | tuple)]
    lines += ["[host]", *(f"{key} = {_value(value)}" for key, value in data["host"].items())]
    for table in ("devices", "models"):
        for entry in data[table]:
            lines += [f"[[{table}]]", *(f"{key} = {_value(value)}" for key, value in entry.items())]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return str(value).lower()
