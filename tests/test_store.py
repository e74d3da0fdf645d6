"""The study folder: what is written is there whole, comes back equal, and nothing that was there is ever lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune import files
from autotune.cluster.verify import Placement
from autotune.errors import SpecError, StorageError
from autotune.files import write
from autotune.metrics import measure
from autotune.ollama.api import ServerFacts
from autotune.plan import make
from autotune.records import Outcome, RequestRecord
from autotune.result import Samples
from autotune.score import Score
from autotune.store import FORMAT, Store
from autotune.telemetry import DeviceSample
from tests import full_disk
from tests.conftest import TINY, cores, gpus, study
from tests.factories import BASELINE, LIMIT, SPEC, metrics, params, result
from tests.strategies import records

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autotune.result import TrialResult

PLACEMENT = Placement(
    instance="ollama-0",
    on_gpu=True,
    compute=("CUDA0",),
    layers_on_device=33,
    layers=33,
    size_bytes=5 << 30,
    size_vram_bytes=5 << 30,
    num_parallel=4,
    parallel_unsupported=False,
    context_length=8192,
)
SAMPLE = DeviceSample(0, 71, 1350, 9 << 30, 214.25, 0.98, ("sw_power_cap",), throttled=False)


def test_what_a_killed_night_has_half_written_is_gone_when_its_study_goes_on(tmp_path: Path) -> None:
    store = Store(tmp_path / "night")
    store.open(SPEC, "")
    store.trials.save(result(0), [])
    (store.folder / "proofs" / "0000" / "0000").mkdir(parents=True)
    kept = {*store.folder.rglob("*")}
    for beside in (
        "study.json",
        "trials/0000/records-0.jsonl.gz",
        "proofs/0000/proof.json",
        "proofs/0000/0000/plan.json",
    ):
        handle, _ = files._beside(store.folder / beside)
        os.close(handle)
    assert len({*store.folder.rglob("*")} - kept) == 4
    assert store.open(SPEC, "")
    assert {*store.folder.rglob("*")} == kept


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "night")
    store.open(SPEC, "# the study file\n")
    return store


def full() -> TrialResult:
    """A result with something in each of its fields."""
    return result(
        levels={"5 users": metrics(81.25, 0.1 + 0.2, waiting=(1 / 3,)), "20 users": metrics(160.0, None, requests=0)},
        score=Score(161.7, {"ttft_s mean at 20 users": -1 / 3}, ("too few requests",)),
        placements=(PLACEMENT, replace(PLACEMENT, layers=None, layers_on_device=None, num_parallel=None)),
        samples={"2 users": Samples((SAMPLE,), (replace(SAMPLE, temperature_c=None, power_w=None, utilisation=None),))},
        cautions=("5 users: näher betrachten",),
        params={**BASELINE, "policy": "least_conn", "threads": 4, "env:OLLAMA_X": "1"},
        details="last words\nof an instance \N{PILE OF POO}",
        seconds=123.456,
    )


# whole or not at all


def test_a_file_is_the_old_one_or_the_new_one_when_the_writer_is_killed(tmp_path: Path) -> None:
    endless = (
        "import sys; from pathlib import Path; from itertools import count; from autotune.files import write\n"
        "for number in count(): write(Path(sys.argv[1]), f'{number:07}' * 40_000)"
    )
    paths = [tmp_path / str(number) / "file" for number in range(3)]
    writers = [subprocess.Popen([sys.executable, "-c", endless, path]) for path in paths]
    end = time.monotonic() + 30
    try:
        for delay_s, writer, path in zip((0.0, 0.011, 0.023), writers, paths, strict=True):
            while not path.exists() and time.monotonic() < end:
                time.sleep(0.005)
            time.sleep(delay_s)
            writer.send_signal(signal.SIGKILL)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    for path in paths:
        text = path.read_text()
        assert text == text[:7] * 40_000


def test_a_write_that_is_abandoned_leaves_nothing_but_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, "old")
    path.with_name("blocked").mkdir()
    with pytest.raises(StorageError, match="blocked"):
        write(path.with_name("blocked"), "new")  # a folder is in the way of the last step
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["blocked", "file"]
    assert path.read_text() == "old"


def test_only_the_user_can_look_into_a_study(store: Store) -> None:
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


def test_a_study_stays_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Store(tmp_path / "deep" / "night").open(SPEC, "")
        write(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "deep" / "night").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


# equal when it comes back


@pytest.mark.parametrize("written", [full(), result(), result(reason="load_failed")])
def test_results_come_back_equal(store: Store, written: TrialResult) -> None:
    store.trials.save(written, [])
    assert store.trials.results() == [written]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=4, max_size=4))
@settings(max_examples=60)
def test_every_number_comes_back_to_the_last_bit(numbers: list[float]) -> None:
    first, second, third, fourth = numbers
    written = result(
        levels={"a": metrics(first, second, waiting=(third,))}, score=Score(first, {"x": fourth}), seconds=third
    )
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.trials.save(written, [])
        (found,) = store.trials.results()
    assert found == written
    assert repr(found) == repr(written)  # also −0.0


@given(st.lists(records(), max_size=12), st.booleans())
@settings(max_examples=60)
def test_metrics_of_stored_records_are_equal_to_the_last_bit(asked: list[RequestRecord], open_loop: bool) -> None:
    window: dict[str, Any] = {"window_start": 1e4 / 3, "window_end": 7e4 / 3, "open_loop": open_loop}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        bounds = (window["window_start"], window["window_end"])
        written = result(levels={"2 users": measure(asked, **window)}, windows={"2 users": bounds})
        store.trials.save(written, [[], asked])
        assert store.trials.records(0, 0) == []
        assert store.trials.records(0, 1) == asked
        (found,) = store.trials.results()
        start, end = found.windows["2 users"]
        again = measure(store.trials.records(0, 1), window_start=start, window_end=end, open_loop=open_loop)
        assert again == found.levels["2 users"] == written.levels["2 users"]


def test_results_are_in_the_order_of_their_trials(store: Store) -> None:
    for number in (2, 0, 1):
        store.trials.save(result(number), [])
    assert [one.number for one in store.trials.results()] == [0, 1, 2]


def test_a_plan_is_written_before_its_trial(store: Store) -> None:
    plan = make(SPEC, gpus(), full_disk.FACTS, params(), (Path("/models"), Path("/home")))
    store.trials.write_plan(3, params(), plan)
    written = json.loads((store.folder / "trials" / "0003" / "plan.json").read_text())
    assert (written["params"], written["fingerprint"]) == (params(), plan.fingerprint)
    assert written["plan"]["instances"][0]["name"] == "ollama-0"


def test_a_trial_without_a_result_does_not_count(store: Store) -> None:
    store.trials.save(result(0), [])
    plan = make(SPEC, gpus(), full_disk.FACTS, params(), (Path("/models"), Path("/home")))
    store.trials.write_plan(1, params(), plan)
    (store.folder / "trials" / "0001" / ".result.json-x").write_text("{")  # what a killed writer leaves
    assert [one.number for one in store.trials.results()] == [0]


def test_a_trial_that_is_missing_in_between_is_refused_before_anything_is_overwritten(store: Store) -> None:
    for number in range(3):
        store.trials.save(result(number), [])
    (store.folder / "trials" / "0001" / "result.json").unlink()
    with pytest.raises(StorageError, match="0001: has no result, but later trials have: put it back"):
        store.trials.results()


# going on with a study


@pytest.fixture
def begun(store: Store) -> Store:
    """With a trial."""
    store.trials.save(result(0), [])
    return store


def test_a_study_is_begun_once_and_gone_on_with_after(tmp_path: Path) -> None:
    store = Store(tmp_path / "night")
    assert store.earlier() == []
    assert store.open(SPEC, "one") is False
    store.trials.save(result(0), [])
    assert store.open(SPEC, "two") is True
    assert store.earlier() == [result(0)]
    header = store.header()
    assert header is not None
    assert (header["file"], header["format"]) == ("two", FORMAT)
    store.write_header({**header, "ground": {"host": 1}})
    store.open(SPEC, "three")
    assert (store.header() or {})["ground"] == {"host": 1}


def test_what_a_proof_has_measured_is_of_one_study_too(begun: Store) -> None:
    """Its trials are gone: what it proved says nothing of another load."""
    begun.proof(begun.begin_proof([BASELINE, params(4)])).save(result(0), [])
    shutil.rmtree(begun.folder / "trials")
    other = study(objective={"limits": [LIMIT]}, workload={"levels": [7]})
    with pytest.raises(SpecError, match=r"workload\.levels"):
        begun.open(other, "other")
    assert begun.open(SPEC, "the same") is True


def test_what_a_study_stands_on_comes_back_equal(begun: Store) -> None:
    assert begun.host() is None  # as older versions left it
    facts = ServerFacts("0.32.15", replace(TINY, parameters=(("temperature", "1"),)))
    begun.write_host(cores((0, 1), (2, 3)), facts)
    assert begun.host() == (cores((0, 1), (2, 3)), facts)
    begun.open(SPEC, "again")
    assert begun.host() is not None


@pytest.mark.parametrize(
    "damage",
    [{}, {"inventory": {"host": 1}, "facts": {}}, {"inventory": {"host": "a", "devices": []}, "facts": 1}, "x"],
)
def test_a_damaged_host_is_told(begun: Store, damage: object) -> None:
    begun.write_header({**(begun.header() or {}), "host": damage})
    with pytest.raises(StorageError, match=r"study.json: damaged \(host"):
        begun.host()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workload": {"num_ctx": 2048}}, "workload.num_ctx: was 1024, is 2048"),
        ({"search": {"num_parallel": [1, 2]}}, r"search.num_parallel: was \[1, 2, 4, 32\], is \[1, 2\]"),
        ({"study": {"seed": 3}}, "study.seed: was 0, is 3"),
        ({"cluster": {"model": "stops"}}, 'cluster.model: was "tiny", is "stops"'),
        ({"cluster": {"env": {"OLLAMA_X": "1"}}}, 'cluster.env.OLLAMA_X: was null, is "1"'),
        ({"objective": {"limits": []}}, r"objective.limits: was \[.*2.0.*\], is \[\]"),
    ],
)
def test_a_change_in_what_is_measured_is_refused(begun: Store, changes: dict[str, Any], words: str) -> None:
    limits = [limit.model_dump(exclude_none=True) for limit in SPEC.objective.limits]
    before = (begun.folder / "study.json").read_bytes()
    with pytest.raises(SpecError, match=words) as raised:
        begun.open(study(**{"objective": {"limits": limits}, **changes}), "")
    assert raised.value.exit_code == 2
    assert "\n" not in raised.value.message
    assert "give the study another name" in raised.value.message
    assert (begun.folder / "study.json").read_bytes() == before


def test_budget_name_and_timeouts_may_change(begun: Store) -> None:
    limits = [limit.model_dump(exclude_none=True) for limit in SPEC.objective.limits]
    other = study(
        objective={"limits": limits},
        study={"name": "renamed"},
        budget={"trials": 99, "hours": 2, "until": "07:00", "proof_share": 0.5},
        cluster={"start_timeout_s": 7, "load_timeout_s": 7, "stop_timeout_s": 7},
    )
    assert begun.open(other, "")


def test_before_the_first_trial_everything_may_change(store: Store) -> None:
    assert store.open(study(workload={"num_ctx": 2048}), "") is False
    store.trials.save(result(0), [])
    assert store.open(study(workload={"num_ctx": 2048}), "") is True


# what cannot be read


def test_a_newer_format_is_refused_and_says_what_to_do(store: Store) -> None:
    path = store.folder / "study.json"
    path.write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(StorageError, match=rf"format {FORMAT + 1} is of a newer autotune.*pip install -U") as raised:
        store.open(SPEC, "")
    assert raised.value.exit_code == 4
    assert json.loads(path.read_text()) == {"format": FORMAT + 1}


def test_a_format_from_before_the_first_version_says_what_to_do(store: Store) -> None:
    (store.folder / "study.json").write_text('{"format": 1, "measured": {}, "file": ""}')
    with pytest.raises(StorageError, match=r"format 1 is of an autotune before 0\.1\.0: give the study another name"):
        store.header()


def test_a_key_that_a_later_version_has_added_had_its_default(store: Store) -> None:
    store.trials.save(result(0), [])
    header = store.header() or {}
    del header["spec"]["workload"]["raw"], header["spec"]["proof"]
    store.write_header(header)
    assert store.spec() == SPEC
    assert store.open(SPEC, "") is True
    with pytest.raises(SpecError, match=r"workload\.raw: was false, is true"):
        store.open(study(workload={"raw": True}, objective={"limits": [LIMIT]}), "")


def test_what_a_study_was_read_as_comes_back(store: Store) -> None:
    assert store.spec() == SPEC
    with pytest.raises(StorageError, match="no study"):
        Store(store.folder / "nowhere").spec()


NO_JSON = [b"", b"{", b"\xff\xfe\x00", b"[1]", b"{}"]
NO_STUDY = [b'{"format": "x"}', b'{"format": 2}', b'{"format": 2, "spec": 3}', b'{"format": 2, "spec": {}}']


@pytest.mark.parametrize("damage", NO_JSON + NO_STUDY)
def test_a_damaged_study_is_one_clear_line(store: Store, damage: bytes) -> None:
    store.trials.save(result(0), [])
    (store.folder / "study.json").write_bytes(damage)
    for reading in (store.spec, lambda: store.open(SPEC, "")):
        with pytest.raises(StorageError, match=r"study\.json: damaged \(") as raised:
            reading()
        assert "\n" not in raised.value.message


@pytest.mark.parametrize("damage", NO_JSON)
def test_a_damaged_result_is_one_clear_line(store: Store, damage: bytes) -> None:
    store.trials.save(result(0), [])
    (store.folder / "trials" / "0000" / "result.json").write_bytes(damage)
    with pytest.raises(StorageError, match=r"0000/result\.json: damaged \(") as raised:
        store.trials.results()
    assert "\n" not in raised.value.message


def test_a_wrong_value_in_a_file_is_named_by_its_key(store: Store) -> None:
    store.trials.save(result(0), [])
    path = store.folder / "trials" / "0000" / "result.json"
    written = json.loads(path.read_text())
    written["score"]["objective"] = "fast"
    path.write_text(json.dumps(written))
    with pytest.raises(
        StorageError, match=r"result\.json: damaged \(score\.objective = 'fast': Input should be a valid n"
    ):
        store.trials.results()
    store.open(SPEC, "")
    header = store.header() or {}
    header["spec"]["search"]["sampler"] = "guess"
    store.write_header(header)
    with pytest.raises(StorageError, match=r"study\.json: damaged \(search\.sampler = 'guess': "):
        store.spec()


def test_damaged_records_are_one_clear_line(store: Store) -> None:
    store.trials.save(result(0), [[RequestRecord(0, 1.0, Outcome.OK, chunk_times=(2.0, 3.0))]])
    path = store.folder / "trials" / "0000" / "records-0.jsonl.gz"
    whole = path.read_bytes()
    for damage in (b"", whole[: len(whole) // 2], b"nonsense", whole[:-12] + b"x" * 12):
        path.write_bytes(damage)
        if damage:
            with pytest.raises(StorageError, match=r"records-0\.jsonl\.gz: damaged"):
                store.trials.records(0, 0)
    path.unlink()
    with pytest.raises(StorageError, match="No such file"):
        store.trials.records(0, 0)


def test_a_folder_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "night").write_text("")
    with pytest.raises(StorageError, match="night"):
        Store(tmp_path / "night").open(SPEC, "")


# a full disk


def tiny_disk(folder: Path) -> list[str]:
    """What runs a command that alone sees 1 MiB mounted at `folder`; nothing where that is not allowed."""
    private = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    mounted = f'mount -t tmpfs -o size=1m tmpfs "{folder}" && exec "$@"'
    prefix = [*private, "sh", "-c", mounted, "sh"]
    with suppress(OSError):
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return prefix
    return []


def outcome(command: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_disk_that_is_full_loses_nothing_of_what_was_there(tmp_path: Path) -> None:
    prefix = tiny_disk(tmp_path)
    if not prefix:
        pytest.skip("no file system can be mounted here")
    found = outcome([*prefix, sys.executable, "-m", full_disk.__name__, str(tmp_path)])
    assert found["begun"].endswith("a night needs 256")
    for what in ("write", "save", "event", "optuna"):
        assert "No space left on device" in found[what] or "disk is full" in found[what], found
        assert "\n" not in found[what]
        assert "remove" not in found[what]
    assert found["kept"] == {"file": "old", "results": 1, "events": ["first"], "temporary": []}
    assert found["after"] == {"file": "new", "results": 2, "events": ["first", "last"], "temporary": [], "optuna": 2}


@pytest.fixture
def short_files() -> Iterator[None]:
    """No file may be longer than 64 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("short_files")
def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, "old")
    with pytest.raises(StorageError, match="file: File too large"):
        write(path, "x" * (1 << 17))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
