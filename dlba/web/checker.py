"""Asks each backend of a pool with `check` how it is: one GET over a connection of its own.

What a result means, and when the next check is due, is decided in `dlba.web.health`; here are the
connections. No connection, no response head within `timeout`, and what `dlba.web.responsereader`
refuses are bad checks; else the status decides. Redirects aren't followed. The body changes
nothing: it is read only so that a backend doesn't see its answer cut off, up to `READ_LIMIT`.

What is ours (no descriptor, no port, no memory) counts for nothing: the next check will tell.
Checks don't stand in the rows' open connections. Source: web.md rule 6.
"""

from __future__ import annotations

import _socket
import errno
import os
import socket
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from dlba import __version__
from dlba.errors import BackendError
from dlba.poller import READ, WRITE
from dlba.web.backendside import OWN_ERRORS
from dlba.web.health import Change, Health, Rota, is_good
from dlba.web.responsereader import ResponseReader
from dlba.web.stream import reset

if TYPE_CHECKING:
    from dlba.config.values import CheckConfig
    from dlba.web.pool import Backend, Pool
    from dlba.web.proxy import Proxy
    from dlba.web.response import ResponseHead

__all__ = ["Check", "Checker", "check_request"]

#: Bytes of a response that are read, head and body: as much as a head may have.
READ_LIMIT: Final = 64 * 1024
_READ_SIZE: Final = 16 * 1024
_FLAGS: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_BEGINNING: Final = b"HTTP/1."


def check_request(config: CheckConfig, backend: Backend) -> bytes:
    """What a check of `backend` sends."""
    host = str(backend.endpoint) if config.host is None else config.host
    return (
        f"GET {config.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: DLBA/{__version__} (check)\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    ).encode()


class Check:
    """One check of one backend. `deadline`, `slot`: see `dlba.web.deadlines`."""

    __slots__ = (
        "_checker",
        "_fd",
        "_reader",
        "_request",
        "_response",
        "_sock",
        "_taken",
        "_watched",
        "deadline",
        "slot",
    )

    def __init__(self, checker: Checker, watched: _Watched, deadline: float) -> None:
        """Begin to connect. Raises OSError when that fails at once."""
        self._checker = checker
        self._watched = watched
        #: What of the request isn't sent yet.
        self._request = watched.request
        self._reader = ResponseReader(False)
        self._response: ResponseHead | None = None
        #: Bytes of the response so far.
        self._taken = 0
        self.deadline = deadline
        self.slot = -1
        address = watched.backend.address
        sock = _socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, _FLAGS)
        self._sock = sock
        self._fd = sock.fileno()
        try:
            failure = sock.connect_ex(address)
            if failure and failure != errno.EINPROGRESS:
                raise OSError(failure, os.strerror(failure))
            checker.proxy.poller.add(self._fd, WRITE, self)
        except OSError:
            sock.close()
            raise
        checker.proxy.deadlines.watch(self)

    def on_event(self, mask: int) -> None:
        """The poller: something may be possible now."""
        if self._fd < 0:
            return
        try:
            if self._request:
                self._send()
            else:
                self._read()
        except BlockingIOError:
            return
        except OSError as error:
            self._over(error.strerror or "broken", ours=error.errno in OWN_ERRORS)
        except BackendError as error:
            self._over(error.reason)

    def expire(self, now: float) -> None:
        """The time for this check is over, unless it is us who are late."""
        self.on_event(READ)
        self._over("no connection in time" if self._request else "no response in time")

    def abort(self) -> None:
        """An exception of ours was caught: this check counts for nothing."""
        self._over("", ours=True)

    def cancel(self) -> None:
        """Close now and tell nobody."""
        if self._fd >= 0:
            proxy = self._checker.proxy
            proxy.poller.forget(self._fd)
            proxy.deadlines.forget(self)
            self._fd = -1
            reset(self._sock)

    def _send(self) -> None:
        self._request = self._request[self._sock.send(self._request) :]
        if not self._request:
            self._checker.proxy.poller.change(self._fd, READ)

    def _read(self) -> None:
        while self._fd >= 0:
            data = self._sock.recv(_READ_SIZE)
            if not data:
                self._over("closed without a response")
            elif self._take(data) or self._taken >= READ_LIMIT:
                self._over("the response's head is too large")

    def _take(self, data: bytes) -> bool:
        """More of the response: whether it is complete. Raises BackendError."""
        if not self._taken and not data.startswith(_BEGINNING[: len(data)]):
            raise BackendError("head", "the response isn't HTTP/1")
        self._taken += len(data)
        reader = self._reader
        response = self._response
        if response is None:
            response = reader.head(data)
            while response is not None and 101 < response.status < 200:
                response = reader.head(b"")
            if response is None:
                return False
            self._response = response
            data = reader.rest()
        return reader.body(response, data)[1]

    def _over(self, reason: str, ours: bool = False) -> None:
        """No more of the response: its head decides, without one `reason` is what was wrong."""
        if self._fd < 0:
            return
        self.cancel()
        response = self._response
        if response is not None:
            good = is_good(response.status)
            self._checker.ended(self._watched, good, f"status {response.status}")
        else:
            self._checker.ended(self._watched, None if ours else False, reason)


class _Watched:
    """One backend that is checked, and its check if one is open."""

    __slots__ = ("backend", "check", "config", "health", "pool", "request")

    def __init__(self, pool: Pool, backend: Backend, config: CheckConfig) -> None:
        self.pool = pool
        self.backend = backend
        self.health = Health(config.rise, config.fall)
        self.check: Check | None = None
        self.configure(config)

    def configure(self, config: CheckConfig) -> None:
        self.config = config
        self.health.configure(config.rise, config.fall)
        self.request = check_request(config, self.backend)


class Checker:
    """The checks of all pools."""

    def __init__(self, reactor: Any, proxy: Proxy) -> None:
        self.proxy = proxy
        self._reactor = reactor
        self._rota: Rota[Backend] = Rota()
        self._watched: dict[Backend, _Watched] = {}
        self._call: Any = None
        self._running = False

    def configure(self, pools: Iterable[Pool]) -> None:
        """Check the backends of `pools` from now on, as their configuration says, and no others.

        A row that was checked before keeps what is known of it. Call it after each change of a
        pool's configuration. A disabled backend isn't checked.
        """
        before, self._watched = self._watched, {}
        for pool in pools:
            config = pool.config.check
            if config is None:
                continue
            for backend in pool.backends:
                if not backend.enabled:
                    continue
                watched = before.pop(backend, None)
                if watched is None:
                    watched = _Watched(pool, backend, config)
                else:
                    watched.configure(config)
                self._watched[backend] = watched
        for watched in before.values():
            if watched.check is not None:
                watched.check.cancel()
            watched.pool.set_down(watched.backend, False)
        self._rota.configure(
            [(backend, watched.config.every) for backend, watched in self._watched.items()],
            time.monotonic(),
        )
        self._arrange()

    def start(self) -> None:
        """Check from now on."""
        self._running = True
        self._arrange()

    def stop(self) -> None:
        """Begin no more checks and cut off those that are open; what they found stays."""
        self._running = False
        self._arrange()
        for watched in self._watched.values():
            if watched.check is not None:
                watched.check.cancel()
                self._closed(watched)

    def ended(self, watched: _Watched, good: bool | None, reason: str) -> None:
        """A check is over. `good` None: it counts for nothing, the fault is ours."""
        self._closed(watched)
        self._arrange()
        counters = self.proxy.counters
        if good is None:
            counters.checks_put_off += 1
            return
        counters.checks += 1
        backend = watched.backend
        if good:
            change = watched.health.passed(backend.failed)
        else:
            counters.checks_failed += 1
            change = watched.health.missed()
        if change is Change.DOWN:
            watched.pool.set_down(backend, True)
            self.proxy.backend_failed(backend, f"check: {reason}")
        elif change is Change.UP:
            watched.pool.set_down(backend, False)
            watched.pool.recover(backend)
            self.proxy.backend_recovered(backend)

    def _closed(self, watched: _Watched) -> None:
        watched.check = None
        self._rota.ended(watched.backend, time.monotonic())

    def _arrange(self) -> None:
        """Call `_begin` when the next check is due."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        wait = self._rota.wait(time.monotonic()) if self._running else None
        if wait is not None:
            self._call = self._reactor.callLater(wait, self._begin)

    def _begin(self) -> None:
        """Begin the checks that are due."""
        self._call = None
        now = time.monotonic()
        while (backend := self._rota.take(now)) is not None:
            watched = self._watched[backend]
            try:
                watched.check = Check(self, watched, now + watched.config.timeout)
            except OSError as error:
                ours = error.errno in OWN_ERRORS
                self.ended(watched, None if ours else False, error.strerror or "unreachable")
        self._arrange()
