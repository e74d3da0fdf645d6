"""The command line. Heavy imports where they are used, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from autotune import __version__
from autotune.errors import AutotuneError, Interrupted, NothingFeasible, SpecError, StorageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from autotune.spec import StudySpec

_LOG_COLUMNS = 140
EPILOG = """\
exit codes: 0 done, 1 nothing feasible, 2 bad file or usage, 3 the cluster could not start, 4 storage, 130 interrupted

A night lasts: run it in tmux, or with `systemd-run --user autotune run ...`. Ctrl-C puts everything away and shows
what was found; the same command goes on from there.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `autotune`; returns its exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        code = int(chosen.command(chosen))
        sys.stdout.flush()
        return code
    except SpecError as error:
        _complain(_located(error, chosen))
        return error.exit_code
    except AutotuneError as error:
        _complain(error)
        return error.exit_code
    except (KeyboardInterrupt, asyncio.CancelledError):
        _complain(Interrupted("interrupted"))
        return Interrupted.exit_code
    except BrokenPipeError:  # `autotune … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="autotune",
        description="Finds the fastest Ollama cluster your GPUs can be while you sleep.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"autotune {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a study, or go on with one, to the end of its budget")
    run.add_argument("study", type=Path, metavar="STUDY.toml")
    _add_balancer(run)
    run.add_argument("--plain", action="store_true", help="plain log lines, also on a terminal")
    run.set_defaults(command=_run)

    plan = commands.add_parser("plan", help="show what a study would run")
    plan.add_argument("study", type=Path, metavar="STUDY.toml")
    _add_balancer(plan)
    plan.set_defaults(command=_plan)

    bench = commands.add_parser("bench", help="load any Ollama endpoint and print its figures")
    bench.add_argument("url", metavar="URL", help="of an Ollama, or of what stands in front of several")
    bench.add_argument("--model", required=True)
    bench.add_argument("--concurrency", default="5,10,20", metavar="N,N", help="users, a run for each")
    bench.add_argument("--rate", default="", metavar="R,R", help="requests/s that arrive at random, in place of users")
    bench.add_argument("--endpoint", choices=("generate", "chat", "openai"), default="generate")
    bench.add_argument("--input-tokens", type=_count, default=200, metavar="N")
    bench.add_argument("--num-predict", type=_count, default=236, metavar="N")
    bench.add_argument("--temperature", type=_not_negative, default=0.8)
    bench.add_argument("--prompts", type=Path, metavar="FILE.jsonl", help="prompts in place of the seeded generator")
    bench.add_argument("--warmup", type=_not_negative, default=10, metavar="S")
    bench.add_argument("--window", type=_positive, default=60, metavar="S")
    bench.add_argument("--timeout", type=_positive, default=900, metavar="S", help="the most one request may take")
    bench.add_argument("--seed", type=int, default=0)
    bench.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME=VARIABLE",
        help="a header whose value is in an environment variable, never here: --header Authorization=TOKEN",
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures for `autotune compare`")
    bench.set_defaults(command=_bench)

    compare = commands.add_parser("compare", help="two result files of bench, with the change in %%")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    compare.set_defaults(command=_compare)

    studies = commands.add_parser("studies", help="list the study files that come with autotune, or copy one here")
    studies.add_argument("name", nargs="?", help="the study file to copy into this folder")
    studies.set_defaults(command=_studies)
    return parser


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


def _positive(text: str) -> float:
    if (number := _not_negative(text)) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is a number above 0")
    return number


def _load(chosen: argparse.Namespace) -> StudySpec:
    from autotune.spec import load

    spec = load(chosen.study)
    if chosen.balancer is None:
        return spec
    return spec.model_copy(update={"cluster": spec.cluster.model_copy(update={"balancer": chosen.balancer})})


def _run(chosen: argparse.Namespace) -> int:
    from autotune import console, night
    from autotune.store import Store

    spec = _load(chosen)
    folder = (chosen.study.parent / spec.study.name).resolve()
    screen = _screen(plain=chosen.plain)
    with console.Night(spec, screen, Store(folder).earlier()) as view:
        ending = asyncio.run(night.run(spec, chosen.study.read_text(encoding="utf-8"), folder, view))
    with suppress(OSError, SystemExit):  # the terminal, or the pipe, may be gone by now
        console.morning(screen, spec, ending, night.spent(folder / "events.jsonl"), chosen.study)
    if ending.error is not None:
        raise ending.error
    return 0 if any(result.score.feasible for result in ending.results) else NothingFeasible.exit_code


def _screen(*, plain: bool = False) -> Console:
    """The terminal; where there is none, lines that are long enough for a table."""
    from rich.console import Console

    screen = Console(force_terminal=False if plain else None)
    return screen if screen.is_terminal else Console(force_terminal=False, width=_LOG_COLUMNS)


def _plan(chosen: argparse.Namespace) -> int:
    from autotune import console, night

    spec = _load(chosen)
    console.outlook(_screen(), asyncio.run(night.look(spec)))
    return 0


def _bench(chosen: argparse.Namespace) -> int:
    from autotune import bench, console

    with console.Bench(_screen()) as view:
        found = asyncio.run(bench.load(chosen, view.progress, view.level))
    if chosen.json is not None:
        bench.save(chosen.json, chosen, found)
    return 0


def _compare(chosen: argparse.Namespace) -> int:
    from autotune import bench, console

    before, after = bench.read(chosen.before), bench.read(chosen.after)
    if not before.keys() & after.keys():
        has = f"{', '.join(before) or 'none'}; {chosen.after}: {', '.join(after) or 'none'}"
        raise UsageError(f"no load is in both files: {chosen.before}: {has}")
    screen = _screen()
    screen.print(console.comparison(before, after))
    for label in before.keys() ^ after.keys():
        only = chosen.before if label in before else chosen.after
        screen.print(f"{label}: only in {only}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _studies(chosen: argparse.Namespace) -> int:
    shipped = _shipped()
    if chosen.name is None:
        print("Study files that come with autotune; `autotune studies NAME` copies one into this folder:")
        for path in shipped.values():
            print(f"  {path.stem:12}  {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")
        return 0
    if chosen.name.removesuffix(".toml") not in shipped:
        raise UsageError(f"no study {chosen.name!r}; there are {', '.join(shipped)}")
    source = shipped[chosen.name.removesuffix(".toml")]
    target = Path(source.name)
    try:
        with target.open("xb") as copy:
            copy.write(source.read_bytes())
    except FileExistsError as error:
        raise UsageError(f"{target} is there already; nothing was written") from error
    except OSError as error:
        raise StorageError(f"{target}: {error.strerror or error}") from error
    print(f"wrote {target}; next: autotune plan {target}")
    return 0


def _shipped() -> dict[str, Path]:
    """The study files, in the installed package or in a checkout."""
    package = Path(str(resources.files("autotune")))
    folders = [package / "studies", package.parent / "studies"]
    folder = next(folder for folder in folders if folder.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _located(error: SpecError, chosen: argparse.Namespace) -> SpecError:
    """What only shows on the host, such as a device that is not there, is an error of the study file all the same."""
    study = str(getattr(chosen, "study", ""))
    return error if study in error.message else SpecError(f"{study}: {error.message}", details=error.details)


def _complain(error: AutotuneError) -> None:
    with suppress(OSError):
        _print(error)


def _print(error: AutotuneError) -> None:
    print(f"autotune: {error.message}", file=sys.stderr)
    for line in error.details.splitlines():
        print(f"    {line}", file=sys.stderr)
