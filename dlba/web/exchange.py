"""Carries one request to a backend and its response back.

Stands between the front (what the client speaks) and the backend side (one connection), which
`dlba.web.delivery` finds: relays both bodies as they are read, edits both heads by the site's
rules, and says who is waited for. Backpressure: whoever doesn't take what it was given pauses the
other side.

Source: web.md rules 7 to 9, 12 to 14; RFC 9110 7.6, 9.2.2, 15.2; the seed's "DLBA Server
Architecture" and "Cookie Injection".
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dlba.errors import BackendError
from dlba.web.backendside import UPLOAD_LIMIT
from dlba.web.body import chunk
from dlba.web.cookie import cookie_values, cut_cookie, inject
from dlba.web.delivery import IDEMPOTENT, Delivery
from dlba.web.forward import CLOSE, KEEP, added_fields, request_head, switch_request
from dlba.web.head import CHUNKED
from dlba.web.response import UNTIL_CLOSE
from dlba.web.responsereader import ResponseReader
from dlba.web.upgrade import offered, switched

if TYPE_CHECKING:
    from dlba.web.backendside import BackendSide
    from dlba.web.choice import Site
    from dlba.web.front import ExchangeFront
    from dlba.web.head import RequestHead
    from dlba.web.proxy import Proxy
    from dlba.web.response import ResponseHead

__all__ = ["Exchange"]


class Exchange:
    """One request and its response.

    `delivery`: how it found its backend. `responding`: the final response's head has gone
    to the client.
    """

    __slots__ = (
        "_answered_at",
        "_begun_at",
        "_connected_at",
        "_front",
        "_keep",
        "_offer",
        "_proxy",
        "_reader",
        "_request",
        "_response",
        "_side",
        "_site",
        "_upload_chunked",
        "delivery",
        "responding",
    )

    def __init__(
        self, proxy: Proxy, front: ExchangeFront, request: RequestHead, site: Site
    ) -> None:
        self._proxy = proxy
        self._front = front
        self._request = request
        self._site = site
        self.responding = False
        self.delivery = Delivery(proxy, request, site)
        self._side: BackendSide | None = None
        #: The protocols that the backend may switch to, as it is told; b"": none.
        self._offer = b""
        #: The connection may stay afterwards.
        self._keep = False
        self._upload_chunked = False
        self._response: ResponseHead | None = None
        self._reader = ResponseReader(request.method == b"HEAD")
        #: When the exchange was begun, connected, and answered; -1: not yet.
        self._begun_at = 0.0
        self._connected_at = self._answered_at = -1.0

    # From the front

    def begin(self, body: bytes, complete: bool) -> None:
        """Choose a backend and send the request with the `body` read so far."""
        request = self._request
        site = self._site
        now = time.monotonic()
        self._begun_at = now
        name = site.cookie.name
        values: list[bytes] = []
        if request.cookies and name in request.fields:
            values = cookie_values(request.fields, name)
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
        fields = request.fields
        if site.request_headers is not None:
            fields = site.request_headers.apply(fields)
        data = request_head(request, fields, self._added(request), length, end) + body
        reusable = self._keep and request.method in IDEMPOTENT
        self._take(self.delivery.start(self, data, values, now, reusable), now)

    def _take(self, side: BackendSide | None, now: float) -> None:
        """Go on with `side`, begun at `now`; None: there is none to be had."""
        if side is None:
            self._front.failed(*self.delivery.failure)
            return
        self._side = side
        if side.connected:
            self.connected()
            if not self._front.complete and not side.backlog:
                self._front.resume_body()
        else:
            self._front.pause_body()
            self._front.socket.limit(self.delivery.patience(now))

    def _added(self, request: RequestHead) -> bytes:
        """The field lines that we add to the request: forwarding, Via, a Host where none came."""
        proxy = self._proxy
        socket = self._front.socket
        host = request.host_field
        own_host = b""
        if not host:
            changes = self._site.request_headers
            if changes is None or changes.host is None:
                own_host = socket.own_host()
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
        self.delivery.release()
        self._drop_side()

    def _drop_side(self) -> None:
        side, self._side = self._side, None
        if side is not None:
            side.reset()

    def squeeze(self) -> None:
        """Memory is full: what was sent isn't kept for another try."""
        if self._side is not None and self._side.connected:
            self.delivery.release()

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
            # As in `_hears`: it may be us who are late.
            side.look()
            if self._side is side and not side.connected:
                self._unreachable(now, "no connection in time", timed_out=True)
        elif self._front.socket.backlog:
            counters.requests_timed_out += 1
            self.abandon()
            self._front.broken("cD")
        elif self._waits_for_body():
            self._front.body_timed_out()
        elif side is None or not self._hears(side, now):
            counters.backend_timeouts += 1
            self.abandon()
            if self.responding:
                counters.responses_broken += 1
                self._front.broken("sD")
            else:
                self._front.failed(504, "the web server took too long to answer", "sH")

    def _hears(self, side: BackendSide, now: float) -> bool:
        """Whether something has come in time after all: it may be us who are late."""
        side.read()
        return self._side is not side or self._front.socket.deadline > now

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
        begun = self.delivery.begun or self._begun_at
        return (
            begun - self._begun_at,
            connected - begun if connected >= 0 else -1.0,
            self._answered_at - connected if self._answered_at >= 0 else -1.0,
        )

    # From the backend side

    def connected(self) -> None:
        """The backend's kernel has taken a byte of the request."""
        self._connected_at = time.monotonic()
        self.delivery.arrived(self._front.complete)
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
            self._unreachable(time.monotonic(), error.strerror or "unreachable")
        else:
            self._broke()

    def _unreachable(self, now: float, reason: str, timed_out: bool = False) -> None:
        """The connection couldn't be made."""
        self._drop_side()
        self._take(self.delivery.unreachable(self, now, reason, timed_out), now)

    def _broke(self) -> None:
        """The connection ended before the response did."""
        counters = self._proxy.counters
        self._drop_side()
        if self.responding:
            counters.responses_broken += 1
            self._front.broken("SD")
            return
        now = time.monotonic()
        side = None if self._reader.heard else self.delivery.again(self, now)
        if side is not None:
            self._take(side, now)
            return
        counters.backend_errors += 1
        self.delivery.release()
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
                self._hold()
                self.touch()
                return
            if response.status == 408 and self.delivery.kept:
                # "Closed while idle": it isn't about this request (RFC 9110 15.5.9).
                self._reader = ResponseReader(self._request.method == b"HEAD")
                self._broke()
                return
            body, ended, more = reader.body(response, reader.rest())
        except BackendError:
            self._bad_response()
            return
        self._response = response
        side = self._side
        if response.length == CHUNKED or (side is not None and side.held):
            self._hold()
        fields = self._answered(response)
        self.responding = True
        self._front.respond(response, fields, body, ended)
        self._go_on(ended, more)

    def _hold(self) -> None:
        """What is kept of the response, until it can be told what it is, counts as the side's."""
        side = self._side
        held = self._reader.held
        if side is not None and held != side.held:
            side.hold(held)

    def _answered(self, response: ResponseHead) -> bytes:
        """The backend has answered: the field lines that go to the client."""
        delivery = self.delivery
        delivery.release()
        self._answered_at = time.monotonic()
        fields = response.fields
        site = self._site
        backend = delivery.backend
        assert backend is not None
        if site.response_headers is not None:
            fields = site.response_headers.apply(fields)
        if site.schedule == "cookie":
            fields, given = inject(
                fields, site.cookie, backend.token, delivery.reason != "cookie", time.time()
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
        backend = self.delivery.backend
        assert backend is not None
        assert side is not None
        backend.answered(self._answered_at - self.delivery.begun)
        self._proxy.counters.tunnels += 1
        self._front.switch(response, fields, side, self._reader.rest())

    def _relay(self, response: ResponseHead, data: bytes) -> None:
        try:
            body, ended, more = self._reader.body(response, data)
        except BackendError:
            self._bad_response()
            return
        if response.length == CHUNKED:
            self._hold()
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
        side = self._side
        if self.delivery.repeatable and side is not None and side.met_itself():
            self._reader = ResponseReader(self._request.method == b"HEAD")
            self._unreachable(time.monotonic(), "connected to itself")
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
        backend = self.delivery.backend
        side, self._side = self._side, None
        response = self._response
        assert backend is not None
        assert response is not None
        backend.answered(self._answered_at - self.delivery.begun)
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
