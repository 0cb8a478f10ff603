"""Asks as ordinary clients do, at a fixed moderate rate, and says how long answers took.

    abuseclients.py

A program of its own. Line by line on its standard input:

    {"plain": 8080, "tls": 8443, "rate": 150, "length": 1024}

begins with requests to these ports of loopback: of ten, four on a kept plain connection, four on
a kept TLS connection, one on a new plain connection, one on a new TLS one. The loop is open: a
request is due when it is due, and its time counts from then until its answer has come whole.

`mark` prints what happened since the beginning or the last mark: `times` (kind → seconds,
ascending), `failed` (how many got no right answer within 5 s) and `errors` (some of the reasons).
`stop` ends all.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import select
import socket
import ssl
import struct
import sys
import time
from pathlib import Path
from typing import Any, Final

# As a script, only this folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.abuseload import read_line

__all__ = ["KINDS", "Clients", "main"]

KINDS: Final = ("kept plain", "kept TLS", "new plain", "new TLS")

#: The order of ten requests, by index of KINDS.
ROUND: Final = (0, 1, 0, 1, 2, 0, 1, 0, 1, 3)

LONGEST: Final = 5.0
"""Seconds after which a request has failed."""

KEPT: Final = 8
"""Kept connections of each kind; while all are busy more are made, for one answer each."""

REQUEST: Final = b"GET / HTTP/1.1\r\nHost: ordinary\r\nCookie: a=1\r\nAccept: */*\r\n\r\n"
LAST_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: ordinary\r\nConnection: close\r\n\r\n"

_ABORT: Final = struct.pack("ii", 1, 0)


class Connection:
    """One, with at most one request at a time."""

    def __init__(self, clients: Clients, kind: int) -> None:
        self._clients = clients
        self.kind = kind
        self.due = 0.0
        """When its request was due; 0: none."""
        self._sock: Any = socket.socket()
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self.fd: int = self._sock.fileno()
        self._state = "connecting"
        self._got = b""
        code = self._sock.connect_ex(("127.0.0.1", clients.tls if kind % 2 else clients.plain))
        if code not in (0, errno.EINPROGRESS):
            self._sock.close()
            raise OSError(code, os.strerror(code))
        self._mask = select.EPOLLOUT
        clients.epoll.register(self.fd, self._mask)

    def ask(self, due: float) -> None:
        """Send a request, now or as soon as it is connected."""
        self.due = due
        self._got = b""
        if self._state == "open":
            self._sock.send(REQUEST if self.kind < 2 else LAST_REQUEST)

    def on_event(self, mask: int) -> None:
        """Go on."""
        try:
            if self._state == "connecting":
                self._connect()
            elif self._state == "shaking":
                self._shake_hands()
            else:
                self._read()
        except ssl.SSLWantReadError:
            self._want(select.EPOLLIN)
        except ssl.SSLWantWriteError:
            self._want(select.EPOLLOUT)
        except BlockingIOError:
            pass
        except OSError as error:
            self._clients.lost(self, f"{self._state}: {error.strerror or error}")

    def _connect(self) -> None:
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        if self.kind % 2:
            self._sock = self._clients.context.wrap_socket(
                self._sock, do_handshake_on_connect=False
            )
            self._state = "shaking"
            self._shake_hands()
        else:
            self._opened()

    def _shake_hands(self) -> None:
        self._sock.do_handshake()
        self._opened()

    def _opened(self) -> None:
        self._state = "open"
        self._want(select.EPOLLIN)
        if self.due:
            self.ask(self.due)
        else:
            self._clients.free[self.kind].append(self)

    def _read(self) -> None:
        data = self._sock.recv(65536)
        if not self.due:
            # Ended while idle, maybe with a word of farewell (408): nobody asked.
            self._clients.lost(self, "")
            return
        if not data:
            raise ConnectionResetError(0, "expected an answer, got the end")
        self._got += data
        head, ended, body = self._got.partition(b"\r\n\r\n")
        if ended and len(body) >= self._clients.length:
            right = head.startswith(b"HTTP/1.1 200 ") and len(body) == self._clients.length
            self._clients.answered(self, "" if right else f"got {head[:40]!r}")
        elif ended and not head.startswith(b"HTTP/1.1 200 "):
            self._clients.answered(self, f"got {head[:40]!r}")

    def _want(self, mask: int) -> None:
        if mask != self._mask:
            self._mask = mask
            self._clients.epoll.modify(self.fd, mask)

    def close(self) -> None:
        """Forget it."""
        if self.fd >= 0:
            self.fd = -1
            with contextlib.suppress(OSError):
                self._sock.close()


class Clients:
    """All of them."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.plain: int = order["plain"]
        self.tls: int = order["tls"]
        self.length: int = order["length"]
        self._every = 1.0 / order["rate"]
        self.epoll = select.epoll()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The certificate was made a moment ago for this run.
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        self.free: dict[int, list[Connection]] = {kind: [] for kind in range(len(KINDS))}
        self._live: dict[int, Connection] = {}
        self._times: dict[int, list[float]] = {kind: [] for kind in range(len(KINDS))}
        self._failed = 0
        self._errors: list[str] = []

    def run(self) -> None:
        """Until `stop`."""
        stdin = sys.stdin.fileno()
        self.epoll.register(stdin, select.EPOLLIN)
        for kind in (0, 1):
            for _ in range(KEPT):
                self._new(kind)
        due = time.monotonic() + 0.1
        number = 0
        while True:
            wait = max(due - time.monotonic(), 0.0)
            for fd, mask in self.epoll.poll(wait, 64):
                if fd == stdin:
                    if read_line() != "mark":
                        self.close()
                        return
                    self._mark()
                    continue
                connection = self._live.get(fd)
                if connection is not None:
                    connection.on_event(mask)
            now = time.monotonic()
            while due <= now:
                self._ask(ROUND[number % len(ROUND)], due)
                number += 1
                due += self._every
            if number % len(ROUND) == 0:
                self._expire(now)

    def _ask(self, kind: int, due: float) -> None:
        free = self.free[kind]
        while free:
            connection = free.pop()
            if connection.fd >= 0:
                break
        else:
            created = self._new(kind)
            if created is None:
                self._failed += 1
                return
            connection = created
        try:
            connection.ask(due)
        except OSError as error:
            # A kept connection that ended this moment: the next request makes a new one, as any
            # client does, and this one is asked again.
            self._forget(connection)
            again = self._new(kind)
            if again is not None:
                again.ask(due)
            else:
                self._fail(str(error))

    def _new(self, kind: int) -> Connection | None:
        try:
            connection = Connection(self, kind)
        except OSError as error:
            self._errors.append(f"connect: {error}")
            return None
        self._live[connection.fd] = connection
        return connection

    def answered(self, connection: Connection, wrong: str) -> None:
        """An answer came whole."""
        if wrong:
            self._fail(f"{KINDS[connection.kind]}: {wrong}")
        elif connection.due:
            self._times[connection.kind].append(time.monotonic() - connection.due)
        connection.due = 0.0
        if connection.kind < 2 and not wrong and len(self.free[connection.kind]) < KEPT:
            self.free[connection.kind].append(connection)
        else:
            self._forget(connection)

    def lost(self, connection: Connection, reason: str) -> None:
        """It ended."""
        if connection.due:
            self._fail(f"{KINDS[connection.kind]}: {reason}")
        self._forget(connection)

    def _fail(self, reason: str) -> None:
        self._failed += 1
        if len(self._errors) < 5:
            self._errors.append(reason)

    def _forget(self, connection: Connection) -> None:
        self._live.pop(connection.fd, None)
        connection.close()

    def _expire(self, now: float) -> None:
        for connection in [c for c in self._live.values() if c.due and now - c.due > LONGEST]:
            self.lost(connection, f"no answer in {LONGEST:.0f} s")

    def _mark(self) -> None:
        times = {KINDS[kind]: sorted(mine) for kind, mine in self._times.items()}
        # Who waits still has waited for so long.
        now = time.monotonic()
        for connection in self._live.values():
            if connection.due and now - connection.due > 0.1:
                times[KINDS[connection.kind]].append(now - connection.due)
        document = {"times": times, "failed": self._failed, "errors": self._errors}
        print(json.dumps(document), flush=True)
        self._times = {kind: [] for kind in range(len(KINDS))}
        self._failed = 0
        self._errors = []

    def close(self) -> None:
        """End everything."""
        for connection in self._live.values():
            connection.close()
        self.epoll.close()


def main() -> None:
    """Read orders and carry them out."""
    gc.disable()
    while line := read_line():
        Clients(json.loads(line)).run()
        gc.collect()


if __name__ == "__main__":
    main()
