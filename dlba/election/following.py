"""The reign that this node follows, or its own, and what it knows against it.

Pure. Which heartbeats are followed, when the reign counts as over, whether its scheduler is heard,
and from when on this node may act on the evidence there is. Silence is `watch`'s, the rank
`others`'; what comes of the evidence is `candidacy`'s.

Source: election.md "Heartbeat and evidence of death".
"""

from __future__ import annotations

from math import inf
from typing import Final

from dlba.election.others import Others
from dlba.election.reign import Reign, better
from dlba.election.watch import Evidence

__all__ = ["Following"]

#: A node hears a scheduler whose last heartbeat is no older than this part of `down_after`.
HEARD_WITHIN: Final = 2 / 3
#: A majority's claimants wait so many `down_after` of silence, a scheduler without one steps down
#: after one.
MAJORITY_WAIT: Final = 1.5


class Following:
    """`down_after`: seconds."""

    def __init__(self, others: Others, down_after: float, now: float) -> None:
        self._others = others
        self._down_after = down_after
        #: None: there is none.
        self.reign: Reign | None = None
        #: Number of its last heartbeat, sent or heard.
        self.count = 0
        #: Evidence 1 against it: why, and since when.
        self.over = ""
        self.over_at = inf
        self._lives = False  # its process, though it is over
        self._highest = 0  # term of a reign that this node has followed
        self._nobody_since = now

    @property
    def number(self) -> int:
        """The number of the scheduler whose reign it is, over or not; -1: there is none."""
        return -1 if self.reign is None else self.reign.number

    @property
    def other(self) -> int:
        """The number of the other node whose reign it is; -1: there is none, or it is our own."""
        return -1 if self.number == self._others.own.number else self.number

    # ---------------------------------------------------------------- begin and end

    def nobody(self, now: float) -> None:
        """This node follows nobody from here."""
        self.reign = None
        self.over = ""
        self._nobody_since = now

    def begin(self, reign: Reign) -> None:
        """That reign counts from here."""
        self.reign = reign
        self._highest = max(self._highest, reign.term)
        self.over, self.over_at, self._lives = "", inf, False

    def end(self, number: int, why: str, lives: bool, now: float) -> bool:
        """That node's reign is over; `lives`: its process isn't. False: it wasn't followed."""
        if self.reign is None or self.reign.number != number or self.over:
            return False
        self.over, self.over_at, self._lives = why, now, lives
        return True

    def follow(self, came: Reign, count: int, now: float) -> bool:
        """A heartbeat, of that number, of the reign to follow. True: another one than before."""
        self.count = count
        self._others.watches[came.number].beat = now
        before = self.reign
        same = (
            before is not None
            and not self.over
            and (before.number, before.term) == (came.number, came.term)
        )
        self.begin(came)
        return not same

    def accepts(self, came: Reign, now: float) -> bool:
        """Whether a node that isn't scheduler follows the reign whose heartbeat came."""
        if self._others.majority and came.term < self._highest:
            return False  # only a majority gives terms away: an old one is over
        current = self.reign
        if current is None or self.other == -1 or better(came, current):
            return True
        if current.number == came.number:
            return came.term >= current.term
        silent = now - self._others.watches[current.number].beat > self._down_after
        return bool(self.over) or silent

    # ---------------------------------------------------------------- is it there

    def hears(self, now: float) -> bool:
        """Whether another node's reign is alive for this one."""
        if self.other == -1 or self.over:
            return False
        # A candidate asks a little before its evidence is complete, and hears heartbeats a little
        # earlier or later than this node. With a majority a grant must not come before the
        # scheduler's own time is up.
        within = self._down_after * (1 if self._others.majority else HEARD_WITHIN)
        watch = self._others.watches[self.other]
        # Heartbeats come by the channel: where that has just closed, none is on its way.
        return watch.up and now - watch.beat <= within

    def evidence(self, unanswered_at: float) -> tuple[Evidence, float]:
        """The evidence that this node can act on next, and from when, its rank included.

        `unanswered_at`: when evidence 4 is complete. Only for a node that isn't scheduler.
        """
        evidence, at = self._next(unanswered_at)
        at += self._others.skew(self.number)
        if self._others.majority and evidence is not Evidence.GONE:
            at += (MAJORITY_WAIT - 1) * self._down_after
        return evidence, at

    def _next(self, unanswered_at: float) -> tuple[Evidence, float]:
        if self.reign is None:
            return Evidence.NOBODY, self._nobody_since
        if self.over:
            return Evidence.GONE, self.over_at
        found = self._others.watches[self.reign.number].evidence(self._down_after)
        return min(found, (Evidence.UNANSWERED, unanswered_at), key=lambda one: one[1])

    # ---------------------------------------------------------------- a claim against it

    def mute_one(self, evidence: Evidence) -> int:
        """The number of the scheduler that a claim is against, if it won't answer; else -1."""
        if self.reign is None or evidence is Evidence.UNANSWERED:
            return -1
        return -1 if self.over and self._talks() else self.reign.number

    def dead(self, evidence: Evidence) -> int:
        """The number of the scheduler that a claim was against, if it is gone; else -1.

        One that resigned, or just isn't answered by ARP, may well serve the flows that it has.
        """
        if self.reign is None:
            return -1
        lives = self._lives or (not self.over and evidence is Evidence.UNANSWERED)
        return -1 if lives and self._talks() else self.reign.number

    def _talks(self) -> bool:
        watch = self._others.watches[self.number]
        return watch.up and not watch.gone
