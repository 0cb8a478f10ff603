"""Decides when the memory of all buffers together is tight, when it is full, and who gives way.

Whoever keeps bytes tells the difference by `change`; who is about to keep more looks at `tight` and
`full`, which are plain attributes since that happens on every event. Tight from three quarters of
the limit on: request bodies stream instead of being collected. Full from the limit on, until less
than seven eighths are used, so that it doesn't flap around the limit. Whoever keeps a block or more
isn't read then; everybody else is read in small pieces, so that ordinary requests go on whoever
fills it, and so are backends, since only answers end what waits for them (docs/decisions/0008).

A full memory may not last: those who have kept bytes for longest, and for more than `SHED_AFTER`
seconds, are ended until there is room, first those who keep many. Who takes what he is given,
however slowly, keeps his bytes for less: each time that all was taken counts anew.

Source: web.md rule 8; the contract's `limits.buffer_memory`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

__all__ = ["BLOCK", "SHED_AFTER", "Holder", "Member", "Memory"]

#: Bytes of a block. What is smaller isn't counted: nearly every request, and most connections keep
#: less, which costs nothing then.
BLOCK: Final = 4 * 1024
#: Seconds that bytes may be kept while memory is full. A backlog has 64 KiB: whoever takes 32 KiB/s
#: stays.
SHED_AFTER: Final = 2.0
#: Bytes that are many: they go first. Ordinary heads, the large ones too, are less.
MANY: Final = 16 * 1024


class Member(Protocol):
    """Who waits until memory isn't full any more."""

    def resume_memory(self) -> None:
        """Go on. Must not raise: it is called from whoever has given memory back."""


class Holder(Protocol):
    """Who keeps bytes: `kept` so many."""

    @property
    def kept(self) -> int: ...

    def shed(self) -> None:
        """End, and give back what is kept: memory is full."""


class Memory:
    """What all buffers share.

    `limit`, `used`: bytes. `tight`, `full`: see above; read only. `filled`: how often it became
    full, for the counters.
    """

    __slots__ = (
        "_holders",
        "_now",
        "_resumed_below",
        "_tight_from",
        "_waiting",
        "_waking",
        "filled",
        "full",
        "limit",
        "tight",
        "used",
    )

    def __init__(self, limit: int) -> None:
        """`limit`: bytes, at least 1."""
        self.used = 0
        self.tight = False
        self.full = False
        self.filled = 0
        #: In order. A plain dict would look at every member gone before to find the first one.
        self._waiting: OrderedDict[Member, None] = OrderedDict()
        self._waking = False
        #: Who keeps bytes, and since when; who does for longest is the first.
        self._holders: OrderedDict[Holder, float] = OrderedDict()
        self._now = 0.0
        self.set_limit(limit)

    def set_limit(self, limit: int) -> None:
        """From now on `limit` bytes, at least 1; may wake those who wait."""
        self.limit = limit
        # Rounded up, so that comparing with them is comparing with the exact fractions.
        self._tight_from = -(-limit * 3 // 4)
        self._resumed_below = -(-limit * 7 // 8)
        self.change(0)

    def change(self, amount: int) -> None:
        """`amount` bytes more are kept, or less where it is negative; may wake those who wait."""
        self.used = used = self.used + amount
        self.tight = used >= self._tight_from
        if self.full:
            if used < self._resumed_below:
                self.full = False
                self._wake()
        elif used >= self.limit:
            self.full = True
            self.filled += 1

    def keeps(self, holder: Holder) -> None:
        """`holder` keeps bytes from now on."""
        self._holders[holder] = self._now

    def keeps_none(self, holder: Holder) -> None:
        """`holder` keeps nothing any more."""
        del self._holders[holder]

    def tick(self, now: float) -> None:
        """Called some times a second with the time, in seconds: while full, sheds who must go."""
        self._now = now
        if not self.full:
            return
        for least in (MANY, 0):
            for holder, since in tuple(self._holders.items()):
                if now - since <= SHED_AFTER or self.used < self._resumed_below:
                    break
                if holder.kept >= least and holder in self._holders:
                    holder.shed()

    def wait(self, member: Member) -> None:
        """Call `member.resume_memory()` once, when no longer full; at once if it isn't full.

        Who waits already keeps its place.
        """
        if self.full:
            self._waiting.setdefault(member)
        else:
            member.resume_memory()

    def forget(self, member: Member) -> None:
        """`member` waits no more, if it did."""
        self._waiting.pop(member, None)

    def _wake(self) -> None:
        # A member that fills and empties comes back here: the loop below goes on, the stack
        # doesn't grow. One that fills it leaves the rest waiting for the next time.
        if self._waking:
            return
        self._waking = True
        try:
            while self._waiting and not self.full:
                self._waiting.popitem(last=False)[0].resume_memory()
        finally:
            self._waking = False
