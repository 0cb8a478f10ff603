"""Moves bytes between one backend's connection and the exchange that it serves.

It is made without any of Twisted's machinery: a non-blocking connect, the request sent at once if
the kernel takes it, the descriptor registered with the poller. Whoever it serves gets the
events of `dlba.web.front.BackendEvents`.

A connection carries one request. After a full response it is closed by a reset, so that no
TIME_WAIT holds a port, here or at the backend (docs/decisions/0002). With `backend_close: wait` the
backend gets a second to close first, and is answered in kind. With `reuse: true` it is parked
instead, and may `serve` another exchange; whatever a backend says unasked ends it.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import socket
import time
from typing import TYPE_CHECKING, Final

from dlba.poller import READ, WRITE
from dlba.web.keeping import Keeping
from dlba.web.stream import READ_SIZE, SMALL_READ, reset

if TYPE_CHECKING:
    from dlba.web.front import BackendEvents
    from dlba.web.pool import Backend
    from dlba.web.proxy import Proxy

__all__ = ["OWN_ERRORS", "UPLOAD_LIMIT", "BackendSide"]

#: Errors that are ours, not the backend's: no descriptor, no buffer, no port left.
OWN_ERRORS: Final = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EADDRNOTAVAIL,
        errno.EAGAIN,
        errno.ENOSPC,  # epoll_ctl: fs.epoll.max_user_watches
    }
)
#: Reads of one callback: 256 KiB, then the others have their turn.
_READS: Final = 4
#: Bytes that wait for a backend before its client is paused.
UPLOAD_LIMIT: Final = 64 * 1024
#: Seconds that `backend_close: wait` waits for the backend to close.
_WAIT: Final = 1.0
_FLAGS: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class BackendSide(Keeping):
    """One connection to a backend. `deadline`, `slot`: see `dlba.web.deadlines`."""

    __slots__ = (
        "_broken",
        "_ending",
        "_exchange",
        "_fd",
        "_mask",
        "_parked",
        "_paused",
        "_proxy",
        "_recv",
        "_sock",
        "backend",
        "connected",
        "deadline",
        "slot",
    )

    def __init__(
        self, proxy: Proxy, exchange: BackendEvents, backend: Backend, data: bytes
    ) -> None:
        """Begin to connect, and send `data` if that goes at once.

        Raises OSError when it fails at once: `errno` in `OWN_ERRORS` is our own fault.
        """
        super().__init__(proxy.memory)
        self._proxy = proxy
        self._exchange: BackendEvents | None = exchange
        self.backend = backend
        address = backend.address
        sock = _socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, _FLAGS)
        self._sock = sock
        self._recv = sock.recv
        self._fd = sock.fileno()
        #: What broke the connection, as a send has found.
        self._broken: OSError | None = None
        self._paused = False
        #: Nothing more is sent once the backlog is gone.
        self._ending = False
        #: Idle, kept for another exchange.
        self._parked = False
        #: The backend's kernel has taken a byte of the request.
        self.connected = False
        self.deadline = 0.0
        self.slot = -1
        try:
            failure = sock.connect_ex(address)
            if failure and failure != errno.EINPROGRESS:
                raise OSError(failure, "connect")
            try:
                taken = sock.send(data)
                self.connected = True
            except BlockingIOError:
                taken = 0
            if taken < len(data):
                self._keep_rest(data, taken)
                # While connecting, the error comes with the writability.
                self._mask = READ | WRITE if taken else WRITE
            else:
                self._mask = READ
            proxy.poller.add(self._fd, self._mask, self)
        except OSError:
            self._drop()
            sock.close()
            raise
        proxy.open_backends += 1
        backend.open_connections += 1

    # Events

    def on_event(self, mask: int) -> None:
        """The poller: something may be possible now."""
        if self._exchange is None:
            self._await_close()
            return
        if self._parts:
            self._flush()
        if self._fd >= 0 and self._mask & READ:
            self.read()

    def look(self) -> None:
        """Take notice of what has happened, though the poller hasn't told yet."""
        self.on_event(READ | WRITE)

    def abort(self) -> None:
        """The poller caught an exception of ours: end this exchange alone."""
        exchange = self._exchange
        self.reset()
        if exchange is not None:
            exchange.backend_failed(None)

    def shed(self) -> None:
        """See `Keeping`: the backend doesn't take what it is sent."""
        self.abort()

    def expire(self, now: float) -> None:
        """The second of `backend_close: wait` is over, or the time that it may be idle."""
        self.reset()

    def read(self) -> None:
        """Read what there is, up to the budget of one turn."""
        memory = self._proxy.memory
        for _ in range(_READS):
            exchange = self._exchange
            if exchange is None:
                return
            # Only answers end what waits for them, so they are read even then, but little of each.
            size = SMALL_READ if memory.full else READ_SIZE
            try:
                data = self._recv(size)
            except BlockingIOError:
                self._want(self._mask | READ)
                return
            except OSError as error:
                exchange.backend_failed(error)
                return
            if not data:
                if self._broken is not None:
                    exchange.backend_failed(self._broken)
                else:
                    exchange.backend_eof()
                return
            exchange.received(data)
            if self._fd < 0 or self._paused:
                return
            if len(data) < size:
                break
        if self._exchange is not None:
            self._want(self._mask | READ)

    def _flush(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        try:
            taken = self._sock.send(data)
        except BlockingIOError:
            taken = 0
        except OSError as error:
            if self.connected:
                self._note(error)
                # A backend may answer and close before it has read everything: what it said is
                # read first, and its end is found there.
                self._drop()
                self._want(0 if self._paused else READ)
            else:
                exchange.backend_failed(error)
            return
        if taken < len(data):
            self._keep_rest(data, taken)
        else:
            self._drop()
        if taken and not self.connected:
            self.connected = True
            exchange.connected()
        if parts:
            if self.connected and not self._paused:
                self._want(READ | WRITE)
        else:
            self._want(0 if self._paused else READ)
            if self._ending:
                self._shut_down()
            exchange.upload_drained()

    # From the exchange

    def write(self, data: bytes) -> None:
        """Send more of the request (not empty); what doesn't go now is the backlog."""
        if self._parts:
            self._keep(data)
            return
        try:
            taken = self._sock.send(data)
        except BlockingIOError:
            taken = 0
        except OSError as error:
            # As in _flush: the answer, or the end, is found by reading.
            self._note(error)
            return
        if taken < len(data):
            self._keep_rest(data, taken)
            self._want(self._mask | WRITE)

    def _note(self, error: OSError) -> None:
        """Sending has failed by `error`; the kernel tells of a reset only once."""
        # EPIPE only comes behind an end that reading finds, or behind a reset told before.
        if error.errno != errno.EPIPE:
            self._broken = error

    def end(self) -> None:
        """Close our direction once everything is written; the backend may go on."""
        self._ending = True
        if not self._parts:
            self._shut_down()

    def _shut_down(self) -> None:
        # A backend that is gone already is found by reading.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def attach(self, exchange: BackendEvents) -> None:
        """Serve `exchange` from now on, in the middle of the connection."""
        self._exchange = exchange

    def pause(self) -> None:
        """Read nothing until `resume()`."""
        if not self._paused:
            self._paused = True
            self._want(self._mask & ~READ)

    def resume(self) -> None:
        """Read on, at once: the poller hears of it only when there is nothing to read."""
        if self._paused:
            self._paused = False
            self.read()

    def met_itself(self) -> bool:
        """Whether TCP connected our socket to itself.

        That happens where a backend on this machine is dead and its port is one that the kernel
        gives to outgoing connections.
        """
        try:
            return bool(self._sock.getsockname() == self._sock.getpeername())
        except OSError:
            return False

    def finish(self, wait: bool) -> None:
        """The response is complete: close. `wait`: the backend may close first."""
        self._exchange = None
        if not wait:
            self.reset()
            return
        self._want(READ)
        self.deadline = time.monotonic() + _WAIT
        self._proxy.deadlines.watch(self)
        self._proxy.closing.add(self)
        self._await_close()

    def park(self) -> None:
        """The response is complete and the backend keeps the connection: another may use it."""
        proxy = self._proxy
        self._exchange = None
        self._parked = True
        self._paused = False
        proxy.open_backends -= 1
        self.backend.open_connections -= 1
        self._want(READ)
        proxy.idle.park(self, time.monotonic())

    def serve(self, exchange: BackendEvents, data: bytes) -> bool:
        """Send another request on a parked connection; False: it was no good, and is closed."""
        try:
            # What a backend said unasked would be taken for the answer.
            self._sock.recv(1, socket.MSG_PEEK)
            taken = -1
        except BlockingIOError:
            taken = 0
        except OSError:
            taken = -1
        if not taken:
            try:
                taken = self._sock.send(data)
            except BlockingIOError:
                pass
            except OSError:
                taken = -1
        if taken < 0:
            self.reset()
            return False
        proxy = self._proxy
        self._parked = False
        self._exchange = exchange
        proxy.open_backends += 1
        self.backend.open_connections += 1
        if taken < len(data):
            self._keep_rest(data, taken)
            self._want(READ | WRITE)
        return True

    def reset(self) -> None:
        """Close now, with a reset."""
        self._exchange = None
        if self._fd >= 0:
            self._end()
            reset(self._sock)

    def _await_close(self) -> None:
        if self._fd < 0:
            return
        try:
            if self._recv(READ_SIZE):
                self.reset()
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._end()
        self._sock.close()

    def _end(self) -> None:
        proxy = self._proxy
        if self._mask:
            proxy.poller.forget(self._fd)
        proxy.deadlines.forget(self)
        self._fd = -1
        self._drop()
        if self._parked:
            proxy.idle.forget(self)
            return
        proxy.closing.discard(self)
        proxy.open_backends -= 1
        self.backend.open_connections -= 1

    def _want(self, mask: int) -> None:
        """Register for `mask`; with none, leave the set: a closed peer would be told forever."""
        if mask == self._mask or self._fd < 0:
            return
        if not mask:
            self._proxy.poller.remove(self._fd)
        elif not self._mask:
            self._proxy.poller.add(self._fd, mask, self)
        else:
            self._proxy.poller.change(self._fd, mask)
        self._mask = mask
