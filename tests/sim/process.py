"""One process of the simulation: a Member, and what its node does with the commands.

The commands are carried out as `dlba.election.service` does: one after another, those of an input
that comes meanwhile after them; a Store that fails takes with it what follows. The packet path is
the real client table and scheduler; ARP and frames are what the world makes of them.
"""

from collections import deque
from typing import Any, ClassVar

from dlba.election import commands as do
from dlba.election.machine import Settings
from dlba.election.member import Member, OwnReport
from dlba.election.messages import pack, unpack
from dlba.election.status import Sweep
from dlba.routing.hashtable import UNASSIGNED, ClientTable, second_of
from dlba.routing.placement import NodeRow
from dlba.routing.scheduler import Scheduler

__all__ = ["Process"]

#: Seconds until a disk that refused a term is tried again.
DISK_RETRY = 1.0
#: Seconds between two looks of the packet path at the time and the carrier.
PATH_TICK = 0.1


class Process:
    """`incarnation`: of this process, as its hello says it."""

    def __init__(self, world: Any, number: int, incarnation: str, settings: Settings) -> None:
        self.world = world
        self.number = number
        self.name = f"n{number}"
        self.incarnation = incarnation
        self.began = world.clock.now
        self.alive = True
        self.paused = False
        self.leaving = False
        self.table = ClientTable(world.buckets)
        rows = [NodeRow(i.number, i.name, i.mac, "", 1, i.enabled) for i in settings.nodes]
        self.path = Scheduler(self.table, rows, world.bucket_timeout)
        self.lacks: dict[int, set[str]] = {row.number: set() for row in rows}
        self.bars: dict[int, set[str]] = {row.number: set() for row in rows}
        #: When each bucket's node last changed here, and when its last packet came.
        self.changed_at = [self.began] * world.buckets
        self.used_at = [self.began] * world.buckets
        #: What the node last told of its carrier.
        self.carrier = True
        self.scheduling = self.quiet = self.late = self.muted = False
        self._backlog: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._commands: deque[do.Command] = deque()
        self._busy = False
        self._tick_at = -1.0
        self._ticks = 0
        self._rushed = 0
        self._path_at = self.began
        term, granted = world.disks[number]
        self.member = Member(
            settings,
            self.table,
            term,
            granted,
            world.sync_every,
            Sweep(1.0, 2, 1.0),
            lambda: OwnReport(1, 1, 0.1, b"[]"),
            self.began,
        )
        self.input("tick")
        world.clock.after(PATH_TICK * world.random.random(), self._path_tick)

    @property
    def now(self) -> float:
        return self.world.clock.now

    @property
    def answers(self) -> bool:
        """Whether it answers ARP for the VIP."""
        return (
            self.alive
            and not self.paused
            and self.scheduling
            and not self.quiet
            and not self.muted
            and self.world.network.fit(self.number)
        )

    # ---------------------------------------------------------------- inputs

    def input(self, what: str, *args: Any) -> None:
        """One input of the Member, at once or when the process goes on."""
        if not self.alive:
            return
        if self.paused:
            self._backlog.append((what, args))
            return
        own = getattr(self, "_" + what, None)
        if own is not None:
            own(*args)
            return
        self._carry_out(getattr(self.member, what)(*args, self.now))

    def take(self, end: Any, message: Any) -> None:
        """A message has come over the channel."""
        self.input("message", end, message)

    def _message(self, end: Any, message: Any) -> None:
        self.world.channels.answered(end)
        if self.world.packs:
            message = unpack(*pack(message))
        self._carry_out(self.member.take(end.number, message, self.now))

    def _absent(self, gap: float) -> None:
        """The packet path notices that it did not run, before it routes anything."""
        self.muted = True
        self._carry_out(self.member.absent(gap, self.now))

    def _path_tick(self) -> None:
        if not self.alive:
            return
        if not self.paused:
            self._wake()
            self.world.carrier(self)
        self.world.clock.after(PATH_TICK, self._path_tick)

    def _wake(self) -> None:
        gap, self._path_at = self.now - self._path_at, self.now
        if gap > self.world.down_after:
            self.input("absent", gap)

    def _frame(self, bucket: int) -> None:
        """A packet of a client."""
        self._wake()
        if not self.scheduling or self.muted or not self.world.network.fit(self.number):
            return
        if self.late:
            return  # it goes where the copy says, and places nothing
        table = self.table
        before, version = table.node_of(bucket), table.version
        node = self.path.choose(0, bucket, second_of(self.now))
        if table.version != version:
            self.changed_at[bucket] = self.now
            self.world.checks.moved(self, bucket, before, node)
            self.input("changed")
        self.used_at[bucket] = self.now

    def pause(self) -> None:
        self.paused = True

    def resume(self, tick_first: bool) -> None:
        """The process runs again: what waited comes before or after the timers."""
        self.paused = False
        waiting, self._backlog = self._backlog, deque()
        if tick_first:
            self.input("tick")
        self._wake()
        for what, args in waiting:
            self.input(what, *args)
        if not tick_first:
            self.input("tick")

    def kill(self) -> None:
        self.alive = self.scheduling = False

    # ---------------------------------------------------------------- commands

    def _carry_out(self, commands: tuple[do.Command, ...]) -> None:
        self._commands.extend(commands)
        self.world.checks.commands(self, commands)
        if self._busy:
            return
        self._busy = True
        while self._commands and self.alive:
            command = self._commands.popleft()
            self._DO[type(command)](self, command)
        self._busy = False
        if self.alive:
            self.world.checks.stepped(self)
            self._set_tick()

    def _set_tick(self) -> None:
        due = max(self.member.next_at(self.now), self.now + 0.0001)
        if self.now <= self._tick_at <= due + 0.001:
            return
        self._tick_at = due
        self._ticks += 1
        self.world.clock.at(due, self._tick_now, self._ticks)

    def _tick_now(self, tick: int) -> None:
        if tick == self._ticks and self.alive:
            self._tick_at = -1.0
            if not self.paused:
                self.input("tick")
                late = self.member.next_at(self.now) <= self.now
                self._rushed = self._rushed + 1 if late else 0
                self.world.checks.rushed(self, self._rushed)

    def _send(self, command: do.Send) -> None:
        self.world.checks.sent(self, command)
        self.world.channels.send(self, command.number, command.message)

    def _store(self, command: do.Store) -> None:
        if self.world.store(self, command.term, command.granted):
            return
        self._commands.clear()
        self.input("broken", "disk", "full")
        self.world.clock.after(DISK_RETRY, self.input, "store_again", command)

    def _store_again(self, command: do.Store) -> None:
        if command.term <= self.world.disks[self.number][0] or self.world.store(
            self, command.term, command.granted
        ):
            self.input("broken", "disk", "")
        else:
            self.world.clock.after(DISK_RETRY, self.input, "store_again", command)

    def _schedule(self, command: do.Schedule) -> None:
        if not self.world.network.fit(self.number):
            self._commands.clear()
            self.input("broken", "port", "no link")
            self.world.clock.after(DISK_RETRY, self.input, "broken", "port", "")
            return
        self.scheduling, self.quiet, self.late, self.muted = True, False, False, False
        self.table.touch_all(second_of(self.now))
        self.used_at = [self.now] * self.world.buckets
        for number, lacks in self.lacks.items():
            if lacks:  # so far only its mark said so
                self.path.fail(number)
        self.world.scheduled(self, command.term)

    def _step_down(self, command: do.StepDown) -> None:
        self.scheduling = self.quiet = self.late = self.muted = False
        self.world.note(f"{self.name}: steps down")

    def _be_quiet(self, command: do.Quiet) -> None:
        self.quiet = True
        self.world.note(f"{self.name}: quiet")

    def _be_late(self, command: do.Late) -> None:
        self.late = True
        self.world.note(f"{self.name}: its table is a copy")

    def _mute(self, command: do.Mute) -> None:
        self.muted = command.on
        self.world.note(f"{self.name}: {'mute' if command.on else 'goes on'}")

    def _lack(self, command: do.Lack) -> None:
        lacks = self.lacks[command.number]
        before = bool(lacks)
        (lacks.add if command.on else lacks.discard)(command.what)
        if bool(lacks) != before:
            self.world.note(f"{self.name}: node {command.number} lacks {lacks} {command.why}")
            if lacks:
                self._fail(command)
            else:
                self.path.recover(command.number)

    def _fail(self, command: do.Lack) -> None:
        number = command.number
        had = [b for b in range(self.world.buckets) if self.table.node_of(b) == number]
        self.path.fail(number)
        self.world.checks.failed(self, command, had)
        for bucket in had:
            self.changed_at[bucket] = self.now
        if had:
            self.input("changed")

    def _bar(self, number: int, what: str, on: bool) -> None:
        """The node gets nothing new while it is held or drains."""
        bars = self.bars[number]
        (bars.add if on else bars.discard)(what)
        (self.path.drain if bars else self.path.resume)(number)

    _DO: ClassVar = {
        do.Send: _send,
        do.Store: _store,
        do.Schedule: _schedule,
        do.StepDown: _step_down,
        do.Quiet: _be_quiet,
        do.Late: _be_late,
        do.Mute: _mute,
        do.ProbeVip: lambda self, c: self.world.segment.probe(self),
        do.Echo: lambda self, c: self.world.segment.echo(self, c.number),
        # Nobody hurries here: what heals without it heals with it.
        do.Dial: lambda self, c: None,
        do.Lack: _lack,
        do.Hold: lambda self, c: self._bar(c.number, "held", c.on),
        do.Drain: lambda self, c: self._bar(c.number, "drains", c.on),
        do.StatusOf: lambda self, c: None,
        do.Sign: lambda self, c: None,
        do.Tell: lambda self, c: self.world.note(f"{self.name}: {c.level}: {c.text}"),
    }

    # ---------------------------------------------------------------- for the checks

    def nodes(self) -> list[int]:
        """The node of every bucket, -1 for none."""
        found = [self.table.node_of(bucket) for bucket in range(self.table.buckets)]
        return [-1 if node == UNASSIGNED else node for node in found]
