"""Whether a scheduler may go on, by what the others answer to its heartbeats.

Pure. With `quorum: majority` a scheduler needs an answer of a majority, none older than
`down_after`; an answer is as old as the heartbeat that it answers. After an absence it is confirmed
by those who follow it in answer to a heartbeat sent since then, or (`reachable`) by nobody saying
anything else for `down_after`.

Source: election.md "Time", "Takeover".
"""

from __future__ import annotations

from math import inf
from typing import Final

from dlba.election.others import Others
from dlba.election.transitions import Event

__all__ = ["Mandate"]

#: So many heartbeats are remembered until they are answered: some seconds of them.
BEATS: Final = 64


class Mandate:
    """`down_after`: seconds."""

    def __init__(self, others: Others, down_after: float, now: float) -> None:
        self._others = others
        self._down_after = down_after
        self._sent: dict[int, float] = {}  # number of a heartbeat → when
        self._absent_since = now
        self._absent_count = 0
        self._confirmed: set[int] = set()  # nodes that follow this reign since its absence

    def begin(self) -> None:
        """A reign begins."""
        self._sent.clear()

    def sent(self, count: int, now: float) -> None:
        """The heartbeat of that number is sent."""
        self._sent[count] = now
        self._sent.pop(count - BEATS, None)

    def absent(self, count: int, now: float) -> None:
        """This scheduler was absent; `count`: number of its last heartbeat."""
        self._absent_since = now
        self._absent_count = count + 1
        self._confirmed.clear()

    def answered(self, number: int, count: int) -> None:
        """A node follows this reign, in answer to that heartbeat."""
        watch = self._others.watches[number]
        # As of the heartbeat, not of its answer: one that was long on its way buys no time.
        watch.answered = max(watch.answered, self._sent.get(count, -inf))
        if count >= self._absent_count:
            self._confirmed.add(number)

    @property
    def confirmed(self) -> bool:
        """Whether enough have said since the absence that they follow this reign."""
        return bool(self._confirmed) and self._others.enough(self._confirmed)

    def due(self, absent: bool, now: float) -> Event | None:
        """What becomes of this scheduler by the time alone; `absent`: it waits to be confirmed."""
        if self._others.majority:
            watches = self._others.watches
            answer = [n for n in watches if now - watches[n].answered <= self._down_after]
            return None if self._others.enough(answer) else Event.MINORITY
        if absent and now >= self._absent_since + self._down_after:
            return Event.CONFIRMED
        return None
