"""The search for a capacity, against loads whose truth is known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.bench.asked import search
from autotune.bench.capacity import Capacity
from autotune.cli.parser import parser
from autotune.ladder import Search
from tests.commands import stand_in

if TYPE_CHECKING:
    from autotune.stats import Decision
    from tests.commands import Run


def searched(search: Search, truth: float, unsure: float = 0.0) -> list[float]:
    """The loads that were tried; `unsure` is the part of the truth around it at which a step stays open."""
    tried = []
    while (load := search.next()) is not None:
        assert load not in search.told
        decision: Decision = "holds" if load <= truth else "violated"
        search.tell(load, "open" if abs(load / truth - 1) < unsure else decision)
        tried.append(load)
        assert len(tried) < 60
    return tried


@given(st.integers(1, 3000), st.floats(0.01, 0.5))
def test_users_are_found_to_the_resolution(truth: int, resolution: float) -> None:
    search = Search(1, 4096, resolution, whole=True)
    tried = searched(search, truth)
    assert search.low <= truth < search.high
    assert search.high - search.low == 1 or search.high / search.low <= 1 + resolution
    assert len(tried) <= 2 + math.log2(truth + 1) + math.log2(math.log(2) / math.log1p(resolution) + 1) + 4


@given(st.floats(0.05, 900), st.floats(0.1, 50), st.floats(0.02, 0.3))
def test_rates_are_found_to_the_resolution_wherever_it_begins(truth: float, first: float, resolution: float) -> None:
    search = Search(first, 5000, resolution, whole=False)
    searched(search, truth)
    assert search.low <= truth < search.high
    assert search.high / search.low <= 1 + 1.02 * resolution


@given(st.integers(20, 1000))
def test_what_stays_open_becomes_the_interval(truth: int) -> None:
    search = Search(1, 4096, 0.05, whole=True)
    searched(search, truth, unsure=0.15)
    assert search.low < 0.86 * truth + 1
    assert search.high > 1.14 * truth - 1
    assert all(0.84 * truth < load < 1.16 * truth for load in search.open)
    assert search.open[0] / search.low <= 1.06 or search.open[0] - search.low == 1
    assert search.high / search.open[-1] <= 1.06 or search.high - search.open[-1] == 1


def test_nothing_in_the_way_and_nothing_that_holds() -> None:
    everything = Search(1, 64, 0.05, whole=True)
    assert searched(everything, 1e9) == [1, 2, 4, 8, 16, 32, 64]
    assert (everything.low, everything.high) == (64, math.inf)
    nothing = Search(8, 64, 0.05, whole=True)
    assert searched(nothing, 0.5) == [8, 4, 2, 1]
    assert (nothing.low, nothing.high) == (0, 1)


@given(st.integers(1, 3000), st.floats(0.0, 0.2))
def test_what_a_queue_explains_raises_no_doubt(truth: int, unsure: float) -> None:
    search = Search(8, 4096, 0.05, whole=True)
    searched(search, truth, unsure)
    assert search.doubt == ""


def test_a_server_that_becomes_slower_meanwhile_is_found_out() -> None:
    aged = Search(4, 64, 0.05, whole=True)
    decisions: dict[float, Decision] = {4: "holds", 8: "open", 16: "violated", 11: "open", 6: "open", 5: "violated"}
    while (load := aged.next()) is not None:
        aged.tell(load, decisions[load])
    assert (aged.low, aged.high) == (4, 5)
    assert aged.doubt.startswith("a limit is missed at 5 users, and at 6 none was found to be: the server did not")
    assert Capacity.of(aged, ()).doubt == aged.doubt


def test_what_cannot_be_decided_is_not_sought_at_ever_smaller_loads() -> None:
    """Fewer requests decide even less. But one open load may be too near the truth, and half of it holds."""
    few = Search(1.0, 64, 0.05, whole=False)
    tried = []
    while (load := few.next()) is not None:
        few.tell(load, "violated" if load > 0.6 else "open")
        tried.append(load)
        assert len(tried) < 20
    assert tried[:3] == [1.0, 0.5, 0.25]
    assert min(tried) == 0.25
    assert few.low == 0
    near = Search(0.85, 64, 0.05, whole=False)
    searched(near, 0.8, unsure=0.15)
    assert 0.6 < near.low < 0.8


SLO = ("--slo", "llama2-70b-server")
SMALL = ("--warmup", "0.2", "--window", "1", "--input-tokens", "20", "--num-predict", "8")


def test_the_command_finds_where_the_slots_end(run: Run, tmp_path: Path) -> None:
    """One slot: a second user waits for the whole answer of the first, and gets its own after twice the time.

    A limit on TTFT would have to be as short as these answers, and the health gate then allows the client a lag that a
    machine with other work exceeds.
    """
    longer = ("--warmup", "0.3", "--window", "3", "--input-tokens", "20", "--num-predict", "100")
    asked = ("--limit", "e2e_s:p50:0.36", "--most", "8", "--json", "found.json", "--plot", "curve.html")
    with stand_in(tmp_path / "played") as url:
        code, out, err = run("capacity", url, "--model", "tiny", *longer, *asked)
    assert code == 0, err
    found = json.loads(Path("found.json").read_text())
    assert found["capacity"] == {"unit": "users", "holds": 1.0, "misses": 2.0}
    assert [step["load"] for step in found["steps"]] == [1.0, 2.0]
    assert out.splitlines()[-1] == "Capacity: 1 users: all limits hold there, and one is missed at 2"
    assert "plotly" in Path("curve.html").read_text()


def test_no_load_holds(run: Run, tmp_path: Path) -> None:
    with stand_in(tmp_path / "played") as url:
        code, out, err = run("capacity", url, "--model", "tiny", *SMALL, "--limit", "e2e_s:p50:0.001")
    assert code == 1, err
    assert "the limits surely hold at no load that was tried; they are missed at 1 users" in out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "write --slo NAME or --limit"),
        (("--slo", "gpt-9"), "--slo gpt-9: no such limits; there are llama3.1-8b-server"),
        (("--limit", "ttft:p95:2"), "--limit ttft:p95:2: write METRIC:STATISTIC:SECONDS"),
        ((*SLO, "--first", "1.5"), "--first 1.5: users are whole numbers"),
        ((*SLO, "--first", "9", "--most", "8"), "--first 9: is more than --most 8"),
        ((*SLO, "--most", "9.5"), "--most 9.5: users are whole numbers; or --by rate"),
        ((*SLO, "--first", "5000", "--most", "5000"), "--first 5000: allowed are at most 4096"),
        ((*SLO, "--most", "5000"), "--most 5000: allowed are at most 4096"),
        ((*SLO, "--by", "rate", "--first", "20000"), "--first 20000: allowed are at most 10000"),
        ((*SLO, "--by", "rate", "--most", "20000"), "--most 20000: allowed are at most 10000"),
        ((*SLO, "--plot", "none/x.html"), "--plot none/x.html: none is no folder"),
        ((*SLO, "--json", "x", "--plot", "./x"), "--json x: several figures into one file; one would be lost"),
        (
            (*SLO, "--direct", "http://a,http://b"),
            "http://127.0.0.1:9 and --direct http://a,http://b: one of the two; a capacity is that of one way",
        ),
        (
            (*SLO, "--turns", "3", "--endpoint", "chat", "--by", "rate"),
            "--turns 3: conversations need --endpoint chat or openai, and --by users",
        ),
        ((*SLO, "--turns", "3"), "--turns 3: conversations need --endpoint chat or openai, and --by users"),
    ],
)
def test_what_cannot_be_searched(run: Run, more: tuple[str, ...], said: str) -> None:
    assert said in run.refused(2, "capacity", "http://127.0.0.1:9", "--model", "m", *more)


def test_a_capacity_is_that_of_one_way_whichever_it_is(run: Run) -> None:
    ways = ("--via", "http://a", "--direct", "http://b")
    said = run.refused(2, "capacity", "--model", "m", *SLO, *ways)
    assert said == "http://a and --direct http://b: one of the two; a capacity is that of one way"
    asked = parser().parse_args(["capacity", "--model", "m", *SLO, "--direct", "http://a,http://b"])
    assert search(asked) == Search(1, 4096, 0.05, whole=True)


def test_the_self_test_is_shown_and_kept(run: Run) -> None:
    code, out, err = run("selftest", "--concurrency", "8", "--json", "self.json")
    assert (code, err) == (0, "")
    assert "against a server that knows its own times" in out
    (one,) = json.loads(Path("self.json").read_text())["tests"]
    (row,) = (line for line in out.splitlines() if "±" in line)
    assert "┃ streams ┃ requests ┃" in out
    assert [cell.strip() for cell in row.split("│")[1:3]] == ["8", str(one["requests"])]
    assert one["concurrency"] == 8
    assert 0 < one["error_p50_s"] <= one["error_p99_s"] < 0.5
    assert one["cpu_s_per_1000_tokens"] > 0
