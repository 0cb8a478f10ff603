"""Writes the channel's log: what others can cause, at most one line of a kind and peer in 10 s.

An adapter over twisted.logger. Strangers share one name: there is no end of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

__all__ = ["SELDOM", "STRANGER", "Notes"]

#: Seconds between two lines of one kind about one peer, or two that are the same.
SELDOM: Final = 10.0
#: Whoever has no certificate of the array.
STRANGER: Final = "a stranger"


class Notes:
    """`seconds`: the clock. Kinds are few and peers those of the array, so this stays small."""

    _log = Logger()

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def say(self, kind: str, who: str, text: str) -> None:
        """Log `text` about `who`, unless a line of this `kind` about him was logged just now."""
        now = self._seconds()
        at, left_out = self._told.get((kind, who), (-SELDOM, 0))
        if now - at < SELDOM:
            self._told[kind, who] = (at, left_out + 1)
            return
        self._told[kind, who] = (now, 0)
        more = f" ({left_out} more like it before)" if left_out else ""
        self._log.info("channel to {who}: {text}{more}", who=who, text=text, more=more)
