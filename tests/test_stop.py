"""Signals: what `bench` and `capacity` measured by then is shown, kept, and marked; `plan` leaves nothing behind."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from autotune import night
from autotune.errors import Interrupted
from autotune.signals import ENDING
from tests.commands import stand_in
from tests.factories import SPEC

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.cluster.children import Children

SMALL = ("--model", "tiny", "--input-tokens", "20", "--num-predict", "8")


def broken_off(folder: Path, number: int, *words: str, seen: str, after_s: float) -> tuple[int, str, str]:
    """Exit code, output and complaints of a command that gets a signal so long after it said that."""
    command = (sys.executable, "-m", "autotune", *words)
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = ""
    try:
        while seen not in said:
            line = process.stdout.readline()
            assert line, process.communicate()
            said += line
        time.sleep(after_s)
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return process.returncode, said + out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_bench_keeps_the_load_in_flight(tmp_path: Path, number: signal.Signals) -> None:
    """The first load is over, the second in its window."""
    asked = ("--warmup", "0.3", "--window", "3", "--concurrency", "2,3", "--json", "f.json", "--csv", "f.csv")
    with stand_in(tmp_path / "played") as url:
        code, out, err = broken_off(tmp_path, number, "bench", url, *SMALL, *asked, seen="2 users", after_s=1.5)
    assert (code, err) == (130, "autotune: interrupted\n")
    assert "it was broken off" in out
    kept = json.loads((tmp_path / "f.json").read_text())
    assert kept["complete"] is False
    assert list(kept["levels"]) == ["2 users", "3 users"]
    assert kept["levels"]["3 users"]["requests"] > 0
    assert 0 < kept["levels"]["3 users"]["window_s"] < kept["levels"]["2 users"]["window_s"] == 3.0
    with (tmp_path / "f.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["load"] == "3 users"]
    assert len(rows) >= kept["levels"]["3 users"]["requests"]


def test_a_search_keeps_its_steps(tmp_path: Path) -> None:
    with stand_in(tmp_path / "played") as url:
        asked = ("--limit", "e2e_s:p50:9", "--warmup", "0.2", "--window", "0.4", "--json", "f.json")
        words = ("capacity", url, *SMALL, *asked)
        code, out, err = broken_off(tmp_path, signal.SIGTERM, *words, seen="2 users: holds", after_s=0.5)
    assert (code, err) == (130, "autotune: interrupted\n")
    assert "caution: the search could not go on: it was broken off" in out
    assert "Capacity: at least" in out
    kept = json.loads((tmp_path / "f.json").read_text())
    assert kept["complete"] is False
    assert kept["capacity"]["holds"] >= 2


@pytest.mark.parametrize("number", ENDING)
def test_a_plan_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    used = []

    async def asking(_spec: object, _found: object, children: Children, run: Path, _lost: object) -> None:
        used.append((run, children.start(["sleep", "60"], dict(os.environ), run / "log")))
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()

    monkeypatch.setattr(night, "_devices", lambda *_: (None, ()))
    monkeypatch.setattr("autotune.claims.port_locks", lambda _: [f"plan of {os.getpid()}"])
    monkeypatch.setattr("autotune.ground.ground", asking)
    with pytest.raises(Interrupted):
        asyncio.run(night.look(SPEC, tmp_path / "study"))
    ((run, process),) = used
    assert process.poll() is not None
    assert run.name.startswith("autotune-")
    assert not run.exists()
