"""What this node owes the others: one grant a term, and none while a scheduler may live by it.

Pure. It keeps the terms (the highest seen, what is stored, to whom it was granted) and the promise:
until `down_after` after its last answer a scheduler may count on this node, and so may one that an
earlier process of it has answered. A claim is granted or refused; a term that no peer can have come
to is an error of the peer.

Source: election.md "Takeover".
"""

from __future__ import annotations

from math import inf
from typing import Final

from dlba.election.commands import Send, Store
from dlba.election.messages import TERM_LIMIT, Claim, Grant, Refuse
from dlba.election.watch import Evidence
from dlba.errors import PeerError

__all__ = ["Voter"]

#: A peer's term may be so far beyond the own one: no array gets there in its life, and no message
#: shall take it to the end of all terms.
LEAP: Final = 1 << 20


class Voter:
    """`number`: this node's; `term`, `granted`: as stored; `down_after`: seconds."""

    def __init__(
        self, number: int, term: int, granted: int, majority: bool, down_after: float, now: float
    ) -> None:
        self._number = number
        self._majority = majority
        self._down_after = down_after
        #: The highest term seen; what is stored is never higher.
        self.term = term
        self._stored = term
        self._granted = granted
        #: Until then (majority) a scheduler may live by what this node, or the process before it,
        #: has answered: no grant.
        self._promised_until = now + down_after

    # ---------------------------------------------------------------- terms

    def see(self, term: int) -> None:
        """A peer has seen this term, so this node has. Raises PeerError: nobody can have."""
        self._check(term)
        self.term = max(self.term, term)

    def _check(self, term: int) -> None:
        if term > self.term + LEAP:
            raise PeerError(f"term: expected at most {self.term + LEAP}, got {term}")

    @property
    def at_the_end(self) -> bool:
        """There is no next term."""
        return self.term + 1 >= TERM_LIMIT

    def take_next(self) -> Store:
        """This node grants itself the next term."""
        self.term += 1
        return self._store(self.term, self._number)

    # ---------------------------------------------------------------- the promise

    def promise(self, now: float) -> None:
        """A scheduler was answered."""
        self._promised_until = now + self._down_after

    def release(self) -> None:
        """The scheduler that was answered has ended."""
        self._promised_until = -inf

    # ---------------------------------------------------------------- claims

    def granted(self, number: int, claim: Claim) -> bool:
        """Whether this claim is granted already: an answer may be asked for again."""
        return (self._stored, self._granted) == (claim.term, number)

    def refusal(self, claim: Claim, scheduler: bool, hears: bool, now: float) -> Refuse | None:
        """Why a claim that isn't granted yet is refused; None: grant it.

        `scheduler`: this node is; `hears`: it hears another one than the claimant. If nobody
        answers ARP for the VIP, neither counts. Raises PeerError for a term that nobody can have
        come to.
        """
        self._check(claim.term)
        why = ""
        if claim.evidence != Evidence.UNANSWERED:
            if scheduler or hears:
                why = "a scheduler is alive"
            elif self._majority and now < self._promised_until:
                why = "a scheduler may live by its answers"
        live = bool(why) and scheduler
        if not why and claim.term <= self.term:
            why = f"term {self.term} was seen"
        return Refuse(term=claim.term, highest=self.term, live=live, why=why) if why else None

    def grant(self, number: int, claim: Claim) -> tuple[Store, Send]:
        """Grant a claim that `refusal` says nothing against."""
        self.term = claim.term
        return self._store(claim.term, number), Send(number, Grant(term=claim.term))

    def _store(self, term: int, granted: int) -> Store:
        self._stored, self._granted = term, granted
        return Store(term, granted)
