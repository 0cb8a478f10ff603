"""Decides what this node is in the election: finds the events, looks them up, carries out actions.

Pure. Every input comes with `now` (seconds, monotonic) and may put commands into `out`, in the
order in which they are to be carried out. An input that comes later than `down_after` after the one
before tells that this process did not run: that is an event of its own, before anything else.

Where the rules stand: the states and what each event does in `transitions`; evidence and rank in
`watch`; what speaks against a claim in `ballot`; which of two reigns goes on in `reign`. What a
scheduler and a follower do beside that (heartbeats, table, sweep) is `member`'s, which is told by
`began` and `ended`.

With `quorum: reachable` a reign that meets a later term goes beyond it by itself (`_go_beyond`);
with `majority` it ends, since only a majority gives terms away.

Source: election.md "Time", "Heartbeat and evidence of death", "Takeover".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import Final

import attrs

from dlba.election.ballot import LIMIT, Ballot, Weighing
from dlba.election.commands import (
    GATEWAY,
    Command,
    Dial,
    Echo,
    Mute,
    ProbeVip,
    Quiet,
    Schedule,
    Send,
    StepDown,
    Store,
    Tell,
)
from dlba.election.messages import (
    TERM_LIMIT,
    Alive,
    Ask,
    Claim,
    Grant,
    Heard,
    Heartbeat,
    Message,
    Refuse,
    Resign,
)
from dlba.election.reign import NodeInfo, Reign, better
from dlba.election.replication import Position
from dlba.election.transitions import TABLE, Event, State
from dlba.election.watch import VIP_SILENCE, Evidence, Watch, rank
from dlba.errors import PeerError

__all__ = ["Election", "Settings"]

#: Seconds between two places in the rank: a claim takes about twice that.
SKEW: Final = 0.02
#: Seconds that weighing begins before evidence 2 or 3 is complete; the claim comes after it.
HEAD_START: Final = 0.04
#: A node hears a scheduler whose last heartbeat is no older than this part of `down_after`.
HEARD_WITHIN: Final = 2 / 3
#: Seconds between two VIP probes of a backup.
VIP_PROBE: Final = 1 / 3
#: A majority's claimants wait so many `down_after` of silence, a scheduler without one steps down
#: after one.
MAJORITY_WAIT: Final = 1.5
#: Claims because of unanswered ARP in a row double the wait for the next, to so many seconds.
VIP_WAIT_LIMIT: Final = 64.0
#: A peer's term may be so far beyond the own one: no array gets there in its life, and no message
#: shall take it to the end of all terms.
LEAP: Final = 1 << 20
#: Seconds for the votes of a majority: each voter writes to its disk first.
VOTES_LIMIT: Final = 1.0
#: Seconds that a candidate leaves to a better one: weighing, claim, and the first heartbeat.
AFTER_YOU: Final = 0.15
#: So many heartbeats are remembered until they are answered.
BEATS: Final = 64
#: Evidence that silence becomes with time.
FORESEEN: Final = frozenset({Evidence.SILENT, Evidence.HUNG})
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
        infos = {info.number: info for info in settings.nodes}
        self.own = infos.pop(settings.number)
        self.watches = {number: Watch(info, now) for number, info in infos.items()}
        self._macs = {info.mac: number for number, info in infos.items()}
        enabled = sum(info.enabled for info in settings.nodes)
        self._majority = enabled // 2 + 1 if settings.majority else 0
        self._position = position
        self._began = began
        self._ended = ended
        self.state = State.LISTENING
        #: The highest term seen; what is stored is never higher.
        self.term = term
        self._stored = term
        self._granted = granted
        #: The reign that this node follows, or its own; None: none.
        self.reign: Reign | None = None
        #: Evidence 1 against the reign that is followed: why, and since when.
        self._over = ""
        self._over_at = inf
        self._over_lives = False
        #: The highest term of a reign that this node has followed.
        self._followed = 0
        #: Number of the last heartbeat of that reign, sent or heard.
        self.count = 0
        self._beats: dict[int, float] = {}  # number of a heartbeat that was sent → when
        #: Whether this node drains; the adapter says so.
        self.draining = False
        self.out: list[Command] = []
        self._faults: dict[str, str] = {}
        self._last = now
        self._unread_until = -inf
        self._listen_until = now + 3 * settings.down_after
        self._nobody_since = now
        self._wait_until = -inf
        self._ping_at = now
        self._probe_at = now
        self._vip_at = now  # answered, or counted anew
        self._vip_claims = 0
        self._gateway_at = now
        self._weighing: Weighing | None = None
        self._evidence = Evidence.NOBODY
        self._claim_from = now
        self._ballot: Ballot | None = None
        self._questions = 0
        self._lost_at = -inf
        self._absent_since = now
        self._absent_count = 0
        self._confirmed: set[int] = set()  # nodes that follow this reign since its absence
        #: Until then (majority) a scheduler may live by what this node, or the process before it,
        #: has answered: no grant.
        self._promised_until = now + settings.down_after

    # ---------------------------------------------------------------- what others ask

    @property
    def reigning(self) -> bool:
        """Whether this node is scheduler, if a mute one."""
        return self.state in (State.SCHEDULER, State.ABSENT)

    @property
    def eligible(self) -> bool:
        """Whether this node may become scheduler."""
        return self.own.enabled and self.state not in (State.FAULT, State.LEAVING)

    @property
    def scheduler(self) -> int:
        """The number of the node that this one counts as scheduler, itself included; -1: none."""
        return -1 if self.reign is None or self._over else self.reign.number

    @property
    def connected(self) -> list[int]:
        """The numbers of the nodes to which the channel is there."""
        return [number for number, watch in self.watches.items() if watch.up]

    @property
    def faults(self) -> str:
        """What is broken here, in words."""
        return "; ".join(self._faults.values())

    def next_at(self, now: float) -> float:
        """When `tick` is to be called at the latest."""
        if self.state in (State.CANDIDATE, State.CLAIMANT):
            return now + FINE
        due = now + self._settings.heartbeat / 5
        if self.state is State.BACKUP:
            evidence, at = self._evidence_due()
            at = max(at - (HEAD_START if evidence in FORESEEN else 0.0), self._wait_until)
            if at > now:
                due = min(due, at)
        return due

    # ---------------------------------------------------------------- time

    def look(self, now: float) -> None:
        """At the start of every input: were we absent?"""
        gap, self._last = now - self._last, max(now, self._last)
        if gap > self._settings.down_after:
            self._tell("warn", f"absent for {gap:.2f} s: evidence starts anew")
            if "gateway" not in self._faults:
                self._gateway_at = now
            self._reset(now)
            self._fire(Event.GAP, now)
        if gap > self._settings.heartbeat:
            self._unread_until = now + self._settings.heartbeat / 4

    def stored(self, now: float) -> None:
        """A term has been written down, which took until `now`: that is no absence.

        But of a scheduler, which forwarded nothing meanwhile.
        """
        if self.reigning:
            return
        gap, self._last = now - self._last, max(now, self._last)
        if self._ballot is not None:
            self._ballot.deadline += gap
        if gap > self._settings.heartbeat:
            self._unread_until = now + self._settings.heartbeat / 4
            for watch in self.watches.values():
                watch.shift(gap)

    def stalled(self, now: float) -> bool:
        """Whether answers may wait unread, since this process stood still: judge nobody yet."""
        return now < self._unread_until

    def tick(self, now: float) -> None:
        """What is due by the time alone."""
        self.look(now)
        state = self.state
        if self.stalled(now):
            pass
        elif state is State.LISTENING and now >= self._listen_until + self._skew(-1):
            self._nobody_since = now
            self._fire(Event.LISTENED, now)
        elif state is State.CANDIDATE:
            self._weigh_on(now)
        elif state is State.CLAIMANT:
            self._count_votes(now)
        elif self.reigning:
            self._keep_on(now)
        self._ping(now)
        self.judge(now)

    def judge(self, now: float) -> None:
        """A backup looks whether it must act; done at the end of every input."""
        if self.state is not State.BACKUP or not self.own.enabled:
            return
        if now < self._wait_until or self.stalled(now):
            return
        evidence, at = self._evidence_due()
        if now >= at - (HEAD_START if evidence in FORESEEN else 0.0):
            self._evidence, self._claim_from = evidence, at
            self._fire(Event.DEAD, now)

    def _evidence_due(self) -> tuple[Evidence, float]:
        """The evidence that this node can act on next, and from when, its rank included."""
        evidence, since = self._next_evidence()
        dead = -1 if self.reign is None else self.reign.number
        at = since + self._skew(dead)
        if self._majority and evidence is not Evidence.GONE:
            at += (MAJORITY_WAIT - 1) * self._settings.down_after
        return evidence, at

    def _next_evidence(self) -> tuple[Evidence, float]:
        if self.reign is None:
            return Evidence.NOBODY, self._nobody_since
        if self._over:
            return Evidence.GONE, self._over_at
        found = self.watches[self.reign.number].evidence(self._settings.down_after)
        silence = min(VIP_SILENCE * 2**self._vip_claims, VIP_WAIT_LIMIT)
        unanswered = Evidence.UNANSWERED, self._vip_at + silence
        return min(found, unanswered, key=lambda one: one[1])

    def _skew(self, dead: int) -> float:
        return SKEW * rank(self.own, self.draining, self.watches, dead)

    def _enough(self, others: Iterable[int]) -> bool:
        """Whether they and this node are a majority of the enabled ones, or needn't be one."""
        return sum(self.watches[n].info.enabled for n in others) + 1 >= self._majority

    def _keep_on(self, now: float) -> None:
        """A scheduler looks whether it may go on."""
        down_after = self._settings.down_after
        if self._majority:
            if not self._enough(
                n for n, w in self.watches.items() if now - w.answered <= down_after
            ):
                self._tell("error", "no answers from a majority: scheduler no more")
                self._fire(Event.MINORITY, now)
                return
        elif self.state is State.ABSENT and now >= self._absent_since + down_after:
            self._tell("warn", "nobody confirms the term: going on as scheduler")
            self._fire(Event.CONFIRMED, now)
        if self.state is State.SCHEDULER and self.reign and self.term > self.reign.term:
            self._go_beyond(now)

    def _ping(self, now: float) -> None:
        """Echo requests and VIP probes that are due."""
        follows = self.reign is not None and self.reign.number != self.own.number
        if self.state is State.BACKUP and follows and now >= self._probe_at:
            self._probe_at = now + VIP_PROBE
            self.out.append(ProbeVip())
        if now < self._ping_at:
            return
        self._ping_at = now + self._settings.ping_every
        if self.reigning:
            self.out.extend(Echo(number) for number in self.watches)
            if self.state is State.ABSENT:
                self.out.append(ProbeVip())
        elif follows and self.reign is not None:
            self.out.append(Echo(self.reign.number))
        if self._settings.gateway:
            self.out.append(Echo(GATEWAY))
            silent = now - self._gateway_at > 3 * self._settings.down_after
            if silent and "gateway" not in self._faults:
                self.broken("gateway", "the gateway is silent", now)
            elif not silent and "gateway" in self._faults:
                self.broken("gateway", "", now)

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
            self._gateway_at = now
        else:
            watch = self.watches[number]
            watch.echo = now
            if not watch.up:
                # Perhaps a split has healed: the next try by itself may be seconds away.
                self.out.append(Dial(number))

    def vip_claimed(self, mac: bytes, now: float) -> None:
        """An ARP frame says that `mac` has the VIP; only nodes of the array count."""
        self.look(now)
        number = self._macs.get(mac)
        if number is None:
            return
        self._vip_at = now
        self._vip_claims = 0
        if self.state in (State.CANDIDATE, State.CLAIMANT):
            name = self.watches[number].info.name
            self._tell("warn", f"channel down: {name} answers for the VIP, so no claim")
            self._fire(Event.VETOED, now)
        elif self.state is State.ABSENT:
            self._tell("warn", f"{self.watches[number].info.name} answers for the VIP: yielding")
            self._fire(Event.OUTRANKED, now)

    def broken(self, what: str, why: str, now: float) -> None:
        """A fault of this node, by `what`, begins; `why` empty: it is over."""
        before = bool(self._faults)
        if why:
            self._faults[what] = why
        else:
            self._faults.pop(what, None)
        if bool(self._faults) != before:
            if before:
                self._tell("info", "fault over")
            else:
                self._tell("error", f"fault: {why}")
            self._fire(Event.MENDED if before else Event.BROKEN, now)

    def stop(self, now: float) -> None:
        """The process is about to end. A scheduler whom nobody can follow stays one till then."""
        if self.reigning and not any(watch.eligible for watch in self.watches.values()):
            return
        self._fire(Event.STOP, now)

    # ---------------------------------------------------------------- messages

    def heartbeat(self, number: int, message: Heartbeat, now: float) -> bool:
        """A scheduler's heartbeat; True: this node follows it."""
        info = self.watches[number].info
        came = Reign(message.term, number, message.alone, info.priority)
        self._see(message.term)
        if self.reigning:
            assert self.reign is not None
            if not better(came, self.reign):
                return False
            self._tell("warn", f"{info.name} is scheduler in term {came.term}: yielding to it")
            self._fire(Event.OUTRANKED, now)
        elif not self._accepts(came, now):
            return False
        self.watches[number].beat = now
        self.count = message.count
        same = self.reign is not None and self.reign.number == number and not self._over
        same = same and self.reign is not None and self.reign.term == came.term
        if not same:
            self._tell("info", f"follows {info.name}, scheduler in term {came.term}")
            self._vip_at = now
        self.reign = came
        self._followed = max(self._followed, came.term)
        self._over, self._over_at, self._over_lives = "", inf, False
        self._promised_until = now + self._settings.down_after
        accused = self.state in (State.CANDIDATE, State.CLAIMANT)
        if not (accused and same and self._evidence is Evidence.UNANSWERED):
            # Of one whose ARP isn't answered, heartbeats are no news.
            self._fire(Event.FOLLOWED, now)
        return True

    def _accepts(self, came: Reign, now: float) -> bool:
        if self._majority and came.term < self._followed:
            return False  # only a majority gives terms away: an old one is over
        current = self.reign
        if current is None or current.number == self.own.number or better(came, current):
            return True
        if current.number == came.number:
            return came.term >= current.term
        silent = now - self.watches[current.number].beat > self._settings.down_after
        return bool(self._over) or silent

    def _check(self, term: int) -> None:
        """Raises PeerError for a term that no peer can have come to."""
        if term > self.term + LEAP:
            raise PeerError(f"term: expected at most {self.term + LEAP}, got {term}")

    def _see(self, term: int) -> None:
        """A peer has seen this term, so this node has. Raises PeerError."""
        self._check(term)
        self.term = max(self.term, term)

    def beats(self, now: float) -> None:
        """The next heartbeat of this reign is sent."""
        self.count += 1
        self._beats[self.count] = now
        self._beats.pop(self.count - BEATS, None)

    def alive(self, number: int, message: Alive, now: float) -> None:
        """What a node says of itself."""
        self._see(message.term)
        watch = self.watches[number]
        watch.alive, watch.alive_at = message, now
        reign = self.reign
        if reign is None:
            return
        if not self.reigning:
            if message.scheduler != number:
                self._end_of(number, "it is scheduler no more, it says", now, lives=True)
            return
        if message.scheduler == self.own.number and message.reign_term == reign.term:
            # As of the heartbeat, not of its answer: one that was long on its way buys no time.
            watch.answered = max(watch.answered, self._beats.get(message.count, -inf))
            if reign.alone:
                self.reign = attrs.evolve(reign, alone=False)
            if self.state is State.ABSENT and message.count >= self._absent_count:
                self._confirmed.add(number)
                if self._enough(self._confirmed):
                    self._fire(Event.CONFIRMED, now)
        elif (
            message.scheduler not in (self.own.number, -1, number)
            and message.reign_term > reign.term
        ):
            # The other scheduler itself counts by its heartbeats, which say whether it is alone;
            # a follower of it, even if those heartbeats don't come here.
            self._tell("warn", f"{watch.info.name} follows term {message.reign_term}: yielding")
            self._fire(Event.OUTRANKED, now)

    def ask(self, number: int, message: Ask, now: float) -> None:
        """A candidate asks whether its scheduler, or anybody's ARP, is heard here."""
        if self.state is State.CANDIDATE and self._comes_before(number):
            # Two at once: one of them would lose its claim, and time.
            self._fire(Event.VETOED, now)
            self._wait_until = now + AFTER_YOU
        if message.vip:
            heard = now - self._vip_at < VIP_SILENCE / 2
        elif message.scheduler == -1:
            heard = self.reigning or self._hears(now)
        elif message.scheduler == self.own.number:
            heard = self.reigning
        else:
            reign = self.reign
            heard = reign is not None and reign.number == message.scheduler and self._hears(now)
        position = self._position()
        self._send(
            number,
            Heard(id=message.id, heard=heard, table_term=position.term, version=position.version),
        )

    def _comes_before(self, number: int) -> bool:
        """Whether a node comes before this one when a scheduler is wanted."""
        watch = self.watches[number]
        mine = (self.draining, -self.own.priority, self.own.number)
        return watch.eligible and (watch.draining, -watch.info.priority, number) < mine

    def _hears(self, now: float) -> bool:
        """Whether the scheduler that this node follows is alive for it."""
        reign = self.reign
        if reign is None or self._over or reign.number == self.own.number:
            return False
        # A candidate asks a little before its evidence is complete, and hears heartbeats a little
        # earlier or later than this node. With a majority a grant must not come before the
        # scheduler's own time is up.
        within = self._settings.down_after * (1 if self._majority else HEARD_WITHIN)
        watch = self.watches[reign.number]
        # Heartbeats come by the channel: where that has just closed, none is on its way.
        return watch.up and now - watch.beat <= within

    def heard(self, number: int, message: Heard, now: float) -> bool:
        """An answer to our question; True: pull the table from that node."""
        weighing = self._weighing
        if self.state is not State.CANDIDATE or weighing is None or message.id != weighing.question:
            return False
        position = Position(message.table_term, message.version)
        pull = weighing.heard(number, message.heard, position, now)
        if weighing.heard_by_most:
            self._tell("warn", "most others hear the scheduler, so no claim")
            self._fire(Event.VETOED, now)
        return pull

    def claim(self, number: int, message: Claim, now: float) -> None:
        """A node claims a term: grant it once, or say why not."""
        self._check(message.term)
        if message.term == self._stored and self._granted == number:
            self._send(number, Grant(term=message.term))
            return
        unanswered = message.evidence == Evidence.UNANSWERED
        reign = self.reign
        live = self.state is State.SCHEDULER or (
            self._hears(now) and reign is not None and reign.number != number
        )
        if live and not unanswered:
            self._refuse(number, message, self.reigning, "a scheduler is alive")
        elif self._majority and now < self._promised_until and not unanswered:
            self._refuse(number, message, False, "a scheduler may live by its answers")
        elif message.term <= self.term:
            self._refuse(number, message, False, f"term {self.term} was seen")
        else:
            if self.reigning:
                self._fire(Event.OUTRANKED, now)
            elif self.state is State.CANDIDATE:
                self._fire(Event.VETOED, now)
            elif self.state is State.CLAIMANT:
                self._fire(Event.LOST, now)
            self._see(message.term)
            self._store(message.term, number)
            self._send(number, Grant(term=message.term))
            self._wait_until = max(self._wait_until, now + self._settings.down_after)

    def _refuse(self, number: int, claim: Claim, live: bool, why: str) -> None:
        self._send(number, Refuse(term=claim.term, highest=self.term, live=live, why=why))

    def grant(self, number: int, message: Grant, now: float) -> None:
        """A node grants our claim."""
        if self._ballot is not None and message.term == self._ballot.term:
            self._ballot.grant(number)
            self._count_votes(now)

    def refuse(self, number: int, message: Refuse, now: float) -> None:
        """A node refuses it."""
        self._see(message.highest)
        if self._ballot is not None and message.term == self._ballot.term:
            self._ballot.refuse(number, message.live, message.why)
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
        """The reign of that node, which this one follows, is over; `lives`: its process isn't."""
        reign = self.reign
        if reign is None or reign.number != number or self._over or self.reigning:
            return
        self._over, self._over_at, self._over_lives = why, now, lives
        self._promised_until = -inf
        self._tell("warn", f"scheduler {self.watches[number].info.name}: {why}")

    # ---------------------------------------------------------------- actions

    def _fire(self, event: Event, now: float) -> None:
        self.state, action = TABLE[self.state, event]
        getattr(self, f"_{action.name.lower()}")(now)

    def _nothing(self, now: float) -> None:
        self._weighing = self._ballot = None

    def _follow(self, now: float) -> None:
        self._weighing = self._ballot = None

    def _listen(self, now: float) -> None:
        self._listen_until = now + 3 * self._settings.down_after
        self.reign = None
        self._over = ""
        self._reset(now)

    def _reset(self, now: float) -> None:
        self._weighing = self._ballot = None
        self._vip_at = now
        for watch in self.watches.values():
            watch.reset(now)

    def _weigh(self, now: float) -> None:
        self._questions += 1
        reign, vip = self.reign, self._evidence is Evidence.UNANSWERED
        dead = -1 if reign is None else reign.number
        # Whether its own ARP is answered the scheduler can't hear.
        silent = dead if vip else self._mute_one()
        asked = [number for number in self.connected if number != silent]
        why = {
            Evidence.GONE: self._over,
            Evidence.SILENT: "neither heartbeat nor echo",
            Evidence.HUNG: "no heartbeat, though its kernel answers",
            Evidence.UNANSWERED: "nobody answers ARP for the VIP",
            Evidence.NOBODY: "there is no scheduler",
        }[self._evidence]
        self._tell("info", f"candidate: {why}")
        self._weighing = Weighing(self._questions, asked, self._position(), now)
        for number in asked:
            self._send(number, Ask(id=self._questions, scheduler=dead, vip=vip))
        self._weigh_on(now)

    def _weigh_on(self, now: float) -> None:
        weighing = self._weighing
        assert weighing is not None
        if weighing.probe_due(now):
            self.out.append(ProbeVip())
        if self._evidence in FORESEEN and self._evidence_due()[1] > self._claim_from:
            # An echo has come: it was no evidence yet.
            self._fire(Event.VETOED, now)
            self._wait_until = now
            return
        if now < self._claim_from or not weighing.done(self._position(), now):
            return
        if not self._enough(weighing.answers):
            # The others would learn of a later term, if only later, and their scheduler step down.
            self._tell("warn", "no majority to be asked, so no claim")
            self._fire(Event.VETOED, now)
        else:
            self._fire(Event.WEIGHED, now)

    def _wait(self, now: float) -> None:
        self._weighing = self._ballot = None
        dead = -1 if self.reign is None else self.reign.number
        pause = self._settings.down_after
        if self._evidence is Evidence.GONE and now < self._over_at + pause:
            pause = LIMIT  # that a process is gone the others find out in a moment as well
        self._wait_until = now + pause + self._skew(dead)

    def _claim(self, now: float) -> None:
        self._weighing = None
        if self.term + 1 >= TERM_LIMIT:
            self._tell("error", f"term {self.term} is the last: the state folders need a new start")
            self._fire(Event.LOST, now)
            return
        self.term += 1
        if self._evidence is Evidence.UNANSWERED:
            self._vip_claims += 1
        self._store(self.term, self.own.number)
        others, mute = self.connected, self._mute_one()
        limit = VOTES_LIMIT if self._majority else LIMIT
        self._ballot = Ballot(self.term, [n for n in others if n != mute], now + limit)
        for number in others:
            self._send(number, Claim(term=self.term, evidence=self._evidence))
        self._count_votes(now)

    def _count_votes(self, now: float) -> None:
        ballot = self._ballot
        if self.state is not State.CLAIMANT or ballot is None or self.stalled(now):
            return
        enough = self._enough(ballot.grants)
        if not ballot.done(now) and not (self._majority and enough and not ballot.lost):
            return
        if ballot.lost or not enough:
            why = ballot.against or "too few grant it"
            self._tell("warn", f"claim of term {ballot.term} lost: {why}")
            self._fire(Event.LOST, now)
            again = now < self._lost_at + self._settings.down_after
            self._lost_at = now
            if ballot.against and not ballot.live and not again:
                # Another had the term. If nobody gets it, the first in the rank tries again first.
                dead = -1 if self.reign is None else self.reign.number
                self._wait_until = now + LIMIT * rank(self.own, self.draining, self.watches, dead)
        else:
            self._fire(Event.WON, now)

    def _reign(self, now: float) -> None:
        ballot, self._ballot = self._ballot, None
        assert ballot is not None
        dead = self._dead()
        self.reign = Reign(ballot.term, self.own.number, not ballot.grants, self.own.priority)
        self._over, self._over_at, self._over_lives = "", inf, False
        self._followed = max(self._followed, ballot.term)
        self.count = 0
        self._beats.clear()
        for watch in self.watches.values():
            watch.reset(now)  # nobody has had to answer this node before
        self._tell("info", f"scheduler in term {ballot.term}")
        self._began(now, dead)
        self.out.append(Schedule(ballot.term))

    def _mute_one(self) -> int:
        """The number of the scheduler that this claim is against, if it won't answer; else -1."""
        if self.reign is None or self._evidence is Evidence.UNANSWERED:
            return -1
        watch = self.watches[self.reign.number]
        return -1 if self._over and watch.up and not watch.gone else self.reign.number

    def _dead(self) -> int:
        """The number of the scheduler that this claim was against, if it is gone; else -1.

        One that resigned, or just isn't answered by ARP, may well serve the flows that it has.
        """
        if self.reign is None:
            return -1
        number = self.reign.number
        watch = self.watches[number]
        talks = self._over_lives or (not self._over and self._evidence is Evidence.UNANSWERED)
        return -1 if talks and watch.up and not watch.gone else number

    def _go_beyond(self, now: float) -> None:
        """A later term was seen, but no better scheduler: go on in one that is later still."""
        assert self.reign is not None
        if self._majority:
            self._tell("warn", f"term {self.term} was seen: scheduler no more")
            self._fire(Event.OUTRANKED, now)
            return
        if self.term + 1 >= TERM_LIMIT:
            return
        self.term += 1
        self._store(self.term, self.own.number)
        self.reign = attrs.evolve(self.reign, term=self.term)
        self._followed = self.term
        self._tell("info", f"scheduler goes on in term {self.term}")
        self._began(now, -1)

    def _yield(self, now: float) -> None:
        self.out.append(StepDown())
        self._ended(now)
        self.reign = None
        self._over = ""
        self._nobody_since = now
        self._reset(now)

    def _resign(self, now: float) -> None:
        self._send_resign(f"fault: {self.faults}" if self._faults else "no majority answers it")
        self._yield(now)

    def _leave(self, now: float) -> None:
        """Deltas go on until another scheduler is heard: frames still come here."""
        self._send_resign("it stops")
        self.out.append(Quiet())

    def _send_resign(self, why: str) -> None:
        assert self.reign is not None
        why = "".join(c if c.isprintable() else " " for c in why)[:200]
        for number in self.connected:
            self._send(number, Resign(term=self.reign.term, why=why))

    def _mute(self, now: float) -> None:
        self.out.append(Mute(True))
        self.out.append(ProbeVip())
        self._absent_since = now
        self._absent_count = self.count + 1
        self._confirmed.clear()

    def _unmute(self, now: float) -> None:
        self.out.append(Mute(False))

    def _store(self, term: int, granted: int) -> None:
        self._stored, self._granted = term, granted
        self.out.append(Store(term, granted))

    def _send(self, number: int, message: Message) -> None:
        self.out.append(Send(number, message))

    def _tell(self, level: str, text: str) -> None:
        self.out.append(Tell(level, text))  # type: ignore[arg-type]
