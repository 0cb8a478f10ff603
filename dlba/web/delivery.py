"""Brings one request to a backend: chooses, connects, tries the next one, sends again.

A request is sent again only if no byte of it was accepted by a backend's kernel, or if it is
idempotent, wholly buffered, no byte of a response has come and the connection broke. For the same
reason only such a request goes over a connection that served another one before (`reuse`): the
backend may be about to close it.

What is wrong with us (no descriptor, no port) marks no backend.
Source: web.md rules 5, 6 and 14; RFC 9110 9.2.2; RFC 9112 9.3.1; the seed's "URL based" scheduling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dlba.web.backendside import OWN_ERRORS, BackendSide
from dlba.web.choice import choose
from dlba.web.memory import BLOCK

if TYPE_CHECKING:
    from dlba.web.choice import Site
    from dlba.web.front import BackendEvents
    from dlba.web.head import RequestHead
    from dlba.web.pool import Backend
    from dlba.web.proxy import Proxy

__all__ = ["IDEMPOTENT", "Delivery"]

#: Methods that may be sent twice (RFC 9110 9.2.2).
IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})

#: Status, sentence and termination of a request for which no backend could be had.
_REFUSED: Final = (503, "no web server can be reached", "SC")
_TIMED_OUT: Final = (504, "no web server can be reached", "sC")
_OVERLOADED: Final = (503, "the service is overloaded", "RC")


class Delivery:
    """The way of one request to a backend.

    `backend`: the one tried last, None before the first; `reason`, `retries`: for the log; `begun`:
    when the last connect was begun; `failure`: where no side could be had, the status, sentence and
    termination to answer.
    """

    __slots__ = (
        "_data",
        "_held",
        "_proxy",
        "_request",
        "_reusable",
        "_reused",
        "_site",
        "_tried",
        "_until",
        "_values",
        "backend",
        "begun",
        "failure",
        "reason",
        "retries",
    )

    def __init__(self, proxy: Proxy, request: RequestHead, site: Site) -> None:
        self._proxy = proxy
        self._request = request
        self._site = site
        #: The request as it goes out, kept as long as it may have to be sent again.
        self._data = b""
        #: Bytes of it that are counted in `proxy.memory`.
        self._held = 0
        self._values: list[bytes] = []
        self._tried: list[Backend] = []
        #: A kept connection may be used; one is.
        self._reusable = self._reused = False
        self._until = 0.0
        self.backend: Backend | None = None
        self.begun = 0.0
        self.failure = _REFUSED
        self.reason = "-"
        self.retries = 0

    def start(
        self, receiver: BackendEvents, data: bytes, values: list[bytes], now: float, reusable: bool
    ) -> BackendSide | None:
        """Choose a backend and send `data`, the request with what there is of its body.

        `receiver` gets the events of the connection; it isn't kept, as it knows us. `values`: what
        stood in the persistence cookie; `reusable`: a kept connection may be used. The side may not
        be connected yet. None: none can be had, see `failure`.
        """
        self._data = data
        self._values = values
        self._reusable = reusable
        self._until = now + self._site.pool.config.connect_total
        if len(data) > BLOCK:
            self._held = len(data)
            self._proxy.memory.change(self._held)
        backend, self.reason = choose(self._site, self._request, values, now, ())
        return self._connect(receiver, backend, now)

    def patience(self, now: float) -> float:
        """Seconds for the connect that was begun at `now`."""
        return min(self._site.pool.config.connect_timeout, self._until - now)

    def arrived(self, repeatable: bool) -> None:
        """The backend's kernel has taken a byte. `repeatable`: the request is all there."""
        backend = self.backend
        assert backend is not None
        if backend.failed:
            self._site.pool.recover(backend)
            self._proxy.backend_recovered(backend)
        if not repeatable or self._request.method not in IDEMPOTENT:
            self.release()

    def unreachable(
        self, receiver: BackendEvents, now: float, reason: str, timed_out: bool = False
    ) -> BackendSide | None:
        """The connection couldn't be made: the next one's side, as of `start`."""
        self.failure = _TIMED_OUT if timed_out else _REFUSED
        return self._connect(receiver, self._next(now, reason), now)

    def again(self, receiver: BackendEvents, now: float) -> BackendSide | None:
        """The connection broke before any response: another side, where it may be sent again.

        None: it may not; or nobody can be had, which the caller answers alike.
        """
        if not self._data:
            return None
        if self._reused:
            # The backend closed it before the request came: that isn't a failure.
            self._reusable = self._reused = False
            backend = self.backend if now < self._until else None
        else:
            backend = self._other(now)
        if backend is None:
            return None
        self._proxy.counters.retries += 1
        self.failure = _REFUSED
        return self._connect(receiver, backend, now)

    def release(self) -> None:
        """The request needn't be sent again."""
        self._data = b""
        if self._held:
            self._proxy.memory.change(-self._held)
            self._held = 0

    @property
    def kept(self) -> bool:
        """Whether it went over a connection that served another request before."""
        return self._reused

    @property
    def repeatable(self) -> bool:
        """Whether the request may still be sent again."""
        return bool(self._data)

    def _connect(
        self, receiver: BackendEvents, backend: Backend | None, now: float
    ) -> BackendSide | None:
        """A side to `backend`, and if that fails at once to the next ones."""
        proxy = self._proxy
        counters = proxy.counters
        while backend is not None:
            self.backend = backend
            self.begun = now
            if self._reusable:
                kept = self._take_kept(receiver, backend)
                if kept is not None:
                    return kept
            counters.backend_connects += 1
            try:
                return BackendSide(proxy, receiver, backend, self._data)
            except OSError as error:
                if error.errno not in OWN_ERRORS:
                    self.failure = _REFUSED
                    backend = self._next(now, error.strerror or "unreachable")
                elif not proxy.idle.drop_oldest():
                    # Idle connections hold descriptors and ports; there is none left to give.
                    counters.own_connect_failures += 1
                    self.failure = _OVERLOADED
                    self.release()
                    return None
        counters.backends_unavailable += 1
        self.release()
        return None

    def _take_kept(self, receiver: BackendEvents, backend: Backend) -> BackendSide | None:
        """A kept connection to `backend`, with the request sent, if there is a good one."""
        idle = self._proxy.idle
        while (side := idle.take(backend)) is not None:
            if side.serve(receiver, self._data):
                self._reused = True
                self._proxy.counters.backend_reuses += 1
                return side
        return None

    def _next(self, now: float, reason: str) -> Backend | None:
        """Mark the backend tried last as failed; the one to try now, or None."""
        backend = self.backend
        assert backend is not None
        self._proxy.counters.backend_connect_failures += 1
        if not backend.marked:
            self._proxy.backend_failed(backend, reason)
        self._site.pool.fail(backend, now)
        return self._other(now)

    def _other(self, now: float) -> Backend | None:
        """A backend that wasn't tried yet, or None."""
        assert self.backend is not None
        self._tried.append(self.backend)
        if now >= self._until:
            return None
        other, reason = choose(self._site, self._request, self._values, now, self._tried)
        if other is not None:
            self.reason = reason
            self.retries += 1
            self._proxy.counters.reroutes += 1
        return other
