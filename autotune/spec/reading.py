"""Reads a study file; what is wrong with it becomes one clear line that names file, key, value and what is allowed."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from autotune.errors import SpecError
from autotune.spec.sections import (
    Baseline,
    Budget,
    Cluster,
    DeviceEntry,
    Limit,
    Objective,
    Proof,
    Search,
    Study,
)
from autotune.spec.study import StudySpec
from autotune.spec.values import LIST, TEXT
from autotune.spec.workload import Conversation, Lengths, Level, SharedPrefix, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic_core import ErrorDetails


def load(path: Path) -> StudySpec:
    """Read a study file. Raises `SpecError`."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}: not TOML: {error}") from error
    try:
        spec = StudySpec.model_validate(data)
    except ValidationError as error:
        raise SpecError("\n".join(_lines(path, error.errors()))) from error
    if spec.study.name == path.name:
        said = "allowed is any name but that of this file: results land in a folder of the name, beside it"
        raise SpecError(f"{path}: study.name: {path.name!r}: {said}")
    return _resolved(path, spec)


def _resolved(path: Path, spec: StudySpec) -> StudySpec:
    """Paths in a study file are relative to it."""
    written = spec.cluster
    cluster: dict[str, Any] = {
        key: _absolute(path, f"cluster.{key}", value)
        for key in ("models_dir", "home")
        if (value := getattr(written, key)) is not None
    }
    if written.profile.endswith(".toml"):
        cluster["profile"] = str(_absolute(path, "cluster.profile", Path(written.profile)))
    if "/" in written.binary:
        cluster["binary"] = str(_absolute(path, "cluster.binary", Path(written.binary), links=False))
    changed: dict[str, Any] = {"cluster": written.model_copy(update=cluster)}
    if (earlier := spec.search.warm_start) not in {"auto", "off"}:
        whole = tuple(
            str(_absolute(path, "search.warm_start", Path(one)))
            for one in ((earlier,) if isinstance(earlier, str) else earlier)
        )
        changed["search"] = spec.search.model_copy(update={"warm_start": whole})
    if spec.workload.prompts is not None:
        prompts = _absolute(path, "workload.prompts", spec.workload.prompts)
        changed["workload"] = spec.workload.model_copy(update={"prompts": prompts})
    return spec.model_copy(update=changed)


def _absolute(path: Path, key: str, value: Path, *, links: bool = True) -> Path:
    try:
        whole = path.parent / value.expanduser()
        return whole.resolve() if links else whole.absolute()
    except (OSError, ValueError, RuntimeError) as error:  # a user who is not there, a NUL, a loop of links
        raise SpecError(f"{path}: {key}: {str(value)!r}: no usable path: {error}") from error


def _lines(path: Path, details: list[ErrorDetails]) -> Iterator[str]:
    """A line for each error; the missing key that an unknown one was meant to be is not reported again."""
    meant = {(*detail["loc"][:-1], _close(detail)) for detail in details if detail["type"] == "extra_forbidden"}
    return (_line(path, detail) for detail in details if detail["type"] != "missing" or detail["loc"] not in meant)


def _line(path: Path, detail: ErrorDetails) -> str:
    """One validation error as one line: file, key, value, what is allowed."""
    keys = _keys(detail)
    where = f"{path}: {_dotted(keys)}: " if keys else f"{path}: "
    if detail["type"] == "extra_forbidden":
        close = _close(detail)
        hint = f'; did you mean "{close}"?' if close else "."
        return f"{where}unknown key{hint} Allowed here: {', '.join(sorted(_fields(keys[:-1])))}"
    if detail["type"] == "missing":
        return f"{where}missing; it has no default"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should", "should")
    message = re.sub(r"dictionary( or instance of \w+)?", "table", message).replace("tuple", "list")
    if isinstance(detail["input"], dict | BaseModel) or detail["loc"][-1] == "[key]":
        return where + message
    return f"{where}{detail['input']!r}: {message}"


def _keys(detail: ErrorDetails) -> list[str | int]:
    return [part for part in detail["loc"] if part not in {TEXT, LIST, "[key]"}]


def _dotted(keys: list[str | int]) -> str:
    """As TOML writes it: a key that is no plain word in quotes, a place in a list in brackets."""
    words = (f"[{key}]" if isinstance(key, int) else f".{key if _PLAIN.fullmatch(key) else repr(key)}" for key in keys)
    return "".join(words).removeprefix(".")


_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


def _close(detail: ErrorDetails) -> str:
    """The key that an unknown one was probably meant to be; empty if there is none like it."""
    *parents, wrong = _keys(detail)
    return next(iter(difflib.get_close_matches(str(wrong), sorted(_fields(parents)), n=1, cutoff=0.5)), "")


_NESTED: dict[str, type[BaseModel]] = {
    "study": Study,
    "cluster": Cluster,
    "search": Search,
    "baseline": Baseline,
    "workload": Workload,
    "objective": Objective,
    "budget": Budget,
    "proof": Proof,
    "cluster.devices": DeviceEntry,
    "workload.levels": Level,
    "workload.shared_prefix": SharedPrefix,
    "workload.conversation": Conversation,
    "workload.num_predict": Lengths,
    "workload.input_tokens": Lengths,
    "objective.limits": Limit,
}


def _fields(keys: list[str | int]) -> list[str]:
    model = _NESTED.get(".".join(key for key in keys if isinstance(key, str)), StudySpec)
    return list(model.model_fields)
