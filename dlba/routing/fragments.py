"""Remembers the flow of fragmented packets, so that later fragments follow the first one.

Only a packet's first fragment has ports. It teaches the packet's key (`frame.fragment_key()`:
addresses, identification, protocol) and the client's port; later fragments look it up and go where
the flow goes. A later fragment that comes before its first one, or too late, isn't known and is
dropped (`Kind.UNKNOWN_FRAGMENT`): it can't make a bucket of its own, and holding it back would be
memory that anyone can fill. Offsets, overlaps and gaps are the business of the node that puts the
packet together.

Bounded by number and time. When full, the oldest goes: later fragments follow closely, so the
newest are those that will be asked for. Identifications come round, so a known key that is taught
again takes the new port. All entries live equally long, hence the order of teaching is the order of
forgetting, and every step forgets what it added: O(1) amortised.

Source: routing.md "The frame path" 6; RFC 791 section 3.2. Pure: time comes in as `now`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["Fragments"]

#: Seconds an entry lives: fragments of a packet come within one round-trip time; ids come round.
LIFETIME: Final = 5.0
#: Entries: about 1 MB; fragmented TCP is rare, and a flood must not cost more.
CAPACITY: Final = 4096


class Fragments:
    """The packets whose first fragment came within the last `lifetime` seconds.

    `now`: seconds, monotonic; a `now` that goes back is taken for the latest one.
    """

    def __init__(self, lifetime: float = LIFETIME, capacity: int = CAPACITY) -> None:
        if lifetime <= 0 or capacity < 1:
            raise ValueError(
                f"fragments: expected a lifetime and a capacity above 0, got {lifetime}, {capacity}"
            )
        self._lifetime = lifetime
        self._capacity = capacity
        self._known: OrderedDict[int, tuple[int, float]] = OrderedDict()
        self._latest = float("-inf")
        #: Entries that made room for newer ones before their time: a sign of a flood.
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._known)

    def teach(self, key: int, port: int, now: float) -> None:
        """A first fragment with `key` came from client port `port`."""
        self.purge(now)
        self._known.pop(key, None)
        if len(self._known) >= self._capacity:
            self._known.popitem(last=False)
            self.evicted += 1
        self._known[key] = port, self._latest + self._lifetime

    def port(self, key: int, now: float) -> int:
        """The client port of the packet that a later fragment with `key` belongs to, -1 if unknown.

        Asking doesn't lengthen the entry's life.
        """
        self.purge(now)
        entry = self._known.get(key)
        return -1 if entry is None else entry[0]

    def purge(self, now: float) -> None:
        """Forget what is past its time."""
        if now > self._latest:
            self._latest = now
        known = self._known
        while known:
            key = next(iter(known))
            if known[key][1] > self._latest:
                return
            del known[key]
