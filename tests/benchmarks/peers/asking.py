"""A load generator of a few lines, as people write them with aiohttp, and the same with care: one stamp for each.

    python asking.py {usual,tuned} URL STREAMS REQUESTS FILE

`usual` stamps before the request is handed over, and reads JSON line by line while the others wait. `tuned` opens its
connections first, stamps when the request leaves, keeps the bytes with their times and reads them afterwards; with
uvloop where that is installed. What it found goes to FILE: the TTFT of each request, in seconds.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import SimpleNamespace

TOKENS = 32
BODY = {"model": "truth", "prompt": "word " * 64, "options": {"num_predict": TOKENS}}


async def usual(url: str, streams: int, requests: Iterator[int]) -> list[float]:
    """One session; the clock starts before `post`."""
    waits: list[float] = []

    async def ask(session: aiohttp.ClientSession) -> None:
        began, first = time.perf_counter(), True
        async with session.post(f"{url}/api/generate", json=BODY) as response:
            async for line in response.content:
                entry = json.loads(line)
                if first and entry["response"]:
                    waits.append(time.perf_counter() - began)
                    first = False

    async def use(session: aiohttp.ClientSession) -> None:
        for _ in requests:
            await ask(session)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(use(session) for _ in range(streams)))
    return waits


async def tuned(url: str, streams: int, requests: Iterator[int]) -> list[float]:
    """Warm connections, a stamp where the bytes leave, nothing read before the end."""
    heard: list[tuple[float, list[tuple[float, bytes]]]] = []

    async def sent(_: object, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx["sent_at"] = time.perf_counter()

    async def ask(session: aiohttp.ClientSession) -> None:
        stamps: dict[str, float] = {}
        data = json.dumps(BODY).encode()
        async with session.post(f"{url}/api/generate", data=data, trace_request_ctx=stamps) as response:
            reads = [(time.perf_counter(), piece) async for piece in response.content.iter_any()]
        heard.append((stamps["sent_at"], reads))

    async def open_one(session: aiohttp.ClientSession) -> None:
        async with session.get(f"{url}/api/version", trace_request_ctx={}) as response:
            await response.read()

    async def use(session: aiohttp.ClientSession) -> None:
        for _ in requests:
            await ask(session)

    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(sent)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, trace_configs=[trace], auto_decompress=False) as session:
        await asyncio.gather(*(open_one(session) for _ in range(streams)))
        gc.freeze()
        gc.disable()
        await asyncio.gather(*(use(session) for _ in range(streams)))
    return [_first_text_at(reads) - sent_at for sent_at, reads in heard]


def _first_text_at(reads: list[tuple[float, bytes]]) -> float:
    for at, data in reads:
        if any(json.loads(line)["response"] for line in data.splitlines() if line.endswith(b"}")):
            return at
    raise ValueError("an answer without text")


def _runner(style: str) -> asyncio.Runner:
    """uvloop is no dependency of ours, so it is asked for by name."""
    try:
        faster: Any = importlib.import_module("uvloop") if style == "tuned" else None
    except ImportError:
        faster = None
    return asyncio.Runner(loop_factory=faster.new_event_loop if faster else None)


def main(style: str, url: str, streams: str, requests: str, file: str) -> None:
    """Ask, and write what was found."""
    left = iter(range(int(requests)))
    with _runner(style) as runner:
        waits = runner.run((tuned if style == "tuned" else usual)(url, int(streams), left))
    Path(file).write_text(json.dumps({"ttft_s": waits}))


if __name__ == "__main__":
    main(*sys.argv[1:])
