"""Recorded exchanges as a client sees them: reads of the body, with their times."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

RECORDINGS = Path(__file__).parent.parent / "recordings"
VERSIONS = ("v0.24.0", "v0.32.15")

Reads = list[tuple[float, bytes]]


@cache
def _timings(version: str) -> dict[str, list[tuple[float, int]]]:
    found: dict[str, list[tuple[float, int]]] = json.loads((RECORDINGS / version / "timings.json").read_text())
    return found


def body(version: str, name: str) -> bytes:
    """The whole body, without head and chunked framing."""
    return b"".join(data for _, data in reads(version, name))


def reads(version: str, name: str) -> Reads:
    """The body as it came: each network read, with its time."""
    raw = (RECORDINGS / version / f"{name}.response").read_bytes()
    head, _, framed = raw.partition(b"\r\n\r\n")
    cuts = _cuts(version, name)
    chunked = b"transfer-encoding: chunked" in head.lower()
    spans = _spans(framed, len(head) + 4) if chunked else [(len(head) + 4, framed)]
    found: Reads = []
    for start, data in spans:
        begin = start
        for end, at in cuts:
            if begin < end and begin < start + len(data):
                found.append((at, data[begin - start : end - start]))
                begin = end
    return found


def _cuts(version: str, name: str) -> list[tuple[int, float]]:
    """Where each read ended in the raw bytes, and when it came."""
    cuts: list[tuple[int, float]] = []
    for at, size in _timings(version)[name]:
        if size > 0:
            cuts.append(((cuts[-1][0] if cuts else 0) + size, at))
    return cuts


def _spans(framed: bytes, offset: int) -> list[tuple[int, bytes]]:
    """Chunks of a chunked body with where each begins; one that was cut off is as long as it came."""
    spans, at = [], 0
    while (line := framed.find(b"\r\n", at)) >= 0 and (size := int(framed[at:line], 16)):
        spans.append((offset + line + 2, framed[line + 2 : line + 2 + size]))
        at = line + 2 + size + 2
    return spans
