"""What was written behind `bench` or `capacity`, checked, as one value. Nothing is asked of any server here."""

from __future__ import annotations

import math
import os
import re
import ssl
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from autotune.bench.slo import limit, preset
from autotune.benchmark.carrier import Target
from autotune.benchmark.dialect import Ask
from autotune.benchmark.exchange import MOST_CONNECTIONS
from autotune.benchmark.pacer import ClosedLoop, OpenLoop, Ramp, replay
from autotune.benchmark.phases import Phases
from autotune.benchmark.workload import Lengths, Prefixes, PromptFile, make
from autotune.errors import SpecError, StorageError, UsageError
from autotune.files import check
from autotune.ladder import Search
from autotune.spec.values import MOST_RATE
from autotune.stats import enough

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from autotune.benchmark.pacer import Level
    from autotune.benchmark.workload import Workload
    from autotune.goal import Bound

WARM_MAX_S, DRAIN_S = 180.0, 120.0
USERS, INPUT_TOKENS = "5,10,20", 200
"""What is meant where nothing is said: the parser leaves that open, since what is said may not go with the rest."""


@dataclass(frozen=True)
class Route:
    """One way to what is measured: through whatever stands in front, or to the instances themselves."""

    name: str
    """Empty where there is only one."""
    target: Target

    @property
    def shown(self) -> str:
        """Its URL, or URLs, for people."""
        return ", ".join(self.target.urls.values()) or self.target.url


@dataclass(frozen=True)
class Job:
    """All that a command was told."""

    routes: tuple[Route, ...]
    levels: tuple[Level, ...]
    workload: Workload
    input_tokens: float | None
    """What prompts are meant to have, where that is one figure."""
    phases: Phases
    bounds: tuple[Bound, ...]
    precision: float | None
    min_success: float
    """The part of the requests that must succeed, where there are limits."""
    processes: int
    seed: int
    said: dict[str, str]
    """What is kept of it beside the figures."""


def job(chosen: argparse.Namespace) -> Job:
    """The job. Raises `UsageError` for what cannot be, and `SpecError` for a file of prompts that cannot be used."""
    bounds = _bounds(chosen)
    _check_owners(chosen)
    tokens = None if chosen.prompts else chosen.input_tokens or INPUT_TOKENS
    asked = _workload(chosen, tokens)
    flags = ("json", "csv", "parquet", "plot")
    targets = {flag: path for flag in flags if (path := getattr(chosen, flag, None)) is not None}
    for flag, path in targets.items():
        check_target(flag, path)
        if sum(path.absolute() == other.absolute() for other in targets.values()) > 1:
            raise UsageError(f"--{flag} {path}: several figures into one file; one would be lost")
    if getattr(chosen, "parquet", None) and find_spec("pyarrow") is None:
        raise UsageError(f"--parquet {chosen.parquet}: needs pyarrow: pip install pyarrow")
    least = max((enough(bound.statistic) for bound in bounds), default=0)
    longest = chosen.window if chosen.window_max is None else chosen.window_max
    if longest < chosen.window:
        raise UsageError(f"--window-max {longest:g}: is less than --window {chosen.window:g}")
    routes = _routes(chosen)
    return Job(
        routes=routes,
        levels=tuple(_levels(chosen, asked)),
        workload=asked,
        input_tokens=None if chosen.turns > 1 else tokens,
        phases=Phases(chosen.warmup, max(chosen.warmup, WARM_MAX_S), chosen.window, longest, DRAIN_S, least),
        bounds=bounds,
        precision=chosen.precision,
        min_success=chosen.min_success_rate,
        processes=chosen.processes,
        seed=chosen.seed,
        said={"url": routes[0].shown, **_said(chosen, tokens)},
    )


def search(chosen: argparse.Namespace) -> Search:
    """Which loads `capacity` may try. Raises `UsageError` for what cannot be."""
    if (front := chosen.via or chosen.url) and chosen.direct:
        raise UsageError(f"{front} and --direct {chosen.direct}: one of the two; a capacity is that of one way")
    if not (chosen.slo or chosen.limit):
        raise UsageError("capacity is the largest load at which limits hold: write --slo NAME or --limit ttft_s:p95:2")
    whole = chosen.by == "users"
    most = MOST["--concurrency" if whole else "--rate"]
    for flag, load in (("--first", chosen.first), ("--most", chosen.most)):
        if whole and load != int(load):
            raise UsageError(f"{flag} {load:g}: users are whole numbers; or --by rate")
        if load > most:
            raise UsageError(f"{flag} {load:g}: allowed are at most {most:g}")
    if chosen.first > chosen.most:
        raise UsageError(f"--first {chosen.first:g}: is more than --most {chosen.most:g}")
    return Search(chosen.first, chosen.most, chosen.resolution, whole)


def _said(chosen: argparse.Namespace, tokens: int | None) -> dict[str, str]:
    named = ("model", "endpoint", "num_predict", "temperature", "turns", "shared_prefix", "seed", "warmup", "window")
    source = {"prompts": chosen.prompts, "format": chosen.format} if tokens is None else {"input_tokens": tokens}
    return {name: str(value) for name, value in ({name: getattr(chosen, name) for name in named} | source).items()}


def _bounds(chosen: argparse.Namespace) -> tuple[Bound, ...]:
    found = [*(preset(chosen.slo) if chosen.slo else ()), *map(limit, chosen.limit)]
    for bound in found:
        if sum(one.name == bound.name for one in found) > 1:
            raise UsageError(f"--limit {bound.metric}:{bound.statistic}: there are two of it")
    return tuple(found)


def _routes(chosen: argparse.Namespace) -> tuple[Route, ...]:
    ask = Ask(
        chosen.endpoint,
        chosen.model,
        options={"temperature": chosen.temperature, "seed": chosen.seed},
        headers=_headers(chosen.header),
        timeout_s=chosen.timeout,
    )
    ca_file = _ca_file(chosen.ca_file)
    front = chosen.via or chosen.url
    direct = [url.strip() for url in chosen.direct.split(",") if url.strip()]
    if chosen.via and chosen.url:
        raise UsageError(f"{chosen.url} and --via {chosen.via}: one of the two")
    if not front and not direct:
        raise UsageError("what is to be measured? Write a URL, as in http://127.0.0.1:11434")
    for url in [*filter(None, [front]), *direct]:
        _check_url(url)
    urls = {url.partition("://")[2].rstrip("/"): url for url in direct}
    if len(urls) < len(direct):
        raise UsageError(f"--direct {chosen.direct}: the same URL twice")
    both = bool(front and direct)
    routes = []
    if front:
        routes.append(Route("via" if both else "", Target(front, ask, ca_file)))
    if direct:
        routes.append(Route("direct" if both else "", Target("", ask, ca_file, urls)))
    return tuple(routes)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        leads = url.startswith(("http://", "https://")) and parts.hostname and parts.port != 0
    except ValueError:  # of a port that is none, or of half an IPv6 address
        leads = False
    if not leads:
        raise UsageError(f"{url}: not a URL; as in http://127.0.0.1:11434")
    if "?" in url or "#" in url:
        raise UsageError(f"{url}: neither ? nor # may be in it; as in http://127.0.0.1:11434")


def _ca_file(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise UsageError(f"--ca-file {path}: no certificate in PEM form is in it") from error
    except OSError as error:
        raise UsageError(f"--ca-file {path}: {error.strerror}") from error
    return str(path)


def _check_owners(chosen: argparse.Namespace) -> None:
    """What would mean nothing beside the rest is refused, and never left aside. Raises `UsageError`."""
    loads = [flag for flag in ("concurrency", *OPEN) if getattr(chosen, flag) is not None]
    if len(loads) > 1:
        raise UsageError(f"--{loads[0]} and --{loads[1]}: one of the two")
    if chosen.input_tokens is not None and chosen.prompts is not None:
        raise UsageError(f"--input-tokens {chosen.input_tokens} and --prompts {chosen.prompts}: one of the two")
    if chosen.burstiness is not None and chosen.arrivals != "gamma":
        raise UsageError(f"--burstiness {chosen.burstiness:g}: belongs to --arrivals gamma")
    if chosen.arrivals is not None and chosen.rate is None:
        raise UsageError(f"--arrivals {chosen.arrivals}: belongs to --rate")
    if chosen.format != "jsonl" and chosen.prompts is None:
        raise UsageError(f"--format {chosen.format}: belongs to --prompts")


def _levels(chosen: argparse.Namespace, asked: Workload) -> list[Level]:
    if chosen.trace is not None:
        try:
            return [replay(asked.stamps, chosen.trace, chosen.seed)]
        except SpecError as error:
            raise UsageError(f"--{error.message}") from error
    if chosen.ramp is not None:
        allowed = "two rates, the first from 0 on, and a time above 0, as in 1,5,60"
        start, end, seconds = numbers("--ramp", chosen.ramp, float, allowed, 3, 1)
        return [OpenLoop(end, Ramp(start, seconds), chosen.seed)]
    if chosen.rate is not None:
        how: tuple[Any, int, float] = (chosen.arrivals or "poisson", chosen.seed, chosen.burstiness or 1.0)
        rates = numbers("--rate", chosen.rate, float, LIST)
        return _distinct("--rate", chosen.rate, (OpenLoop(rate, *how) for rate in rates))
    given = USERS if chosen.concurrency is None else chosen.concurrency
    users = numbers("--concurrency", given, int, LIST)
    return _distinct("--concurrency", given, (ClosedLoop(count, chosen.seed) for count in users))


def _distinct(flag: str, given: str, levels: Iterable[Level]) -> list[Level]:
    """Figures are kept by label: of two with the same one would be lost."""
    found = list(levels)
    if len({level.label for level in found}) < len(found):
        raise UsageError(f"{flag} {given}: the same load twice")
    return found


OPEN = ("rate", "ramp", "trace")
"""Flags of loads that come whatever the server does."""
LIST = "numbers above 0 with commas between, as in 5,10,20"
MOST = {"--concurrency": MOST_CONNECTIONS, "--rate": MOST_RATE}
"""What no number of a flag may exceed."""


def numbers(
    flag: str, given: str, kind: Callable[[str], Any], allowed: str, count: int | None = None, zeros: int = 0
) -> list[Any]:
    """What a flag lists. Raises `UsageError` for anything but numbers above 0, `count` of them where that is told.

    So many of the first may be 0.
    """
    try:
        found = [kind(one) for one in given.split(",")]
    except ValueError:
        found = []
    above = (0 < one < math.inf or (one == 0 and place < zeros) for place, one in enumerate(found))
    if not found or not all(above) or (count and len(found) != count):
        raise UsageError(f"{flag} {given}: allowed are {allowed}")
    if flag in MOST and max(found) > MOST[flag]:
        raise UsageError(f"{flag} {given}: allowed are at most {MOST[flag]:g}")
    return found


def _workload(chosen: argparse.Namespace, tokens: int | None) -> Workload:
    by = getattr(chosen, "by", None)  # of a search
    is_open = by == "rate" or any(getattr(chosen, flag) is not None for flag in OPEN)
    if chosen.turns > 1 and (is_open or chosen.endpoint not in {"chat", "openai"}):
        users = "--concurrency" if by is None else "--by users"
        raise UsageError(f"--turns {chosen.turns}: conversations need --endpoint chat or openai, and {users}")
    return make(
        chosen.seed,
        Lengths("fixed", chosen.num_predict),
        None if tokens is None else Lengths("fixed", tokens),
        PromptFile(chosen.prompts, chosen.format) if chosen.prompts else None,
        prefixes=_prefixes(chosen.shared_prefix, tokens) if chosen.shared_prefix else None,
        turns=chosen.turns,
    )


def _prefixes(given: str, tokens: int | None) -> Prefixes:
    count, length = numbers("--shared-prefix", given, int, "two whole numbers, as in 4,512", 2)
    if tokens is not None and length >= tokens:
        raise UsageError(
            f"--shared-prefix {given}: allowed are fewer tokens than --input-tokens {tokens}, of which they are a part"
        )
    return Prefixes(count, length)


def _headers(given: list[str]) -> dict[str, str]:
    """Values come from the environment: what is on a command line, everybody on the host can read."""
    headers = {}
    for entry in given:
        name, _, variable = entry.partition("=")
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise UsageError(f"--header {name}: write NAME=VARIABLE, as in Authorization=TOKEN")
        if variable not in os.environ:
            raise UsageError(
                f"--header {name}=…: no environment variable has that name; write the name of one that holds the value"
            )
        if not (os.environ[variable].isascii() and os.environ[variable].isprintable()):
            raise UsageError(f"--header {name}=…: the variable's value has characters that no header may have")
        headers[name] = os.environ[variable]
    return headers


def check_target(flag: str, path: Path | None) -> None:
    """Before the load, not after it: figures that cannot be written would be lost. Raises `UsageError`."""
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"--{flag} {path}: is a folder; write the name of a file")
    if not path.exists() and not os.access(path.parent, os.W_OK):
        raise UsageError(f"--{flag} {path}: {path.parent} is no folder that can be written to")
    try:
        check(path)
    except StorageError as error:
        raise UsageError(f"--{flag} {error}: nothing can be written there") from error
