"""Load generators against a server whose times are known: python -m tests.benchmarks.peers [--write FILE]

`make bench-peers` installs the others first. Nothing leaves the machine. All of it takes about half an hour, and
figures are worth something only on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_here
from pathlib import Path

from tests.benchmarks.peers import install
from tests.benchmarks.peers.clients import CLIENTS, GAP_S, TOKENS, TTFT_S, Client, write_tokenizer
from tests.benchmarks.peers.figures import NOTES, Figures, figures, table
from tests.benchmarks.peers.runs import Bench, RunFailedError, run
from tests.benchmarks.peers.truth import build, compiler

LEAST_REQUESTS = 40
REQUESTS_PER_STREAM = 10


def _chosen() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.peers", description="TTFT error and cost of clients"
    )
    parser.add_argument("--peers", type=Path, default=install.DEFAULT, help="where the others are installed")
    parser.add_argument("--streams", default="1,16,64,256", metavar="N,N")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clients", default="", metavar="NAME,NAME", help="those whose name has one of these in it")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="a page with the table, the machine and the versions"
    )
    return parser.parse_args()


def _clients(chosen: argparse.Namespace) -> tuple[list[Client], dict[str, str]]:
    """Those to run, and why the others are missing."""
    wanted = [c for c in CLIENTS if any(part.lower() in c.name.lower() for part in chosen.clients.split(","))]
    here = [c for c in wanted if not c.package or install.version(chosen.peers, c.package)]
    return here, {c.name: install.reason(chosen.peers, c.package) for c in wanted if c not in here}


def _processors() -> tuple[int | None, int | None]:
    """One for the server, one for the client; none where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else (None, None)


def measure(chosen: argparse.Namespace, clients: list[Client]) -> dict[tuple[int, str], list[Figures]]:
    """All runs, the clients in turns, so that a change of the machine meets them all."""
    levels = [int(streams) for streams in chosen.streams.split(",")]
    found: dict[tuple[int, str], list[Figures]] = {(n, client.name): [] for n in levels for client in clients}
    server_cpu, client_cpu = _processors()
    if server_cpu is not None:
        os.sched_setaffinity(0, {server_cpu})
    with tempfile.TemporaryDirectory(prefix="peers-") as place:
        bench = Bench(build(Path(place)), write_tokenizer(Path(place) / "words"), chosen.peers, server_cpu, client_cpu)
        for repeat in range(chosen.repeats):
            for streams, client in ((n, client) for n in levels for client in clients):
                folder = Path(tempfile.mkdtemp(dir=place))
                requests = max(LEAST_REQUESTS, REQUESTS_PER_STREAM * streams)
                told = f"run {repeat + 1} of {chosen.repeats}, {streams:3} streams, {client.name}"
                try:
                    one = figures(run(client, streams, requests, bench, folder))
                except RunFailedError as failed:
                    print(f"{told}: {failed}", flush=True)
                    continue
                found[streams, client.name].append(one)
                print(f"{told}: TTFT error {one.error_p50_ms:.2f} / {one.error_p99_ms:.2f} ms", flush=True)
    return found


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    load = os.getloadavg()[0]
    return f"{model}, {os.cpu_count()} processors, Linux {platform.release()}; load before the first run {load:.1f}"


def _versions(chosen: argparse.Namespace) -> str:
    ours = [f"Python {platform.python_version()}"]
    for package in ("ollama-autotune", "aiohttp", "uvloop"):
        try:
            ours.append(f"{package} {version_here(package)}")
        except PackageNotFoundError:
            ours.append(f"no {package}")
    theirs = [(peer.package, install.version(chosen.peers, peer.package)) for peer in install.PEERS]
    return ", ".join([*ours, *(f"{package} {version}" for package, version in theirs if version)])


def main() -> None:
    """Measure, print the table, and write the page."""
    chosen = _chosen()
    if compiler() is None:
        raise SystemExit("no C compiler (cc, gcc) to build the truth server with: nothing is measured")
    clients, missing = _clients(chosen)
    machine, versions, began = _machine(), _versions(chosen), datetime.now(UTC)
    print(f"{machine}\n{versions}", flush=True)
    shown = table(measure(chosen, clients), missing)
    print("\n" + shown)
    if chosen.write is not None:
        asked = {"tokens": TOKENS, "ttft": 1e3 * TTFT_S, "gap": 1e3 * GAP_S, "repeats": chosen.repeats}
        notes = NOTES.format(**asked, least=LEAST_REQUESTS, each=REQUESTS_PER_STREAM)
        page = f"# Load generators, held against a server whose times are known\n\n{notes}\n{shown}\n"
        page += f"{began:%Y-%m-%d}. {machine}. {versions}.\n"
        chosen.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
