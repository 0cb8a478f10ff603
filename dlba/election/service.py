"""Runs one node's part in the array: carries out what the election decides, brings it what happens.

An adapter. Everything is decided in `member`; here its commands go to the channel, the packet path
(`Routing`, which `dlba.node` gives), the disk and ICMP, one after another. What happens meanwhile
as a consequence waits until they are done, so that commands never mix.

A term that can't be written down stops what would have followed it and is a fault of this node,
until the disk takes it. So is a role that can't be taken on, for a while.

Source: election.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger, LogLevel

from dlba.election import commands as do
from dlba.election.allowance import Allowance
from dlba.election.commands import Command
from dlba.election.keyexchange import KeyExchange
from dlba.election.leaving import Leaving
from dlba.election.member import Member
from dlba.election.messages import Claim, Grant, Keys, KeysHave, Message
from dlba.election.notes import SELDOM
from dlba.election.outside import Routing, Wire
from dlba.election.retries import Retries
from dlba.election.summary import Row, unpack_rows
from dlba.election.terms import Terms
from dlba.election.transitions import State
from dlba.errors import DLBAError, PeerError

__all__ = ["ElectionService"]

#: Different lines that are remembered, so that none is said again soon.
LINES_LIMIT: Final = 256
#: Seconds to the next turn after one that a bug has ended.
AFTER_BUG: Final = 0.1


class ElectionService(Service):
    """`make`: makes the member when the service starts, from the time; `terms`: its memory on disk.

    `echo`: sends an echo request to a node's number, or to the gateway.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        make: Callable[[float], Member],
        terms: Terms,
        routing: Routing,
        echo: Callable[[int], None],
        names: Mapping[int, str],
    ) -> None:
        self._reactor = reactor
        self._make = make
        self._terms = terms
        self._routing = routing
        self._echo = echo
        self._names = dict(names)
        self._queue: deque[Command] = deque()
        self._busy = False
        self._timer: Any = None
        self._retries = Retries(reactor, self._mended)
        #: What the disk has refused: the latest term, and whom it is granted to.
        self._unstored = (0, -1)
        self._allowance = Allowance()
        self._said: dict[str, float] = {}
        self._rows: dict[int, tuple[Row, ...]] = {}
        self._leaving = Leaving(reactor)
        #: Set before the service starts.
        self.wire: Wire
        self.member: Member
        self.keys: KeyExchange

    # ---------------------------------------------------------------- life

    def startService(self) -> None:
        """Listen for a scheduler, then take part."""
        self.member = self._make(self._reactor.seconds())
        super().startService()
        if self._routing.fault:
            self.fault(self._routing.fault)
        self._tick()

    def leave(self) -> Deferred[None]:
        """The process is about to end: a scheduler lets another node take its role.

        Fires when that is done and late frames have had their time; soon where nobody takes it.
        """
        self._input(lambda member, now: member.stop(now))
        if self.running and self.member.state is State.LEAVING and self.member.leading:
            return self._leaving.begin()
        return succeed(None)

    def stopService(self) -> None:
        """Say good-bye."""
        self._input(lambda member, now: member.end(now))
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._leaving.stop()
        self._retries.stop()
        super().stopService()

    # ---------------------------------------------------------------- what happens
    # Nothing of it counts before the start (the packet path is there first) and after the stop.

    def up(self, number: int, incarnation: str) -> None:
        """The channel to a node is there."""
        if self.running:
            self._input(lambda member, now: member.up(number, incarnation, now))
            self.keys.up(number)

    def down(self, number: int, why: str) -> None:
        """The channel to a node is gone."""
        if self.running:
            self.keys.down(number)
            self._input(lambda member, now: member.down(number, now))

    def refused(self, number: int) -> None:
        """A connect to a node was refused."""
        self._input(lambda member, now: member.refused(number, now))

    def message(self, number: int, message: Message) -> None:
        """A node says something. Raises PeerError: it broke the rules, cut it off."""
        if not self.running:
            return
        self._allowance.spend(number, message, self._reactor.seconds())
        if isinstance(message, (Keys, KeysHave)):
            self.keys.came(number, message)
        else:
            self._input(lambda member, now: member.take(number, message, now))

    def echoed(self, number: int) -> None:
        """A node's kernel has answered an echo request."""
        self._input(lambda member, now: member.echoed(number, now))

    def vip_claimed(self, mac: bytes) -> None:
        """An ARP frame says that `mac` has the VIP."""
        self._input(lambda member, now: member.vip_claimed(mac, now))

    def fault(self, why: str) -> None:
        """The interface or a port has failed; `why` empty: it is back."""
        self._broken("link", why)

    def absent(self, gap: float) -> None:
        """The packet path noticed that this process did not run; it is mute until told."""
        self._input(lambda member, now: member.absent(gap, now))

    def arp(self, number: int, silent: bool) -> None:
        """A node doesn't answer the scheduler's ARP requests, or does again."""
        self._input(lambda member, now: member.arp(number, silent, now))

    def table_changed(self) -> None:
        """The client table has changed."""
        self._input(lambda member, now: member.changed(now))

    def _broken(self, what: str, why: str) -> None:
        self._input(lambda member, now: member.broken(what, why, now))

    def _tick(self) -> None:
        self._timer = None
        try:
            self._routing.alive(self._reactor.seconds())
            member = self.member
            member.able = self._routing.able
            if member.election.reigning:
                member.signing = self.keys.choose()
            self._input(lambda member, now: member.tick(now))
        except Exception:  # noqa: BLE001 - a bug here must not end the node's part for good
            self._log.failure("an exception at a turn of the election")
            if self._timer is None:
                self._timer = self._reactor.callLater(AFTER_BUG, self._tick)

    def _input(self, what: Callable[[Member, float], tuple[Command, ...]]) -> None:
        """One input, and all that follows from it. Raises PeerError once that is done."""
        if not self.running:
            return
        now = self._reactor.seconds()
        wrong: PeerError | None = None
        try:
            self._queue.extend(what(self.member, now))
        except PeerError as error:
            # What it has told of before that (this process was absent, say) counts all the same.
            self._queue.extend(self.member.flush(now))
            wrong = error
        if self._busy:
            if wrong is not None:
                raise wrong
            return
        self._busy = True
        try:
            while self._queue:
                try:
                    self._carry_out(self._queue.popleft())
                except PeerError as error:
                    wrong = error
        finally:
            self._busy = False
        self._set_timer()
        if not self.member.leading:
            self._leaving.followed()
        if wrong is not None:
            raise wrong

    def _set_timer(self) -> None:
        if not self.running:
            return  # what was carried out has stopped this
        now = self._reactor.seconds()
        due = max(self.member.next_at(now), now)
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() <= due + 0.001:
                return
            self._timer.cancel()
        self._timer = self._reactor.callLater(due - now, self._tick)

    # ---------------------------------------------------------------- what is to be done

    def _carry_out(self, command: Command) -> None:
        """Raises PeerError for what a node has said; whatever else fails stays here."""
        try:
            self._CARRY_OUT[type(command)](self, command)
        except PeerError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug must not end the node's part for good
            if not isinstance(error, (OSError, DLBAError)):
                self._log.failure("an exception at a command of the election")
            why = str(error) or type(error).__name__
            if isinstance(command, do.Store):
                self._unstored = command.term, command.granted
                self._fail("disk", why)
            elif isinstance(command, do.Schedule):
                self._fail("port", why)
            elif isinstance(error, (OSError, DLBAError)):
                self._tell("error", f"{type(command).__name__.lower()}: {why}")

    def _schedule(self, command: do.Schedule) -> None:
        self._rows.clear()  # of an earlier reign: old until the first sweep has passed
        self._routing.schedule(self._reactor.seconds())

    def _store(self, command: do.Store) -> None:
        self._terms.store(command.term, command.granted)
        self._input(lambda member, now: member.stored(now))

    def _fail(self, what: str, why: str) -> None:
        """Nothing that depends on it may leave, what is this node's own matter is still done.

        The node is in fault until it is tried again.
        """
        waiting, self._queue = self._queue, deque()
        self._queue.extend(command for command in waiting if not _outward(command))
        self._broken(what, why)
        self._retries.later(what)

    def _mended(self, what: str) -> bool:
        """Try it again: whether that goes."""
        if what == "disk":
            term, granted = self._unstored
            try:
                if term > self._terms.term:
                    self._terms.store(term, granted)
            except (OSError, DLBAError):
                return False
        self._broken(what, "")
        return True

    def _send(self, command: do.Send) -> None:
        message = command.message
        if isinstance(message, (Claim, Grant)) and message.term > self._terms.term:
            return  # said again, of a term that the disk has refused
        self.wire.send(command.number, message)

    def _status_of(self, command: do.StatusOf) -> None:
        self._rows[command.number] = unpack_rows(command.data)
        self._routing.status_of(
            command.number, command.hits, command.open_connections, command.average_response
        )

    def _tell(self, level: str, text: str) -> None:
        now = self._reactor.seconds()
        if now < self._said.get(text, -inf) + SELDOM:
            return
        if len(self._said) >= LINES_LIMIT:
            self._said.clear()
        self._said[text] = now
        self._log.emit(LogLevel.levelWithName(level), "{text}", text=text)

    _CARRY_OUT: Final[Mapping[type, Callable[[ElectionService, Any], object]]] = {
        do.Send: _send,
        do.Store: _store,
        do.Schedule: _schedule,
        do.StepDown: lambda self, c: self._routing.step_down(),
        do.Quiet: lambda self, c: self._routing.quiet(),
        do.Late: lambda self, c: self._routing.late(),
        do.Mute: lambda self, c: self._routing.mute(c.on),
        do.ProbeVip: lambda self, c: self._routing.probe_vip(),
        do.Dial: lambda self, c: self.wire.hurry(c.number),
        do.Echo: lambda self, c: self._echo(c.number),
        do.Lack: lambda self, c: self._routing.lack(c.number, c.what, c.on, c.why),
        do.Hold: lambda self, c: self._routing.hold(c.number, c.on),
        do.Drain: lambda self, c: self._routing.drain_node(c.number, c.on),
        do.StatusOf: _status_of,
        do.Sign: lambda self, c: self.keys.named(c.id, self.member.scheduler),
        do.Tell: lambda self, c: self._tell(c.level, c.text),
    }

    # ---------------------------------------------------------------- for people

    @property
    def role(self) -> str:
        """`scheduler`, `backup` or `fault`."""
        state = self.member.state
        if state is State.FAULT:
            return "fault"
        return "scheduler" if state is State.SCHEDULER else "backup"

    @property
    def scheduler(self) -> str | None:
        """The name of the node that is scheduler, as far as this one knows."""
        number = self.member.scheduler
        return None if number < 0 else self._names[number]

    def rows(self) -> Iterable[tuple[Row, ...]]:
        """The other nodes' web server status tables, of the last sweep."""
        failed = self.member.failed
        return [rows for number, rows in self._rows.items() if number not in failed]

    def peers(self) -> dict[str, dict[str, Any]]:
        """What this node knows of the others: name → whether the channel is there, and so on."""
        return {
            watch.info.name: {"connected": watch.up, "failed": number in self.member.failed}
            for number, watch in self.member.election.watches.items()
        }


def _outward(command: Command) -> bool:
    """Whether others would see it: after a failure they must not."""
    if isinstance(command, do.Mute):
        return not command.on
    return isinstance(command, (do.Send, do.Store, do.Schedule))
