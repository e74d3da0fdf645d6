"""The command line: what it prints, what it refuses in one clear line, and the exit code of each end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pandas as pd
import pytest

from autotune import __version__, bench
from autotune.claims import port_locks
from autotune.cli.parser import parser
from autotune.cluster.lock import Lock
from autotune.errors import StorageError
from tests.benchmark.server import DONE, END, HEAD, Say, Server, line, listening, serving, status
from tests.commands import QUICK, elsewhere, stand_in
from tests.factories import metrics
from tests.simulator.exchange import free_port

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Iterator, Sequence

    from tests.commands import Run

SHIPPED = ("four-gpus", "local-cpu", "quickstart", "reference-deployment")
ANSWER = HEAD + b"\r\n" + line(response="x", done=False) + DONE + END


def written(path: Path, levels: dict[str, Any]) -> Path:
    """A result file of bench."""
    content = {"format": bench.FORMAT, "levels": {label: one.to_dict() for label, one in levels.items()}}
    path.write_text(json.dumps(content))
    return path


# the command itself


def process(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autotune", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **more)


def test_it_runs_as_a_module() -> None:
    done = process("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"autotune {__version__}\n", "")


def test_help_shows_the_commands_and_the_exit_codes(run: Run) -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for word in ("run", "plan", "bench", "compare", "studies", "exit codes: 0 done, 1 nothing feasible", "130"):
        assert word in out


def test_help_needs_none_of_the_heavy_libraries() -> None:
    script = (
        "import sys\nfrom autotune.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & set('"
        "aiohttp optuna sqlalchemy numpy pydantic rich pandas pynvml'.split())))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("said", "threads"), [(None, "1"), ("4", "4")])
def test_a_search_computes_in_one_thread_unless_it_is_told_otherwise(said: str | None, threads: str) -> None:
    script = (
        "import os, sys\nfrom autotune.cli import main\nmain(['studies'])\nprint(os.environ['OPENBLAS_NUM_THREADS'])"
    )
    given = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    env = given if said is None else {**given, "OPENBLAS_NUM_THREADS": said}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == threads


def test_a_terminal_without_a_sign_is_no_reason_to_end() -> None:
    plain = {**os.environ, "PYTHONIOENCODING": "ascii"}
    asked = [sys.executable, "-m", "autotune", "reference"]
    done = subprocess.run(asked, env=plain, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"mean / ?burstiness" in done.stdout


@pytest.mark.parametrize("command", ["run", "plan", "bench", "compare", "forecast", "studies", "reference", "doctor"])
def test_every_command_has_its_help(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert out.startswith(f"usage: autotune {command}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "COMMAND"),
        (("sleep",), "'sleep'"),
        (("run",), "STUDY.toml"),
        (("run", "a.toml", "--balancer", "haproxy"), "'haproxy'"),
        (("bench", "http://x"), "--model"),
        (("bench", "http://x", "--model", "m", "--window", "0"), "'0': allowed is a number above 0"),
        (("bench", "http://x", "--model", "m", "--window", "nan"), "'nan': allowed is a number"),
        (("bench", "http://x", "--model", "m", "--warmup", "-1"), "--warmup"),
        (("bench", "http://x", "--model", "m", "--timeout", "soon"), "'soon': allowed is a number"),
        (("bench", "http://x", "--model", "m", "--num-predict", "0"), "'0': allowed is a whole number above 0"),
        (("bench", "http://x", "--model", "m", "--input-tokens", "1.5"), "'1.5': allowed is a whole number above 0"),
        (("bench", "http://x", "--model", "m", "--endpoint", "embed"), "'embed'"),
        (("bench", "http://x", "--model", "m", "--window", "-1"), "'-1': allowed is a number above 0"),
        (("bench", "http://x", "--model", "m", "--min-success-rate", "-1"), "'-1': allowed is a part, from 0 to 1"),
        (("bench", "http://x", "--model", "m", "--precision", "1"), "'1': allowed is a part, above 0 and below 1"),
        (("bench", "http://x", "--model", "m", "--precision", "0"), "'0': allowed is a part, above 0 and below 1"),
        (("bench", "http://x", "--model", "m", "--burstiness", "0.009"), "'0.009': allowed is a number from 0.01 to"),
        (("bench", "http://x", "--model", "m", "--burstiness", "101"), "'101': allowed is a number from 0.01 to 100"),
        (("bench", "http://x", "--model", "m", "--seed", "-1"), "'-1': allowed is a whole number from 0 on"),
        (("bench", "http://x", "--model", "m", "--processes", "65"), "'65': allowed is a whole number from 1 to 64"),
        (("capacity", "http://x", "--model", "m", "--nope", "3"), "unrecognized arguments: --nope 3"),
        (("compare", "a", "b", "c"), "unrecognized arguments: c"),
    ],
)
def test_bad_usage_is_one_clear_line(run: Run, arguments: tuple[str, ...], words: str) -> None:
    said = run.refused(2, *arguments)
    assert words in said
    command = f"autotune {arguments[0]}" if arguments and arguments[0] != "sleep" else "autotune"
    assert said.endswith(f"; see {command} --help")


@pytest.mark.parametrize("command", ["bench", "capacity"])
def test_help_tells_the_default_of_every_number(run: Run, command: str) -> None:
    _, out, _ = run(command, "--help")
    said = " ".join(out.split())
    times = {"bench": ("10", "60", "does not"), "capacity": ("5", "20", "120")}[command]
    for flag, default in zip(("--warmup S", "--window S", "--window-max S"), times, strict=True):
        assert default in said.rpartition(f"{flag} ")[2].partition(")")[0]
    for default in ("200", "236", "0.8", "0.99", "900", "jsonl"):
        assert f"(default {default})" in said
    for action in parser()._actions[-1].choices[command]._actions:  # type: ignore[index]
        if isinstance(action.default, int | float):
            assert action.help.endswith("(default %(default)s)")


FULL = "autotune: the output cannot be written: No space left on device\n"


def printed(words: Sequence[str], to: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command with its output there."""
    command = [sys.executable, "-m", "autotune", *words]
    return subprocess.run(command, stdout=to, stderr=subprocess.PIPE, text=True, check=False, timeout=60, cwd=folder)


@contextmanager
def full_device() -> Iterator[int]:
    """A file that takes nothing."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("wb") as file:
        yield file.fileno()


@pytest.mark.parametrize("words", [("studies",), ("compare", "figures.json", "figures.json")])
def test_a_reader_that_has_seen_enough_is_no_error(words: Sequence[str], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    written(tmp_path / "figures.json", {"5 users": metrics()})
    try:
        done = printed(words, writing, tmp_path)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [("studies",), ("compare", "figures.json", "figures.json")])
def test_a_full_device_is_one_clear_line(words: Sequence[str], tmp_path: Path) -> None:
    written(tmp_path / "figures.json", {"5 users": metrics()})
    with full_device() as full:
        done = printed(words, full, tmp_path)
    assert (done.returncode, done.stderr) == (4, FULL)


def test_what_bench_has_measured_is_kept_though_it_cannot_be_shown(tmp_path: Path) -> None:
    with full_device() as full, stand_in(tmp_path / "played") as url:
        asked = ("bench", url, "--model", "tiny", *QUICK, "--json", "figures.json")
        done = printed(asked, full, tmp_path)
    assert (done.returncode, done.stderr) == (4, FULL)
    assert list(bench.read(tmp_path / "figures.json").levels) == ["2 users"]


# study files


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "study.toml: No such file or directory"),
        (b"not = [toml", "study.toml: not TOML: "),
        (b"\xff", "study.toml: not UTF-8 text (byte 0)"),
    ],
)
def test_a_bad_study_file_is_one_clear_line(run: Run, command: str, content: bytes | None, words: str) -> None:
    if content is not None:
        Path("study.toml").write_bytes(content)
    assert words in run.refused(2, command, "study.toml")
    assert not any(path.is_dir() for path in Path().iterdir())


def test_each_error_of_a_study_file_has_its_line(run: Run) -> None:
    run("studies", "quickstart")
    text = Path("quickstart.toml").read_text().replace("num_ctx = 2048", "num_ctx = 2")
    Path("quickstart.toml").write_text(text.replace("\ntrials =", "\ntrails ="))
    code, out, err = run("plan", "quickstart.toml")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 2
    assert "workload.num_ctx: 2" in err
    assert 'budget.trails: unknown key; did you mean "trials"?' in err


def test_plan_asks_no_server_on_a_port_that_a_night_may_want(run: Run) -> None:
    run("studies", "quickstart")
    with Lock(port_locks([19000])):  # as that file says
        said = run.refused(3, "plan", "quickstart.toml")
    assert f"is in use by another run of autotune: pid {os.getpid()} of " in said


# the shipped studies


def test_studies_lists_what_comes_with_autotune(run: Run) -> None:
    code, out, err = run("studies")
    assert (code, err) == (0, "")
    first, *rows = out.splitlines()
    assert first.endswith("copies one into this folder:")
    assert [row.split()[0] for row in rows] == list(SHIPPED)
    assert all(len(row.split(maxsplit=1)[1]) > 20 for row in rows)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("name", [*SHIPPED, "quickstart.toml"])
def test_studies_copies_one(run: Run, name: str) -> None:
    code, out, _ = run("studies", name)
    path = Path(f"{name.removesuffix('.toml')}.toml")
    assert (code, out) == (0, f"wrote {path}; next: autotune plan {path}\n")
    from autotune.spec import load  # noqa: PLC0415 - what is copied can be read

    assert load(path).study.name == path.stem


def test_a_copy_names_the_schema_that_came_with_autotune(run: Run) -> None:
    run("studies", "quickstart")
    first, second, *_ = Path("quickstart.toml").read_text().splitlines()
    assert first.startswith("# A short night on four simulated GPUs")
    scheme, _, path = second.removeprefix("#:schema ").partition("://")
    assert scheme == "file"
    assert Path(unquote(path)).name == "study.schema.json"
    assert json.loads(Path(unquote(path)).read_text())["title"] == "Study file of autotune"


def test_studies_never_overwrites(run: Run) -> None:
    Path("quickstart.toml").write_text("mine")
    Path("local-cpu.toml").symlink_to("nowhere")
    for name in ("quickstart", "local-cpu"):
        assert run.refused(2, "studies", name) == f"{name}.toml is there already; nothing was written"
    assert Path("quickstart.toml").read_text() == "mine"
    assert not Path("nowhere").exists()


def test_a_study_that_does_not_exist_is_refused(run: Run) -> None:
    assert run.refused(2, "studies", "../x") == f"no study '../x'; there are {', '.join(SHIPPED)}"


def test_a_folder_that_cannot_be_written_to_is_a_storage_error(run: Run, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert run.refused(4, "studies", "quickstart").startswith("quickstart.toml: ")


# compare


def test_compare_shows_the_change_of_each_load(run: Run) -> None:
    before = written(Path("before.json"), {"5 users": metrics(100.0, 0.5), "10 users": metrics(110.0)})
    after = written(Path("after.json"), {"5 users": metrics(150.0, 0.4), "20 users": metrics(120.0)})
    code, out, err = run("compare", before, after)
    assert (code, err) == (0, "")
    rows = [[cell.strip() for cell in row.strip("│").split("│")] for row in out.splitlines() if row.startswith("│")]
    assert rows == [
        ["5 users", "500", "500", "500", "100.00", "before"],
        ["", "400", "400", "400", "150.00", "after"],
        ["", "-20.0%", "-20.0%", "-20.0%", "+50.0%", "change"],
    ]
    assert "10 users: only in before.json" in out
    assert "20 users: only in after.json" in out


def test_loads_that_are_not_the_same_are_told_apart(run: Run) -> None:
    names = []
    for name, load in {
        "a": {"url": "http://a", "num_predict": "20"},
        "b": {"url": "http://b", "num_predict": "8"},
    }.items():
        path = written(Path(f"{name}.json"), {"5 users": metrics()})
        Path(path).write_text(json.dumps(json.loads(Path(path).read_text()) | {"load": load}))
        names.append(path)
    assert run("compare", *names)[1].splitlines()[-1] == "caution: these are not the same loads: num_predict 20 and 8"
    assert "not the same" not in run("compare", names[0], names[0])[1]


def test_nothing_to_compare_is_refused(run: Run) -> None:
    before = written(Path("before.json"), {"5 users": metrics()})
    after = written(Path("after.json"), {"20 users": metrics()})
    said = run.refused(2, "compare", before, after)
    assert said == "no load is in both files: before.json: 5 users; after.json: 20 users"


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\xff", b"[]", b"{}", b"3", b'{"format": "x"}', b'{"format": 1, "levels": {"5": {"n": 1}}}']
)
def test_a_damaged_result_file_is_refused(run: Run, damage: bytes) -> None:
    good = written(Path("good.json"), {"5 users": metrics()})
    Path("bad.json").write_bytes(damage)
    assert run.refused(2, "compare", good, "bad.json") == "bad.json: not a result file of `autotune bench --json`"


def test_a_newer_result_file_is_refused(run: Run) -> None:
    Path("new.json").write_text(json.dumps({"format": bench.FORMAT + 1}))
    said = run.refused(2, "compare", "new.json", "new.json")
    assert said == "new.json: format 2 is of a newer autotune; this one knows 1"


def test_a_result_file_that_is_not_there_is_refused(run: Run, tmp_path: Path) -> None:
    assert run.refused(2, "compare", "none.json", "none.json") == "none.json: No such file or directory"
    assert run.refused(2, "compare", tmp_path, tmp_path).endswith(
        "is a folder; allowed is a result file of `autotune bench --json`"
    )


# bench


def test_bench_prints_and_keeps_the_figures_of_each_load(run: Run, tmp_path: Path) -> None:
    with stand_in(tmp_path / "played") as url:
        asked = ("bench", url, "--model", "tiny", *QUICK, "--concurrency", "1,3", "--json", "figures.json")
        code, out, _ = run(*asked)
        assert code == 0
        assert [row.split("│")[1].strip() for row in out.splitlines() if row.startswith("│")] == ["1 users", "3 users"]
        found = bench.read(Path("figures.json")).levels
        assert list(found) == ["1 users", "3 users"]
        for label, one in found.items():
            assert one.window_s == pytest.approx(0.4, abs=0.1)
            assert one.success_rate == 1.0
            assert one.output_tps > 0
            assert one.in_flight == pytest.approx(int(label.split()[0]), rel=0.3)
            assert (one.cold, one.connected) == (0, 0)
        kept = json.loads(Path("figures.json").read_text())
        assert kept["load"]["url"] == url
        code, out, _ = run("compare", "figures.json", "figures.json")
        shown = sum(one.ttft_s.decided(name) for one in found.values() for name in ("mean", "p50", "p95"))
        assert (code, out.count("+0.0%")) == (0, shown + len(found))


@pytest.mark.parametrize("endpoint", ["generate", "chat", "openai"])
def test_bench_speaks_each_endpoint_and_arrivals_at_random(run: Run, tmp_path: Path, endpoint: str) -> None:
    with stand_in(tmp_path / "played") as url:
        asked = (*QUICK[2:], "--endpoint", endpoint, "--rate", "20", "--json", "figures.json")
        code, out, _ = run("bench", url, "--model", "tiny", *asked)
    assert code == 0
    assert "20 requests/s" in out
    assert bench.read(Path("figures.json")).levels["20 requests/s"].success_rate == 1.0


def test_bench_shows_what_a_proxy_costs_and_keeps_every_request(run: Run, tmp_path: Path) -> None:
    with stand_in(tmp_path / "a") as first, stand_in(tmp_path / "b") as second:
        asked = ("--via", first, "--direct", f"{first},{second}", "--csv", "all.csv", "--parquet", "all.parquet")
        code, out, _ = run("bench", "--model", "tiny", *QUICK, *asked)
    assert code == 0
    assert "2 users: what the proxy costs" in out
    table = pd.read_parquet("all.parquet")
    assert set(table["load"]) == {"2 users via", "2 users direct"}
    direct = table[table["load"] == "2 users direct"]
    assert set(direct["upstream"]) == {url.removeprefix("http://") for url in (first, second)}
    assert (table["outcome"].isin(["ok", "cut_off"])).all()
    assert len(pd.read_csv("all.csv")) == len(table)


def test_bench_with_bursts_conversations_and_shared_beginnings(run: Run, tmp_path: Path) -> None:
    with stand_in(tmp_path / "played") as url:
        gamma = ("--rate", "20", "--arrivals", "gamma", "--burstiness", "0.5")
        bursts = run("bench", url, "--model", "tiny", *QUICK[2:], *gamma)
        talk = run("bench", url, "--model", "tiny", *QUICK, "--endpoint", "chat", "--turns", "3")
        shared = run("bench", url, "--model", "tiny", *QUICK, "--shared-prefix", "2,10")
    assert (bursts[0], talk[0], shared[0]) == (0, 0, 0)
    assert "20 requests/s gamma 0.5" in bursts[1]
    assert all("the prompt cache is part of what was measured" in out for _, out, _ in (talk, shared))


def test_a_file_that_cannot_be_written_costs_no_other(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: Any, **__: Any) -> None:
        raise StorageError(f"{path}: No space left on device")

    monkeypatch.setattr("autotune.bench.save", full)
    with elsewhere(serving(0.03, ANSWER)) as server:
        asked = (*QUICK, "--json", "figures.json", "--csv", "all.csv")
        code, _, err = run("bench", server.url, "--model", "tiny", *asked)
    assert (code, "figures.json: No space left" in err) == (4, True)
    assert len(pd.read_csv("all.csv")) > 0


def test_what_was_measured_is_kept_when_a_later_load_breaks(run: Run) -> None:
    with elsewhere(serving(0.03, ANSWER)) as server:
        whole = server.script

        async def moody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            server.script = whole if server.connections <= 2 else [None]
            return await Server._answer(server, reader, writer)

        server._answer = moody  # type: ignore[method-assign]
        asked = ("--concurrency", "1,2", "--json", "figures.json")
        code, _, err = run("bench", server.url, "--model", "tiny", *QUICK[2:], *asked)
    assert code == 3
    assert "answers nothing but failures" in err
    kept = json.loads(Path("figures.json").read_text())
    assert kept["complete"] is False
    assert kept["valid"] == {"1 users": True, "2 users": False}


def test_bench_takes_prompts_from_a_file(run: Run) -> None:
    Path("prompts.jsonl").write_text('{"prompt": "why is the sky blue"}\n')
    with elsewhere(serving(ANSWER)) as server:
        code, _, _ = run("bench", server.url, "--model", "tiny", *QUICK[:-2], "--prompts", "prompts.jsonl")
    assert code == 0
    assert all(body["prompt"].endswith(" why is the sky blue") for body in server.bodies)


def test_a_header_comes_from_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "Bearer geheim")
    with elsewhere(serving(ANSWER)) as server:
        asked = (*QUICK, "--header", "Authorization=TOKEN", "--json", "figures.json")
        code, out, err = run("bench", server.url, "--model", "tiny", *asked)
    assert code == 0
    assert all("authorization: bearer geheim\r\n" in head.lower() for head in server.heads if head.startswith("POST"))
    assert "geheim" not in out + err + Path("figures.json").read_text()


@pytest.mark.parametrize(
    "given", ["Authorization=Bearer geheim", "Authorization=", "Authorization", "Authorization=NO"]
)
def test_a_header_whose_variable_is_missing_is_refused_and_never_repeated(run: Run, given: str) -> None:
    said = run.refused(2, "bench", "http://127.0.0.1:1", "--model", "m", "--header", given)
    assert said.startswith("--header Authorization=…: no environment variable has that name")
    assert "geheim" not in said


def test_a_header_that_no_server_would_understand_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "geheim\r\nX: y")
    said = run.refused(2, "bench", "http://127.0.0.1:1", "--model", "m", "--header", "Authorization=TOKEN")
    assert said == "--header Authorization=…: the variable's value has characters that no header may have"
    assert "write NAME=VARIABLE" in run.refused(2, "bench", "http://x", "--model", "m", "--header", "=TOKEN")
    assert "write NAME=VARIABLE" in run.refused(2, "bench", "http://x", "--model", "m", "--header", "A B=TOKEN")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--concurrency", "0"), "--concurrency 0: allowed are numbers above 0"),
        (("--concurrency", "1,1"), "--concurrency 1,1: the same load twice"),
        (("--concurrency", "5,,10"), "--concurrency 5,,10: allowed"),
        (("--concurrency", "2.5"), "--concurrency 2.5: allowed"),
        (("--rate", "-1"), "--rate -1: allowed"),
        (("--rate", "nan"), "--rate nan: allowed"),
        (("--rate", "1,inf"), "--rate 1,inf: allowed"),
        (("--json", "."), "--json .: is a folder"),
        (("--json", "none/figures.json"), "--json none/figures.json: none is no folder that can be written to"),
    ],
)
def test_what_bench_cannot_do_is_refused_before_anything_is_asked(
    run: Run, arguments: Sequence[str], words: str
) -> None:
    with elsewhere(serving(ANSWER)) as server:
        assert words in run.refused(2, "bench", server.url, "--model", "tiny", *QUICK[2:], *arguments)
    assert server.connections == 0


def test_a_file_of_prompts_that_is_not_there_is_named_once(run: Run) -> None:
    said = run.refused(2, "bench", "http://127.0.0.1:1", "--model", "tiny", "--prompts", "none.jsonl")
    assert said == "none.jsonl: the file of prompts cannot be read: No such file or directory"


def test_an_address_that_is_no_url_is_refused(run: Run) -> None:
    said = run.refused(2, "bench", "127.0.0.1:11434", "--model", "tiny")
    assert said == "127.0.0.1:11434: not a URL; as in http://127.0.0.1:11434"


def quickly(run: Run, *arguments: object) -> str:
    """Refused with exit code 3, at the loads that bench has by itself, within seconds."""
    began = time.monotonic()
    said = run.refused(3, "bench", *arguments)
    assert time.monotonic() - began < 10
    return said


def test_a_url_that_refuses_is_one_clear_line(run: Run) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    said = quickly(run, url, "--model", "tiny")
    assert said.startswith(f"{url} does not answer: ")
    assert "127.0.0.1" in said.removeprefix(url)


def test_a_url_that_leads_nowhere_is_one_clear_line(run: Run) -> None:
    url = "http://nowhere.invalid"
    assert quickly(run, url, "--model", "tiny").startswith(f"{url} does not answer: ")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([status(404, b"<html>no such page</html>")], "status 404, <html>no such page</html>"),
        ([status(200, b"<html>welcome</html>")], "status 200"),
        ([status(401, b'{"error": "who are you?"}')], "status 401, who are you?"),
        ([HEAD + b"\r\n" + line(error="out of memory") + END], "status 200, out of memory"),
    ],
)
def test_a_server_that_is_no_ollama_or_refuses_is_one_clear_line(run: Run, script: list[Say], words: str) -> None:
    with elsewhere(serving(*script)) as server:
        said = quickly(run, server.url, "--model", "tiny")
    assert said.startswith(f"{server.url} gives no answer from 'tiny' at its generate endpoint: ")
    assert words in said


def test_a_model_that_is_not_there_is_one_clear_line(run: Run, tmp_path: Path) -> None:
    with stand_in(tmp_path / "played") as url:
        said = quickly(run, url, "--model", "nosuch")
    assert said.startswith(f"{url} gives no answer from 'nosuch'")
    assert "status 404, model 'nosuch' not found; it has " in said
    assert said.endswith(", tiny:latest")


class Dying(Server):
    """Answers a few, and then breaks each off."""

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        self.script = [ANSWER] if len(self.bodies) < 12 else [None]
        return await super()._answer(reader, writer)


@asynccontextmanager
async def dying() -> AsyncIterator[str]:
    async with listening(Dying().serve) as port:
        yield f"http://127.0.0.1:{port}"


def test_a_server_that_dies_in_the_load_is_one_clear_line(run: Run) -> None:
    with elsewhere(dying()) as url:
        said = quickly(run, url, "--model", "tiny", *QUICK, "--concurrency", "8")
    assert said.startswith(f"{url} answers nothing but failures: ")
    assert len(said) > len(f"{url} answers nothing but failures: ")
