"""Tries to reach a node while there is no channel to it.

An adapter. The higher number of two dials, and backs off: 5 ms at first, doubling to 2 s, with
jitter; only a channel that lasted begins anew at once. The lower number can't dial, but must know
as soon as the other one whether there is a process: it makes a bare connection and closes it, with
the same pauses up to a second. Either way a connection that is refused is told.

The first pauses are short because a process that is killed may still take a connection in the
moment after its channel has closed: its descriptors are closed one after another.

Source: election.md "Heartbeat and evidence of death" 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from dlba.addresses import Endpoint

__all__ = ["Dialer"]

#: Seconds: first pause, the longest, and that between two bare connections.
FIRST: Final = 0.005
LONGEST: Final = 2.0
EACH: Final = 1.0
#: Seconds for one try; a machine that is there answers in milliseconds.
TRY: Final = 1.0
#: Seconds after which a try may have lost its question.
SLOW: Final = 0.1
#: Seconds after which a channel has lasted, and between two hurried tries.
LASTED: Final = 1.0


class _Bare(Factory):
    """Connections that say nothing."""

    noisy = False
    protocol = Protocol


class Dialer:
    """Reaches for one node at `at`.

    `factory`: of the protocol that speaks to it; None: this side doesn't dial. `refused`: called
    where there is no process; `jitter`: gives numbers from 0 to 1.
    """

    def __init__(
        self,
        reactor: Any,
        at: Endpoint,
        factory: Factory | None,
        refused: Callable[[], None],
        jitter: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._factory = factory
        self._refused = refused
        self._jitter = jitter
        kind = TCP6ClientEndpoint if ":" in at.host else TCP4ClientEndpoint
        self._endpoint = kind(reactor, at.host, at.port, timeout=TRY)
        self._pause = FIRST
        self._up_since: float | None = None
        self._hurry_at = 0.0
        self._tried_at = 0.0
        self._waits: Any = None
        self._trying: Deferred[Any] | None = None
        #: A connection of ours stands, and whether it becomes the channel is not known yet.
        self._speaking = False
        self._running = False

    def start(self) -> None:
        """Begin to reach for it."""
        self._running = True
        self._try()

    def stop(self) -> None:
        """Leave it alone."""
        self._running = False
        self._stop_waiting()
        if self._trying is not None:
            self._trying.cancel()

    def up(self) -> None:
        """The channel is there."""
        self._up_since = self._reactor.seconds()
        self._speaking = False
        self._stop_waiting()

    def down(self) -> None:
        """A connection that was tried, or the channel, is gone: go on trying."""
        since, self._up_since = self._up_since, None
        self._speaking = False
        if since is not None and self._reactor.seconds() - since >= LASTED:
            self._pause = FIRST
            self._try()
        else:
            self._later()

    def soon(self) -> None:
        """The node's process shows a sign of life: who dials tries now, if it isn't there."""
        if self._factory is not None:
            self.hurry()

    def hurry(self) -> None:
        """The node's machine shows a sign of life: try now, if it isn't there.

        Rarely: a connection that always ends after its hello is such a sign, too. A try that waits
        for an answer is given up: its question may have been lost, and is repeated late.
        """
        now = self._reactor.seconds()
        if now < self._hurry_at:
            return
        self._hurry_at = now + LASTED
        self._pause = FIRST
        if self._trying is not None and now > self._tried_at + SLOW:
            self._trying.cancel()
        self._try()

    def _later(self) -> None:
        if not self._running or self._waits is not None or self._up_since is not None:
            return
        pause = self._pause * (1 + 0.2 * self._jitter())
        self._pause = min(self._pause * 2, EACH if self._factory is None else LONGEST)
        self._waits = self._reactor.callLater(pause, self._waited)

    def _waited(self) -> None:
        self._waits = None
        self._try()

    def _stop_waiting(self) -> None:
        if self._waits is not None:
            self._waits.cancel()
            self._waits = None

    def _try(self) -> None:
        busy = self._trying is not None or self._speaking or self._up_since is not None
        if not self._running or busy:
            return
        self._stop_waiting()
        self._tried_at = self._reactor.seconds()
        self._trying = self._endpoint.connect(self._factory or _Bare())
        self._trying.addCallbacks(self._connected, self._failed)

    def _connected(self, protocol: Any) -> None:
        self._trying = None
        if self._factory is None:
            protocol.transport.abortConnection()
            self._later()
        else:
            self._speaking = True  # `up` or `down` follows

    def _failed(self, reason: Failure) -> None:
        self._trying = None
        if not self._running:
            return
        if reason.check(Refused):
            self._refused()
        self._later()
