"""Asks whether the server of this node answers on the VIP, where that server isn't DLBA.

Prototype mode: the array has no `web`, each node runs some other server on the VIP. Every second
each scheduled port is connected to, from this machine to its own loopback; the node has failed
while one of them can't be connected to within a second, and before the first answer.

Source: the seed's "Prototype" ("When the Web servers fail, the scheduler routes around them").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

__all__ = ["ServerCheck"]

#: Seconds between two rounds.
EVERY: Final = 1.0
#: Seconds for one connection; it never leaves this machine.
TIMEOUT: Final = 1.0


class _Hellos(Factory):
    """Makes them without a word in the log."""

    noisy = False


class _Hello(Protocol):
    """A connection that is closed as soon as it stands."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


class ServerCheck(Service):
    """Runs the checks; `changed(alive)` is called at the start and when the verdict changes.

    `address`: the VIP; `ports`: TCP ports.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, address: str, ports: Iterable[int], changed: Callable[[bool], None]
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._ports = tuple(ports)
        self._changed = changed
        self._call: Any = None
        self._open: set[int] = set()
        self._bad: list[str] = []
        self._told = ""
        self.alive = False

    def startService(self) -> None:
        """Ask from now on; until the first verdict the node has failed."""
        super().startService()
        self._changed(False)
        self._round()

    def stopService(self) -> None:
        """Ask no more; answers that come later change nothing."""
        super().stopService()
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def _round(self) -> None:
        self._call = self._reactor.callLater(EVERY, self._round)
        if self._open:
            return  # one that takes its whole second; its own deadline ends it
        self._bad = []
        self._open = set(self._ports)
        for port in self._ports:
            endpoint = TCP4ClientEndpoint(self._reactor, self._address, port, timeout=TIMEOUT)
            asked = endpoint.connect(_Hellos.forProtocol(_Hello))
            asked.addCallbacks(self._answered, self._refused, (port,), errbackArgs=(port,))

    def _answered(self, _: Any, port: int) -> None:
        self._done(port)

    def _refused(self, failure: Any, port: int) -> None:
        self._bad.append(f"{self._address}:{port}: {failure.getErrorMessage()}")
        self._done(port)

    def _done(self, port: int) -> None:
        self._open.discard(port)
        if self._open or not self.running:
            return
        bad = "; ".join(sorted(self._bad))
        if bad and bad != self._told:
            self._log.warn("the server on the VIP doesn't answer: {bad}", bad=bad)
        elif self._told and not bad:
            self._log.info("the server on the VIP answers again")
        self._told = bad
        if self.alive == bool(bad):
            self.alive = not bad
            self._changed(self.alive)
