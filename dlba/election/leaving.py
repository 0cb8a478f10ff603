"""Waits, when a scheduler stops in order, for its successor and for late frames.

An adapter, one timer.

Source: election.md, `leaving`.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred

__all__ = ["Leaving"]

#: Seconds that a scheduler which stops waits for its successor, and then for late frames.
LEAVE_LIMIT: Final = 1.0
LATE: Final = 0.1


class Leaving:
    """Of one process, once."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._left: Deferred[None] | None = None
        self._call: Any = None

    def begin(self) -> Deferred[None]:
        """The scheduler has resigned; fires when its process may end."""
        left: Deferred[None] = Deferred()
        self._left = left
        self._call = self._reactor.callLater(LEAVE_LIMIT, self._go)
        return left

    def followed(self) -> None:
        """Another node is scheduler, or this one never was; told as often as it is so."""
        if self._left is not None:
            # What was sent here meanwhile is passed on.
            left, self._left = self._left, None
            self._call.cancel()
            self._call = self._reactor.callLater(LATE, left.callback, None)

    def stop(self) -> None:
        """The process ends; nobody waits any more."""
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _go(self) -> None:
        """Nobody took the role."""
        left, self._left = self._left, None
        if left is not None:
            left.callback(None)
