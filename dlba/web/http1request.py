"""Answers one request of an HTTP/1 client: its body, its exchange with a backend, its response.

Reads the body to its end, up to `request_buffer`, before a backend is connected (the seed's rule);
past that it streams. What no backend can answer is answered by ourselves. The connection, with what
comes before this request and behind it, is `dlba.web.http1`'s; an HTTP/2 front offers the exchange
the same methods, one object a stream.

Source: web.md rules 3, 4, 8, 10 and 11; RFC 9112 9.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from dlba.errors import HeadError
from dlba.web.answers import https_location, redirection
from dlba.web.body import chunk
from dlba.web.exchange import Exchange
from dlba.web.forward import CONTINUE, interim_head, response_head, switch_head
from dlba.web.memory import BLOCK
from dlba.web.requestbody import RequestBody
from dlba.web.requestlog import RequestLog
from dlba.web.tunnel import Tunnel

if TYPE_CHECKING:
    from dlba.web.choice import Site
    from dlba.web.front import BackendBytes
    from dlba.web.head import RequestHead
    from dlba.web.http1 import Http1
    from dlba.web.proxy import Proxy
    from dlba.web.response import ResponseHead

__all__ = ["Http1Request"]

#: Chunks of one read after which others have their turn: about a millisecond.
MANY_CHUNKS: Final = 1000


class Http1Request:
    """The present request of a connection. See `dlba.web.front.ExchangeFront`.

    `head_size`: bytes of its head, where they are many enough to be counted. `body`: what reads it;
    None: there is none, or the rest of it is dropped. `exchange`: None before a backend is chosen,
    and at the end. `keep`: the connection stays after it.
    """

    __slots__ = (
        "_chunked",
        "_connection",
        "_proxy",
        "_site",
        "body",
        "complete",
        "exchange",
        "head",
        "head_size",
        "keep",
        "log",
        "socket",
    )

    def __init__(
        self, proxy: Proxy, connection: Http1, head: RequestHead, began: float, now: float
    ) -> None:
        """`began`: when its first byte came; `now`: its head has been read."""
        self._proxy = proxy
        #: It knows us as long as we are its present request, no longer.
        self._connection = connection
        self.socket = connection.socket
        self.head = head
        size = len(head.fields)
        self.head_size = size if size > BLOCK else 0
        self._site: Site | None = None
        self.exchange: Exchange | None = None
        self.body: RequestBody | None = None
        self.complete = not head.length
        #: The response goes out chunked.
        self._chunked = False
        self.keep = head.keep_alive
        self.log = RequestLog(began, now)

    # From the connection

    def begin(self) -> None:
        """Find the site, and begin what is to be done."""
        head = self.head
        self._site = site = self._proxy.sites.site(head)
        if site is None:
            self._refuse(404, "no site is served under this name and path", "PR")
        elif self.socket.redirect_port and not self._came_by_https():
            self._redirect()
        elif head.length:
            self._begin_body(site, head.length)
        else:
            self.exchange = exchange = Exchange(self._proxy, self, head, site)
            exchange.begin(b"", True)

    def received(self, data: bytes) -> None:
        """Bytes of the body, and maybe of what follows it."""
        reader = self.body
        if reader is None:
            return
        try:
            part = reader.take(data)
        except HeadError as error:
            self._spoiled(error.status, error.reason, "PR")
            return
        if reader.pieces > MANY_CHUNKS:
            self.socket.give_way()
        held = reader.held
        if held or self.socket.held:
            self._hold(held if self.exchange is not None else held + reader.size)
        if reader.complete:
            self.complete = True
            self._connection.heads.buffer = reader.rest
        elif reader.too_slow(time.monotonic(), self._proxy.timeouts.body):
            self.body_timed_out()
            return
        if self.exchange is None:
            self._collect(reader, part)
            return
        self.exchange.body(part, self.complete)
        if reader.rest:
            # What was sent ahead is counted from here on.
            self._connection.advance()

    def squeeze(self) -> None:
        """Memory is full: keep as little as possible."""
        if self.exchange is not None:
            self.exchange.squeeze()
        elif self.body is not None and self.body.collected:
            self._send_collected(self.body)

    def drained(self) -> None:
        """The client has taken everything that was written."""
        if self.exchange is not None:
            self.exchange.client_drained()

    def touch(self) -> None:
        """The client has taken a part of what was written."""
        if self.exchange is not None:
            self.exchange.touch()

    def cut_short(self) -> None:
        """The client has sent its last byte, and the request isn't complete."""
        self._proxy.counters.requests_aborted += 1
        self._spoiled(400, "the request's body ended too soon", "CR")

    def lost(self) -> None:
        """The client is gone."""
        if self.exchange is not None:
            self.exchange.client_lost()
        else:
            self._proxy.counters.requests_aborted += 1
            self.gone("CR")

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        if self.exchange is not None:
            self.exchange.expire(now)
        else:
            self._proxy.counters.requests_timed_out += 1
            self._refuse(408, "the request took too long", "cR")

    # The body

    def _begin_body(self, site: Site, length: int) -> None:
        limits = self._proxy.limits
        now = time.monotonic()
        try:
            self.body = RequestBody(length, site.max_body, limits.head, limits.headers, now)
        except HeadError as error:
            self._refuse(error.status, error.reason, "PR")
            return
        self.socket.limit(self._proxy.timeouts.body)
        # Requests sent ahead may have paused it.
        self.socket.resume()
        heads = self._connection.heads
        data, heads.buffer = heads.buffer, b""
        if data:
            self.received(data)
        elif self.head.expects_continue:
            self.socket.write(CONTINUE)

    def _collect(self, reader: RequestBody, part: bytes) -> None:
        """Keep `part` until the request is complete, or too large to be kept."""
        reader.collect(part)
        site = self._site
        assert site is not None
        if self.complete or reader.size >= site.request_buffer or self._proxy.memory.tight:
            self._send_collected(reader)
        else:
            self._hold(reader.size + reader.held)
            self.socket.limit(self._proxy.timeouts.body)

    def _send_collected(self, reader: RequestBody) -> None:
        """Begin the exchange with what has come of the body."""
        connection, site = self._connection, self._site
        assert site is not None
        whole = reader.give()
        if self.socket.held:
            self._hold(len(connection.heads.buffer))
        self.exchange = exchange = Exchange(self._proxy, self, self.head, site)
        exchange.begin(whole, self.complete)
        if self.complete and connection.heads.buffer:
            connection.advance()

    def _hold(self, size: int) -> None:
        """`size` bytes are kept now, beside the head."""
        self.socket.hold(size + self.head_size)

    def _spoiled(self, status: int, sentence: str, termination: str) -> None:
        """The rest of the body is no good, or doesn't come."""
        if self.exchange is not None and self.exchange.responding:
            # The answer goes on; what is left of the request is read and dropped.
            self.body = None
        else:
            self._refuse(status, sentence, termination)

    # From the exchange

    def pause_body(self) -> None:
        """See `ExchangeFront`."""
        if not self.complete:
            self.socket.pause()

    def resume_body(self) -> None:
        """See `ExchangeFront`."""
        if self.body is not None:
            self.body.read_again(time.monotonic())
        if not self._connection.ended:
            self.socket.resume()

    def body_timed_out(self) -> None:
        """See `ExchangeFront`."""
        self._proxy.counters.requests_timed_out += 1
        if self.socket.starved:
            # It is we who don't read.
            self._spoiled(503, "the service is overloaded", "RR")
        else:
            self._spoiled(408, "the request took too long", "cR")

    def interim(self, response: ResponseHead) -> None:
        """See `ExchangeFront`."""
        if self.head.minor:
            self.socket.write(interim_head(response))

    def switch(
        self, response: ResponseHead, fields: bytes, side: BackendBytes, data: bytes
    ) -> None:
        """See `ExchangeFront`."""
        head = switch_head(response, fields)
        self.log.answered(response.status, len(head), len(data))
        self.socket.write(head + data)
        connection = self._connection
        ahead, connection.heads.buffer = connection.heads.buffer, b""
        tunnel = Tunnel(self._proxy, self.socket, side, self.log, self.gone)
        tunnel.begin(ahead, connection.ended)

    def respond(self, response: ResponseHead, fields: bytes, body: bytes, end: bool) -> None:
        """See `ExchangeFront`."""
        keep = self.keep and self.complete and not self._proxy.stopping
        connection = self._connection
        if connection.ended and not connection.heads.buffer:
            keep = False
        head, self._chunked, self.keep = response_head(
            response, fields, self._proxy.date_line(), self.head.minor, keep
        )
        self.log.answered(response.status, len(head), len(body))
        if body:
            head += chunk(body) if self._chunked else body
        if end and self._chunked:
            head += b"0\r\n\r\n"
        self.socket.write(head)

    def respond_body(self, body: bytes, end: bool) -> None:
        """See `ExchangeFront`."""
        self.log.body_bytes += len(body)
        if self._chunked:
            data = chunk(body) if body else b""
            if end:
                data += b"0\r\n\r\n"
            if data:
                self.socket.write(data)
        elif body:
            self.socket.write(body)

    def finished(self, termination: str) -> None:
        """See `ExchangeFront`."""
        self._record(termination)
        self.exchange = None
        self._connection.answered(self)

    def failed(self, status: int, sentence: str, termination: str) -> None:
        """See `ExchangeFront`."""
        self._refuse(status, sentence, termination)

    def broken(self, termination: str) -> None:
        """See `ExchangeFront`."""
        self.gone(termination)
        self.socket.reset()

    def gone(self, termination: str) -> None:
        """See `ExchangeFront`; or the tunnel has ended."""
        self._record(termination)
        self.exchange = None
        self._connection.present = None

    # Answers of our own, the log

    def _refuse(self, status: int, sentence: str, termination: str) -> None:
        """Answer `status` ourselves; the connection stays only if the request is complete."""
        proxy = self._proxy
        if termination == "PR":
            proxy.counters.requests_refused += 1
        exchange = self.exchange
        if exchange is not None:
            exchange.abandon()
            if exchange.responding:
                self.broken(termination)
                return
        keep = self._may_keep()
        with_body = self.head.method != b"HEAD"
        data = proxy.answers.answer(status, sentence, proxy.date_line(), keep, with_body)
        self._answer(status, data, keep, termination)

    def _came_by_https(self) -> bool:
        """Whether a proxy in front of us, whose word counts, says that its client spoke HTTPS."""
        return self.socket.trusted and self._proxy.forwarding.https(self.head.forwarding)

    def _redirect(self) -> None:
        """Send the client to the same host at HTTPS."""
        socket, head, proxy = self.socket, self.head, self._proxy
        proxy.counters.requests_redirected += 1
        host = head.host_field or socket.own_host()
        location = https_location(host, head.target, socket.redirect_port)
        keep = self._may_keep()
        data = redirection(location, proxy.date_line(), keep, head.method != b"HEAD")
        self._answer(308, data, keep, "PR")

    def _may_keep(self) -> bool:
        """Whether the connection may stay after an answer of our own."""
        connection = self._connection
        return (
            self.keep
            and self.complete
            and self.head.minor > 0
            and not (connection.ended and not connection.heads.buffer)
            and not self._proxy.stopping
        )

    def _answer(self, status: int, data: bytes, keep: bool, termination: str) -> None:
        """Send `data`, a whole answer of our own."""
        self.log.answered_whole(status, data)
        self.socket.write(data)
        self._record(termination)
        self.exchange = None
        self._connection.answered_by_us(keep)

    def _record(self, termination: str) -> None:
        self.log.write(self._proxy, self.socket, self.head, self._site, self.exchange, termination)
