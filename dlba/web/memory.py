"""Decides when the memory of all buffers together is tight, and when it is full.

Whoever keeps bytes tells the difference by `change`; who is about to keep more looks at `tight` and
`full`, which are plain attributes since that happens on every event. Tight from three quarters of
the limit on: request bodies stream instead of being collected. Full from the limit on: reading and
accepting pause, until less than seven eighths are used, so that they don't flap around the limit.

Source: web.md rule 8; the contract's `limits.buffer_memory`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

__all__ = ["Member", "Memory"]


class Member(Protocol):
    """Who waits until memory isn't full any more."""

    def resume_memory(self) -> None:
        """Go on. Must not raise: it is called from whoever has given memory back."""


class Memory:
    """What all buffers share.

    `limit`, `used`: bytes. `tight`, `full`: see above; read only. `filled`: how often it became
    full, for the counters.
    """

    __slots__ = (
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
