"""Downloads many known bodies over TLS at once, each at a limited speed, and says what became.

    failoverload.py VIP AUTHORITY

A program of its own; it runs in the client's namespace. Line by line on its standard input:

    {"count": 100, "size": 1048576, "rate": 65536}

opens that many connections, one after the other, and asks each for `/bytes/SIZE`; when all have
begun to bring their body it prints their ports as a list. RATE is bytes a second of each. `finish`
lifts the limit; when each has ended, it prints a list of {"port": …, "wrong": …}, `wrong` empty
where all bytes came as they should. The end of the input ends it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import socket
import ssl
import struct
import sys
import time
from typing import Any, Final

__all__ = ["Download", "body"]

TICK: Final = 0.05
"""Seconds between two rounds of reading."""

OPEN: Final = 10.0
"""Seconds for a connection to bring the first byte of its body."""

STALL: Final = 4.0
"""Seconds without a byte, once the limit is lifted, after which a download counts as dead."""

RECEIVE_BUFFER: Final = 32 << 10
"""Bytes: what the client's kernel may take ahead of its reader."""

_ABORT: Final = struct.pack("ii", 1, 0)


def body(size: int) -> bytes:
    """What a demo backend sends for `/bytes/SIZE`: byte i is i modulo 251."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


class Download:
    """One of them. Raises OSError or ValueError from its constructor if it doesn't begin."""

    def __init__(self, vip: str, context: ssl.SSLContext, size: int, port: int = 443) -> None:
        sock = socket.socket()
        try:
            sock.settimeout(OPEN)
            # Before the connection is there: its window is agreed on then.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            sock.connect((vip, port))
            self.port = sock.getsockname()[1]
            self._sock = context.wrap_socket(sock, server_hostname=vip)
            request = f"GET /bytes/{size} HTTP/1.1\r\nHost: {vip}\r\nConnection: close\r\n\r\n"
            self._sock.sendall(request.encode())
            got = b""
            while b"\r\n\r\n" not in got:
                data = self._sock.recv(4096)
                if not data:
                    raise ValueError("expected a head, got the end")
                got += data
            head, _, start = got.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise ValueError(f"expected status 200, got {head[:40]!r}")
            self._sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        self._left = size - len(start)
        self._digest = hashlib.sha256(start)
        self._moved = time.monotonic()
        self.wrong: str | None = None

    def read(self, limit: int) -> None:
        """Take up to `limit` bytes of what is there."""
        try:
            while limit > 0:
                data = self._sock.recv(min(limit, 16384))
                if not data:
                    self.end(f"expected {self._left} more bytes, got the end")
                    return
                self._moved = time.monotonic()
                self._digest.update(data)
                self._left -= len(data)
                limit -= len(data)
                if self._left <= 0:
                    self.end("" if self._left == 0 else "expected its end, got more")
                    return
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        except OSError as error:
            self.end(f"expected {self._left} more bytes, got: {error.strerror or error}")

    def stalled(self, since: float) -> bool:
        """Whether nothing has come for STALL, counted from `since` at the earliest."""
        return time.monotonic() - max(self._moved, since) > STALL

    def end(self, wrong: str) -> None:
        """Close it; `wrong`: empty if it came whole."""
        self.wrong = wrong
        with contextlib.suppress(OSError):
            self._sock.close()

    def result(self, expected: str) -> dict[str, Any]:
        """What to print; `expected`: the digest of the body."""
        wrong = self.wrong
        if not wrong and self._digest.hexdigest() != expected:
            wrong = "expected the bytes that were sent, got others"
        return {"port": self.port, "wrong": wrong}


def run(vip: str, context: ssl.SSLContext, order: dict[str, Any]) -> None:
    """Carry out one order."""
    downloads = [Download(vip, context, order["size"]) for _ in range(order["count"])]
    print(json.dumps([download.port for download in downloads]), flush=True)
    limit = int(order["rate"] * TICK)
    lifted: float | None = None
    due = time.monotonic()
    while running := [download for download in downloads if download.wrong is None]:
        for download in running:
            download.read(limit)
            if lifted is not None and download.wrong is None and download.stalled(lifted):
                download.end(f"expected more bytes, got none for {STALL:.0f} s")
        due = max(due + TICK, time.monotonic())
        if lifted is not None:
            time.sleep(TICK / 5)
        elif select.select([sys.stdin], [], [], max(due - time.monotonic(), 0.0))[0]:
            lifted, limit = _finish(), 1 << 20
    if lifted is None:
        _finish()
    expected = hashlib.sha256(body(order["size"])).hexdigest()
    print(json.dumps([download.result(expected) for download in downloads]), flush=True)


def _finish() -> float:
    """Read the word; the moment."""
    if _line() != "finish":
        sys.exit(1)
    return time.monotonic()


def _line() -> str:
    """The next line without line feed, byte by byte so that none is taken too early."""
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(sys.stdin.fileno(), 1)
        if not data:
            return ""
        line += data
    return line[:-1].decode()


def main() -> None:
    """Read the command line and run."""
    vip, authority = sys.argv[1:]
    context = ssl.create_default_context(cafile=authority)
    while line := _line():
        run(vip, context, json.loads(line))


if __name__ == "__main__":
    main()
