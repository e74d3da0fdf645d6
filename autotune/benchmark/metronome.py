"""A server of known times, for the self-test: `python -m autotune.benchmark.metronome` prints its port and serves.

Each answer of `/api/generate` has its first token after `TTFT_S`, then one each `GAP_S`, in a packet of its own. What
counts is not that it is in time but that it knows when it was: it notes when the kernel got a request, and when its
first token was sent, on the clock that all processes of a host share. `GET /log` gives these by the request's mark.
It ends when its standard input does.
"""

from __future__ import annotations

import heapq
import json
import os
import re
import selectors
import socket
import sys
from typing import NamedTuple

from autotune.benchmark.exchange import now
from autotune.benchmark.wire import ANCILLARY, SO_TIMESTAMPNS, age_s

TTFT_S, GAP_S = 0.1, 0.02

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
ASKED = re.compile(rb'"num_predict":\s*(\d+)')
LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
MARK = re.compile(rb'"prompt":\s*"([0-9a-f]{16})')


class Row(NamedTuple):
    """What is known of one answer, s."""

    received_at: float
    sent_at: float


def chunk(**entry: object) -> bytes:
    """One line of NDJSON in its own chunk."""
    line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
    return f"{len(line):x}\r\n".encode() + line + b"\r\n"


TOKEN = chunk(model="metronome", response=" tick", done=False)


class _Peer:
    """One connection of a client, and the answer under way on it."""

    __slots__ = ("due", "left", "mark", "rest", "said", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.rest = b""
        self.mark = ""
        self.left = self.said = 0
        self.due = 0.0


class Metronome:
    """All connections, and who is to speak when. One thread, without end."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)  # noqa: FBT003
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._turns: list[tuple[float, int, _Peer]] = []
        self._rows: dict[str, list[float]] = {}

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def serve(self, until: int) -> None:
        """Serve until the file `until` is at its end."""
        self._selector.register(until, selectors.EVENT_READ)
        while True:
            wait_s = max(0.0, self._turns[0][0] - now()) if self._turns else None
            for key, _ in self._selector.select(wait_s):
                if key.fileobj == until:
                    return
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._hear(key.data)
            while self._turns and self._turns[0][0] <= now():
                self._speak(heapq.heappop(self._turns)[2])

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._selector.register(sock, selectors.EVENT_READ, _Peer(sock))

    def _hear(self, peer: _Peer) -> None:
        try:
            data, ancillary, _, _ = peer.sock.recvmsg(1 << 16, ANCILLARY)
        except ConnectionError:
            data, ancillary = b"", []
        if not data:
            self._selector.unregister(peer.sock)
            peer.sock.close()
            peer.left = 0
            return
        received_at = now() - age_s(ancillary)
        peer.rest += data
        head, end, body = peer.rest.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not end or (length and len(body) < int(length[1])):
            return
        peer.rest = b""
        if head.startswith(b"GET"):
            self._tell(peer, head)
        else:
            self._begin(peer, body, received_at)

    def _tell(self, peer: _Peer, head: bytes) -> None:
        said: object = {"version": "metronome"}
        if head.startswith(b"GET /log"):
            said, self._rows = self._rows, {}
        body = json.dumps(said).encode()
        peer.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def _begin(self, peer: _Peer, body: bytes, received_at: float) -> None:
        asked, marked = ASKED.search(body), MARK.search(body)
        peer.mark = marked[1].decode() if marked else ""
        peer.left, peer.said = int(asked[1]) if asked else 1, 0
        peer.due = received_at + TTFT_S
        self._rows[peer.mark] = [received_at]
        peer.sock.send(HEAD)
        self._wait(peer)

    def _wait(self, peer: _Peer) -> None:
        heapq.heappush(self._turns, (peer.due, id(peer), peer))

    def _speak(self, peer: _Peer) -> None:
        if not peer.left:
            return
        if not peer.said:
            self._rows[peer.mark].append(now())
        peer.left, peer.said, peer.due = peer.left - 1, peer.said + 1, peer.due + GAP_S
        data = TOKEN
        if not peer.left:
            done = chunk(model="metronome", response="", done=True, done_reason="length", eval_count=peer.said)
            data += done + b"0\r\n\r\n"
        try:
            peer.sock.send(data)
        except OSError:
            peer.left = 0
        if peer.left:
            self._wait(peer)


if __name__ == "__main__":
    server = Metronome()
    print(server.port, flush=True)  # noqa: T201 - the one word that this process says
    server.serve(sys.stdin.fileno())
    os._exit(0)
