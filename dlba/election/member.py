"""One node of the array without its sockets: time, messages and facts in, commands out.

Pure. It joins the election (`machine`), the table's copy (`replication`) and the status sweep
(`status`), and does what each role asks for beside them:

- a scheduler sends heartbeats and deltas, sweeps, and says which nodes have failed;
- everybody else answers heartbeats, follows the table, and says now and then how it is;
- a candidate pulls the table from whoever has the most of it.

Each input returns the commands to carry out, in order. Inputs come as they happen; `tick` by
`next_at` at the latest. A message that breaks the rules raises PeerError and changes nothing more:
the adapter cuts its sender off. The simulation (tests/sim) runs whole arrays of these.

Source: election.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs

from dlba.election.census import Census
from dlba.election.commands import Command, Late, Mute, Send, Sign, Tell
from dlba.election.machine import Election, Settings
from dlba.election.messages import (
    Alive,
    Ask,
    Bye,
    Claim,
    Delta,
    Grant,
    Heard,
    Heartbeat,
    Message,
    Piece,
    Pull,
    Question,
    Refuse,
    Report,
    Resign,
)
from dlba.election.replication import Follower, Leader, Position, piece, term_of
from dlba.election.status import Sweep
from dlba.election.transitions import State
from dlba.errors import PeerError
from dlba.routing.hashtable import ClientTable

__all__ = ["Member", "OwnReport"]

#: Seconds between two messages of a node that nobody's heartbeat asks for one.
ALIVE_EVERY: Final = 0.5


@attrs.frozen
class OwnReport:
    """What this node says of itself in a sweep: see `messages.Report`."""

    hits: int
    open_connections: int
    average_response: float
    data: bytes


class Member:
    """`table`: this node's; `term`, `granted`: as stored; `own`: asked at each sweep.

    `sync_every`: seconds; `sweep`: of the configuration.
    """

    def __init__(
        self,
        settings: Settings,
        table: ClientTable,
        term: int,
        granted: int,
        sync_every: float,
        sweep: Sweep,
        own: Callable[[], OwnReport],
        now: float,
    ) -> None:
        self._settings = settings
        self._table = table
        self._follower = Follower(table)
        self._leader = Leader(table, sync_every)
        self._leading = False
        self._own = own
        self.election = Election(
            settings, term, granted, self._position, self._begin, self._end, now
        )
        self._out = self.election.out
        self._census = Census(self.election, self._out, sweep, settings.down_after)
        self._pulls_from = -1
        self._heartbeat_at = now
        self._alive_at = now
        self._told: Alive | None = None
        #: The scheduler that named a key to sign with last, and its id.
        self._signed = (-1, "")
        #: Whether this node itself can take flows; the adapter says so.
        self.able = True
        #: Id of the key that this node wants to sign cookies while it is scheduler.
        self.signing = ""

    # ---------------------------------------------------------------- what others ask

    @property
    def state(self) -> State:
        """What this node is."""
        return self.election.state

    @property
    def leading(self) -> bool:
        """Whether this node's table is the array's: it is scheduler, or nobody has followed yet."""
        return self._leading

    @property
    def scheduler(self) -> int:
        """The number of the node that is scheduler as far as this one knows; -1: none."""
        return self.election.scheduler

    @property
    def term(self) -> int:
        """Of the reign that this node follows, or the highest seen without one."""
        reign = self.election.reign
        return self.election.term if reign is None else reign.term

    @property
    def swept_at(self) -> float | None:
        """When the last sweep of this reign ended; seconds, monotonic."""
        return self._census.swept_at if self.election.reigning else None

    @property
    def failed(self) -> set[int]:
        """Numbers of the nodes that have failed: by this scheduler, or as the last one said."""
        return self._census.failed

    @property
    def position(self) -> Position:
        """Of this node's table."""
        return self._position()

    def next_at(self, now: float) -> float:
        """When `tick` is to be called at the latest."""
        due = min(self.election.next_at(now), self._alive_at)
        if self._leading:
            due = min(due, self._heartbeat_at, self._leader.next_at)
            if self.state is State.SCHEDULER and not self.election.stalled(now):
                due = min(due, self._census.next_at)
        return due

    # ---------------------------------------------------------------- inputs

    def tick(self, now: float) -> tuple[Command, ...]:
        """What is due."""
        self.election.tick(now)
        if self._leading:
            self._attend(now)
        if now >= self._alive_at or self._changed():
            self._tell_all(now)
        return self._taken(now)

    def up(self, number: int, incarnation: str, now: float) -> tuple[Command, ...]:
        """The channel to a node is there."""
        watch = self.election.watches[number]
        replaced = watch.incarnation not in ("", incarnation)
        self.election.up(number, incarnation, now)
        self._census.up(number, replaced)
        if self._leading:
            self._beat_one(number)
        self._send(number, self._alive())
        return self._taken(now)

    def down(self, number: int, now: float) -> tuple[Command, ...]:
        """The channel to a node is gone."""
        self.election.down(number, now)
        if number in (self._pulls_from, self.election.scheduler):
            self._pulls_from = -1
            self._follower.lost()
        self._census.down(number)
        return self._taken(now)

    def refused(self, number: int, now: float) -> tuple[Command, ...]:
        """A connect to a node was refused."""
        self.election.refused(number, now)
        self._census.look(now)
        return self._taken(now)

    def echoed(self, number: int, now: float) -> tuple[Command, ...]:
        """A node's kernel, or the GATEWAY, has answered an echo request."""
        self.election.echoed(number, now)
        return self._taken(now)

    def vip_claimed(self, mac: bytes, now: float) -> tuple[Command, ...]:
        """An ARP frame says that `mac` has the VIP."""
        self.election.vip_claimed(mac, now)
        return self._taken(now)

    def broken(self, what: str, why: str, now: float) -> tuple[Command, ...]:
        """A fault of this node begins, or (`why` empty) is over."""
        self.election.look(now)
        self.election.broken(what, why, now)
        return self._taken(now)

    def absent(self, gap: float, now: float) -> tuple[Command, ...]:
        """The packet path noticed that this process did not run for `gap` seconds, and is mute."""
        self.election.look(now)
        if self.state is State.SCHEDULER:
            # This node has run meanwhile, so that nothing is said of it elsewhere.
            text = f"absent for {gap:.2f} s: frames that waited are discarded"
            self._out.append(Tell("warn", text))
        if self.state in (State.SCHEDULER, State.LEAVING):
            # That absence is over already; or only late frames are passed on, by the table as it
            # was, which asks for no role.
            self._out.append(Mute(False))
        return self._taken(now)

    def stored(self, now: float) -> tuple[Command, ...]:
        """A `Store` has been carried out; it took until `now`."""
        self.election.stored(now)
        return self._taken(now)

    def arp(self, number: int, silent: bool, now: float) -> tuple[Command, ...]:
        """A node doesn't answer ARP, or does again."""
        self.election.look(now)
        self._census.arp(number, silent, now)
        return self._taken(now)

    def changed(self, now: float) -> tuple[Command, ...]:
        """The table may have changed."""
        if self._leading:
            self._publish(self._leader.changed(now))
        return self._taken(now)

    def stop(self, now: float) -> tuple[Command, ...]:
        """The process is about to end; a scheduler gives up its role if another can take it."""
        self.election.look(now)
        self.election.draining = True
        self._tell_all(now)
        self.election.stop(now)
        return self._taken(now)

    def end(self, now: float) -> tuple[Command, ...]:
        """The process ends now."""
        for number in self.election.connected:
            self._send(number, Bye())
        return self._taken(now)

    def take(self, number: int, message: Message, now: float) -> tuple[Command, ...]:
        """A message of the node `number`. Raises PeerError for one that breaks the rules."""
        self.election.look(now)
        try:
            take: Any = self._TAKE[type(message)]
        except KeyError:
            raise PeerError(f"{type(message).__name__.lower()}: not expected here") from None
        take(self, number, message, now)
        self.election.judge(now)
        return self._taken(now)

    def flush(self, now: float) -> tuple[Command, ...]:
        """What came about before an input raised PeerError."""
        return self._taken(now)

    # ---------------------------------------------------------------- messages

    def _take_heartbeat(self, number: int, message: Heartbeat, now: float) -> None:
        election = self.election
        if election.heartbeat(number, message, now):
            if election.state is State.LEAVING and self._leading:
                self._end(now)
                self._out.append(Late())
            self._census.failed = set(message.failed)
            if (number, message.signing) != self._signed:
                self._signed = (number, message.signing)
                self._out.append(Sign(message.signing))
            position = Position(term_of(message.term, number), message.version)
            parent = Position(message.parent_term, message.parent_version)
            if self._follower.heard(position, parent):
                self._pull(number)
        # Also to one that isn't followed: it learns of the term, and of whom we follow.
        self._send(number, self._alive())

    def _take_alive(self, number: int, message: Alive, now: float) -> None:
        self.election.alive(number, message, now)
        self._census.alive(number, message, now)

    def _take_heard(self, number: int, message: Heard, now: float) -> None:
        if self.election.heard(number, message, now):
            self._pull(number)

    def _take_delta(self, number: int, message: Delta, now: float) -> None:
        reign = self.election.reign
        if self._leading or reign is None or reign.number != number:
            return
        if self._follower.delta(message, now):
            self._pull(number)

    def _take_pull(self, number: int, message: Pull, now: float) -> None:
        self._send(number, piece(self._table, self._position(), message.first))

    def _take_piece(self, number: int, message: Piece, now: float) -> None:
        if self._leading or number != self._pulls_from:
            return
        more = self._follower.piece(message, now)
        if more is not None:
            self._send(number, more)

    def _take_question(self, number: int, message: Question, now: float) -> None:
        own = self._own()
        self._send(
            number,
            Report(
                id=message.id,
                hits=own.hits,
                open_connections=own.open_connections,
                average_response=own.average_response,
                data=own.data,
            ),
        )

    def _take_report(self, number: int, message: Report, now: float) -> None:
        self._census.reported(number, message, now)

    def _take_bye(self, number: int, message: Bye, now: float) -> None:
        self.election.bye(number, now)
        self._census.look(now)

    _TAKE: Final = {
        Heartbeat: _take_heartbeat,
        Alive: _take_alive,
        Ask: lambda self, *args: self.election.ask(*args),
        Heard: _take_heard,
        Claim: lambda self, *args: self.election.claim(*args),
        Grant: lambda self, *args: self.election.grant(*args),
        Refuse: lambda self, *args: self.election.refuse(*args),
        Resign: lambda self, *args: self.election.resign(*args),
        Bye: _take_bye,
        Delta: _take_delta,
        Pull: _take_pull,
        Piece: _take_piece,
        Question: _take_question,
        Report: _take_report,
    }

    # ---------------------------------------------------------------- the scheduler's part

    def _begin(self, now: float, dead: int) -> None:
        """A reign of this node begins, or goes on in a later term (`dead` -1, leading)."""
        reign = self.election.reign
        assert reign is not None
        parent = self._position()
        self._leader.start(term_of(reign.term, reign.number), parent, now)
        self._heartbeat_at = now
        if self._leading:
            return
        self._leading = True
        self._pulls_from = -1
        self._census.begin(now, dead)

    def _end(self, now: float) -> None:
        """The reign of this node has ended."""
        if not self._leading:
            return
        self._leading = False
        self._census.end()
        self._follower.start(self._leader.term)

    def _lead(self, now: float) -> None:
        """Send heartbeats."""
        self._heartbeat_at = now + self._settings.heartbeat
        # What is in the table goes before the heartbeat that tells of its position.
        self._publish(self._leader.changed(now))
        self.election.beats(now)
        if self.election.reigning:
            for number in self.election.connected:
                self._beat_one(number)

    def _attend(self, now: float) -> None:
        """What else a scheduler does as time goes by."""
        self._publish(self._leader.due(now))
        for question in self._census.questions(now):
            self._send(question.number, Question(id=question.id))

    def _publish(self, delta: Delta | None) -> None:
        if delta is not None:
            for number in self.election.connected:
                self._send(number, delta)

    def _beat_one(self, number: int) -> None:
        reign = self.election.reign
        if reign is None:
            return
        self._send(
            number,
            Heartbeat(
                term=reign.term,
                version=self._leader.position.version,
                parent_term=self._leader.parent.term,
                parent_version=self._leader.parent.version,
                alone=reign.alone,
                count=self.election.count,
                signing=self.signing,
                failed=tuple(sorted(self._census.failed)),
            ),
        )

    # ---------------------------------------------------------------- everybody's

    def _position(self) -> Position:
        return self._leader.position if self._leading else self._follower.position

    def _pull(self, number: int) -> None:
        self._pulls_from = number
        self._send(number, self._follower.pull())

    def _alive(self) -> Alive:
        election, position = self.election, self._position()
        reign = election.reign
        return Alive(
            term=election.term,
            reign_term=0 if reign is None else reign.term,
            scheduler=election.scheduler,
            count=election.count,
            table_term=position.term,
            version=position.version,
            able=self.able,
            draining=election.draining,
            eligible=election.eligible,
        )

    def _changed(self) -> bool:
        """Whether what the others must know at once differs from what they were told."""
        told, election = self._told, self.election
        return told is None or (told.able, told.draining, told.eligible) != (
            self.able,
            election.draining,
            election.eligible,
        )

    def _tell_all(self, now: float) -> None:
        self._alive_at = now + ALIVE_EVERY
        self._told = self._alive()
        for number in self.election.connected:
            self._send(number, self._told)

    def _send(self, number: int, message: Message) -> None:
        self._out.append(Send(number, message))

    def _taken(self, now: float) -> tuple[Command, ...]:
        if self._leading and now >= self._heartbeat_at:
            # A reign's first heartbeat goes before its deltas: who hears it knows their term.
            self._lead(now)
        out = tuple(self._out)
        self._out.clear()
        return out
