"""A server of a few lines that answers as it is told, byte by byte if need be."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n"
END = b"0\r\n\r\n"
VERSION = b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"version":"0.32.15"}'[:-1]

Say = bytes | float | None
"""Bytes go out as they are, a number is a pause in seconds, None ends the connection."""


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def line(**entry: Any) -> bytes:
    """One line of NDJSON, in its own chunk."""
    return chunk(json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


def event(text: str) -> bytes:
    """One server-sent event, in its own chunk."""
    return chunk(f"data: {text}\n\n".encode())


def status(code: int, body: bytes = b"") -> bytes:
    """A whole answer that is not a stream."""
    return f"HTTP/1.1 {code} Something\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


DONE = line(response="", done=True, done_reason="length", eval_count=2, total_duration=3_000_000, prompt_eval_count=9)


@dataclass
class Server:
    """What it answers to the next request, and what it has seen."""

    script: list[Say] = field(default_factory=list)
    url: str = ""
    connections: int = 0
    paths: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the POST requests."""
    closed_by_client: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept alive."""
        self.connections += 1
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed_by_client += 1
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        self.paths.append(head.split()[1])
        if head.startswith("GET"):
            writer.write(VERSION)
            return True
        size = next(int(row.split(":")[1]) for row in head.splitlines() if row.lower().startswith("content-length"))
        self.bodies.append(json.loads(await reader.readexactly(size)))
        for said in self.script:
            if said is None:
                return False
            if isinstance(said, bytes):
                writer.write(said)
                await writer.drain()
            else:
                await asyncio.sleep(said)
        return True


@asynccontextmanager
async def serving(*script: Say) -> AsyncIterator[Server]:
    """A server on a free port of loopback that answers every POST with `script`."""
    server = Server(list(script))
    async with listening(server.serve) as port:
        server.url = f"http://127.0.0.1:{port}"
        yield server


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A free port of loopback behind which `serve` listens."""
    tasks: set[asyncio.Task[None]] = set()
    ways: list[asyncio.WriteTransport] = []

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        ways.append(writer.transport)
        try:
            await serve(reader, writer)
        except asyncio.CancelledError:
            writer.close()
        finally:
            tasks.discard(task)

    listener = await asyncio.start_server(tracked, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await asyncio.sleep(0)  # who was let in has a task by then
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for way in ways:
            way.abort()  # what a client never read would keep it open, and the loop ends here
        await asyncio.sleep(0)
