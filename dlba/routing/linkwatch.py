"""Keeps a node's ports read, and knows what is wrong with its interface.

An adapter between the segment and the poller. A port that fails (interface down or gone), or a link
without carrier, is a fault until it is back: the ports are closed when one fails, and opened again
when the interface is as it should be.

Source: election.md, `fault`; routing.md "The frame path".
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from dlba.poller import Poller
from dlba.routing.linkport import LinkPort
from dlba.routing.path import FramePath
from dlba.routing.reader import PortReader
from dlba.routing.segment import Segment

__all__ = ["LinkWatch"]

#: Seconds between two tries to open the ports of a lost interface.
EVERY: Final = 1.0


class LinkWatch:
    """`segment`: opened by its owner; `interface`: its name, for people.

    `after`: called after each wake; `changed`: when `fault` has become another.
    """

    def __init__(
        self,
        poller: Poller,
        segment: Segment,
        path: FramePath,
        interface: str,
        after: Callable[[], None] | None,
        changed: Callable[[], None],
    ) -> None:
        self._poller = poller
        self._segment = segment
        self._path = path
        self._interface = interface
        self._after = after
        self._changed = changed
        self._readers: list[PortReader] = []
        self._again_at = -inf
        self._answers_lost = 0
        #: What is wrong with the interface, in words; empty: nothing.
        self.fault = ""

    # ---------------------------------------------------------------- reading

    def read(self) -> None:
        """Read every port that the segment has."""
        there = [reader.port for reader in self._readers]
        for port in (self._segment.arp, self._segment.frames):
            if port is not None and port not in there:
                self._readers.append(
                    PortReader(self._poller, port, self._path, self._lose, self._after)
                )

    def leave(self, port: LinkPort | None) -> None:
        """Read `port` no more; it may be closed then. None: no port."""
        for reader in tuple(self._readers):
            if reader.port is port:
                reader.stop()
                self._readers.remove(reader)

    def stop(self) -> None:
        """Read nothing."""
        for reader in self._readers:
            reader.stop()
        self._readers.clear()

    def read_answers(self) -> None:
        """Take the ARP frames that wait, whether or not the poller has told of them."""
        for reader in tuple(self._readers):
            if reader.port is self._segment.arp:
                reader.read()

    def drain(self) -> None:
        """Take all frames that wait."""
        for reader in tuple(self._readers):
            if reader in self._readers:  # the one before may have lost the interface
                reader.drain()

    def hears(self) -> bool:
        """Whether silence since the last call is that of others: link up, no answer lost."""
        arp = self._segment.arp
        if arp is None or self.fault:
            return False
        lost, self._answers_lost = self._answers_lost, arp.dropped()
        return lost == self._answers_lost

    # ---------------------------------------------------------------- faults

    def look(self, now: float) -> None:
        """Whether the link is there, and a lost interface is back. `now`: seconds, monotonic."""
        if self._segment.arp is None:
            if now < self._again_at:
                return
            self._again_at = now + EVERY
            why = self._segment.reopen()
            if why:
                self._set(why)
                return
            self._answers_lost = 0
            self.read()
        self._set("" if self._segment.carrier() else f"{self._interface}: no carrier")

    def _lose(self, port: LinkPort, error: OSError) -> None:
        """A port has failed."""
        self.stop()
        self._segment.lose()
        self._again_at = -inf
        self._set(f"{self._interface}: {error.strerror or error}")

    def _set(self, why: str) -> None:
        if why == self.fault:
            return
        self.fault = why
        self._changed()
