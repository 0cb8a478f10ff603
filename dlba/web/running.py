"""Runs what a proxy needs besides its clients: the poller, the sweep of the deadlines, the checks.

Whoever lets clients in owns one: `dlba.web.service` with ports of its own, `dlba.web.resource`
behind a Twisted site.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from dlba.web.checker import Checker
from dlba.web.deadlines import TICK, Watched

if TYPE_CHECKING:
    from dlba.web.proxy import Proxy

__all__ = ["Running"]


#: Seconds of one turn of the sweep. To close a socket whose client took nothing frees megabytes in
#: the kernel, some milliseconds, and those who stopped reading together are due together.
TURN: Final = 0.002
#: Clients at once that are worth a walk through the heap, some milliseconds, when they are gone.
CROWD: Final = 512


class Running:
    """What keeps `proxy` going inside `reactor`. Started and stopped once."""

    def __init__(self, reactor: Any, proxy: Proxy) -> None:
        self._reactor = reactor
        self._proxy = proxy
        self.checker = Checker(reactor, proxy)
        self.configured()
        self.sweep_call: Any = None
        #: Those of the present sweep that haven't had their turn.
        self._expired: Iterator[Watched] | None = None
        #: Clients at once, at most, since memory was given back.
        self._most = 0

    def configured(self) -> None:
        """The proxy has taken over another configuration: check the backends that it names."""
        self.checker.configure(self._proxy.pools.values())

    def start(self) -> None:
        """Wait for sockets, and begin to sweep and check."""
        self._proxy.poller.attach(self._reactor)
        self.checker.start()
        self._sweep()

    def stop(self) -> None:
        """Close what is left besides clients, and leave the reactor as it was."""
        self.checker.stop()
        if self.sweep_call is not None and self.sweep_call.active():
            self.sweep_call.cancel()
        self._proxy.idle.drop_all()
        for side in tuple(self._proxy.closing):
            side.reset()
        self._proxy.poller.detach()

    def abort(self) -> None:
        """Ending one who keeps bytes went wrong; they are given back already."""

    def _sweep(self) -> None:
        proxy = self._proxy
        now = time.monotonic()
        guarded = proxy.poller.guarded
        # First of all: nothing that goes wrong in this sweep may keep the next one from coming.
        self.sweep_call = self._reactor.callLater(TICK, self._sweep)
        if self._expired is None:
            self._expired = proxy.deadlines.expired(now)
        for item in self._expired:
            guarded(item, item.expire, now)
            if time.monotonic() > now + TURN:
                # The others have their turn before the rest.
                self.sweep_call.reset(0)
                return
        self._expired = None
        if proxy.memory.full:
            for client in tuple(proxy.clients):
                guarded(client, client.squeeze)
        guarded(self, proxy.memory.tick, now)
        self._trim(len(proxy.clients))

    def _trim(self, clients: int) -> None:
        """After a crowd has gone, give the system back what the allocator keeps for the next one.

        What OpenSSL had for 5,000 idle clients is a hundred megabytes that are free and in pieces.
        """
        if clients > self._most:
            self._most = clients
        elif self._most > CROWD and clients < self._most // 4:
            self._most = clients
            give_back(0)


def _find_trim() -> Callable[[int], Any]:
    """glibc's malloc_trim; elsewhere what does nothing."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return lambda pad: None


#: Gives free memory back to the system; takes the bytes to keep.
give_back: Final = _find_trim()
