"""Tries again, now and then, what has failed: each thing by itself, until it goes.

An adapter, one timer for each thing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

__all__ = ["Retries"]

#: Seconds between two tries to write down what the disk refused, or to be scheduler.
RETRY: Final = 5.0


class Retries:
    """`mended(what)`: tries it, and says whether it goes."""

    def __init__(self, reactor: Any, mended: Callable[[str], bool]) -> None:
        self._reactor = reactor
        self._mended = mended
        self._calls: dict[str, Any] = {}

    def later(self, what: str) -> None:
        """It has failed: try again in RETRY seconds, once however often this is said."""
        if what not in self._calls:
            self._calls[what] = self._reactor.callLater(RETRY, self._try, what)

    def stop(self) -> None:
        """Try nothing any more."""
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()

    def _try(self, what: str) -> None:
        del self._calls[what]
        if not self._mended(what):
            self.later(what)
