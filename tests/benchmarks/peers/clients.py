"""The load generators that are compared: for each the command that runs it, and where it says what it found."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.peers.truth import MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

HERE = Path(__file__).parent
TTFT_S, GAP_S, TOKENS, INPUT_TOKENS = 0.1, 0.02, 32, 64
ANSWER_S = TTFT_S + (TOKENS - 1) * GAP_S
WARMUP_S = 2.0

NO_HUB = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Nothing is fetched: the tokenizer is a folder of ours."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a client is to do, and where it may write."""

    url: str
    streams: int
    requests: int
    folder: Path
    tokenizer: Path
    programs: Path
    """The `bin` of the client's own environment."""


@dataclass(frozen=True, slots=True)
class Reported:
    """The TTFT that a client says it measured, s."""

    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Client:
    """A load generator. `package` names the environment it has to itself; without one it runs in ours."""

    name: str
    command: Callable[[Load], list[str]]
    read: Callable[[Load], Reported]
    package: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: NO_HUB)


def percentile(values: Iterable[float], share: float) -> float:
    """With straight lines between the values."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low, high = ordered[math.floor(at)], ordered[math.ceil(at)]
    return low + (at - math.floor(at)) * (high - low)


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer of some thousand words in the form of transformers: each word of an answer is one token."""
    folder.mkdir()
    words = ["[UNK]", "word", *(f"w{number}" for number in range(4000))]
    model = {"type": "WordLevel", "vocab": {word: at for at, word in enumerate(words)}, "unk_token": words[0]}
    said = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model}
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": words[0], "model_max_length": 131072}
    (folder / "tokenizer.json").write_text(json.dumps(said))
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return folder


def _found(load: Load, name: str) -> Any:
    return json.loads((load.folder / name).read_text(encoding="utf-8"))


def _autotune(load: Load) -> list[str]:
    window_s = ANSWER_S * load.requests / load.streams
    command = [sys.executable, "-m", "autotune", "bench", load.url, "--model", MODEL]
    command += ["--concurrency", str(load.streams), "--input-tokens", str(INPUT_TOKENS), "--num-predict", str(TOKENS)]
    return [*command, "--warmup", f"{WARMUP_S}", "--window", f"{window_s:.2f}", "--json", str(load.folder / "found")]


def _read_autotune(load: Load) -> Reported:
    (level,) = _found(load, "found")["levels"].values()
    return Reported(level["ttft_s"]["p50"], level["ttft_s"]["p99"])


def _asking(style: str) -> Callable[[Load], list[str]]:
    def command(load: Load) -> list[str]:
        load_of = [load.url, str(load.streams), str(load.requests)]
        return [sys.executable, str(HERE / "asking.py"), style, *load_of, str(load.folder / "found")]

    return command


def _read_asking(load: Load) -> Reported:
    waits = _found(load, "found")["ttft_s"]
    return Reported(percentile(waits, 0.5), percentile(waits, 0.99))


def _guidellm(load: Load) -> list[str]:
    return [
        str(load.programs / "guidellm"),
        "run",
        "--disable-console",
        *("--backend", f"kind=openai_http,target={load.url},model={MODEL}"),
        *("--profile", f"kind=concurrent,streams={load.streams}"),
        *("--constraint", f"kind=max_requests,count={load.requests}"),
        *("--tokenizer", f"kind=huggingface_auto,model={load.tokenizer}"),
        *("--data", f"kind=synthetic_text,prompt_tokens={INPUT_TOKENS},output_tokens={TOKENS}"),
        *("--output", f"kind=json,path={load.folder / 'found.json'}"),
    ]


def _read_guidellm(load: Load) -> Reported:
    (bench,) = _found(load, "found.json")["benchmarks"]
    told = bench["metrics"]["time_to_first_token_ms"]["successful"]["percentiles"]
    return Reported(told["p50"] / 1e3, told["p99"] / 1e3)


def _aiperf(load: Load) -> list[str]:
    command = [str(load.programs / "aiperf"), "profile", "--model", MODEL, "--url", load.url]
    command += ["--endpoint-type", "chat", "--streaming", "--tokenizer", str(load.tokenizer), "--ui-type", "none"]
    command += ["--concurrency", str(load.streams), "--request-count", str(load.requests)]
    command += ["--prompt-input-tokens-mean", str(INPUT_TOKENS), "--prompt-output-tokens-mean", str(TOKENS)]
    return [*command, "--no-server-metrics", "--no-gpu-telemetry", "--output-artifact-dir", str(load.folder)]


def _read_aiperf(load: Load) -> Reported:
    told = _found(load, "profile_export_aiperf.json")["time_to_first_token"]
    return Reported(told["p50"] / 1e3, told["p99"] / 1e3)


def _inference_perf(load: Load) -> list[str]:
    def fixed(length: int) -> dict[str, Any]:
        sizes = dict.fromkeys(("min", "max", "mean"), length)
        return {"type": "fixed", **sizes, "std_dev": 0, "total_count": load.requests}

    config = {
        "api": {"type": "completion", "streaming": True},
        "data": {"type": "random", "input_distribution": fixed(INPUT_TOKENS), "output_distribution": fixed(TOKENS)},
        "load": {
            "type": "concurrent",
            "stages": [{"num_requests": load.requests, "concurrency_level": load.streams}],
        },
        "server": {"type": "vllm", "model_name": MODEL, "base_url": load.url},
        "tokenizer": {"pretrained_model_name_or_path": str(load.tokenizer)},
        "storage": {"local_storage": {"path": str(load.folder / "report")}},
    }
    file = load.folder / "config.yml"
    file.write_text(json.dumps(config))  # all JSON is YAML
    return [str(load.programs / "inference-perf"), "--config_file", str(file)]


def _read_inference_perf(load: Load) -> Reported:
    told = _found(load, "report/summary_lifecycle_metrics.json")["successes"]["latency"]["time_to_first_token"]
    return Reported(told["median"], told["p99"])


def _vllm(load: Load) -> list[str]:
    command = [str(load.programs / "python"), str(HERE / "alone.py"), "--backend", "openai-chat", "--disable-tqdm"]
    command += ["--base-url", load.url, "--endpoint", "/v1/chat/completions", "--model", MODEL]
    command += ["--tokenizer", str(load.tokenizer), "--dataset-name", "random"]
    command += ["--random-input-len", str(INPUT_TOKENS), "--random-output-len", str(TOKENS)]
    command += ["--num-prompts", str(load.requests), "--max-concurrency", str(load.streams)]
    command += ["--percentile-metrics", "ttft", "--metric-percentiles", "50,99"]
    return [*command, "--save-result", "--result-dir", str(load.folder), "--result-filename", "found"]


def _read_vllm(load: Load) -> Reported:
    told = _found(load, "found")
    return Reported(told["p50_ttft_ms"] / 1e3, told["p99_ttft_ms"] / 1e3)


CLIENTS = (
    Client("autotune", _autotune, _read_autotune),
    Client("aiohttp, as usually written", _asking("usual"), _read_asking),
    Client("aiohttp, tuned", _asking("tuned"), _read_asking),
    Client("guidellm", _guidellm, _read_guidellm, "guidellm"),
    # offline, it looks for a tokenizer in the hub's cache only, never in a folder; so it gets a hub that is not there
    Client("aiperf", _aiperf, _read_aiperf, "aiperf", {"HF_ENDPOINT": "http://127.0.0.1:9"}),
    Client("inference-perf", _inference_perf, _read_inference_perf, "inference-perf"),
    Client("vLLM bench serve", _vllm, _read_vllm, "vllm"),
)
