"""What this node is in the election, and what it does when an event changes that.

Pure. The table of `transitions` says what follows from an event; here is how each action is carried
out, by commands in `out` and by what the parts are told. Which events there are is the machine's
business, but for those that an action itself brings.

Source: election.md "Takeover".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from dlba.election.candidacy import Candidacy, Decision
from dlba.election.commands import Command, Mute, ProbeVip, Quiet, Schedule, Send, StepDown, Tell
from dlba.election.following import Following
from dlba.election.mandate import Mandate
from dlba.election.messages import Resign
from dlba.election.others import Others
from dlba.election.probes import Probes
from dlba.election.reign import Reign
from dlba.election.transitions import TABLE, Action, Event, State
from dlba.election.voter import Voter
from dlba.election.watch import Evidence

__all__ = ["Parts", "Role"]

#: A new node listens for so many `down_after`: as long as a process may be silent that lives.
LISTEN: Final = 3
#: Characters of a reason in a `Resign`: all that the message holds is more, a log line isn't.
WHY_LIMIT: Final = 200


@attrs.frozen
class Parts:
    """Of one node's election."""

    others: Others
    following: Following
    probes: Probes
    voter: Voter
    candidacy: Candidacy
    mandate: Mandate


class Role:
    """`down_after`: seconds; `out`: gets the commands; `began`, `ended`: see `machine.Election`."""

    def __init__(
        self,
        parts: Parts,
        down_after: float,
        out: list[Command],
        began: Callable[[float, int], None],
        ended: Callable[[float], None],
        now: float,
    ) -> None:
        self._parts = parts
        self._down_after = down_after
        self._out = out
        self._began = began
        self._ended = ended
        self.state = State.LISTENING
        self._listen_until = now + LISTEN * down_after
        self._faults: dict[str, str] = {}

    @property
    def reigning(self) -> bool:
        """Whether this node is scheduler, if a mute one."""
        return self.state in (State.SCHEDULER, State.ABSENT)

    def evidence(self) -> tuple[Evidence, float]:
        """The evidence that a backup can act on next, and from when."""
        return self._parts.following.evidence(self._parts.probes.unanswered_at)

    # ---------------------------------------------------------------- what happens

    def fire(self, event: Event, now: float) -> None:
        """An event has happened."""
        self.state, action = TABLE[self.state, event]
        self.ACT[action](self, now)

    def decide(self, decision: Decision | None, now: float) -> None:
        """What a candidacy comes to; None: nothing yet."""
        if decision is None:
            return
        self.fire(decision.event, now)
        if decision.wait_until is not None:
            self._parts.candidacy.wait_until = decision.wait_until

    def broken(self, what: str, why: str, now: float) -> None:
        """A fault of this node, by `what`, begins; `why` empty: it is over."""
        before, told = bool(self._faults), self._faults.pop(what, "")
        if why:
            self._faults[what] = why
            if why != told:
                self._out.append(Tell("error", f"fault: {why}"))
        if bool(self._faults) != before:
            if before:
                self._out.append(Tell("info", "fault over"))
            self.fire(Event.MENDED if before else Event.BROKEN, now)

    def listen_on(self, now: float) -> None:
        """A new node looks whether it has listened long enough."""
        if now >= self._listen_until + self._parts.others.skew(-1):
            self._parts.following.nobody(now)
            self.fire(Event.LISTENED, now)

    def weigh_on(self, now: float) -> None:
        """A candidate looks whether it may claim."""
        self.decide(self._parts.candidacy.weigh_on(self.evidence()[1], now), now)

    def count_votes(self, now: float) -> None:
        """A claimant looks whether it has won."""
        self.decide(self._parts.candidacy.count(now), now)

    def keep_on(self, now: float) -> None:
        """A scheduler looks whether it may go on."""
        event = self._parts.mandate.due(self.state is State.ABSENT, now)
        if event is Event.MINORITY:
            self._out.append(Tell("error", "no answers from a majority: scheduler no more"))
        elif event is Event.CONFIRMED:
            self._out.append(Tell("warn", "nobody confirms the term: going on as scheduler"))
        if event is not None:
            self.fire(event, now)
        reign = self._parts.following.reign
        if self.state is State.SCHEDULER and reign and self._parts.voter.term > reign.term:
            self._go_beyond(reign, now)

    def answered(self, number: int, count: int, now: float) -> None:
        """A node follows this one's reign, in answer to that heartbeat."""
        parts = self._parts
        parts.mandate.answered(number, count)
        reign = parts.following.reign
        if reign is not None and reign.alone:
            parts.following.begin(attrs.evolve(reign, alone=False))
        if self.state is State.ABSENT and parts.mandate.confirmed:
            self.fire(Event.CONFIRMED, now)

    def make_way(self, now: float) -> None:
        """Another node is granted its claim: want the role no more, and leave it time."""
        if self.reigning:
            self.fire(Event.OUTRANKED, now)
        elif self.state is State.CANDIDATE:
            self.fire(Event.VETOED, now)
        elif self.state is State.CLAIMANT:
            self.fire(Event.LOST, now)
        self._parts.candidacy.make_way(now)

    def _go_beyond(self, reign: Reign, now: float) -> None:
        """A later term was seen, but no better scheduler: go on in one that is later still.

        With a majority the reign ends instead, since only a majority gives terms away.
        """
        voter = self._parts.voter
        if self._parts.others.majority:
            self._out.append(Tell("warn", f"term {voter.term} was seen: scheduler no more"))
            self.fire(Event.OUTRANKED, now)
            return
        if voter.at_the_end:
            return
        self._out.append(voter.take_next())
        self._parts.following.begin(attrs.evolve(reign, term=voter.term))
        self._out.append(Tell("info", f"scheduler goes on in term {voter.term}"))
        self._began(now, -1)

    # ---------------------------------------------------------------- actions

    def reset(self, now: float) -> None:
        """Evidence is counted from here."""
        self._parts.candidacy.let_go()
        self._parts.probes.reset(now)
        self._parts.others.reset(now)

    def _let_go(self, now: float) -> None:
        self._parts.candidacy.let_go()

    def _listen(self, now: float) -> None:
        self._listen_until = now + LISTEN * self._down_after
        self._parts.following.nobody(now)
        self.reset(now)

    def _weigh(self, now: float) -> None:
        self._parts.candidacy.weigh(*self.evidence(), now)
        self.weigh_on(now)

    def _wait(self, now: float) -> None:
        self._parts.candidacy.wait(now)

    def _claim(self, now: float) -> None:
        voter, candidacy = self._parts.voter, self._parts.candidacy
        if voter.at_the_end:
            why = f"term {voter.term} is the last: the state folders need a new start"
            self._out.append(Tell("error", why))
            self.fire(Event.LOST, now)
            return
        if candidacy.evidence is Evidence.UNANSWERED:
            self._parts.probes.claimed()
        self._out.append(voter.take_next())
        candidacy.claim(voter.term, now)
        self.count_votes(now)

    def _reign(self, now: float) -> None:
        parts = self._parts
        ballot, own = parts.candidacy.take_won(), parts.others.own
        dead = parts.following.dead(parts.candidacy.evidence)
        parts.following.begin(Reign(ballot.term, own.number, not ballot.grants, own.priority))
        parts.following.count = 0
        parts.mandate.begin()
        parts.others.reset(now)  # nobody has had to answer this node before
        self._out.append(Tell("info", f"scheduler in term {ballot.term}"))
        self._began(now, dead)
        self._out.append(Schedule(ballot.term))

    def _yield(self, now: float) -> None:
        self._out.append(StepDown())
        self._ended(now)
        self._parts.following.nobody(now)
        self.reset(now)

    def _resign(self, now: float) -> None:
        faults = "; ".join(self._faults.values())
        self._send_resign(f"fault: {faults}" if faults else "no majority answers it")
        self._yield(now)

    def _leave(self, now: float) -> None:
        """Deltas go on until another scheduler is heard: frames still come here."""
        self._send_resign("it stops")
        self._out.append(Quiet())

    def _send_resign(self, why: str) -> None:
        reign = self._parts.following.reign
        assert reign is not None
        why = "".join(c if c.isprintable() else " " for c in why)[:WHY_LIMIT]
        resign = Resign(term=reign.term, why=why)
        self._out.extend(Send(number, resign) for number in self._parts.others.connected)

    def _mute(self, now: float) -> None:
        self._out.append(Mute(True))
        self._out.append(ProbeVip())
        self._parts.mandate.absent(self._parts.following.count, now)

    def _unmute(self, now: float) -> None:
        self._out.append(Mute(False))

    #: How each action is carried out; all of them are here.
    ACT: Final[dict[Action, Callable[[Role, float], None]]] = {
        Action.NOTHING: _let_go,
        Action.LISTEN: _listen,
        Action.FOLLOW: _let_go,
        Action.RESET: reset,
        Action.WEIGH: _weigh,
        Action.WAIT: _wait,
        Action.CLAIM: _claim,
        Action.REIGN: _reign,
        Action.YIELD: _yield,
        Action.MUTE: _mute,
        Action.UNMUTE: _unmute,
        Action.RESIGN: _resign,
        Action.LEAVE: _leave,
    }
