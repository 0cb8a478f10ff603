"""Serves as backends that don't do as they should: that storm, that never answer, that never read.

    abusebackend.py STORM MUTE STUCK

A program of its own; the arguments are ports of loopback. STORM answers every request with interim
responses without end, MUTE reads and says nothing, STUCK accepts and does nothing.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
from typing import Final

__all__ = ["main"]

INTERIM: Final = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n" * 100
RECEIVE_BUFFER: Final = 4096
"""Bytes that the kernel takes for STUCK."""


class Backend:
    """All three."""

    def __init__(self, ports: list[int]) -> None:
        self._epoll = select.epoll()
        self._listening: dict[int, tuple[socket.socket, int]] = {}
        self._open: dict[int, tuple[socket.socket, int]] = {}
        for which, port in enumerate(ports):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if which == 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            sock.bind(("127.0.0.1", port))
            sock.listen(1024)
            sock.setblocking(False)
            self._listening[sock.fileno()] = sock, which
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def run(self) -> None:
        while True:
            for fd, mask in self._epoll.poll():
                if fd in self._listening:
                    self._accept(*self._listening[fd])
                elif fd in self._open:
                    self._serve(fd, mask)

    def _accept(self, listening: socket.socket, which: int) -> None:
        with contextlib.suppress(OSError):
            sock, _ = listening.accept()
            sock.setblocking(False)
            self._open[sock.fileno()] = sock, which
            # STUCK learns only of resets.
            self._epoll.register(sock.fileno(), (select.EPOLLIN, select.EPOLLIN, 0)[which])

    def _serve(self, fd: int, mask: int) -> None:
        sock, which = self._open[fd]
        try:
            if mask & select.EPOLLIN and not sock.recv(65536):
                raise ConnectionResetError
            if mask & (select.EPOLLHUP | select.EPOLLERR):
                raise ConnectionResetError
            if which == 0:
                self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
                sock.send(INTERIM)
        except BlockingIOError:
            pass
        except OSError:
            del self._open[fd]
            sock.close()


def main() -> None:
    """Read the command line and serve."""
    Backend([int(word) for word in sys.argv[1:]]).run()


if __name__ == "__main__":
    main()
