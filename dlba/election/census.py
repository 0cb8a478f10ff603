"""Decides which nodes count as failed, and which get nothing new, while this node is scheduler.

Pure. What is known of a node comes from several sides: evidence 1 or 2 (its process or machine is
gone) fails it at once; the status sweep fails who answers neither it nor a heartbeat; ARP fails who
answers echoes no more either; the node itself says that it can take no flows, or that it drains. A
node of which it isn't known yet, or that answers only a part, is held: it keeps what it has and
gets nothing new. Each finding is told once, when it changes.

Source: election.md "Status sweep".
"""

from __future__ import annotations

from dlba.election.commands import Command, Drain, Hold, Lack, StatusOf
from dlba.election.machine import Election
from dlba.election.messages import Alive, Report
from dlba.election.status import Ask, Sweep
from dlba.election.transitions import State

__all__ = ["Census"]


class Census:
    """`election`: whose watches it reads; `out`: where commands go; `down_after`: seconds."""

    def __init__(
        self, election: Election, out: list[Command], sweep: Sweep, down_after: float
    ) -> None:
        self._election = election
        self._out = out
        self._sweep = sweep
        self._down_after = down_after
        self._leading = False
        #: Numbers of the nodes that have failed: by this scheduler, or as the last one said.
        self.failed: set[int] = set()
        self._held: set[int] = set()
        #: Nodes that answered heartbeats only, at the last sweep.
        self._silent: frozenset[int] = frozenset()
        #: Nodes that don't answer ARP, and those of them that have failed by it.
        self._unseen: set[int] = set()
        self._lost: set[int] = set()
        #: The sweep was interrupted by an absence.
        self._interrupted = False
        #: What was passed on of each node: whether it is able, whether it drains.
        self._passed_on: dict[int, tuple[bool, bool]] = {}

    @property
    def swept_at(self) -> float | None:
        """When the last sweep of this reign ended; seconds, monotonic."""
        return self._sweep.swept_at

    @property
    def next_at(self) -> float:
        """When `questions` has something to say."""
        return self._sweep.next_at

    # ---------------------------------------------------------------- the reign

    def begin(self, now: float, dead: int) -> None:
        """A reign of this node begins; `dead`: the number of the scheduler that is gone, or -1."""
        self._leading = True
        self._silent = frozenset()
        self._passed_on.clear()
        self._unseen.clear()  # asked anew from here
        for number in tuple(self._lost):
            self._lack_arp(number, False)
        failed, self.failed = self.failed, set()
        for number, watch in self._election.watches.items():
            why = "the scheduler before said so" if number in failed and not watch.up else ""
            if watch.gone:
                why = "its process is gone"
            elif number == dead:
                why = "it was scheduler and is heard no more"
            gone = bool(why)
            self._out.append(Lack(number, "channel", gone, why))
            if gone:
                self.failed.add(number)
            self._hold(number, not gone and watch.alive is None, always=True)
            self._pass_on(number, watch.alive)
        self._sweep.start(self._election.watches, now, self.failed)

    def end(self) -> None:
        """It has ended."""
        self._leading = False
        self._sweep.stop()

    # ---------------------------------------------------------------- what comes in

    def up(self, number: int, replaced: bool) -> None:
        """The channel to a node is there; `replaced`: to another process than before."""
        if not self._leading:
            return
        if replaced:
            # Its connections ended with the process before, whose place it has taken.
            self._lack(number, True, "its process is a new one")
        self._hold(number, True)

    def down(self, number: int) -> None:
        """The channel to a node is gone."""
        if self._leading:
            self._hold(number, True)

    def alive(self, number: int, message: Alive, now: float) -> None:
        """What a node says of itself."""
        if not self._leading:
            return
        self._sweep.heard(number, now)
        watch = self._election.watches[number]
        if watch.up and not watch.gone:
            self._lack(number, False)
            self._pass_on(number, message)
            if number not in self._silent and number not in self._unseen:
                self._hold(number, False)

    def reported(self, number: int, message: Report, now: float) -> None:
        """A node answers the sweep."""
        if self._leading and self._sweep.answered(number, message.id, now):
            self._silent -= {number}  # no need to wait for the sweep's end
            self._out.append(
                StatusOf(
                    number,
                    message.hits,
                    message.open_connections,
                    message.average_response,
                    message.data,
                )
            )

    def arp(self, number: int, silent: bool, now: float) -> None:
        """A node doesn't answer ARP, or does again."""
        if silent:
            self._unseen.add(number)
            self._look_at_unseen(now)
        else:
            self._unseen.discard(number)
            self._lack_arp(number, False)

    # ---------------------------------------------------------------- time

    def questions(self, now: float) -> tuple[Ask, ...]:
        """What a scheduler finds as time goes by; gives the sweep's questions that are due."""
        if self._election.state is not State.SCHEDULER:
            self._interrupted = True
            return ()
        if self._interrupted:
            self._interrupted = False
            self._sweep.again(now)
        if self._election.stalled(now):
            return ()
        self.look(now)
        self._look_at_unseen(now)
        asked = self._sweep.due(now)
        for verdict in self._sweep.take_verdicts():
            self._silent = verdict.held
            for number in verdict.failed:
                self._lack(number, True, "it answers neither the sweep nor a heartbeat")
            for number in verdict.held:
                self._hold(number, True)
        return asked

    def look(self, now: float) -> None:
        """Evidence 1 or 2 fails a node at once."""
        if not self._reigns or self._election.stalled(now):
            return
        for number, watch in self._election.watches.items():
            if number not in self.failed and watch.dead(now, self._down_after):
                why = "its process is gone" if watch.gone else "it answers neither us nor echoes"
                self._lack(number, True, why)

    def _look_at_unseen(self, now: float) -> None:
        """A node that answers neither ARP nor echoes can't get frames.

        One whose kernel answers echoes can, and has not failed: it may be that answers don't come
        to this node, and all others would seem to be gone. It gets nothing new.
        """
        if not self._reigns:
            return
        for number in self._unseen:
            watch = self._election.watches[number]
            if now > watch.echo + self._down_after:
                self._lack_arp(number, True)
            else:
                self._hold(number, True)

    @property
    def _reigns(self) -> bool:
        return self._leading and self._election.state is State.SCHEDULER

    # ---------------------------------------------------------------- what goes out

    def _lack_arp(self, number: int, on: bool) -> None:
        if on != (number in self._lost):
            (self._lost.add if on else self._lost.discard)(number)
            self._out.append(Lack(number, "arp", on, "it answers neither ARP nor echoes"))

    def _lack(self, number: int, on: bool, why: str = "") -> None:
        if on != (number in self.failed):
            (self.failed.add if on else self.failed.discard)(number)
            self._out.append(Lack(number, "channel", on, why))
            if on:
                self._sweep.fail(number)

    def _pass_on(self, number: int, alive: Alive | None) -> None:
        """What a node says of itself counts; one of whom nothing is known counts as able."""
        says = (True, False) if alive is None else (alive.able, alive.draining)
        if self._passed_on.get(number) != says:
            self._passed_on[number] = says
            able, draining = says
            self._out.append(Lack(number, "able", not able, "it says that it can take no flows"))
            self._out.append(Drain(number, draining))

    def _hold(self, number: int, on: bool, always: bool = False) -> None:
        if always or on != (number in self._held):
            (self._held.add if on else self._held.discard)(number)
            self._out.append(Hold(number, on))
