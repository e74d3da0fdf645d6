"""Raw HTTP on a socket, and recordings of it: what is compared is the shape, never a time or a word."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.simulator import environment
from autotune.simulator.server import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from autotune.simulator.profiles import Profile

RECORDINGS = Path(__file__).parents[1] / "recordings"


@dataclass(frozen=True)
class Response:
    """One parsed response."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool = True

    @property
    def chunked(self) -> bool:
        return self.headers.get("transfer-encoding") == "chunked"

    @property
    def lines(self) -> list[Any]:
        """JSON values of an NDJSON, SSE or plain body, in order; [DONE] as it is."""
        texts = [line.removeprefix("data: ") for line in self.body.decode().splitlines() if line]
        return [text if text == "[DONE]" else json.loads(text) for text in texts]

    @property
    def error(self) -> str:
        value = self.lines[0]["error"]
        return value if isinstance(value, str) else value["message"]


def parse(raw: bytes) -> Response:
    head, _, rest = raw.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    if headers.get("transfer-encoding") != "chunked":
        return Response(int(first.split()[1]), headers, rest)
    body, complete = _unchunked(rest)
    return Response(int(first.split()[1]), headers, body, complete)


def _unchunked(rest: bytes) -> tuple[bytes, bool]:
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            return body, True
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return body, False


def recorded(version: str, name: str) -> Response:
    return parse((RECORDINGS / version / f"{name}.response").read_bytes())


def recorded_request(version: str, name: str) -> bytes:
    return (RECORDINGS / version / f"{name}.request").read_bytes()


def shape(value: Any) -> Any:
    """Keys in their order, and types."""
    if isinstance(value, dict):
        return [(key, shape(part)) for key, part in value.items()]
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def shapes(response: Response) -> list[Any]:
    """The shapes of the lines, repeated ones once."""
    found: list[Any] = []
    for line in response.lines:
        if shape(line) not in found[-1:]:
            found.append(shape(line))
    return found


def request(method: str, path: str, body: dict[str, Any] | None = None, host: str = "127.0.0.1") -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def generate(model: str = "tiny", prompt: str = "kalo", **fields: Any) -> bytes:
    options = {"num_predict": 4} | fields.pop("options", {})
    return request("POST", "/api/generate", {"model": model, "prompt": prompt, "options": options} | fields)


async def send(port: int, raw: bytes) -> Response:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        return parse(await reader.read())
    finally:
        writer.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environ(tmp_path: Path, port: int, **variables: str) -> dict[str, str]:
    return {"HOME": str(tmp_path), "OLLAMA_HOST": f"127.0.0.1:{port}"} | variables


@asynccontextmanager
async def instance(tmp_path: Path, profile: Profile, **variables: str) -> AsyncIterator[int]:
    """A stand-in inside this process; its port."""
    port = free_port()
    async with serving(environment.read(environ(tmp_path, port, **variables)), profile):
        yield port
