"""Stands for the client of one request of a Twisted site: what it sent, and what it gets.

The head that Twisted has read is written out again, so that `dlba.web.head` decides. What goes to
the client goes through Twisted's request, with what others have put into it. Twisted says when the
client doesn't take its bytes, not how many there are. Source: web.md rules 3 and 7; RFC 9113 8.2.3.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from dlba.errors import HeadError
from dlba.web.forward import forwarded_fields, host_value
from dlba.web.stream import untaken

if TYPE_CHECKING:
    from dlba.web.proxy import Proxy
    from dlba.web.sitefront import SiteFront

__all__ = ["PIECE", "SiteClient", "head_bytes"]

#: Bytes of a request's body that are given on at once.
PIECE: Final = 64 * 1024
_HTTP1: Final = frozenset({b"HTTP/1.0", b"HTTP/1.1"})
#: What Twisted puts into a response by itself; a backend's response has its own.
_TWISTED: Final = ("server", "date", "content-type")


def head_bytes(request: Any, target: bytes, limit: int) -> bytes:
    """The head of `request` (an IRequest) as `parse_request` wants it, for `target`.

    Raises HeadError: 431 where it is longer than `limit`, 400 where a part of it isn't one line.
    """
    http1 = request.clientproto in _HTTP1
    version = request.clientproto if http1 else b"HTTP/1.1"
    lines = [b"%b %b %b" % (request.method, target, version)]
    for name, values in request.requestHeaders.getAllRawHeaders():
        if not http1 and name.lower() == b"cookie":
            # HTTP/2 lets a client send it in crumbs.
            values = [b"; ".join(values)]
        lines.extend(b"%b: %b" % (name, value) for value in values)
    head = b"\r\n".join(lines)
    if head.count(b"\r\n") != len(lines) - 1:
        raise HeadError(400, "a header field isn't one line")
    if len(head) > limit:
        raise HeadError(431, "the request's head is too long")
    return head


class SiteClient:
    """The client of one request. See `dlba.web.front.ClientSide`, and `dlba.web.deadlines`.

    `ended`: nothing is to be done any more. `port`, `local_port`: for the log; 0: there are none.
    """

    def __init__(self, proxy: Proxy, request: Any, front: SiteFront) -> None:
        """`request`: an IRequest of twisted.web.server. `front`: whom it asks."""
        self._proxy = proxy
        self._request = request
        self._front: Any = front
        peer, own = request.getClientAddress(), request.getHost()
        # A UNIX socket has neither address nor port.
        self.host: str = getattr(peer, "host", "unknown").removeprefix("::ffff:")
        self.port: int = getattr(peer, "port", 0)
        self.local_port: int = getattr(own, "port", 0)
        self._own: str = getattr(own, "host", "localhost")
        self.tls: bool = request.isSecure()
        self.trusted = proxy.forwarding.trusts(self.host)
        self.forwarded = forwarded_fields(self.host, self.tls)
        #: Not 0 while Twisted has more than it likes; how much, it doesn't say.
        self.backlog = 0
        self.read_size = PIECE
        self.ended = False
        self.deadline = 0.0
        self.slot = -1
        #: Bytes in the kernel when a deadline passed since the backlog last moved; -1: none did.
        self._in_kernel = -1

    def own_host(self) -> bytes:
        """See `ClientSide`."""
        return host_value(self._own, self.local_port)

    def limit(self, seconds: float) -> None:
        """See `ClientSide`."""
        self.deadline = time.monotonic() + seconds
        if not self.ended:
            self._proxy.deadlines.hasten(self)

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        if self.backlog and self._is_taking():
            self.limit(self._proxy.timeouts.write)
        else:
            self._front.expire(now)

    def abort(self) -> None:
        """An exception of ours was caught at the deadline."""
        self._front.abort()

    def _is_taking(self) -> bool:
        """As of `dlba.web.clientsocket`; False where Twisted has no socket for this request."""
        try:
            queued = untaken(self._request.transport.fileno())
        except (AttributeError, OSError, TypeError, ValueError):
            return False
        before, self._in_kernel = self._in_kernel, queued
        return before < 0 or queued < before

    # Reading

    def head(self, target: bytes) -> bytes:
        """See `head_bytes`."""
        return head_bytes(self._request, target, self._proxy.limits.head)

    def content(self) -> Any:
        """The file with the body."""
        return self._request.content

    def pause(self) -> None:
        """Read no more of the body until `resume()`."""
        self._request.transport.pauseProducing()

    def resume(self) -> None:
        """Read on."""
        self._request.transport.resumeProducing()

    # Writing

    def paused(self) -> None:
        """Twisted has more than it likes."""
        self.backlog = PIECE

    def resumed(self) -> None:
        """All of it was taken."""
        self.backlog = 0
        self._in_kernel = -1

    def write_head(self, status: int, reason: bytes, fields: bytes, body: bytes) -> None:
        """Send the head of a response and the beginning of its body.

        `fields`: lines, each with the CRLF before it.
        """
        request = self._request
        headers = request.responseHeaders
        request.setResponseCode(status, reason)
        request.defaultContentType = None
        for name in _TWISTED:
            headers.removeHeader(name)
        for line in fields.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            value = value.strip(b" \t")
            lower = key.lower()
            if lower == b"set-cookie":
                # Twisted's own would replace it in the headers.
                request.cookies.append(value)
            elif lower != b"connection":
                headers.addRawHeader(key, value)
            elif request.transport is not None:
                # HTTP/2 has no such field, and a request there no transport.
                headers.setRawHeaders(key, [value])
                request.channel.persistent = 0
        request.write(body)

    def write(self, body: bytes) -> None:
        """Send more of the body (not empty)."""
        # HTTP/2 may have told us in the midst of a write that the client is gone.
        if not self.ended:
            self._request.write(body)

    def want_no_continue(self) -> None:
        """The answer comes first: else Twisted would send a 100 behind it."""
        self._request.requestHeaders.removeHeader("expect")

    # Ending

    def finish(self) -> None:
        """The response is complete and taken."""
        request = self._request
        request.unregisterProducer()
        self.end()
        request.finish()

    def cut(self) -> None:
        """Show the response as broken: no last chunk, a reset."""
        request = self._request
        request.unregisterProducer()
        self.end()
        # A stream of HTTP/2 has no transport, and is one.
        (request.transport or request.channel).abortConnection()

    def end(self) -> None:
        """There is nobody to speak to any more."""
        self.ended = True
        self._proxy.deadlines.forget(self)
        # They know each other: without this all would live until a garbage collection.
        self._request = self._front = None
