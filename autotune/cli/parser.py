"""What can be written behind `autotune`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from autotune import __version__
from autotune.cli import commands

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EPILOG = """\
exit codes: 0 done, 1 nothing feasible, 2 bad file or usage, 3 the cluster could not start, 4 storage, 130 interrupted

A night lasts: run it in tmux, or with `systemd-run --user autotune run ...`. Ctrl-C puts everything away and shows
what was found; the same command goes on from there.
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything here does."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"autotune: {message}; see {self.prog} --help\n")

    def parse_known_args(  # type: ignore[override] # the stubs have overloads for namespaces of other classes
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Complains of flags that nobody knows here: the parser of all commands could not say which command it is."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def parser() -> argparse.ArgumentParser:
    """What `autotune` understands; each command is a function of `commands`."""
    whole = _Parser(
        prog="autotune",
        description="Finds the fastest Ollama cluster your GPUs can be while you sleep.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"autotune {__version__}")
    every = whole.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = every.add_parser("run", help="run a study, or go on with one, to the end of its budget")
    run.add_argument("study", type=Path, metavar="STUDY.toml")
    _add_balancer(run)
    run.add_argument("--plain", action="store_true", help="plain log lines, also on a terminal")
    run.set_defaults(command=commands.run)

    plan = every.add_parser("plan", help="show what a study would run")
    plan.add_argument("study", type=Path, metavar="STUDY.toml")
    _add_balancer(plan)
    plan.set_defaults(command=commands.plan)

    _add_bench(every.add_parser("bench", help="load any Ollama endpoint and print its figures"))

    _add_capacity(every.add_parser("capacity", help="the largest load at which limits hold at an Ollama endpoint"))

    _add_simulate(every.add_parser("simulate", help="what a study would find on a played host, over many nights"))

    profile = every.add_parser("profile", help="the host of a finished study as a profile, for `simulate --profile`")
    _add_study(profile)
    profile.add_argument("--to", type=Path, required=True, metavar="FILE.toml", help="the profile")
    profile.set_defaults(command=commands.profile)

    selftest = every.add_parser("selftest", help="how exact this machine's client is, and how much it can take")
    selftest.add_argument("--concurrency", default="1,16,64", metavar="N,N", help=_default("streams, a test for each"))
    selftest.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    selftest.set_defaults(command=commands.selftest)

    compare = every.add_parser("compare", help="two result files of bench, with the change in %%")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    compare.set_defaults(command=commands.compare)

    status = every.add_parser("status", help="how a study stands: what it has found, and whether it runs now")
    _add_study(status)
    status.set_defaults(command=commands.status)

    report = every.add_parser("report", help="all that a study has found, as a page of Markdown")
    _add_study(report)
    report.set_defaults(command=commands.report)

    _add_forecast(every.add_parser("forecast", help="what the search believes: what could still win, or of anything"))

    export = every.add_parser("export", help="systemd units, nginx site, compose file and more for the winner")
    _add_study(export)
    export.add_argument("--to", type=Path, required=True, metavar="DIRECTORY", help="a new folder, or an empty one")
    export.add_argument(
        "--trial",
        type=int,
        metavar="N",
        help="this trial of the search: a point of the front, or in place of a proved winner",
    )
    export.add_argument(
        "--listen", default="127.0.0.1", metavar="ADDRESS", help="where nginx listens (default %(default)s)"
    )
    export.add_argument("--user", metavar="NAME", help="the user that runs Ollama; without it the store's owner")
    export.set_defaults(command=commands.export)

    doctor = every.add_parser("doctor", help="what a night needs on this host, what is missing, and what mends it")
    _add_doctor(doctor)

    studies = every.add_parser("studies", help="list the study files that come with autotune, or copy one here")
    studies.add_argument("name", nargs="?", help="the study file to copy into this folder")
    studies.set_defaults(command=commands.studies)

    reference = every.add_parser("reference", help="print what a study file may hold")
    reference.add_argument("--schema", action="store_true", help="as a JSON schema, for editors")
    reference.set_defaults(command=commands.reference)
    return whole


def _add_study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", type=Path, metavar="STUDY", help="a study file, or the folder of its results")


def _add_forecast(parser: argparse.ArgumentParser) -> None:
    _add_study(parser)
    parser.add_argument(
        "configuration",
        nargs="*",
        metavar="CONFIGURATION",
        help="as in 'layout=0 | 1,num_parallel=8', in the space or not; what is not said is as the space has it first",
    )
    parser.set_defaults(command=commands.forecast)


def _add_bench(parser: argparse.ArgumentParser) -> None:
    _add_endpoint(
        parser,
        "the same as URL, to be read beside --direct",
        "instances, asked in turn; beside --via what a proxy costs",
    )
    _add_phases(parser, warmup_s=10, window_s=60, window_max_s=None)
    load = parser.add_argument_group("load")
    load.add_argument("--concurrency", metavar="N,N", help="users, a run for each (default 5,10,20)")
    load.add_argument("--rate", metavar="R,R", help="requests/s that come by themselves, in place of users")
    load.add_argument("--arrivals", choices=("poisson", "constant", "gamma"), help="of a --rate (default poisson)")
    load.add_argument(
        "--burstiness", type=_burstiness, metavar="K", help="of gamma: 1, the default, is Poisson, less comes in bursts"
    )
    load.add_argument("--ramp", metavar="R,R,S", help="from one rate to another in S seconds")
    load.add_argument(
        "--trace", type=_positive, metavar="SPEED", help="the arrivals of --prompts; 1 is their own speed"
    )
    keep = parser.add_argument_group("what is kept")
    keep.add_argument("--json", type=Path, metavar="FILE", help="the figures, for `autotune compare`")
    keep.add_argument("--csv", type=Path, metavar="FILE", help="a row for each request")
    keep.add_argument("--parquet", type=Path, metavar="FILE", help="the same as Parquet (needs pyarrow)")
    parser.set_defaults(command=commands.bench)


def _add_capacity(parser: argparse.ArgumentParser) -> None:
    _add_endpoint(parser, "the same as URL", "instances, asked in turn, in place of URL")
    _add_phases(parser, warmup_s=5, window_s=20, window_max_s=120)
    search = parser.add_argument_group("search")
    search.add_argument("--by", choices=("users", "rate"), default="users", help="what is made larger and larger")
    search.add_argument("--first", type=_positive, default=1, metavar="N", help=_default("the load to begin with"))
    search.add_argument(
        "--most", type=_positive, default=4096, metavar="N", help=_default("no load beyond this is tried")
    )
    search.add_argument("--resolution", type=_positive, default=0.05, metavar="P", help=_default("of the answer"))
    keep = parser.add_argument_group("what is kept")
    keep.add_argument("--json", type=Path, metavar="FILE", help="the steps and the answer")
    keep.add_argument("--plot", type=Path, metavar="FILE.html", help="the curve")
    alone = {"rate": None, "ramp": None, "trace": None, "concurrency": "1", "arrivals": None, "burstiness": None}
    parser.set_defaults(command=commands.capacity, **alone)


def _add_endpoint(parser: argparse.ArgumentParser, via: str, direct: str) -> None:
    """What `bench` and `capacity` have in common: the endpoint and the workload."""
    parser.add_argument("url", metavar="URL", nargs="?", help="of an Ollama, or of what stands in front of several")
    parser.add_argument("--model", required=True)
    parser.add_argument("--endpoint", choices=("generate", "chat", "openai", "completions"), default="generate")
    parser.add_argument("--via", metavar="URL", default="", help=via)
    parser.add_argument("--direct", metavar="URL,URL", default="", help=direct)
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME=VARIABLE",
        help="a header whose value is in an environment variable, never here: --header Authorization=TOKEN",
    )
    parser.add_argument("--ca-file", type=Path, metavar="PEM", help="certificates to check an https server against")
    work = parser.add_argument_group("workload")
    work.add_argument("--input-tokens", type=_count, metavar="N", help="tokens of a prompt (default 200)")
    work.add_argument("--num-predict", type=_count, default=236, metavar="N", help=_default("tokens of an answer"))
    work.add_argument(
        "--temperature", type=_not_negative, default=0.8, metavar="T", help=_default("with which tokens are drawn")
    )
    work.add_argument("--prompts", type=Path, metavar="FILE", help="prompts in place of the seeded generator")
    work.add_argument("--format", choices=FORMATS, default="jsonl", help=_default("of --prompts"))
    work.add_argument("--shared-prefix", default="", metavar="K,N", help="K beginnings of N tokens that prompts share")
    work.add_argument("--turns", type=_count, default=1, metavar="N", help=_default("messages of a conversation"))
    work.add_argument("--seed", type=_seed, default=0, metavar="N", help=_default("of all that is drawn at random"))


def _add_phases(
    parser: argparse.ArgumentParser, *, warmup_s: float, window_s: float, window_max_s: float | None
) -> None:
    """What `bench` and `capacity` have in common, each with times of its own: the window and the limits."""
    grows = "it may grow so far (default: it does not)" if window_max_s is None else _default("it may grow so far")
    phases = parser.add_argument_group("window and limits")
    phases.add_argument(
        "--warmup", type=_not_negative, default=warmup_s, metavar="S", help=_default("load before the window")
    )
    phases.add_argument("--window", type=_positive, default=window_s, metavar="S", help=_default("what is measured"))
    phases.add_argument("--window-max", type=_positive, default=window_max_s, metavar="S", help=grows)
    phases.add_argument("--precision", type=_part, metavar="P", help="until the rate is known to so many parts: 0.05")
    phases.add_argument("--limit", action="append", default=[], metavar="METRIC:STATISTIC:S", help="as in ttft_s:p95:2")
    phases.add_argument(
        "--min-success-rate",
        type=_share,
        default=0.99,
        metavar="P",
        help=_default("the part of the requests that must succeed, where there are limits"),
    )
    phases.add_argument("--slo", metavar="NAME", help="limits of MLPerf by name, as in llama3.1-8b-interactive")
    phases.add_argument(
        "--timeout", type=_positive, default=900, metavar="S", help=_default("the most one request may take")
    )
    phases.add_argument(
        "--processes",
        type=_processes,
        default=1,
        metavar="N",
        help=_default("of the client, at most 64; it takes more if it must"),
    )


def _default(words: str) -> str:
    return f"{words} (default %(default)s)"


FORMATS = ("jsonl", "sharegpt", "mooncake", "burstgpt", "azure")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", nargs="?", type=Path, metavar="STUDY.toml", help="without it the host in general")
    _add_balancer(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object in place of a table")
    parser.set_defaults(command=commands.doctor)


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", type=Path, metavar="STUDY.toml")
    parser.add_argument("--nights", type=_count, default=100, metavar="N", help=_default("so many of them"))
    parser.add_argument(
        "--profile", default="", metavar="NAME", help="the host to play, or a file with one (default: the study's own)"
    )
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help=_default("of the first night"))
    parser.add_argument("--processes", type=_processes, default=1, metavar="N", help=_default("nights at once"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="every night, and what they say together")
    parser.set_defaults(command=commands.simulate)


def _add_balancer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--balancer", choices=("nginx", "direct"), help="in place of cluster.balancer: direct needs no nginx"
    )


def _whole(allowed: str, least: int, most: float = math.inf) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r}: allowed is a whole number {allowed}")
        return int(text)

    return read


def _number(allowed: str, fits: Callable[[float], bool]) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not fits(number):
            raise argparse.ArgumentTypeError(f"{text!r}: allowed is {allowed}")
        return number

    return read


_count = _whole("above 0", 1)
_seed = _whole("from 0 on", 0)
_processes = _whole("from 1 to 64", 1, 64)
_not_negative = _number("a number from 0 on", lambda number: 0 <= number < math.inf)
_positive = _number("a number above 0", lambda number: 0 < number < math.inf)
_share = _number("a part, from 0 to 1", lambda number: 0 <= number <= 1)
_part = _number("a part, above 0 and below 1", lambda number: 0 < number < 1)
_burstiness = _number("a number from 0.01 to 100", lambda number: 0.01 <= number <= 100)
