"""What is written behind `bench`: every value that cannot be is refused before anything is asked of a server."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from autotune.analysis import parquet
from autotune.bench.asked import Job, job
from autotune.bench.slo import PRESETS, limit, preset
from autotune.benchmark.pacer import ClosedLoop, OpenLoop, Ramp, Trace
from autotune.benchmark.workload import ConversationWorkload, PrefixWorkload
from autotune.cli.parser import parser
from autotune.errors import SpecError, UsageError
from autotune.goal import Bound
from autotune.stats import enough

if TYPE_CHECKING:
    from pathlib import Path

URL = "http://127.0.0.1:11434"


def asked(*words: str, url: str | None = URL) -> Job:
    given = ["bench", *([url] if url is not None else []), "--model", "tiny", *words]
    return job(parser().parse_args(given))


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """A file of prompts with times."""
    path = tmp_path / "trace.jsonl"
    rows = [{"timestamp": 1000 * n, "input_length": 50, "output_length": 9, "hash_ids": [n]} for n in range(6)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


# what is refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--window", "60", "--window-max", "30"], "--window-max 30: is less than --window 60"),
        (["--limit", "ttft_s:p95:2", "--limit", "ttft_s:p95:3"], "--limit ttft_s:p95: there are two of it"),
        (["--slo", "llama3.1-8b-server", "--limit", "tpot_s:p99:1"], "--limit tpot_s:p99: there are two of it"),
        (["--slo", "llama"], "--slo llama: no such limits; there are llama3.1-8b-server, "),
        (["--via", "http://x"], f"{URL} and --via http://x: one of the two"),
        (["--direct", "10.0.0.1:11434"], "10.0.0.1:11434: not a URL; as in http://127.0.0.1:11434"),
        (["--direct", "http://a,ftp://b"], "ftp://b: not a URL"),
        (["--direct", "http://h:1,http://h:1/"], "--direct http://h:1,http://h:1/: the same URL twice"),
        (["--rate", "1", "--ramp", "1,2,3"], "--rate and --ramp: one of the two"),
        (["--ramp", "1,2,3", "--trace", "1"], "--ramp and --trace: one of the two"),
        (["--burstiness", "0.5"], "--burstiness 0.5: belongs to --arrivals gamma"),
        (["--rate", "1", "--arrivals", "constant", "--burstiness", "2"], "--burstiness 2: belongs to --arrivals gamma"),
        (["--arrivals", "poisson"], "--arrivals poisson: belongs to --rate"),
        (["--arrivals", "gamma", "--burstiness", "2", "--ramp", "1,2,3"], "--arrivals gamma: belongs to --rate"),
        (["--format", "mooncake"], "--format mooncake: belongs to --prompts"),
        (["--concurrency", "5,10,20", "--rate", "1"], "--concurrency and --rate: one of the two"),
        (["--concurrency", "1", "--ramp", "1,2,3"], "--concurrency and --ramp: one of the two"),
        (["--concurrency", "1", "--trace", "1"], "--concurrency and --trace: one of the two"),
        (["--input-tokens", "200", "--prompts", "x"], "--input-tokens 200 and --prompts x: one of the two"),
        (["--concurrency", "1,1"], "--concurrency 1,1: the same load twice"),
        (["--rate", "2,1,2.0"], "--rate 2,1,2.0: the same load twice"),
        (["--rate", "2,2.0000001"], "--rate 2,2.0000001: the same load twice"),
        (["--rate", "1,1e6"], "--rate 1,1e6: allowed are at most 10000"),
        (["--json", "a", "--csv", "./a"], "--json a: several figures into one file; one would be lost"),
        (["--concurrency", "1,4097"], "--concurrency 1,4097: allowed are at most 4096"),
        (
            ["--shared-prefix", "4,200"],
            "--shared-prefix 4,200: allowed are fewer tokens than --input-tokens 200, of which they are a part",
        ),
        (["--shared-prefix", "4,21", "--input-tokens", "20"], "--shared-prefix 4,21: allowed are fewer tokens than"),
        (
            ["--trace", "1"],
            "--trace 1: the prompts have 0 time stamps; a replay needs a file",
        ),
        (["--turns", "3"], "--turns 3: conversations need --endpoint chat or openai, and --concurrency"),
        (["--turns", "3", "--endpoint", "completions"], "--turns 3: conversations need"),
        (["--turns", "3", "--endpoint", "chat", "--rate", "2"], "--turns 3: conversations need"),
        (["--header", "Authorization"], "--header Authorization=…: no environment variable has that name"),
        (["--header", "A:b=TOKEN"], "--header A:b: write NAME=VARIABLE, as in Authorization=TOKEN"),
        (["--header", "=TOKEN"], "--header : write NAME=VARIABLE"),
        (["--header", "A=NOT_THERE"], "--header A=…: no environment variable has that name"),
        (["--header", "A=BROKEN"], "--header A=…: the variable's value has characters that no header may have"),
    ],
)
def test_what_cannot_be(words: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    monkeypatch.setenv("BROKEN", "secret\r\nX: y")
    with pytest.raises(UsageError) as told:
        asked(*words)
    assert told.value.message.startswith(said)
    assert "secret" not in told.value.message
    assert told.value.exit_code == 2


@pytest.mark.parametrize(
    ("url", "said"),
    [
        *(
            (url, "not a URL; as in http://")
            for url in ("http://", "http://[::1", "https://:80", "ftp://a", "http:///x")
        ),
        *((f"http://a:{port}", "not a URL; as in http://") for port in ("0", "99999", "-1", "x")),
        *((f"http://a{end}", "neither ? nor # may be in it") for end in ("?x=1", "/v?", "#top", ":80/#")),
    ],
)
def test_addresses_to_which_no_request_could_go(url: str, said: str) -> None:
    for words, alone in (([], url), (["--via", url], None), (["--direct", f"http://b,{url}"], None)):
        with pytest.raises(UsageError) as told:
            asked(*words, url=alone)
        assert told.value.message.startswith(f"{url}: {said}")
    assert asked(url="https://[::1]:65535/behind/a/path").routes[0].shown == "https://[::1]:65535/behind/a/path"


def test_a_header_is_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNOW", "☃")
    with pytest.raises(UsageError, match="characters that no header may have"):
        asked("--header", "A=SNOW")


@pytest.mark.parametrize("flag", ["--concurrency", "--rate", "--ramp", "--shared-prefix"])
@pytest.mark.parametrize("given", ["0", "-1", " ", "5,", "five", "1,0", "nan", "inf", "1e400", "1;2"])
def test_numbers_that_are_none(flag: str, given: str) -> None:
    with pytest.raises(UsageError) as told:
        asked(f"{flag}={given}")
    assert told.value.message.startswith(f"{flag} {given}: allowed are ")


@pytest.mark.parametrize(
    ("flag", "given"),
    [("--concurrency", "2.5"), ("--ramp", "1,2"), ("--ramp", "1,2,3,4"), ("--ramp", "1,0,9"), ("--shared-prefix", "4"),
     ("--shared-prefix", "4,1.5"), ("--shared-prefix", "4,5,6")],
)  # fmt: skip
def test_numbers_of_another_kind_or_number(flag: str, given: str) -> None:
    with pytest.raises(UsageError, match=f"{flag} {given}: allowed are "):
        asked(flag, given)


@pytest.mark.parametrize(
    "given",
    [
        *("", "ttft_s", "ttft_s:p95", "ttft_s:p95:", "ttft_s:p95:0", "ttft_s:p95:-1", "ttft_s:p95:nan"),
        *("ttft_s:p95:inf", "ttft_s:p96:1", "ttft:p95:1", "ttft_s:max:1", "ttft_s:p95:1:2", "queue_s:p95:1"),
    ],
)
def test_limits_that_are_none(given: str) -> None:
    with pytest.raises(UsageError) as told:
        asked(f"--limit={given}")
    assert told.value.message.startswith(f"--limit {given}: write METRIC:STATISTIC:SECONDS, as in ttft_s:p95:2")
    assert all(word in told.value.message for word in ("ttft_s, tpot_s, e2e_s", "mean, p50, p90, p95, p99"))


def test_something_has_to_be_measured() -> None:
    for words in ([], ["--direct", " , "]):
        with pytest.raises(UsageError, match="what is to be measured"):
            asked(*words, url=None)
    with pytest.raises(UsageError, match="localhost: not a URL"):
        asked(url="localhost")
    with pytest.raises(UsageError, match="--concurrency : allowed are numbers above 0"):
        asked("--concurrency=")


@pytest.mark.parametrize("flag", ["json", "csv", "parquet"])
def test_files_that_could_not_be_written_are_refused_before_the_load(flag: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--{flag} {tmp_path}: is a folder"):
        asked(f"--{flag}", str(tmp_path))
    with pytest.raises(UsageError, match="is no folder that can be written to"):
        asked(f"--{flag}", str(tmp_path / "missing" / "file"))
    with pytest.raises(UsageError, match="File name too long: nothing can be written there"):
        asked(f"--{flag}", str(tmp_path / ("n" * 255)))
    asked(f"--{flag}", str(tmp_path / "file"))


def test_a_table_that_nothing_here_can_write_is_refused_before_the_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.bench.asked.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"--parquet .*all: needs pyarrow: pip install pyarrow"):
        asked("--parquet", str(tmp_path / "all"))
    asked("--csv", str(tmp_path / "all"))


def test_what_can_write_a_table_is_named_as_it_can_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError

    monkeypatch.setattr("pandas.DataFrame.to_parquet", missing)
    with pytest.raises(UsageError, match=r"Parquet needs pyarrow: pip install pyarrow$"):
        parquet([{"load": "5 users"}])


def test_certificates_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--ca-file .*none.pem: No such file or directory"):
        asked("--ca-file", str(tmp_path / "none.pem"))
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate")
    with pytest.raises(UsageError, match="no certificate in PEM form is in it"):
        asked("--ca-file", str(empty))


def test_a_certificate(tmp_path: Path) -> None:
    path = tmp_path / "own.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", "/dev/null"]
    try:
        subprocess.run([*made, "-out", str(path)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no `openssl` on PATH to make a certificate with")
    assert asked("--ca-file", str(path)).routes[0].target.ca_file == str(path)
    assert asked().routes[0].target.ca_file == ""


def test_prompts_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises((SpecError, UsageError)):
        asked("--prompts", str(tmp_path / "none.jsonl"))


# what is taken


def test_what_nobody_has_said() -> None:
    found = asked()
    assert [level.label for level in found.levels] == ["5 users", "10 users", "20 users"]
    assert (found.bounds, found.precision, found.processes, found.seed) == ((), None, 1, 0)
    assert (found.phases.window_s, found.phases.window_max_s, found.phases.min_requests) == (60, 60, 0)
    assert found.input_tokens == 200
    (route,) = found.routes
    assert (route.name, route.shown, route.target.urls) == ("", URL, {})
    ask = route.target.ask
    assert (ask.endpoint, ask.model, ask.timeout_s, ask.headers) == ("generate", "tiny", 900, {})
    assert found.said["url"] == URL
    assert found.said["model"] == "tiny"


@pytest.mark.parametrize(
    ("words", "levels"),
    [
        (["--concurrency", "3"], [ClosedLoop(3, 0)]),
        (["--concurrency", "4096"], [ClosedLoop(4096, 0)]),
        (["--rate", "0.5,2", "--seed", "7"], [OpenLoop(0.5, "poisson", 7), OpenLoop(2.0, "poisson", 7)]),
        (["--rate", "3", "--arrivals", "constant"], [OpenLoop(3.0, "constant")]),
        (["--rate", "3", "--arrivals", "gamma", "--burstiness", "0.5"], [OpenLoop(3.0, "gamma", 0, 0.5)]),
        (["--rate", "3", "--arrivals", "gamma"], [OpenLoop(3.0, "gamma", 0, 1.0)]),
        (["--ramp", "1,5,60"], [OpenLoop(5.0, Ramp(1.0, 60.0))]),
        (["--ramp", "0,5,60"], [OpenLoop(5.0, Ramp(0.0, 60.0))]),
    ],
)
def test_levels(words: list[str], levels: list[Any]) -> None:
    assert list(asked(*words).levels) == levels


def test_a_trace_is_replayed_at_its_speed(trace: str) -> None:
    (level,) = asked("--prompts", trace, "--format", "mooncake", "--trace", "2").levels
    assert isinstance(level, OpenLoop)
    assert isinstance(level.arrivals, Trace)
    assert level.rate == pytest.approx(2.0)
    assert level.label == "trace at 2x"


def test_a_trace_whose_times_are_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "2023-11-16 18:15:46.6805900,10,20\n" * 2)
    with pytest.raises(UsageError, match="--trace 2: the prompts have 2 time stamps; a replay needs"):
        asked("--prompts", str(path), "--format", "azure", "--trace", "2")


def test_limits_and_the_requests_that_they_need() -> None:
    found = asked("--limit", "ttft_s:p95:2", "--limit", "e2e_s:mean:9.5", "--window-max", "90", "--precision", "0.05")
    assert found.bounds == (Bound("ttft_s", "p95", 2.0), Bound("e2e_s", "mean", 9.5))
    assert found.phases.min_requests == enough("p95")
    assert (found.phases.window_max_s, found.precision) == (90, 0.05)
    both = asked("--slo", "llama2-70b-interactive", "--limit", "e2e_s:p50:9")
    assert [bound.name for bound in both.bounds] == ["ttft_s p99", "tpot_s p99", "e2e_s p50"]
    assert both.phases.min_requests == enough("p99")


def test_routes_beside_each_other() -> None:
    found = asked("--via", "http://lb:80", "--direct", "http://a:1/, http://b:2", url=None)
    via, direct = found.routes
    assert (via.name, via.target.url) == ("via", "http://lb:80")
    assert (direct.name, direct.target.url) == ("direct", "")
    assert direct.target.urls == {"a:1": "http://a:1/", "b:2": "http://b:2"}
    assert direct.shown == "http://a:1/, http://b:2"
    (alone,) = asked("--direct", "http://a:1", url=None).routes
    assert (alone.name, alone.target.urls) == ("", {"a:1": "http://a:1"})


def test_headers_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "Bearer secret")
    found = asked("--header", "Authorization=TOKEN")
    assert found.routes[0].target.ask.headers == {"Authorization": "Bearer secret"}
    assert "secret" not in str(found.said)


def test_other_workloads(trace: str) -> None:
    assert isinstance(asked("--shared-prefix", "4,199").workload, PrefixWorkload)
    talk = asked("--turns", "3", "--endpoint", "chat")
    assert isinstance(talk.workload, ConversationWorkload)
    assert talk.input_tokens is None
    file = asked("--prompts", trace, "--format", "mooncake")
    assert file.input_tokens is None
    assert (file.said["prompts"], "input_tokens" in file.said) == (trace, False)
    assert (asked().said["input_tokens"], asked("--input-tokens", "30").input_tokens) == ("200", 30)


@pytest.mark.parametrize("by", ["users", "rate"])
def test_a_search_makes_loads_of_its_own(by: str) -> None:
    found = job(parser().parse_args(["capacity", URL, "--model", "tiny", "--by", by, "--slo", "llama3.1-8b-server"]))
    assert (found.phases.warmup_s, found.phases.window_s, found.phases.window_max_s) == (5, 20, 120)


# limits by name


def test_presets_are_those_of_mlperf() -> None:
    """The table of MLPerf Inference, 2026-08: TTFT and TPOT in ms, all p99."""
    table = {
        "llama3.1-8b-server": (2000, 100),
        "llama3.1-8b-interactive": (500, 30),
        "llama2-70b-server": (2000, 200),
        "llama2-70b-interactive": (450, 40),
        "mixtral-8x7b-server": (2000, 200),
        "llama3.1-405b-server": (6000, 175),
        "llama3.1-405b-interactive": (4500, 80),
        "deepseek-r1-server": (2000, 80),
        "deepseek-r1-interactive": (1500, 15),
        "gpt-oss-120b-server": (3000, 80),
        "gpt-oss-120b-interactive": (2000, 15),
    }
    assert set(PRESETS) == {*table, "qwen3-vl-235b-server"}
    for name, (ttft_ms, tpot_ms) in table.items():
        assert preset(name) == (Bound("ttft_s", "p99", ttft_ms / 1000), Bound("tpot_s", "p99", tpot_ms / 1000))
    assert preset("qwen3-vl-235b-server") == (Bound("e2e_s", "p99", 12.0),)


def test_a_limit_as_it_is_written() -> None:
    assert limit("ttft_s:p95:2") == Bound("ttft_s", "p95", 2.0)
    assert limit("tpot_s:mean:5e-2") == Bound("tpot_s", "mean", 0.05)
