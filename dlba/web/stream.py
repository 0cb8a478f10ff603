"""Moves bytes between a client's socket and whoever reads them: the interface, and plain TCP.

A stream never blocks and never decides. `read` gives bytes, b"" at the end, or None when there is
nothing now; `write` gives the number of bytes taken, 0 when there is no room now. Both raise
OSError when the connection is gone. `wants_write`: the last `read` or `handshake` needs the socket
to be writable before it can go on; `wants_read`: the last `write` needs it to be readable (both TLS
only). The TLS driver is in `dlba.web.tls`; another one (on
the platform's libssl, with shared ticket keys) can take its place.
"""

from __future__ import annotations

import _socket
import fcntl
import socket
import struct
import termios
from typing import Final, Protocol

__all__ = [
    "READ_SIZE",
    "SMALL_READ",
    "PlainHTTPError",
    "PlainStream",
    "Stream",
    "discard",
    "reset",
    "untaken",
]

#: Bytes of one read of plain TCP.
READ_SIZE: Final = 64 * 1024
#: The same where memory is short: an ordinary head fits.
SMALL_READ: Final = 4 * 1024
_LINGER_0: Final = struct.pack("ii", 1, 0)


class PlainHTTPError(ConnectionAbortedError):
    """The client speaks HTTP without TLS where TLS is spoken."""


class Stream(Protocol):
    """One client's connection, plain or TLS."""

    #: Bytes to ask of one `read`: a shorter answer means that the kernel has no more now.
    read_size: int
    #: The same, where memory is short.
    small_read: int
    wants_write: bool
    wants_read: bool
    #: Whether it is TLS.
    tls: bool
    #: It was closed for messages that never carry data.
    flooded: bool

    @property
    def resumed(self) -> bool:
        """Whether the handshake took up an earlier session."""

    def handshake(self) -> bool:
        """Go on with the handshake; True when it is done (at once for plain TCP)."""

    def read(self, size: int) -> bytes | None:
        """Up to `size` bytes; b"" at the end; None: nothing now."""

    def write(self, data: bytes | memoryview) -> int:
        """How many bytes of `data` (not empty) were taken. What was not taken must come again."""

    def end(self) -> None:
        """Tell the peer that nothing more comes: close_notify where there is one, then FIN."""

    def discard(self) -> int | None:
        """After `end`: read and drop; how many bytes, 0 at the end, None: nothing now."""

    def close(self) -> None:
        """Close cleanly, with close_notify where there is one."""

    def reset(self) -> None:
        """Close with a reset: the peer sees that the connection broke."""


def discard(sock: _socket.socket) -> int | None:
    """Read `sock` and drop it: how many bytes, 0 at the end, None: nothing now."""
    try:
        return len(sock.recv(READ_SIZE))
    except BlockingIOError:
        return None


def reset(sock: _socket.socket) -> None:
    """Close `sock` with a reset and without TIME_WAIT."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
    sock.close()


def untaken(descriptor: int) -> int:
    """Bytes that a connection's kernel still has for its peer."""
    return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))[0])


class PlainStream:
    """TCP as it is."""

    __slots__ = ("_recv", "_send", "_sock")

    read_size = READ_SIZE
    small_read = SMALL_READ
    wants_write = False
    wants_read = False
    tls = False
    resumed = False
    flooded = False

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock
        self._recv = sock.recv
        self._send = sock.send

    def handshake(self) -> bool:
        """There is none."""
        return True

    def read(self, size: int) -> bytes | None:
        """See `Stream.read`."""
        try:
            return self._recv(size)
        except BlockingIOError:
            return None

    def write(self, data: bytes | memoryview) -> int:
        """See `Stream.write`."""
        try:
            return self._send(data)
        except BlockingIOError:
            return 0

    def end(self) -> None:
        """See `Stream.end`."""
        self._sock.shutdown(socket.SHUT_WR)

    def discard(self) -> int | None:
        """See `Stream.discard`."""
        return discard(self._sock)

    def close(self) -> None:
        """See `Stream.close`."""
        self._sock.close()

    def reset(self) -> None:
        """See `Stream.reset`."""
        reset(self._sock)
