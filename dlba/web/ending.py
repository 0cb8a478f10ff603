"""Ends one client's connection so that nobody loses an answer.

`close` after a clean last response; `linger` where unread input may be under way (answer,
close_notify, SHUT_WR, discard up to 1 MiB or 2 s, close), else a reset would destroy the answer;
`reset` to show that something broke. The first two wait until everything is written. The base of
`dlba.web.clientsocket`, which moves the bytes until then: a connection shakes hands, is open, is
ending where it lingers, and is closed, in this order.

Source: web.md rule 10; RFC 9112 9.6.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dlba.poller import READ
from dlba.web.front import NOBODY
from dlba.web.keeping import Keeping

if TYPE_CHECKING:
    from dlba.web.front import ClientFront
    from dlba.web.proxy import Proxy
    from dlba.web.stream import Stream

__all__ = ["ENDING", "HANDSHAKE", "OPEN", "Ending"]

#: What is discarded of a client whose answer has been sent.
LINGER_BYTES: Final = 1024 * 1024
LINGER_SECONDS: Final = 2.0

HANDSHAKE, OPEN, ENDING, CLOSED = range(4)


class Ending(Keeping):
    """A connection registered with the poller. `deadline`, `slot`: see `dlba.web.deadlines`.

    `closed`: nothing more is read or written: it has ended, or is about to.
    """

    __slots__ = (
        "_discarded",
        "_fd",
        "_front",
        "_mask",
        "_proxy",
        "_reading",
        "_state",
        "_stream",
        "_then",
        "_write_failed",
        "closed",
        "deadline",
        "slot",
    )

    def __init__(self, proxy: Proxy, stream: Stream, descriptor: int) -> None:
        super().__init__(proxy.memory)
        self._proxy = proxy
        self._stream = stream
        self._fd = descriptor
        self._front: ClientFront
        #: What the poller is to tell.
        self._mask = READ
        self._state = HANDSHAKE
        self._reading = True
        self._write_failed = False
        #: How to end when the backlog is gone: None (not at all), "close" or "linger".
        self._then: str | None = None
        self._discarded = 0
        self.closed = False
        self.deadline = 0.0
        self.slot = -1

    def close(self) -> None:
        """Close cleanly once everything is written."""
        self._end_when_written("close")

    def linger(self) -> None:
        """Write everything, then read and discard for a while, then close."""
        self._end_when_written("linger")

    def reset(self) -> None:
        """Close with a reset, now; the front isn't told."""
        self._end(self._stream.reset)

    def abort(self) -> None:
        """The poller caught an exception of ours: end this connection and tell the front."""
        self._lose()

    def limit(self, seconds: float) -> None:
        """Whatever is waited for now has `seconds` from now on."""
        self.deadline = time.monotonic() + seconds
        if self._state != CLOSED:
            self._proxy.deadlines.hasten(self)

    def pause(self) -> None:
        """Read nothing until `resume()`."""
        if self._reading:
            self._reading = False
            self._want(self._mask & ~READ)

    def _serves(self) -> bool:
        """Whether it is open and nothing has begun to end it."""
        return self._state == OPEN and self._then is None

    def _end_when_written(self, way: str) -> None:
        if not self._serves():
            return
        self._then = way
        self.closed = True
        if self._parts:
            self.pause()
            self.limit(self._proxy.timeouts.write)
        else:
            self._finish()

    def _finish(self) -> None:
        """Everything is written, or can't be."""
        if self._write_failed or self._then == "close":
            self._end(self._stream.close)
            return
        self._state = ENDING
        self._want(READ)
        self.limit(LINGER_SECONDS)
        try:
            self._stream.end()
        except OSError:
            self._end(self._stream.close)

    def _discard(self) -> None:
        """Something came of a client that has its answer."""
        try:
            while self._discarded < LINGER_BYTES:
                size = self._stream.discard()
                if size is None:
                    return
                if not size:
                    break
                self._discarded += size
        except OSError:
            pass
        self._end(self._stream.close)

    def _lose(self) -> None:
        """The connection is gone, or isn't worth more: tell the front, if it still serves."""
        if self._state != CLOSED:
            serves = self._serves()
            if self._stream.flooded:
                self._proxy.counters.tls_floods_cut += 1
            front = self._front
            self._end(self._stream.reset)
            if serves:
                front.lost()

    def _end(self, close: Callable[[], None]) -> None:
        if self._state == CLOSED:
            return
        self._state = CLOSED
        self.closed = True
        proxy = self._proxy
        proxy.poller.forget(self._fd)
        proxy.deadlines.forget(self)
        self._drop()
        self._reading = False
        # The front knows this socket: without this, each connection, and what OpenSSL keeps for it
        # out of the collector's sight, would live until a garbage collection.
        self._front = NOBODY
        with contextlib.suppress(OSError):
            close()
        self._gone()

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        raise NotImplementedError

    def _gone(self) -> None:
        """It has ended: tell whoever else knows it."""
        raise NotImplementedError

    def _want(self, mask: int) -> None:
        if mask != self._mask:
            self._mask = mask
            self._proxy.poller.change(self._fd, mask)
