"""Speaks HTTP/1 with one client: heads, bodies, pipelines, and when the connection ends.

Reads a request to its end, up to `request_buffer`, before a backend is connected (the seed's rule);
past that it streams. One exchange at a time: what a client sends ahead waits in the buffer, bounded
by `READ_AHEAD`, and answers go out in order. Between this front and the exchange stand the methods
under "From the exchange"; an HTTP/2 front offers the same, one object a stream.

Source: web.md rules 3, 4, 10 and 11; RFC 9112 9.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from dlba.errors import HeadError
from dlba.web.body import ChunkedReader, chunk
from dlba.web.exchange import Exchange
from dlba.web.forward import CONTINUE, answer, interim_head, response_head
from dlba.web.head import CHUNKED, HEAD_END, RequestHead, parse_request

if TYPE_CHECKING:
    from dlba.web.choice import Site
    from dlba.web.clientsocket import ClientSocket
    from dlba.web.proxy import Proxy
    from dlba.web.response import ResponseHead

__all__ = ["Http1"]

#: Bytes of further requests taken while one is being answered.
READ_AHEAD: Final = 64 * 1024
#: Requests answered by ourselves in one turn, so that a pipeline of them starves nobody.
LOCAL_BURST: Final = 16
#: Bytes a second that a body must come with, once `timeouts.body` has passed.
BODY_RATE: Final = 256


class Http1:
    """The HTTP/1 front of one client connection. See `dlba.web.clientsocket.ClientFront`."""

    __slots__ = (
        "_advancing",
        "_body_bytes",
        "_body_since",
        "_buffer",
        "_chunked",
        "_collected",
        "_eof",
        "_exchange",
        "_first",
        "_head_at",
        "_keep",
        "_left",
        "_log_body",
        "_log_sent",
        "_proxy",
        "_reader",
        "_request",
        "_site",
        "_status",
        "_t0",
        "complete",
        "socket",
    )

    def __init__(self, proxy: Proxy, socket: ClientSocket) -> None:
        self._proxy = proxy
        self.socket = socket
        self._buffer = b""
        self._request: RequestHead | None = None
        self._site: Site | None = None
        self._exchange: Exchange | None = None
        #: Bytes of the request's body to come, and the reader of a chunked one.
        self._left = 0
        self._reader: ChunkedReader | None = None
        #: The request has been read to its end.
        self.complete = True
        self._collected: list[bytes] = []
        self._body_bytes = 0
        self._body_since = 0.0
        #: The response goes out chunked; the connection stays after it.
        self._chunked = False
        self._keep = True
        self._eof = False
        self._first = True
        self._advancing = False
        #: When the first byte of the request came, and when its head was complete.
        self._t0 = 0.0
        self._head_at = 0.0
        self._status = 0
        self._log_sent = 0
        self._log_body = 0

    # From the socket

    def opened(self) -> None:
        """See `ClientFront`."""

    def in_plain(self) -> bytes:
        """See `ClientFront`."""
        sentence = "this port speaks HTTPS: begin the address with https://"
        return answer(400, sentence, self._proxy.date_line(), False)

    def received(self, data: bytes) -> None:
        """See `ClientFront`."""
        if not self.complete:
            self._take_body(data)
            return
        self._buffer = self._buffer + data if self._buffer else data
        if self._exchange is None:
            self.advance()
        elif len(self._buffer) >= READ_AHEAD:
            self.socket.pause()

    def drained(self) -> None:
        """See `ClientFront`."""
        if self._exchange is not None:
            self._exchange.client_drained()
        self.progress()
        if self._exchange is None and self._buffer:
            self.advance()

    def progress(self) -> None:
        """See `ClientFront`."""
        if self._exchange is not None:
            self._exchange.touch()
        elif self.complete and not self._buffer:
            self._wait()

    def eof(self) -> None:
        """See `ClientFront`."""
        self._eof = True
        if not self.complete:
            self._refuse(400, "the request's body ended too soon", "CR")
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
        elif not self.complete or self._buffer:
            self._proxy.counters.requests_timed_out += 1
            self._refuse(408, "the request took too long", "cR")
        else:
            self.socket.close()

    def stop(self) -> None:
        """See `ClientFront`."""
        if self._exchange is None and self.complete and not self._buffer:
            # Nothing is under way. Harmless where an answer has ended the connection already.
            self.socket.close()

    # Requests

    def advance(self) -> None:
        """Take the requests that the buffer holds, until one needs time."""
        if self._advancing:
            return
        self._advancing = True
        burst = LOCAL_BURST
        while self._buffer and self._exchange is None and self.complete:
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
        if self._eof:
            self.stop()
        elif self.complete:
            waiting = self._exchange is not None or self.socket.backlog
            if waiting and len(self._buffer) >= READ_AHEAD:
                self.socket.pause()
            else:
                self.socket.resume()

    def _next_request(self) -> bool:
        """Take one request off the buffer; False: its head isn't complete, or it was refused."""
        buffer = self._buffer
        if buffer[0] < 33 and buffer.startswith(b"\r\n"):
            # RFC 9112 2.2: one empty line before a request is ignored.
            buffer = self._buffer = buffer[2:]
            if not buffer:
                return False
        end = buffer.find(HEAD_END)
        limit = self._proxy.limits.head
        if end < 0 or end > limit:
            return self._incomplete(buffer, limit)
        now = time.monotonic()
        self._t0 = self._t0 or now
        self._head_at = now
        try:
            request = parse_request(buffer[:end], self._proxy.head_limits)
        except HeadError as error:
            self._refuse(error.status, error.reason, "PR", buffer[:end].partition(b"\r\n")[0])
            return False
        self._buffer = buffer[end + 4 :]
        self._request = request
        self._first = False
        self._proxy.counters.requests += 1
        self._keep = request.keep_alive
        self._site = site = self._proxy.sites.site(request)
        length = request.length
        if length:
            self.complete = False
            self._left = length
        if site is None:
            self._refuse(404, "no site is served under this name and path", "PR")
            return self.complete
        if not length:
            self._exchange = exchange = Exchange(self._proxy, self, request, site, self._t0)
            exchange.begin(b"", True)
            return True
        return self._begin_body(request, site, length)

    def _incomplete(self, buffer: bytes, limit: int) -> bool:
        """A head that isn't there yet, or never will be."""
        if len(buffer) > limit:
            line, ended, _ = buffer.partition(b"\r\n")
            self._refuse(431, "the request's head is too large", "PR", line if ended else b"")
        elif buffer.count(b"\n") != buffer.count(b"\r\n"):
            # Without this, a head with bare LF would wait for a CRLF that never comes.
            self._refuse(400, "a line doesn't end in CRLF", "PR")
        elif self._eof:
            self._refuse(400, "the request's head ended too soon", "CR")
        elif not self._t0:
            self._t0 = time.monotonic()
            # The first head's time runs since the accept or the handshake already.
            if not self._first:
                self.socket.limit(self._proxy.timeouts.head)
        return False

    # Bodies

    def _begin_body(self, request: RequestHead, site: Site, length: int) -> bool:
        if site.max_body is not None and length > site.max_body:
            self._refuse(413, "the request's body is too large", "PR")
            return False
        if length == CHUNKED:
            self._reader = ChunkedReader(self._proxy.limits.head, self._proxy.limits.headers)
        self._body_bytes = 0
        self._body_since = time.monotonic()
        self.socket.limit(self._proxy.timeouts.body)
        # Requests sent ahead may have paused it.
        self.socket.resume()
        data, self._buffer = self._buffer, b""
        if data:
            self._take_body(data)
        elif request.expects_continue:
            self.socket.write(CONTINUE)
        return self.complete

    def _take_body(self, data: bytes) -> None:
        """Bytes of the body, and maybe of what follows it."""
        reader = self._reader
        if reader is None:
            body = data[: self._left]
            self._left -= len(body)
            self.complete = not self._left
            if len(body) < len(data):
                self._buffer = data[len(body) :]
        else:
            try:
                body = b"".join(reader.feed(data))
            except ValueError as error:
                self._refuse(400, str(error), "PR")
                return
            if reader.done:
                self.complete = True
                self._buffer = reader.rest
                self._reader = None
        self._body_bytes += len(body)
        if not self.complete and self._too_slow():
            self.expire(time.monotonic())
            return
        site = self._site
        assert site is not None
        if site.max_body is not None and self._body_bytes > site.max_body:
            self._refuse(413, "the request's body is too large", "PR")
        elif self._exchange is not None:
            self._exchange.body(body, self.complete)
        else:
            self._collect(body, site)

    def _collect(self, body: bytes, site: Site) -> None:
        """Keep `body` until the request is complete, or too large to be kept."""
        if body:
            self._collected.append(body)
        request = self._request
        assert request is not None
        if self.complete or self._body_bytes >= site.request_buffer:
            whole = b"".join(self._collected)
            self._collected.clear()
            self._exchange = exchange = Exchange(self._proxy, self, request, site, self._t0)
            exchange.begin(whole, self.complete)
            if self.complete and self._buffer:
                self.advance()
        else:
            self.socket.deadline = time.monotonic() + self._proxy.timeouts.body

    def _too_slow(self) -> bool:
        seconds = time.monotonic() - self._body_since
        return seconds > self._proxy.timeouts.body and self._body_bytes < seconds * BODY_RATE

    # From the exchange

    def pause_body(self) -> None:
        """The backend takes no more of the request's body for now."""
        if not self.complete:
            self.socket.pause()

    def resume_body(self) -> None:
        """The backend takes more of the request's body."""
        # The client isn't to blame for the time in which nobody read.
        self._body_since = time.monotonic()
        self._body_bytes = 0
        if not self._eof:
            self.socket.resume()

    def interim(self, response: ResponseHead) -> None:
        """Pass a 1xx response on, never to HTTP/1.0."""
        request = self._request
        if request is not None and request.minor:
            self.socket.write(interim_head(response))

    def respond(self, response: ResponseHead, fields: bytes, body: bytes, end: bool) -> None:
        """Send the final response's head with the beginning of its body; `end`: all of it."""
        request = self._request
        assert request is not None
        keep = self._keep and self.complete and not self._proxy.stopping
        if self._eof and not self._buffer:
            keep = False
        head, self._chunked, self._keep = response_head(
            response, fields, self._proxy.date_line(), request.minor, keep
        )
        self._status = response.status
        self._log_sent = len(head)
        if body:
            self._log_body = len(body)
            head += chunk(body) if self._chunked else body
        if end and self._chunked:
            head += b"0\r\n\r\n"
        self.socket.write(head)

    def respond_body(self, body: bytes, end: bool) -> None:
        """Send more of the response's body (maybe b"" at the end)."""
        self._log_body += len(body)
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
            self._forget_request()
            if asked and not self._buffer:
                socket.close()
            else:
                socket.linger()
            return
        self._forget_request()
        if self._buffer:
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
        self._refuse(408, "the request took too long", "cR")

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
        keep = (
            self._keep
            and request is not None
            and self.complete
            and request.minor > 0
            and not (self._eof and not self._buffer)
            and not self._proxy.stopping
        )
        data = answer(
            status,
            sentence,
            self._proxy.date_line(),
            keep,
            request is None or request.method != b"HEAD",
        )
        self._status = status
        self._log_body = len(data) - data.index(HEAD_END) - len(HEAD_END)
        self._log_sent = len(data) - self._log_body
        self.socket.write(data)
        self._keep = keep
        self._record(termination, line)
        self._exchange = None
        self._collected.clear()
        if keep:
            self._forget_request()
            self._wait()
            if self._buffer and not self._advancing:
                self.advance()
        else:
            self._request = None
            self._buffer = b""
            self.socket.linger()

    def _forget_request(self) -> None:
        self._request = None
        self._site = None
        self._t0 = 0.0
        self._status = 0
        self._log_sent = self._log_body = 0

    def _wait(self) -> None:
        """Between two requests: for the client to take the last answer, then for the next one."""
        timeouts = self._proxy.timeouts
        self.socket.limit(timeouts.write if self.socket.backlog else timeouts.idle)

    def _record(self, termination: str, line: bytes = b"") -> None:
        """Write the access log's line of this request."""
        log = self._proxy.log
        if log is None:
            return
        request = self._request
        exchange = self._exchange
        site = self._site
        socket = self.socket
        now = time.monotonic()
        head_time = queue = connect = response = -1.0
        retries = 0
        backend = pool = None
        reason = "-"
        if request is not None:
            head_time = self._head_at - self._t0
        if exchange is not None:
            reason = exchange.reason
            retries = exchange.retries
            queue, connect, response = exchange.times()
            if exchange.backend is not None:
                backend = exchange.backend.name
        if site is not None:
            pool = site.pool.name
        fields = (
            time.time(),
            socket.host,
            socket.port,
            socket.local_port,
            socket.tls,
            line if request is None else request.line,
            b"" if request is None else request.fields,
            self._status,
            self._log_sent + self._log_body,
            self._log_body,
            None if site is None else site.name,
            pool,
            backend,
            reason,
            head_time,
            queue,
            connect,
            response,
            now - self._t0 if self._t0 else 0.0,
            retries,
            termination,
            len(self._proxy.clients),
            self._proxy.open_backends,
        )
        log(fields)
