"""What must hold in every run, after every step; and what must hold when all is quiet again.

A breach raises `BreachError` where it happens. Whether a node *lives* is known here, not guessed:
it runs, has its link, and nothing has befallen it, the other one or the path between both for a
while.
"""

from collections import Counter
from typing import Any

import attrs

from dlba.election.commands import Lack, Send
from dlba.election.messages import Claim, Grant, Heartbeat
from dlba.election.transitions import State
from dlba.routing.hashtable import UNASSIGNED
from tests.sim.network import BOTH, SEGMENT

__all__ = ["BreachError", "Checks"]

#: Seconds without a fault after which a node must not be taken for dead; or not by the sweep.
SETTLED, SWEPT = 1.5, 6.0
#: Seconds that a follower must have been undisturbed to have the scheduler's table.
IN_SYNC = 1.5
#: A bucket that has had its node for so many seconds keeps it; or if packets get lost.
SAFE, SAFE_IN_LOSS = 0.1, 0.6
#: Seconds after a fault in which a takeover is measured by the table from before.
TAKEOVER = 3.0
#: Seconds that two schedulers may take until one yields, and a part of an array to find one.
MEETING, FINDING = 3.0, 4.0
#: With a majority they don't overlap, but for one that was stopped for less than down_after after
#: the VIP had been unanswered for long: it has yet to read that another has the role.
OVERLAP = 0.05
#: Commands of one node in one second, for each of the others.
COMMANDS = 150
#: Ticks in a row that are due at once.
RUSHES = 5


class BreachError(AssertionError):
    """An invariant doesn't hold."""


@attrs.frozen
class Before:
    """The table of a scheduler as a fault found it. `backups`: numbers of those in sync with it."""

    number: int
    at: float
    nodes: dict[int, int]
    backups: frozenset[int]


class Checks:
    """What the world and its processes tell as it happens."""

    def __init__(self, world: Any) -> None:
        self._world = world
        self._disturbed: dict[int, float] = {}
        self._disturbed_pairs: dict[tuple[int, int], float] = {}
        #: Term → who won it.
        self.winners: dict[int, int] = {}
        self._reign_at = 0.0
        #: Number → what `_disturbed` was when its process stopped, and when that was.
        self._stopped: dict[int, tuple[float, float]] = {}
        #: Two nodes that both answer for the VIP → since when.
        self._overlaps: dict[tuple[int, int], float] = {}
        self._starts: dict[int, float] = {}
        self._before: Before | None = None
        self._commands: Counter[int] = Counter()
        self._second = 0
        #: What happened, for those that want to know whether anything did.
        self.counts: Counter[str] = Counter()

    @property
    def _now(self) -> float:
        return self._world.clock.now

    def _breach(self, what: str) -> None:
        self._world.note(f"BREACH: {what}")
        raise BreachError(what)

    # ---------------------------------------------------------------- who lives

    def disturbed(self, number: int) -> None:
        self._disturbed[number] = self._now
        self._apart(number)

    def stopped(self, number: int) -> None:
        """The process stops, perhaps for a moment only."""
        self._stopped[number] = self._disturbed[number], self._now
        self.disturbed(number)

    def continued(self, number: int) -> None:
        """It goes on. A stop of less than down_after is nothing that may befall others by it."""
        before, at = self._stopped[number]
        short = self._now - at < 0.95 * self._world.down_after
        if short and self._disturbed[number] == at:
            self._disturbed[number] = before
        else:
            self.disturbed(number)

    def _apart(self, number: int) -> None:
        """The node doesn't answer for the VIP now."""
        self._overlaps = {pair: at for pair, at in self._overlaps.items() if number not in pair}

    def started(self, number: int) -> None:
        self._starts[number] = self._now

    def disturbed_pair(self, one: int, other: int) -> None:
        self._disturbed_pairs[min(one, other), max(one, other)] = self._now

    def lives(self, number: int) -> bool:
        """Whether the node runs and has its link."""
        process = self._world.processes[number]
        return (
            process is not None
            and not process.paused
            and not process.leaving
            and process.member.able
            and self._world.network.fit(number)
        )

    def settled(self, one: int, other: int, since: float) -> bool:
        """Both live and reach each other, and have since then."""
        pair = min(one, other), max(one, other)
        network = self._world.network
        return (
            self.lives(one)
            and self.lives(other)
            and self._disturbed.get(one, 0.0) < since
            and self._disturbed.get(other, 0.0) < since
            and self._disturbed_pairs.get(pair, 0.0) < since
            and not any({a, b} == {one, other} for a, b, _ in network.blocked)
        )

    # ---------------------------------------------------------------- terms

    def stored(self, process: Any, term: int, granted: int) -> None:
        stored, whom = self._world.disks[process.number]
        if term < stored or (term == stored and whom not in (-1, granted)):
            self._breach(
                f"{process.name}: stores term {term} for {granted}, has {stored} for {whom}"
            )

    def sent(self, process: Any, command: Send) -> None:
        message = command.message
        stored = self._world.disks[process.number]
        if isinstance(message, Grant) and stored != (message.term, command.number):
            self._breach(f"{process.name}: a grant of {message.term} leaves, {stored} is stored")
        elif isinstance(message, Claim) and stored != (message.term, process.number):
            self._breach(f"{process.name}: a claim of {message.term} leaves, {stored} is stored")
        elif isinstance(message, Heartbeat):
            self._won(process, message.term)

    def scheduled(self, process: Any, term: int) -> None:
        self.counts["reigns"] += 1
        self._reign_at = self._now
        self._won(process, term)
        before = self._before
        if before is None or self._now > before.at + TAKEOVER or before.number == process.number:
            return
        self._before = None
        since = before.at - IN_SYNC
        if self._disturbed[process.number] >= since or not any(
            number == process.number or self.settled(number, process.number, since)
            for number in before.backups
        ):
            return
        self.counts["takeovers"] += 1
        for bucket, node in before.nodes.items():
            if node == process.number or self.settled(node, process.number, since):
                self.counts["kept"] += 1
                has = process.table.node_of(bucket)
                if has != node:
                    self._breach(
                        f"{process.name}: bucket {bucket} was {node}'s before the takeover, "
                        f"is {has}'s after it"
                    )

    def _won(self, process: Any, term: int) -> None:
        winner = self.winners.setdefault(term, process.number)
        if self._world.majority and winner != process.number:
            self._breach(f"term {term}: won by {winner} and by {process.number}")

    # ---------------------------------------------------------------- buckets

    def fault(self, process: Any) -> None:
        """Something is about to befall a process: if it is scheduler, its table counts."""
        if not process.answers or process.leaving:
            return
        now, number = self._now, process.number
        safe = now - (SAFE_IN_LOSS if self._world.network.loss else SAFE)
        nodes = enumerate(process.nodes())
        self._before = Before(
            number,
            now,
            {
                bucket: node
                for bucket, node in nodes
                if node not in (-1, number) and process.changed_at[bucket] < safe
            },
            frozenset(
                n
                for n in self._world.numbers
                if n != number
                and self.settled(n, number, now - IN_SYNC)
                and self._world.processes[n].member.scheduler == number
            ),
        )

    def moved(self, process: Any, bucket: int, before: int, after: int) -> None:
        """A scheduler's packet has given a bucket another node."""
        if not process.member.leading:
            self._breach(f"{process.name}: places bucket {bucket}, though its table is a copy")
        self.counts["placed"] += 1
        self._forget(process, [bucket])
        if before == UNASSIGNED:
            return
        self.counts["moved"] += 1
        silent = self._now - process.used_at[bucket]
        if silent <= self._world.bucket_timeout and self.settled(
            before, process.number, self._now - SWEPT
        ):
            self._breach(
                f"{process.name}: bucket {bucket} moves from {before} to {after}, "
                f"though it was used {silent:.2f} s ago"
            )

    def failed(self, process: Any, command: Lack, buckets: list[int]) -> None:
        """A scheduler takes a node for failed, so its buckets are free."""
        number = command.number
        settled = SWEPT if "sweep" in command.why else SETTLED
        if "it was scheduler" in command.why and self._starts[number] > self._reign_at:
            pass  # its process isn't the one that had the buckets
        elif self.settled(number, process.number, self._now - settled):
            self._breach(
                f"{process.name}: node {number} lives, but fails ({command.what}: {command.why}) "
                f"and loses {len(buckets)} buckets"
            )
        self.counts["failed"] += 1
        self._forget(process, buckets)

    def _forget(self, process: Any, buckets: list[int]) -> None:
        """The scheduler that a fault had found goes on: what it changes now doesn't count."""
        if self._before is not None and self._before.number == process.number:
            for bucket in buckets:
                self._before.nodes.pop(bucket, None)

    # ---------------------------------------------------------------- how much

    def commands(self, process: Any, commands: tuple[object, ...]) -> None:
        second = int(self._now)
        if second != self._second:
            self._second = second
            self._commands.clear()
        self._commands[process.number] += len(commands)
        if self._commands[process.number] > COMMANDS * len(self._world.numbers):
            self._breach(f"{process.name}: {self._commands[process.number]} commands in a second")

    def rushed(self, process: Any, times: int) -> None:
        if times > RUSHES:
            self._breach(f"{process.name}: next_at was in the past {times} times in a row")

    def stepped(self, process: Any) -> None:
        """After every input of a process."""
        member = process.member
        if member.election.reigning and member.scheduler != process.number:
            self._breach(f"{process.name}: reigns, but counts {member.scheduler} as scheduler")
        if process.answers:
            self._alone(process)
        elif self._overlaps:
            self._apart(process.number)

    def _alone(self, process: Any) -> None:
        """Two that reach each other don't both answer ARP for the VIP for long."""
        for other in self._world.there():
            if other is process or not other.answers:
                continue
            pair = min(process.number, other.number), max(process.number, other.number)
            since = self._overlaps.setdefault(pair, self._now)
            near = self._world.network.both_open(*pair, SEGMENT)
            if self._world.majority and near and self._now > since + OVERLAP:
                self._breach(f"{process.name} and {other.name} are scheduler at one time")
            if self._now > since + MEETING and self.settled(*pair, self._now - MEETING):
                self._breach(f"{process.name} and {other.name} are both scheduler")

    # ---------------------------------------------------------------- parts

    def parts(self) -> list[set[int]]:
        """The parts that nothing gets into or out of, in which all live, reach all, and have."""
        world, since = self._world, self._now - FINDING
        parts: list[set[int]] = []
        for number in world.numbers:
            near = [part for part in parts if any(self._near(number, other) for other in part)]
            parts = [part for part in parts if part not in near]
            parts.append({number}.union(*near))
        return [
            part
            for part in parts
            if all(self.lives(n) and self._disturbed[n] < since for n in part)
            and all(self.settled(a, b, since) for a in part for b in part if a < b)
        ]

    def _near(self, one: int, other: int) -> bool:
        """Whether anything gets from one to the other, or back."""
        network = self._world.network
        return any(
            network.open(a, b, which) for a, b in ((one, other), (other, one)) for which in BOTH
        )

    def in_parts(self) -> None:
        """Each part of an array that is split has its scheduler, if it may."""
        if self._world.full or not self._world.gateway:
            return  # some are in FAULT
        enabled = {info.number for info in self._world.infos if info.enabled}
        enough = len(enabled) // 2 + 1 if self._world.majority else 1
        for part in self.parts():
            self.counts["parts"] += 1
            acting = [p.number for p in self._world.acting() if p.number in part]
            if len(acting) != (len(part & enabled) >= enough):
                self._breach(f"nodes {sorted(part)} by themselves have the schedulers {acting}")
            for number in part if acting else ():
                counts = self._world.processes[number].member.scheduler
                if counts != acting[0]:
                    self._breach(f"n{number}: expected scheduler {acting[0]}, got {counts}")

    # ---------------------------------------------------------------- when all is quiet again

    def at_rest(self) -> None:
        """All lives, nothing is on the way: one scheduler, one table, nobody failed."""
        world = self._world
        there = world.there()
        acting = world.acting()
        if len(acting) != 1:
            self._breach(f"schedulers: expected one, got {[p.name for p in acting]}")
        scheduler = acting[0]
        term, number = scheduler.member.term, scheduler.number
        nodes, position = scheduler.nodes(), scheduler.member.position
        for process in there:
            member = process.member
            if (member.scheduler, member.term) != (number, term):
                self._breach(
                    f"{process.name}: expected scheduler {number} in term {term}, "
                    f"got {member.scheduler} in term {member.term}"
                )
            expected = State.SCHEDULER if process is scheduler else State.BACKUP
            if member.state is not expected:
                self._breach(f"{process.name}: expected {expected.name}, got {member.state.name}")
            if member.failed:
                self._breach(f"{process.name}: counts {sorted(member.failed)} as failed")
            if member.position != position or process.nodes() != nodes:
                self._breach(
                    f"{process.name}: expected the table of {scheduler.name} at {position}, "
                    f"got {member.position}"
                )
        if closed := self.closed():
            self._breach(f"{scheduler.name}: nodes {closed} get nothing new though they live")

    def closed(self) -> list[int]:
        """The nodes that get nothing new, of those that run and are enabled."""
        return [
            row.number
            for row in self._world.scheduler().path.rows
            if row.enabled and not row.open_to_new and self.lives(row.number)
        ]
