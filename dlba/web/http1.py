"""Takes the requests of one HTTP/1 client in their order: heads, pipelines, the connection's end.

Where heads end is decided by `dlba.web.headreader`. One request at a time is answered, each by an
object of its own (`dlba.web.http1request`): what a client sends ahead waits in the buffer, bounded
by `READ_AHEAD`, and answers go out in order. What is no request is refused here.

Source: web.md rules 3, 10 and 11; RFC 9112 9.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from dlba.errors import HeadError
from dlba.web.clientsocket import STOP_GRACE
from dlba.web.headreader import HeadReader
from dlba.web.http1request import Http1Request
from dlba.web.requestlog import RequestLog

if TYPE_CHECKING:
    from dlba.web.clientsocket import ClientSocket
    from dlba.web.proxy import Proxy

__all__ = ["Http1"]

#: Bytes of further requests taken while one is being answered.
READ_AHEAD: Final = 64 * 1024
#: Requests answered by ourselves in one turn, so that a pipeline of them starves nobody.
LOCAL_BURST: Final = 16


class Http1:
    """The HTTP/1 front of one client connection. See `dlba.web.front.ClientFront`.

    `heads`: the bytes that wait; `present`: the request that is being answered, or None; `ended`:
    the client sends no more.
    """

    __slots__ = ("_advancing", "_began", "_first", "_proxy", "ended", "heads", "present", "socket")

    def __init__(self, proxy: Proxy, socket: ClientSocket) -> None:
        self._proxy = proxy
        self.socket = socket
        self.heads = HeadReader()
        self.present: Http1Request | None = None
        self.ended = False
        #: No request has come yet.
        self._first = True
        #: When the head that isn't complete yet was begun; 0: none was.
        self._began = 0.0
        self._advancing = False

    # From the socket

    def opened(self) -> None:
        """See `ClientFront`."""

    def in_plain(self) -> bytes:
        """See `ClientFront`."""
        sentence = "this port speaks HTTPS: begin the address with https://"
        return self._proxy.answers.answer(400, sentence, self._proxy.date_line(), False)

    def received(self, data: bytes) -> None:
        """See `ClientFront`."""
        present = self.present
        if present is not None and not present.complete:
            present.received(data)
            return
        heads = self.heads
        heads.buffer = heads.buffer + data if heads.buffer else data
        if present is None:
            self.advance()
            return
        self.socket.hold(len(heads.buffer) + present.head_size)
        if len(heads.buffer) >= READ_AHEAD:
            self.socket.pause()

    def squeeze(self) -> None:
        """See `ClientFront`."""
        if self.present is not None:
            self.present.squeeze()

    def drained(self) -> None:
        """See `ClientFront`."""
        if self.present is not None:
            self.present.drained()
        self.progress()
        if self.present is None and self.heads.buffer:
            self.advance()

    def progress(self) -> None:
        """See `ClientFront`."""
        if self.present is not None:
            self.present.touch()
        elif not self.heads.buffer and not self.socket.closed:
            # One that is ending has a deadline of its own.
            self._wait()

    def eof(self) -> None:
        """See `ClientFront`."""
        self.ended = True
        if self.present is None:
            # The buffer may hold more requests; the last of them ends the connection.
            self.advance()
        elif not self.present.complete:
            self.present.cut_short()

    def lost(self) -> None:
        """See `ClientFront`."""
        if self.present is not None:
            self.present.lost()

    def expire(self, now: float) -> None:
        """See `ClientFront`."""
        if self.present is not None:
            self.present.expire(now)
        elif self.socket.backlog:
            self._proxy.counters.requests_timed_out += 1
            self.socket.reset()
        elif self.heads.buffer:
            self._proxy.counters.requests_timed_out += 1
            self._refuse(408, "the request took too long", "cR")
        else:
            self.socket.close()

    def stop(self) -> None:
        """See `ClientFront`."""
        if self.present is None and not self.heads.buffer:
            if self._first and not self.ended:
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
        socket, heads = self.socket, self.heads
        while heads.buffer and self.present is None:
            if socket.closed or socket.backlog:
                # What a client doesn't read may not grow: `drained` goes on.
                break
            if not burst:
                socket.call_again()
                break
            burst -= 1
            if not self._next_request():
                break
        self._advancing = False
        if socket.closed:
            # Nothing is kept for it any more.
            return
        present = self.present
        if present is None or present.complete:
            held = len(heads.buffer) + (0 if present is None else present.head_size)
            if held or socket.held:
                socket.hold(held)
        if self.ended:
            self.stop()
        elif present is None or present.complete:
            waiting = present is not None or socket.backlog
            if waiting and len(heads.buffer) >= READ_AHEAD:
                socket.pause()
            else:
                socket.resume()

    def _next_request(self) -> bool:
        """Take one request off the buffer; False: there is none."""
        proxy = self._proxy
        heads = self.heads
        try:
            head = heads.take(proxy.limits.head, proxy.head_limits)
        except HeadError as error:
            self._refuse(error.status, error.reason, "PR", heads.line())
            return False
        if head is None:
            self._incomplete()
            return False
        now = time.monotonic()
        proxy.counters.requests += 1
        self._first = False
        self.present = present = Http1Request(proxy, self, head, self._began or now, now)
        self._began = 0.0
        present.begin()
        return True

    def _incomplete(self) -> None:
        """A head has begun and isn't there yet."""
        if not self.heads.buffer:
            # An empty line before the request was all.
            return
        if self.ended:
            self._proxy.counters.requests_aborted += 1
            self._refuse(400, "the request's head ended too soon", "CR")
        elif not self._began:
            self._began = time.monotonic()
            # The first head's time runs since the accept or the handshake already.
            if not self._first:
                self.socket.limit(self._proxy.timeouts.head)

    def _refuse(self, status: int, sentence: str, termination: str, line: bytes = b"") -> None:
        """Answer `status` to what is no request, and end. `line`: its first line, for the log."""
        proxy = self._proxy
        if termination == "PR":
            proxy.counters.requests_refused += 1
        # It may have been refused before its method was known.
        with_body = not self.heads.buffer.startswith(b"HEAD ")
        data = proxy.answers.answer(status, sentence, proxy.date_line(), False, with_body)
        log = RequestLog(self._began)
        log.answered_whole(status, data)
        self.socket.write(data)
        log.write(proxy, self.socket, None, None, None, termination, line)
        self.answered_by_us(False)

    # From the present request

    def answered(self, request: Http1Request) -> None:
        """`request`, the present one, has got its response: go on with the next one, or end."""
        self.present = None
        socket, buffer = self.socket, self.heads.buffer
        if socket.held:
            socket.hold(len(buffer))
        if not request.complete:
            socket.linger()
        elif not request.keep or self._proxy.stopping:
            # A client that asked for the end sends no more; any other may be about to.
            asked = self.ended or not request.head.keep_alive
            # A stray byte would destroy what is still on its way, and much may be.
            short = request.log.body_bytes <= READ_AHEAD
            if asked and short and not buffer:
                socket.close()
            else:
                socket.linger()
        elif buffer:
            self.advance()
        elif self.ended:
            socket.close()
        else:
            self._wait()
            socket.resume()

    def answered_by_us(self, keep: bool) -> None:
        """What came last has got an answer of our own. `keep`: the connection stays."""
        self.present = None
        socket, heads = self.socket, self.heads
        if not keep:
            heads.buffer = b""
        if socket.held:
            socket.hold(len(heads.buffer))
        if not keep:
            socket.linger()
            return
        self._wait()
        if heads.buffer:
            self.advance()

    def _wait(self) -> None:
        """Between two requests: for the client to take the last answer, then for the next one."""
        timeouts = self._proxy.timeouts
        self.socket.limit(timeouts.write if self.socket.backlog else timeouts.idle)
