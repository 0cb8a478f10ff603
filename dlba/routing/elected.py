"""Runs the scheduler's part of a node whose role somebody decides by calls, as the nodes elect it.

An adapter. It starts as a backup. Its client table is a copy of the scheduler's, which the caller
keeps, until `schedule` puts it in force; from `step_down` on it is a copy again. What whoever
decides must know goes to `events`.

The order of `schedule`: every bucket counts as just used, the port is open, the VIP is announced,
and the buckets of nodes that lack anything are free, before any frame is looked at. Opening takes
about a millisecond, so a backup keeps no second port open; freeing 20,000 buckets takes 13, so it
comes after the announcement. `step_down` begins with silence; closing the port takes up to 15 ms.

Source: election.md "Time", "Takeover".
"""

from __future__ import annotations

import time
from typing import Any

from twisted.logger import Logger

from dlba.config.values import NodeConfig
from dlba.errors import DLBAError
from dlba.poller import Poller
from dlba.routing import arp, kept
from dlba.routing.array import ipv4
from dlba.routing.events import RoutingEvents
from dlba.routing.keyedhash import KeyedHash
from dlba.routing.service import OwnStatus, RoutingService

__all__ = ["ElectedRouting"]


class ElectedRouting(RoutingService):
    """As `RoutingService`; somebody sets `events` before the start."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        poller: Poller,
        config: NodeConfig,
        hash_key: bytes | None,
        own_status: OwnStatus,
    ) -> None:
        super().__init__(reactor, poller, config, hash_key, own_status, elected=True)
        assert config.array.vip is not None
        node = config.array.nodes[config.node]
        self._probe = arp.probe(ipv4(config.array.vip), node.mac)
        self._state = config.state
        self._version_told = 0
        #: Nodes that don't answer ARP, or do again, of whom nobody was told yet.
        self._unanswered: dict[int, bool] = {}
        #: Who decides whether this node is scheduler.
        self.events: RoutingEvents

    def begin(self) -> None:
        """Be a backup: others schedule meanwhile, or did, so the table that was kept is old."""
        kept.drop(self._state)

    # ---------------------------------------------------------------- the role

    def schedule(self, now: float) -> int:
        """Be scheduler. `now`: seconds, monotonic; gives how many buckets of failed nodes are free.

        When this returns, the VIP is announced, its frames are read, and the buckets of all nodes
        that lack anything are unassigned. Raises OSError or DLBAError, and nothing has changed, if
        the port can't be opened: a fault.
        """
        if self.path.active:
            return 0
        if self.segment.arp is None:
            raise DLBAError(f"scheduler: {self.links.fault or 'expected open ports, got none'}")
        try:
            self.segment.schedule(True)
        except (OSError, DLBAError):
            self.segment.schedule(False)
            raise
        self._version_told = self.path.scheduler.table.version
        self.path.activate(True, now, probes=0)
        self.path.alive(now)
        self.turn.send_due(now)
        # From here on clients find the way. No frame is looked at before this has returned.
        self.links.read()
        freed = self.standing.enforce()
        self.path.reach.forget()
        self._unanswered.clear()
        self.path.reach.start(now)
        self.turn.soon()
        return freed

    def step_down(self) -> None:
        """Be scheduler no more: nothing is announced, answered or forwarded from here on."""
        if not self.path.active:
            return
        self.path.activate(False, time.monotonic())
        self.path.reach.stop()
        self.standing.relax()
        self.links.leave(self.segment.frames)
        self.segment.schedule(False)

    def mute(self, on: bool) -> None:
        """Discard frames, answer and announce nothing while `on`; then announce at once."""
        now = time.monotonic()
        self.path.mute(on, now)
        if not on:
            self.turn.send_due(now)
            self.turn.soon()

    def quiet(self) -> None:
        """Announce nothing and answer no ARP from here on, but pass frames on as before."""
        self.path.quiet()

    def late(self) -> None:
        """The table is another scheduler's from here on: pass frames on by it, and place none."""
        self.path.late()
        self.path.reach.stop()
        self.standing.relax()

    def alive(self, now: float) -> None:
        """What a timer of anybody's does first: if this node was absent, `events` learn of it."""
        self.path.alive(now)
        if self.path.gap:
            self.tell()

    def probe_vip(self) -> None:
        """Ask once whether anybody has the VIP; answers come as `vip_claimed`."""
        if self.segment.arp is not None:
            self.segment.arp.send(self._probe)

    def lack(self, number: int, what: str, lacking: bool) -> int | None:
        """See `Standing.lack`."""
        return self.standing.lack(number, what, lacking)

    def hold(self, number: int, on: bool) -> None:
        """The node gets no new buckets while `on`."""
        self.path.scheduler.hold(number, on)

    def rehash(self, key: bytes) -> None:
        """The key of the keyed hash is `key` from now on; every flow may have another bucket."""
        scheduler = self.path.scheduler
        scheduler.rehash(KeyedHash(scheduler.table.buckets, key))

    def drain_node(self, number: int, on: bool) -> None:
        """The node says that it drains, or no more."""
        (self.path.scheduler.drain if on else self.path.scheduler.resume)(number)

    def status_of(
        self, number: int, hits: int, open_connections: int, average_response: float
    ) -> None:
        """What another node said of itself; `average_response`: seconds."""
        self.path.scheduler.row(number).status(hits, open_connections, average_response)

    @property
    def able(self) -> bool:
        """Whether this node itself can take flows."""
        return not self.standing.lacks(self.own)

    @property
    def fault(self) -> str:
        """Why this node can't be scheduler, in words; empty: it can."""
        return self.links.fault

    # ---------------------------------------------------------------- what events learn

    def tell(self) -> None:
        """After a wake or a turn: what whoever decides must know."""
        path = self.path
        if path.gap:
            # What waited goes first, while the path is mute; what it claims is old.
            gap = path.gap
            self.links.drain()
            path.claims.clear()
            path.gap = 0.0
            self.events.absent(gap)
        if path.claims:
            claims, path.claims = path.claims, {}
            for mac in claims:
                self.events.vip_claimed(mac)
        if self._unanswered:
            unanswered, self._unanswered = self._unanswered, {}
            for number, silent in unanswered.items():
                self.events.arp(number, silent)
        version = path.scheduler.table.version
        if path.active and version != self._version_told:
            self._version_told = version
            self.events.table_changed()

    def judge(self, number: int, alive: bool) -> None:
        """A node doesn't answer ARP, or does again."""
        # Not failed by that alone: the channel and ICMP may know better, see `Member.arp`.
        self._unanswered[number] = not alive
        name = self.path.scheduler.row(number).name
        if alive:
            self._log.info("node {name} answers ARP again", name=name)
        else:
            self._log.warn("node {name} doesn't answer ARP", name=name)

    def tell_of_fault(self, why: str) -> None:
        """To whoever decides, who logs it with the faults that are none of the link."""
        self.events.fault(why)
