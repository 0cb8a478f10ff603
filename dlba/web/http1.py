"""Speaks HTTP/1 with one client: heads, bodies, pipelines, and when the connection ends.

Reads a request to its end, up to `request_buffer`, before a backend is connected (the seed's rule);
past that it streams. Where heads end is decided by `dlba.web.headreader`. One exchange at a time:
what a client sends ahead waits in the buffer, bounded by `READ_AHEAD`, and answers go out in order.
Between this front and the exchange stand the methods under "From the exchange"; an HTTP/2 front
offers the same, one object a stream.

Source: web.md rules 3, 4, 10 and 11; RFC 9112 9.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from dlba.errors import HeadError
from dlba.web.answers import https_location, redirection
from dlba.web.body import chunk
from dlba.web.clientsocket import STOP_GRACE
from dlba.web.exchange import Exchange
from dlba.web.forward import CONTINUE, interim_head, response_head, switch_head
from dlba.web.head import HEAD_END, RequestHead
from dlba.web.headreader import HeadReader
from dlba.web.requestbody import RequestBody
from dlba.web.requestlog import RequestLog
from dlba.web.tunnel import Tunnel

if TYPE_CHECKING:
    from dlba.web.choice import Site
    from dlba.web.clientsocket import ClientSocket
    from dlba.web.front import BackendBytes
    from dlba.web.proxy import Proxy
    from dlba.web.response import ResponseHead

__all__ = ["Http1"]

#: Bytes of further requests taken while one is being answered.
READ_AHEAD: Final = 64 * 1024
#: Bytes of a head that aren't counted: nearly every request has fewer.
UNCOUNTED: Final = 4 * 1024
#: Chunks of one read after which others have their turn: about a millisecond.
MANY_CHUNKS: Final = 1000
#: Requests answered by ourselves in one turn, so that a pipeline of them starves nobody.
LOCAL_BURST: Final = 16


class Http1:
    """The HTTP/1 front of one client connection. See `dlba.web.front.ClientFront`."""

    __slots__ = (
        "_advancing",
        "_body",
        "_chunked",
        "_eof",
        "_exchange",
        "_first",
        "_head_size",
        "_heads",
        "_keep",
        "_log",
        "_proxy",
        "_request",
        "_site",
        "complete",
        "socket",
    )

    def __init__(self, proxy: Proxy, socket: ClientSocket) -> None:
        self._proxy = proxy
        self.socket = socket
        self._heads = HeadReader()
        #: Bytes of the present request's head, where they are many enough to be counted.
        self._head_size = 0
        self._request: RequestHead | None = None
        self._site: Site | None = None
        self._exchange: Exchange | None = None
        self._body: RequestBody | None = None
        #: The request has been read to its end.
        self.complete = True
        #: The response goes out chunked; the connection stays after it.
        self._chunked = False
        self._keep = True
        self._eof = False
        self._first = True
        self._advancing = False
        self._log = RequestLog()

    # From the socket

    def opened(self) -> None:
        """See `ClientFront`."""

    def in_plain(self) -> bytes:
        """See `ClientFront`."""
        sentence = "this port speaks HTTPS: begin the address with https://"
        return self._proxy.answers.answer(400, sentence, self._proxy.date_line(), False)

    def received(self, data: bytes) -> None:
        """See `ClientFront`."""
        if not self.complete:
            if self._body is not None:
                self._take_body(self._body, data)
            return
        heads = self._heads
        heads.buffer = heads.buffer + data if heads.buffer else data
        if self._exchange is None:
            self.advance()
            return
        self._hold(len(heads.buffer))
        if len(heads.buffer) >= READ_AHEAD:
            self.socket.pause()

    def squeeze(self) -> None:
        """See `ClientFront`."""
        if self._exchange is not None:
            self._exchange.squeeze()
        elif self._body is not None and self._body.collected:
            self._send_collected(self._body)

    def drained(self) -> None:
        """See `ClientFront`."""
        if self._exchange is not None:
            self._exchange.client_drained()
        self.progress()
        if self._exchange is None and self._heads.buffer:
            self.advance()

    def progress(self) -> None:
        """See `ClientFront`."""
        if self._exchange is not None:
            self._exchange.touch()
        elif self.complete and not self._heads.buffer:
            self._wait()

    def eof(self) -> None:
        """See `ClientFront`."""
        self._eof = True
        if not self.complete:
            self._proxy.counters.requests_aborted += 1
            self._spoiled(400, "the request's body ended too soon", "CR")
        elif self._exchange is None:
            # The buffer may hold more requests; the last of them ends the connection.
            self.advance()

    def lost(self) -> None:
        """See `ClientFront`."""
        if self._exchange is not None:
            self._exchange.client_lost()
        elif self._request is not None:
            self._proxy.counters.requests_aborted += 1
            self._record("CR")

    def expire(self, now: float) -> None:
        """See `ClientFront`."""
        if self._exchange is not None:
            self._exchange.expire(now)
        elif self.complete and self.socket.backlog:
            self._proxy.counters.requests_timed_out += 1
            self.socket.reset()
        elif not self.complete or self._heads.buffer:
            self._proxy.counters.requests_timed_out += 1
            self._refuse(408, "the request took too long", "cR")
        else:
            self.socket.close()

    def stop(self) -> None:
        """See `ClientFront`."""
        if self._exchange is None and self.complete and not self._heads.buffer:
            if self._first and not self._eof:
                # A new connection has been made to send a request, which may be under way.
                self.socket.limit(STOP_GRACE)
            else:
                # Nothing is under way. Harmless where an answer has ended the connection already.
                self.socket.close()

    # Requests

    def advance(self) -> None:
        """Take the requests that the buffer holds, until one needs time."""
        if self._advancing:
            return
        self._advancing = True
        burst = LOCAL_BURST
        while self._heads.buffer and self._exchange is None and self.complete:
            if self.socket.closed or self.socket.backlog:
                # What a client doesn't read may not grow: `drained` goes on.
                break
            if not burst:
                self.socket.call_again()
                break
            burst -= 1
            if not self._next_request():
                break
        self._advancing = False
        if self.complete and (self._heads.buffer or self._head_size or self.socket.held):
            self._hold(len(self._heads.buffer))
        if self._eof:
            self.stop()
        elif self.complete:
            waiting = self._exchange is not None or self.socket.backlog
            if waiting and len(self._heads.buffer) >= READ_AHEAD:
                self.socket.pause()
            else:
                self.socket.resume()

    def _next_request(self) -> bool:
        """Take one request off the buffer; False: its head isn't complete, or it was refused."""
        proxy = self._proxy
        heads = self._heads
        try:
            request = heads.take(proxy.limits.head, proxy.head_limits)
        except HeadError as error:
            self._refuse(error.status, error.reason, "PR", heads.line())
            return False
        if request is None:
            self._incomplete()
            return False
        now = time.monotonic()
        self._log.began = self._log.began or now
        self._log.head_at = now
        self._request = request
        self._first = False
        proxy.counters.requests += 1
        self._keep = request.keep_alive
        self._site = site = proxy.sites.site(request)
        if len(request.fields) > UNCOUNTED:
            self._head_size = len(request.fields)
        length = request.length
        if length:
            self.complete = False
        if site is None:
            self._refuse(404, "no site is served under this name and path", "PR")
            return self.complete
        if self.socket.redirect_port and not self._came_by_https(request):
            self._redirect(request)
            return self.complete
        if not length:
            self._exchange = exchange = Exchange(proxy, self, request, site)
            exchange.begin(b"", True)
            return True
        return self._begin_body(request, site, length)

    def _incomplete(self) -> None:
        """A head has begun and isn't there yet."""
        if not self._heads.buffer:
            # An empty line before the request was all.
            return
        if self._eof:
            self._proxy.counters.requests_aborted += 1
            self._refuse(400, "the request's head ended too soon", "CR")
        elif not self._log.began:
            self._log.began = time.monotonic()
            # The first head's time runs since the accept or the handshake already.
            if not self._first:
                self.socket.limit(self._proxy.timeouts.head)

    def _came_by_https(self, request: RequestHead) -> bool:
        """Whether a proxy in front of us, whose word counts, says that its client spoke HTTPS."""
        return self.socket.trusted and self._proxy.forwarding.https(request.forwarding)

    def _redirect(self, request: RequestHead) -> None:
        """Send the client to the same host at HTTPS."""
        socket = self.socket
        self._proxy.counters.requests_redirected += 1
        host = request.host_field or socket.own_host()
        location = https_location(host, request.target, socket.redirect_port)
        keep = self._may_keep(request)
        with_body = request.method != b"HEAD"
        self._answer(308, redirection(location, self._proxy.date_line(), keep, with_body), keep)

    # Bodies

    def _begin_body(self, request: RequestHead, site: Site, length: int) -> bool:
        limits = self._proxy.limits
        now = time.monotonic()
        try:
            self._body = RequestBody(length, site.max_body, limits.head, limits.headers, now)
        except HeadError as error:
            self._refuse(error.status, error.reason, "PR")
            return False
        self.socket.limit(self._proxy.timeouts.body)
        # Requests sent ahead may have paused it.
        self.socket.resume()
        data, self._heads.buffer = self._heads.buffer, b""
        if data:
            self._take_body(self._body, data)
        elif request.expects_continue:
            self.socket.write(CONTINUE)
        return self.complete

    def _take_body(self, reader: RequestBody, data: bytes) -> None:
        """Bytes of the body, and maybe of what follows it."""
        try:
            body = reader.take(data)
        except HeadError as error:
            self._spoiled(error.status, error.reason, "PR")
            return
        if reader.pieces > MANY_CHUNKS:
            self.socket.give_way()
        held = reader.held
        if held or self.socket.held:
            self._hold(held if self._exchange is not None else held + reader.size)
        if reader.complete:
            self.complete = True
            self._heads.buffer = reader.rest
        elif reader.too_slow(time.monotonic(), self._proxy.timeouts.body):
            self.body_timed_out()
            return
        if self._exchange is not None:
            self._exchange.body(body, self.complete)
        else:
            self._collect(reader, body)

    def _collect(self, reader: RequestBody, body: bytes) -> None:
        """Keep `body` until the request is complete, or too large to be kept."""
        reader.collect(body)
        site = self._site
        assert site is not None
        if self.complete or reader.size >= site.request_buffer or self._proxy.memory.tight:
            self._send_collected(reader)
        else:
            self._hold(reader.size + reader.held)
            self.socket.limit(self._proxy.timeouts.body)

    def _send_collected(self, reader: RequestBody) -> None:
        """Begin the exchange with what has come of the body."""
        request, site = self._request, self._site
        assert request is not None
        assert site is not None
        whole = reader.give()
        if self.socket.held:
            self._hold(len(self._heads.buffer))
        self._exchange = exchange = Exchange(self._proxy, self, request, site)
        exchange.begin(whole, self.complete)
        if self.complete and self._heads.buffer:
            self.advance()

    # From the exchange

    def pause_body(self) -> None:
        """The backend takes no more of the request's body for now."""
        if not self.complete:
            self.socket.pause()

    def resume_body(self) -> None:
        """The backend takes more of the request's body."""
        if self._body is not None:
            self._body.read_again(time.monotonic())
        if not self._eof:
            self.socket.resume()

    def interim(self, response: ResponseHead) -> None:
        """Pass a 1xx response on, never to HTTP/1.0."""
        request = self._request
        if request is not None and request.minor:
            self.socket.write(interim_head(response))

    def switch(
        self, response: ResponseHead, fields: bytes, side: BackendBytes, data: bytes
    ) -> None:
        """The backend has switched protocols; `data` came with it."""
        head = switch_head(response, fields)
        self._log.answered(response.status, len(head), len(data))
        self.socket.write(head + data)
        ahead, self._heads.buffer = self._heads.buffer, b""
        tunnel = Tunnel(self._proxy, self.socket, side, self._log, self.gone)
        tunnel.begin(ahead, self._eof)

    def respond(self, response: ResponseHead, fields: bytes, body: bytes, end: bool) -> None:
        """Send the final response's head with the beginning of its body; `end`: all of it."""
        request = self._request
        assert request is not None
        keep = self._keep and self.complete and not self._proxy.stopping
        if self._eof and not self._heads.buffer:
            keep = False
        head, self._chunked, self._keep = response_head(
            response, fields, self._proxy.date_line(), request.minor, keep
        )
        self._log.answered(response.status, len(head), len(body))
        if body:
            head += chunk(body) if self._chunked else body
        if end and self._chunked:
            head += b"0\r\n\r\n"
        self.socket.write(head)

    def respond_body(self, body: bytes, end: bool) -> None:
        """Send more of the response's body (maybe b"" at the end)."""
        self._log.body_bytes += len(body)
        if self._chunked:
            data = chunk(body) if body else b""
            if end:
                data += b"0\r\n\r\n"
            if data:
                self.socket.write(data)
        elif body:
            self.socket.write(body)

    def finished(self, termination: str) -> None:
        """The response is complete: log it, and go on with the next request or end."""
        self._record(termination)
        self._exchange = None
        socket = self.socket
        if not self.complete:
            socket.linger()
            return
        if self._proxy.stopping:
            # Its head may have promised more.
            self._keep = False
        if not self._keep:
            # A client that asked for the end sends no more; any other may be about to.
            asked = self._eof or (self._request is not None and not self._request.keep_alive)
            # A stray byte would destroy what is still on its way, and much may be.
            short = self._log.body_bytes <= READ_AHEAD
            self._forget_request()
            if asked and short and not self._heads.buffer:
                socket.close()
            else:
                socket.linger()
            return
        self._forget_request()
        if self._heads.buffer:
            self.advance()
        elif self._eof:
            socket.close()
        else:
            self._wait()
            socket.resume()

    def failed(self, status: int, sentence: str, termination: str) -> None:
        """No response can be had: answer `status` ourselves."""
        self._refuse(status, sentence, termination)

    def body_timed_out(self) -> None:
        """The client stopped sending the body of its request."""
        self._proxy.counters.requests_timed_out += 1
        if self.socket.starved:
            # It is we who don't read.
            self._spoiled(503, "the service is overloaded", "RR")
        else:
            self._spoiled(408, "the request took too long", "cR")

    def _spoiled(self, status: int, sentence: str, termination: str) -> None:
        """The rest of the request's body is no good, or doesn't come."""
        if self._exchange is not None and self._exchange.responding:
            # The answer goes on; what is left of the request is read and dropped.
            self._body = None
        else:
            self._refuse(status, sentence, termination)

    def broken(self, termination: str) -> None:
        """The response broke off in the middle: show it as broken."""
        self._record(termination)
        self._exchange = None
        self.socket.reset()

    def gone(self, termination: str) -> None:
        """The exchange has ended because the client went away."""
        self._record(termination)
        self._exchange = None
        self._request = None

    # Answers of our own, deadlines, the log

    def _refuse(self, status: int, sentence: str, termination: str, line: bytes = b"") -> None:
        """Answer `status` ourselves; the connection stays only if the request is complete."""
        request = self._request
        if termination == "PR":
            self._proxy.counters.requests_refused += 1
        exchange = self._exchange
        if exchange is not None:
            exchange.abandon()
            if exchange.responding:
                self.broken(termination)
                return
        keep = request is not None and self._may_keep(request)
        if request is None:
            # It may have been refused before its method was known.
            with_body = not self._heads.buffer.startswith(b"HEAD ")
        else:
            with_body = request.method != b"HEAD"
        date = self._proxy.date_line()
        data = self._proxy.answers.answer(status, sentence, date, keep, with_body)
        self._answer(status, data, keep, termination, line)

    def _may_keep(self, request: RequestHead) -> bool:
        """Whether the connection may stay after an answer of our own to `request`."""
        return (
            self._keep
            and self.complete
            and request.minor > 0
            and not (self._eof and not self._heads.buffer)
            and not self._proxy.stopping
        )

    def _answer(
        self, status: int, data: bytes, keep: bool, termination: str = "PR", line: bytes = b""
    ) -> None:
        """Send `data`, a whole answer of our own."""
        head_bytes = data.index(HEAD_END) + len(HEAD_END)
        self._log.answered(status, head_bytes, len(data) - head_bytes)
        self.socket.write(data)
        self._keep = keep
        self._record(termination, line)
        self._exchange = None
        self._body = None
        if keep:
            self._forget_request()
            self._wait()
            if self._heads.buffer and not self._advancing:
                self.advance()
        else:
            self._request = None
            self._heads.buffer = b""
            self.socket.linger()

    def _hold(self, size: int) -> None:
        """`size` bytes are kept now, beside the head of the request."""
        self.socket.hold(size + self._head_size)

    def _forget_request(self) -> None:
        self._request = None
        if self._head_size:
            self._head_size = 0
            self._hold(len(self._heads.buffer))
        self._body = None
        self._site = None
        self._log.reset()

    def _wait(self) -> None:
        """Between two requests: for the client to take the last answer, then for the next one."""
        timeouts = self._proxy.timeouts
        self.socket.limit(timeouts.write if self.socket.backlog else timeouts.idle)

    def _record(self, termination: str, line: bytes = b"") -> None:
        self._log.write(
            self._proxy,
            self.socket,
            self._request,
            self._site,
            self._exchange,
            termination,
            line,
        )
