"""Carries one request to a backend and its response back.

Stands between the front (what the client speaks) and the backend side (one connection): chooses the
backend, tries the next one when it can't be reached, relays both bodies as they are read, and says
who is waited for. Backpressure: whoever doesn't take what it was given pauses the other side.

A request is sent again only if no byte of it was accepted by a backend's kernel, or if it is
idempotent, wholly buffered, no byte of a response has come and the connection broke. For the same
reason only such a request goes over a connection that served another one before (`reuse`): the
backend may be about to close it.
Source: web.md rules 5 to 9, 12 to 14; RFC 9110 9.2.2, 15.2; the seed's "DLBA Server Architecture".
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from dlba.errors import BackendError
from dlba.web.backendside import OWN_ERRORS, BackendSide
from dlba.web.body import chunk
from dlba.web.choice import choose
from dlba.web.cookie import cookie_values, cut_cookie, inject
from dlba.web.forward import CLOSE, KEEP, added_fields, request_head, switch_request
from dlba.web.head import CHUNKED
from dlba.web.response import UNTIL_CLOSE
from dlba.web.responsereader import ResponseReader
from dlba.web.upgrade import offered, switched

if TYPE_CHECKING:
    from dlba.web.choice import Site
    from dlba.web.front import ExchangeFront
    from dlba.web.head import RequestHead
    from dlba.web.pool import Backend
    from dlba.web.proxy import Proxy
    from dlba.web.response import ResponseHead

__all__ = ["Exchange"]

#: Bytes of the request that wait for a backend before the client is paused.
UPLOAD_LIMIT: Final = 64 * 1024
#: Bytes of a request that aren't counted: nearly every one has fewer.
UNCOUNTED: Final = 4 * 1024
#: Methods that may be sent twice (RFC 9110 9.2.2).
_IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})


class Exchange:
    """One request and its response.

    `backend`, `reason`, `retries`: for the log. `responding`: the final response's head has gone
    to the client.
    """

    __slots__ = (
        "_answered_at",
        "_begun",
        "_begun_at",
        "_connect_until",
        "_connected_at",
        "_data",
        "_front",
        "_held",
        "_keep",
        "_offer",
        "_proxy",
        "_reader",
        "_request",
        "_response",
        "_reusable",
        "_reused",
        "_side",
        "_site",
        "_tried",
        "_upload_chunked",
        "_values",
        "backend",
        "reason",
        "responding",
        "retries",
    )

    def __init__(
        self, proxy: Proxy, front: ExchangeFront, request: RequestHead, site: Site
    ) -> None:
        self._proxy = proxy
        self._front = front
        self._request = request
        self._site = site
        self.backend: Backend | None = None
        self.reason = "-"
        self.retries = 0
        self.responding = False
        self._side: BackendSide | None = None
        #: The request as it goes out, kept as long as it may have to be sent again.
        self._data = b""
        #: Bytes of it that are counted in `proxy.memory`.
        self._held = 0
        #: The protocols that the backend may switch to, as it is told; b"": none.
        self._offer = b""
        #: The connection may stay afterwards; a kept one may be used; one is.
        self._keep = self._reusable = self._reused = False
        self._values: list[bytes] = []
        self._tried: list[Backend] = []
        self._upload_chunked = False
        self._response: ResponseHead | None = None
        self._reader = ResponseReader(request.method == b"HEAD")
        #: When the exchange was begun, the last connect, connected, and answered; -1: not yet.
        self._begun_at = self._begun = 0.0
        self._connected_at = self._answered_at = -1.0
        self._connect_until = 0.0

    # From the front

    def begin(self, body: bytes, complete: bool) -> None:
        """Choose a backend and send the request with the `body` read so far."""
        request = self._request
        site = self._site
        now = time.monotonic()
        self._begun_at = now
        self._connect_until = now + site.pool.config.connect_total
        name = site.cookie.name
        if request.cookies and name in request.fields:
            self._values = cookie_values(request.fields, name)
            request.fields = cut_cookie(request.fields, name)
        length = request.length
        if length is not None and complete:
            length = len(body)
        elif length == CHUNKED:
            self._upload_chunked = True
            if body:
                body = chunk(body)
        end = CLOSE
        if request.upgrade and site.upgrade:
            self._offer = offered(request.upgrade, site.upgrade)
        if self._offer:
            end = switch_request(self._offer)
        elif site.pool.config.reuse and not request.length:
            # Many a backend ignores the body of a GET, or answers before it has read one: then it
            # would be taken for the next request, that of another client.
            end = KEEP
            self._keep = True
            self._reusable = request.method in _IDEMPOTENT
        fields = request.fields
        if site.request_headers:
            fields = site.request_headers.apply(fields)
        self._data = request_head(request, fields, self._added(request), length, end) + body
        if len(self._data) > UNCOUNTED:
            self._held = len(self._data)
            self._proxy.memory.change(self._held)
        backend, self.reason = choose(site, request, self._values, now, ())
        self._connect(backend, now, 503)

    def _added(self, request: RequestHead) -> bytes:
        """The field lines that we add to the request: forwarding, Via, a Host where none came."""
        proxy = self._proxy
        socket = self._front.socket
        host = request.host_field
        needed = not host and self._site.request_headers.host is None
        own_host = socket.own_host() if needed else b""
        if socket.trusted:
            added = proxy.forwarding.fields(request.forwarding, socket.host, socket.tls, host)
            if own_host:
                added += b"\r\nHost: " + own_host
        else:
            added = added_fields(request, socket.forwarded, own_host)
        if proxy.via:
            added += proxy.via[request.minor]
        return added

    def body(self, data: bytes, complete: bool) -> None:
        """More of the request's body, decoded (maybe b"" at its end)."""
        side = self._side
        if self._upload_chunked:
            data = chunk(data) if data else b""
            if complete:
                data += b"0\r\n\r\n"
        if side is None or not data:
            return
        side.write(data)
        if side.backlog + self._front.socket.read_size > UPLOAD_LIMIT and side.backlog:
            self._front.pause_body()
        self.touch()

    def client_drained(self) -> None:
        """The client has taken all of the response that was given to it."""
        if self._side is not None:
            self._side.resume()

    def client_lost(self) -> None:
        """The client is gone: so is its request."""
        self._proxy.counters.requests_aborted += 1
        self.abandon()
        self._front.gone("CD" if self.responding else "CH")

    def abandon(self) -> None:
        """End the backend's side; the front ends the client's."""
        self._forget_data()
        self._drop_side()

    def _drop_side(self) -> None:
        side, self._side = self._side, None
        if side is not None:
            side.reset()

    def _forget_data(self) -> None:
        """The request needn't be sent again."""
        self._data = b""
        if self._held:
            self._proxy.memory.change(-self._held)
            self._held = 0

    def touch(self) -> None:
        """Something moved: set the deadline of whoever is waited for now."""
        side = self._side
        if side is not None and not side.connected:
            # The connect's own deadline holds.
            return
        timeouts = self._proxy.timeouts
        socket = self._front.socket
        if socket.backlog:
            seconds = timeouts.write
        elif self._waits_for_body():
            seconds = timeouts.body
        else:
            seconds = timeouts.response
        socket.limit(seconds)

    def expire(self, now: float) -> None:
        """Whoever was waited for took too long."""
        counters = self._proxy.counters
        side = self._side
        if side is not None and not side.connected:
            self._unreachable(now, 504, "no connection in time")
        elif self._front.socket.backlog:
            counters.requests_timed_out += 1
            self.abandon()
            self._front.broken("cD")
        elif self._waits_for_body():
            self._front.body_timed_out()
        elif side is not None and side.starved:
            # It is we who don't read.
            self.touch()
        else:
            counters.backend_timeouts += 1
            self.abandon()
            if self.responding:
                counters.responses_broken += 1
                self._front.broken("sD")
            else:
                self._front.failed(504, "the web server took too long to answer", "sH")

    def _waits_for_body(self) -> bool:
        """Whether it is the client's turn: the backend has taken what there is of the request."""
        side = self._side
        # Once the answer has begun, nobody waits for the rest of the request.
        return (
            not self._front.complete
            and not self.responding
            and side is not None
            and not side.backlog
        )

    def times(self) -> tuple[float, float, float]:
        """Seconds for the queue, the connect and the response's head; -1: not reached."""
        connected = self._connected_at
        return (
            self._begun - self._begun_at,
            connected - self._begun if connected >= 0 else -1.0,
            self._answered_at - connected if self._answered_at >= 0 else -1.0,
        )

    # Connecting

    def _connect(self, backend: Backend | None, now: float, status: int) -> None:
        """Connect to `backend`, and if that fails at once to the next ones."""
        proxy = self._proxy
        counters = proxy.counters
        while backend is not None:
            self.backend = backend
            self._begun = now
            if self._reusable and self._take_parked(backend):
                self.connected()
                return
            counters.backend_connects += 1
            try:
                side = BackendSide(proxy, self, backend, self._data)
            except OSError as error:
                if error.errno in OWN_ERRORS:
                    if proxy.idle.drop_oldest():
                        # Idle connections hold descriptors and ports.
                        continue
                    counters.own_connect_failures += 1
                    self.abandon()
                    self._front.failed(503, "the service is overloaded", "RC")
                    return
                backend = self._next(backend, now, error.strerror or "unreachable")
                status = 503
                continue
            self._side = side
            if side.connected:
                self.connected()
                if not self._front.complete and not side.backlog:
                    self._front.resume_body()
            else:
                self._front.pause_body()
                seconds = self._site.pool.config.connect_timeout
                self._front.socket.limit(min(seconds, self._connect_until - now))
            return
        self._forget_data()
        counters.backends_unavailable += 1
        sentence = "no web server can be reached"
        self._front.failed(status, sentence, "sC" if status == 504 else "SC")

    def _take_parked(self, backend: Backend) -> bool:
        """Send the request over a kept connection to `backend`, if there is a good one."""
        idle = self._proxy.idle
        while (side := idle.take(backend)) is not None:
            if side.serve(self, self._data):
                self._side = side
                self._reused = True
                self._proxy.counters.backend_reuses += 1
                return True
        return False

    def _next(self, backend: Backend, now: float, reason: str) -> Backend | None:
        """Mark `backend` failed; the one to try now, or None."""
        self._proxy.counters.backend_connect_failures += 1
        if not backend.marked:
            self._proxy.backend_failed(backend, reason)
        self._site.pool.fail(backend, now)
        return self._other(backend, now)

    def _other(self, backend: Backend, now: float) -> Backend | None:
        self._tried.append(backend)
        if now >= self._connect_until:
            return None
        other, reason = choose(self._site, self._request, self._values, now, self._tried)
        if other is not None:
            self.reason = reason
            self.retries += 1
            self._proxy.counters.reroutes += 1
        return other

    def _unreachable(self, now: float, status: int, reason: str) -> None:
        side = self._side
        assert side is not None
        self._drop_side()
        self._reader = ResponseReader(self._request.method == b"HEAD")
        self._connect(self._next(side.backend, now, reason), now, status)

    # From the backend side

    def connected(self) -> None:
        """The backend's kernel has taken a byte of the request."""
        now = time.monotonic()
        self._connected_at = now
        backend = self.backend
        assert backend is not None
        if backend.failed:
            self._site.pool.recover(backend)
            self._proxy.backend_recovered(backend)
        if not self._front.complete or self._request.method not in _IDEMPOTENT:
            self._forget_data()
        self.touch()

    def upload_drained(self) -> None:
        """The backend has taken all of the request that was given to it."""
        if not self._front.complete:
            self._front.resume_body()
        self.touch()

    def received(self, data: bytes) -> None:
        """Bytes of the response; never empty."""
        if self._response is None:
            self._take_head(data)
        else:
            self._relay(self._response, data)

    def backend_eof(self) -> None:
        """The backend has closed its direction."""
        response = self._response
        if response is not None and response.length == UNTIL_CLOSE:
            self._front.respond_body(b"", True)
            self._finish(False)
        else:
            self._broke()

    def backend_failed(self, error: OSError | None) -> None:
        """The connection to the backend is gone; None: by an error of ours."""
        side = self._side
        if side is not None and not side.connected and error is not None:
            self._unreachable(time.monotonic(), 503, error.strerror or "unreachable")
        else:
            self._broke()

    def _broke(self) -> None:
        """The connection ended before the response did."""
        counters = self._proxy.counters
        side = self._side
        self._drop_side()
        if self.responding:
            counters.responses_broken += 1
            self._forget_data()
            self._front.broken("SD")
            return
        if self._data and not self._reader.heard and side is not None:
            now = time.monotonic()
            if self._reused:
                # The backend closed it before the request came: that isn't a failure.
                self._reusable = self._reused = False
                other: Backend | None = side.backend
            else:
                other = self._other(side.backend, now)
            if other is not None:
                counters.retries += 1
                self._connect(other, now, 503)
                return
        counters.backend_errors += 1
        self._forget_data()
        self._front.failed(502, "the web server closed the connection too soon", "SH")

    # The response

    def _take_head(self, data: bytes) -> None:
        reader = self._reader
        try:
            response = reader.head(data)
            while response is not None and response.status < 200:
                if response.status == 101:
                    self._switch(response)
                    return
                self._front.interim(response)
                response = reader.head(b"")
            if response is None:
                self.touch()
                return
            body, ended, more = reader.body(response, reader.rest())
        except BackendError:
            self._bad_response()
            return
        self._response = response
        fields = self._answered(response)
        self.responding = True
        self._front.respond(response, fields, body, ended)
        self._go_on(ended, more)

    def _answered(self, response: ResponseHead) -> bytes:
        """The backend has answered: the field lines that go to the client."""
        self._forget_data()
        self._answered_at = time.monotonic()
        fields = response.fields
        site = self._site
        backend = self.backend
        assert backend is not None
        if site.response_headers:
            fields = site.response_headers.apply(fields)
        if site.schedule == "cookie":
            fields, given = inject(
                fields, site.cookie, backend.token, self.reason != "cookie", time.time()
            )
            if given:
                backend.cookie_groups += given
                self._proxy.counters.cookies_injected += given
        if self._proxy.via:
            fields += self._proxy.via[response.minor]
        return fields

    def _switch(self, response: ResponseHead) -> None:
        """The backend says that it has switched protocols. Raises BackendError if nobody asked."""
        if not self._offer or not switched(response.upgrade, self._offer):
            raise BackendError("head", "a switch of protocols that nobody asked for")
        fields = self._answered(response)
        self.responding = True
        side, self._side = self._side, None
        backend = self.backend
        assert backend is not None
        assert side is not None
        backend.answered(self._answered_at - self._begun)
        self._proxy.counters.tunnels += 1
        self._front.switch(response, fields, side, self._reader.rest())

    def _relay(self, response: ResponseHead, data: bytes) -> None:
        try:
            body, ended, more = self._reader.body(response, data)
        except BackendError:
            self._bad_response()
            return
        self._front.respond_body(body, ended)
        self._go_on(ended, more)

    def _go_on(self, ended: bool, more: bool) -> None:
        """After a part of the response. `more`: the backend sent bytes that belong to nothing."""
        if ended:
            self._finish(more)
            return
        side = self._side
        if side is not None and self._front.socket.backlog:
            side.pause()
        self.touch()

    def _bad_response(self) -> None:
        """What the backend says isn't HTTP."""
        if self._data and self._side is not None and self._side.met_itself():
            self._unreachable(time.monotonic(), 503, "connected to itself")
            return
        counters = self._proxy.counters
        counters.backend_errors += 1
        self.abandon()
        if self.responding:
            counters.responses_broken += 1
            self._front.broken("PD")
        else:
            self._front.failed(502, "the web server sent an invalid response", "PH")

    def _finish(self, more: bool) -> None:
        backend = self.backend
        side, self._side = self._side, None
        response = self._response
        assert backend is not None
        assert response is not None
        backend.answered(self._answered_at - self._begun)
        self._proxy.counters.responses += 1
        if side is not None:
            config = self._site.pool.config
            if not self._front.complete:
                side.reset()
            elif (
                self._keep
                and response.keep_alive
                and response.length != UNTIL_CLOSE
                and not more
                and not side.backlog
                and not self._proxy.stopping
            ):
                side.park()
            else:
                side.finish(config.backend_close == "wait")
        self._front.finished("--")
