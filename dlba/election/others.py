"""All other nodes as this one knows them, and its own place among them.

Pure. Who is connected, whose MAC it is, who comes first when a scheduler is wanted, and whether
some of them are a majority. What is known of one of them is a `Watch`.

Source: election.md "Takeover".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dlba.election.reign import NodeInfo
from dlba.election.watch import Watch, rank

__all__ = ["Others"]

#: Seconds between two places in the rank: a claim takes about twice that.
SKEW: Final = 0.02


class Others:
    """`number`: this node's; `nodes`: all of them; `majority`: whether one must agree."""

    def __init__(self, number: int, nodes: Iterable[NodeInfo], majority: bool, now: float) -> None:
        infos = {info.number: info for info in nodes}
        enabled = sum(info.enabled for info in infos.values())
        self.own = infos.pop(number)
        #: Whether this node drains.
        self.draining = False
        self.watches = {number: Watch(info, now) for number, info in infos.items()}
        self.majority = majority
        self._macs = {info.mac: self.watches[info.number] for info in infos.values()}
        self._needed = enabled // 2 + 1 if majority else 0

    @property
    def connected(self) -> list[int]:
        """The numbers of those to which the channel is there."""
        return [number for number, watch in self.watches.items() if watch.up]

    def at(self, mac: bytes) -> Watch | None:
        """The one whose MAC this is."""
        return self._macs.get(mac)

    def enough(self, numbers: Iterable[int]) -> bool:
        """Whether they and this node are a majority of the enabled ones, or needn't be one."""
        return sum(self.watches[n].info.enabled for n in numbers) + 1 >= self._needed

    def rank(self, dead: int) -> int:
        """How many come before this node when a scheduler is wanted; `dead` doesn't count."""
        return rank(self.own, self.draining, self.watches, dead)

    def skew(self, dead: int) -> float:
        """Seconds that this node leaves to those before it."""
        return SKEW * self.rank(dead)

    def before(self, number: int) -> bool:
        """Whether that node comes before this one when a scheduler is wanted."""
        watch = self.watches[number]
        mine = (self.draining, -self.own.priority, self.own.number)
        return watch.eligible and (watch.draining, -watch.info.priority, number) < mine

    def reset(self, now: float) -> None:
        """Silence is counted from here."""
        for watch in self.watches.values():
            watch.reset(now)

    def shift(self, gap: float) -> None:
        """Silence of the last `gap` seconds doesn't count."""
        for watch in self.watches.values():
            watch.shift(gap)
