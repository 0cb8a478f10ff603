"""Decides when a node says too much: a peer that floods is cut off, whatever it says.

Pure. A node that is well says some dozens of things a second; a new one pulls a large table piece
by piece, and a scheduler of a busy array sends up to a thousand deltas. What is answered with much
work costs more of the second's allowance. So a broken or stolen node costs the others a part of
their time at most, and the back-off of the channel after it.
"""

from __future__ import annotations

from typing import Final

from dlba.election.messages import Keys, Message, Pull, Question
from dlba.errors import PeerError

__all__ = ["EACH_SECOND", "Allowance"]

#: What a node may spend in a second; most messages cost 1.
EACH_SECOND: Final = 3000
#: A piece of a table is 256 KiB, keys go to the disk, a question is answered with all backends.
_COSTS: Final[dict[type, int]] = {Pull: 15, Keys: 300, Question: 15}


class Allowance:
    """What each node has spent of this second, by number."""

    def __init__(self) -> None:
        self._second = 0
        self._spent: dict[int, int] = {}

    def spend(self, number: int, message: Message, now: float) -> None:
        """A node has sent `message`. Raises PeerError when that was too much.

        `now`: seconds, monotonic.
        """
        second = int(now)
        if second != self._second:
            self._second = second
            self._spent.clear()
        spent = self._spent.get(number, 0) + _COSTS.get(type(message), 1)
        self._spent[number] = spent
        if spent > EACH_SECOND:
            kind = type(message).__name__.lower()
            raise PeerError(f"{kind}: expected fewer messages in a second, got a flood")
