"""A load over TLS: by the certificates that it is given, and by no others."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from autotune.benchmark.carrier import Target, carrier
from autotune.benchmark.client import HttpClient
from autotune.benchmark.crew import Crew
from autotune.benchmark.dialect import Ask
from autotune.benchmark.flight import Flight
from autotune.benchmark.workload import Prompt
from autotune.records import Outcome
from tests.benchmark.server import DONE, END, HEAD, Server, line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Target]:
    """A server with a certificate of its own authority, and where that authority is written."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    server = Server([HEAD + b"\r\n", line(response="Hello", done=False), DONE + END])
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    yield Target(f"https://127.0.0.1:{port}", Ask("generate", "tiny"), str(tmp_path / "ca.pem"))
    listener.close()


def flight() -> Flight:
    return Flight(Prompt(0, "why", 2), asyncio.get_running_loop().time())


async def test_by_its_own_authority(served: Target) -> None:
    client = carrier(served)
    assert isinstance(client, HttpClient)
    async with client as asking, Crew(served, 1) as crew:
        for one in (asking, crew):
            assert await one.open(1) >= 1
            record = await one.send(flight())
            assert (record.outcome, record.connected, record.error) == (Outcome.OK, False, "")


async def test_not_by_the_systems(served: Target) -> None:
    async with carrier(Target(served.url, served.ask)) as asking:
        record = await asking.send(flight())
    assert record.outcome is Outcome.FAILED
    assert "certificate" in record.error.lower()
