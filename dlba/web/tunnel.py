"""Moves bytes both ways once a client and a backend have switched protocols.

Nothing is read of what passes. Whoever doesn't take what it was given pauses the other side, and is
given the time that it has elsewhere: `timeouts.write` the client, `timeouts.response` the backend.
Else `timeouts.tunnel` holds, which any byte in either direction begins anew. The client's end is
passed on, so that the backend may finish; the backend's end is the connection's.

Source: web.md rule 8; RFC 9110 7.8; RFC 6455 1.4 and 7.1.1 (the server closes first).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dlba.web.backendside import UPLOAD_LIMIT

if TYPE_CHECKING:
    from dlba.web.clientsocket import ClientSocket
    from dlba.web.front import BackendBytes
    from dlba.web.proxy import Proxy
    from dlba.web.requestlog import RequestLog

__all__ = ["Tunnel"]


class Tunnel:
    """What stands between the two. For the client's socket it is a `ClientFront`."""

    __slots__ = ("_log", "_proxy", "_side", "_socket", "_told")

    def __init__(
        self,
        proxy: Proxy,
        socket: ClientSocket,
        side: BackendBytes,
        log: RequestLog,
        told: Callable[[str], None],
    ) -> None:
        """`log` counts what goes to the client; `told` gets the termination, once."""
        self._proxy = proxy
        self._socket = socket
        self._side = side
        self._log = log
        self._told: Callable[[str], None] | None = told

    def begin(self, ahead: bytes, eof: bool) -> None:
        """Pass bytes from now on.

        `ahead`: what the client sent already; `eof`: it sends no more.
        """
        self._side.attach(_FromBackend(self))
        self._socket.hand_over(self)
        if ahead:
            self._side.write(ahead)
        if eof:
            self._side.end()
        self.resume()
        self._touch()

    def resume(self) -> None:
        """Read on where the other side has taken what it was given."""
        if self._side.backlog < UPLOAD_LIMIT:
            self._socket.resume()
        if not self._socket.backlog:
            self._side.resume()

    # From the client's socket

    def opened(self) -> None:
        """See `ClientFront`."""

    def in_plain(self) -> bytes:
        """See `ClientFront`; that time is over."""
        return b""

    def received(self, data: bytes) -> None:
        """See `ClientFront`."""
        self._side.write(data)
        if self._side.backlog >= UPLOAD_LIMIT:
            self._socket.pause()
        self._touch()

    def advance(self) -> None:
        """See `ClientFront`; nothing is buffered here."""

    def squeeze(self) -> None:
        """See `ClientFront`; nothing is buffered here."""

    def drained(self) -> None:
        """See `ClientFront`."""
        self._side.resume()
        self._touch()

    def progress(self) -> None:
        """See `ClientFront`."""
        self._touch()

    def eof(self) -> None:
        """See `ClientFront`."""
        self._side.end()
        self._touch()

    def lost(self) -> None:
        """See `ClientFront`."""
        self._end("CD")

    def expire(self, now: float) -> None:
        """See `ClientFront`: nothing moved for too long."""
        self._proxy.counters.tunnels_timed_out += 1
        self._socket.reset()
        self._end("cD")

    def stop(self) -> None:
        """See `ClientFront`: the tunnel lives until it ends, or the node's time to stop is over."""

    # From the backend

    def from_backend(self, data: bytes) -> None:
        """Bytes for the client."""
        self._log.body_bytes += len(data)
        self._socket.write(data)
        if self._socket.backlog:
            self._side.pause()
        self._touch()

    def backend_gone(self, clean: bool) -> None:
        """The backend has ended: by an end (`clean`) or a break."""
        if clean:
            # What the client still sends would make a plain close destroy what it was sent.
            self._socket.linger()
        else:
            self._socket.reset()
        self._end("--" if clean else "SD")

    def _end(self, termination: str) -> None:
        self._side.reset()
        told, self._told = self._told, None
        if told is not None:
            told(termination)

    def _touch(self) -> None:
        timeouts = self._proxy.timeouts
        # What is kept for a peer costs memory, so it must take it as anywhere else.
        if self._socket.backlog:
            seconds = timeouts.write
        elif self._side.backlog:
            seconds = timeouts.response
        else:
            seconds = timeouts.tunnel
        self._socket.limit(min(seconds, timeouts.tunnel))


class _FromBackend:
    """The backend's side of a tunnel: see `dlba.web.front.BackendEvents`."""

    __slots__ = ("_tunnel",)

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel

    def connected(self) -> None:
        """It is."""

    def upload_drained(self) -> None:
        """The backend takes more."""
        self._tunnel.resume()

    def received(self, data: bytes) -> None:
        """Bytes for the client."""
        self._tunnel.from_backend(data)

    def backend_eof(self) -> None:
        """The backend has said its last byte."""
        self._tunnel.backend_gone(True)

    def backend_failed(self, error: OSError | None) -> None:
        """The connection broke."""
        self._tunnel.backend_gone(False)
