"""A node that wants to be scheduler: from evidence to a claim, from a claim to the role.

Pure. It asks, probes and claims by commands in `out`, and says by a `Decision` what that comes to;
the machine carries it out. Nothing is acted on before `wait_until`: after a veto or a lost claim
others are left time. The two steps themselves, weighing and ballot, are in `ballot`.

Source: election.md "Takeover".
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

import attrs

from dlba.election.ballot import LIMIT, Ballot, Weighing
from dlba.election.commands import Command, ProbeVip, Send, Tell
from dlba.election.following import Following
from dlba.election.messages import Ask, Claim, Grant, Heard, Refuse
from dlba.election.others import Others
from dlba.election.replication import Position
from dlba.election.transitions import Event
from dlba.election.watch import Evidence

__all__ = ["Candidacy", "Decision"]

#: Seconds that weighing begins before evidence 2 or 3 is complete; the claim comes after it.
HEAD_START: Final = 0.04
#: Evidence that silence becomes with time.
FORESEEN: Final = frozenset({Evidence.SILENT, Evidence.HUNG})
#: Seconds for the votes of a majority: each voter writes to its disk first.
VOTES_LIMIT: Final = 1.0
#: Seconds that a candidate leaves to a better one: weighing, claim, and the first heartbeat.
AFTER_YOU: Final = 0.15


@attrs.frozen
class Decision:
    """What it comes to. `wait_until`: seconds, if not as long as after any lost candidacy."""

    event: Event
    wait_until: float | None = None


class Candidacy:
    """`position`: of the own table; `down_after`: seconds; `out`: gets the commands."""

    def __init__(
        self,
        others: Others,
        following: Following,
        position: Callable[[], Position],
        down_after: float,
        out: list[Command],
        now: float,
    ) -> None:
        self._others = others
        self._following = following
        self._position = position
        self._down_after = down_after
        self._out = out
        #: What the last candidacy was begun for.
        self.evidence = Evidence.NOBODY
        self._claim_from = now
        #: No evidence is acted on before.
        self.wait_until = -inf
        self._weighing: Weighing | None = None
        self._questions = 0
        self._ballot: Ballot | None = None
        self._lost_at = -inf

    def begins_at(self, evidence: Evidence, at: float) -> float:
        """When weighing begins on evidence that counts from `at`."""
        return max(at - (HEAD_START if evidence in FORESEEN else 0.0), self.wait_until)

    # ---------------------------------------------------------------- weighing

    def weigh(self, evidence: Evidence, at: float, now: float) -> None:
        """Begin, with evidence that counts from `at`. Weighing goes on with `weigh_on` at once."""
        self.evidence, self._claim_from = evidence, at
        self._questions += 1
        dead, vip = self._following.number, evidence is Evidence.UNANSWERED
        # Whether its own ARP is answered the scheduler can't hear.
        silent = dead if vip else self._following.mute_one(evidence)
        asked = [number for number in self._others.connected if number != silent]
        why = {
            Evidence.GONE: self._following.over,
            Evidence.SILENT: "neither heartbeat nor echo",
            Evidence.HUNG: "no heartbeat, though its kernel answers",
            Evidence.UNANSWERED: "nobody answers ARP for the VIP",
            Evidence.NOBODY: "there is no scheduler",
        }[evidence]
        self._out.append(Tell("info", f"candidate: {why}"))
        self._weighing = Weighing(self._questions, asked, self._position(), now)
        ask = Ask(id=self._questions, scheduler=dead, vip=vip)
        self._out.extend(Send(number, ask) for number in asked)

    def weigh_on(self, evidence_at: float, now: float) -> Decision | None:
        """What is due. `evidence_at`: from when the evidence there is now counts."""
        weighing = self._weighing
        assert weighing is not None
        if weighing.probe_due(now):
            self._out.append(ProbeVip())
        if self.evidence in FORESEEN and evidence_at > self._claim_from:
            # An echo has come: it was no evidence yet.
            return Decision(Event.VETOED, now)
        if now < self._claim_from or not weighing.done(self._position(), now):
            return None
        if not self._others.enough(weighing.answers):
            # The others would learn of a later term, if only later, and their scheduler step down.
            self._out.append(Tell("warn", "no majority to be asked, so no claim"))
            return Decision(Event.VETOED)
        return Decision(Event.WEIGHED)

    def asked(self, number: int, now: float) -> Decision | None:
        """Another candidate asks this node."""
        if self._weighing is None or not self._others.before(number):
            return None
        # Two at once: one of them would lose its claim, and time.
        return Decision(Event.VETOED, now + AFTER_YOU)

    def heard(self, number: int, message: Heard, now: float) -> tuple[bool, Decision | None]:
        """An answer to a question. True: pull the table from that node."""
        weighing = self._weighing
        if weighing is None or message.id != weighing.question:
            return False, None
        position = Position(message.table_term, message.version)
        pull = weighing.heard(number, message.heard, position, now)
        if not weighing.heard_by_most:
            return pull, None
        self._out.append(Tell("warn", "most others hear the scheduler, so no claim"))
        return pull, Decision(Event.VETOED)

    # ---------------------------------------------------------------- the claim

    def claim(self, term: int, now: float) -> None:
        """Claim the term, which is stored. Counting goes on with `count` at once."""
        self._weighing = None
        others, mute = self._others.connected, self._following.mute_one(self.evidence)
        limit = VOTES_LIMIT if self._others.majority else LIMIT
        self._ballot = Ballot(term, [number for number in others if number != mute], now + limit)
        claim = Claim(term=term, evidence=self.evidence)
        self._out.extend(Send(number, claim) for number in others)

    def vote(self, number: int, message: Grant | Refuse) -> bool:
        """An answer to a claim. False: not to the one that waits for votes."""
        if self._ballot is None or message.term != self._ballot.term:
            return False
        if isinstance(message, Grant):
            self._ballot.grant(number)
        else:
            self._ballot.refuse(number, message.live, message.why)
        return True

    def delayed(self, gap: float) -> None:
        """This node did nothing else for `gap` seconds: the voters get them back."""
        if self._ballot is not None:
            self._ballot.deadline += gap

    def count(self, now: float) -> Decision | None:
        """Count the votes; without a claim there are none."""
        ballot = self._ballot
        if ballot is None:
            return None
        enough = self._others.enough(ballot.grants)
        early = self._others.majority and enough and not ballot.lost
        if not ballot.done(now) and not early:
            return None
        if enough and not ballot.lost:
            return Decision(Event.WON)
        why = ballot.against or "too few grant it"
        self._out.append(Tell("warn", f"claim of term {ballot.term} lost: {why}"))
        again = now < self._lost_at + self._down_after
        self._lost_at = now
        if ballot.against and not ballot.live and not again:
            # Another had the term. If nobody gets it, the first in the rank tries again first.
            rank = self._others.rank(self._following.number)
            return Decision(Event.LOST, now + LIMIT * rank)
        return Decision(Event.LOST)

    def take_won(self) -> Ballot:
        """The claim that has been won."""
        ballot, self._ballot = self._ballot, None
        assert ballot is not None
        return ballot

    # ---------------------------------------------------------------- the end

    def let_go(self) -> None:
        """Neither weigh nor claim any more."""
        self._weighing = self._ballot = None

    def wait(self, now: float) -> None:
        """Leave others time: to find out the same, and those before this node to claim."""
        self.let_go()
        pause = self._down_after
        if self.evidence is Evidence.GONE and now < self._following.over_at + pause:
            pause = LIMIT  # that a process is gone the others find out in a moment as well
        self.wait_until = now + pause + self._others.skew(self._following.number)

    def make_way(self, now: float) -> None:
        """A claim was granted to another: leave it time to show itself."""
        self.wait_until = max(self.wait_until, now + self._down_after)
