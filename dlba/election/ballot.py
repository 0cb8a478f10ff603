"""The two steps from evidence to the role: weighing what speaks against a claim, and the claim.

Pure. Weighing asks the nodes that can be reached whether they hear the scheduler, probes the VIP,
and names from whom the table is to be pulled; it takes about 40 ms, and at most `LIMIT`. The
ballot counts the answers to a claim. What they mean decides `dlba.election.candidacy`.

Source: election.md "Takeover".
"""

from __future__ import annotations

from collections.abc import Iterable, KeysView
from typing import Final

from dlba.election.replication import Position

__all__ = ["LIMIT", "Ballot", "Weighing"]

#: VIP probes, and seconds between two, and from the last to the end.
PROBES: Final = 3
PROBE_GAP: Final = 0.01
#: Seconds for the answers, for the table from another node, and for the votes.
LIMIT: Final = 0.05


class Weighing:
    """`question`: its id; `asked`: numbers of the nodes that were asked; `now`: seconds."""

    def __init__(self, question: int, asked: Iterable[int], position: Position, now: float) -> None:
        self.question = question
        self.asked = frozenset(asked)
        self.began = now
        self._answers: dict[int, bool] = {}
        self._probes = 0
        self._wanted = position  # the most advanced position that is pulled
        self._pulled_at = now

    def probe_due(self, now: float) -> bool:
        """Whether to send a VIP probe now; each time that is True one is counted as sent."""
        if self._probes < PROBES and now >= self.began + self._probes * PROBE_GAP:
            self._probes += 1
            return True
        return False

    def heard(self, number: int, heard: bool, position: Position, now: float) -> bool:
        """An answer. True: pull the table from this node, it is the most advanced so far."""
        if number not in self.asked:
            return False
        self._answers[number] = heard
        if position > self._wanted:
            self._wanted, self._pulled_at = position, now
            return True
        return False

    @property
    def answers(self) -> KeysView[int]:
        """Those that have answered."""
        return self._answers.keys()

    @property
    def heard_by_most(self) -> bool:
        """Most of those asked hear the scheduler: the one that asks is cut off."""
        return 2 * sum(self._answers.values()) > len(self.asked)

    def done(self, position: Position, now: float) -> bool:
        """Nothing more to wait for. `position`: of the own table now."""
        if self._probes < PROBES or now < self.began + PROBES * PROBE_GAP:
            return False
        answered = self._answers.keys() >= self.asked or now >= self.began + LIMIT
        pulled = position >= self._wanted or now >= self._pulled_at + LIMIT
        return answered and pulled


class Ballot:
    """The claim of `term` by this node. `asked`: who can answer; `deadline`: seconds."""

    def __init__(self, term: int, asked: Iterable[int], deadline: float) -> None:
        self.term = term
        self.deadline = deadline
        self._asked = frozenset(asked)
        self.grants: set[int] = set()
        self._refused: set[int] = set()
        #: Why it was refused last; empty: it wasn't.
        self.against = ""
        #: A scheduler has refused it: there is one.
        self.live = False

    def grant(self, number: int) -> None:
        """A node has granted the claim."""
        self.grants.add(number)

    def refuse(self, number: int, live: bool, why: str) -> None:
        """A node has refused it, since it is scheduler itself (`live`) or for another reason."""
        self._refused.add(number)
        self.against = why or "refused"
        self.live |= live

    @property
    def lost(self) -> bool:
        """A scheduler refuses it, or as many as are for it, this node included.

        So of two who claim one term at most one wins where all can be asked, and somebody who alone
        still hears a scheduler doesn't keep all others without one.
        """
        return self.live or len(self._refused) > len(self.grants)

    def done(self, now: float) -> bool:
        """All have answered, or the time is up, or a scheduler refuses it."""
        return self.live or now >= self.deadline or (self.grants | self._refused) >= self._asked
