"""The stand-in against a real Ollama on this machine: same requests to both, same shapes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from autotune.cluster.process import ProcessDriver
from autotune.ollama.api import Ollama, wait_ready
from autotune.plan import InstancePlan
from tests.conftest import free_ports
from tests.simulator.exchange import instance, recorded_request, send
from tests.simulator.test_contract import CPU_VERSION, assert_alike, cpu_profile

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.cluster.children import Children
    from tests.conftest import RealOllama

pytestmark = pytest.mark.ollama

DAY = [
    "version",
    "root",
    "root-head",
    "ps-empty",
    "preload",
    "ps-loaded",
    "generate-stream",
    "generate-nostream",
    "generate-one-token",
    "generate-unknown-option",
    "generate-missing-model",
    "generate-bad-json",
    "generate-bad-option-type",
    "no-such-route",
    "wrong-method",
    "show-missing",
    "v1-chat-stream-usage",
    "v1-chat-nostream",
    "v1-missing-model",
    "unload",
    "ps-after-unload",
]
"""What does not depend on which model it is."""


async def test_a_day_on_both(tmp_path: Path, children: Children, real_ollama: RealOllama) -> None:
    port = free_ports(1)
    env = {
        "HOME": str(tmp_path / "home"),
        "OLLAMA_MODELS": str(real_ollama.models),
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_NOPRUNE": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    (tmp_path / "home").mkdir()
    driver = ProcessDriver([real_ollama.binary, "serve"], children, tmp_path / "logs")
    handle = driver.start(InstancePlan("real", port, (), tuple(sorted(env.items()))))
    async with Ollama(f"http://127.0.0.1:{port}") as server:
        await wait_ready(server)
    profile = cpu_profile()
    named = profile.models[0].model_copy(update={"name": real_ollama.model})
    there = profile.model_copy(update={"models": (named, *profile.models[1:])})
    async with instance(tmp_path / "played", there, CUDA_VISIBLE_DEVICES="-1") as played:
        for name in DAY:
            request = renamed(recorded_request(CPU_VERSION, name), real_ollama.model)
            assert_alike(name, await send(played, request), await send(port, request))
    await driver.stop(handle)


def renamed(request: bytes, model: str) -> bytes:
    """The recorded request for another model, its length put right."""
    head, _, body = request.partition(b"\r\n\r\n")
    body = body.replace(b'"model": "tiny"', f'"model": "{model}"'.encode())
    fields = [field for field in head.split(b"\r\n") if not field.lower().startswith(b"content-length")]
    length = [b"Content-Length: %d" % len(body)] if body else []
    return b"\r\n".join([*fields, *length]) + b"\r\n\r\n" + body
