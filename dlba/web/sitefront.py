"""Carries one request of a Twisted site to a backend: the front of `dlba.web.resource`.

`dlba.web.siteclient` stands for the client. A body comes from the file into which Twisted has put
it, in pieces as the backend takes them, or live (`take`, `take_end`). The response goes out as it
comes; Twisted pauses us when its client doesn't take it, and so we pause the backend.

1xx responses aren't passed on, since a Twisted request has no way to; protocols aren't switched.
Source: web.md rules 3 to 9.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from dlba.errors import HeadError
from dlba.web.ending import LINGER_SECONDS
from dlba.web.exchange import Exchange
from dlba.web.head import CHUNKED, HEAD_END, RequestHead, parse_request
from dlba.web.requestbody import Pace
from dlba.web.requestlog import RequestLog
from dlba.web.siteclient import PIECE, SiteClient

if TYPE_CHECKING:
    from dlba.web.choice import Site
    from dlba.web.front import BackendBytes
    from dlba.web.proxy import Proxy
    from dlba.web.response import ResponseHead

__all__ = ["SiteFront"]

#: Pieces of a body's file that are given on in one turn.
PIECES: Final = 4


class SiteFront:
    """One request. See `dlba.web.front.ExchangeFront`.

    Also a push producer for the request, and a member of the poller.
    """

    def __init__(self, proxy: Proxy, request: Any, over: Callable[[SiteFront], None]) -> None:
        """`request`: an IRequest of twisted.web.server. `over`: called once, at our end."""
        self._proxy = proxy
        self._over = over
        self.socket = SiteClient(proxy, request, self)
        request.notifyFinish().addErrback(self._lost)
        request.registerProducer(self, True)
        self.complete = True
        self._head: RequestHead | None = None
        self._site: Site | None = None
        self._exchange: Exchange | None = None
        #: The file with the body, and bytes of it to come.
        self._content: Any = None
        self._left = 0
        self._queued = self._paused = False
        #: The body is live; the rest of it is dropped.
        self._live = self._dropping = False
        #: What has come of it before a backend is connected; bytes so far.
        self._collected = bytearray()
        self._size = 0
        self._pace = Pace(time.monotonic())
        #: The response is written.
        self._answered = False
        self._log = RequestLog()

    # From the resource

    def begin(self, target: bytes) -> None:
        """Carry the request, whose body is in `request.content`, as one for `target`."""
        site = self._accept(target)
        if site is None:
            return
        head, content = self._head, self.socket.content()
        assert head is not None
        size = content.seek(0, 2)
        content.seek(0)
        if site.max_body is not None and size > site.max_body:
            self._refuse(413, "the request's body is too large")
            return
        if size or head.length is not None:
            head.length = size
        # What is read whole can be sent again to another backend.
        whole = size <= site.request_buffer and not self._proxy.memory.tight
        body = content.read(size if whole else PIECE)
        self._content = content
        self._left = size - len(body)
        self.complete = not self._left
        self._start(head, site, body)

    def begin_live(self, target: bytes, length: int | None) -> None:
        """Carry the request, whose body comes by `take` and `take_end`.

        `length`: bytes of it, None for a chunked one.
        """
        self._live = True
        self.complete = False
        site = self._accept(target)
        if site is None:
            return
        assert self._head is not None
        self._head.length = CHUNKED if length is None else length
        if length is not None and site.max_body is not None and length > site.max_body:
            self._refuse(413, "the request's body is too large", close=True)
        else:
            self.socket.limit(self._proxy.timeouts.body)

    def refuse(self, status: int, sentence: str) -> None:
        """Answer `status` ourselves, whatever is asked for."""
        self._log.began = self._log.head_at = time.monotonic()
        self._answer(status, sentence, "PR", True)

    def take(self, data: bytes) -> None:
        """More of a live body."""
        site, head = self._site, self._head
        if self._answered or self._dropping or site is None or head is None:
            return
        self._size += len(data)
        if site.max_body is not None and self._size > site.max_body:
            self._spoiled(413, "the request's body is too large", "PR")
            return
        if self._pace.too_slow(time.monotonic(), self._proxy.timeouts.body, self._size):
            self.body_timed_out()
            return
        if self._exchange is not None:
            self._exchange.body(data, False)
            return
        self._collected += data
        self._proxy.memory.change(len(data))
        if self._size >= site.request_buffer or self._proxy.memory.tight:
            self._start(head, site, self._forget_collected())
        else:
            self.socket.limit(self._proxy.timeouts.body)

    def take_end(self) -> None:
        """A live body has been read to its end."""
        self.complete = True
        if self._answered:
            self._end_if_written()
        elif self._exchange is not None:
            if not self._dropping:
                self._exchange.body(b"", True)
        elif self._head is not None and self._site is not None:
            self._start(self._head, self._site, self._forget_collected())

    def cut(self) -> None:
        """End now: the service stops and waits no longer."""
        exchange = self._exchange
        if exchange is not None:
            exchange.abandon()
            self.broken("CD" if exchange.responding else "CH")
        else:
            self._end(self.socket.cut)

    def _accept(self, target: bytes) -> Site | None:
        """Read the head and find the site; None: the request was refused."""
        proxy = self._proxy
        self._log.began = self._log.head_at = time.monotonic()
        proxy.counters.requests += 1
        try:
            head = parse_request(self.socket.head(target), proxy.head_limits)
        except HeadError as error:
            # Where its body ends may be in doubt.
            self._refuse(error.status, error.reason, close=True)
            return None
        head.upgrade = b""
        self._head = head
        self._site = proxy.sites.site(head)
        if self._site is None:
            self._refuse(404, "no site is served under this name and path", close=self._live)
        return self._site

    def _start(self, head: RequestHead, site: Site, body: bytes) -> None:
        self._exchange = exchange = Exchange(self._proxy, self, head, site)
        exchange.begin(body, self.complete)

    def _forget_collected(self) -> bytes:
        body = bytes(self._collected)
        self._collected = bytearray()
        self._proxy.memory.change(-len(body))
        return body

    # From the poller and the deadlines

    def on_event(self, mask: int) -> None:
        """The turn has come for more of the file."""
        self._queued = False
        for _ in range(PIECES):
            if self._paused or self.complete or self._exchange is None:
                return
            body = self._content.read(PIECE)
            if not body:
                raise EOFError("the file with the request's body is shorter than it was")
            self._left -= len(body)
            self.complete = self._left <= 0
            self._exchange.body(body, self.complete)
        if not self._paused:
            self.resume_body()

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        if self._exchange is not None:
            self._exchange.expire(now)
        elif self._answered:
            self._end(self.socket.cut)
        else:
            self.body_timed_out()

    def abort(self) -> None:
        """An exception of ours was caught: end this request alone."""
        if self._exchange is not None:
            self._exchange.abandon()
        self._end(self.socket.cut)

    # From Twisted

    def pauseProducing(self) -> None:
        """The client doesn't take what was written."""
        self.socket.paused()

    def resumeProducing(self) -> None:
        """The client has taken all of it."""
        self.socket.resumed()
        if self._answered:
            self._end_if_written()
        elif self._exchange is not None:
            self._exchange.client_drained()
            if self._exchange is not None:
                self._exchange.touch()

    def stopProducing(self) -> None:
        """The connection is gone."""
        self._lost(None)

    def _lost(self, reason: object) -> None:
        """The client is gone."""
        if self.socket.ended:
            return
        if self._exchange is not None:
            self._exchange.client_lost()
        else:
            if not self._answered:
                self._proxy.counters.requests_aborted += 1
                self._record("CR")
            self._end(self.socket.end)

    # From the exchange: see `dlba.web.front`

    def pause_body(self) -> None:
        """See `ExchangeFront`."""
        self._paused = True
        if self._live and not self.complete:
            self.socket.pause()

    def resume_body(self) -> None:
        """See `ExchangeFront`."""
        self._paused = False
        if self.complete:
            return
        if self._live:
            # Time in which nobody read doesn't count.
            self._pace.read_again(time.monotonic(), self._size)
            self.socket.resume()
        elif not self._queued:
            self._queued = True
            self._proxy.poller.later(self)

    def interim(self, response: ResponseHead) -> None:
        """See the module's docstring."""

    def switch(
        self, response: ResponseHead, fields: bytes, side: BackendBytes, data: bytes
    ) -> None:
        """Never called: no request goes on with an `upgrade`."""
        side.reset()

    def respond(self, response: ResponseHead, fields: bytes, body: bytes, end: bool) -> None:
        """See `ExchangeFront`."""
        if self.socket.ended:
            return
        self._log.answered(response.status, len(fields), len(body))
        if response.announced is not None:
            fields += b"\r\nContent-Length: %d" % response.announced
        if not response.dated:
            fields += self._proxy.date_line()
        if not self.complete and self._live:
            fields += b"\r\nConnection: close"
        self.socket.write_head(response.status, response.reason, fields, body)

    def respond_body(self, body: bytes, end: bool) -> None:
        """See `ExchangeFront`."""
        self._log.body_bytes += len(body)
        if body:
            self.socket.write(body)

    def finished(self, termination: str) -> None:
        """See `ExchangeFront`."""
        if self.socket.ended:
            return
        self._record(termination)
        self._exchange = None
        self._answered = True
        self._end_if_written()

    def failed(self, status: int, sentence: str, termination: str) -> None:
        """See `ExchangeFront`."""
        self._answer(status, sentence, termination, self._live and not self.complete)

    def body_timed_out(self) -> None:
        """See `ExchangeFront`."""
        self._proxy.counters.requests_timed_out += 1
        self._spoiled(408, "the request took too long", "cR")

    def broken(self, termination: str) -> None:
        """See `ExchangeFront`."""
        self._record(termination)
        self._exchange = None
        self._end(self.socket.cut)

    def gone(self, termination: str) -> None:
        """See `ExchangeFront`."""
        self._record(termination)
        self._exchange = None
        self._end(self.socket.end)

    # Answers and ends

    def _spoiled(self, status: int, sentence: str, termination: str) -> None:
        """The rest of the request's body is no good, or doesn't come."""
        exchange = self._exchange
        if exchange is not None and exchange.responding:
            # The answer goes on.
            self._dropping = True
            return
        if exchange is not None:
            exchange.abandon()
        self._answer(status, sentence, termination, True)

    def _refuse(self, status: int, sentence: str, close: bool = False) -> None:
        self._answer(status, sentence, "PR", close)

    def _answer(self, status: int, sentence: str, termination: str, close: bool) -> None:
        """Answer ourselves. `close`: then the connection ends."""
        proxy = self._proxy
        if termination == "PR":
            proxy.counters.requests_refused += 1
        if self._collected:
            self._forget_collected()
        data = proxy.answers.answer(status, sentence, proxy.date_line(), not close)
        head, _, body = data.partition(HEAD_END)
        line, _, fields = head.partition(b"\r\n")
        self._log.answered(status, len(head), len(body))
        self._record(termination)
        self._exchange = None
        self.socket.want_no_continue()
        self.socket.write_head(status, line.split(b" ", 2)[2], b"\r\n" + fields, body)
        self._answered = True
        self._end_if_written()

    def _end_if_written(self) -> None:
        """The response is written: end when the client has taken it and has sent its request.

        A response that Twisted still holds must not meet the next one, whose producer wouldn't
        hear of the pause.
        """
        if self.socket.ended:
            return
        if self.socket.backlog:
            self.socket.limit(self._proxy.timeouts.write)
        elif self._live and not self.complete:
            if self._paused:
                self.resume_body()
            self.socket.limit(LINGER_SECONDS)
        else:
            self._end(self.socket.finish)

    def _end(self, way: Callable[[], None]) -> None:
        """End, this `way`."""
        if self.socket.ended:
            return
        self._answered = True
        if self._collected:
            self._forget_collected()
        self._content = None
        self._over(self)
        way()

    def _record(self, termination: str) -> None:
        self._log.write(
            self._proxy, self.socket, self._head, self._site, self._exchange, termination
        )
