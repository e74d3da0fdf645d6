"""What can be written behind `autotune`."""

from __future__ import annotations

import argparse
from pathlib import Path

from autotune import __version__
from autotune.cli import commands

EPILOG = """\
exit codes: 0 done, 1 nothing feasible, 2 bad file or usage, 3 the cluster could not start, 4 storage, 130 interrupted

A night lasts: run it in tmux, or with `systemd-run --user autotune run ...`. Ctrl-C puts everything away and shows
what was found; the same command goes on from there.
"""


def parser() -> argparse.ArgumentParser:
    """What `autotune` understands; each command is a function of `commands`."""
    whole = argparse.ArgumentParser(
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

    selftest = every.add_parser("selftest", help="how exact this machine's client is, and how much it can take")
    selftest.add_argument("--concurrency", default="1,16,64", metavar="N,N", help="streams, a test for each")
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

    export = every.add_parser("export", help="systemd units, nginx site, compose file and more for the winner")
    _add_study(export)
    export.add_argument("--to", type=Path, required=True, metavar="DIRECTORY", help="a new folder, or an empty one")
    export.add_argument("--trial", type=int, metavar="N", help="this trial of the search in place of a proved winner")
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


def _add_bench(parser: argparse.ArgumentParser) -> None:
    _add_endpoint(parser)
    load = parser.add_argument_group("load")
    load.add_argument("--concurrency", default="5,10,20", metavar="N,N", help="users, a run for each")
    load.add_argument("--rate", default="", metavar="R,R", help="requests/s that come by themselves, in place of users")
    load.add_argument("--arrivals", choices=("poisson", "constant", "gamma"), default="poisson", help="of a --rate")
    load.add_argument("--burstiness", type=_positive, metavar="K", help="of gamma: 1 is Poisson, less comes in bursts")
    load.add_argument("--ramp", default="", metavar="R,R,S", help="from one rate to another in S seconds")
    load.add_argument(
        "--trace", type=_positive, metavar="SPEED", help="the arrivals of --prompts; 1 is their own speed"
    )
    keep = parser.add_argument_group("what is kept")
    keep.add_argument("--json", type=Path, metavar="FILE", help="the figures, for `autotune compare`")
    keep.add_argument("--csv", type=Path, metavar="FILE", help="a row for each request")
    keep.add_argument("--parquet", type=Path, metavar="FILE", help="the same as Parquet (needs pyarrow)")
    parser.set_defaults(command=commands.bench)


def _add_capacity(parser: argparse.ArgumentParser) -> None:
    _add_endpoint(parser)
    search = parser.add_argument_group("search")
    search.add_argument("--by", choices=("users", "rate"), default="users", help="what is made larger and larger")
    search.add_argument("--first", type=_positive, default=1, metavar="N", help="the load to begin with")
    search.add_argument("--most", type=_positive, default=4096, metavar="N", help="no load beyond this is tried")
    search.add_argument("--resolution", type=_positive, default=0.05, metavar="P", help="of the answer (default 0.05)")
    keep = parser.add_argument_group("what is kept")
    keep.add_argument("--json", type=Path, metavar="FILE", help="the steps and the answer")
    keep.add_argument("--plot", type=Path, metavar="FILE.html", help="the curve")
    alone = {"rate": "", "ramp": "", "trace": None, "concurrency": "1", "arrivals": "poisson", "burstiness": None}
    parser.set_defaults(command=commands.capacity, warmup=5, window=20, window_max=120, **alone)


def _add_endpoint(parser: argparse.ArgumentParser) -> None:
    """What `bench` and `capacity` have in common: the endpoint, the workload, the window, the limits."""
    parser.add_argument("url", metavar="URL", nargs="?", help="of an Ollama, or of what stands in front of several")
    parser.add_argument("--model", required=True)
    parser.add_argument("--endpoint", choices=("generate", "chat", "openai", "completions"), default="generate")
    parser.add_argument("--via", metavar="URL", default="", help="the same as URL, to be read beside --direct")
    parser.add_argument(
        "--direct", metavar="URL,URL", default="", help="instances, asked in turn; beside --via what a proxy costs"
    )
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME=VARIABLE",
        help="a header whose value is in an environment variable, never here: --header Authorization=TOKEN",
    )
    parser.add_argument("--ca-file", type=Path, metavar="PEM", help="certificates to check an https server against")
    work = parser.add_argument_group("workload")
    work.add_argument("--input-tokens", type=_count, default=200, metavar="N")
    work.add_argument("--num-predict", type=_count, default=236, metavar="N")
    work.add_argument("--temperature", type=_not_negative, default=0.8)
    work.add_argument("--prompts", type=Path, metavar="FILE", help="prompts in place of the seeded generator")
    work.add_argument("--format", choices=FORMATS, default="jsonl", help="of --prompts")
    work.add_argument("--shared-prefix", default="", metavar="K,N", help="K beginnings of N tokens that prompts share")
    work.add_argument("--turns", type=_count, default=1, metavar="N", help="messages of a conversation")
    work.add_argument("--seed", type=int, default=0)
    phases = parser.add_argument_group("window and limits")
    phases.add_argument("--warmup", type=_not_negative, default=10, metavar="S")
    phases.add_argument("--window", type=_positive, default=60, metavar="S")
    phases.add_argument("--window-max", type=_positive, metavar="S", help="it may grow so far (default: it does not)")
    phases.add_argument(
        "--precision", type=_positive, metavar="P", help="until the rate is known to so many parts: 0.05"
    )
    phases.add_argument("--limit", action="append", default=[], metavar="METRIC:STATISTIC:S", help="as in ttft_s:p95:2")
    phases.add_argument(
        "--min-success-rate",
        type=_share,
        default=0.99,
        metavar="P",
        help="the part of the requests that must succeed, where there are limits (default 0.99)",
    )
    phases.add_argument("--slo", metavar="NAME", help="limits of MLPerf by name, as in llama3.1-8b-interactive")
    phases.add_argument("--timeout", type=_positive, default=900, metavar="S", help="the most one request may take")
    phases.add_argument(
        "--processes", type=_count, default=1, metavar="N", help="of the client; it takes more if it must"
    )


FORMATS = ("jsonl", "sharegpt", "mooncake", "burstgpt", "azure")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", nargs="?", type=Path, metavar="STUDY.toml", help="without it the host in general")
    _add_balancer(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object in place of a table")
    parser.set_defaults(command=commands.doctor)


def _add_balancer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--balancer", choices=("nginx", "direct"), help="in place of cluster.balancer: direct needs no nginx"
    )


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is a whole number above 0")
    return int(text)


def _not_negative(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is a number from 0 on")
    return number


def _share(text: str) -> float:
    if (number := _not_negative(text)) > 1:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is a part, from 0 to 1")
    return number


def _positive(text: str) -> float:
    if (number := _not_negative(text)) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is a number above 0")
    return number
