"""Takes part in the election for this node: finds, in all that comes in, the events that matter.

Pure. Every input comes with `now` (seconds, monotonic) and may put commands into `out`, in the
order in which they are to be carried out. An input that comes later than `down_after` after the one
before tells that this process did not run: that is an event of its own, before anything else.

Where the rules stand: what each event does in every state in `transitions`, and how it is done in
`role`; which reign is followed and what speaks against it in `following`, of two that meet in
`reign`; what is asked on the wire in `probes`; how a node gets the role in `candidacy`, keeps it in
`mandate`, and what it owes to others that want it in `voter`. What a scheduler and a follower do
beside that (heartbeats, table, sweep) is `member`'s, which is told by `began` and `ended`.

Source: election.md "Time", "Heartbeat and evidence of death", "Takeover".
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final, Literal

import attrs

from dlba.election.candidacy import Candidacy
from dlba.election.commands import GATEWAY, Command, Dial, ProbeVip, Send, Tell
from dlba.election.following import Following
from dlba.election.mandate import Mandate
from dlba.election.messages import Alive, Ask, Claim, Grant, Heard, Heartbeat, Refuse, Resign
from dlba.election.others import Others
from dlba.election.probes import Probes
from dlba.election.reign import NodeInfo, Reign, better
from dlba.election.replication import Position
from dlba.election.role import Parts, Role
from dlba.election.transitions import Event, State
from dlba.election.voter import Voter
from dlba.election.watch import Evidence

__all__ = ["Election", "Settings"]

#: Seconds between two looks at the time, at most, while something is going on.
FINE: Final = 0.005


@attrs.frozen(kw_only=True)
class Settings:
    """What the configuration says. `nodes`: all of them; times in seconds; `gateway`: tracked."""

    number: int
    nodes: tuple[NodeInfo, ...]
    heartbeat: float
    down_after: float
    ping_every: float
    majority: bool = False
    gateway: bool = False


class Election:
    """`term`, `granted`: as stored; `position`: of the own table; `began`, `ended`: of a reign.

    `began(now, dead)`: number of the scheduler whose end it was, or -1. They are called where the
    commands of the reign are in `out` already.
    """

    def __init__(
        self,
        settings: Settings,
        term: int,
        granted: int,
        position: Callable[[], Position],
        began: Callable[[float, int], None],
        ended: Callable[[float], None],
        now: float,
    ) -> None:
        self._settings = settings
        self._position = position
        self.out: list[Command] = []
        down_after, majority = settings.down_after, settings.majority
        others = Others(settings.number, settings.nodes, majority, now)
        following = Following(others, down_after, now)
        self._others = others
        self._following = following
        self._probes = Probes(settings.ping_every, down_after, settings.gateway, now)
        self._voter = Voter(settings.number, term, granted, majority, down_after, now)
        self._candidacy = Candidacy(others, following, position, down_after, self.out, now)
        self._mandate = Mandate(others, down_after, now)
        parts = Parts(others, following, self._probes, self._voter, self._candidacy, self._mandate)
        self._role = Role(parts, down_after, self.out, began, ended, now)
        self.own = others.own
        self.watches = others.watches
        self._last = now
        self._unread_until = -inf

    # ---------------------------------------------------------------- what others ask

    @property
    def state(self) -> State:
        """What this node is."""
        return self._role.state

    @property
    def reigning(self) -> bool:
        """Whether this node is scheduler, if a mute one."""
        return self._role.reigning

    @property
    def term(self) -> int:
        """The highest term seen."""
        return self._voter.term

    @property
    def reign(self) -> Reign | None:
        """The reign that this node follows, or its own; None: none."""
        return self._following.reign

    @property
    def count(self) -> int:
        """Number of the last heartbeat of that reign, sent or heard."""
        return self._following.count

    @property
    def draining(self) -> bool:
        """Whether this node drains; the adapter says so."""
        return self._others.draining

    @draining.setter
    def draining(self, on: bool) -> None:
        self._others.draining = on

    @property
    def eligible(self) -> bool:
        """Whether this node may become scheduler."""
        return self.own.enabled and self.state not in (State.FAULT, State.LEAVING)

    @property
    def scheduler(self) -> int:
        """The number of the node that this one counts as scheduler, itself included; -1: none."""
        return -1 if self._following.over else self._following.number

    @property
    def connected(self) -> list[int]:
        """The numbers of the nodes to which the channel is there."""
        return self._others.connected

    def next_at(self, now: float) -> float:
        """When `tick` is to be called at the latest."""
        if self.state in (State.CANDIDATE, State.CLAIMANT):
            return now + FINE
        due = now + self._settings.heartbeat / 5
        if self.state is State.BACKUP:
            at = self._candidacy.begins_at(*self._role.evidence())
            if at > now:
                due = min(due, at)
        return due

    # ---------------------------------------------------------------- time

    def look(self, now: float) -> None:
        """At the start of every input: were we absent?"""
        gap, self._last = now - self._last, max(now, self._last)
        if gap > self._settings.down_after:
            self._tell("warn", f"absent for {gap:.2f} s: evidence starts anew")
            self._probes.absent(now)
            self._role.reset(now)
            self._role.fire(Event.GAP, now)
        if gap > self._settings.heartbeat:
            self._unread_until = now + self._settings.heartbeat / 4

    def stored(self, now: float) -> None:
        """A term has been written down, which took until `now`: that is no absence.

        But of a scheduler, which forwarded nothing meanwhile.
        """
        if self.reigning:
            return
        gap, self._last = now - self._last, max(now, self._last)
        self._candidacy.delayed(gap)
        if gap > self._settings.heartbeat:
            self._unread_until = now + self._settings.heartbeat / 4
            self._others.shift(gap)

    def stalled(self, now: float) -> bool:
        """Whether answers may wait unread, since this process stood still: judge nobody yet."""
        return now < self._unread_until

    def tick(self, now: float) -> None:
        """What is due by the time alone."""
        self.look(now)
        if not self.stalled(now):
            if self.state is State.LISTENING:
                self._role.listen_on(now)
            elif self.state is State.CANDIDATE:
                self._role.weigh_on(now)
            elif self.state is State.CLAIMANT:
                self._role.count_votes(now)
            elif self.reigning:
                self._role.keep_on(now)
        self._ping(now)
        self.judge(now)

    def judge(self, now: float) -> None:
        """A backup looks whether it must act; done at the end of every input."""
        if self.state is not State.BACKUP or not self.own.enabled or self.stalled(now):
            return
        if now >= self._candidacy.begins_at(*self._role.evidence()):
            self._role.fire(Event.DEAD, now)

    def _ping(self, now: float) -> None:
        """Echo requests and VIP probes that are due."""
        followed = self._following.other
        if self.state is State.BACKUP and followed != -1 and self._probes.vip_due(now):
            self.out.append(ProbeVip())
        if self._probes.ping_due(now):
            self.out.extend(self._probes.pings(self.state, followed, self.watches))
            why = self._probes.gateway(now)
            if why is not None:
                self.broken("gateway", why, now)

    # ---------------------------------------------------------------- what comes from outside

    def up(self, number: int, incarnation: str, now: float) -> None:
        """The channel to a node is there."""
        self.look(now)
        watch = self.watches[number]
        new = watch.incarnation not in ("", incarnation)
        watch.up, watch.gone, watch.incarnation = True, False, incarnation
        watch.alive = None
        if new:
            self._end_of(number, "its process is a new one", now)
        self.judge(now)

    def down(self, number: int, now: float) -> None:
        """The channel to a node is gone; that alone is no evidence."""
        self.look(now)
        self.watches[number].up = False
        self.watches[number].alive = None

    def refused(self, number: int, now: float) -> None:
        """A connect to a node was refused: its process is gone."""
        self.look(now)
        if not self.watches[number].up:
            self.watches[number].gone = True
            self._end_of(number, "its process is gone", now)
            self.judge(now)

    def echoed(self, number: int, now: float) -> None:
        """A node's kernel (or the gateway) has answered an echo request."""
        self.look(now)
        if number == GATEWAY:
            self._probes.gateway_echoed(now)
        else:
            watch = self.watches[number]
            watch.echo = now
            if not watch.up:
                # Perhaps a split has healed: the next try by itself may be seconds away.
                self.out.append(Dial(number))

    def vip_claimed(self, mac: bytes, now: float) -> None:
        """An ARP frame says that `mac` has the VIP; only nodes of the array count."""
        self.look(now)
        watch = self._others.at(mac)
        if watch is None:
            return
        self._probes.answered(now)
        name = watch.info.name
        if self.state in (State.CANDIDATE, State.CLAIMANT):
            self._tell("warn", f"channel down: {name} answers for the VIP, so no claim")
            self._role.fire(Event.VETOED, now)
        elif self.state is State.ABSENT:
            self._tell("warn", f"{name} answers for the VIP: yielding")
            self._role.fire(Event.OUTRANKED, now)

    def broken(self, what: str, why: str, now: float) -> None:
        """A fault of this node, by `what`, begins; `why` empty: it is over."""
        self._role.broken(what, why, now)

    def stop(self, now: float) -> None:
        """The process is about to end. A scheduler whom nobody can follow stays one till then."""
        if self.reigning and not any(watch.eligible for watch in self.watches.values()):
            return
        self._role.fire(Event.STOP, now)

    # ---------------------------------------------------------------- messages

    def heartbeat(self, number: int, message: Heartbeat, now: float) -> bool:
        """A scheduler's heartbeat; True: this node follows it."""
        info = self.watches[number].info
        came = Reign(message.term, number, message.alone, info.priority)
        self._voter.see(message.term)
        if self.reigning:
            assert self.reign is not None
            if not better(came, self.reign):
                return False
            self._tell("warn", f"{info.name} is scheduler in term {came.term}: yielding to it")
            self._role.fire(Event.OUTRANKED, now)
        elif not self._following.accepts(came, now):
            return False
        news = self._following.follow(came, message.count, now)
        if news:
            self._tell("info", f"follows {info.name}, scheduler in term {came.term}")
            self._probes.reset(now)
        self._voter.promise(now)
        accused = self.state in (State.CANDIDATE, State.CLAIMANT) and not news
        if not (accused and self._candidacy.evidence is Evidence.UNANSWERED):
            # Of one whose ARP isn't answered, heartbeats are no news.
            self._role.fire(Event.FOLLOWED, now)
        self._probes.beat(now)
        self._ping(now)
        return True

    def beats(self, now: float) -> None:
        """The next heartbeat of this reign is sent."""
        self._following.count += 1
        self._mandate.sent(self.count, now)

    def alive(self, number: int, message: Alive, now: float) -> None:
        """What a node says of itself."""
        self._voter.see(message.term)
        watch = self.watches[number]
        watch.alive, watch.alive_at = message, now
        reign = self.reign
        if reign is None:
            return
        if not self.reigning:
            if message.scheduler != number:
                self._end_of(number, "it is scheduler no more, it says", now, lives=True)
        elif message.scheduler == self.own.number and message.reign_term == reign.term:
            self._role.answered(number, message.count, now)
        elif (
            message.scheduler not in (self.own.number, -1, number)
            and message.reign_term > reign.term
        ):
            # The other scheduler itself counts by its heartbeats, which say whether it is alone;
            # a follower of it, even if those heartbeats don't come here.
            self._tell("warn", f"{watch.info.name} follows term {message.reign_term}: yielding")
            self._role.fire(Event.OUTRANKED, now)

    def ask(self, number: int, message: Ask, now: float) -> None:
        """A candidate asks whether its scheduler, or anybody's ARP, is heard here."""
        self._role.decide(self._candidacy.asked(number, now), now)
        if message.vip:
            heard = self._probes.answers(now)
        else:
            heard = self.reigning or self._following.hears(now)
            heard = heard and message.scheduler in (-1, self._following.number)
        term, version = self._position()
        answer = Heard(id=message.id, heard=heard, table_term=term, version=version)
        self.out.append(Send(number, answer))

    def heard(self, number: int, message: Heard, now: float) -> bool:
        """An answer to our question; True: pull the table from that node."""
        pull, decision = self._candidacy.heard(number, message, now)
        self._role.decide(decision, now)
        return pull

    def claim(self, number: int, message: Claim, now: float) -> None:
        """A node claims a term: grant it once, or say why not."""
        if self._voter.granted(number, message):
            self.out.append(Send(number, Grant(term=message.term)))
            return
        hears = self._following.hears(now) and self._following.number != number
        refusal = self._voter.refusal(message, self.state is State.SCHEDULER, hears, now)
        if refusal is not None:
            self.out.append(Send(number, refusal))
            return
        self._role.make_way(now)
        self.out.extend(self._voter.grant(number, message))

    def grant(self, number: int, message: Grant, now: float) -> None:
        """A node grants our claim."""
        if self._candidacy.vote(number, message):
            self._count_votes(now)

    def refuse(self, number: int, message: Refuse, now: float) -> None:
        """A node refuses it."""
        self._voter.see(message.highest)
        if self._candidacy.vote(number, message):
            self._count_votes(now)

    def resign(self, number: int, message: Resign, now: float) -> None:
        """A scheduler has given up its role."""
        if self.reign is not None and message.term >= self.reign.term:
            self._end_of(number, message.why or "it resigned", now, lives=True)

    def bye(self, number: int, now: float) -> None:
        """A node's process ends."""
        self.watches[number].gone = True
        self._end_of(number, "its process has ended", now)

    def _end_of(self, number: int, why: str, now: float, lives: bool = False) -> None:
        """The reign of that node, if this one follows it, is over; `lives`: its process isn't."""
        if self._following.end(number, why, lives, now):
            self._voter.release()
            self._tell("warn", f"scheduler {self.watches[number].info.name}: {why}")

    def _count_votes(self, now: float) -> None:
        if not self.stalled(now):
            self._role.count_votes(now)

    def _tell(self, level: Literal["info", "warn", "error"], text: str) -> None:
        self.out.append(Tell(level, text))
