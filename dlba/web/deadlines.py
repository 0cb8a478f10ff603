"""Tells which connections are past their deadline, at a cost that doesn't grow with requests.

A connection moves its deadline by writing its `deadline` attribute (seconds, monotonic): nothing
else happens on the path of a request. It stands in the slot of one tick; when that tick comes, it
has either expired or is put into the slot of its present deadline. A deadline that moves to an
earlier tick than the slot's has to be told with `watch()`; `hasten()` does so only if needed.

Deadlines are met late by at most `TICK` seconds, never early. Pure: time comes in as `now`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

__all__ = ["TICK", "Deadlines", "Watched"]

#: Seconds between two sweeps: an eighth of the shortest usual limit; idle costs next to nothing.
TICK: Final = 0.125


class Watched(Protocol):
    """What has a deadline. `slot` belongs to `Deadlines`; it starts at -1."""

    deadline: float
    slot: int

    def expire(self, now: float) -> None:
        """The deadline has passed; called by whoever sweeps."""

    def abort(self) -> None:
        """`expire` raised an exception: end at once."""


class Deadlines:
    """The slots, one set of connections for each tick to come that has any."""

    def __init__(self, now: float) -> None:
        self._slots: dict[int, set[Watched]] = {}
        self._swept = int(now / TICK)

    def __len__(self) -> int:
        return sum(len(slot) for slot in self._slots.values())

    def watch(self, item: Watched) -> None:
        """Put `item` into the slot of its deadline, taking it out of the one it stood in."""
        self.forget(item)
        # +1: the tick after the deadline, so that nothing expires early; never a swept tick.
        tick = max(int(item.deadline / TICK), self._swept) + 1
        item.slot = tick
        self._slots.setdefault(tick, set()).add(item)

    def hasten(self, item: Watched) -> None:
        """Like `watch()`, but only if the deadline is before the item's slot, or it has none."""
        if item.slot < 0 or int(item.deadline / TICK) + 1 < item.slot:
            self.watch(item)

    def forget(self, item: Watched) -> None:
        """Take `item` out; harmless if it isn't there."""
        slot = self._slots.get(item.slot)
        if slot is not None:
            slot.discard(item)
            if not slot:
                del self._slots[item.slot]
        item.slot = -1

    def expired(self, now: float) -> Iterator[Watched]:
        """Yield each item whose deadline is at or before `now` and take it out.

        The caller may watch and forget any item meanwhile.
        """
        last = int(now / TICK)
        ticks: list[int] | range = range(self._swept + 1, last + 1)
        if len(ticks) > len(self._slots):
            ticks = sorted(tick for tick in self._slots if tick <= last)
        self._swept = max(last, self._swept)
        for tick in ticks:
            for item in tuple(self._slots.get(tick, ())):
                if item.slot != tick:
                    continue
                if item.deadline <= now:
                    self.forget(item)
                    yield item
                else:
                    self.watch(item)
