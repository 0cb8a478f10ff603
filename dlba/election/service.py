"""Runs one node's part in the array: carries out what the election decides, brings it what happens.

An adapter. Everything is decided in `member`; here its commands go to the channel, the packet path
(`Routing`, which `dlba.node` gives), the disk and ICMP, one after another. What happens meanwhile
as a consequence waits until they are done, so that commands never mix.

A term that can't be written down stops what would have followed it and is a fault of this node,
until the disk takes it.

Source: election.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import Logger, LogLevel

from dlba.election import commands as do
from dlba.election.commands import Command
from dlba.election.keyexchange import KeyExchange
from dlba.election.member import Member
from dlba.election.messages import Keys, KeysHave, Message
from dlba.election.summary import Row, unpack_rows
from dlba.election.terms import Terms
from dlba.election.transitions import State
from dlba.errors import DLBAError

__all__ = ["ElectionService", "Routing", "Wire"]

#: Seconds between two tries to write down what the disk refused.
DISK_RETRY: Final = 5.0
#: Seconds in which a line that says the same again is only counted.
SELDOM: Final = 10.0


class Routing(Protocol):
    """What the election needs of the packet path; nodes by their numbers."""

    @property
    def fault(self) -> str:
        """Why this node can't be scheduler; empty: it can."""

    @property
    def able(self) -> bool:
        """Whether this node itself can take flows."""

    def alive(self, now: float) -> None:
        """First of all in a turn: was this process absent? `absent` is called from here then."""

    def schedule(self, now: float) -> None:
        """Be scheduler. Raises OSError or DLBAError if that can't be."""

    def step_down(self) -> None:
        """Be scheduler no more."""

    def quiet(self) -> None:
        """Announce nothing and answer no ARP, pass frames on as before."""

    def mute(self, on: bool) -> None:
        """No frame, no ARP; or both again, without the frames that waited meanwhile."""

    def probe_vip(self) -> None:
        """Ask by ARP who has the VIP."""

    def lack(self, number: int, what: str, lacking: bool, why: str = "") -> None:
        """A node has failed while it lacks anything."""

    def hold(self, number: int, on: bool) -> None:
        """A node gets nothing new."""

    def drain_node(self, number: int, on: bool) -> None:
        """A node drains."""

    def status_of(
        self, number: int, hits: int, open_connections: int, average_response: float
    ) -> None:
        """What a node said of itself."""


class Wire(Protocol):
    """What the election needs of the channel: see `dlba.election.channel`."""

    def send(self, number: int, message: Message) -> bool:
        """Send, or say that it can't be."""


class ElectionService(MultiService):
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
        super().__init__()
        self._reactor = reactor
        self._make = make
        self._terms = terms
        self._routing = routing
        self._echo = echo
        self._names = dict(names)
        self._queue: deque[Command] = deque()
        self._busy = False
        self._timer: Any = None
        self._said: dict[str, float] = {}
        self._rows: dict[int, tuple[Row, ...]] = {}
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

    def leave(self) -> None:
        """The process is about to end: a scheduler lets another node take its role."""
        self._input(self.member.stop)

    def stopService(self) -> Deferred[Any] | None:
        """Say good-bye."""
        self._input(self.member.end)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        stopped: Deferred[Any] | None = super().stopService()
        return stopped

    # ---------------------------------------------------------------- what happens

    def up(self, number: int, incarnation: str) -> None:
        """The channel to a node is there."""
        self._input(self.member.up, number, incarnation)
        self.keys.up(number)

    def down(self, number: int, why: str) -> None:
        """The channel to a node is gone."""
        self.keys.down(number)
        self._input(self.member.down, number)

    def refused(self, number: int) -> None:
        """A connect to a node was refused."""
        self._input(self.member.refused, number)

    def message(self, number: int, message: Message) -> None:
        """A node says something. Raises PeerError: it broke the rules, cut it off."""
        if isinstance(message, (Keys, KeysHave)):
            self.keys.came(number, message)
        else:
            self._input(self.member.take, number, message)

    def echoed(self, number: int) -> None:
        """A node's kernel has answered an echo request."""
        self._input(self.member.echoed, number)

    def vip_claimed(self, mac: bytes) -> None:
        """An ARP frame says that `mac` has the VIP."""
        self._input(self.member.vip_claimed, mac)

    def fault(self, why: str) -> None:
        """The interface or a port has failed; `why` empty: it is back."""
        self._input(self.member.broken, "link", why)

    def absent(self, gap: float) -> None:
        """The packet path noticed that this process did not run; it is mute until told."""
        self._input(self.member.absent)
        if self.member.state is State.SCHEDULER:
            self._routing.mute(False)  # that absence is over already

    def table_changed(self) -> None:
        """The client table has changed."""
        self._input(self.member.changed)

    def _tick(self) -> None:
        self._timer = None
        if self.running:
            self._routing.alive(self._reactor.seconds())
            member = self.member
            member.able = self._routing.able
            if member.election.reigning:
                member.signing = self.keys.choose()
            self._input(member.tick)

    def _input(self, what: Callable[..., tuple[Command, ...]], *args: Any) -> None:
        """One input, and all that follows from it."""
        if not self.running:
            return
        self._queue.extend(what(*args, self._reactor.seconds()))
        if self._busy:
            return
        self._busy = True
        try:
            while self._queue:
                self._carry_out(self._queue.popleft())
        finally:
            self._busy = False
        self._set_timer()

    def _set_timer(self) -> None:
        now = self._reactor.seconds()
        due = max(self.member.next_at(now), now)
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() <= due + 0.001:
                return
            self._timer.cancel()
        self._timer = self._reactor.callLater(due - now, self._tick)

    # ---------------------------------------------------------------- what is to be done

    def _carry_out(self, command: Command) -> None:
        try:
            self._CARRY_OUT[type(command)](self, command)
        except (OSError, DLBAError) as error:
            if isinstance(command, do.Schedule):
                # It says so to the others; the link's own watch finds when it is over.
                self._queue.clear()
                self._input(self.member.broken, "port", str(error))
                self._reactor.callLater(DISK_RETRY, self._input, self.member.broken, "port", "")
            else:
                raise
        except Exception:  # noqa: BLE001 - a bug here must not end the node's part for good
            self._log.failure("an exception at a command of the election")

    def _store(self, command: do.Store) -> None:
        try:
            self._terms.store(command.term, command.granted)
        except (OSError, DLBAError) as error:
            # Nothing that depends on it may leave.
            self._queue.clear()
            self._input(self.member.broken, "disk", str(error))
            self._reactor.callLater(DISK_RETRY, self._store_again, command.term, command.granted)

    def _store_again(self, term: int, granted: int) -> None:
        if not self.running:
            return
        try:
            if term > self._terms.term:
                self._terms.store(term, granted)
        except (OSError, DLBAError):
            self._reactor.callLater(DISK_RETRY, self._store_again, term, granted)
        else:
            self._input(self.member.broken, "disk", "")

    def _status_of(self, command: do.StatusOf) -> None:
        self._rows[command.number] = unpack_rows(command.data)
        self._routing.status_of(
            command.number, command.hits, command.open_connections, command.average_response
        )

    def _tell(self, level: str, text: str) -> None:
        now = self._reactor.seconds()
        if now < self._said.get(text, now - SELDOM) + SELDOM:
            return
        if len(self._said) > 256:
            self._said.clear()
        self._said[text] = now
        self._log.emit(LogLevel.levelWithName(level), "{text}", text=text)

    _CARRY_OUT: Final[Mapping[type, Callable[[ElectionService, Any], object]]] = {
        do.Send: lambda self, c: self.wire.send(c.number, c.message),
        do.Store: _store,
        do.Schedule: lambda self, c: self._routing.schedule(self._reactor.seconds()),
        do.StepDown: lambda self, c: self._routing.step_down(),
        do.Quiet: lambda self, c: self._routing.quiet(),
        do.Mute: lambda self, c: self._routing.mute(c.on),
        do.ProbeVip: lambda self, c: self._routing.probe_vip(),
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
