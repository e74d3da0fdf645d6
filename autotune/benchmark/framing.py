"""HTTP/1.1 as it is read: the head of an answer, and its body out of the bytes. Pure."""

from __future__ import annotations

import re

MOST_LINE = 1 << 12

HEX = re.compile(rb"[0-9A-Fa-f]{1,15}").fullmatch


class BadAnswer(OSError):
    """What came is not HTTP."""


class Framing:
    """The body of an answer out of its bytes: by chunks, by length, or to the end of the connection (RFC 9112, 6)."""

    def __init__(self, headers: dict[str, str], status: int) -> None:
        bodiless = status in (204, 304)
        self.chunked = not bodiless and headers.get("transfer-encoding", "").lower().endswith("chunked")
        length = headers.get("content-length", "")
        if length and not (length.isascii() and length.isdecimal()):
            raise BadAnswer(f"a body of {length} bytes")
        self.left = 0 if bodiless else int(length) if length else None
        self.ended = not self.chunked and self.left == 0
        self.beyond = False
        """Whether bytes came that belong to no answer."""
        self._rest = b""
        self._size: int | None = None
        """Of the chunk under way what is still to come, with its line end; None before its size is known."""
        self._trailing = False

    def body(self, data: bytes) -> bytes:
        """What of the next bytes belongs to the body."""
        if self.chunked:
            return self._chunks(data)
        if self.left is not None:
            self.beyond = len(data) > self.left
            data = data[: self.left]
            self.left -= len(data)
            self.ended = not self.left
        return data

    def _chunks(self, data: bytes) -> bytes:
        if self._rest:
            data, self._rest = self._rest + data, b""
        found, at, end = [], 0, len(data)
        while at < end and not self.ended:
            if self._size is None:
                line = data.find(b"\r\n", at)
                if line < 0:
                    self._rest = data[at:]
                    if len(self._rest) > MOST_LINE:
                        raise BadAnswer(f"a chunk of {self._rest[:20]!r} bytes")
                    break
                self._begin(data[at:line])
                at = line + 2
                continue
            text = data[at : at + max(0, self._size - 2)]
            at, self._size = at + self._size, self._size - (end - at)
            found.append(text)
            if self._size <= 0:
                self._size = None
        self.beyond = self.ended and at < end
        return found[0] if len(found) == 1 else b"".join(found)

    def _begin(self, line: bytes) -> None:
        """A chunk's size; after the last chunk come lines up to an empty one."""
        if self._trailing:
            self.ended = not line
            return
        told = line.partition(b";")[0].strip()
        if not HEX(told):
            raise BadAnswer(f"a chunk of {line[:20]!r} bytes")
        size = int(told, 16)
        self._trailing = size == 0
        self._size = size + 2 if size else None


def read_head(head: bytes) -> tuple[int, dict[str, str], bool]:
    """Status, headers by their name in lower case, and whether the connection stays open."""
    first, *rows = head.decode("latin-1").split("\r\n")
    version, _, status = first.partition(" ")
    if not version.startswith("HTTP/1.") or not status[:3].isdecimal():
        raise BadAnswer(f"no HTTP: {first[:40]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (row.partition(":") for row in rows)}
    said = headers.get("connection", "").lower()
    return int(status[:3]), headers, "close" not in said and (version != "HTTP/1.0" or "keep-alive" in said)
