"""What is read from logs: recorded ones of three kinds of server, and lines that Ollama's source prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.ollama.log import LoadReport, argv_parallel, ended, last_load, last_words, read_load, wanting

RECORDINGS = Path(__file__).parents[1] / "recordings"
GPU = "GPU-20800000-0000-4000-8000-000000000000"
SINGLE = (
    'time=2026-11-22T11:36:30.373Z level=WARN source=sched.go:509 msg="model architecture does not currently '
    'support parallel requests" architecture=qwen35\n'
)
START = 'time=2026-11-22T11:36:30.373Z level=INFO source=llama_server.go:433 msg="starting llama-server" cmd="{}"\n'


def recorded(version: str, name: str) -> str:
    return (RECORDINGS / version / f"server-log-{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("version", "name", "report"),
    [
        ("v0.24.0", "info", LoadReport(num_parallel=3, compute=("cpu",))),
        ("v0.24.0", "debug", LoadReport(num_parallel=3, compute=("cpu",))),
        ("v0.32.15", "info", LoadReport(num_parallel=3, compute=("cpu",))),
        ("v0.32.15", "debug", LoadReport(num_parallel=3, compute=("cpu",))),
        ("v0.32.15-gpu", "all-on-gpu", LoadReport(36, 36, 12, compute=(GPU,))),
        ("v0.32.15-gpu", "partial-offload", LoadReport(32, 36, 16, compute=(GPU,))),
        ("v0.32.15-gpu", "out-of-memory", LoadReport(36, 36, 32, compute=(GPU,))),
        ("v0.32.15-gpu", "cuda-error", LoadReport(36, 36, 32, compute=(GPU,))),
        ("v0.32.15-gpu", "gpu-hidden", LoadReport(compute=("cpu",))),
        ("v0.32.15-gpu", "four-gpus-unpinned", LoadReport(compute=("0", "1", "2", "3"))),
    ],
)
def test_what_a_server_says_of_its_load(version: str, name: str, report: LoadReport) -> None:
    assert read_load(recorded(version, name)) == report


def test_all_recorded_logs_are_looked_at() -> None:
    assert len(list(RECORDINGS.glob("*/server-log-*.txt"))) == 10


def test_an_empty_log_says_nothing() -> None:
    assert read_load("") == LoadReport()


def test_a_family_with_one_slot_is_known_by_the_warning() -> None:
    report = read_load(SINGLE + START.format("llama-server --model /m -c 2048 -np 1"))
    assert report.parallel_unsupported
    assert report.num_parallel == 1


def test_the_last_load_counts() -> None:
    first = START.format("llama-server --model /m -np 8") + "load_tensors: offloaded 9/9 layers to GPU\n"
    second = START.format("llama-server --model /m -np 2")
    assert read_load(first + second) == LoadReport(num_parallel=2)
    assert read_load(first + second + "load_tensors: offloaded 3/9 layers to GPU\n") == LoadReport(3, 9, 2)


def test_a_runner_that_only_looks_for_devices_is_no_load() -> None:
    load = 'msg="starting runner" cmd="ollama runner --model /m --port 1"\noffloaded 9/9 layers to GPU\n'
    look = 'msg="starting runner" cmd="ollama runner --ollama-engine --port 2"\n'
    assert read_load(load + look) == LoadReport(9, 9)


@pytest.mark.parametrize("store", ["/home/o'brien/models", "/srv/my models", '/srv/\\"x\\"'])
def test_a_store_may_be_called_anything(store: str) -> None:
    assert read_load(START.format(f"llama-server --model {store}/blobs/1 -np 4 -b 512")).num_parallel == 4


@pytest.mark.parametrize(
    ("line", "device"),
    [
        ('msg="inference compute" id=GPU-1 filter_id="" library=CUDA compute=8.9', "GPU-1"),
        ('msg="inference compute" id=0 filter_id=GPU-1 library=CUDA compute=8.9', "GPU-1"),
        ('msg="inference compute" id=GPU-1 library=cuda variant=v12 compute=8.9', "GPU-1"),
        ('msg="inference compute" id=cpu library=cpu compute=""', "cpu"),
    ],
)
def test_devices_are_called_as_the_server_was_told(line: str, device: str) -> None:
    assert read_load(line).compute == (device,)


@pytest.mark.parametrize(
    ("argv", "slots"),
    [
        (["llama-server", "-c", "3072", "-np", "3", "-b", "512"], 3),
        (["ollama", "runner", "--ctx-size", "8192", "--parallel", "4", "--port", "1"], 4),
        (["ollama", "runner", "--model", "/m", "--port", "1"], None),
        (["llama-server", "-np"], None),
        ([], None),
    ],
)
def test_slots_in_the_arguments_of_a_child(argv: list[str], slots: int | None) -> None:
    assert argv_parallel(argv) == slots


def test_the_arguments_of_recorded_children() -> None:
    found = {path.parent.name: path.read_text().split() for path in RECORDINGS.glob("*/runner-cmdline.txt")}
    assert {name: argv_parallel(argv) for name, argv in found.items()} == {"v0.24.0": None, "v0.32.15": 3}


def test_last_words_are_the_end_without_access_lines_and_dots() -> None:
    log = 'one\ntwo\n[GIN] 2026/11/23 - 07:48:50 | 200 | 1ms | 127.0.0.1 | GET "/"\n\n....\nthree\n' + "x" * 900
    assert last_words(log, 3) == "two\nthree\n" + "x" * 400
    assert last_words("") == ""


def test_last_words_of_a_panic_say_why() -> None:
    trace = "".join(f"main.step{number}()\n\t/go/src/main.go:{number}\n" for number in range(9))
    log = f"starting\npanic: bad origin\n\ngoroutine 1 [running]:\n{trace}"
    assert last_words(log, 3) == "panic: bad origin\ngoroutine 1 [running]:\nmain.step0()"
    assert last_words("one\npanic: late", 3) == "one\npanic: late"


# memory that is not enough


def test_a_recorded_load_without_memory_says_whose() -> None:
    log = recorded("v0.32.15-gpu", "out-of-memory")
    answer = (RECORDINGS / "v0.32.15-gpu/preload-out-of-memory.response").read_text(encoding="utf-8")
    assert wanting(answer) == wanting(last_load(log)) == "device"
    assert ended(log) == "exit status 1"


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("v0.24.0", "debug"),
        ("v0.32.15", "debug"),
        ("v0.32.15-gpu", "all-on-gpu"),
        ("v0.32.15-gpu", "partial-offload"),
        ("v0.32.15-gpu", "cuda-error"),
        ("v0.32.15-gpu", "gpu-hidden"),
    ],
)
def test_no_other_recorded_log_wants_memory(version: str, name: str) -> None:
    assert wanting(recorded(version, name)) is None


@pytest.mark.parametrize(
    ("text", "whose"),
    [
        ("model requires more system memory (12.3 GiB) than is available (7.9 GiB)", "host"),
        ("ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 1234", "device"),
        ("ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 1234", "host"),
        ("CUDA error: out of memory\n  current device: 0, in function alloc", "device"),
        ("vk::Device::allocateMemory: ErrorOutOfDeviceMemory", "device"),
        ("fork/exec /bin/llama-server: cannot allocate memory", "host"),
        (
            "cudaMalloc failed: out of memory: retrying without pipeline parallelism",
            None,
        ),
        ("error while handling argument: Unsupported cache type: q9", None),
        ("", None),
    ],
)
def test_whose_memory_was_not_enough(text: str, whose: str | None) -> None:
    assert wanting(text) == whose


def test_only_the_last_load_is_looked_at() -> None:
    first = START.format("llama-server --model /m -np 8") + "cudaMalloc failed: out of memory\n"
    second = START.format("llama-server --model /m -np 2") + "bad model\n"
    assert wanting(last_load(first + second)) is None
    assert wanting(last_load(first)) == "device"


def test_a_process_that_was_killed_is_told_from_one_that_broke() -> None:
    assert ended(recorded("v0.32.15-gpu", "cuda-error")) == "signal: aborted"
    assert ended(recorded("v0.32.15-gpu", "all-on-gpu")) == ""
    assert ended('level=ERROR msg="llama runner terminated" error="signal: killed"\n') == "signal: killed"
