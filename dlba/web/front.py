"""Names what a front is: what speaks HTTP on a client's socket.

`dlba.web.clientsocket` moves the bytes and calls these; `dlba.web.http1` is the front for HTTP/1.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["ClientFront"]


class ClientFront(Protocol):
    """What speaks HTTP on a client's socket."""

    def opened(self) -> None:
        """The connection is ready for requests: accepted, and its handshake done."""

    def in_plain(self) -> bytes:
        """The answer for a client that speaks HTTP without TLS where TLS is spoken."""

    def received(self, data: bytes) -> None:
        """Bytes came; never empty."""

    def advance(self) -> None:
        """Go on with what is buffered, as asked for by `ClientSocket.call_again`."""

    def drained(self) -> None:
        """The client has taken everything that was written."""

    def progress(self) -> None:
        """The client has taken a part of what was written."""

    def eof(self) -> None:
        """The client has sent its last byte; it may still read."""

    def lost(self) -> None:
        """The connection is gone; the socket is closed already."""

    def expire(self, now: float) -> None:
        """The deadline of the socket has passed."""

    def stop(self) -> None:
        """The node stops."""
