"""Asks the VIP every few milliseconds, each time by a new connection, until told of a fault.

    failoverprobe.py VIP PORT

A program of its own; it runs in the client's namespace. Line by line on its standard input: `go`
begins, `fault MOMENT` (monotonic) says that the fault has happened; then it ends by itself as soon
as tries succeed again for a while, and prints all tries as one line of JSON, a list of
[began, took], took null where a try failed. Then the next `go` may come; the end of the input ends
it.

A try is connect, one request, the first bytes of a response with status 200. It has TIMEOUT; tries
overlap, so that one that hangs delays no other. In the end it is aborted, so that nothing of it is
left in either kernel.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import socket
import struct
import sys
import time
from collections import deque
from typing import Final

__all__ = ["Probe"]

EVERY: Final = 0.005
"""Seconds between two tries."""

TIMEOUT: Final = 0.3
"""Seconds for a try. Under the second after which a kernel sends its first packet once more."""

LEAST: Final = 2.5
"""Seconds from the fault on that are always looked at."""

CALM: Final = 200
"""Tries in a row that must have succeeded before it ends by itself."""

MOST: Final = 12.0
"""Seconds from the fault on after which it ends, whatever happens."""

_ABORT: Final = struct.pack("ii", 1, 0)


class Probe:
    """All tries of one run."""

    def __init__(self, vip: str, port: int) -> None:
        self._target = (vip, port)
        self._request = f"GET / HTTP/1.1\r\nHost: {vip}\r\nConnection: close\r\n\r\n".encode()
        self._poll = select.epoll()
        self._open: dict[int, tuple[int, socket.socket]] = {}
        self._order: deque[tuple[float, int, socket.socket]] = deque()
        self.tries: list[list[float | None]] = []
        self._calm = 0

    def run(self, fault: FaultLine) -> None:
        """Try until it is over."""
        due = time.monotonic()
        while True:
            now = time.monotonic()
            moment = fault.moment
            if moment is not None:
                calm = self._calm >= CALM and now > moment + LEAST
                if calm or now > moment + MOST:
                    break
            if now >= due:
                self._begin(now)
                # Who comes late doesn't make up for it: tries would come in bursts.
                due = max(due + EVERY, now)
            self._expire(now)
            wait = max(due - time.monotonic(), 0.0)
            for descriptor, _ in self._poll.poll(wait):
                if descriptor == fault.descriptor:
                    fault.read()
                else:
                    self._go_on(descriptor)
        while self._order:
            self._expire(self._order[0][0])

    def watch(self, descriptor: int) -> None:
        """Wake up when there is something to read there."""
        self._poll.register(descriptor, select.EPOLLIN)

    def close(self) -> None:
        """Let go of what is left."""
        self._poll.close()

    def _begin(self, now: float) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        number = len(self.tries)
        self.tries.append([now, None])
        try:
            sock.connect(self._target)
        except BlockingIOError:
            pass
        except OSError:
            self._failed(sock)
            return
        self._open[sock.fileno()] = (number, sock)
        self._order.append((now + TIMEOUT, sock.fileno(), sock))
        self._poll.register(sock, select.EPOLLOUT)

    def _go_on(self, descriptor: int) -> None:
        number, sock = self._open[descriptor]
        try:
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise ConnectionError
            try:
                data = sock.recv(4096)
            except BlockingIOError:  # it is connected, nothing has come
                sock.send(self._request)
                self._poll.modify(sock, select.EPOLLIN)
                return
            good = data.startswith((b"HTTP/1.1 200 ", b"HTTP/1.0 200 "))
        except OSError:
            good = False
        began = self.tries[number][0]
        assert began is not None
        if good:
            self.tries[number][1] = time.monotonic() - began
            self._calm += 1
            self._end(sock)
        else:
            self._failed(sock)

    def _expire(self, now: float) -> None:
        while self._order and self._order[0][0] <= now:
            _, descriptor, sock = self._order.popleft()
            if descriptor in self._open and self._open[descriptor][1] is sock:
                self._failed(sock)

    def _failed(self, sock: socket.socket) -> None:
        self._calm = 0
        self._end(sock)

    def _end(self, sock: socket.socket) -> None:
        self._open.pop(sock.fileno(), None)
        with contextlib.suppress(OSError):
            sock.close()


class FaultLine:
    """The standard input: when the fault was, None until that is said."""

    def __init__(self) -> None:
        self.descriptor = sys.stdin.fileno()
        self.moment: float | None = None
        self._rest = b""

    def line(self) -> str:
        """The next line; empty at the end."""
        while b"\n" not in self._rest:
            data = os.read(self.descriptor, 4096)
            if not data:
                return ""
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def read(self) -> None:
        """Read a line that has come."""
        word, _, moment = self.line().partition(" ")
        if word != "fault":
            sys.exit(1)
        self.moment = float(moment)


def main() -> None:
    """Read the command line and run."""
    vip, port = sys.argv[1:]
    gc.disable()
    lines = FaultLine()
    while lines.line() == "go":
        lines.moment = None
        probe = Probe(vip, int(port))
        probe.watch(lines.descriptor)
        probe.run(lines)
        probe.close()
        print(json.dumps(probe.tries), flush=True)


if __name__ == "__main__":
    main()
