"""Names what stands between a client and a backend, and what each asks of the next.

`dlba.web.clientsocket` moves the bytes of a client's connection and calls a `ClientFront`, what
speaks HTTP with it: `dlba.web.http1`, or `dlba.web.tunnel` behind it. `dlba.web.exchange` carries a
request to a backend for an `ExchangeFront`: `dlba.web.http1request`, or `dlba.web.sitefront` for a
Twisted site. `dlba.web.backendside` moves the bytes of a backend's connection and calls
`BackendEvents`: those of the exchange, or of `dlba.web.tunnel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from dlba.web.response import ResponseHead

__all__ = [
    "NOBODY",
    "BackendBytes",
    "BackendEvents",
    "ClientFront",
    "ClientSide",
    "ExchangeFront",
]


class ClientFront(Protocol):
    """What speaks HTTP, or the protocol switched to, on a client's socket."""

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

    def squeeze(self) -> None:
        """Memory is full: keep as little as possible. Called again while that lasts."""

    def stop(self) -> None:
        """The node stops."""


class _Nobody:
    """The front of a connection that has ended: whatever still comes is for nobody."""

    def opened(self) -> None: ...

    def in_plain(self) -> bytes:
        return b""

    def received(self, data: bytes) -> None: ...

    def advance(self) -> None: ...

    def drained(self) -> None: ...

    def progress(self) -> None: ...

    def eof(self) -> None: ...

    def lost(self) -> None: ...

    def expire(self, now: float) -> None: ...

    def squeeze(self) -> None: ...

    def stop(self) -> None: ...


NOBODY: Final[ClientFront] = _Nobody()


class ClientSide(Protocol):
    """What an exchange asks of a client's connection.

    `host`: the client's address; `tls`: it speaks TLS; `trusted`: it is a proxy whose forwarding
    fields count; `forwarded`: the fields X-Forwarded-For and -Proto for a client that isn't.
    `backlog`: bytes that the client hasn't taken yet; `deadline`: of whatever is waited for,
    seconds, monotonic; `read_size`: how many may come with one read.
    """

    host: str
    tls: bool
    trusted: bool
    forwarded: bytes
    backlog: int
    deadline: float

    @property
    def read_size(self) -> int: ...

    def own_host(self) -> bytes:
        """The address that the client connected to, as a Host value."""

    def limit(self, seconds: float) -> None:
        """Whatever is waited for now has `seconds` from now on; then `expire` comes."""


class ExchangeFront(Protocol):
    """Who asked for an exchange. `complete`: the request has been read to its end."""

    complete: bool

    @property
    def socket(self) -> ClientSide: ...

    def pause_body(self) -> None:
        """The backend takes no more of the request's body for now."""

    def resume_body(self) -> None:
        """The backend takes more of the request's body."""

    def interim(self, response: ResponseHead) -> None:
        """Pass a 1xx response on, never to HTTP/1.0."""

    def switch(
        self, response: ResponseHead, fields: bytes, side: BackendBytes, data: bytes
    ) -> None:
        """The backend has switched protocols; `side` is the front's now, `data` came with it.

        Called only where the request's head was given on with an `upgrade`.
        """

    def respond(self, response: ResponseHead, fields: bytes, body: bytes, end: bool) -> None:
        """Send the final response's head with the beginning of its body; `end`: all of it."""

    def respond_body(self, body: bytes, end: bool) -> None:
        """Send more of the response's body (maybe b"" at the end)."""

    def finished(self, termination: str) -> None:
        """The response is complete."""

    def failed(self, status: int, sentence: str, termination: str) -> None:
        """No response can be had: answer `status`."""

    def body_timed_out(self) -> None:
        """The client stopped sending the body of its request."""

    def broken(self, termination: str) -> None:
        """The response broke off in the middle: show it as broken."""

    def gone(self, termination: str) -> None:
        """The exchange has ended because the client went away."""


class BackendEvents(Protocol):
    """Whom a connection to a backend serves."""

    def connected(self) -> None:
        """The backend's kernel has taken a byte of the request."""

    def upload_drained(self) -> None:
        """The backend has taken all that was given to it."""

    def received(self, data: bytes) -> None:
        """Bytes came; never empty."""

    def backend_eof(self) -> None:
        """The backend has closed its direction."""

    def backend_failed(self, error: OSError | None) -> None:
        """The connection is gone; None: by an error of ours."""


class BackendBytes(Protocol):
    """A connection to a backend, as bytes. `backlog`: those that the backend hasn't taken yet."""

    backlog: int

    def attach(self, exchange: BackendEvents) -> None:
        """Serve `exchange` from now on."""

    def write(self, data: bytes) -> None:
        """Send `data` (not empty); what doesn't go now is the backlog."""

    def end(self) -> None:
        """Close our direction once everything is written; the backend may go on."""

    def pause(self) -> None:
        """Read nothing until `resume()`."""

    def resume(self) -> None:
        """Read on, at once."""

    def reset(self) -> None:
        """Close now, with a reset."""
